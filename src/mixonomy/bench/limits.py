"""What the machine can do at best: its CPU's abilities, how fast it multiplies matrices, how fast it moves memory."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

import torch
from torch import Tensor, nn

from mixonomy.bench.turns import seconds_of

Precision = Literal["fp32", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8")

# What matters for products -> torch's names of it, then the kernel's in /proc/cpuinfo; any of them will do.
ABILITIES = {
    "avx2": ("avx2",),
    "avx512f": ("avx512_f", "avx512f"),
    "avx512_bf16": ("avx512_bf16",),
    "amx": ("amx_tile",),
    "vnni": ("avx512_vnni", "avx_vnni"),
}
GEMM_SIZE = {"cpu": 2048, "cuda": 8192}
SMALL_GEMM = 512
COPIED_BYTES = 2**28  # more than any cache holds


@dataclass(frozen=True)
class Limits:
    """What one device can do.

    Args:
      abilities: of the CPU, by the names of ABILITIES.
      gemm: precision -> operations (a multiplication or an addition) per second in the product of two large square
        matrices; None where torch has no such product here.
      bytes_per_s: read and written, in a copy of a large tensor.
    """

    abilities: dict[str, bool]
    gemm: dict[str, float | None]
    bytes_per_s: float

    def lines(self) -> list[str]:
        """For people: the abilities, then the rates."""
        words = [f"{name} {'yes' if has else 'no'}" for name, has in self.abilities.items()]
        rates = [f"{name} {'-' if rate is None else f'{rate / 1e9:,.0f}'}" for name, rate in self.gemm.items()]
        return [
            f"CPU: {', '.join(words)}",
            f"Matrix product, GFLOP/s: {', '.join(rates)}; memory: {self.bytes_per_s / 1e9:,.0f} GB/s",
        ]


def measure(device: torch.device, size: int | None = None) -> Limits:
    """Measures a device; takes seconds.

    Args:
      size: of the matrices; GEMM_SIZE if None.
    """
    size = GEMM_SIZE.get(device.type, 2048) if size is None else size
    rates = {precision: gemm_rate(size, precision, device) for precision in PRECISIONS}
    return Limits(abilities(), rates, memory_rate(device, COPIED_BYTES if size > SMALL_GEMM else 2**20))


def abilities() -> dict[str, bool]:
    """Which instructions for products the CPU has."""
    told = {name for name, value in torch.cpu.get_capabilities().items() if value is True}
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith("flags"):
            told.update(line.split())
            break
    return {name: bool(told.intersection(names)) for name, names in ABILITIES.items()}


def gemm_rate(size: int, precision: Precision, device: torch.device) -> float | None:
    """Operations per second of the product of two square matrices, the median of five; of a smaller one where slow.

    Returns:
      None where torch cannot multiply in this precision on this device.
    """
    rate = None
    for n in (min(size, SMALL_GEMM), size):
        try:
            product = _product(n, precision, device)
            seconds_of(product, device)
        except RuntimeError:
            return None
        rate = 2 * n**3 / median(seconds_of(product, device) for _ in range(5))
        if 2 * size**3 / rate > 2:  # seconds
            break
    return rate


def memory_rate(device: torch.device, num_bytes: int = COPIED_BYTES) -> float:
    """Bytes per second, read plus written, of a copy; the median of five."""
    source = torch.ones(num_bytes // 4, device=device)
    target = torch.empty_like(source)
    seconds_of(lambda: target.copy_(source), device)
    return 2 * num_bytes / median(seconds_of(lambda: target.copy_(source), device) for _ in range(5))


def flops_of(model: nn.Module, images: Tensor) -> int:
    """Multiplications and additions of a forward pass, in products, convolutions and attention.

    Attention is written as products for the count: torch's counter does not see into its CPU kernel.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model(images)
    return counter.get_total_flops()


def _product(n: int, precision: Precision, device: torch.device) -> Callable[[], Tensor]:
    if precision == "int8":
        a, b = (torch.randint(-128, 128, (n, n), device=device, dtype=torch.int8) for _ in range(2))
        return lambda: torch._int_mm(a, b)  # pyright: ignore[reportPrivateImportUsage]
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b, c = (torch.randn(n, n, device=device).to(dtype) for _ in range(3))
    return lambda: torch.mm(a, b, out=c)
