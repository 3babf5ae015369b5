"""The training loop: what it writes, what it computes, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from mixonomy import train_state, training
from mixonomy.api import evaluate, load
from mixonomy.evals import Classification
from mixonomy.experiment import Runtime
from mixonomy.models import create, read_safetensors, save_model
from mixonomy.recipe import Recipe, changed
from mixonomy.recipes import choose_recipe, load_recipe, recipe_names
from mixonomy.recipes.imagenet21k import size_of
from mixonomy.runs import RunFolder, read_metrics
from mixonomy.training import train
from training_runs import DIGITS, TenLines, assert_same_weights, jpeg, killed_at, tiny, weights


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
    sizes = {"patch_size": 4, "hidden_dim": 8, "num_blocks": 2, "tokens_mlp_dim": 4, "channels_mlp_dim": 8}
    if recipe.init is not None:
        save_model(create("mixer", num_classes=5, image_size=16, **sizes), tmp_path / "weights.safetensors")
        recipe, sizes = changed(recipe, init=str(tmp_path / "weights.safetensors")), {}
    small = changed(
        recipe,
        data={"source": str(tiny_rgb)},
        model=sizes,
        image_size=16,
        batch_size=4,
        duration="2 steps",
        eval_every="1 steps",
        optim={"warmup": "1 steps"},
    )
    result = train(small, tmp_path / "run", runtime=Runtime(workers=0))
    assert result["n"] == 9 and result["steps"] == 2
    assert all(np.isfinite(row["loss"]) for row in read_metrics(tmp_path / "run/metrics.jsonl") if "loss" in row)


def test_probe_writes_few_shot_scores_as_training_goes_on_and_changes_no_weight(tiny_rgb, tmp_path):
    plain = changed(tiny(), data={"source": str(tiny_rgb)}, image_size=8, batch_size=4)
    probed = changed(plain, probe={"source": str(tiny_rgb), "every": "4 steps", "shots": (1, 2)})
    for name, recipe in (("plain", plain), ("probed", probed)):
        train(recipe, tmp_path / name, runtime=Runtime(workers=0))
    assert_same_weights(tmp_path / "plain", tmp_path / "probed")
    rows = [row for row in read_metrics(tmp_path / "probed/metrics.jsonl") if "probe/n" in row]
    assert [row["step"] for row in rows] == [4, 8, 10]
    assert all(0 <= row["probe/ridge_2shot"] <= 1 and row["probe/n"] == 9 for row in rows)
    assert "probe/ridge_1shot_std" in rows[0]
    with pytest.raises(ValueError, match="shots has no effect without source"):
        changed(plain, probe={"shots": (1,)})


# Epochs, rate, decay, RandAugment layers and magnitude, mixup, stochastic depth.
TABLE_4 = {
    ("imagenet1k", "mixer-b/16"): (300, 1e-3, 0.1, 2, 15, 0.5, 0.1),
    ("imagenet1k", "mixer-l/16"): (300, 1e-3, 0.1, 2, 15, 0.5, 0.1),
    ("imagenet21k", "mixer-b/16"): (300, 1e-3, 0.1, 2, 10, 0.2, 0.1),
    ("imagenet21k", "mixer-l/16"): (300, 1e-3, 0.1, 2, 20, 0.5, 0.1),
    ("jft", "mixer-s/32"): (5, 3e-3, 0.03, 0, None, 0.0, 0.0),
    ("jft", "mixer-b/32"): (7, 3e-3, 0.03, 0, None, 0.0, 0.0),
    ("jft", "mixer-l/16"): (14, 1e-3, 0.03, 0, None, 0.0, 0.0),
    ("jft", "mixer-h/14"): (14, 1e-3, 0.03, 0, None, 0.0, 0.0),
}


@pytest.mark.parametrize("row", TABLE_4, ids=" ".join)
def test_pre_training_recipes_are_the_paper_s_table_4(row):
    data, model = row
    chosen = choose_recipe(data, None, model=model)
    recipe = changed(chosen, model={"name": model})  # what the command line does with --model
    optim, augment = recipe.optim, recipe.augment
    found = (optim.lr, optim.weight_decay, augment.randaugment_layers, augment.randaugment_magnitude, augment.mixup)
    assert (recipe.duration, *found, recipe.model.drop_path) == (f"{TABLE_4[row][0]} epochs", *TABLE_4[row][1:])
    assert (recipe.batch_size, optim.warmup, optim.clip) == (4096, "10000 steps", 1.0)
    assert (optim.name, optim.beta1, optim.beta2, optim.schedule) == ("adamw", 0.9, 0.999, "linear")
    assert (recipe.model.name, recipe.model.dropout, recipe.image_size) == (model, 0.0, 224)
    assert recipe.loss == "sigmoid" and (data == "jft") == (chosen.model.head_bias == 0.0)


def test_sizes_that_the_table_lacks_take_the_row_of_their_neighbour():
    assert choose_recipe("imagenet21k", None, model="mixer-h/14").augment.mixup == 0.5
    assert choose_recipe("imagenet21k", None, model="mixer-s/16").augment.mixup == 0.2
    assert choose_recipe("imagenet21k", None).model.name == "mixer-b/16"
    assert choose_recipe("jft", None, model="vit-l/16").duration == "14 epochs"


def test_size_of_a_model_is_read_off_any_name_of_it():
    names = {"s": ("mixer-s/32", "timm:mixer_s16_224", "timm:vit_small_patch16_224"), "b": ("mixer", "resmlp-12"),
             "l": ("vit-l/16", "timm:mixer_l16_224.goog_in21k", "timm:vit_large_patch16_224"),
             "h": ("mixer-h/14", "timm:vit_huge_patch14_224")}  # fmt: skip
    for size, those in names.items():
        assert {size_of(name) for name in those} == {size}
    assert size_of("timm:vit_base_patch16_224") == size_of("timm:resnet50") == size_of("timm:seresnet_lite") == "b"


def test_named_model_takes_the_place_of_the_recipes():
    for recipe in ("imagenet1k", "imagenet21k", "jft", "digits", "folder"):
        for model in ("mixer-l/16", "timm:mixer_l16_224"):
            assert load_recipe(recipe, model).model.name == choose_recipe(recipe, None, model=model).model.name == model
    assert load_recipe("jft", "timm:mixer_l16_224").optim.lr == 1e-3
    assert load_recipe("finetune", "mixer-l/16") == load_recipe("finetune"), "its weights say what the model is"


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
    monkeypatch.setattr(train_state.devices, "has_compiler", lambda: False)
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


def test_kept_last_weights_say_their_validation_score(tmp_path):
    result = train(tiny(keep="last"), tmp_path)
    scores = [row["val/top1"] for row in read_metrics(tmp_path / "metrics.jsonl") if "val/top1" in row]
    assert result["val_top1"] == scores[-1] and result["best_step"] == 10


@pytest.mark.parametrize("wrong", [{"workers": -1}, {"checkpoint_minutes": float("nan")}])
def test_runtime_out_of_range_is_refused(wrong):
    with pytest.raises(ValueError, match="give 0 or more"):
        Runtime(**wrong)


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
