"""The measuring scripts run from end to end, tiny; and they refuse to time what does not agree."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import muon
import ridge
import rows
import step
import train

ROOT = Path(__file__).resolve().parents[2]
# One thread: two that wait for each other on a busy machine take a hundred times as long.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHON": sys.executable}


def call(*command):
    return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)


@pytest.mark.slow
def test_train_quick_measures_every_setting(tmp_path):
    done = call(sys.executable, "benchmarks/train.py", "--quick", "--results", str(tmp_path / "train.jsonl"))
    assert done.returncode == 0, done.stderr
    found = rows.read(tmp_path / "train.jsonl")
    assert {row["model"] for row in found if row["metric"] == "images_per_s"} == {f"tiny: {s}" for s in step.SETTINGS}
    assert {row["metric"] for row in found} == {
        "images_per_s",
        "ratio_default",
        "ratio_best",
        "peak_memory_bytes",
        "share_of_limit",
        "gemm_flops_per_s",
    }
    [default] = [r for r in found if r["metric"] == "ratio_default" and r["model"] == f"tiny: {train.DEFAULT}"]
    assert default["value"] == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "cifar"])
def test_ours_and_timm_agree_and_their_flops_are_counted(name):
    facts = step.check(name, torch.device("cpu"))
    case = step.CASES[name]
    m, tokens = case.model, (case.image_size // case.model.patch_size) ** 2
    block = 2 * tokens * m.hidden_dim * (m.tokens_mlp_dim + m.channels_mlp_dim)
    stem, head = tokens * 3 * m.patch_size**2 * m.hidden_dim, m.hidden_dim * case.num_classes
    assert facts["flops"] == 3 * 2 * case.batch_size * (stem + m.num_blocks * block + head)
    assert facts["difference"] <= step.RELATIVE_TOLERANCE


@pytest.mark.slow
def test_models_that_differ_are_not_timed(monkeypatch):
    from timm.models.mlp_mixer import MixerBlock

    right = MixerBlock.forward
    monkeypatch.setattr(MixerBlock, "forward", lambda self, x: 1.001 * right(self, x))
    with pytest.raises(ValueError, match=r"tiny: ours and timm's differ: .* \(relative\)"):
        step.check("tiny", torch.device("cpu"))


def test_a_hopeless_or_failing_setting_takes_one_turn_and_keeps_its_row():
    asked = []

    def turn(task):
        asked.append(task["setting"])
        if task["setting"] == "ours, bf16 autocast":
            raise ValueError("not done after 1200 s")
        slow = task["setting"] == "timm, bf16 autocast"
        precision = "bf16" if "bf16" in task["setting"] else "fp32"
        seconds = [80.0] if slow else [1.0, 2.0, 3.0]
        assert not slow or task["slow_after_s"] == 20.0
        return {"steps": seconds, "is_probe": slow, "peak": None if slow else 100, "gemm": 1e9, "precision": precision}

    measured = train.run_case("tiny", 3, "cpu", turn)
    assert asked.count("timm, fp32") == 3 and asked.count("timm, bf16 autocast") == 1
    assert asked.count("ours, bf16 autocast") == 1
    made = train.rows_of("tiny", 1e8, measured, rows.Origin("cpu", "abc", "x", "2026-01-31"))
    by_model = {row["model"]: row for row in made if row["metric"] == "images_per_s"}
    assert by_model["tiny: timm, bf16 autocast"]["value"] == 0.1
    assert "more than 10 times as slow" in by_model["tiny: timm, bf16 autocast"]["note"]
    assert by_model["tiny: ours, bf16 autocast"]["value"] is None
    assert by_model["tiny: ours, fp32"]["value"] == 4.0
    shares = {row["model"]: row["value"] for row in made if row["metric"] == "share_of_limit"}
    assert shares["tiny: ours, fp32"] == 0.05


@pytest.mark.very_slow
def test_both_muons_agree_and_are_timed(tmp_path):
    done = call(sys.executable, "benchmarks/muon.py", "--steps", "2", "--results", str(tmp_path / "muon.jsonl"))
    assert done.returncode == 0, done.stderr
    assert [row["metric"] for row in rows.read(tmp_path / "muon.jsonl")] == [
        "latency_ms",
        "latency_ms",
        "ratio_default",
    ]


@pytest.mark.very_slow
def test_gpu_script_runs_dry():
    done = call("bash", "benchmarks/gpu.sh", "--dry")
    assert done.returncode == 0, done.stderr
    assert '"top1"' in done.stdout.splitlines()[-1]


def test_muon_row_says_how_many_times_faster_ours_is():
    seconds = {"torch.optim.Muon": [0.4, 0.4, 0.4], "ours": [0.1, 0.1, 0.1]}
    made = {(row["model"], row["metric"]): row["value"] for row in muon.rows_of(seconds, "cpu")}
    assert made["ours", "ratio_default"] == pytest.approx(4.0) and made["ours", "latency_ms"] == pytest.approx(100.0)


@pytest.mark.slow
def test_label_errors_counts_what_is_found_among_planted_ones(tmp_path):
    options = ("--seeds", "0", "--shares", "0.2", "--duration", "4 epochs", "--results", str(tmp_path / "rows.jsonl"))
    done = call(sys.executable, "benchmarks/label_errors.py", *options)
    assert done.returncode == 0, done.stderr
    values = {row["metric"]: row["value"] for row in rows.read(tmp_path / "rows.jsonl")}
    assert 40 < values["wrong"] < 110 and 0 < values["right"] <= min(values["found"], values["wrong"])


@pytest.mark.parametrize("num_images", [80, 10])
def test_ridge_is_checked_and_timed_in_both_forms(num_images, monkeypatch):
    monkeypatch.setattr(ridge, "NUM_TEST", 50)
    found = ridge.measure(num_images, 16, 4)
    assert list(found) == ["fit_s", "fit_cpu_s", "score_s", "score_cpu_s", "peak_memory_bytes"]
    assert all(value > 0 for value in found.values())
