"""Packed layers compute what the layers they stand for compute; integers stay close."""

import pytest
import torch
from torch import nn

import mixonomy as mx
from mixonomy.inference import openvino
from mixonomy.inference.int8 import Int8Linear, Range, int8
from mixonomy.inference.packed import PatchLinear, exchange, packed
from mixonomy.inference.paths import difference
from mixonomy.nn import MLP, TokenMLP

SIZES = {"patch_size": 4, "hidden_dim": 32, "num_blocks": 2}
MODELS = {
    "mixer": {"tokens_mlp_dim": 24, "channels_mlp_dim": 64},
    "vit": {"channels_mlp_dim": 64, "num_heads": 2},
    "resmlp": {"channels_mlp_dim": 64},
    "gmlp": {"channels_mlp_dim": 64},
    "convmixer": {"kernel_size": 3},
    "pool": {"kernel_size": 3, "channels_mlp_dim": 64},
}

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


def filled(model):
    """The model with no weight at zero, in evaluation mode."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.detach().std(correction=0) < 1e-3:
            nn.init.normal_(parameter, mean=float(parameter.detach().mean()), std=0.1)
    return model.eval()


def small(name, image_size=(16, 24)):
    return filled(mx.create(name, num_classes=7, image_size=image_size, **SIZES, **MODELS[name]))


@pytest.mark.parametrize("name", MODELS)
@torch.inference_mode()
def test_packed_model_equals_the_model_in_float32(name):
    model, images = small(name), torch.randn(5, 3, 16, 24)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert difference(packed(model, torch.float32)(images), model(images)) < 1e-5
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@torch.inference_mode()
def test_packed_model_of_timm_equals_the_model():
    model, images = filled(mx.create("timm:mixer_s32_224", num_classes=7, image_size=224)), torch.randn(2, 3, 224, 224)
    assert difference(packed(model, torch.float32)(images), model(images)) < 1e-5


@torch.inference_mode()
def test_a_mixer_has_no_layer_left_that_is_slower():
    kinds = {type(module) for module in packed(small("mixer"), torch.float32).modules()}
    assert not kinds & {nn.Linear, nn.Conv2d, MLP}


@pytest.mark.parametrize("kwargs", [{"stride": 2}, {"stride": 4, "padding": 1}, {"stride": 4, "groups": 3}])
def test_other_convolutions_stay(kwargs):
    conv = nn.Conv2d(3, 6, 4, **kwargs)
    assert exchange(conv) is conv


def test_windows_that_are_not_square():
    conv, images = nn.Conv2d(3, 6, (2, 4), stride=(2, 4)), torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(PatchLinear(conv)(images), conv(images))


def test_the_two_forms_of_gelu_differ_by_less_than_bfloat16_shows():
    x = torch.linspace(-8, 8, 100_001, dtype=torch.float64)
    largest = (nn.functional.gelu(x) - nn.functional.gelu(x, approximate="tanh")).abs().max()
    assert 4e-4 < largest < 5e-4  # as `packed` says


def test_range_represents_zero_exactly():
    seen = Range()
    seen.add(torch.tensor([1.5, 3.0]))
    assert (seen.low, seen.high) == (0.0, 3.0) and seen.zero_point == 0
    seen.add(torch.tensor([-1.0]))
    assert 0 < seen.zero_point < 255 and seen.scale == pytest.approx(4 / 255)


@torch.inference_mode()
def test_int8_linear_equals_its_integers_in_float():
    torch.manual_seed(0)
    linear, seen = nn.Linear(64, 32), Range(-2.0, 2.0)
    x = torch.randint(0, 256, (5, 64), dtype=torch.uint8)
    weight = linear.weight.abs().amax(1, keepdim=True) / 127
    rounded = (linear.weight / weight).round() * weight
    expected = (x.float() - seen.zero_point) * seen.scale @ rounded.T + linear.bias
    found = Int8Linear(linear, seen)(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=2**-7, atol=1e-2)


@torch.inference_mode()
def test_int8_mixer_is_close_on_images_like_those_it_was_calibrated_on():
    model, images = small("mixer"), torch.randn(64, 3, 16, 24)
    assert difference(int8(model, images)(images.bfloat16()).float(), model(images)) < 0.05


@torch.inference_mode()
def test_int8_needs_blocks_it_knows():
    with pytest.raises(ValueError, match="no block of LayerNorm and MLP"):
        int8(small("resmlp"), torch.randn(64, 3, 16, 24))


@torch.inference_mode()
def test_openvino_int8_is_close_whatever_the_batch():
    pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    model, images = small("mixer"), torch.randn(64, 3, 16, 24)
    predict = openvino.int8(model, images)
    for count in (64, 5, 1):
        assert difference(predict(images[:count]), model(images[:count])) < 0.1
    assert type(model.blocks[0].token_mixer) is TokenMLP, "the model is left as it is"
