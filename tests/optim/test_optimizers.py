"""Optimizers of a recipe: which parameters decay, which are whose, and which rates they get."""

import pytest
import torch
from torch import nn

from mixonomy.models import create
from mixonomy.optim import make_optimizers, set_lr
from mixonomy.optim.muon import Muon
from mixonomy.recipe import Optim

SIZES = {"patch_size": 4, "hidden_dim": 8, "num_blocks": 2, "tokens_mlp_dim": 5, "channels_mlp_dim": 12}


def tiny() -> nn.Module:
    torch.manual_seed(0)
    model = create("mixer", num_classes=3, image_size=8, **SIZES)
    nn.init.ones_(model.head.weight)
    return model


def names_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> set[str]:
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)] for group in optimizer.param_groups for p in group["params"]}


@pytest.mark.parametrize("name", ["adamw", "sgd", "muon"])
def test_every_parameter_is_in_exactly_one_group(name):
    model = tiny()
    optimizers = make_optimizers(model, Optim(name=name))
    ids = [id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    assert len(ids) == len(set(ids)) and set(ids) == {id(p) for p in model.parameters()}


@pytest.mark.parametrize("name", ["adamw", "sgd", "muon"])
def test_only_matrices_and_kernels_decay_by_rate_times_decay(name):
    model = tiny()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    optimizers = make_optimizers(
        model, Optim(name=name, lr=0.1, weight_decay=0.5, rest_lr=0.1 if name == "muon" else None)
    )
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for optimizer in optimizers:
        optimizer.step()
    for key, tensor in model.state_dict().items():
        if tensor.ndim >= 2:
            torch.testing.assert_close(tensor, before[key] * (1 - 0.1 * 0.5), rtol=1e-6, atol=1e-7)
        else:
            assert torch.equal(tensor, before[key]), key


def test_muon_takes_the_matrices_and_the_patch_embedding_and_adamw_the_rest():
    model = tiny()
    muon, adamw = make_optimizers(model, Optim(name="muon", lr=0.02))
    matrices = {f"blocks.{i}.{m}.{f}.weight" for i in (0, 1) for m in ("token_mixer", "channel_mixer")
                for f in ("fc1", "fc2")} | {"stem.proj.weight", "head.weight"}  # fmt: skip
    assert isinstance(muon, Muon) and names_of(model, muon) == matrices
    assert names_of(model, adamw) == {name for name, _ in model.named_parameters()} - matrices
    assert {group["peak_lr"] for group in muon.param_groups} == {0.02}
    assert {group["peak_lr"] for group in adamw.param_groups} == {1e-3}


def test_muon_takes_the_patch_embedding_of_timms_models_and_no_positions():
    model = create("timm:test_vit", num_classes=3, image_size=160)
    muon, rest = make_optimizers(model, Optim(name="muon"))
    taken = names_of(model, muon)
    assert {name for name in taken if name.endswith("patch_embed.proj.weight")} and "head.weight" in taken
    kinds = {name.rpartition(".")[2] for name in names_of(model, rest)}
    assert {"cls_token", "pos_embed"} <= kinds
    assert all(model.get_parameter(name).ndim == 1 for name in names_of(model, rest) if name.endswith("weight"))


def test_muon_without_matrices_in_blocks_is_refused():
    with pytest.raises(ValueError, match="muon needs matrices in a part named `blocks`, and this model has none"):
        make_optimizers(nn.Linear(3, 3), Optim(name="muon"))


def test_options_of_the_recipe_arrive():
    model = tiny()
    (adamw,) = make_optimizers(model, Optim(lr=0.3, beta1=0.8, beta2=0.9))
    assert all(group["betas"] == (0.8, 0.9) and group["lr"] == 0.3 for group in adamw.param_groups)
    (adamw,) = make_optimizers(model, Optim())
    assert all(group["betas"] == (0.9, 0.999) for group in adamw.param_groups)
    (sgd,) = make_optimizers(model, Optim(name="sgd"))
    assert all(group["momentum"] == 0.9 for group in sgd.param_groups)
    muon, rest = make_optimizers(model, Optim(name="muon", momentum=0.5, rest_lr=0.7, beta1=0.6))
    assert muon.param_groups[0]["momentum"] == 0.5
    assert all(group["lr"] == 0.7 and group["betas"][0] == 0.6 for group in rest.param_groups)


def test_every_rate_is_set_to_its_share_of_its_peak():
    optimizers = make_optimizers(tiny(), Optim(name="muon", lr=0.02, rest_lr=0.004))
    set_lr(optimizers, 0.25)
    set_lr(optimizers, 0.5)
    assert [group["lr"] for o in optimizers for group in o.param_groups] == [0.01, 0.002]


@pytest.mark.parametrize("name", ["adamw", "sgd", "muon"])
def test_layer_decay_gives_every_parameter_its_share_of_the_peak(name):
    model = tiny()
    rest_lr = 0.25 if name == "muon" else None
    optimizers = make_optimizers(model, Optim(name=name, lr=0.5, rest_lr=rest_lr, layer_decay=0.5, weight_decay=0.1))
    set_lr(optimizers, 1.0)
    rates = {id(p): group["lr"] for o in optimizers for group in o.param_groups for p in group["params"]}
    shares = {"stem": 0.125, "blocks.0": 0.25, "blocks.1": 0.5, "norm": 1.0, "head": 1.0}
    for key, parameter in model.named_parameters():
        part = ".".join(key.split(".")[: 2 if key.startswith("blocks") else 1])
        is_rest = name == "muon" and parameter.ndim == 1
        assert rates[id(parameter)] == (0.25 if is_rest else 0.5) * shares[part], key


@pytest.mark.parametrize("name", ["adamw", "sgd", "muon"])
def test_layer_decay_scales_the_step_and_the_weight_decay_of_a_layer(name):
    steps = {}
    for decay in (None, 0.5):
        model = tiny()
        before = {key: p.detach().clone() for key, p in model.named_parameters()}
        optimizers = make_optimizers(model, Optim(name=name, lr=1e-3, layer_decay=decay, weight_decay=0.1))
        for i, parameter in enumerate(model.parameters()):
            parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i))
        set_lr(optimizers, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        steps[decay] = {key: p.detach() - before[key] for key, p in model.named_parameters()}
    for part, share in (("stem.proj.weight", 0.125), ("blocks.0.token_mixer.fc1.weight", 0.25),
                        ("blocks.1.norm1.bias", 0.5), ("head.weight", 1.0)):  # fmt: skip
        torch.testing.assert_close(steps[0.5][part], share * steps[None][part], rtol=1e-3, atol=1e-7)


def test_frozen_parameters_are_left_out():
    model = tiny()
    model.stem.requires_grad_(False)
    (adamw,) = make_optimizers(model, Optim())
    assert not {name for name in names_of(model, adamw) if name.startswith("stem")}


def test_positions_and_class_token_do_not_decay_and_learn_at_the_rate_of_the_stem():
    sizes = {"patch_size": 4, "hidden_dim": 8, "num_blocks": 2, "channels_mlp_dim": 12, "num_heads": 2}
    model = create("vit", num_classes=3, image_size=8, **sizes)
    (adamw,) = make_optimizers(model, Optim(name="adamw", lr=1.0, weight_decay=0.1, layer_decay=0.5))
    groups = {id(p): group for group in adamw.param_groups for p in group["params"]}
    for name in ("stem.class_token", "stem.positions", "stem.proj.weight"):
        group = groups[id(model.get_parameter(name))]
        assert (group["peak_lr"], group["weight_decay"] > 0) == (0.125, name == "stem.proj.weight")


def test_gains_that_are_stored_with_four_axes_do_not_decay_and_kernels_of_convolutions_are_adamws():
    model = nn.Module()
    model.gain = nn.Parameter(torch.ones(4, 1, 1, 1))
    model.scale = nn.Parameter(torch.ones(1, 1, 4))
    model.blocks = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Linear(1, 4))
    muon, adamw = make_optimizers(model, Optim(name="muon", weight_decay=0.1))
    assert names_of(model, muon) == {"blocks.1.weight"}
    decaying = {id(p) for group in adamw.param_groups if group["weight_decay"] for p in group["params"]}
    assert decaying == {id(model.blocks[0].weight)}
