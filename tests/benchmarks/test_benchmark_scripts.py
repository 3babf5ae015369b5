"""The measuring scripts run from end to end, tiny; and they refuse to time what does not agree."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import memory
import muon
import ridge
import rows
import transfer
import whole_runs
from mixonomy.data import open_source, plan_splits
from mixonomy.recipes import load_recipe

ROOT = Path(__file__).resolve().parents[2]


def call(*command):
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True
    )


@pytest.mark.slow
def test_train_quick_writes_rows_of_its_settings_and_of_the_limit(tmp_path):
    names = ("timm fp32", "timm bf16 autocast", "ours")
    options = ("--quick", "--settings", *names, "--results", str(tmp_path / "train.jsonl"))
    done = call(sys.executable, "benchmarks/train.py", *options)
    assert done.returncode == 0, done.stderr
    found = rows.read(tmp_path / "train.jsonl")
    assert {row["model"] for row in found if row["metric"] == "images_per_s"} == {f"tiny: {name}" for name in names}
    metrics = set(rows.UNITS) - {"top1_agreement"} | {"gemm_flops_per_s", "bytes_per_s"}
    assert {row["metric"] for row in found} == metrics
    [default] = [r for r in found if r["metric"] == "ratio_default" and r["model"] == "tiny: timm fp32"]
    assert default["value"] == 1.0


@pytest.mark.slow
def test_infer_quick_writes_rows_at_each_batch_size(tmp_path):
    options = ("--quick", "--settings", "timm fp32", "lucidrains fp32", "--results", str(tmp_path / "infer.jsonl"))
    done = call(sys.executable, "benchmarks/infer.py", *options)
    assert done.returncode == 0, done.stderr
    found = [row for row in rows.read(tmp_path / "infer.jsonl") if row["metric"] == "top1_agreement"]
    assert {row["data"] for row in found} == {"random 16 x 16, batch 2", "random 16 x 16, batch 4"}


@pytest.mark.slow
def test_curves_quick_writes_points_of_every_sweep(tmp_path):
    done = call(sys.executable, "benchmarks/curves.py", "--quick", "--results", str(tmp_path / "curves.jsonl"))
    assert done.returncode == 0, done.stderr
    found = [row for row in rows.read(tmp_path / "curves.jsonl") if row["metric"] == "step_s"]
    assert {row["model"] for row in found} == {
        "tokens: Mixer",
        "tokens: ViT",
        "width: Mixer",
        "depth: Mixer",
        "batch: Mixer",
    }
    assert all(row["value"] > 0 for row in found)


@pytest.mark.slow
def test_whole_runs_charge_each_setting_with_its_own_time_and_go_on_with_those_that_have_not_ended(tmp_path):
    options = ("--data", "digits", "--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "rows.jsonl"))
    for settings in (("ours",), ("ours", "timm, AdamW")):
        done = call(sys.executable, "benchmarks/whole_runs.py", *options, "--settings", *settings)
        assert done.returncode == 0, done.stderr
    assert "ours" not in done.stdout
    found = rows.read(tmp_path / "rows.jsonl")
    per_epoch = {row["model"]: row["value"] for row in found if row["metric"] == "core_s_per_epoch"}
    assert set(per_epoch) == {"ours", "timm, AdamW"} and all(seconds > 0 for seconds in per_epoch.values())
    assert [row["note"] for row in found if row["metric"] == "core_s"] == ["schedule of 4 epochs, not reached"] * 2
    ratios = [(row["model"], row["value"]) for row in found if row["metric"] == "ratio_ours_per_epoch"]
    assert [name for name, _ in ratios] == ["ours", "timm, AdamW"] and ratios[0][1] == 1.0 and ratios[1][1] > 0


def test_whole_runs_score_the_test_images_after_every_epoch_and_hold_none_out_of_train(tmp_path):
    whole_runs.write_files("digits", None, tmp_path / "digits")
    recipe = whole_runs.recipe_of("digits", tmp_path / "digits")
    plan = plan_splits(open_source(recipe.data.source), recipe.data.val_share)
    digits = open_source("digits")
    assert plan.val is not None
    assert (len(plan.train), len(plan.val)) == (len(digits.splits["train"]), len(digits.splits["test"]))


def test_whole_runs_train_the_same_model_twice():
    whole_runs.check_twin("digits", load_recipe("digits"))


def scoring(folder: Path, then: str = "") -> str:
    """A program that writes a score of 0.5, and then does something."""
    line = json.dumps({"val/top1": 0.5})
    return f"import time\nwith open({str(folder / 'metrics.jsonl')!r}, 'w') as file: file.write({line!r})\n{then}"


def test_a_whole_run_that_ends_before_its_first_turn_keeps_its_score(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", scoring(tmp_path, "sum(range(5_000_000))")])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    found = {}
    assert whole_runs.in_turns({"ours": process}, {"ours": tmp_path}, 0.9, found.__setitem__) == []
    [(seconds, top)] = found["ours"]
    assert seconds > 0 and top == 0.5


@pytest.mark.slow
def test_a_whole_run_that_fails_leaves_the_others_their_rows(tmp_path, capsys):
    good = scoring(tmp_path, "time.sleep(600)")  # until it is killed, having reached the target
    processes = {
        name: subprocess.Popen([sys.executable, "-c", code])
        for name, code in {"bad": "raise SystemExit(3)", "good": good}.items()
    }
    found = {}
    scores = {"bad": tmp_path / "none", "good": tmp_path}
    assert whole_runs.in_turns(processes, scores, 0.4, found.__setitem__) == ["bad"]
    assert [top for _, top in found["good"]] == [0.5]
    assert "bad failed" in capsys.readouterr().err


def test_whole_runs_are_compared_until_the_target_and_by_the_epoch():
    found = {"ours": [(10.0, 0.5), (18.0, 0.91)], "timm, Muon": [(15.0, 0.5), (27.0, 0.8), (39.0, 0.9)]}
    done = {name: {"commit": "abc", "epochs": epochs} for name, epochs in found.items()}
    rows_made = whole_runs.ratio_rows("digits", done, list(done))
    made = {(row["model"], row["metric"]): row["value"] for row in rows_made}
    assert made["timm, Muon", "ratio_ours"] == pytest.approx(39 / 18)
    assert made["timm, Muon", "ratio_ours_per_epoch"] == pytest.approx(1.5)
    assert made["ours", "ratio_ours"] == 1.0
    assert not any("note" in row for row in rows_made)


@pytest.mark.parametrize(
    ("ours", "theirs", "commit", "note"),
    [
        (0.5, 0.9, "abc", "not reached by ours"),
        (0.9, 0.5, "abc", "not reached by timm, Muon"),
        (0.5, 0.5, "abc", "not reached by ours and timm, Muon"),
        (0.9, 0.9, "def", "at commit def, and ours at abc"),
    ],
)
def test_ratio_of_whole_runs_names_who_missed_the_target_and_commits_that_differ(ours, theirs, commit, note):
    done = {
        "ours": {"commit": "abc", "epochs": [(10.0, ours)]},
        "timm, Muon": {"commit": commit, "epochs": [(20.0, theirs)]},
    }
    row, _ = whole_runs.ratio_rows("digits", done, ["timm, Muon"])
    assert row["note"] == note


def test_ratios_of_whole_runs_are_written_once_when_the_second_of_a_pair_has_ended(tmp_path, monkeypatch):
    def in_turns(processes, scores, target, ended):
        for name in processes:
            scores[name].mkdir(parents=True)
            ended(name, [(10.0, 0.95)])
        return []

    monkeypatch.setattr(whole_runs, "write_files", lambda *_: None)
    monkeypatch.setattr(whole_runs, "check_twin", lambda *_: None)
    monkeypatch.setattr(whole_runs, "in_turns", in_turns)
    process = SimpleNamespace(kill=lambda: None)
    monkeypatch.setattr(whole_runs, "subprocess", SimpleNamespace(Popen=lambda *_, **__: process))
    for settings in (["timm, AdamW"], ["ours", "timm, AdamW"], ["ours", "timm, Muon"], ["ours", "timm, Muon"]):
        whole_runs.compare("digits", settings, tmp_path / "runs", None, tmp_path / "rows.jsonl")
    found = [row["model"] for row in rows.read(tmp_path / "rows.jsonl") if row["metric"] == "ratio_ours"]
    assert found == ["ours", "timm, AdamW", "timm, Muon"]


@pytest.mark.slow
def test_start_times_each_command(tmp_path):
    options = ("--data", "digits", "--times", "2", "--results", str(tmp_path / "rows.jsonl"))
    done = call(sys.executable, "benchmarks/start.py", *options)
    assert done.returncode == 0, done.stderr
    assert [row["model"] for row in rows.read(tmp_path / "rows.jsonl")] == ["mixonomy train", "mixonomy predict"]


def test_a_setting_without_a_turn_keeps_one_row_that_says_why():
    numbers = {"images_per_s": None, "note": "not installed"}
    [row] = rows.number_rows(rows.Origin("cpu", "abc", "x", "2026-01-31"), numbers, study="s", model="m", data="d")
    assert (row["metric"], row["value"], row["note"]) == ("images_per_s", None, "not installed")


@pytest.mark.very_slow
def test_both_muons_agree_and_are_timed(tmp_path):
    done = call(sys.executable, "benchmarks/muon.py", "--steps", "2", "--results", str(tmp_path / "muon.jsonl"))
    assert done.returncode == 0, done.stderr
    assert [row["metric"] for row in rows.read(tmp_path / "muon.jsonl")] == [
        "latency_ms",
        "latency_ms",
        "ratio_default",
    ]


@pytest.mark.slow
def test_gpu_script_runs_dry():
    done = call("bash", "benchmarks/gpu.sh", "--dry")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("of limit") == 3  # training, and inference at two batch sizes
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


@pytest.mark.slow
def test_transfer_quick_has_rows_of_all_parts_and_adds_none_when_run_again(tmp_path):
    options = ("--quick", "--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "transfer.jsonl"))
    for _ in range(2):
        done = call(sys.executable, "benchmarks/transfer.py", *options)
        assert done.returncode == 0, done.stderr
        found = {(row["model"], row["metric"]): row for row in rows.read(tmp_path / "transfer.jsonl")}
        assert len(found) == len(rows.read(tmp_path / "transfer.jsonl")) == 12 + 3 + 2 + len(transfer.SMALL)
    assert "tune: 14 trainings on 672 of 8 pixels" in done.stderr
    arm = found["from scratch, AdamW", "top1"]
    assert arm["n"] == 2 and "of 0.0005, 0.001, 0.003, chosen on held-out images" in arm["note"]
    assert not list((tmp_path / "runs").glob("small*/**/sweep")), (
        "validation images judge, so there is nothing to choose"
    )
    test_sets = {json.loads(path.read_text())["split"] for path in (tmp_path / "runs").glob("small*/*/result.json")}
    assert test_sets == {"val"}


@pytest.mark.parametrize("num_images", [80, 10])
def test_ridge_is_checked_and_timed_in_both_forms(num_images, monkeypatch):
    monkeypatch.setattr(ridge, "NUM_TEST", 50)
    found = ridge.measure(num_images, 16, 4)
    assert list(found) == ["fit_s", "fit_cpu_s", "score_s", "score_cpu_s", "peak_memory_bytes"]
    assert all(value > 0 for value in found.values())


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="only Linux tells")
def test_memory_counts_what_is_a_process_and_its_childs_own_and_no_mapped_files(tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 64_000_000)
    program = (
        "import mmap, os, sys\n"
        "kind = sys.argv[1]\n"
        "if kind == 'file':\n"
        "    kept = mmap.mmap(os.open('file', os.O_RDONLY), 0, prot=mmap.PROT_READ)\n"
        "    seen = sum(kept[::4096])\n"
        "elif kind == 'own':\n"
        "    kept = b'x' * 64_000_000\n"
        "child = os.fork()\n"  # which shares what there is
        "if child: print('ready', flush=True)\n"
        "sys.stdin.read()\n"
    )

    def held(kind):
        process = subprocess.Popen(
            [sys.executable, "-c", program, kind], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        with process:  # closing its input ends both
            process.stdout.readline()
            return memory.memory_bytes(process.pid)

    nothing = held("nothing")
    assert abs(held("file") - nothing) < 8_000_000
    assert abs(held("own") - nothing - 64_000_000) < 8_000_000


@pytest.mark.slow
def test_memory_measures_training_and_checking(tmp_path):
    root = ROOT.parent / "shared" / "data"
    if not (root / "cifar100_train.parquet").is_file():
        pytest.skip(f"no real images in {root}")
    options = (
        "--files",
        "600",
        "--data-root",
        str(root),
        "--epochs",
        "3",
        "--workers",
        "1",
        "--results",
        str(tmp_path / "memory.jsonl"),
    )
    done = call(sys.executable, "benchmarks/memory.py", *options)
    assert done.returncode == 0, done.stderr
    found = {(row["model"], row["metric"]): row["value"] for row in rows.read(tmp_path / "memory.jsonl")}
    assert 0 < found["train, 3 epochs", "early_bytes"] <= found["train, 3 epochs", "peak_bytes"]
    assert found["data check", "copies"] < 10


@pytest.mark.slow
def test_round_trip_writes_rows_of_every_target(tmp_path):
    pytest.importorskip("openvino")
    run = tmp_path / "run"
    train = ("--data", "digits", "--duration", "20 steps", "--out", str(run))
    assert call(sys.executable, "-m", "mixonomy", "train", *train).returncode == 0
    done = call(sys.executable, "benchmarks/round_trip.py", str(run), "--results", str(tmp_path / "trip.jsonl"))
    assert done.returncode == 0, done.stderr
    found = [row for row in rows.read(tmp_path / "trip.jsonl") if row["metric"] == "max_difference"]
    assert [row["model"] for row in found] == ["run: onnx", "run: openvino", "run: safetensors"]
    assert all(row["value"] <= 1e-4 and row["data"] == "digits, test split" for row in found)
    assert "run: timm cannot read this model" in done.stdout
