"""`mixonomy data pack`."""

import json
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg

from mixonomy.choices import BadImagePolicy
from mixonomy.cli.arguments import parse
from mixonomy.cli.predictions import printable

UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30}
MAX_NAMED = 5  # images that could not be read; all are in the JSON


@dataclass(frozen=True)
class DataPack:
    """Writes a data set as tar shards (WebDataset's layout) with an index, to be read as shards:OUT.

    Images keep their bytes unless --short-side is given. What is finished lies in OUT.partial until all is there;
    the same command goes on after an interruption. Nothing is overwritten.
    """

    source: Annotated[Positional[str], arg(metavar="SOURCE")]
    """SOURCE, as for train."""
    out: Annotated[Positional[Path], arg(metavar="OUT")]
    """Folder to write; it must not exist, or be empty."""
    short_side: int | None = None
    """Resize images whose shorter side has more pixels to this many, as JPEGs of quality 95; others stay as they
    are."""
    shard_size: str = "256MB"
    """Largest shard, such as 256MB or 1GB."""
    keep_order: FlagCreatePairsOff[bool] = False
    """Keep the order of the training images; they are shuffled once if not given, which readers of shards expect."""
    on_bad_image: BadImagePolicy = "error"
    """error stops at the first image that cannot be read, skip leaves it out and says so."""
    max_bad_share: float | None = None
    """Largest share of all images that may be left out; 0.01 if not given."""
    workers: int | None = None
    """Threads that read and resize; as many as cores, at most 8, if not given."""
    data_root: str | None = None
    """Folder of the known data sets; $MIXONOMY_DATA if not given."""
    json: FlagCreatePairsOff[bool] = False
    """Print everything as one JSON object on the last line of standard output."""


def main(argv: list[str]) -> int:
    """Runs the command."""
    options = parse(DataPack, argv, name="data pack")
    shard_bytes = size_of(options.shard_size)
    if options.short_side is not None and options.short_side < 1:
        raise ValueError(f"--short-side is {options.short_side}; give at least 1 pixel.")
    if options.workers is not None and options.workers < 1:
        raise ValueError(f"--workers is {options.workers}; give at least 1.")
    if options.max_bad_share is not None:
        if not 0 <= options.max_bad_share < 1:
            raise ValueError(f"--max-bad-share is {options.max_bad_share}; give 0 or more, and less than 1.")
        if options.on_bad_image == "error":
            raise ValueError("--max-bad-share has no effect with --on-bad-image error; leave one of them out.")

    from mixonomy.data import MAX_BAD_SHARE, BadImages, default_workers, open_source
    from mixonomy.data.shards.pack import Options, pack
    from mixonomy.progress import Console

    people = sys.stderr if options.json else sys.stdout
    source = open_source(options.source, options.data_root)
    start = time.monotonic()
    with Console().progress(len(source), 0, "image") as meter:
        packed = pack(
            source,
            options.out,
            Options(options.short_side, shard_bytes, options.keep_order),
            bad=BadImages(options.on_bad_image),
            max_bad_share=MAX_BAD_SHARE if options.max_bad_share is None else options.max_bad_share,
            workers=options.workers or default_workers(),
            report=lambda done: meter.update(done, ""),
        )
    seconds = time.monotonic() - start
    counts = ", ".join(
        f"{split} {images:,} in {shards:,} shard{'s' * (shards != 1)}"
        for split, (images, shards) in packed.splits.items()
    )
    print(f"{options.out}: {len(packed):,} images ({counts}), {packed.num_bytes / 1e6:,.1f} MB", file=people)
    if packed.before:
        print(f"{packed.before:,} of them were packed before, by a command that was interrupted", file=people)
    for name, error in list(packed.bad.items())[:MAX_NAMED]:
        print(f"left out: {printable(name)}: {printable(error)}", file=people)
    if len(packed.bad) > MAX_NAMED:
        print(f"and {len(packed.bad) - MAX_NAMED:,} more; --json has all", file=people)
    print(f"read it as shards:{options.out}", file=people)
    if options.json:
        result = {
            "out": str(options.out),
            "images": len(packed),
            "splits": {split: {"images": i, "shards": s} for split, (i, s) in packed.splits.items()},
            "bytes": packed.num_bytes,
            "packed_before": packed.before,
            "bad_images": [{"name": name, "error": error} for name, error in sorted(packed.bad.items())],
            "seconds": seconds,
            "images_per_s": (len(packed) - packed.before) / seconds,
        }
        print(json.dumps(result))
    return 0


def size_of(text: str) -> int:
    """Bytes that "256MB" or "1 GiB" says.

    Raises:
      ValueError: if it says none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip().lower())
    number = int(float(found[1]) * UNITS[found[2]]) if found and found[2] in UNITS else 0
    if number < 1:
        raise ValueError(f"--shard-size is {text!r}; give a size such as 256MB or 1GB.")
    return number
