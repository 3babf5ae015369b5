"""Training from weights that are there: what is taken over, what is frozen, and what a resume insists on."""

import json
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import mixonomy as mx
from mixonomy.data import Batch, open_source
from mixonomy.experiment import Runtime, set_up
from mixonomy.models import info_of, save_model, set_info
from mixonomy.models.tuning import set_trainable, set_training
from mixonomy.recipe import Recipe, changed
from mixonomy.recipes import choose_recipe, load_recipe
from mixonomy.recipes.finetune import recipe_for
from mixonomy.runs import RunFolder
from mixonomy.training import train
from training_runs import TenLines, assert_same_weights, killed_at, tiny, weights

SIZES = {"patch_size": 2, "hidden_dim": 16, "num_blocks": 2, "tokens_mlp_dim": 8, "channels_mlp_dim": 32}


def pretrained(path, *, seed: int = 0, num_classes: int = 7, in_channels: int = 1) -> str:
    """A file of weights whose head and range of pixels are not the data's."""
    torch.manual_seed(seed)
    model = mx.create("mixer", num_classes=num_classes, image_size=8, in_channels=in_channels, head_bias=2.0, **SIZES)
    info = info_of(model)
    shift = {"mean": (0.4,) * in_channels, "std": (0.3,) * in_channels}
    set_info(model, replace(info, preprocessing=replace(info.preprocessing, **shift)))
    save_model(model, path)
    return str(path)


def finetuned(init: str, **changes) -> Recipe:
    """Ten steps of the digits from a file of weights."""
    recipe = changed(tiny(), init=init, image_size=None)
    return changed(recipe, **changes)


def test_model_and_range_of_pixels_are_those_of_the_weights_and_the_head_is_zero(tmp_path):
    init = pretrained(tmp_path / "w.safetensors", in_channels=3)
    setup = set_up(finetuned(init), Runtime(device="cpu"))
    stored = load_file(init)
    for name, tensor in setup.model.state_dict().items():
        expected = torch.zeros_like(tensor) if name.startswith("head.") else stored[name]
        assert torch.equal(tensor, expected), name
    assert setup.model.get_submodule("head").get_parameter("weight").shape == (10, 16)
    prepared = setup.preprocessing
    assert (prepared.image_size, prepared.channels, prepared.mean, prepared.std) == ((8, 8), 3, (0.4,) * 3, (0.3,) * 3)
    assert prepared.crop == "squash", "the recipe says how to cut, not the weights"


@pytest.mark.parametrize("name", ["finetune", "folder_finetune"])
def test_recipe_for_fine_tuning_without_weights_says_what_to_give(name):
    with pytest.raises(ValueError, match=f"the recipe {name} goes on from trained weights; say which by --init"):
        set_up(choose_recipe(name, "digits"), Runtime(device="cpu"))


def test_another_image_size_resizes_and_says_so(tmp_path):
    init = pretrained(tmp_path / "w.safetensors")
    setup = set_up(finetuned(init, image_size=16), Runtime(device="cpu"))
    assert setup.notes == (f"{init}: resized from 8x8 to 16x16 pixels by block-diagonal token MLPs, one copy for each "
                           f"block of the old size",)  # fmt: skip
    body = mx.resize(mx.load(init), 16)
    images = torch.randn(2, 1, 16, 16)
    torch.testing.assert_close(setup.model.features(images), body.features(images))  # type: ignore[operator]
    assert setup.preprocessing.image_size == (16, 16)


@pytest.mark.parametrize("size", [None, 16])
def test_dropping_is_of_the_training_and_changes_no_weights(size, tmp_path):
    init = pretrained(tmp_path / "w.safetensors")
    plain = set_up(finetuned(init, image_size=size), Runtime(device="cpu"))
    dropping = finetuned(init, image_size=size, model={"dropout": 0.2, "drop_path": 0.3})
    found = set_up(dropping, Runtime(device="cpu"))
    assert (found.arguments, found.init, found.notes) == (plain.arguments, plain.init, plain.notes)
    images = torch.randn(2, 1, *found.preprocessing.image_size)
    one, other = plain.model.eval(), found.model.eval()
    assert torch.equal(one.features(images), other.features(images))  # type: ignore[operator]
    texts = [str(module) for module in other.modules()]
    assert "DropPath(drop_prob=0.3)" in texts and "Dropout(p=0.2, inplace=False)" in texts
    with pytest.raises(ValueError, match="drop_path has no effect on convmixer"):
        sizes = {"patch_size": 2, "hidden_dim": 8, "num_blocks": 2, "kernel_size": 3}
        save_model(mx.create("convmixer", image_size=8, in_channels=1, **sizes), tmp_path / "c.safetensors")
        set_up(finetuned(str(tmp_path / "c.safetensors"), model={"drop_path": 0.1}), Runtime(device="cpu"))


