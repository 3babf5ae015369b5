"""The server under load on this machine: throughput beside the bare model, overload, and a stop in the middle.

    python benchmarks/serve.py --data-root ../shared/data

The client, the server and its model share the cores. Each client holds one connection and sends its next image when it
has the answer to the last. In turn the bare model (the same path, in a process of its own) predicts batches that are
ready in memory. Overload is an open loop: requests come at five times the sustained rate, whatever the answers.
"""

import argparse
import asyncio
import io
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from PIL import Image

import mixonomy as mx
from mixonomy.data import open_source
from rows import RESULTS, Row, append, make_row, origin

REFUSED = (429, 503)  # the queue is full; too many connections
BARE = """
import sys, time, torch, mixonomy as mx
from dataclasses import replace
from mixonomy.predicting import predictor_of
path, size, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
predictor = predictor_of(mx.load(path), "cpu")
predictor = replace(predictor, model=mx.fast(predictor.model, precision=predictor.precision), precision="fp32")
images = torch.randint(0, 256, (size, 3, *predictor.preprocessing.image_size), dtype=torch.uint8)
for _ in range(3):
    predictor(images)
count, begun = 0, time.perf_counter()
while time.perf_counter() - begun < seconds:
    predictor(images)
    count += size
print(count / (time.perf_counter() - begun))
"""


@dataclass
class Load:
    """What a load got: seconds of every answer by its status, and requests that got none.

    Args:
      unanswered: sent whole on an open connection, but no whole answer came.
      unsent: could not connect, or the connection was closed before the request was sent.
    """

    seconds: dict[int, list[float]] = field(default_factory=dict)
    unanswered: int = 0
    unsent: int = 0

    def add(self, status: int, seconds: float) -> None:
        """Notes an answer."""
        self.seconds.setdefault(status, []).append(seconds)

    def quantile(self, statuses: Sequence[int], share: float) -> float:
        """Seconds below which this share of the answers came."""
        found = sorted(seconds for status in statuses for seconds in self.seconds.get(status, ()))
        return found[min(int(share * len(found)), len(found) - 1)]


class Client:
    """One connection that is kept."""

    def __init__(self, url: str):
        parts = urlsplit(url)
        self.host, self.port = parts.hostname, parts.port
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, image: bytes, into: Load) -> None:
        """Sends an image to /v1/predict and notes what came."""
        begun, is_sent = time.perf_counter(), False
        try:
            if self.streams is None:
                self.streams = await asyncio.open_connection(self.host, self.port)
            reader, writer = self.streams
            head = f"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(image)}\r\n\r\n"
            writer.write(head.encode() + image)
            await writer.drain()
            is_sent = True
            answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            await reader.readexactly(int(answer.split("content-length:")[1].split("\r\n")[0]))
            into.add(int(answer.split()[1]), time.perf_counter() - begun)
            if "connection: close" in answer or reader.at_eof():
                self.close()
        except (OSError, asyncio.IncompleteReadError):
            self.close()
            if is_sent:
                into.unanswered += 1
            else:
                into.unsent += 1

    def close(self) -> None:
        """Ends the connection; the next request makes another."""
        if self.streams is not None:
            self.streams[1].close()
            self.streams = None


async def closed_loop(url: str, images: Sequence[bytes], clients: int, seconds: float) -> tuple[Load, float]:
    """So many clients, each with one request at a time; returns what came, and in how many seconds."""
    load, end = Load(), time.perf_counter() + seconds

    async def run(number: int) -> None:
        client = Client(url)
        while time.perf_counter() < end:
            await client.post(images[number % len(images)], load)
            number += clients
        client.close()

    begun = time.perf_counter()
    await asyncio.gather(*map(run, range(clients)))
    return load, time.perf_counter() - begun


async def open_loop(url: str, images: Sequence[bytes], rate: float, seconds: float) -> tuple[Load, float]:
    """So many requests a second, whether or not the earlier ones are answered, on as many connections as that takes."""
    load, idle, tasks = Load(), list[Client](), set[asyncio.Task[None]]()

    async def one(image: bytes) -> None:
        client = idle.pop() if idle else Client(url)
        await client.post(image, load)
        idle.append(client)

    begun = time.perf_counter()
    for number in range(round(rate * seconds)):
        await asyncio.sleep(max(begun + number / rate - time.perf_counter(), 0))
        task = asyncio.create_task(one(images[number % len(images)]))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    for client in idle:
        client.close()
    return load, time.perf_counter() - begun


