"""Training images as files that every library reads: a folder of class folders, and tar files.

Axes: H and W pixels.
"""

import io
import tarfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mixonomy.data import Source, Split

SHARDS = 8  # tar files for webdataset, which gives each process whole ones
SYNTHETIC_SIZE = (375, 500)  # (height, width), about ImageNet's median


def prepared(source: Source | None, folder: Path, *, num_images: int, batch_size: int) -> int:
    """Writes training images out as files that every library reads; returns how many, a multiple of the batch size.

    Args:
      source: None for JPEGs that are made on the spot.
      folder: gets images/CLASS/NUMBER.ENDING and shards/NUMBER.tar.
      num_images: at most so many, evenly spread over the split; fewer images than a batch are written several times.
    """
    if source is None:
        split: Split = synthetic(min(num_images, 2 * batch_size))
        class_names: tuple[str, ...] = ("a", "b")
    else:
        split, class_names = source.splits["train"], source.class_names
    if split.is_multilabel:
        raise ValueError("images with several labels do not fit into class folders; give a SOURCE with one label each.")
    count = max(min(num_images, len(split)) // batch_size, 1) * batch_size
    picked = np.linspace(0, len(split), count, endpoint=False).astype(np.int64)
    (folder / "shards").mkdir(parents=True)
    shards = [tarfile.open(folder / "shards" / f"{number}.tar", "w") for number in range(SHARDS)]
    # Others number the classes by the names of their folders, in order: so do we, and empty ones would count.
    places = np.unique(split.labels[picked], return_inverse=True)[1].tolist()
    for number, (index, place) in enumerate(zip(picked.tolist(), places, strict=True)):
        content, ending = _file(split.images[index])
        path = folder / "images" / f"{place:06}" / f"{number:08}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        for name, part in ((f"{number:08}.{ending}", content), (f"{number:08}.cls", str(place).encode())):
            member = tarfile.TarInfo(name)
            member.size = len(part)
            shards[number % SHARDS].addfile(member, io.BytesIO(part))
    for shard in shards:
        shard.close()
    if len(set(places)) < 2:
        raise ValueError(f"the images are of one class only, {class_names[int(split.labels[picked[0]])]!r}; give more.")
    return count


def synthetic(count: int) -> Split:
    """Made-up photographs, JPEGs of about ImageNet's size, with structure of every coarseness; two classes."""
    random = np.random.default_rng(0)
    height, width = SYNTHETIC_SIZE
    files = []
    for _ in range(count):
        pixels = np.zeros((height, width, 3))
        for coarseness in (2, 4, 8, 16, 32, 64, 128):
            shape = (height // coarseness + 2, width // coarseness + 2, 3)
            small = Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8))
            pixels += np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)) * coarseness / 254
        buffer = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    return Split(files, np.arange(count, dtype=np.int64) % 2, [str(number) for number in range(count)])


def _file(image: bytes | NDArray[np.uint8]) -> tuple[bytes, str]:
    """An image as a file, and the ending of its name."""
    if isinstance(image, bytes):
        kind = (Image.open(io.BytesIO(image)).format or "").lower()
        return image, {"jpeg": "jpg", "mpo": "jpg"}.get(kind, kind)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue(), "png"
