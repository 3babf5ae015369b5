"""A model in ONNX Runtime and OpenVINO: exported once into a folder, then read from there by each turn.

Axes: B images, c image channels, H and W pixels, K classes.
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from mixonomy.inference import openvino as ov_int8
from mixonomy.inference import runtimes

Predict = Callable[[Tensor], Tensor]


def onnx_file(model: Callable[[], nn.Module], example: Tensor, folder: Path) -> Path:
    """The file of the exported model, for any number of images; written if it is not there.

    Args:
      model: makes it, in evaluation mode on the CPU.
      example: float [B, c, H, W], B at least 2.
    Raises:
      ValueError: if a package is missing, or the exporter cannot.
    """
    path = folder / "model.onnx"
    if not path.exists():
        runtimes.write_onnx(model(), example, path)
    return path


def onnxruntime(path: Path) -> tuple[Predict, str]:
    """Logits by ONNX Runtime; and what it calls itself.

    Raises:
      ValueError: if the package is missing.
    """
    session = runtimes.onnxruntime_session(path)

    def predict(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])

    return predict, f"ONNX Runtime {runtimes.imported('onnxruntime').__version__}"


def openvino(
    path: Path, precision: Literal["fp32", "bf16", "int8"], shape: tuple[int, ...], calibration: Callable[[], Tensor]
) -> tuple[Predict, str]:
    """Logits by OpenVINO; and what it calls itself.

    Args:
      path: of the ONNX file; the int8 model is kept beside it.
      shape: [B, c, H, W] of the images to come.
      calibration: makes float [N, c, H, W] for NNCF's post-training quantization.
    Raises:
      ValueError: if a package is missing.
    """
    ov = runtimes.imported("openvino")
    read = path
    if precision == "int8":
        read = path.with_name("int8.xml")
        if not read.exists():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                small = ov_int8.quantized(runtimes.openvino_model(path), calibration())
            ov.save_model(small, str(read), compress_to_fp16=False)
    model = runtimes.openvino_model(read)
    model.reshape(list(shape))
    request = runtimes.openvino_request(model, precision)

    def predict(images: Tensor) -> Tensor:
        found = request.infer([images.numpy()], share_inputs=True, share_outputs=True)
        return torch.from_numpy(found[0])

    return predict, f"OpenVINO {ov.__version__.split('-')[0]}"
