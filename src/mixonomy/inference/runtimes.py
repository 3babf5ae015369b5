"""What the extra `export` brings: torch's exporter to ONNX, and the runtimes ONNX Runtime and OpenVINO on a CPU.

Axes: B images, c image channels, H and W pixels, K classes.
"""

import importlib
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

NEEDED = "needs {0}, which is not installed; pip install 'mixonomy[export]'"
OPSET = 20  # the first with GELU
MAX_ONE_FILE = 2**31 - 2**24  # bytes; a protobuf holds no more than 2^31
HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
"""OpenVINO's; without one it computes in bfloat16 where the processor can. int8 is in the model, f32 for the rest."""


def without_telemetry() -> None:
    """Keeps OpenVINO and NNCF from reporting to their makers: without the package that does it they use a stub.

    To be called before either is imported.
    """
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # makes its import fail


def imported(package: str) -> Any:
    """A package of the extra `export`.

    Raises:
      ValueError: if it is not installed.
    """
    without_telemetry()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(package)
    except ImportError:
        raise ValueError(NEEDED.format(package)) from None


def write_onnx(
    model: nn.Module,
    example: Tensor,
    path: Path,
    *,
    outputs: Sequence[str] = ("logits",),
    is_dynamic: bool = True,
    metadata: dict[str, str] | None = None,
) -> None:
    """Writes a model as an ONNX file, with nothing in it of where its source code lies.

    Args:
      model: in evaluation mode on the CPU.
      example: [B, c, H, W], B at least 2 if `is_dynamic`: the exporter takes a 1 for a constant.
      path: weights that are too large for one file go into another beside it, with .data at its end.
      is_dynamic: whether the file is for any number of images, or for B.
    Raises:
      ValueError: if a package is missing, or the exporter cannot.
    """
    for package in ("onnx", "onnxscript"):
        imported(package)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    shapes = ({0: torch.export.Dim("batch", min=1)},) if is_dynamic else None
    with warnings.catch_warnings():  # of the exporter's own parts, about each other
        warnings.simplefilter("ignore")
        try:
            program: Any = torch.onnx.export(
                model,
                (example,),
                dynamo=True,
                dynamic_shapes=shapes,
                input_names=["images"],
                output_names=list(outputs),
                opset_version=OPSET,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            reason = str(error.__cause__ or error).strip().splitlines()[0].rstrip(".")[:300]
            advice = "; a fixed number of images may work" if is_dynamic else ""
            raise ValueError(f"torch cannot export this {type(model).__name__} to ONNX ({reason}){advice}.") from None
    _forget_sources(program.model)
    program.model.metadata_props.update(metadata or {})
    num_bytes = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    program.save(str(path), external_data=num_bytes > MAX_ONE_FILE)


def onnxruntime_session(path: Path) -> Any:
    """ONNX Runtime's session of a file, on as many threads as torch has.

    Raises:
      ValueError: if the package is missing, or the file cannot be read.
    """
    runtime = imported("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own kinds of errors have no other common base
        raise ValueError(f"{path} cannot be read as ONNX ({first_line(error)}); take another copy of it.") from None


def openvino_model(path: Path) -> Any:
    """OpenVINO's model of an .onnx or .xml file, not yet compiled.

    Raises:
      ValueError: if the package is missing, or the file cannot be read.
    """
    ov = imported("openvino")
    try:
        return ov.Core().read_model(str(path))
    except RuntimeError as error:
        raise ValueError(f"{path} cannot be read by OpenVINO ({first_line(error)}); take another copy of it.") from None


def openvino_request(model: Any, precision: Literal["fp32", "bf16", "int8"]) -> Any:
    """An inference request of a model compiled for the CPU, on as many threads as torch has."""
    config = {
        "INFERENCE_PRECISION_HINT": HINTS[precision],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    return imported("openvino").Core().compile_model(model, "CPU", config).create_infer_request()


def first_line(error: Exception) -> str:
    """What an error of a runtime says, cut to one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__).rstrip(".")[:300]


def _forget_sources(model: Any) -> None:
    """Takes out what the exporter notes for its own debugging: lines of source code and where they lie."""
    graphs = [model.graph, *(function.graph for function in model.functions.values())]
    values: list[Any] = []
    for graph in graphs:
        values += [*graph.inputs, *graph.outputs, *graph.initializers.values()]
        for node in graph.all_nodes():
            node.metadata_props.clear()
            node.doc_string = None
            values += node.outputs
        graph.metadata_props.clear()
    for value in values:
        value.metadata_props.clear()
    model.metadata_props.clear()
