"""NNCF in a process of its own: what it says when it fails, and that it may die."""

import sys
import warnings

import pytest
import torch
from test_packed import small

from mixonomy.inference.quantizing import quantized
from mixonomy.inference.runtimes import imported

pytest.importorskip("openvino")
pytest.importorskip("nncf")
IMAGES = torch.randn(8, 3, 16, 24, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def graph():
    with warnings.catch_warnings():  # of torch, about what OpenVINO uses
        warnings.simplefilter("ignore")
        return imported("openvino").convert_model(small("mixer"), example_input=IMAGES[:2], input=[-1, 3, 16, 24])


@pytest.mark.slow
def test_what_nncf_says_is_passed_on(graph):
    with pytest.raises(ValueError, match=r"NNCF cannot quantize this model: it ended with status 1 \(.*nowhere"):
        quantized(graph, IMAGES, in_float=["nowhere"])


def test_a_process_that_dies_takes_nothing_with_it(graph, tmp_path, monkeypatch):
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nkill -SEGV $$\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(ValueError, match=r"it ended with status -11 \(it said nothing\)"):
        quantized(graph, IMAGES)
