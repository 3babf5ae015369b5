"""A model in ONNX Runtime and OpenVINO: exported once into a folder, then read from there by each turn.

Axes: B images, c image channels, H and W pixels, K classes.
"""

import importlib
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mixonomy.inference import openvino as ov_int8

Predict = Callable[[Tensor], Tensor]
NEEDED = "needs {0}, which is not installed; pip install 'mixonomy[export]'"
HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}  # OpenVINO's; int8 is in the model, the hint is for the rest


def onnx_file(model: Callable[[], nn.Module], example: Tensor, folder: Path) -> Path:
    """The file of the exported model, for any number of images; written if it is not there.

    Args:
      model: makes it, in evaluation mode on the CPU.
      example: float [B, c, H, W], B at least 2: the exporter takes a 1 for a constant.
    Raises:
      ValueError: if a package is missing, or the exporter cannot.
    """
    path = folder / "model.onnx"
    if path.exists():
        return path
    for package in ("onnx", "onnxscript"):
        _import(package)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():  # of the exporter's own parts, about each other
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model(),
            (example,),
            str(path),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            input_names=["images"],
            output_names=["logits"],
            opset_version=20,  # the first with GELU
            verbose=False,
        )
    return path


def onnxruntime(path: Path) -> tuple[Predict, str]:
    """Logits by ONNX Runtime on as many threads as torch has; and what it calls itself.

    Raises:
      ValueError: if the package is missing.
    """
    runtime = _import("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def predict(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])

    return predict, f"ONNX Runtime {runtime.__version__}"


def openvino(
    path: Path, precision: Literal["fp32", "bf16", "int8"], shape: tuple[int, ...], calibration: Callable[[], Tensor]
) -> tuple[Predict, str]:
    """Logits by OpenVINO on as many threads as torch has; and what it calls itself.

    Args:
      path: of the ONNX file; the int8 model is kept beside it.
      shape: [B, c, H, W] of the images to come.
      calibration: makes float [N, c, H, W] for NNCF's post-training quantization.
    Raises:
      ValueError: if a package is missing.
    """
    ov_int8.without_telemetry()
    ov = _import("openvino")
    core = ov.Core()
    read = path
    if precision == "int8":
        read = path.with_name("int8.xml")
        if not read.exists():
            _import("nncf")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                small = ov_int8.quantized(core.read_model(str(path)), calibration())
            ov.save_model(small, str(read), compress_to_fp16=False)
    model = core.read_model(str(read))
    model.reshape(list(shape))
    config = {
        "INFERENCE_PRECISION_HINT": HINTS[precision],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = core.compile_model(model, "CPU", config)
    request = compiled.create_infer_request()

    def predict(images: Tensor) -> Tensor:
        found = request.infer([images.numpy()], share_inputs=True, share_outputs=True)
        return torch.from_numpy(found[0])

    return predict, f"OpenVINO {ov.__version__.split('-')[0]}"


def _import(package: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(package)
    except ImportError:
        raise ValueError(NEEDED.format(package)) from None
