"""The training loop: what it writes, that it resumes exactly, and how it stops."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from mixonomy import train_state, training
from mixonomy.api import evaluate, load
from mixonomy.data import open_source
from mixonomy.evals import Classification
from mixonomy.experiment import Runtime, set_up
from mixonomy.models import info_of, read_safetensors
from mixonomy.recipe import Recipe, changed
from mixonomy.recipes import load_recipe, recipe_names
from mixonomy.runs import RunFolder, read_metrics
from mixonomy.training import Interrupted, train

DIGITS = load_recipe("digits")


def tiny(**changes) -> Recipe:
    """Ten steps of a one-block Mixer on the digits."""
    sizes = {"hidden_dim": 16, "num_blocks": 2, "tokens_mlp_dim": 8, "channels_mlp_dim": 32}
    values = {"model": sizes, "duration": "10 steps", "batch_size": 32, "eval_every": "5 steps", "precision": "fp32"}
    for key, value in changes.items():
        values[key] = {**values.get(key, {}), **value} if isinstance(value, dict) else value
    return changed(DIGITS, **values)


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model.safetensors")


def assert_same_weights(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


class Killed(BaseException):
    """Stands for a process that is gone: nothing catches it, nothing is saved."""


def killed_at(step: int, monkeypatch: pytest.MonkeyPatch, recipe: Recipe, out: Path, **options) -> None:
    """Runs until a step and stops there without any clean-up of ours."""
    original, others = train_state.TrainState.step, set(threading.enumerate())

    def dying(self, batch, at):
        if at == step:
            raise Killed
        return original(self, batch, at)

    with monkeypatch.context() as patch:
        patch.setattr(train_state.TrainState, "step", dying)
        with pytest.raises(Killed):
            train(recipe, out, **options)
    for thread in set(threading.enumerate()) - others:  # a write that had begun is over, one way or the other
        if thread.name.startswith("ThreadPoolExecutor"):
            thread.join(timeout=10)


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


def test_equal_seeds_give_equal_weights_and_others_do_not(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(tiny(seed=seed), tmp_path / name)
    assert_same_weights(tmp_path / "a", tmp_path / "b")
    assert not torch.equal(weights(tmp_path / "a")["head.weight"], weights(tmp_path / "c")["head.weight"])


def test_pieces_give_the_step_of_the_whole_batch(tmp_path):
    train(tiny(optim={"name": "sgd", "lr": 0.05}), tmp_path / "whole")
    train(tiny(optim={"name": "sgd", "lr": 0.05, "accumulate": 4}), tmp_path / "pieces")
    whole, pieces = weights(tmp_path / "whole"), weights(tmp_path / "pieces")
    for name in whole:
        torch.testing.assert_close(whole[name], pieces[name], rtol=1e-4, atol=1e-6)


def test_layer_decay_leaves_the_logged_rate_that_of_the_head(tmp_path):
    train(tiny(optim={"lr": 0.01, "layer_decay": 0.5, "schedule": "constant", "warmup": "0 steps"}), tmp_path)
    assert [row["lr"] for row in read_metrics(tmp_path / "metrics.jsonl") if "lr" in row] == [0.01, 0.01]


def test_average_is_what_is_evaluated_and_saved(tmp_path, monkeypatch):
    history = []
    original = train_state.TrainState.step

    def watched(self, batch, step):
        loss = original(self, batch, step)
        history.append(self.model.head.weight.detach().clone())
        return loss

    monkeypatch.setattr(train_state.TrainState, "step", watched)
    torch.manual_seed(DIGITS.seed)
    train(tiny(optim={"ema": 0.75}, keep="last"), tmp_path)
    expected = torch.zeros_like(history[0])  # the head starts at zero
    for weight in history:
        expected = 0.75 * expected + 0.25 * weight
    torch.testing.assert_close(weights(tmp_path)["head.weight"], expected, rtol=1e-5, atol=1e-7)


def test_finished_run_returns_its_result_and_changes_nothing(tmp_path):
    first = train(tiny(), tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert train(tiny(), tmp_path) == first
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_another_recipe_on_the_same_folder_is_refused_by_field(tmp_path):
    train(tiny(), tmp_path)
    with pytest.raises(ValueError, match=r"holds another run: batch_size \(32 there, 16 now\), optim.lr \(0.003"):
        train(tiny(batch_size=16, optim={"lr": 0.1}), tmp_path)


def test_loss_that_is_not_finite_stops_with_its_step_and_keeps_the_checkpoint(tmp_path, monkeypatch):
    original = train_state.optim.classification_loss
    calls = []

    def spoilt(*args, **options):
        calls.append(None)
        return original(*args, **options) * (float("nan") if len(calls) == 2 + 8 else 1.0)  # two passes are timed first

    monkeypatch.setattr(train_state.optim, "classification_loss", spoilt)
    with pytest.raises(ValueError, match="the loss became nan at step 8"):
        train(tiny(), tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000000005.safetensors"]


def test_ctrl_c_saves_and_the_same_call_goes_on(tmp_path, monkeypatch):
    train(tiny(), tmp_path / "whole")
    original = train_state.TrainState.step

    def interrupting(self, batch, step):
        if step == 6:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, batch, step)

    with monkeypatch.context() as patch:
        patch.setattr(train_state.TrainState, "step", interrupting)
        with pytest.raises(Interrupted, match="stopped after step 7 of 10"):
            train(tiny(), tmp_path / "parts")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
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


def test_full_disk_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(training.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ValueError, match="make room, then the same command goes on"):
        train(tiny(), tmp_path)


def test_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match="cannot write to .*give another --out"):
        train(tiny(), tmp_path / "file" / "run")


def test_test_images_are_scored_once_and_never_choose(tmp_path, monkeypatch):
    scored = []
    original = train_state.TrainState.evaluate

    def watched(self, images):
        scored.append(len(images))
        return original(self, images)

    monkeypatch.setattr(train_state.TrainState, "evaluate", watched)
    result = train(tiny(), tmp_path)
    assert scored == [143, 143, 359]
    assert result["best_step"] in (5, 10) and result["n"] == 359


def test_without_validation_data_the_last_state_counts(tmp_path):
    result = train(tiny(data={"val_share": 0.0}), tmp_path)
    assert result["val_top1"] is None and result["best_step"] is None
    assert not any("val/top1" in row for row in read_metrics(tmp_path / "metrics.jsonl"))


class TenLines(nn.Module):
    """Somebody's own classifier."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 10)

    def forward(self, images):
        return self.head(self.norm(self.conv(images)).relu().mean((2, 3)))


