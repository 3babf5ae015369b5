"""What the machine can do: abilities and rates."""

from pathlib import Path

import pytest
import torch

from mixonomy.bench import limits
from mixonomy.models import create

CPU = torch.device("cpu")


def test_abilities_agree_with_the_kernel():
    info = Path("/proc/cpuinfo")
    if not info.exists() or "flags" not in info.read_text():
        pytest.skip("needs the flags in /proc/cpuinfo")
    flags = info.read_text().split("flags", 1)[1].splitlines()[0].split()
    found = limits.abilities()
    assert found["avx2"] == ("avx2" in flags) and found["avx512_bf16"] == ("avx512_bf16" in flags)
    assert found["amx"] == ("amx_tile" in flags)


def test_rates_are_measured_and_shown():
    found = limits.measure(CPU, size=64)
    assert list(found.gemm) == ["fp32", "bf16", "int8"] and found.bytes_per_s > 1e8
    assert (found.gemm["fp32"] or 0) > 1e7
    first, second = found.lines()
    assert first.startswith("CPU: avx2 ") and "GFLOP/s: fp32 " in second and "GB/s" in second


def test_a_product_that_torch_does_not_have_is_none(monkeypatch):
    def missing(*_):
        raise RuntimeError("not implemented")

    monkeypatch.setattr(torch, "_int_mm", missing)
    assert limits.gemm_rate(16, "int8", CPU) is None
    assert "int8 -" in limits.Limits({}, {"int8": None}, 1.0).lines()[1]


@pytest.mark.parametrize("pool", ["mean", "token"])
def test_the_products_of_attention_count(pool):
    model = create("vit", image_size=8, num_classes=5, patch_size=2, hidden_dim=12, num_blocks=2, num_heads=3,
                   channels_mlp_dim=20, pool=pool)  # fmt: skip
    s, c = 16 + (pool == "token"), 12
    block = 4 * s * c * c + 2 * s * s * c + 2 * s * c * 20
    assert limits.flops_of(model, torch.zeros(1, 3, 8, 8)) == 2 * (16 * 12 * c + 2 * block + c * 5)