@contextmanager
def server(path: Path, folder: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[str], float]]:
    """A running server: its address, its process and the seconds until it answered /healthz.

    Raises:
      ValueError: if it does not become ready.
    """
    said = folder / "server.err"
    command = [sys.executable, "-m", "mixonomy", "serve", str(path), "--port", "0", "--json", *options]
    with said.open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            if not line:
                raise ValueError(f"{' '.join(command)} did not start: {said.read_text()[-500:]}")
            yield json.loads(line)["url"], process, 0.0
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


def memory_bytes(process: subprocess.Popen[str]) -> int:
    """Resident memory of the server."""
    return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def bare_images_per_s(path: Path, size: int, seconds: float) -> float:
    """Of the model alone, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", BARE, str(path), str(size), str(seconds)], check=True, capture_output=True, text=True
    )
    return float(done.stdout)


def enlarged(image: bytes, side: int) -> bytes:
    """The image as a JPEG of so many pixels a side."""
    file = io.BytesIO()
    Image.open(io.BytesIO(image)).convert("RGB").resize((side, side)).save(file, "JPEG", quality=90)
    return file.getvalue()


def write_model(path: Path, name: str, image_size: int, classes: int) -> None:
    """A model with random weights in its head too, so that its answers differ."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "patch_size": 4,
        "hidden_dim": 16,
        "num_blocks": 1,
        "tokens_mlp_dim": 8,
        "channels_mlp_dim": 16,
    }
    model = mx.create(name, image_size=image_size, num_classes=classes, **(sizes if name == "mixer" else {}))
    torch.nn.init.normal_(model.get_submodule("head").weight, std=0.1)  # type: ignore[arg-type]
    mx.save(model, path)


def throughput(path: Path, folder: Path, images: Sequence[bytes], options: argparse.Namespace, data: str) -> list[Row]:
    """Rows of the sustained load beside the bare model, in turns."""
    bare, served, p50, p99, shares = [], [], [], [], []
    for _ in range(options.times):
        bare.append(bare_images_per_s(path, options.batch, options.seconds))
        with server(path, folder) as (url, _, _):
            asyncio.run(closed_loop(url, images, options.clients, min(options.seconds, 3)))
            load, seconds = asyncio.run(closed_loop(url, images, options.clients, options.seconds))
        if set(load.seconds) != {200} or load.unanswered or load.unsent:
            raise ValueError(f"not all were answered: {Counter({s: len(v) for s, v in load.seconds.items()})}")
        served.append(len(load.seconds[200]) / seconds)
        p50.append(load.quantile([200], 0.5))
        p99.append(load.quantile([200], 0.99))
        shares.append(served[-1] / bare[-1])
    return [
        _row("bare model", data, "images_per_s", bare, "images/s", f"batches of {options.batch}, no decoding"),
        _row("served", data, "images_per_s", served, "images/s", f"{options.clients} clients, an image a request"),
        _row("served", data, "share_of_bare", shares, "share"),
        _row("served", data, "p50_s", p50, "s"),
        _row("served", data, "p99_s", p99, "s"),
    ]


def overload(path: Path, folder: Path, images: Sequence[bytes], options: argparse.Namespace, data: str) -> list[Row]:
    """Rows of five times the sustained rate, and of a stop in the middle of it."""
    with server(path, folder) as (url, process, _):
        sustained, seconds = asyncio.run(closed_loop(url, images, options.clients, options.seconds))
        rate = len(sustained.seconds[200]) / seconds
        half, half_s = asyncio.run(open_loop(url, images, rate / 2, options.seconds))
        rate *= 5
        load, seconds = asyncio.run(open_loop(url, images, rate, options.seconds))
        before = memory_bytes(process)
        load, seconds = asyncio.run(open_loop(url, images, rate, 2 * options.seconds))
        after = memory_bytes(process)
        unexpected = set(load.seconds) - {200, *REFUSED}
        if unexpected or load.unanswered or load.unsent:
            raise ValueError(f"under overload: {unexpected}, {load.unanswered} unanswered, {load.unsent} not sent")
        rows = [
            _row("served at half of its rate", data, "images_per_s", [len(half.seconds[200]) / half_s], "images/s"),
            _row("served at half of its rate", data, "p50_s", [half.quantile([200], 0.5)], "s"),
            _row("served at half of its rate", data, "p99_s", [half.quantile([200], 0.99)], "s"),
            _row("overload", data, "offered_per_s", [rate], "requests/s", "five times the sustained rate"),
            _row("overload", data, "answered_per_s", [len(load.seconds[200]) / seconds], "images/s"),
            _row("overload", data, "answered_p99_s", [load.quantile([200], 0.99)], "s"),
            _row(
                "overload",
                data,
                "refused_share",
                [1 - len(load.seconds[200]) / sum(map(len, load.seconds.values()))],
                "share",
            ),
            # A short run on a busy machine may refuse none.
            *(
                [_row("overload", data, "refused_p99_s", [load.quantile(REFUSED, 0.99)], "s")]
                if any(status in load.seconds for status in REFUSED)
                else []
            ),
            _row(
                "overload",
                data,
                "memory_before_bytes",
                [before],
                "bytes",
                "after a first overload as long as half of it",
            ),
            _row("overload", data, "memory_after_bytes", [after], "bytes"),
        ]
    return rows


