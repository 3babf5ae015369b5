"""What tests of shards share: tiny data sets, and tar files as other people write them."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mixonomy.data import Source, Split

CLASSES = ("ant", "bee", "cow")


def image(number: int, form: str = "PNG", size: tuple[int, int] = (8, 6)) -> bytes:
    """An image of (width, height) pixels, another one for each number."""
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def split(prefix: str, count: int, start: int = 0) -> Split:
    """PNG files with labels 0, 1, 2, 0, ..."""
    return Split(
        [image(start + i) for i in range(count)],
        np.arange(count, dtype=np.int64) % 3,
        [f"{prefix}/{i:03d}.png" for i in range(count)],
    )


def toy(**counts: int) -> Source:
    """A data set of as many images in each split; of 40 and 9 if none is given."""
    counts = counts or {"train": 40, "val": 9}
    starts = {"train": 0, "val": 1000, "test": 2000}
    return Source("toy", CLASSES, {name: split(name, count, starts[name]) for name, count in counts.items()})


def contents(part: Split) -> dict[str, tuple[bytes, Any]]:
    """Name -> (bytes, label) of all images."""
    found = {}
    for index in range(len(part)):
        label = part.labels[index]
        found[part.names[index]] = (part.images[index], np.asarray(label).tolist())
    assert len(found) == len(part)
    return found


def write_tar(path: Path, members: dict[str, bytes] | list[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT) -> Path:
    """A tar file of these members, in order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in members.items() if isinstance(members, dict) else members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def samples(numbers: range, **side: Any) -> dict[str, bytes]:
    """Members of samples 0000.png and so on; `side` gives each ending's content as a function of the number."""
    members = {}
    for number in numbers:
        members[f"{number:04d}.png"] = image(number)
        for ending, content in side.items():
            made = content(number)
            members[f"{number:04d}.{ending}"] = (made if isinstance(made, str) else json.dumps(made)).encode()
    return members
