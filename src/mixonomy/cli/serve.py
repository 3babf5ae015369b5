"""`mixonomy serve`."""

import importlib.util
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg

from mixonomy.cli.arguments import parse

NEEDED = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")


@dataclass(frozen=True)
class Serve:
    """Answers images over HTTP, with a page at / and the description of the interface at /docs."""

    run: Annotated[Positional[str], arg(metavar="RUN")]
    """A run folder or any file of a model that `mixonomy predict` takes."""
    port: int = 8000
    """Where to listen; 0 takes any port that is free."""
    host: str = "127.0.0.1"
    """Address to listen on; by default only this machine can reach it."""
    api_key_file: Path | None = None
    """A file with keys, one a line; then every request but those for the page and its state must carry one."""
    allow_host: tuple[str, ...] = ()
    """Names by which the server may be asked for beside localhost; if not given, elsewhere than here any."""
    max_batch: int | None = None
    """Images that the model sees at once; by their size and the device if not given."""
    max_wait_ms: float = 5.0
    """How long an image may wait for others that are on their way."""
    max_queue: int = 128
    """Images that may be decoding or waiting; more are refused with 429."""
    max_images: int = 32
    """Images in one request."""
    max_body_mb: float = 32.0
    """Megabytes (2^20 bytes) of one request."""
    max_memory_mb: float = 256.0
    """Megabytes of all requests that are held at one time."""
    max_megapixels: float = 50.0
    """Million pixels of one image."""
    max_connections: int = 512
    """Connections that may be open at one time."""
    header_timeout_s: float = 10.0
    """Seconds in which the headers of a request must arrive."""
    body_timeout_s: float = 30.0
    """Seconds in which the body of a request must arrive."""
    drain_timeout_s: float = 30.0
    """Seconds for the answers to accepted requests after SIGTERM or Ctrl-C."""
    workers: int | None = None
    """Threads that decode images; as many as cores if not given."""
    no_page: FlagCreatePairsOff[bool] = False
    """Show no page at /."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    json: FlagCreatePairsOff[bool] = False
    """Print one JSON object on standard output when the server is ready, and one at the end."""


def main(argv: list[str]) -> int:
    """Runs the command."""
    options = parse(Serve, argv, name="serve")
    missing = [package for package in NEEDED if importlib.util.find_spec(package) is None]
    if missing:
        raise ValueError(f"the server needs {', '.join(missing)}; run: pip install 'mixonomy[serve]'")

    from mixonomy.serve.settings import Settings, read_keys

    settings = Settings(
        host=options.host,
        port=options.port,
        api_keys=read_keys(options.api_key_file) if options.api_key_file else (),
        allowed_hosts=options.allow_host,
        max_batch=options.max_batch,
        max_wait_ms=options.max_wait_ms,
        max_queue=options.max_queue,
        max_images=options.max_images,
        max_body_bytes=round(options.max_body_mb * 2**20),
        max_memory_bytes=round(options.max_memory_mb * 2**20),
        max_pixels=round(options.max_megapixels * 1e6),
        max_connections=options.max_connections,
        header_timeout_s=options.header_timeout_s,
        body_timeout_s=options.body_timeout_s,
        drain_timeout_s=options.drain_timeout_s,
        workers=options.workers,
    )

    from mixonomy.serve.engine import Engine
    from mixonomy.serve.logs import start_logs
    from mixonomy.serve.metrics import Metrics
    from mixonomy.serve.server import listen, serve, url_of

    with listen(settings) as listening:
        start_logs()
        url = url_of(listening)
        if not settings.is_local and not settings.api_keys:
            print(
                "mixonomy serve: anybody who reaches this address may use the model; see --api-key-file.",
                file=sys.stderr,
            )

        def on_ready() -> None:
            print(f"{options.run} is served at {url} (the interface: {url}/docs)", file=sys.stderr, flush=True)
            if options.json:
                print(json.dumps({"url": url, "path": engine.path, "max_batch": engine.max_batch}), flush=True)

        metrics = Metrics()
        engine = Engine(options.run, settings, metrics, device=options.device)
        serve(engine, settings, metrics, listening, has_page=not options.no_page, on_ready=on_ready)
    if options.json:
        print(json.dumps({"images": int(metrics.answered())}))
    return 0