def test_dropping_reaches_timm_s_models_too(tmp_path):
    save_model(mx.create("timm:resnet18", num_classes=3, image_size=32), tmp_path / "w.safetensors")
    recipe = finetuned(str(tmp_path / "w.safetensors"), model={"drop_path": 0.3})
    before = load_file(tmp_path / "w.safetensors")
    found = set_up(recipe, Runtime(device="cpu")).model
    assert any(type(module).__name__ == "DropPath" for module in found.modules())
    assert all(torch.equal(t, before[name]) for name, t in found.state_dict().items() if not name.startswith("head."))


def test_size_that_timm_s_weights_cannot_have_is_one_sentence(tmp_path):
    save_model(mx.create("timm:test_vit", num_classes=3, image_size=32), tmp_path / "w.safetensors")
    with pytest.raises(
        ValueError, match="timm:test_vit has weights for 32x32 pixels alone and cannot be resized; take"
    ):
        set_up(finetuned(str(tmp_path / "w.safetensors"), image_size=48), Runtime(device="cpu"))


def test_run_loads_without_its_start_and_remembers_it(tmp_path):
    init = pretrained(tmp_path / "w.safetensors")
    train(finetuned(init), tmp_path / "run")
    info = RunFolder(tmp_path / "run").info()
    assert info["recipe"]["init"] == init and len(info["facts"]["init_sha256"]) == 64
    (tmp_path / "w.safetensors").unlink()
    model = mx.load(tmp_path / "run")
    assert info_of(model).preprocessing.mean == (0.4,) and model(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


def test_resume_from_other_weights_is_refused(tmp_path, monkeypatch):
    init = pretrained(tmp_path / "w.safetensors")
    killed_at(7, monkeypatch, finetuned(init), tmp_path / "run")
    pretrained(tmp_path / "w.safetensors", seed=1)
    with pytest.raises(ValueError, match=r"the data or model of .* is another now: init_sha256 \("):
        train(finetuned(init), tmp_path / "run")
    pretrained(tmp_path / "w.safetensors")
    assert train(finetuned(init), tmp_path / "run")["steps"] == 10


def test_model_beside_init_is_refused_by_name():
    with pytest.raises(ValueError, match=r"model.name has no effect with init, whose weights say what the model is"):
        Recipe(init="w.npz", model={"name": "mixer-b/16"})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="model.head_bias has no effect with init, whose head becomes one of zeros"):
        Recipe(init="w.npz", model={"head_bias": -2.0})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="image_size is None, .* there is no init"):
        Recipe(image_size=None)
    assert changed(load_recipe("cifar10"), init="w.npz").model.hidden_dim is None, "the sizes go with the old model"


def test_own_module_beside_init_is_refused():
    with pytest.raises(ValueError, match="init has no effect on a module of your own"):
        set_up(finetuned("w.npz"), Runtime(device="cpu"), TenLines())


@pytest.mark.parametrize(
    ("count", "steps", "warmup", "val_share"),
    [(2_040, 500, 100, 0.1), (3_680, 500, 100, 0.1), (50_000, 10_000, 500, 0.02), (1_281_167, 20_000, 500, 0.01)],
    ids=["flowers102", "pets", "cifar10", "imagenet1k"],
)
def test_finetuning_is_as_long_as_the_paper_s(count, steps, warmup, val_share):
    recipe = recipe_for(count)
    assert (recipe.duration, recipe.optim.warmup) == (f"{steps} steps", f"{warmup} steps")
    assert (recipe.data.val_share, recipe.batch_size, recipe.optim.clip) == (val_share, 512, 1.0)
    optim = recipe.optim
    assert (optim.name, optim.momentum, optim.schedule, optim.weight_decay) == ("sgd", 0.9, "cosine", 0.0)
    assert (recipe.augment.crop, recipe.augment.flip, recipe.data.eval_crop) == ("resmall", True, "resmall")


