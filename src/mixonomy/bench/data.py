"""The input pipeline, ours and others': image files to augmented batches, without a model.

    python -m mixonomy.bench.data TASK        one turn, in JSON; see `turns`

All read the same files, as many processes each, and give uint8 batches of the same size: random crop of 5 to 100 % of
the area, stretched, and mirrored half of the time; with RandAugment, two operations of magnitude 15, each library's
own. (timm's applies an operation it draws half of the time, ours and torchvision's always.) Turning pixels into floats
is left out everywhere. The limit is our decoder and resize alone, in as many processes, on files that are in memory.

Axes: B images, H and W pixels.
"""

import importlib
import io
import itertools
import multiprocessing
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from mixonomy import devices
from mixonomy.bench import turns
from mixonomy.bench.turns import Measured, Turn
from mixonomy.data import BadImages, Source, Split, open_source, stream
from mixonomy.data.augment import CROP, CROP_RATIO, DEFAULT_MIN_AREA
from mixonomy.data.boxes import DRAWS, random_box
from mixonomy.data.decode import decode, decode_crop
from mixonomy.data.loading import WORKER_START, WorkerData
from mixonomy.data.transforms import resized
from mixonomy.preprocessing import Preprocessing
from mixonomy.recipe import Augment

MODULE = "mixonomy.bench.data"
LIMIT = "decode + crop alone"
DEFAULT = "torchvision"
BACKENDS = {
    turns.OURS: "TorchCodec, batches in shared memory",
    "torchvision": "ImageFolder, Pillow, DataLoader",
    "timm": "ImageDataset, Pillow, create_loader",
    "webdataset": "tar files, Pillow, WebLoader",
    LIMIT: "TorchCodec, torch",
}
SETTINGS = tuple(BACKENDS)
LAYERS, MAGNITUDE = 2, 15  # of RandAugment, as the paper's ImageNet runs
PASS = 10**6  # images until a peer's loader starts anew, which takes time that is no part of its speed
LAP = 8  # batches of one timed repetition
SHARDS = 8  # tar files for webdataset, which gives each process whole ones
ROUNDING = 4  # grey levels by which decoders of JPEG may differ, from rounding
SYNTHETIC_SIZE = (375, 500)  # (height, width), about ImageNet's median

Batches = Iterator[tuple[Tensor, Tensor]]
"""Images uint8 [B, 3, H, W], labels int64 [B]."""


@dataclass(frozen=True)
class Case:
    """What is read, and how.

    Args:
      folder: has images/CLASS/FILE and shards/NUMBER.tar, see `prepared`.
      num_images: in the folder, a multiple of the batch size.
      workers: processes that decode; 0 for the training process itself.
      turn_s: what the timed repetitions of one turn fill, at least two.
    """

    folder: str
    num_images: int
    image_size: int
    batch_size: int
    workers: int
    has_randaugment: bool
    turn_s: float = 10.0

    @property
    def lap(self) -> int:
        """Batches of one repetition."""
        return LAP * max(self.workers, 1)


@dataclass(frozen=True)
class Result:
    """What a comparison found.

    Args:
      measured: setting -> its turns.
      decoder_difference: largest difference in grey levels between our decoder and Pillow on the images that were
        compared.
    """

    case: Case
    measured: dict[str, Measured]
    decoder_difference: int

    def numbers(self, setting: str) -> dict[str, Any]:
        """What one setting reached; None where there is no number, and then `note` says why."""
        rivals = {name: each for name, each in self.measured.items() if name != LIMIT}
        of = {**rivals, setting: self.measured[setting]}
        images = self.case.lap * self.case.batch_size
        found = turns.summary(of, setting, batch_size=images, flops=None, default=DEFAULT)
        if found["images_per_s"] is not None:
            share, spread = turns.times_as_fast(self.measured[setting], self.measured[LIMIT])
            found |= {"share_of_limit": share, "share_of_limit_spread": spread}
            # Of all others: each has one setting only.
            for suffix in ("", "_spread"):
                found[f"ratio_best{suffix}"] = found.pop(f"ratio_best_peer{suffix}")
        return found


