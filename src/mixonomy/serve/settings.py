"""What a server may be asked for and how much of it: addresses, keys, limits of size and time."""

import ipaddress
import math
import re
from dataclasses import dataclass, field
from pathlib import Path

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")  # as a Host header has them
NAME = re.compile(r"[a-z0-9_]([a-z0-9._-]*[a-z0-9_])?")
MIN_KEY = 16  # characters; shorter ones can be tried out


@dataclass(frozen=True)
class Settings:
    """Of one server.

    Args:
      host, port: where it listens; port 0 takes any that is free.
      api_keys: one of them must come with every request that asks the model; none if empty.
      allowed_hosts: names that a request's Host header may have, beside loopback's own; if empty, no others on a local
        server, and any on another.
      max_batch: images that the model sees at once; None chooses by image size and device.
      max_wait_ms: how long an image may wait for others that are on their way, to share a batch.
      max_queue: images that may be decoding or waiting; more are refused at once.
      max_images: in one request.
      max_body_bytes: of one request.
      max_memory_bytes: of all request bodies that are held at one time.
      max_pixels: of one image, decoded, or enlarged for the crop.
      max_connections: open at one time.
      header_timeout_s, body_timeout_s: how long a request line with its headers, and its body, may take to arrive.
      drain_timeout_s: how long the answers to accepted requests may take once the server is asked to stop.
      workers: threads that decode; as many as cores if None.
    Raises:
      ValueError: for a limit that lets nothing through, or a host that no request could name.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    allowed_hosts: tuple[str, ...] = ()
    max_batch: int | None = None
    max_wait_ms: float = 5.0
    max_queue: int = 128
    max_images: int = 32
    max_body_bytes: int = 32 * 2**20
    max_memory_bytes: int = 256 * 2**20
    max_pixels: int = 50_000_000
    max_connections: int = 512
    header_timeout_s: float = 10.0
    body_timeout_s: float = 30.0
    drain_timeout_s: float = 30.0
    workers: int | None = None

    def __post_init__(self):
        for name in ("max_queue", "max_images", "max_body_bytes", "max_memory_bytes", "max_pixels", "max_connections"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give at least 1.")
        for name in ("max_batch", "workers"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give at least 1.")
        for name in ("header_timeout_s", "body_timeout_s", "drain_timeout_s"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name} is {getattr(self, name)}; give a number of seconds above 0.")
        if not (math.isfinite(self.max_wait_ms) and self.max_wait_ms >= 0):
            raise ValueError(f"max_wait_ms is {self.max_wait_ms}; give milliseconds, 0 for no waiting.")
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port is {self.port}; give one from 1 to 65535, or 0 for any that is free.")
        for name in self.allowed_hosts:
            _as_in_header(name)
        if self.max_images > self.max_queue:
            raise ValueError(
                f"max_images is {self.max_images} and max_queue {self.max_queue}: such a request would never be "
                f"accepted; give a longer queue or fewer images."
            )
        if self.max_body_bytes > self.max_memory_bytes:
            raise ValueError(
                f"max_body_bytes is {self.max_body_bytes} and max_memory_bytes {self.max_memory_bytes}: such a request "
                f"would never be accepted; give more memory or smaller bodies."
            )

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the server."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host.lower() == "localhost"

    @property
    def hosts(self) -> tuple[str, ...]:
        """Names that a Host header may have, lower case; any if empty.

        A page of a stranger in a browser on this machine could otherwise reach a local server under a name of its own
        that resolves to 127.0.0.1. No stranger has the names of loopback, which checks of health ask for.
        """
        if not self.allowed_hosts and not self.is_local:
            return ()
        names = (*self.allowed_hosts, *((self.host,) if self.is_local else ()))
        return tuple(dict.fromkeys((*map(_as_in_header, names), *LOOPBACK)))


def _as_in_header(name: str) -> str:
    """A name or an address, without a port, as a Host header has it.

    Raises:
      ValueError: if it is none.
    """
    try:
        address = ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
        return f"[{address}]" if address.version == 6 else str(address)
    except ValueError:
        if NAME.fullmatch(name.lower()):
            return name.lower()
    raise ValueError(
        f"{name!r} is no name of a server; give it as browsers do, without a port, such as classify.example.org."
    )


def read_keys(path: Path) -> tuple[str, ...]:
    """The keys in a file, one a line; several allow to change from one to the next.

    Raises:
      ValueError: if there is none, or one is too short or has characters that no header can carry.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text; give a file with one key on each line.") from None
    keys = tuple(line.strip() for line in lines if line.strip())
    if not keys:
        raise ValueError(f"{path} holds no key; put one on each line, such as from `openssl rand -hex 32`.")
    for number, key in enumerate(keys, start=1):
        if len(key) < MIN_KEY or not key.isascii() or not key.isprintable() or " " in key:
            raise ValueError(
                f"key {number} of {path} is not usable; give at least {MIN_KEY} printable ASCII characters without "
                f"spaces, such as from `openssl rand -hex 32`."
            )
    return keys
