"""Files that `mixonomy export` wrote, run by ONNX Runtime or OpenVINO: how they are read, and what vouches for them.

Axes: B images, c image channels, H and W pixels, K classes.
"""

import hashlib
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mixonomy.inference.runtimes import onnxruntime_session, openvino_model, openvino_request
from mixonomy.models.checks import checked_info
from mixonomy.models.files import FORMAT, KEY
from mixonomy.models.info import ModelInfo, set_info

ENDINGS = (".onnx", ".xml")
DIGEST = "0" * 64
"""Stands where the checksum will be while it is computed."""

Run = Callable[[Tensor], tuple[Tensor, Tensor]]
"""uint8 [B, c, H, W] -> logits and probabilities float32 [B, K]."""

BROKEN = (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError)


class ExportedModel(nn.Module):
    """A model in a file of ONNX or OpenVINO, on the CPU; it takes pixels, which the file itself normalises.

    Args:
      run: uint8 [B, c, H, W] -> logits float32 [B, K] and probabilities float32 [B, K].
      image_shape: (c, H, W).
      num_images: what B must be; None for any.
      path: of the file.
      about: its description.
    """

    def __init__(
        self,
        run: Run,
        image_shape: tuple[int, int, int],
        num_images: int | None,
        path: Path,
        about: dict[str, Any],
    ):
        super().__init__()
        self.run, self.image_shape, self.num_images = run, image_shape, num_images
        self.path, self.about = path, about
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """uint8 [B, c, H, W] -> logits float32 [B, K]."""
        return self.outputs(images)[0]

    def outputs(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 [B, c, H, W] -> logits and probabilities, float32 [B, K]; any B, by a padded last turn if need be.

        Raises:
          ValueError: if the images are no pixels, or of another size.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or tuple(images.shape[1:]) != self.image_shape:
            given = f"{str(images.dtype).removeprefix('torch.')} {list(images.shape)}"
            wanted = ", ".join(map(str, self.image_shape))
            raise ValueError(
                f"{self.path} takes pixels, uint8 [B, {wanted}], and normalises them itself; it was given {given}."
            )
        images = images.cpu().contiguous()
        return by_turns(self.run, images, self.num_images or max(len(images), 1))


def by_turns(run: Run, images: Tensor, turn: int) -> tuple[Tensor, Tensor]:
    """Logits and probabilities [B, K] of what takes `turn` images at once; the last turn is padded."""
    count = len(images)
    if missing := max(-count % turn, turn - count):  # at least one turn, also for no images
        images = torch.cat([images, images.new_zeros(missing, *images.shape[1:])])
    logits, probs = zip(*(run(part) for part in images.split(turn)), strict=True)
    return torch.cat(logits)[:count], torch.cat(probs)[:count]


def is_exported(path: str | Path) -> bool:
    """Whether a path names a file of ONNX or OpenVINO."""
    return Path(path).suffix.lower() in ENDINGS


def read_exported(path: str | Path) -> ExportedModel:
    """Reads a file that `mixonomy export` wrote, .onnx or .xml with its .bin, and its class names and preprocessing.

    Raises:
      ValueError: if the extra `export` is not installed, or the file is not ours, damaged or of a newer format.
    """
    path = Path(os.path.expanduser(path))
    read = _onnx if path.suffix.lower() == ".onnx" else _openvino
    run, shape, text = read(path)
    about, info = _described(path, text)
    if tuple(shape[1:]) != (info.preprocessing.channels, *info.preprocessing.image_size):
        raise ValueError(f"{path} has images of {shape[1:]} and describes others; export it again.")
    model = ExportedModel(run, (shape[1], shape[2], shape[3]), shape[0], path, about)  # type: ignore[arg-type]
    set_info(model, info)
    return model


def parts_of(path: Path) -> list[Path]:
    """The files that belong to an exported one, itself first: weights may lie beside it."""
    beside = weights_of(path)
    return [path, beside] if beside.is_file() else [path]


def weights_of(path: Path) -> Path:
    """Where the weights of an exported file lie if they are not in it."""
    return path.with_suffix(".bin") if path.suffix.lower() == ".xml" else path.with_name(f"{path.name}.data")


def seal(path: Path) -> None:
    """Puts a checksum into a file in whose description `DIGEST` stands, once.

    It is the SHA-256 of the file and those beside it, with the checksum itself as zeros.
    """
    content = path.read_bytes()
    assert content.count(DIGEST.encode()) == 1, "the place of the checksum is not plain"
    path.write_bytes(content.replace(DIGEST.encode(), _digest(path, content).encode()))


def _digest(path: Path, content: bytes) -> str:
    digest = hashlib.sha256(content)
    for part in parts_of(path)[1:]:
        with open(part, "rb") as file:
            while piece := file.read(2**24):
                digest.update(piece)
    return digest.hexdigest()


def _described(path: Path, text: str | None) -> tuple[dict[str, Any], ModelInfo]:
    if text is None:
        raise ValueError(f"{path} was not written by `mixonomy export`: it says nothing of classes and preprocessing.")
    try:
        about = json.loads(text)
        is_newer, stored = about["format"] > FORMAT, about["sha256"]
        plain = path.read_bytes().replace(stored.encode(), DIGEST.encode())
        info = None if is_newer else checked_info(about)
    except BROKEN as error:
        raise ValueError(f"{path} has a damaged description ({repr(error)[:300]}); export it again.") from None
    if info is None:
        raise ValueError(f"{path} has format {about['format']}, this version reads up to {FORMAT}; update mixonomy.")
    if stored != _digest(path, plain):
        raise ValueError(f"{path} does not match its own checksum: it was damaged or changed; export it again.")
    return about, info


_Read = tuple[Run, tuple[int | None, ...], str | None]
"""What runs a file, the shape [B, c, H, W] of its images (B is None for any), and its description."""


def _onnx(path: Path) -> _Read:
    session = onnxruntime_session(path)
    text = session.get_modelmeta().custom_metadata_map.get(KEY)
    shape = tuple(side if isinstance(side, int) else None for side in session.get_inputs()[0].shape)

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        logits, probs = session.run(["logits", "probs"], {"images": images.numpy()})
        return torch.from_numpy(logits), torch.from_numpy(probs)

    return run, shape, text


def _openvino(path: Path) -> _Read:
    model = openvino_model(path)
    text = model.get_rt_info([KEY]).astype(str) if model.has_rt_info([KEY]) else None
    return openvino_run(model, "fp32"), _shape_of(model), text


def _shape_of(model: Any) -> tuple[int | None, ...]:
    return tuple(side.get_length() if side.is_static else None for side in model.inputs[0].partial_shape)


def num_images_of(model: Any) -> int | None:
    """What B must be for OpenVINO's model; None for any."""
    return _shape_of(model)[0]


def openvino_run(model: Any, precision: Literal["fp32", "bf16", "int8"]) -> Run:
    """What runs OpenVINO's model of an exported file: uint8 [B, c, H, W] -> logits and probabilities [B, K]."""
    request, lock = openvino_request(model, precision), threading.Lock()  # a request answers one caller at a time

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        with lock:
            found = request.infer([images.numpy()], share_inputs=True)
            return torch.from_numpy(found["logits"]), torch.from_numpy(found["probs"])

    return run