def test_own_module_trains_resumes_and_comes_back(tmp_path, monkeypatch):
    recipe = tiny(optim={"ema": 0.5})
    torch.manual_seed(3)
    start = TenLines().state_dict()

    def mine() -> TenLines:
        module = TenLines()
        module.load_state_dict(start)
        return module

    train(recipe, tmp_path / "whole", model=mine())
    killed_at(7, monkeypatch, recipe, tmp_path / "parts", model=mine())
    train(recipe, tmp_path / "parts", model=mine())
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")
    back = read_safetensors(tmp_path / "whole/model.safetensors", TenLines())
    assert isinstance(back, TenLines) and torch.equal(back.head.weight, weights(tmp_path / "whole")["head.weight"])
    with pytest.raises(ValueError, match="pass one built the same way"):
        read_safetensors(tmp_path / "whole/model.safetensors")


def test_run_folder_says_how_it_came_about(tmp_path):
    train(tiny(), tmp_path, command="mixonomy train --out x")
    info = RunFolder(tmp_path).info()
    assert info["command"] == "mixonomy train --out x"
    assert info["precision"] in ("fp32", "bf16") and torch.__version__.startswith(info["versions"]["torch"])
    assert Recipe.model_validate(info["recipe"]) == tiny()
    last = load_file(tmp_path / "checkpoints/step-000000010.safetensors")
    assert {name.split("/")[0] for name in last} == {"model", "optimizer", "best"}
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1


