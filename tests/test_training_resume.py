"""A run that was stopped, in whatever way, goes on to the weights it would have had, or says why it does not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from mixonomy import train_state, training
from mixonomy.experiment import Runtime
from mixonomy.runs import RunFolder, read_metrics
from mixonomy.training import Interrupted, train
from training_runs import TenLines, assert_same_weights, killed_at, tiny

VARIANTS = {
    "adamw": {},
    "sgd with clipping": {"optim": {"name": "sgd", "lr": 0.05, "clip": 1.0, "weight_decay": 1e-4}},
    "muon with average": {"optim": {"name": "muon", "lr": 0.02, "ema": 0.9}},
    "dropout and stochastic depth": {"model": {"dropout": 0.1, "drop_path": 0.2}},
    "cutmix in pieces": {"augment": {"cutmix_prob": 0.5}, "optim": {"accumulate": 4}},
    "layer decay": {"optim": {"name": "muon", "layer_decay": 0.75}},
    "sam": {"optim": {"sam_rho": 0.1, "accumulate": 2}, "model": {"dropout": 0.1}},
    "sam around muon": {"optim": {"name": "muon", "sam_rho": 0.1, "ema": 0.9, "clip": 1.0}},
    "mixup and sigmoid": {"augment": {"mixup": 0.4}, "loss": "sigmoid"},
    "checkpointed blocks": {
        "optim": {"checkpoint_blocks": True, "sam_rho": 0.1, "ema": 0.9},
        "model": {"dropout": 0.1, "drop_path": 0.2},
    },
    "best weights": {"keep": "best", "eval_every": "2 steps"},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("stop", [5, 8])
def test_stopped_and_resumed_run_equals_the_uninterrupted_one(variant, stop, tmp_path, monkeypatch):
    recipe = tiny(**VARIANTS[variant])
    train(recipe, tmp_path / "whole")
    killed_at(stop, monkeypatch, recipe, tmp_path / "parts")
    result = train(recipe, tmp_path / "parts")
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")
    assert result["steps"] == 10 and result["seen"] == 320
    rows = {key: [row for row in read_metrics(tmp_path / key / "metrics.jsonl")] for key in ("whole", "parts")}
    losses = {key: [row["loss"] for row in value if "loss" in row] for key, value in rows.items()}
    assert losses["whole"] == losses["parts"]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine with one core
def test_resume_in_the_second_epoch_with_another_number_of_workers(tmp_path, monkeypatch):
    recipe = tiny(augment={"crop": "none", "randaugment_layers": 1}, duration="24 steps", batch_size=100)
    train(recipe, tmp_path / "whole", runtime=Runtime(workers=0))
    killed_at(21, monkeypatch, recipe, tmp_path / "parts", runtime=Runtime(workers=2))
    train(recipe, tmp_path / "parts", runtime=Runtime(workers=1))
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")


def test_finished_run_returns_its_result_and_changes_nothing(tmp_path):
    first = train(tiny(), tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert train(tiny(), tmp_path) == first
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_another_recipe_on_the_same_folder_is_refused_by_field(tmp_path):
    train(tiny(), tmp_path)
    with pytest.raises(ValueError, match=r"holds another run: batch_size \(32 there, 16 now\), optim.lr \(0.003"):
        train(tiny(batch_size=16, optim={"lr": 0.1}), tmp_path)


def test_ctrl_c_saves_and_the_same_call_goes_on(tmp_path, monkeypatch):
    train(tiny(), tmp_path / "whole")
    original, handler = train_state.TrainState.step, signal.getsignal(signal.SIGINT)

    def interrupting(self, batch, step):
        if step == 6:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, batch, step)

    with monkeypatch.context() as patch:
        patch.setattr(train_state.TrainState, "step", interrupting)
        with pytest.raises(Interrupted, match="stopped after step 7 of 10"):
            train(tiny(), tmp_path / "parts")
    assert signal.getsignal(signal.SIGINT) is handler
    train(tiny(), tmp_path / "parts")
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")


def test_damaged_newest_checkpoint_is_said_and_the_one_before_is_taken(tmp_path, monkeypatch):
    recipe = tiny(eval_every="2 steps")
    train(recipe, tmp_path / "whole")
    killed_at(9, monkeypatch, recipe, tmp_path / "parts")
    newest = sorted((tmp_path / "parts/checkpoints").glob("step-*"))[-1]
    content = bytearray(newest.read_bytes())
    content[-5] ^= 1
    newest.write_bytes(content)
    said = []

    class Listening(training.Console):
        def say(self, text):
            said.append(text)

    train(recipe, tmp_path / "parts", console=Listening(quiet=True))
    assert any("does not match its checksum; the checkpoint before it is taken" in text for text in said)
    assert "going on from step 6 of 10" in said
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")


def run_and_kill_at_random(out: Path, seed: int, arguments: list[str]) -> int:
    """Starts the command again and again, kills it after a random time, until it ends by itself; counts the kills."""
    random = np.random.default_rng(seed)
    kills = 0
    while True:
        process = subprocess.Popen(
            [sys.executable, "-m", "mixonomy", "train", *arguments, "--out", str(out)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            process.wait(timeout=random.uniform(4.0, 9.0) + kills)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
            continue
        assert process.returncode == 0
        return kills


@pytest.mark.very_slow
def test_run_killed_at_random_moments_ends_with_the_same_weights(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "mixonomy", "train", "--out", str(tmp_path / "whole")], check=True, capture_output=True
    )
    start = time.monotonic()
    kills = [run_and_kill_at_random(tmp_path / f"killed{seed}", seed, []) for seed in range(2)]
    assert sum(kills) >= 2, f"too fast to be killed: {time.monotonic() - start:.0f} s"
    for seed in range(2):
        assert_same_weights(tmp_path / "whole", tmp_path / f"killed{seed}")


def test_ctrl_c_while_the_loss_is_read_stops_after_the_next_step_with_everything_saved(tmp_path, monkeypatch):
    original = training._mean_of_finite

    def interrupted(losses, progress, *others):
        if progress.step == 10:
            os.kill(os.getpid(), signal.SIGINT)
        return original(losses, progress, *others)

    monkeypatch.setattr(training, "_mean_of_finite", interrupted)
    with pytest.raises(Interrupted, match="stopped after step 11 of 30"):
        train(tiny(duration="30 steps", eval_every="30 steps"), tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000000011.safetensors"]


def test_own_module_killed_before_its_first_evaluation_goes_on_from_its_own_weights(tmp_path, monkeypatch):
    torch.manual_seed(1)
    module = TenLines()
    start = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    killed_at(3, monkeypatch, tiny(), tmp_path / "parts", model=module)
    train(tiny(), tmp_path / "parts", model=TenLines())  # built anew, with other weights
    whole = TenLines()
    whole.load_state_dict(start)
    train(tiny(), tmp_path / "whole", model=whole)
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")


def test_parts_of_a_run_without_run_json_are_not_mixed_into_another(tmp_path):
    train(tiny(), tmp_path)
    for name in ("run.json", "result.json"):
        (tmp_path / name).unlink()
    with pytest.raises(ValueError, match="holds parts of a run without its run.json"):
        train(tiny(seed=3), tmp_path)


def test_two_processes_cannot_train_in_one_folder(tmp_path):
    with RunFolder(tmp_path).locked(), pytest.raises(ValueError, match="another process is training in"):
        train(tiny(), tmp_path)
    train(tiny(), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_pre_emption_saves_and_ends_with_a_status_of_its_own(number, tmp_path):
    command = [sys.executable, "-m", "mixonomy", "train", "--duration", "100000 steps", "--out", str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "run/metrics.jsonl"
    while not (metrics.is_file() and metrics.stat().st_size):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 75, said
    assert "stopped after step" in said and any((tmp_path / "run/checkpoints").iterdir())


HOLDING = """
import os, sys, time
from mixonomy.runs import RunFolder
with RunFolder(sys.argv[1]).locked():
    child = os.fork()
    if child:
        print(child, flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="workers are forked on Linux only")
def test_lock_of_a_killed_process_does_not_outlive_it_in_its_workers(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLDING, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    holder.kill()
    holder.wait()
    try:
        with RunFolder(tmp_path).locked():
            os.kill(child, 0)  # it is still there
    finally:
        os.kill(child, signal.SIGKILL)
        holder.stdout.close()


def test_what_a_killed_process_left_half_written_goes(tmp_path, monkeypatch):
    killed_at(7, monkeypatch, tiny(), tmp_path)
    for name in (".model.safetensors.1.tmp", "checkpoints/.step-000000009.safetensors.1.tmp"):
        (tmp_path / name).write_bytes(b"half")
    train(tiny(), tmp_path)
    assert not list(tmp_path.rglob("*.tmp"))
