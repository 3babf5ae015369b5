"""Ten thousand requests that are wrong in every way, to a running server: it answers or refuses each, and lives on.

    python benchmarks/malformed.py

One part are calls that schemathesis makes from the server's own OpenAPI description, half of them against it; each
answer is checked against it. The other are bytes on a socket: images and forms cut off or with bytes changed, bombs,
wrong types, huge or broken headers, bodies that promise more than they hold, and clients that are slow or go away.
Counted are answers by status, 5xx that the description does not have, requests without the answer that was due, and
the memory of the server after a first third and at the end.
"""

import argparse
import io
import json
import random
import socket
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from rows import RESULTS, append, make_row, origin
from serve import memory_bytes, server, write_model

SERVER = ("--header-timeout-s", "1", "--body-timeout-s", "1", "--max-body-mb", "4", "--max-megapixels", "4")
BOUNDARY = b"xyz"
FIELDS = (b"content-type", b"content-length", b"transfer-encoding", b"expect", b"host", b"authorization", b"connection")
ROUTES = (
    b"/v1/predict",
    b"/v1/occlusion",
    b"/v1/shuffle?patches=1",
    b"/v1/token-units",
    b"/v1/model",
    b"/metrics",
    b"/",
)


def good_images() -> list[bytes]:
    """Small files of every format that is read."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    found = []
    for form in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, form)
        found.append(file.getvalue())
    return found


def png(width: int, height: int, data: bytes, kind: int = 2) -> bytes:
    """A PNG whose header says what it likes."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4) + name + content + zlib.crc32(name + content).to_bytes(4)

    header = width.to_bytes(4) + height.to_bytes(4) + bytes([8, kind, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def bombs() -> list[bytes]:
    """Small files that would be large images, or ask for much work."""
    zeros = zlib.compress(bytes(10**7), 9)
    frames = [Image.new("L", (1500, 1500), n) for n in range(40)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    jpeg = good_images()[1]
    huge = jpeg.replace(jpeg[jpeg.index(b"\xff\xc0") + 5 :][:4], b"\xff\xff\xff\xff", 1)
    text = io.BytesIO()
    Image.new("L", (8, 8)).save(text, "PNG")
    comment = b"k\0\0" + zlib.compress(bytes(5 * 10**7), 9)
    chunk = len(comment).to_bytes(4) + b"zTXt" + comment + zlib.crc32(b"zTXt" + comment).to_bytes(4)
    noted = text.getvalue()[:33] + chunk + text.getvalue()[33:]
    flat = io.BytesIO()
    Image.new("L", (8000, 8000)).save(flat, "JPEG")
    plain = flat.getvalue()
    small = bytes(0xE004 - 25) + bytes.fromhex("ffc0000b080010001001011100")  # where fill bytes taken for a length lead
    filled = plain[:2] + b"\xff" + plain[2:20] + b"\xff\xfe" + (len(small) + 2).to_bytes(2) + small + plain[20:]
    tile = zlib.compress(bytes(8000 * 8000), 9)
    tags = {256: 100, 257: 100, 258: 8, 259: 8, 262: 1, 277: 1, 322: 8000, 323: 8000, 324: 8, 325: len(tile)}
    entries = [tag.to_bytes(2, "little") + b"\4\0\1\0\0\0" + tags[tag].to_bytes(4, "little") for tag in tags]
    start = b"II*\0" + (8 + len(tile)).to_bytes(4, "little")
    return [
        filled,
        start + tile + bytes([len(tags), 0]) + b"".join(entries) + bytes(4),
        png(100_000, 100_000, zeros),
        png(2**31 - 1, 2**31 - 1, zeros),
        png(0, 10, zeros),
        png(2000, 2000, zeros),
        png(1, 4_000_000, zlib.compress(bytes(16_000_000), 9)),
        file.getvalue(),
        huge,
        noted,
        jpeg[:-2] + 100 * b"\xff\xda\x00\x02" + b"\xff\xd9",
        b"BM" + bytes(16) + (2**31 - 1).to_bytes(4, "little") * 2 + bytes(40),
    ]


def form(*parts: bytes, end: bytes = b"--\r\n") -> bytes:
    """A multipart body."""
    head = b"--" + BOUNDARY + b'\r\ncontent-disposition: form-data; name="image"; filename="a"\r\n\r\n'
    return b"\r\n".join(head + part for part in parts) + b"\r\n--" + BOUNDARY + end


def message(path: bytes, body: bytes, *headers: tuple[bytes, bytes], method: bytes = b"POST") -> bytes:
    """An HTTP request; its length is given unless it stands among the headers."""
    given = dict(headers)
    lines = [b"host: localhost"] if b"host" not in given else []
    if not {b"content-length", b"transfer-encoding"} & set(given):
        lines.append(b"content-length: %d" % len(body))
    lines += [name + b": " + value for name, value in headers]
    return method + b" " + path + b" HTTP/1.1\r\n" + b"\r\n".join(lines) + b"\r\n\r\n" + body


def noise(random_: random.Random, size: int) -> bytes:
    return random_.randbytes(random_.randrange(size) + 1)


def changed(random_: random.Random, content: bytes) -> bytes:
    """Some bytes of a file replaced, taken out or repeated, or its end cut off."""
    found = bytearray(content)
    for _ in range(random_.randint(1, 8)):
        at = random_.randrange(len(found))
        match random_.randrange(4):
            case 0:
                found[at] = random_.randrange(256)
            case 1:
                del found[at : at + random_.randrange(1, 20)]
            case 2:
                found[at:at] = found[at : at + random_.randrange(1, 200)]
            case _:
                found = found[: max(at, 1)]
        found = found or bytearray(b"x")
    return bytes(found)


def requests(random_: random.Random) -> Iterator[tuple[str, bytes]]:
    """Kinds of wrong requests with their bytes, without end."""
    good, large = good_images(), bombs()
    kind = (b"content-type", b"multipart/form-data; boundary=" + BOUNDARY)
    makers: dict[str, Callable[[], bytes]] = {
        "damaged image": lambda: message(random_.choice(ROUTES[:4]), changed(random_, random_.choice(good))),
        "bomb": lambda: message(random_.choice(ROUTES[:2]), random_.choice(large)),
        "noise": lambda: message(random_.choice(ROUTES), noise(random_, 2000)),
        "damaged form": lambda: message(ROUTES[0], changed(random_, form(*random_.sample(good, 2))), kind),
        "form of damaged images": lambda: message(
            ROUTES[0], form(*(changed(random_, image) for image in random_.sample(good, 3))), kind
        ),
        "too many parts": lambda: message(ROUTES[0], form(*[b"x"] * random_.randint(33, 2000)), kind),
        "wrong type": lambda: message(
            ROUTES[0],
            random_.choice(good),
            (b"content-type", random_.choice([b"application/json", b"text/html", b"\xff"])),
        ),
        "too long": lambda: message(ROUTES[0], b"", (b"content-length", b"%d" % random_.choice([2**22 + 1, 10**18]))),
        "odd header": lambda: message(
            ROUTES[0], good[0], (random_.choice(FIELDS), noise(random_, 60).replace(b"\n", b""))
        ),
        "huge header": lambda: message(ROUTES[0], good[0], (b"a", random_.randint(10_000, 100_000) * b"b")),
        "many headers": lambda: message(
            ROUTES[0], good[0], *[(b"a%d" % n, b"b") for n in range(random_.randint(50, 500))]
        ),
        "odd target": lambda: message(
            b"/" + noise(random_, 50).hex().encode() + random_.choice([b"", b"?top=%ff"]), b""
        ),
        "odd method": lambda: message(
            ROUTES[0], b"", method=random_.choice([b"PUT", b"TRACE", b"NIX", b"HEAD", b"OPTIONS"])
        ),
        "odd chunks": lambda: message(
            ROUTES[0],
            b"%x\r\n" % random_.choice([1, 5, 2**40]) + noise(random_, 50),
            (b"transfer-encoding", b"chunked"),
        ),
        "no http": lambda: noise(random_, 500) + b"\r\n\r\n",
        "two at once": lambda: 2 * message(ROUTES[4], b"", method=b"GET"),
        "good": lambda: message(ROUTES[0], random_.choice(good)),
    }
    while True:
        name = random_.choice(list(makers))
        yield name, makers[name]()


class Sender:
    """Sends raw requests and counts what came of them."""

    def __init__(self, url: str, random_: random.Random):
        parts = urlsplit(url)
        self.address = (parts.hostname, parts.port)
        self.random = random_
        self.statuses: Counter[str] = Counter()
        self.dead: Counter[str] = Counter()

    def send(self, kind: str, content: bytes) -> None:
        """One request on a connection of its own; some clients stop in the middle, dawdle, or leave."""
        behaviour = self.random.choices(["whole", "cut", "leave", "slow"], [80, 10, 9, 1])[0]
        with socket.create_connection(self.address, timeout=30) as raw:  # type: ignore[arg-type]
            try:
                if behaviour == "slow":
                    for at in range(0, min(len(content), 40), 8):
                        raw.sendall(content[at : at + 8])
                        time.sleep(0.3)
                elif behaviour == "cut":
                    raw.sendall(content[: self.random.randrange(len(content))])
                else:
                    raw.sendall(content)
                if behaviour == "leave":
                    return
                raw.shutdown(socket.SHUT_WR)
            except OSError:  # refused before all was sent: the answer may have come
                pass
            answer = b""
            try:
                while piece := raw.recv(65536):
                    answer += piece
            except ConnectionError:
                pass
        if answer.startswith(b"HTTP/1.1 "):
            self.statuses[answer[9:12].decode("latin-1")] += 1
        elif behaviour == "whole" and kind == "good":
            self.dead[kind] += 1


def from_schema(url: str, count: int) -> Counter[str]:
    """Calls that schemathesis makes; raises where an answer is not as described."""
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st
    from schemathesis.checks import not_a_server_error
    from schemathesis.generation import GenerationMode
    from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    found: Counter[str] = Counter()
    operations: list[Any] = [each.ok() for each in schema.get_all_operations()]  # type: ignore[union-attr]
    modes = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE]
    cases = st.one_of(
        *(
            operation.as_strategy(generation_mode=mode)
            for operation in operations
            for mode in (modes if operation.query or operation.body else modes[:1])
        )
    )

    @settings(
        max_examples=count, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
        suppress_health_check=[*HealthCheck],  # type: ignore[arg-type]
    )  # fmt: skip
    @given(cases)
    def run(case):
        response = case.call(timeout=60)
        found[str(response.status_code)] += 1
        case.validate_response(
            response, checks=[status_code_conformance, response_schema_conformance, not_a_server_error]
        )

    run()
    return found


def main() -> int:
    """Runs the command; exit status 1 if the server did anything but answer or refuse."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--schema-share", type=float, default=0.2, help="of them made by schemathesis")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS / "serve.jsonl")
    options = parser.parse_args()
    by_schema = round(options.schema_share * options.requests)
    random_ = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "model.safetensors"
        write_model(path, "mixer", 16, 10)
        with server(path, Path(name), *SERVER) as (url, process, _):
            sender, early = Sender(url, random_), 0
            wrong = requests(random_)
            for number in range(options.requests - by_schema):
                if number == (options.requests - by_schema) // 3:
                    early = memory_bytes(process)
                sender.send(*next(wrong))
            late = memory_bytes(process)
            statuses = sender.statuses + (from_schema(url, by_schema) if by_schema else Counter())
            alive = process.poll() is None
            with socket.create_connection(sender.address) as raw:  # type: ignore[arg-type]
                raw.sendall(message(b"/v1/predict", good_images()[0], (b"connection", b"close")))
                still = raw.makefile("rb").read().split(b"\r\n")[0].decode()
        log = (Path(name) / "server.err").read_text()
    crashes = log.count("Exception in ASGI application") + log.count("Traceback")
    undeclared = sum(count for status, count in statuses.items() if status[0] == "5" and status != "503")
    print(json.dumps({"statuses": dict(sorted(statuses.items())), "early": early, "late": late, "after": still}))
    if crashes or undeclared or sender.dead or not alive or " 200 " not in still:
        found = f"{undeclared} undeclared 5xx, {crashes} crashes in the log, {sender.dead} without an answer"
        print(f"{found}: {log[-3000:]}", file=sys.stderr)
        return 1
    note = ", ".join(f"{count} x {status}" for status, count in sorted(statuses.items()))
    about: dict[str, Any] = {"study": "serve", "model": "malformed requests", "data": f"{options.requests:,} requests"}
    rows = [
        make_row(
            origin(), **about, metric="undeclared_5xx", value=undeclared, unit="requests", seed=options.seed, note=note
        ),
        make_row(
            origin(), **about, metric="memory_before_bytes", value=early, unit="bytes", note="after a third of them"
        ),
        make_row(origin(), **about, metric="memory_after_bytes", value=late, unit="bytes"),
    ]
    append(options.results, rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