def jpeg(pixels: torch.Tensor) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture(scope="module")
def tiny_rgb(tmp_path_factory) -> Path:
    """The prefix of a parquet data set of 24 colour images of two sizes in three classes."""
    folder = tmp_path_factory.mktemp("rgb")
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 24), ("test", 9)):
        sizes = [(40, 48) if i % 2 else (48, 40) for i in range(count)]
        pixels = [torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8) for size in sizes]
        images = [jpeg(image) for image in pixels]
        labels = np.arange(count) % 3
        metadata = {"class_names": json.dumps(["ant", "bee", "cat"])}
        schema = pa.schema([("image", pa.binary()), ("label", pa.int64())], metadata=metadata)
        pq.write_table(pa.table({"image": images, "label": labels}, schema=schema), folder / f"tiny_{split}.parquet")
    return folder / "tiny"


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_takes_two_steps_in_a_shrunken_form(name, tiny_rgb, tmp_path):
    recipe = load_recipe(name)
    assert recipe.name == name
    patch = 4
    small = changed(
        recipe,
        data={"source": str(tiny_rgb)},
        model={"patch_size": patch, "hidden_dim": 8, "num_blocks": 2, "tokens_mlp_dim": 4, "channels_mlp_dim": 8},
        image_size=16,
        batch_size=4,
        duration="2 steps",
        eval_every="1 steps",
        optim={"warmup": "1 steps"},
    )
    result = train(small, tmp_path, runtime=Runtime(workers=0))
    assert result["n"] == 9 and result["steps"] == 2
    assert all(np.isfinite(row["loss"]) for row in read_metrics(tmp_path / "metrics.jsonl") if "loss" in row)


@pytest.mark.parametrize("name", ["imagenet1k_b16", "imagenet1k_l16"])
def test_imagenet_recipes_are_the_paper_s_table_4(name):
    recipe = load_recipe(name)
    assert (recipe.batch_size, recipe.duration, recipe.optim.warmup) == (4096, "300 epochs", "10000 steps")
    assert (recipe.optim.lr, recipe.optim.weight_decay, recipe.optim.clip) == (1e-3, 0.1, 1.0)
    augment = recipe.augment
    assert (augment.randaugment_layers, augment.randaugment_magnitude, augment.mixup) == (2, 15, 0.5)
    assert (recipe.model.dropout, recipe.model.drop_path, recipe.image_size) == (0.0, 0.1, 224)


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


@pytest.mark.very_slow
@pytest.mark.filterwarnings("ignore")  # of the compiler's own making
def test_compiled_run_computes_the_same(tmp_path):
    train(tiny(duration="3 steps"), tmp_path / "eager")
    train(tiny(duration="3 steps", compile=True), tmp_path / "compiled")
    eager, compiled = weights(tmp_path / "eager"), weights(tmp_path / "compiled")
    assert eager.keys() == compiled.keys()
    for name in eager:
        torch.testing.assert_close(compiled[name], eager[name], rtol=1e-3, atol=1e-4)


def test_compile_without_a_compiler_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(train_state.shutil, "which", lambda name: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="needs a C\\+\\+ compiler"):
        train(tiny(compile=True), tmp_path)


def test_warm_up_is_counted_in_epochs_of_the_data_and_may_not_outlast_the_training(tmp_path):
    train(tiny(optim={"warmup": "0.25 epochs", "lr": 0.01}, duration="40 steps"), tmp_path / "run")
    rates = {row["step"]: row["lr"] for row in read_metrics(tmp_path / "run/metrics.jsonl") if "lr" in row}
    # A quarter of 1,295 images are 11 batches of 32; the tenth step is still within them.
    assert rates[10] == pytest.approx(0.01 * 10 / 11) and rates[20] < 0.01
    with pytest.raises(ValueError, match="the warm-up of 500 steps is longer than the training of 10"):
        train(tiny(optim={"warmup": "500 steps"}), tmp_path / "other")


