"""`mixonomy bench data`."""

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import FlagCreatePairsOff, Positional

from mixonomy.cli.arguments import parse
from mixonomy.cli.bench import chosen

AGAINST = "torchvision,timm,webdataset"


@dataclass(frozen=True)
class BenchData:
    """Measures the input pipeline for image files, as `mixonomy train` runs it and others': decoding, random crop and
    flip, without a model; ours also from tar files. The limit is decoding and cutting alone, in as many processes."""

    source: Positional[str | None] = None
    """SOURCE of training images, as for train; made-up JPEGs of 500 x 375 pixels if not given."""
    image_size: int = 224
    """Pixels a side of what the model would read."""
    batch_size: int = 64
    """Images of a batch."""
    workers: int | None = None
    """Processes that decode, for each library; as many as cores, at most 8, if not given."""
    randaugment: FlagCreatePairsOff[bool] = False
    """RandAugment too: two operations of magnitude 15, each library's own."""
    images: int = 2048
    """Use at most so many images, evenly spread; they are written to a temporary folder."""
    against: str = AGAINST
    """Whom to measure beside, comma-separated: torchvision, timm, webdataset."""
    rounds: int = 3
    """Turns of each library."""
    quick: FlagCreatePairsOff[bool] = False
    """A few small batches, to see that it works; speeds mean little."""
    data_root: str | None = None
    """Folder of the known data sets; $MIXONOMY_DATA if not given."""
    json: FlagCreatePairsOff[bool] = False
    """Print everything as one JSON object on the last line of standard output."""


def main(argv: list[str]) -> int:
    """Runs the command."""
    options = parse(BenchData, argv, name="bench data")
    counts = {"image-size": options.image_size, "batch-size": options.batch_size, "images": options.images}
    for name, value in {**counts, "rounds": options.rounds}.items():
        if value < 1:
            raise ValueError(f"--{name} is {value}; give at least 1.")
    if options.workers is not None and options.workers < 0:
        raise ValueError(f"--workers is {options.workers}; give 0 (no process) or more.")

    from mixonomy.bench import data, show, turns
    from mixonomy.bench.image_files import prepared
    from mixonomy.data import default_workers, open_source

    own = (turns.OURS, data.OUR_SHARDS, data.LIMIT)
    libraries = {name: "ours" if name in own else name for name in data.SETTINGS}
    settings = chosen(options.against, libraries)
    people = sys.stderr if options.json else sys.stdout
    source = open_source(options.source, options.data_root) if options.source else None
    made_up = "made-up JPEGs of 500 x 375 pixels"
    batch_size, num_images = (8, 32) if options.quick else (options.batch_size, options.images)
    workers = default_workers() if options.workers is None else options.workers
    with tempfile.TemporaryDirectory() as folder:
        count = prepared(source, Path(folder), num_images=num_images, batch_size=batch_size)
        case = data.Case(
            folder, count, options.image_size, batch_size, workers, options.randaugment, 0.0 if options.quick else 10.0
        )
        found = data.compare(
            case,
            settings,
            rounds=1 if options.quick else options.rounds,
            in_process=options.quick,
            say=lambda text: print(text, file=sys.stderr),
        )
    numbers = {name: found.numbers(name) for name in settings}
    what = "random crop, flip" + (", RandAugment" if options.randaugment else "")
    name = source.name if source else made_up
    print(f"{name}: {count:,} images to {case.image_size} pixels, {what}, {workers} workers", file=people)
    print(f"Our decoder differs from Pillow by at most {found.decoder_difference} of 255 grey levels.", file=people)
    leave_out = ("peak_memory_bytes", "difference", "top1_agreement")
    print("\n".join(show.table(numbers, default=data.DEFAULT, leave_out=leave_out)), file=people)
    if options.json:
        about: dict[str, Any] = {
            "source": name,
            "images": count,
            "image_size": case.image_size,
            "batch_size": batch_size,
            "workers": workers,
            "randaugment": options.randaugment,
            "decoder_difference": found.decoder_difference,
        }
        limit = {"limit_images_per_s": numbers[data.LIMIT]["images_per_s"]}
        peers = {name: each for name, each in numbers.items() if name not in own}
        print(json.dumps(about | numbers[turns.OURS] | limit | {"shards": numbers[data.OUR_SHARDS], "peers": peers}))
    return 0
