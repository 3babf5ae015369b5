"""How an image file becomes what a model reads: the description that travels with the weights."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

EvalCrop = Literal["resmall", "resize", "squash", "pad"]
PAD_VALUE = 127  # the middle of the range of pixels
DEFAULT_RESIZE = 256 / 224  # MLP-Mixer paper, appendix C
MAX_SIDE = 2**14  # pixels; larger numbers in a file of weights are an accident or an attack
MAX_RESIZE = 16.0


@dataclass(frozen=True)
class Preprocessing:
    """From a decoded image to a model's input, in evaluation.

    Args:
      image_size: (height, width) in pixels that the model reads.
      channels: 3 for RGB, 1 for grey.
      crop: "resmall" makes the shorter side `resize` times the image size and cuts out the centre;
        "resize" stretches the whole image to `resize` times the image size and cuts out the centre;
        "squash" stretches the whole image to the image size;
        "pad" brings the whole image into the image size, its shape kept, with grey bars on two sides.
      resize: factor of the intermediate size; 256 / 224 in the paper.
      mean, std: of pixel values scaled to [0, 1]; 0.5 and 0.5 give the range [-1, 1].
    Source: MLP-Mixer paper, appendix C ("resmall-crop", "resize-crop").
    """

    image_size: tuple[int, int]
    channels: int = 3
    crop: EvalCrop = "resmall"
    resize: float = DEFAULT_RESIZE
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    def __post_init__(self):
        if self.channels not in (1, 3) or not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(f"{self.channels} channels with mean {self.mean} and std {self.std}; give 1 or 3 of each")
        if self.crop not in get_args(EvalCrop):
            raise ValueError(f"unknown crop {self.crop!r}; use {', '.join(get_args(EvalCrop))}")
        if len(self.image_size) != 2 or not all(1 <= _number(side) <= MAX_SIDE for side in self.image_size):
            raise ValueError(f"image size {self.image_size}; give (height, width), each from 1 to {MAX_SIDE}")
        if not 0.0 < _number(self.resize) <= MAX_RESIZE:
            raise ValueError(f"resize is {self.resize}; give a factor above 0, at most {MAX_RESIZE:g}")
        if not all(math.isfinite(_number(value)) for value in self.mean) or not all(
            math.isfinite(_number(value)) and value > 0.0 for value in self.std
        ):
            raise ValueError(f"mean {self.mean} and std {self.std}; give finite numbers, std above 0")

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Preprocessing":
        """The reverse of `to_dict`."""
        tuples = {key: tuple(values[key]) for key in ("image_size", "mean", "std")}
        return cls(**{**values, **tuples})


def _number(value: Any) -> float:
    """The value if it is a number, else NaN, which is in no range: values may come from anybody's file."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf
