"""`mixonomy export`."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

from mixonomy.cli.arguments import parse

if TYPE_CHECKING:  # torch
    from mixonomy.export import Exported


@dataclass(frozen=True)
class Export:
    """Writes a trained model as a file for production, and runs it on real images before it keeps it.

    The file takes pixels and gives logits and probabilities; how images become those pixels, class names, recipe,
    scores and licence stand in it. `mixonomy predict` and `mixonomy eval` run it as they run the run folder.
    """

    run: Annotated[Positional[str], arg(metavar="RUN")]
    """A run folder, a .safetensors or .npz file, timm:NAME, or hf:OWNER/NAME on the Hugging Face hub."""
    to: Literal["onnx", "openvino", "safetensors", "timm"]
    """onnx; openvino (.xml and .bin); safetensors, weights alone; timm, a folder that timm reads too."""
    int8: FlagCreatePairsOff[bool] = False
    """For openvino: 8-bit integers too, in NAME-int8.xml, kept if they cost no accuracy and are faster here."""
    max_drop: float = 0.5
    """Points of top-1 that int8 must stay below, with 95 % confidence, on the validation images."""
    image_size: list[int] = field(default_factory=list)
    """Pixels, one number or height and width, to resize the model to first."""
    batch: str = "dynamic"
    """Images of a call: dynamic for any number, or a number."""
    out: Path | None = None
    """The file, or for timm the folder; in the run folder, below export/, if not given."""
    overwrite: FlagCreatePairsOff[bool] = False
    """Let --out replace a file."""
    data: str | None = None
    """SOURCE of the images to check it on and to judge int8 by; the data the run was trained on if not given."""
    data_root: str | None = None
    """Folder of the known data sets; $MIXONOMY_DATA if not given."""
    licence: str | None = None
    """The Hugging Face hub's short name of the model's licence, such as apache-2.0, to be written into it."""
    json: FlagCreatePairsOff[bool] = False
    """Print what was found as one JSON object on the last line of standard output."""


def main(argv: list[str]) -> int:
    """Runs the command."""
    options = parse(Export, argv, name="export")
    num_images, size = _num_images(options.batch), _size(options.image_size)
    if options.max_drop != Export.max_drop and not options.int8:
        raise ValueError("--max-drop has no effect without --int8; leave it out, or give --int8.")
    if options.overwrite and options.out is None:
        raise ValueError("--overwrite has no effect without --out; leave it out, or give --out.")

    from mixonomy.export import export_model

    made = export_model(
        options.run,
        options.to,
        options.out,
        int8=options.int8,
        max_drop=options.max_drop,
        image_size=size,
        num_images=num_images,
        source=options.data,
        data_root=options.data_root,
        licence=options.licence,
        overwrite=options.overwrite,
    )
    print("\n".join(_lines(made)), file=sys.stderr if options.json else sys.stdout)
    if options.json:
        print(json.dumps(made.to_dict()))
    return 0


def _num_images(batch: str) -> int | None:
    if batch == "dynamic":
        return None
    if not batch.isdecimal() or int(batch) < 1:
        raise ValueError(f"--batch is {batch!r}; give dynamic, or a number of images.")
    return int(batch)


def _size(sides: list[int]) -> tuple[int, int] | None:
    if len(sides) > 2:
        raise ValueError(f"--image-size has {len(sides)} numbers; give one, or height and width.")
    return (sides[0], sides[-1]) if sides else None


def _lines(made: "Exported") -> list[str]:
    """What a person wants to know."""
    found, gate = made.agreement, made.gate
    lines = [
        f"{made.path}  {made.precision}, {made.num_bytes / 1e6:,.1f} MB",
        f"checked on {found.n:,} images of {made.source}: logits differ by up to {found.max_difference:.2g}"
        + (f" (tolerance {found.tolerance:.2g})" if made.precision == "fp32" else "")
        + f", top-1 agrees for {found.top1_agreement:.2%}",
    ]
    if made.run_precision != "fp32":
        lines.append(f"the run itself is predicted in {made.run_precision}: there top-1 agrees for {made.as_run:.2%}")
    if made.images_per_s is not None and made.eager_images_per_s is not None:
        lines.append(
            f"speed, {made.batch} at once: {made.images_per_s:,.0f} images/s, the model in float32 "
            f"{made.eager_images_per_s:,.0f}"
        )
    if gate is None:
        return lines
    if gate.drop is not None and gate.bound is not None:
        lines.append(
            f"int8: top-1 drops by {gate.drop:.2f} points on {gate.n:,} validation images, below {gate.bound:.2f} with "
            f"95 % confidence ({gate.max_drop:g} allowed)"
        )
    lines.append(
        f"int8: {gate.images_per_s:,.0f} images/s, the fastest float path ({gate.fastest_float}) "
        f"{gate.float_images_per_s:,.0f}"
    )
    if gate.in_float:
        lines.append(f"int8: {gate.in_float} operations stay in float, since they would hurt")
    if gate.problem is not None:
        lines.append(f"int8 is not kept, the float file is: {gate.problem}.")
    return lines
