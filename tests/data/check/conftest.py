"""Pictures that are all different, and a source made of files in memory."""

import io
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from PIL import Image

from mixonomy.data import Source, Split


def _picture(seed: int, width: int = 96, height: int = 72) -> Image.Image:
    """Blurred noise: as different from others as photographs are, with as smooth a texture."""
    small = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def _encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _source(classes: Sequence[str] = ("cat", "dog"), name: str = "pets", **splits) -> Source:
    """A source of (image file, label) pairs per split."""
    opened = {}
    for split, samples in splits.items():
        images = [image for image, _ in samples]
        labels = np.array([label for _, label in samples])
        opened[split] = Split(images, labels, [f"{i}.png" for i in range(len(images))])
    return Source(name, tuple(classes), opened)


@pytest.fixture
def picture() -> Callable[..., Image.Image]:
    return _picture


@pytest.fixture
def encoded() -> Callable[..., bytes]:
    return _encoded


@pytest.fixture
def make_source() -> Callable[..., Source]:
    return _source
