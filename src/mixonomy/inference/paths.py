"""The ways to run a model for inference, which of them suit a device, and whether one computes what it should.

Axes: B images, c image channels, H and W pixels, K classes.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mixonomy import devices
from mixonomy.inference import openvino
from mixonomy.inference.int8 import int8
from mixonomy.inference.packed import packed

Forward = Callable[[Tensor], Tensor]
"""images float [B, c, H, W] -> logits float32 [B, K]."""

# Largest difference from the float32 logits, as a share of the largest of them. bfloat16 keeps 8 bits, a relative
# rounding of 2^-9 = 0.2 % at each layer, which grows over the blocks; int8 has a gate of its own.
TOLERANCE = {"fp32": 1e-4, "bf16": 0.05, "int8": 0.25}


def paths_for(device: torch.device, precision: devices.Precision, *, has_calibration: bool, compile: bool) -> list[str]:
    """Names of the paths that are worth trying, "BACKEND PRECISION".

    eager: the model as it is, under autocast for bf16. packed, openvino: see the modules packed, int8 and openvino
    beside this one. weights: of bf16, so that they are not cast at every call. compiled: by torch.compile, with
    constant weights.
    """
    names = [f"eager {precision}"]
    if device.type == "cpu" and torch.backends.mkldnn.is_available():
        names.append(f"packed {precision}")
        names += ["packed int8"] if has_calibration else []
    if device.type == "cpu" and has_calibration and openvino.is_installed():
        names.append("openvino int8")
    if device.type == "cuda" and precision == "bf16":
        names.append("weights bf16")
    return names + ([f"compiled {precision}"] if compile else [])


def build(name: str, model: nn.Module, calibration: Tensor | None) -> Forward:
    """The path of a name, for a model in evaluation mode on its device.

    Raises:
      Exception: of any kind, if the model does not suit the path; the caller goes on without it.
    """
    backend, precision = name.split()
    device = next(model.parameters()).device
    run: Forward
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    match backend:
        case "eager":
            run, dtype = model, torch.float32
        case "packed" if precision == "int8":
            assert calibration is not None
            run, dtype = int8(model, calibration), torch.bfloat16
        case "packed":
            run = packed(model, dtype)
        case "openvino":
            assert calibration is not None
            run, dtype = openvino.int8(model, calibration), torch.float32
        case "weights":
            run = copy.deepcopy(model).to(dtype)
        case _:
            run, dtype = _compiled(model), torch.float32
    is_autocast = backend in ("eager", "compiled")

    def path(images: Tensor) -> Tensor:
        with devices.autocast(device, "bf16" if is_autocast and precision == "bf16" else "fp32"):
            return run(images.to(dtype)).float()

    return path


def difference(found: Tensor, reference: Tensor) -> float:
    """Largest difference as a share of the largest reference value; infinite where a value is not finite."""
    if found.shape != reference.shape or not found.isfinite().all():
        return float("inf")
    return float((found - reference).abs().max() / reference.abs().max().clamp_min(1e-12))


def _compiled(model: nn.Module) -> Callable[[Tensor], Any]:
    if next(model.parameters()).device.type == "cpu" and not devices.has_compiler():
        raise ValueError("torch.compile needs a C++ compiler")
    return torch.compile(model, options={"freezing": True})
