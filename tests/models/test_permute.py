"""Permuted Mixers: equal logits on shuffled images, and images shuffled as a loop over pixels shuffles them.

Axes: B images, S patches, P patch size.
"""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import mixonomy as mx
from mixonomy.models import ModelInfo, info_of, permuted, set_info, shuffle_patches
from mixonomy.preprocessing import Preprocessing

PATCH = 2
GRID = (2, 3)  # rows and columns of patches
NUM_PATCHES = GRID[0] * GRID[1]
IMAGE_SIZE = (GRID[0] * PATCH, GRID[1] * PATCH)


FAMILIES = {
    "mixer": {"tokens_mlp_dim": 5},
    "vit": {"num_heads": 2},
    "vit of the mean": {"num_heads": 2, "pool": "mean"},
    "resmlp": {},
    "gmlp": {},
}


def tiny(dtype: torch.dtype = torch.float64, family: str = "mixer") -> nn.Module:
    """A model on a 2 x 3 grid whose weights, biases and head are all drawn at random."""
    torch.manual_seed(0)
    sizes = {"patch_size": PATCH, "hidden_dim": 8, "num_blocks": 2, "channels_mlp_dim": 12, **FAMILIES[family]}
    model = mx.create(family.split()[0], num_classes=4, image_size=IMAGE_SIZE, **sizes)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model.to(dtype).eval()


def random_images(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(3, 3, *IMAGE_SIZE, generator=torch.Generator().manual_seed(1), dtype=dtype)


@settings(max_examples=25)
@given(st.permutations(range(NUM_PATCHES)), st.permutations(range(PATCH * PATCH)))
def test_permuted_model_gives_equal_logits_on_shuffled_images(patches, pixels):
    model, images = tiny(), random_images()
    shuffled = shuffle_patches(images, PATCH, patches=patches, pixels=pixels)
    with torch.inference_mode():
        logits = permuted(model, patches=patches, pixels=pixels)(shuffled)
        torch.testing.assert_close(logits, model(images), rtol=1e-12, atol=1e-12)  # sums in another order


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_whose_layers_know_no_neighbours_can_be_permuted(family):
    model, images = tiny(family=family), random_images()
    patches, pixels = [3, 1, 5, 0, 2, 4], [2, 0, 3, 1]
    shuffled = shuffle_patches(images, PATCH, patches=patches, pixels=pixels)
    with torch.inference_mode():
        logits = permuted(model, patches=patches, pixels=pixels)(shuffled)
        torch.testing.assert_close(logits, model(images), rtol=1e-12, atol=1e-12)
        assert (model(shuffled) - model(images)).abs().max() > 1e-3, "the plain model sees the difference"


@pytest.mark.parametrize("changes", [{"patches": [1, 2, 0, 3, 4, 5]}, {"pixels": [1, 2, 3, 0]}])
def test_either_permutation_alone_is_enough_and_does_change_the_model(changes):
    model, images = tiny(), random_images()
    shuffled = shuffle_patches(images, PATCH, **changes)
    with torch.inference_mode():
        torch.testing.assert_close(permuted(model, **changes)(shuffled), model(images), rtol=1e-12, atol=1e-12)
        assert (model(shuffled) - model(images)).abs().max() > 1e-3, "the plain model sees the difference"


def test_permuted_model_keeps_dtype_mode_and_info_and_leaves_the_given_one_alone():
    model = tiny(torch.bfloat16)
    set_info(model, ModelInfo({}, Preprocessing(IMAGE_SIZE), class_names=("a", "b", "c", "d")))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = permuted(model, patches=torch.tensor([5, 4, 3, 2, 1, 0]), pixels=(3, 2, 1, 0))
    assert info_of(result) == info_of(model) and not result.training
    assert {p.dtype for p in result.parameters()} == {torch.bfloat16}
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not torch.equal(result.stem.proj.weight, model.stem.proj.weight)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_shuffled_images_are_those_of_a_loop_over_patches_and_pixels(dtype):
    images = torch.arange(2 * 3 * IMAGE_SIZE[0] * IMAGE_SIZE[1]).reshape(2, 3, *IMAGE_SIZE).to(dtype)
    patches, pixels = [4, 2, 0, 1, 5, 3], [2, 0, 3, 1]
    expected = torch.empty_like(images)
    for s, source in enumerate(patches):
        for p, pixel in enumerate(pixels):
            row, column = s // GRID[1] * PATCH + p // PATCH, s % GRID[1] * PATCH + p % PATCH
            from_row = source // GRID[1] * PATCH + pixel // PATCH
            from_column = source % GRID[1] * PATCH + pixel % PATCH
            expected[:, :, row, column] = images[:, :, from_row, from_column]
    shuffled = shuffle_patches(images, PATCH, patches=patches, pixels=pixels)
    assert torch.equal(shuffled, expected) and shuffled.dtype == dtype


def test_patches_of_one_pixel_permute_the_whole_image():
    images = random_images()
    order = torch.randperm(images[0, 0].numel(), generator=torch.Generator().manual_seed(2))
    shuffled = shuffle_patches(images, 1, patches=order)
    assert torch.equal(shuffled.flatten(2), images.flatten(2)[:, :, order])


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({}, "nothing to permute; give patches, pixels or both."),
        ({"patches": [0, 1, 2]}, "the 6 patches of this model holds each number from 0 to 5 once; got 3 numbers."),
        ({"patches": [0, 1, 2, 3, 4, 4]}, "got 6 numbers, some of them twice or out of range."),
        ({"pixels": [1, 2, 3, 4]}, "the 4 pixels of a 2x2 patch holds each number from 0 to 3 once"),
        ({"pixels": [0.0, 1.0, 2.0, 3.0]}, "a permutation is torch.float32 [4]; give one row of whole numbers."),
    ],
)
def test_wrong_permutations_are_one_sentence(changes, complaint):
    with pytest.raises(ValueError, match=re.escape(complaint)):
        permuted(tiny(), **changes)
    with pytest.raises(ValueError, match=re.escape(complaint.replace("of this model", "of a 2x3 grid"))):
        shuffle_patches(random_images(), PATCH, **changes)


@pytest.mark.parametrize(
    ("images", "patch_size", "complaint"),
    [
        (torch.zeros(3, 4, 6), 2, "images have the shape [3, 4, 6]; give [B, c, H, W]."),
        (torch.zeros(1, 3, 4, 6), 4, "image size 4x6 is not divisible by patch size 4"),
        (torch.zeros(1, 3, 4, 6), 0, "the patch size is 0; give at least 1."),
    ],
)
def test_images_that_cannot_be_shuffled_are_one_sentence(images, patch_size, complaint):
    with pytest.raises(ValueError, match=re.escape(complaint)):
        shuffle_patches(images, patch_size, pixels=range(patch_size**2))


def test_other_models_are_refused():
    with pytest.raises(ValueError, match="only a Mixer, ViT, ResMLP or gMLP can be permuted, not a Conv2d"):
        permuted(nn.Conv2d(3, 4, 2), pixels=[0, 1, 2, 3])
    with pytest.raises(ValueError, match="not a PoolMixer: its layers know which"):
        permuted(mx.create("pool-s/16", num_blocks=1), pixels=range(256))
