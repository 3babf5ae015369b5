"""Exact parameter counts of every named model, at 224 pixels with 1000 classes, from their papers' code and from timm.

A width in the wrong place trains, and only a count tells.
"""

import pytest
import timm
import torch
from torch import nn

from mixonomy.models import CURATED, FAMILIES, create, list_models
from mixonomy.models.timm_weights import _TWINS

COUNTS = {
    # MLP-Mixer paper, table 1; B/32, B/16 and L/16 are in vision_transformer vit_jax/models_test.py.
    "mixer-s/32": 19_104_624,
    "mixer-s/16": 18_528_264,
    "mixer-b/32": 60_293_428,
    "mixer-b/16": 59_880_472,
    "mixer-l/32": 206_939_264,
    "mixer-l/16": 208_196_168,
    "mixer-h/14": 432_350_952,
    # vision_transformer vit_jax/models_test.py; S/32 and L/32 from timm.
    "vit-ti/16": 5_717_416,
    "vit-s/32": 22_878_952,
    "vit-s/16": 22_050_664,
    "vit-b/32": 88_224_232,
    "vit-b/16": 86_567_656,
    "vit-l/32": 306_535_400,
    "vit-l/16": 304_326_632,
    "vit-h/14": 632_045_800,
    # timm.
    "resmlp-12": 15_350_872,
    "resmlp-24": 30_020_680,
    "resmlp-36": 44_690_488,
    "resmlp-big-24": 129_138_280,
    "gmlp-ti/16": 5_867_328,
    "gmlp-s/16": 19_422_656,
    "gmlp-b/16": 73_075_392,
    "convmixer-1536/20": 51_625_960,
    "convmixer-768/32": 21_110_248,
    "convmixer-1024/20": 24_383_464,
    # By hand: stem (12 + 1 + 2) 256, eight blocks of (25 + 1 + 2 + 256 + 1 + 2) 256, head 257 x 1000. With ten classes
    # the 0.594 M of the SplitMixer README.
    "convmixer-256/8": 848_616,
    # Mixer-S/16 and B/16 without their token MLPs: 8 x 100,804 less, and 12 x 151,108; a depthwise 7 x 7 is 50 C.
    "pool-s/16": 18_528_264 - 8 * 100_804,
    "pool-b/16": 59_880_472 - 12 * 151_108,
    "dwconv-s/16": 18_528_264 - 8 * 100_804 + 8 * 50 * 512,
    "dwconv-b/16": 59_880_472 - 12 * 151_108 + 12 * 50 * 768,
}
# MLP-Mixer paper, table 1, in millions.
PAPER = {"s/32": 19, "s/16": 18, "b/32": 60, "b/16": 59, "l/32": 206, "l/16": 207, "h/14": 431}


def build(name: str, **options) -> nn.Module:
    """A model without memory for its weights."""
    with torch.device("meta"):
        return create(name, **options)


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_count_is_exact(name):
    assert count(build(name)) == COUNTS[name]


def test_every_name_has_a_parameter_count():
    specs = [name for family in FAMILIES.values() for name in family.specs]
    assert sorted(specs) == sorted(COUNTS)
    assert sorted(list_models()) == sorted([*FAMILIES, *specs, *CURATED])


@pytest.mark.parametrize("name", PAPER)
def test_papers_table_counts_a_mixer_without_its_head(name):
    model = build(f"mixer-{name}")
    assert round((count(model) - count(model.get_submodule("head"))) / 1e6) == PAPER[name]


@pytest.mark.slow
@pytest.mark.parametrize(("theirs", "ours"), [pair for twin in _TWINS.values() for pair in twin.architectures.items()])
def test_parameter_count_is_timms(theirs, ours):
    with torch.device("meta"):
        model = timm.create_model(theirs, num_classes=1000)
    assert count(model) == COUNTS[ours]


def test_small_convmixer_has_the_published_count_with_ten_classes():
    assert count(build("convmixer-256/8", num_classes=10, image_size=32)) == 594_186
