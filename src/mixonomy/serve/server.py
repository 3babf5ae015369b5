"""Runs the server until it is told to stop: loads beside listening, and answers what it accepted before it ends."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator

import uvicorn

from mixonomy.serve.app import create_app
from mixonomy.serve.engine import Engine
from mixonomy.serve.logs import log
from mixonomy.serve.metrics import Metrics
from mixonomy.serve.protocol import MAX_HEADER_BYTES, protocol_of
from mixonomy.serve.settings import Settings

KEEP_ALIVE_S = 75  # longer than proxies keep a connection (nginx: 60), so that they never send on one just closed


def listen(settings: Settings) -> socket.socket:
    """A socket on the address of the settings, so that a taken port is known before anything heavy is done.

    Raises:
      ValueError: if the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((settings.host, settings.port))
    except OSError as error:
        found.close()
        raise ValueError(
            f"cannot listen on {settings.host} port {settings.port} ({error.strerror}); give another --port, or 0 for "
            f"any that is free."
        ) from None
    return found


def url_of(listening: socket.socket) -> str:
    """Where a browser finds the server."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


class Server(uvicorn.Server):
    """uvicorn's, which says that it stops, and stops if the model cannot be loaded."""

    def __init__(self, config: uvicorn.Config, engine: Engine, on_ready: Callable[[], None]):
        super().__init__(config)
        self.engine, self.on_ready, self._has_said = engine, on_ready, False

    async def on_tick(self, counter: int) -> bool:
        """Looks ten times a second whether the model is there."""
        loaded = self.engine.loaded
        if loaded.done() and not self._has_said:
            self._has_said = True
            if loaded.exception() is None:
                log("ready", path=self.engine.path, max_batch=self.engine.max_batch)
                self.on_ready()
            else:
                self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Takes no new connections, answers what was accepted, then closes the model's thread."""
        log("stopping", connections=len(self.server_state.connections))
        self.engine.is_draining = True
        await super().shutdown(sockets)
        await asyncio.to_thread(self.engine.close)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but a signal that was obeyed is not raised again: stopping as asked is no error."""
        with super().capture_signals():
            yield
            self._captured_signals.clear()


def serve(
    engine: Engine,
    settings: Settings,
    metrics: Metrics,
    listening: socket.socket,
    *,
    has_page: bool = True,
    on_ready: Callable[[], None] = lambda: None,
) -> None:
    """Serves until SIGTERM or Ctrl-C; a second Ctrl-C does not wait for answers.

    Args:
      listening: of `listen`.
      on_ready: called once images are answered.
    Raises:
      Exception: of loading, if the model cannot be loaded.
    """
    server = make_server(engine, settings, metrics, has_page=has_page, on_ready=on_ready)
    server.run(sockets=[listening])
    log("stopped", requests=server.server_state.total_requests)
    if engine.loaded.done() and (error := engine.loaded.exception()) is not None:
        raise error


def make_server(
    engine: Engine,
    settings: Settings,
    metrics: Metrics,
    *,
    has_page: bool = True,
    on_ready: Callable[[], None] = lambda: None,
) -> Server:
    """The server of an engine, not yet running; arguments as for `serve`."""
    config = uvicorn.Config(
        create_app(engine, settings, metrics, has_page=has_page),
        http=protocol_of(settings),
        ws="none",
        lifespan="off",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(round(settings.drain_timeout_s), 1),
        backlog=settings.max_connections,
    )
    return Server(config, engine, on_ready)
