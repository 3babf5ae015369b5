"""How an image file becomes what a model reads: the description that travels with the weights."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

EvalCrop = Literal["resmall", "resize", "squash", "pad"]
PAD_VALUE = 127  # the middle of the range of pixels
DEFAULT_RESIZE = 256 / 224  # MLP-Mixer paper, appendix C


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

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Preprocessing":
        """The reverse of `to_dict`."""
        tuples = {key: tuple(values[key]) for key in ("image_size", "mean", "std")}
        return cls(**{**values, **tuples})
