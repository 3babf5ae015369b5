"""Mixers at other image sizes: what they compute before any training, exactly; what they cost; what stays.

Axes: B images, S tokens, C channels.
"""

import re

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import mixonomy as mx
from mixonomy.models import ModelInfo, info_of, set_info
from mixonomy.models.resize import block_places, resampling
from mixonomy.preprocessing import Preprocessing

SIZES = {"patch_size": 2, "hidden_dim": 8, "num_blocks": 2, "tokens_mlp_dim": 5, "channels_mlp_dim": 12}
IMAGE_SIZE = (4, 6)  # 2 x 3 tokens


def random_weights(model: nn.Module, std: float = 0.5) -> nn.Module:
    """The same model, in evaluation and float64, with every weight, bias and norm drawn at random."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.double().parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * std
    return model.eval()


def tiny(image_size: tuple[int, int] = IMAGE_SIZE) -> nn.Module:
    return random_weights(mx.create("mixer", num_classes=4, image_size=image_size, **SIZES))


def random_images(size: tuple[int, int], count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def mean_over_blocks(model: nn.Module, images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The mean of a model's logits over the sub-images of its size, cut out one by one."""
    height, width = size
    found = [
        model(images[:, :, top : top + height, left : left + width])
        for top in range(0, images.shape[2], height)
        for left in range(0, images.shape[3], width)
    ]
    return torch.stack(found).mean(0)


@pytest.mark.parametrize(("down", "across"), [(2, 2), (3, 3), (1, 2), (3, 1), (2, 3)])
@pytest.mark.parametrize("image_size", [IMAGE_SIZE, (4, 4)])
def test_logits_at_multiples_of_the_size_are_the_mean_over_sub_images(image_size, down, across):
    model, size = tiny(image_size), (image_size[0] * down, image_size[1] * across)
    images = random_images(size)
    with torch.inference_mode():
        expected = mean_over_blocks(model, images, image_size)
        for method in ("auto", "blocks"):
            torch.testing.assert_close(mx.resize(model, size, method)(images), expected, rtol=0, atol=1e-10)
        assert expected.std(0).min() > 1e-3, "images differ in their logits"


