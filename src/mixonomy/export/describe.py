"""What stands in an exported file beside its graph: everything a program needs to use it without mixonomy."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mixonomy import __version__
from mixonomy.inference.exported import DIGEST
from mixonomy.model_card import CROPS, MEASURES
from mixonomy.models import ModelInfo
from mixonomy.models.files import description
from mixonomy.preprocessing import PAD_VALUE, Preprocessing
from mixonomy.runs import RunFolder


@dataclass(frozen=True)
class Origins:
    """Where a model comes from.

    Args:
      recipe: of the run, as run.json has it; None for a model without its run.
      result: of the run, as result.json has it; None where its scores are not of the model as it is.
      licence: the hub's short name, such as "apache-2.0"; None if none was named.
    """

    recipe: dict[str, Any] | None = None
    result: dict[str, Any] | None = None
    licence: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        keys = (*MEASURES, "n", "split", "data")
        scores = None if self.result is None else {key: self.result[key] for key in keys if key in self.result}
        return {"recipe": self.recipe, "scores": scores, "licence": self.licence}


def origins_of(run: RunFolder | None, licence: str | None, *, is_changed: bool) -> Origins:
    """The facts of a run; its scores only if the model was not changed after it was trained."""
    if run is None:
        return Origins(licence=licence)
    return Origins(run.info()["recipe"], None if is_changed else run.result(), licence)


def described(
    info: ModelInfo, origins: Origins, *, to: str, precision: str, num_images: int | None, in_float: Sequence[str] = ()
) -> str:
    """The description as JSON in ASCII, with a place for the checksum, see `mixonomy.inference.exported.seal`.

    Args:
      to: "onnx" or "openvino".
      precision: "fp32" or "int8".
      num_images: of a call; None for any number.
      in_float: names of operations that are not in the precision.
    """
    prepared = info.preprocessing
    sides = ", ".join(map(str, (prepared.channels, *prepared.image_size)))
    count = "B" if num_images is None else str(num_images)
    return json.dumps(
        {
            **description(info),
            **origins.to_dict(),
            "exported": {
                "to": to,
                "precision": precision,
                "in_float": list(in_float),
                "mixonomy": __version__,
                "torch": torch.__version__,
            },
            "inputs": {"images": f"uint8 [{count}, {sides}], {'RGB' if prepared.channels == 3 else 'grey'}"},
            "outputs": {
                "logits": f"float32 [{count}, K]",
                "probs": f"float32 [{count}, K], {_probabilities(info)}",
            },
            "steps": steps(prepared),
            "sha256": DIGEST,
        }
    )


def steps(prepared: Preprocessing) -> list[str]:
    """From an image file to the input of the graph, in words; the numbers are in the preprocessing beside them."""
    height, width = prepared.image_size
    colours = "RGB" if prepared.channels == 3 else "grey by ITU-R BT.601"
    return [
        "decode the first frame; turn it upright by its EXIF orientation; lay what is transparent over white",
        f"16 bits become 8; colours become {colours}",
        CROPS[prepared.crop].format(resize=prepared.resize)
        + f": {height} x {width} pixels, bilinear with antialiasing, rounded to whole grey levels"
        + (f", bars of {PAD_VALUE}" if prepared.crop == "pad" else ""),
        "leave the pixels as they are, 0 to 255: the graph subtracts the mean and divides by the deviation",
    ]


def _probabilities(info: ModelInfo) -> str:
    if info.is_multilabel:
        return "a sigmoid for each class; a class is predicted from its threshold on"
    if info.loss == "sigmoid":
        return "sigmoids of the logits, to the power of 1 / temperature, scaled to the sum 1"
    return "softmax of the logits over the temperature"