def stop(path: Path, folder: Path, images: Sequence[bytes], options: argparse.Namespace, data: str) -> list[Row]:
    """Rows of SIGTERM while all clients wait for answers."""
    answered = lost = 0
    for _ in range(options.times):
        with server(path, folder) as (url, process, _):

            async def run(url: str = url, process: subprocess.Popen[str] = process) -> Load:
                task = asyncio.create_task(closed_loop(url, images, options.clients, options.seconds))
                await asyncio.sleep(options.seconds / 2)
                process.send_signal(signal.SIGTERM)
                return (await task)[0]

            load = asyncio.run(run())
            code = process.wait(60)
        if code or set(load.seconds) - {200}:
            raise ValueError(f"the server ended with {code} and answered with {set(load.seconds)}")
        answered += len(load.seconds[200])
        lost += load.unanswered
    about = f"answered before and after SIGTERM, {options.clients} clients"
    return [
        _row("SIGTERM", data, "answered", [answered], "requests", about, n=options.times),
        _row("SIGTERM", data, "lost", [lost], "requests", n=options.times),
    ]


def _row(
    model: str,
    data: str,
    metric: str,
    values: Sequence[float],
    unit: str,
    note: str | None = None,
    n: int | None = None,
) -> Row:
    spread = max(values) - min(values) if len(values) > 1 else None
    return make_row(
        origin(),
        study="serve",
        model=model,
        data=data,
        metric=metric,
        value=statistics.median(values),
        unit=unit,
        spread=spread,
        n=n or len(values),
        note=note,
    )


PARTS = {"throughput": throughput, "overload": overload, "stop": stop}


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="mixer-s/16")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--data", default="imagenette", help="whose test images are sent, as their files are")
    parser.add_argument("--data-root", help="folder of the known data sets; $MIXONOMY_DATA if not given")
    parser.add_argument("--side", type=int, help="send them as JPEGs with so many pixels a side, as photographs have")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--batch", type=int, default=16, help="images that the bare model sees at once")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each load")
    parser.add_argument("--times", type=int, default=3, help="turns of the bare model and the server")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--quick", action="store_true", help="a tiny model and a second, to see that it works")
    parser.add_argument("--results", type=Path, default=RESULTS / "serve.jsonl")
    options = parser.parse_args()
    if options.quick:
        options.model, options.image_size, options.data = "mixer", 16, "digits"
        options.seconds, options.times, options.clients = 1.0, 1, 8

    splits = open_source(options.data, options.data_root).splits
    split = splits.get("test") or splits["val"]
    images = [bytes(split.images[i]) for i in range(min(200, len(split.images)))]
    if options.side:
        images = [enlarged(image, options.side) for image in images]
    kilobytes = sum(map(len, images)) / len(images) / 1e3
    about = (f"{options.side} x {options.side}, " if options.side else "") + f"{kilobytes:,.0f} kB"
    data = f"{options.model} at {options.image_size}, {options.data} ({about})"
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "model.safetensors"
        write_model(path, options.model, options.image_size, 1000)
        for part in options.parts:
            rows = PARTS[part](path, Path(name), images, options, data)
            append(options.results, rows)
            for row in rows:
                print(
                    f"{row['model']}, {row['metric']}: {row['value']:.4g} {row['unit']}, {row.get('note', '')}",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
