"""Layer-wise learning-rate decay: which share of the rate each layer gets."""

import pytest
import timm
from torch import nn

from mixonomy.optim.layer_decay import layer_scales
from mixonomy.optim.optimizers import make_optimizers
from mixonomy.recipe import Optim


def test_shares_are_those_of_beit_from_the_stem_to_the_head():
    names = ["cls_token", "patch_embed.proj.weight", "blocks.0.fc.weight", "blocks.1.fc.weight", "blocks.2.fc.bias",
             "norm.weight", "head.weight"]  # fmt: skip
    # BEiT optim_factory.py, get_num_layer_for_vit with 12 + 2 layers, written for 3 + 2: layer ids and their scale.
    ids = [0, 0, 1, 2, 3, 4, 4]
    assert layer_scales(names, 0.75) == {name: 0.75 ** (4 - i) for name, i in zip(names, ids, strict=True)}


def test_blocks_are_found_below_a_wrapper_and_with_two_digits():
    names = [f"model.{part}" for part in ("stem.w", *(f"blocks.{i}.w" for i in range(11)), "head.w")]
    scales = layer_scales(names, 0.5)
    assert scales["model.stem.w"] == 0.5**12 and scales["model.head.w"] == 1.0
    assert [scales[f"model.blocks.{i}.w"] for i in (0, 2, 10)] == [0.5**11, 0.5**9, 0.5]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_vision_transformer_of_timm_has_positions_with_the_stem_and_the_last_norm_with_the_head():
    model = timm.create_model("vit_tiny_patch16_224", depth=2, embed_dim=12, num_classes=3)
    scales = layer_scales([name for name, _ in model.named_parameters()], 0.5)
    assert scales["pos_embed"] == scales["cls_token"] == scales["patch_embed.proj.weight"] == 0.125
    assert scales["blocks.0.attn.qkv.weight"] == 0.25 and scales["blocks.1.mlp.fc2.bias"] == 0.5
    assert scales["norm.weight"] == scales["head.weight"] == 1.0


@pytest.mark.parametrize(
    ("names", "has"),
    [
        (["conv.weight", "head.weight"], "this model has none"),
        (["myblocks.0.weight"], "this model has none"),
        (["stages.0.blocks.0.w", "stages.1.blocks.0.w"], r"has several: stages\.0\.blocks, stages\.1\.blocks"),
    ],
)
def test_model_without_one_sequence_of_blocks_is_refused(names, has):
    with pytest.raises(ValueError, match=has):
        layer_scales(names, 0.5)


def test_frozen_layers_keep_their_place_in_the_count():
    model = nn.Module()
    model.blocks = nn.Sequential(*(nn.Linear(2, 2) for _ in range(3)))
    model.blocks[2].requires_grad_(False)
    (sgd,) = make_optimizers(model, Optim(name="sgd", lr=1.0, layer_decay=0.5))
    assert sorted({group["peak_lr"] for group in sgd.param_groups}) == [0.125, 0.25]
