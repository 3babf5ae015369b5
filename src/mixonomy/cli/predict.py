"""`mixonomy predict`."""

import os
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg

from mixonomy.cli.arguments import check_out, parse
from mixonomy.cli.predictions import Table, csv_rows, display_width, json_line, plain_line, printable, write_line

if TYPE_CHECKING:  # torch
    from mixonomy.data import FoundImages
    from mixonomy.models import ModelInfo
    from mixonomy.predicting import Prediction

DEFAULT_TOP = 3
MANY = 100  # images, from which on a person likes to see how far it is


@dataclass(frozen=True)
class Predict:
    """Classifies images; exits with 0 if all were answered, with 1 if one could not be read."""

    run: Annotated[Positional[str], arg(metavar="RUN")]
    """A run folder, a .safetensors, .npz, .onnx or .xml file, timm:NAME, or hf:OWNER/NAME on the Hugging Face hub."""
    paths: Annotated[Positional[tuple[str, ...]], arg(metavar="PATH...")]
    """Image files, folders, patterns such as 'photos/**/*.jpg', or - for paths on standard input (by line or NUL)."""
    top: int | None = None
    """How many classes to name; 3 if not given, or those predicted where an image may have several."""
    json: FlagCreatePairsOff[bool] = False
    """Print one JSON object per image: path, classes (name, prob) or error."""
    out: Path | None = None
    """Write a .csv: path, label, prob, then class_1, prob_1 and so on, error."""
    overwrite: FlagCreatePairsOff[bool] = False
    """Let --out replace a file."""
    batch_size: int | None = None
    """Images that the model sees at once; by their size and the device if not given."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""


def main(argv: list[str]) -> int:
    """Runs the command."""
    options = parse(Predict, argv, name="predict")
    _check(options)

    from mixonomy.data import find_images
    from mixonomy.loading import load
    from mixonomy.models import info_of
    from mixonomy.predicting import predict
    from mixonomy.progress import Console

    found = find_images(options.paths, getattr(sys.stdin, "buffer", None))  # None: it is closed
    model = load(options.run)
    info, top = info_of(model), options.top or DEFAULT_TOP
    predictions = predict(model, found.paths, top=top, device=options.device, batch_size=options.batch_size)
    is_scrolling = sys.stdout.isatty() and (options.json or not options.out)
    console = Console(quiet=len(found) < MANY or is_scrolling)
    failed, start = 0, time.monotonic()
    with ExitStack() as stack:
        stack.enter_context(closing(predictions))
        show = _show(options, found, info)
        write = stack.enter_context(csv_rows(options.out, top=top)) if options.out else None
        meter = stack.enter_context(console.progress(len(found), 0, "image"))
        for number, prediction in enumerate(predictions, start=1):
            # The first of a batch comes when all of it is computed: by it alone the rest would take batches of time.
            meter.update(number - 1, _rate(number - 1, start))
            if problem := found.problems.get(number - 1):
                prediction = replace(prediction, error=problem)
            failed += prediction.error is not None
            if show is not None:
                write_line(show(prediction), sys.stdout)
            if write is not None:
                write(prediction)
        meter.update(len(found), _rate(len(found), start))
    if options.out and not options.json:
        write_line(f"{len(found):,} rows in {printable(str(options.out))}", sys.stdout)
    if failed and len(found) > 1:
        print(f"mixonomy predict: {failed:,} of {len(found):,} could not be read.", file=sys.stderr)
    return 1 if failed else 0


def _rate(number: int, start: float) -> str:
    return f"{number / (time.monotonic() - start):,.0f} images/s"


def _check(options: Predict) -> None:
    """Refuses what cannot work, before anything heavy is imported."""
    if not options.paths:
        raise ValueError("no image files given; name files, folders or patterns after the run, or - for a list.")
    for name, value in (("--top", options.top), ("--batch-size", options.batch_size)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; give at least 1.")
    out = options.out
    if out is None:
        if options.overwrite:
            raise ValueError("--overwrite has no effect without --out; leave it out, or give --out FILE.csv.")
        return
    check_out(out, ".csv", ", or use --json for JSON lines")
    if os.path.lexists(out) and not options.overwrite:
        raise ValueError(f"{out} exists; give another --out, or --overwrite to replace it.")


def _show(options: Predict, found: "FoundImages", info: "ModelInfo") -> "Callable[[Prediction], str] | None":
    """What turns a prediction into a line of standard output; None where there are no lines."""
    if options.json:
        return lambda prediction: json_line(prediction, is_multilabel=info.is_multilabel)
    if options.out:
        return None
    if not sys.stdout.isatty():
        return lambda prediction: plain_line(prediction, is_multilabel=info.is_multilabel, top=options.top)
    longest = max(display_width(printable(path)) for path in found.paths)
    width = shutil.get_terminal_size().columns
    table = Table(longest, info.class_names, top=options.top or DEFAULT_TOP, width=width)
    return lambda prediction: table.row(prediction, is_multilabel=info.is_multilabel, top=options.top)
