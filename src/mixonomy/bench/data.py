"""The input pipeline, ours and others': image files to augmented batches, without a model.

    python -m mixonomy.bench.data TASK        one turn, in JSON; see `turns`

All read the same files, as many processes each, and give uint8 batches of the same size: random crop of 5 to 100 % of
the area, stretched, and mirrored half of the time; with RandAugment, two operations of magnitude 15, each library's
own. (timm's applies an operation it draws half of the time, ours and torchvision's always.) Turning pixels into floats
is left out everywhere. The limit is our decoder and resize alone, in as many processes, on files that are in memory.

Axes: B images, H and W pixels.
"""

import io
import itertools
import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from mixonomy import devices
from mixonomy.bench import turns
from mixonomy.bench.loaders import LOADERS, OUR_SHARDS, Case, split_of
from mixonomy.bench.turns import Measured, Turn
from mixonomy.data import Split, stream
from mixonomy.data.augment import CROP, CROP_RATIO, DEFAULT_MIN_AREA
from mixonomy.data.boxes import DRAWS, random_box
from mixonomy.data.decode import decode, decode_crop
from mixonomy.data.transforms import resized
from mixonomy.data.workers import WORKER_START

MODULE = "mixonomy.bench.data"
LIMIT = "decode + crop alone"
DEFAULT = "torchvision"
BACKENDS = {
    turns.OURS: "TorchCodec, batches in shared memory",
    OUR_SHARDS: "the same, from tar files by their index",
    "torchvision": "ImageFolder, Pillow, DataLoader",
    "timm": "ImageDataset, Pillow, create_loader",
    "webdataset": "tar files, Pillow, WebLoader",
    LIMIT: "TorchCodec, torch",
}
SETTINGS = tuple(BACKENDS)
PASS = 10**6  # images until a peer's loader starts anew, which takes time that is no part of its speed
ROUNDING = 4  # grey levels by which decoders of JPEG may differ, from rounding


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

    checked, failed = turns.checked(
        settings, lambda name: do({"do": "check", "setting": name}), say, needed=[turns.OURS, LIMIT]
    )
    measured = turns.take_turns(
        settings, rounds, lambda name, _: Turn(**do({"do": "turn", "setting": name})), say, failed
    )
    return Result(case, measured, checked[LIMIT]["difference"])


def run(task: dict[str, Any]) -> Any:
    """Does a task in this process: "check" or "turn" of a setting."""
    case = Case(**task["case"])
    return check(case, task["setting"]) if task["do"] == "check" else asdict(measure(case, task["setting"]))


def check(case: Case, setting: str) -> dict[str, Any]:
    """Compares what a setting gives with the files: how many images of each class, shapes, types; our decoder.

    Raises:
      ValueError: if something is wrong.
    """
    split = split_of(case)
    if setting == LIMIT:
        difference = _decoder_difference(split)
        said = f"our decoder differs from Pillow by {difference} grey levels at most"
        return {"difference": difference, "said": said}
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
    return {"said": f"{case.num_images:,} images and their labels are right"}


def measure(case: Case, setting: str) -> Turn:
    """One turn of one setting, after a warm-up of one repetition; the first batch's seconds are those of the start."""
    if setting == LIMIT:
        return _measure_limit(case)
    if setting in (turns.OURS, OUR_SHARDS):
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
    split = split_of(case)
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
