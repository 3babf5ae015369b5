"""Log lines of a server: one JSON object each, about requests, never of what is in an image."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

LOGGER = logging.getLogger("mixonomy.serve")
UVICORN = "uvicorn.error"


class JsonLines(logging.Formatter):
    """time, level, event, and whatever was given with it."""

    def format(self, record: logging.LogRecord) -> str:
        """The record on one line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line)


def start_logs(stream: Any = None, *, level: int = logging.INFO) -> None:
    """Sends the lines of the server and of uvicorn to a stream, standard error if not given."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines())
    for name in (LOGGER.name, UVICORN):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level if name == LOGGER.name else logging.WARNING)


def log(event: str, *, level: int = logging.INFO, **fields: Any) -> None:
    """One line about an event."""
    LOGGER.log(level, event, extra={"fields": fields})