def test_init_chooses_a_recipe_for_fine_tuning(tmp_path):
    for i in range(40):
        file = tmp_path / "ab"[i % 2] / f"{i}.png"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"not looked at")
    assert choose_recipe(None, "digits", init="w.npz") == changed(recipe_for(1294), init="w.npz")
    assert choose_recipe(None, str(tmp_path), init="w.npz").name == "folder_finetune"
    assert choose_recipe("digits", None, init="w.npz") == changed(load_recipe("digits"), init="w.npz")
    assert choose_recipe(None, "finetune").name == "folder", "a source of that name has no recipe"


@pytest.mark.parametrize("name", ["finetune", "folder", "folder_finetune"])
def test_named_recipe_has_the_length_that_suits_the_images(name):
    suited = import_module(f"mixonomy.recipes.{name}").recipe_for(len(open_source("digits").splits["train"]))
    assert choose_recipe(name, "digits") == choose_recipe(name, None) == suited
    assert choose_recipe(name, "digits") != load_recipe(name) or name == "finetune"  # whose 500 steps suit the digits
    assert choose_recipe(name, "nowhere.csv") == load_recipe(name), "training will say that there are no images"


@pytest.mark.parametrize(("count", "warmup"), [(1000, 500), (50_000, 125), (1_281_167, 62)])
def test_another_length_keeps_the_share_of_the_warm_up(count, warmup):
    recipe = recipe_for(count, 2500)
    assert (recipe.duration, recipe.optim.warmup, recipe.eval_every) == (
        "2500 steps", f"{warmup} steps", "500 steps"
    )  # fmt: skip
    assert recipe_for(count, 1).eval_every == "1 steps"


TRAINED = {
    "all": {"stem", "blocks", "norm", "head"},
    "head": {"head"},
    "bias-norm": {"stem", "blocks", "norm", "head"},
}


@pytest.mark.parametrize("tune", TRAINED)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_only_what_is_tuned_moves_and_only_that_has_a_state(tune, optimizer, tmp_path):
    init = pretrained(tmp_path / "w.safetensors")
    recipe = finetuned(init, tune=tune, optim={"name": optimizer, "lr": 0.1, "weight_decay": 0.5}, keep="last")
    train(recipe, tmp_path / "run")
    before, after = load_file(init), weights(tmp_path / "run")
    before |= {name: torch.zeros_like(after[name]) for name in ("head.weight", "head.bias")}
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert {name.split(".")[0] for name in moved} == TRAINED[tune]
    vectors = {name for name, tensor in after.items() if tensor.ndim == 1}
    expected = {"all": set(after), "head": {"head.weight", "head.bias"}, "bias-norm": vectors | {"head.weight"}}[tune]
    assert moved == expected
    (path,) = (tmp_path / "run/checkpoints").glob("step-*")
    stated = {name.split("/")[1] for name in load_file(path) if name.startswith("optimizer/")}
    assert stated == expected, "the checkpoint holds no state of what is frozen"


@pytest.mark.parametrize(
    "changes",
    [
        {"tune": "head"},
        {"tune": "bias-norm", "optim": {"layer_decay": 0.7}},
        {"freeze": "6 steps"},
        {"freeze": "6 steps", "tune": "bias-norm", "optim": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "ema": 0.9}},
    ],
    ids=str,
)
@pytest.mark.parametrize("stop", [5, 6, 7, 9])
def test_stopped_run_goes_on_exactly_whatever_is_frozen(changes, stop, tmp_path, monkeypatch):
    recipe = finetuned(pretrained(tmp_path / "w.safetensors"), eval_every="1 steps", keep="last", **changes)
    train(recipe, tmp_path / "whole")
    killed_at(stop, monkeypatch, recipe, tmp_path / "parts")
    train(recipe, tmp_path / "parts")
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")


