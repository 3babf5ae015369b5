"""Activation checkpointing: the same step, less kept, and a clear word where it cannot be."""

import copy

import pytest
import torch
from torch import nn

import mixonomy as mx
from mixonomy import devices
from mixonomy.models import checkpoint_blocks
from mixonomy.nn import Block

CPU = torch.device("cpu")
SIZES = {"patch_size": 4, "hidden_dim": 16, "num_blocks": 3}
FAMILIES = {
    "mixer": {**SIZES, "tokens_mlp_dim": 8, "channels_mlp_dim": 24, "dropout": 0.2, "drop_path": 0.5},
    "vit": {**SIZES, "channels_mlp_dim": 24, "num_heads": 2, "dropout": 0.2},
    "gmlp": {**SIZES, "channels_mlp_dim": 24},
    "timm:mixer_s32_224": {"drop_path": 0.3},
}


def model_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    size = 224 if name.startswith("timm:") else 16
    model = mx.create(name, num_classes=3, image_size=size, **FAMILIES[name]).train()
    nn.init.normal_(model.get_submodule("head").weight)
    return model


def step(model: nn.Module, precision: devices.Precision) -> tuple[list[torch.Tensor], int]:
    """Gradients of one step, and the bytes of activations that autograd kept for it."""
    kept: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    side = 224 if hasattr(model, "body") else 16
    images = torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(2)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), devices.autocast(CPU, precision):
        logits = model(images)
    after = torch.rand(3)
    logits.float().square().sum().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return [*gradients, after], sum(kept.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", FAMILIES)
def test_checkpointed_blocks_give_the_same_gradients_with_dropout_and_keep_less(name, precision):
    plain = model_of(name)
    checkpointed = copy.deepcopy(plain)
    checkpoint_blocks(checkpointed)
    assert list(checkpointed.state_dict()) == list(plain.state_dict())
    (expected, all_bytes), (gradients, bytes_kept) = step(plain, precision), step(checkpointed, precision)
    assert len(gradients) == len(expected) == len(list(plain.parameters())) + 1
    for mine, theirs in zip(gradients, expected, strict=True):
        assert torch.equal(mine, theirs)
    assert bytes_kept < 0.6 * all_bytes
    plain.eval(), checkpointed.eval()
    images = torch.randn(2, 3, *((224, 224) if name.startswith("timm:") else (16, 16)))
    assert torch.equal(plain(images), checkpointed(images))


def test_blocks_are_computed_twice_in_training_and_once_in_evaluation():
    calls = []
    model = model_of("mixer")
    checkpoint_blocks(model)
    for block in model.get_submodule("blocks"):
        assert isinstance(block, Block)
        block.register_forward_pre_hook(lambda *_: calls.append(1))
    model(torch.randn(2, 3, 16, 16)).sum().backward()
    assert len(calls) == 2 * 3
    calls.clear()
    model.eval()(torch.randn(2, 3, 16, 16))
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        (lambda: mx.create("convmixer", patch_size=4, hidden_dim=8, num_blocks=2, kernel_size=3, image_size=16),
         "running means of ConvMixer's BatchNorm twice"),
        (lambda: nn.Linear(2, 2), "needs a model that keeps its blocks in an nn.Sequential named `blocks`, and Linear"),
        (lambda: mx.create("timm:pit_ti_224"), "timm does not know how to checkpoint PoolingVisionTransformer"),
    ],
    ids=["BatchNorm", "no blocks", "timm without"],
)  # fmt: skip
def test_models_that_cannot_be_checkpointed_are_refused(model, problem):
    with pytest.raises(ValueError, match=problem):
        checkpoint_blocks(model())
