"""The graph that goes into a file: from pixels to logits and probabilities.

Axes: B images, c image channels, H and W pixels, K classes.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from mixonomy.evals import normalise, probabilities
from mixonomy.inference.exported import seal
from mixonomy.inference.runtimes import imported, openvino_model, write_onnx
from mixonomy.models import ModelInfo
from mixonomy.models.files import KEY

OUTPUTS = ("logits", "probs")


class Deployed(nn.Module):
    """A model with what comes before and after it: uint8 [B, c, H, W] -> logits and probabilities [B, K]."""

    def __init__(self, model: nn.Module, info: ModelInfo):
        super().__init__()
        self.model, self.info = model, info

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 [B, c, H, W] -> float32 [B, K] twice."""
        info = self.info
        logits = self.model(normalise(images, info.preprocessing))
        return logits, probabilities(logits, info.loss, info.temperature, is_multilabel=info.is_multilabel)


def to_onnx(model: nn.Module, info: ModelInfo, path: Path, text: str, *, num_images: int | None) -> None:
    """Writes model.onnx.

    Args:
      model: in evaluation mode, on the CPU, in float32.
      text: the description that goes into the file.
      num_images: B; None for any.
    Raises:
      ValueError: if a package is missing, or torch cannot export the model.
    """
    shape = (num_images or 2, info.preprocessing.channels, *info.preprocessing.image_size)
    example = torch.zeros(shape, dtype=torch.uint8)
    graph = Deployed(model, info).eval()
    write_onnx(graph, example, path, outputs=OUTPUTS, is_dynamic=num_images is None, metadata={KEY: text})
    seal(path)


def to_openvino(model: nn.Module, info: ModelInfo, path: Path, text: str, *, num_images: int | None) -> None:
    """Writes model.xml and model.bin by way of ONNX, in float32; arguments as of `to_onnx`."""
    imported("openvino")
    onnx = path.with_suffix(".onnx")
    shape = (num_images or 2, info.preprocessing.channels, *info.preprocessing.image_size)
    example, graph = torch.zeros(shape, dtype=torch.uint8), Deployed(model, info).eval()
    write_onnx(graph, example, onnx, outputs=OUTPUTS, is_dynamic=num_images is None)
    try:
        save_openvino(openvino_model(onnx), path, text)
    finally:
        for part in (onnx, onnx.with_name(f"{onnx.name}.data")):
            part.unlink(missing_ok=True)


def save_openvino(graph: object, path: Path, text: str) -> None:
    """Writes OpenVINO's model, with the description in it."""
    graph.set_rt_info(text, [KEY])  # type: ignore[attr-defined]
    imported("openvino").save_model(graph, str(path), compress_to_fp16=False)
    seal(path)
