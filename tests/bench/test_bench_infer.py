"""Comparing inference: exported models agree, a wrong peer is named, and nothing is reported to anybody."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from mixonomy.bench import infer

TINY = infer.Case("mixer", (1, 4), (16, 16), num_classes=10, turn_s=0.0, gemm_size=64)
PACKAGES = ("onnx", "onnxscript", "onnxruntime", "openvino", "nncf")

# Run where neither pytest nor a file of consent switches reports off; what connects, or looks a name up, is noted.
REPORTING = """
import sys
seen = []
sys.addaudithook(lambda event, _: seen.append(event) if event in ("socket.connect", "socket.getaddrinfo") else None)
import socket
try:
    socket.getaddrinfo("localhost", 1)
except OSError:
    pass
assert seen == ["socket.getaddrinfo"], "the hook sees look-ups"
seen.clear()
from mixonomy.bench import infer
case = infer.Case("mixer", (2,), (16, 16), num_classes=10, turn_s=0.0, gemm_size=64)
found = infer.compare(case, ["openvino fp32", "openvino int8"], rounds=1, in_process=True, say=print)
assert found.numbers("openvino int8", 2)["images_per_s"] > 0, found.numbers("openvino int8", 2)
assert not seen, seen
assert sys.modules["openvino_telemetry"] is None
assert not any(name.startswith("openvino_telemetry.") for name in sys.modules)
"""


@pytest.mark.slow
def test_openvino_and_nncf_agree_and_report_to_nobody(tmp_path):
    for package in PACKAGES:
        pytest.importorskip(package)
    variables = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    variables |= {"HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", REPORTING], env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.glob("intel*"))


@pytest.mark.slow
def test_settings_of_torch_agree_at_every_batch_size():
    names = ["timm fp32", "lucidrains fp32"]
    found = infer.compare(TINY, names, rounds=1, in_process=True)
    for size in (1, 4):
        numbers = found.numbers("timm fp32", size)
        assert numbers["images_per_s"] > 0 and numbers["difference"] < 1e-5 and numbers["top1_agreement"] == 1.0
    assert found.image_size == (16, 16)


@pytest.mark.slow
def test_a_peer_that_computes_something_else_is_named_and_not_timed(monkeypatch):
    from timm.models.mlp_mixer import MixerBlock

    right = MixerBlock.forward
    monkeypatch.setattr(MixerBlock, "forward", lambda self, x: 1.01 * right(self, x))
    found = infer.compare(TINY, ["timm fp32"], rounds=1, in_process=True)
    wrong = found.numbers("timm fp32", 4)
    assert wrong["images_per_s"] is None and "wrong: logits at batch 1 differ by" in wrong["note"]


def test_an_unknown_model_is_named():
    with pytest.raises(ValueError, match="did you mean 'mixer-b/16'"):
        infer.build(replace(TINY, model="mixer-b16"))