@pytest.mark.slow
@pytest.mark.parametrize("factor", [2, pytest.param(3, marks=pytest.mark.very_slow)])
def test_logits_of_b16_at_multiples_of_224_are_the_mean_over_sub_images(factor):
    model = random_weights(mx.create("mixer-b/16", num_classes=10), std=0.02)
    images = random_images((224 * factor, 224 * factor), count=1)
    with torch.inference_mode():
        expected = mean_over_blocks(model, images, (224, 224))
        torch.testing.assert_close(mx.resize(model, 224 * factor)(images), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("method", ["auto", "blocks", "interpolate"])
def test_equal_size_is_the_identity_in_weights_of_its_own(method):
    model = tiny()
    result = mx.resize(model, IMAGE_SIZE, method)
    assert info_of(result) == info_of(model) and result is not model
    for (name, tensor), (_, other) in zip(model.state_dict().items(), result.state_dict().items(), strict=True):
        assert torch.equal(tensor, other) and tensor.data_ptr() != other.data_ptr(), name


# Source: paper.md, section 4.3 (parameters of the backbone in millions, multiplications in billions, at 448 pixels).
@pytest.mark.parametrize(
    ("name", "parameters", "macs"),
    [("mixer-b/16", 86.2, 67.1), ("mixer-l/16", 279.5, 237.4), ("mixer-h/14", 588.4, 645.0)],
)
def test_cost_at_448_is_what_the_paper_implies(name, parameters, macs):
    with torch.device("meta"):
        model = mx.create(name).eval()
        resized = mx.resize(model, 448)
        backbone = sum(p.numel() for name, p in resized.named_parameters() if not name.startswith("head"))
        with FlopCounterMode(display=False) as counter:
            resized(torch.empty(1, 3, 448, 448))
    assert backbone / 1e6 == pytest.approx(parameters, abs=0.05)
    assert counter.get_total_flops() / 2e9 == pytest.approx(macs, rel=1e-3)


def test_blocks_are_those_of_a_loop_over_the_grid():
    old, new = (2, 3), (4, 9)
    expected = [
        [(top + row) * new[1] + left + column for row in range(old[0]) for column in range(old[1])]
        for top in range(0, new[0], old[0])
        for left in range(0, new[1], old[1])
    ]
    assert block_places(old, new).tolist() == expected


@pytest.mark.parametrize(("old", "new"), [((3, 4), (5, 7)), ((7, 6), (4, 4)), ((2, 9), (6, 3)), ((3, 3), (3, 3))])
def test_resampling_is_torchs_antialiased_bilinear_interpolation(old, new):
    maps = torch.randn(2, 1, *old, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    expected = nn.functional.interpolate(maps, new, mode="bilinear", antialias=True, align_corners=False)
    torch.testing.assert_close(maps.flatten(1) @ resampling(old, new).T, expected.flatten(1), rtol=0, atol=1e-12)
    assert resampling(old, new).min() >= 0
    torch.testing.assert_close(resampling(old, new).sum(1), torch.ones(new[0] * new[1], dtype=torch.float64))


@pytest.mark.parametrize("size", [(6, 8), (10, 6), (2, 2), (8, 12)])
def test_interpolated_token_mlp_gives_equal_tokens_the_old_hidden_units_and_the_old_map_resampled(size):
    model, new_grid = tiny(), (size[0] // 2, size[1] // 2)
    resized = mx.resize(model, size, "interpolate")
    equal = torch.randn(2, 1, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    with torch.inference_mode():
        for block, other in zip(model.blocks, resized.blocks, strict=True):
            old, new = block.token_mixer, other.token_mixer
            tokens = equal.expand(-1, 6, -1), equal.expand(-1, new_grid[0] * new_grid[1], -1)
            hidden = [mlp.fc1(x.transpose(0, 1).flatten(1)) for mlp, x in zip((old, new), tokens, strict=True)]
            torch.testing.assert_close(hidden[0], hidden[1], rtol=0, atol=1e-12)
            before, after = old(tokens[0]), new(tokens[1])
            torch.testing.assert_close(after, resampling((2, 3), new_grid) @ before, rtol=0, atol=1e-12)
            assert (after.amax(1) <= before.amax(1) + 1e-12).all() and (after.amin(1) >= before.amin(1) - 1e-12).all()


def test_constant_image_has_the_same_logits_where_the_token_mlps_write_equal_tokens():
    model = tiny()
    with torch.no_grad():
        for block in model.blocks:
            block.token_mixer.fc2.weight.copy_(block.token_mixer.fc2.weight.mean(0, keepdim=True).expand(6, -1))
            block.token_mixer.fc2.bias.fill_(0.3)
    colour = torch.randn(1, 3, 1, 1, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    with torch.inference_mode():
        expected = model(colour.expand(-1, -1, *IMAGE_SIZE))
        for size in ((6, 8), (10, 2), (8, 12)):
            logits = mx.resize(model, size, "interpolate")(colour.expand(-1, -1, *size))
            torch.testing.assert_close(logits, expected, rtol=0, atol=1e-10)


def test_dtype_mode_names_and_what_is_frozen_stay_and_the_given_model_is_left_alone():
    model = tiny().to(torch.bfloat16).train()
    model.blocks[1].token_mixer.fc1.weight.requires_grad_(False)
    model.blocks[0].token_mixer.eval()
    info = ModelInfo(info_of(model).arguments, Preprocessing(IMAGE_SIZE, crop="pad"), tuple("abcd"), temperature=2.0)
    set_info(model, info)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for size, dim in (((8, 6), 10), ((6, 6), 5)):
        result = mx.resize(model, size)
        kept = info_of(result)
        assert (kept.class_names, kept.temperature, kept.preprocessing) == (
            tuple("abcd"),
            2.0,
            Preprocessing(size, crop="pad"),
        )
        assert kept.arguments["tokens_mlp_dim"] == dim and kept.arguments["image_size"] == list(size)
        assert {p.dtype for p in result.parameters()} == {torch.bfloat16}
        assert [m.training for m in result.modules()] == [m.training for m in model.modules()]
        frozen = [name for name, p in result.named_parameters() if not p.requires_grad]
        assert frozen == ["blocks.1.token_mixer.fc1.weight"]
    assert info_of(model) == info
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_resized_model_survives_saving_with_a_note_of_each_change(tmp_path):
    model = mx.resize(mx.resize(tiny().float(), (8, 12)), (10, 14))
    mx.save(model, tmp_path / "model.safetensors")
    again = mx.load(tmp_path / "model.safetensors")
    images = random_images((10, 14)).float()
    assert info_of(again) == info_of(model) and torch.equal(again(images), model(images))
    assert info_of(again).changes == (
        "resized from 4x6 to 8x12 pixels by block-diagonal token MLPs, one copy for each block of the old size",
        "resized from 8x12 to 10x14 pixels by interpolated token MLPs",
    )


def test_named_size_survives_saving_too(tmp_path):
    model = mx.resize(mx.create("mixer-s/32", image_size=32, num_classes=3), 64)
    mx.save(model, tmp_path / "model.safetensors")
    assert info_of(mx.load(tmp_path / "model.safetensors")).arguments["tokens_mlp_dim"] == 4 * 256


def test_mixer_without_info_is_taken_for_a_square_one_or_refused():
    square = mx.create("mixer", num_classes=2, image_size=4, in_channels=2, **SIZES)
    assert not hasattr(square, "mixonomy_info")
    assert mx.resize(square, 8)(torch.zeros(1, 2, 8, 8)).shape == (1, 2)
    oblong = mx.create("mixer", num_classes=2, image_size=(4, 6), in_channels=2, **SIZES)
    with pytest.raises(ValueError, match="this Mixer has 6 tokens and their grid is unknown"):
        mx.resize(oblong, 8)


@pytest.mark.parametrize(
    ("size", "method", "complaint"),
    [
        ((9, 12), "auto", "image size 9x12 is not divisible by patch size 2; use 8x12 or 10x12; a resized model"),
        ((6, 12), "blocks", "image size 6x12 is no multiple of 4x6, which method 'blocks' needs; use 4x12 or 8x12, or"),
        ((2, 6), "blocks", "is no multiple of 4x6, which method 'blocks' needs; use 4x6, or method 'interpolate'."),
        ((8, 12), "bicubic", "unknown method 'bicubic'; use auto, blocks, interpolate."),
    ],
)
def test_sizes_and_methods_that_do_not_work_are_one_sentence(size, method, complaint):
    with pytest.raises(ValueError, match=re.escape(complaint)):
        mx.resize(tiny(), size, method)


@pytest.mark.parametrize("pool", ["token", "mean"])
def test_positions_of_a_vit_are_resampled_and_the_class_token_keeps_its_own(pool, tmp_path):
    torch.manual_seed(0)
    sizes = {"patch_size": 4, "hidden_dim": 8, "num_blocks": 2, "channels_mlp_dim": 12, "num_heads": 2, "pool": pool}
    model = mx.create("vit", num_classes=3, image_size=(8, 12), **sizes).double().eval()
    torch.nn.init.normal_(model.head.weight)
    larger = mx.resize(model, (12, 20))
    first = int(pool == "token")
    old, new = model.stem.positions[0], larger.stem.positions[0]
    assert torch.equal(new[:first], old[:first]) and new.dtype == torch.float64
    grid = old[first:].T.reshape(1, 8, 2, 3)
    expected = torch.nn.functional.interpolate(grid, size=(3, 5), mode="bilinear", antialias=True)
    torch.testing.assert_close(new[first:].T.reshape(1, 8, 3, 5), expected, rtol=0, atol=1e-10)
    mx.save(larger, tmp_path / "m.safetensors")
    images = torch.rand(2, 3, 12, 20)
    loaded = mx.load(tmp_path / "m.safetensors")
    torch.testing.assert_close(loaded.double()(images.double()), larger(images.double()), rtol=1e-4, atol=1e-5)
    assert "interpolated positions" in info_of(loaded).changes[0]
    with pytest.raises(ValueError, match="method 'blocks' is for Mixers; a ViT is resized by 'interpolate'"):
        mx.resize(model, (16, 24), "blocks")


def test_other_models_are_refused():
    with pytest.raises(ValueError, match=r"a Conv2d cannot be resized; a Mixer and a ViT can\."):
        mx.resize(nn.Conv2d(3, 4, 2), 8)