def compare(
    case: Case,
    settings: Sequence[str],
    *,
    rounds: int = 3,
    in_process: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Result:
    """Checks each setting, then lets those that are right take turns.

    Args:
      settings: names in SETTINGS.
      in_process: all in this process, to see that it works.
      say: told of what goes on.
    Raises:
      ValueError: if our own pipeline is wrong or fails.
    """

    def do(task: dict[str, Any]) -> Any:
        task = {"case": asdict(case), **task}
        return run(task) if in_process else turns.child(MODULE, task)

    failed, difference = dict[str, str](), 0
    for name in settings:
        try:
            checked = do({"do": "check", "setting": name})
            difference = max(difference, checked["difference"])
            say(f"{name}: {case.num_images:,} images and their labels are right")
        except ValueError as error:
            if name in (turns.OURS, LIMIT):
                raise ValueError(f"nothing was timed, since {name} failed: {error}") from None
            failed[name] = str(error)
            say(f"{name}: {error}")
    measured = turns.take_turns(
        settings, rounds, lambda name, _: Turn(**do({"do": "turn", "setting": name})), say, failed
    )
    return Result(case, measured, difference)


def run(task: dict[str, Any]) -> Any:
    """Does a task in this process: "check" or "turn" of a setting."""
    case = Case(**task["case"])
    return check(case, task["setting"]) if task["do"] == "check" else asdict(measure(case, task["setting"]))


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


def check(case: Case, setting: str) -> dict[str, Any]:
    """Compares what a setting gives with the files: how many images of each class, shapes, types; our decoder.

    Raises:
      ValueError: if something is wrong.
    """
    split = _split(case)
    if setting == LIMIT:
        return {"difference": _decoder_difference(split)}
    expected = np.bincount(split.labels)
    counts, shape = np.zeros_like(expected), (3, case.image_size, case.image_size)
    for images, labels in LOADERS[setting](case, 1):
        if tuple(images.shape[1:]) != shape or images.dtype != torch.uint8 or labels.shape != images.shape[:1]:
            raise ValueError(f"wrong: a batch of {images.dtype} {list(images.shape)}, not uint8 of {list(shape)}")
        counts += np.bincount(labels.numpy(), minlength=len(expected))
        if counts.sum() >= case.num_images:
            break
    if not np.array_equal(counts, expected):
        raise ValueError(f"wrong: images of each class {counts.tolist()}, not {expected.tolist()}")
    return {"difference": 0}


def measure(case: Case, setting: str) -> Turn:
    """One turn of one setting, after a warm-up of one repetition; the first batch's seconds are those of the start."""
    if setting == LIMIT:
        return _measure_limit(case)
    if setting == turns.OURS:
        devices.prepare(torch.device("cpu"))  # as `mixonomy train` does
    batches = LOADERS[setting](case, max(PASS // case.num_images, 1))
    first_s = turns.seconds_of(lambda: next(batches))

    def lap() -> None:
        for _ in range(case.lap):
            next(batches)

    lap()
    return Turn(turns.timed(lap, for_s=case.turn_s), first_s, "-", BACKENDS[setting])


def _measure_limit(case: Case) -> Turn:
    """The same files from memory, decoded, cut and resized, in as many processes."""
    processes, images = max(case.workers, 1), case.lap * case.batch_size
    split = _split(case)
    files = [split.images[index] for index in range(len(split))]
    per_process = images // processes
    context = multiprocessing.get_context(WORKER_START)
    with context.Pool(processes, _get_ready, (files, case.image_size)) as pool:

        def lap() -> None:
            pool.map(_decode_and_crop, [per_process] * processes, chunksize=1)

        first_s = turns.seconds_of(lap)
        lap()
        return Turn(turns.timed(lap, for_s=case.turn_s), first_s, "-", BACKENDS[LIMIT])


_files: list[Any] = []  # of a process of the pool
_image_size: list[int] = []
_places = itertools.count()


def _get_ready(files: list[Any], image_size: int) -> None:
    torch.set_num_threads(1)
    devices.prepare(torch.device("cpu"))
    _files[:], _image_size[:] = files, [image_size, image_size]


def _decode_and_crop(count: int) -> None:
    for place in itertools.islice(_places, count):
        key = np.array([place], dtype=np.uint64)
        draws = stream.uniforms(key, DRAWS, CROP)[0].tolist()
        cut = decode_crop(
            _files[place % len(_files)],
            3,
            lambda size, draws=draws: random_box(draws, size, area=(DEFAULT_MIN_AREA, 1.0), ratio=CROP_RATIO),
            (_image_size[0], _image_size[1]),
        )
        resized(cut, _image_size)


def our_batches(case: Case, passes: int) -> Batches:
    """As `mixonomy train` makes them, without an end."""
    split = _split(case)
    layers, magnitude = (LAYERS, MAGNITUDE) if case.has_randaugment else (0, None)
    augment = Augment(crop="inception", flip=True, randaugment_layers=layers, randaugment_magnitude=magnitude)
    preprocessing, order = Preprocessing((case.image_size, case.image_size)), stream.Order(0, len(split))
    data = WorkerData(split, augment, preprocessing, order, case.workers, BadImages())
    for batch in data.batches(0, case.batch_size):
        yield batch.images, batch.labels


def _torchvision_transform(case: Case) -> Any:
    from torchvision import transforms

    augment = [transforms.RandAugment(LAYERS, MAGNITUDE)] if case.has_randaugment else []
    crop = transforms.RandomResizedCrop(case.image_size, scale=(DEFAULT_MIN_AREA, 1.0))
    return transforms.Compose([crop, transforms.RandomHorizontalFlip(), *augment, transforms.PILToTensor()])


def torchvision_batches(case: Case, passes: int) -> Batches:
    """By ImageFolder and DataLoader."""
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder

    dataset = ImageFolder(f"{case.folder}/images", _torchvision_transform(case))
    dataset.samples *= passes
    yield from DataLoader(dataset, case.batch_size, shuffle=True, num_workers=case.workers)


def timm_batches(case: Case, passes: int) -> Batches:
    """By create_loader; its batches before they become floats."""
    from timm.data.dataset import ImageDataset
    from timm.data.loader import create_loader

    dataset = ImageDataset(f"{case.folder}/images")
    reader: Any = dataset.reader
    reader.samples *= passes
    loader: Any = create_loader(
        dataset,
        input_size=(3, case.image_size, case.image_size),
        batch_size=case.batch_size,
        is_training=True,
        scale=(DEFAULT_MIN_AREA, 1.0),
        color_jitter=0.0,
        auto_augment=f"rand-m{MAGNITUDE}-n{LAYERS}" if case.has_randaugment else None,
        num_workers=case.workers,
        device=torch.device("cpu"),
    )
    yield from loader.loader


def webdataset_batches(case: Case, passes: int) -> Batches:
    """By WebDataset and WebLoader, with torchvision's transforms."""
    try:
        webdataset: Any = importlib.import_module("webdataset")  # fills its namespace in a way type checkers miss
    except ImportError:
        raise ValueError("needs the package webdataset, which is not installed") from None
    from torch.utils.data import default_collate

    shards = sorted(str(path) for path in Path(case.folder, "shards").glob("*.tar"))
    transform = _torchvision_transform(case)
    dataset: Any = webdataset.WebDataset(shards, shardshuffle=False).repeat(passes)
    dataset = dataset.shuffle(2 * case.batch_size).decode("pil").to_tuple("jpg;png;webp;bmp;gif;tiff", "cls")
    dataset = dataset.map_tuple(transform, int).batched(case.batch_size, collation_fn=default_collate)
    yield from webdataset.WebLoader(dataset, batch_size=None, num_workers=case.workers)


LOADERS: dict[str, Callable[[Case, int], Batches]] = {
    turns.OURS: our_batches,
    "torchvision": torchvision_batches,
    "timm": timm_batches,
    "webdataset": webdataset_batches,
}


def _split(case: Case) -> Split:
    return open_source(f"{case.folder}/images").splits["train"]


def _decoder_difference(split: Split) -> int:
    """The largest difference between our decoder and Pillow, in grey levels, on up to 100 images.

    Raises:
      ValueError: if it is more than ROUNDING.
    """
    worst = 0
    for index in np.linspace(0, len(split), min(len(split), 100), endpoint=False).astype(int).tolist():
        content = split.images[index]
        assert isinstance(content, bytes)
        ours = decode(content).permute(1, 2, 0).numpy().astype(int)
        with Image.open(io.BytesIO(content)) as opened:
            if opened.has_transparency_data:  # Pillow's conversion to RGB shows what transparency hides
                continue
            theirs = np.asarray(ImageOps.exif_transpose(opened).convert("RGB")).astype(int)
        if ours.shape != theirs.shape:
            raise ValueError(f"wrong: {split.names[index]} has {ours.shape[:2]} pixels, by Pillow {theirs.shape[:2]}")
        worst = max(worst, int(np.abs(ours - theirs).max()))
    if worst > ROUNDING:
        raise ValueError(f"wrong: decoded pixels differ from Pillow's by {worst} grey levels, allowed are {ROUNDING}")
    return worst


if __name__ == "__main__":
    turns.answer(run)