def test_ctrl_c_while_the_loss_is_read_stops_after_the_next_step_with_everything_saved(tmp_path, monkeypatch):
    original = training._mean_of_finite

    def interrupted(losses, step, folder):
        if step == 10:
            os.kill(os.getpid(), signal.SIGINT)
        return original(losses, step, folder)

    monkeypatch.setattr(training, "_mean_of_finite", interrupted)
    with pytest.raises(Interrupted, match="stopped after step 11 of 30"):
        train(tiny(duration="30 steps", eval_every="30 steps"), tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000000011.safetensors"]


class Tied(nn.Module):
    """Two names for one matrix."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)
        self.second.weight = self.first.weight

    def forward(self, images):
        return self.head(self.second(self.first(images.flatten(1)).relu()))


def test_module_with_tied_weights_is_saved_and_comes_back(tmp_path):
    train(tiny(duration="2 steps"), tmp_path, model=Tied())
    back = read_safetensors(tmp_path / "model.safetensors", Tied())
    assert isinstance(back, Tied) and back.first.weight is back.second.weight


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


def test_kept_last_weights_say_their_validation_score(tmp_path):
    result = train(tiny(keep="last"), tmp_path)
    scores = [row["val/top1"] for row in read_metrics(tmp_path / "metrics.jsonl") if "val/top1" in row]
    assert result["val_top1"] == scores[-1] and result["best_step"] == 10


@pytest.mark.parametrize("wrong", [{"workers": -1}, {"checkpoint_minutes": float("nan")}])
def test_runtime_out_of_range_is_refused(wrong):
    with pytest.raises(ValueError, match="give 0 or more"):
        Runtime(**wrong)


def test_parts_of_a_run_without_run_json_are_not_mixed_into_another(tmp_path):
    train(tiny(), tmp_path)
    for name in ("run.json", "result.json"):
        (tmp_path / name).unlink()
    with pytest.raises(ValueError, match="holds parts of a run without its run.json"):
        train(tiny(seed=3), tmp_path)


def test_weights_that_an_update_ruined_are_not_saved(tmp_path, monkeypatch):
    original = train_state.TrainState.step

    def ruining(self, batch, step):
        loss = original(self, batch, step)
        if step == 2:
            nn.init.constant_(self.model.head.bias, float("inf"))
        return loss

    monkeypatch.setattr(train_state.TrainState, "step", ruining)
    with pytest.raises(ValueError, match=r"no longer finite after step 3 \(model/head.bias\)"):
        train(tiny(data={"val_share": 0.0}, eval_every="1 steps"), tmp_path)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir())[-1] == "step-000000002.safetensors"


def test_two_processes_cannot_train_in_one_folder(tmp_path):
    with RunFolder(tmp_path).locked(), pytest.raises(ValueError, match="another process is training in"):
        train(tiny(), tmp_path)
    train(tiny(), tmp_path)


def test_finished_run_shows_its_result_without_its_data(tiny_rgb, tmp_path):
    import shutil

    for path in tiny_rgb.parent.glob("tiny_*.parquet"):
        shutil.copy(path, tmp_path)
    recipe = tiny(data={"source": str(tmp_path / "tiny")}, image_size=16, batch_size=4, duration="2 steps")
    first = train(recipe, tmp_path / "run")
    for path in tmp_path.glob("tiny_*.parquet"):
        path.unlink()
    assert train(recipe, tmp_path / "run") == first


def test_module_of_the_wrong_width_is_one_sentence(tmp_path):
    module = TenLines()
    module.head = nn.Linear(8, 7)
    with pytest.raises(ValueError, match=r"the model gives \[32, 7\] for 32 images of 10 classes"):
        train(tiny(), tmp_path, model=module)


@pytest.fixture
def with_bad(tmp_path) -> Path:
    """The prefix of a data set of which one training and one test image cannot be read."""
    schema = pa.schema([("image", pa.binary()), ("label", pa.int64()), ("filename", pa.string())])
    for split in ("train", "test"):
        images = [jpeg(torch.full((3, 16, 16), 20 * i, dtype=torch.uint8)) for i in range(12)]
        images[5] = b"no image at all"
        names = [f"{split}{i}.jpg" for i in range(12)]
        columns = {"image": images, "label": [i % 3 for i in range(12)], "filename": names}
        pq.write_table(pa.table(columns, schema=schema), tmp_path / f"bad_{split}.parquet")
    return tmp_path / "bad"


def on_bad(source: Path, path: str, **changes) -> Recipe:
    """Trains on it with a batch per epoch, on one of the two paths of the data."""
    augment = {"crop": "none", "randaugment_layers": 1 if path == "decoded by workers" else 0}
    data = {"source": str(source), "val_share": 0.0, **changes}
    return tiny(data=data, image_size=16, batch_size=12, augment=augment, eval_every="1 epochs")


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine with one core
@pytest.mark.parametrize(("path", "workers"), [("in memory", 0), ("decoded by workers", 0), ("decoded by workers", 1)])
def test_bad_image_is_an_error_of_one_sentence(path, workers, with_bad, tmp_path):
    with pytest.raises(ValueError) as caught:
        train(on_bad(with_bad, path), tmp_path / "run", runtime=Runtime(workers=workers))
    assert str(caught.value) == (
        "image 'train5.jpg': not a readable image (no known format); remove or replace it, or leave out what cannot be "
        "read by --on-bad-image skip."
    )


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine with one core
@pytest.mark.parametrize(("path", "workers"), [("in memory", 0), ("decoded by workers", 0), ("decoded by workers", 1)])
def test_bad_images_are_left_out_counted_and_named(path, workers, with_bad, tmp_path, monkeypatch):
    sizes = []
    step = train_state.TrainState.step
    monkeypatch.setattr(
        train_state.TrainState,
        "step",
        lambda self, batch, n: (sizes.append(len(batch.labels)), step(self, batch, n))[1],
    )
    recipe = on_bad(with_bad, path, on_bad_image="skip", max_bad_share=0.1)
    result = train(recipe, tmp_path / "run", runtime=Runtime(workers=workers))
    assert result["bad_images"] == [
        {"name": f"{split}5.jpg", "error": "not a readable image (no known format)"} for split in ("test", "train")
    ]
    assert result["n"] == 11 and sizes == [11] * 10  # none is replaced
    scored = json.loads((tmp_path / "run/test.json").read_text())
    assert all(mistake["name"] == f"test{mistake['index']}.jpg" for mistake in scored["worst"])
    assert scored["train_counts"] == [4, 4, 4] and "calibration_before" not in scored


@pytest.mark.parametrize("path", ["in memory", "decoded by workers"])
def test_too_many_bad_images_stop_the_run(path, with_bad, tmp_path):
    recipe = on_bad(with_bad, path, on_bad_image="skip")
    message = r"1 of 24 images cannot be read, more than the 1.00% that may be left out \(the first is 'train5.jpg'"
    with pytest.raises(ValueError, match=message):
        train(recipe, tmp_path / "run", runtime=Runtime(workers=0))


def test_bad_images_are_still_named_after_a_resume(with_bad, tmp_path, monkeypatch):
    recipe = on_bad(with_bad, "decoded by workers", on_bad_image="skip", max_bad_share=0.1)
    whole = train(recipe, tmp_path / "whole", runtime=Runtime(workers=0))
    killed_at(7, monkeypatch, recipe, tmp_path / "parts", runtime=Runtime(workers=0))
    parts = train(recipe, tmp_path / "parts", runtime=Runtime(workers=0))
    assert parts["bad_images"] == whole["bad_images"]
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("path", ["in memory", "decoded by workers"])
def test_images_of_which_none_can_be_read_are_refused(path, tmp_path):
    for split in ("train", "test"):
        columns = {"image": [b"nothing"] * 6, "label": [0, 1] * 3}
        pq.write_table(pa.table(columns), tmp_path / f"bad_{split}.parquet")
    recipe = on_bad(tmp_path / "bad", path, on_bad_image="skip", max_bad_share=1.0)
    with pytest.raises(ValueError, match="none of the 6 images can be read|no step had an image"):
        train(recipe, tmp_path / "run", runtime=Runtime(workers=0))


@pytest.fixture
def several_labels(tmp_path) -> Path:
    """A CSV of 60 images that are red, bright, both or neither."""
    rows = ["path,label,split"]
    for i in range(60):
        red, bright = i % 2, i // 2 % 2
        pixels = torch.zeros(3, 16, 16, dtype=torch.uint8)
        pixels[0], pixels[1] = 150 * red + i, 150 * bright + i
        (tmp_path / f"{i}.jpg").write_bytes(jpeg(pixels))
        names = [name for name, has in (("red", red), ("bright", bright)) if has]
        rows.append(f"{i}.jpg,{';'.join(names)},{'test' if i % 5 == 0 else 'train'}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    return tmp_path / "labels.csv"


def test_images_with_several_labels_are_learnt_and_scored(several_labels, tmp_path):
    recipe = tiny(data={"source": str(several_labels), "val_share": 0.2}, image_size=16, duration="120 steps")
    recipe = changed(recipe, augment={"crop": "none"}, eval_every="40 steps")
    result = train(recipe, tmp_path / "run")
    assert result["map"] > 0.95 and result["micro_f1"] > 0.9 and result["n"] == 12
    info = info_of(load(tmp_path / "run"))
    assert info.loss == "sigmoid" and len(info.thresholds) == 2 and 0 < min(info.thresholds) < 1
    again = evaluate(tmp_path / "run")
    assert dict(again.scores()) == {key: result[key] for key in dict(again.scores())}


def test_several_labels_start_from_the_frequency_of_each_class(several_labels):
    recipe = tiny(data={"source": str(several_labels), "val_share": 0.0}, image_size=16)
    bias = set_up(recipe, Runtime()).model.head.bias
    labels = torch.from_numpy(open_source(str(several_labels)).splits["train"].labels).double()
    torch.testing.assert_close(bias.double().sigmoid(), (labels.sum(0) + 1) / (len(labels) + 2), rtol=1e-5, atol=1e-6)
    given = set_up(changed(recipe, model={"head_bias": -3.0}), Runtime()).model.head.bias
    assert given.tolist() == [-3.0, -3.0]


def test_softmax_for_several_labels_is_refused(several_labels, tmp_path):
    with pytest.raises(ValueError, match="has images with several labels, and loss=softmax allows one"):
        train(tiny(data={"source": str(several_labels)}, image_size=16, loss="softmax"), tmp_path / "run")
    with pytest.raises(ValueError, match="cannot be drawn equally often by class; use --balance loss"):
        train(tiny(data={"source": str(several_labels)}, image_size=16, balance="sampling"), tmp_path / "run")


def test_early_stop_waits_and_keeps_the_best(tmp_path, monkeypatch):
    scores = iter([0.3, 0.5, 0.4, 0.4, 0.4, 0.4, 0.4])
    top1 = Classification.scores
    monkeypatch.setattr(Classification, "scores", lambda self: {**dict(top1(self)), "top1": next(scores)}.items())
    recipe = tiny(duration="40 steps", early_stop="10 steps")
    result = train(recipe, tmp_path / "run")
    assert (result["steps"], result["best_step"], result["val_top1"]) == (20, 10, 0.5)


def test_early_stop_is_refused_where_it_cannot_work(tmp_path):
    with pytest.raises(ValueError, match="early_stop needs validation data"):
        train(tiny(early_stop="10 steps", data={"val_share": 0.0}), tmp_path / "run")
    with pytest.raises(ValueError, match="early_stop waits for a better score, so it needs keep=best"):
        tiny(early_stop="10 steps", keep="last")


@pytest.mark.parametrize("balance", ["loss", "sampling"])
def test_balance_helps_the_rare_class(balance, tmp_path):
    rng = np.random.default_rng(0)
    for split, counts in (("train", (190, 10)), ("test", (50, 50))):
        labels = np.repeat([0, 1], counts)
        values = (rng.normal(110, 25, len(labels)) + 30 * labels).clip(0, 255).astype(np.uint8)  # they overlap
        images = [jpeg(torch.full((3, 16, 16), int(value), dtype=torch.uint8)) for value in values]
        pq.write_table(pa.table({"image": images, "label": labels}), tmp_path / f"rare_{split}.parquet")
    data, augment = {"source": str(tmp_path / "rare"), "val_share": 0.0}, {"crop": "none"}
    recipe = tiny(data=data, augment=augment, image_size=16, duration="60 steps", eval_every="60 steps")
    recalls = []
    for name in ("none", balance):
        train(changed(recipe, balance=name), tmp_path / name)
        recalls.append(json.loads((tmp_path / name / "test.json").read_text())["per_class"][1]["recall"])
    assert recalls[1] > recalls[0] + 0.2


def test_another_optimizer_brings_its_own_learning_rate():
    assert changed(load_recipe("cifar10"), optim={"name": "adamw"}).optim.lr is None
    assert changed(load_recipe("cifar10"), optim={"name": "adamw", "lr": 0.01}).optim.lr == 0.01


def test_what_the_temperature_does_on_validation_data_is_kept(tmp_path):
    result = train(tiny(), tmp_path / "run")
    test = json.loads((tmp_path / "run/test.json").read_text())
    before, after = test["calibration_before"], test["calibration_after"]
    assert before["n"] == after["n"] == 143 and result["temperature"] != 1.0
    last = [row for row in read_metrics(tmp_path / "run/metrics.jsonl") if row["step"] == result["best_step"]]
    assert {name: last[-1][f"val/{name}"] for name in before} == pytest.approx(
        before
    )  # temperature 1, the kept weights
    own = dict(evaluate(load(tmp_path / "run"), split="val").scores())
    assert {name: own[name] for name in after} == pytest.approx(after)
    assert len(test["train_counts"]) == 10 and sum(test["train_counts"]) == 1295
