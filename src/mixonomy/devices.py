"""What the device can do: which one to use, which precision suits it, and how its memory is kept.

Nothing here measures: `auto` resolves by a table of abilities, so the same machine always gives the same numerics.
"""

import contextlib
import ctypes
import os
import platform
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixonomy.choices import Precision, PrecisionOrAuto


def resolve_device(name: str = "auto") -> torch.device:
    """cuda if there is one, else mps, else cpu; or the one that is named.

    Raises:
      ValueError: if the named device is unknown or not in this machine.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(device for device, there in available.items() if there))
    kind = name.split(":")[0]
    there = [device for device, is_there in available.items() if is_there]
    if kind not in available:
        raise ValueError(f"unknown device {name!r}; use auto, {', '.join(there)}.")
    if kind not in there:
        raise ValueError(f"device {name!r} is not available here; use auto or {', '.join(there)}.")
    number = name[len(kind) + 1 :]
    if ":" in name and (kind != "cuda" or not number.isdecimal()):
        raise ValueError(f"unknown device {name!r}; use auto, {', '.join(there)}, or cuda:0 and so on.")
    if number and int(number) >= torch.cuda.device_count():
        raise ValueError(f"device {name!r} is not available here; there are {torch.cuda.device_count()} GPUs.")
    return torch.device(name)


def resolve_precision(name: PrecisionOrAuto, device: torch.device) -> Precision:
    """auto: bf16 where the device multiplies bfloat16 matrices in hardware, else fp32."""
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"
    if device.type == "cpu":
        abilities = torch.cpu.get_capabilities()
        return "bf16" if abilities.get("avx512_bf16") or abilities.get("amx_bf16") else "fp32"
    return "fp32"


def cpu_name() -> str:
    """The processor's name, family and model, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    named = {key.strip(): value.strip() for key, value in fields.items()}
    return (
        f"{named.get('model name', platform.machine())} (family {named.get('cpu family')}, model {named.get('model')})"
    )


def has_compiler() -> bool:
    """Whether there is a C++ compiler, which torch.compile needs on a CPU."""
    return any(shutil.which(name) for name in (os.environ.get("CXX"), "c++", "g++", "clang++") if name)


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[object]:
    """The context in which a model computes."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def on_device(values: Tensor | NDArray[np.generic], device: torch.device) -> Tensor:
    """Values on a device, without waiting until it has done what it was given before.

    A GPU that is waited for in every step stands still while the next step is prepared.
    """
    found = values if isinstance(values, Tensor) else torch.from_numpy(values)
    return found.to(device, non_blocking=device.type != "mps")  # there the source may be gone before it is read


def prepare(device: torch.device) -> None:
    """Settings for the whole process: TF32 products and repeatable kernels on a GPU, kept memory on a CPU under Linux.

    A training step on a CPU asks for the same large buffers again and again. glibc gives each back to the kernel and
    gets it anew, page by page, zeroed; told to keep them, a step takes less time (`benchmarks/train.py` measures
    both). The price: memory that was freed stays with the process.
    """
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.deterministic = True  # a resumed run repeats the gradients of the patch embedding
    elif device.type == "cpu" and sys.platform == "linux":
        with contextlib.suppress(AttributeError, OSError):  # another C library
            mallopt = ctypes.CDLL(None).mallopt
            for parameter, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1)):
                mallopt(parameter, value)


# Source: glibc malloc/malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def is_memory_full(error: Exception) -> bool:
    """Whether there was no room: on a GPU, in numpy or Python, or in torch's allocator for the CPU."""
    is_of_kind = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return is_of_kind or "DefaultCPUAllocator: can't allocate memory" in str(error)
