"""Device and precision are resolved by tables, never by timing."""

import pytest
import torch

from mixonomy import devices

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("abilities", "expected"),
    [
        ({"avx512_bf16": True}, "bf16"),
        ({"amx_bf16": True}, "bf16"),
        ({"avx2": True, "avx512_bf16": False}, "fp32"),
        ({}, "fp32"),
    ],
)
def test_auto_on_a_cpu_is_bf16_only_with_units_for_it(abilities, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: abilities)
    assert devices.resolve_precision("auto", CPU) == expected


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_auto_on_a_gpu_goes_by_its_generation(capability, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert devices.resolve_precision("auto", CUDA) == expected


def test_named_precision_is_kept():
    assert devices.resolve_precision("bf16", CPU) == "bf16"
    assert devices.resolve_precision("fp32", CUDA) == "fp32"


def test_abilities_are_asked_by_the_names_that_torch_uses():
    known = set(torch.cpu.get_capabilities())
    assert known, "torch reports no abilities here"
    if torch.cpu.get_capabilities().get("architecture") == "x86_64":
        assert {"avx512_bf16", "amx_bf16"} <= known


def test_device_that_is_not_here_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.resolve_device("auto").type in ("cpu", "mps")
    with pytest.raises(ValueError, match="device 'cuda' is not available here; use auto or"):
        devices.resolve_device("cuda")
    with pytest.raises(ValueError, match="unknown device 'gpu'"):
        devices.resolve_device("gpu")


def test_autocast_computes_in_the_precision_it_says():
    a = torch.ones(4, 4)
    with devices.autocast(CPU, "bf16"):
        assert (a @ a).dtype == torch.bfloat16
    with devices.autocast(CPU, "fp32"):
        assert (a @ a).dtype == torch.float32


def test_kept_memory_changes_no_result():
    torch.manual_seed(0)
    a = torch.randn(300, 300)
    before = a @ a
    devices.prepare(CPU)
    assert torch.equal(a @ a, before)