def test_frozen_start_is_a_run_of_the_head_that_is_then_trained_whole(tmp_path, monkeypatch):
    from mixonomy import train_state

    init, seen = pretrained(tmp_path / "w.safetensors"), []
    original = train_state.TrainState.step

    def watching(self, batch, step):
        before = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        loss = original(self, batch, step)
        seen.append({name for name, p in self.model.named_parameters() if not torch.equal(before[name], p)})
        return loss

    monkeypatch.setattr(train_state.TrainState, "step", watching)
    constant = {"schedule": "constant", "warmup": "0 steps", "lr": 0.01}
    train(finetuned(init, freeze="4 steps", optim=constant), tmp_path / "run")
    assert all(names == {"head.weight", "head.bias"} for names in seen[:4])
    assert all("stem.proj.weight" in names and "norm.bias" in names for names in seen[4:])


def test_momentum_of_the_head_outlives_the_frozen_start(tmp_path):
    recipe = finetuned(pretrained(tmp_path / "w.safetensors"), freeze="3 steps", optim={"name": "sgd", "lr": 0.1})
    state = set_up(recipe, Runtime(device="cpu")).state(recipe, "fp32", total=10, warmup=0, freeze=3)
    labels = torch.arange(8) % 10
    batch = Batch(torch.randint(0, 256, (8, 1, 8, 8), dtype=torch.uint8), labels, np.arange(8, dtype=np.uint64))
    for step in range(3):
        state.step(batch, step)
    head = state.model.get_submodule("head").get_parameter("weight")
    kept = state.optimizers[0].state[head]["momentum_buffer"].clone()
    state._thaw()
    assert torch.equal(state.optimizers[0].state[head]["momentum_buffer"], kept)
    assert len(state.optimizers[0].state) == 2, "the others begin without any"


def test_features_below_a_head_that_is_trained_alone_rest():
    model = nn.Module()
    model.body, model.head = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5)), nn.Linear(3, 2)
    set_trainable(model, "head")
    set_training(model, "head")
    assert not any(module.training for module in model.body.modules()) and model.head.training
    set_trainable(model, "bias-norm")
    set_training(model, "bias-norm")
    assert all(p.requires_grad for p in model.parameters()) and model.body.training
    with pytest.raises(ValueError, match="this Linear has no layer named `head`"):
        set_trainable(nn.Linear(2, 2), "head")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tune": "head", "freeze": "3 steps"}, "freeze has no effect with tune=head"),
        ({"tune": "head", "optim": {"layer_decay": 0.5}}, "layer_decay has no effect with tune=head"),
        ({"tune": "bias-norm", "optim": {"name": "muon"}}, "muon trains the matrices .* tune=bias-norm leaves frozen"),
        ({"freeze": "3 steps", "optim": {"name": "muon"}}, "muon trains the matrices of the blocks, which freeze"),
        ({"data": {"train_on_val": True}, "early_stop": "1 epochs"}, "early_stop needs validation data"),
    ],
)
def test_what_cannot_be_frozen_together_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        changed(tiny(), **changes)


def test_freezing_for_the_whole_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="freeze is 10 steps and the training 10; shorten it, or give --tune head"):
        train(finetuned(pretrained(tmp_path / "w.safetensors"), freeze="10 steps"), tmp_path / "run")


def test_validation_images_are_trained_on_where_all_is_chosen(tmp_path):
    recipe = tiny(data={"train_on_val": True})
    result = train(recipe, tmp_path / "run")
    assert RunFolder(tmp_path / "run").info()["facts"]["images"] == len(open_source("digits").splits["train"])
    assert result["val_top1"] is None and result["temperature"] == 1.0
    with pytest.raises(ValueError, match="has no validation data here"):
        mx.evaluate(tmp_path / "run", split="val")


def test_run_of_a_version_without_these_fields_still_goes_on(tmp_path):
    first = train(tiny(), tmp_path)
    path = tmp_path / "run.json"
    info = json.loads(path.read_text())
    for field in ("init", "tune", "freeze"):
        del info["recipe"][field]
    path.write_text(json.dumps(info))
    assert train(tiny(), tmp_path) == first
