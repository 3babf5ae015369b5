"""HTTP connections with deadlines, which uvicorn has none of: for headers, for a body, and for taking the answer.

A client that sends a byte now and then would else hold its connection, and what it sent so far, for ever.
"""

import asyncio
import contextlib
import json
import logging
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from mixonomy.serve.logs import log
from mixonomy.serve.settings import Settings

MAX_HEADER_BYTES = 16 * 1024
GRACE_S = 0.5  # in which a request that a client has sent already arrives
HEADERS, BODY = "headers", "body"


class Deadlines(H11Protocol):
    """uvicorn's HTTP/1.1 connection, whose every message must arrive in time; see `protocol_of`."""

    settings = Settings()

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._phase: str | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._is_last = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins to wait for headers; one connection too many is told so and closed."""
        super().connection_made(transport)
        if len(self.connections) > self.settings.max_connections:
            log("too many connections", level=logging.WARNING, connections=len(self.connections))
            self._end(503, "too many connections; try again later.", retry=True)
            return
        self._enter(HEADERS)

    def data_received(self, data: bytes) -> None:
        """Feeds the parser, then looks which part of a message is now to come."""
        super().data_received(data)
        if self._is_last and self.cycle is not None:
            self.cycle.keep_alive = False
        self._look()

    def on_response_complete(self) -> None:
        """May go on with the next message, which has arrived already."""
        super().on_response_complete()
        if self.conn.their_state is not h11.IDLE:  # else the timeout of idle connections holds
            self._look()

    def shutdown(self) -> None:
        """Closes the connection once it is idle; a request that is on its way meanwhile is answered as the last."""
        if self.cycle is None or self.cycle.response_complete:
            self._is_last = True
            self.loop.call_later(GRACE_S, self._close_idle)
        else:
            super().shutdown()

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """A client that has said all it wants still gets the answer to what it asked."""
        is_owed = self.cycle is not None and not self.cycle.more_body and not self.cycle.response_complete
        if is_owed:
            self.cycle.keep_alive = False
        return is_owed or None

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends all waiting."""
        self._enter(None)
        self.resume_writing()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client does not take the answer: it has as long as for a body."""
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self.settings.body_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        """It does again."""
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def send_400_response(self, msg: str) -> None:
        """Refuses what is no HTTP, in the form of all other errors."""
        self._end(400, "not a valid HTTP request, or its headers are too long.")

    def _close_idle(self) -> None:
        if not self.transport.is_closing() and (self.cycle is None or self.cycle.response_complete):
            super().shutdown()

    def _look(self) -> None:
        phases: dict[Any, str] = {h11.IDLE: HEADERS, h11.SEND_BODY: BODY}
        self._enter(None if self.transport.is_closing() else phases.get(self.conn.their_state))

    def _enter(self, phase: str | None) -> None:
        if phase == self._phase:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._phase = phase
        if phase is not None:
            seconds = self.settings.header_timeout_s if phase == HEADERS else self.settings.body_timeout_s
            self._timer = self.loop.call_later(seconds, self._late, phase, seconds)

    def _late(self, phase: str, seconds: float) -> None:
        self._phase = self._timer = None
        if self.transport.is_closing():
            return
        log("client too slow", level=logging.WARNING, phase=phase, seconds=seconds)
        self._end(408, f"the {phase} did not arrive within {seconds:g} s.")

    def _end(self, status: int, message: str, *, retry: bool = False) -> None:
        """Answers without asking the application, where no answer has begun, and closes the connection."""
        self._enter(None)
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # so that an answer of the application goes nowhere
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps({"error": message}).encode()
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
            headers += [(b"connection", b"close"), *([(b"retry-after", b"1")] if retry else [])]
            reason = STATUS_PHRASES[status]
            with contextlib.suppress(h11.LocalProtocolError):  # an answer to HEAD has no body
                self.transport.write(self.conn.send(h11.Response(status_code=status, headers=headers, reason=reason)))
                self.transport.write(self.conn.send(h11.Data(data=body)))
                self.conn.send(h11.EndOfMessage())
        self.transport.close()
        self._write_timer = self._write_timer or self.loop.call_later(5.0, self.transport.abort)


def protocol_of(settings: Settings) -> type[Deadlines]:
    """The connection with the deadlines of these settings; uvicorn makes one for each client."""
    return type("Connection", (Deadlines,), {"settings": settings})
