"""What the machine can do: abilities and rates."""

from pathlib import Path

import pytest
import torch

from mixonomy.bench import limits

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
