"""One pass over all images of a pool of splits; what it keeps are packed arrays of fixed size per image.

Axes: N images of the pool, n images of a chunk.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from mixonomy.data import Source, Split, default_workers
from mixonomy.data.check.examine import THUMBNAIL, ImageFacts, examine
from mixonomy.data.workers import alive, worker_options

CHUNK = 128  # images that a worker process examines at a time
FEW = 1000  # up to here, starting processes costs more than it gains


@dataclass(frozen=True)
class Part:
    """A split within the pool.

    Args:
      source: name of the data set that it belongs to.
      name: such as "train".
      is_other: whether it belongs to the source that is checked against.
    """

    source: str
    name: str
    split: Split
    is_other: bool = False


@dataclass(frozen=True)
class Scan:
    """Facts of all N images, part after part; see `ImageFacts` for their meaning.

    Args:
      starts: [P + 1], where each part begins, and N.
      problems: index -> (problem, reason) of the images that cannot be read.
      formats, modes: names, and how many images of the source itself have them.
      sizes: int32 [N, 2], height and width.
      turned, ends_grey: bool [N].
      content, pixels: uint64 [N, 2], digests.
      thumbnails: uint8 [N, 16, 16, 3].
    """

    parts: tuple[Part, ...]
    starts: NDArray[np.int64]
    problems: dict[int, tuple[str, str]]
    formats: dict[str, int]
    modes: dict[str, int]
    sizes: NDArray[np.int32]
    turned: NDArray[np.bool_]
    ends_grey: NDArray[np.bool_]
    content: NDArray[np.uint64]
    pixels: NDArray[np.uint64]
    thumbnails: NDArray[np.uint8]

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def num_own(self) -> int:
        """How many images are the source's own; they come first."""
        return int(self.starts[sum(not part.is_other for part in self.parts)])

    @property
    def readable(self) -> NDArray[np.bool_]:
        """bool [N]."""
        out = np.ones(len(self), dtype=bool)
        out[list(self.problems)] = False
        return out

    @property
    def part_of(self) -> NDArray[np.int64]:
        """int64 [N]: the number of each image's part."""
        return np.repeat(np.arange(len(self.parts)), np.diff(self.starts))

    def locate(self, index: int) -> tuple[Part, int]:
        """The part of an image, and its index there."""
        number = int(np.searchsorted(self.starts, index, side="right")) - 1
        return self.parts[number], index - int(self.starts[number])


def parts_of(source: Source, other: Source | None = None) -> tuple[Part, ...]:
    """The splits of a source, then those of another one that it is checked against."""
    sources = [source, other] if other else [source]
    return tuple(
        Part(each.name, name, split, is_other=each is other) for each in sources for name, split in each.splits.items()
    )


def scan_images(
    parts: tuple[Part, ...], *, workers: int | None = None, report: Callable[[int], None] = lambda done: None
) -> Scan:
    """Examines every image of the parts.

    Args:
      workers: processes that decode; as many as cores if not given, none for few images.
      report: is told how many images are done, from time to time.
    """
    starts = np.cumsum([0, *(len(part.split) for part in parts)])
    count = int(starts[-1])
    out = Scan(
        parts,
        starts,
        problems={},
        formats={},
        modes={},
        sizes=np.zeros((count, 2), dtype=np.int32),
        turned=np.zeros(count, dtype=bool),
        ends_grey=np.zeros(count, dtype=bool),
        content=np.zeros((count, 2), dtype=np.uint64),
        pixels=np.zeros((count, 2), dtype=np.uint64),
        thumbnails=np.zeros((count, THUMBNAIL, THUMBNAIL, 3), dtype=np.uint8),
    )
    if workers is None:
        workers = default_workers() if count > FEW else 0
    at, own = 0, out.num_own
    for chunk in _chunks(parts, workers):
        for facts in chunk:
            _keep(out, at, facts)
            if not facts.problem and at < own:
                out.formats[facts.format] = out.formats.get(facts.format, 0) + 1
                out.modes[facts.mode] = out.modes.get(facts.mode, 0) + 1
            at += 1
        report(at)
    return out


def _keep(out: Scan, at: int, facts: ImageFacts) -> None:
    if facts.problem:
        out.problems[at] = (facts.problem, facts.reason)
        return
    assert facts.thumbnail is not None, "what can be read has a thumbnail"
    out.sizes[at] = facts.height, facts.width
    out.turned[at], out.ends_grey[at] = facts.is_turned, facts.ends_grey
    out.content[at] = np.frombuffer(facts.content, np.uint64)
    out.pixels[at] = np.frombuffer(facts.pixels, np.uint64)
    out.thumbnails[at] = facts.thumbnail


@dataclass(frozen=True)
class _Chunks(Dataset):
    parts: tuple[Part, ...]

    def __getitem__(self, chunk: tuple[int, int, int]) -> list[ImageFacts]:
        number, start, stop = chunk
        images = self.parts[number].split.images
        return [_examined(images, index) for index in range(start, stop)]


def _examined(images: "object", index: int) -> ImageFacts:
    try:
        image = images[index]  # type: ignore[index]
    except OSError as error:  # a file that is gone, or that may not be read
        return ImageFacts("unreadable", error.strerror or str(error))
    return examine(image)


def _chunks(parts: tuple[Part, ...], workers: int) -> Iterator[list[ImageFacts]]:
    order = [
        (number, start, min(start + CHUNK, len(part.split)))
        for number, part in enumerate(parts)
        for start in range(0, len(part.split), CHUNK)
    ]
    options = worker_options(workers)
    loader = DataLoader(_Chunks(parts), sampler=order, batch_size=None, collate_fn=_as_it_is, **options)
    yield from alive(loader, otherwise="")


def _as_it_is(facts: list[ImageFacts]) -> list[ImageFacts]:
    return facts
