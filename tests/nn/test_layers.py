"""Layers: what they compute, what they mix, what they drop, and how they begin.

Axes: B images, S tokens, C channels.
"""

import copy
import math

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mixonomy.nn import MLP, Block, DropPath, PatchEmbed, TokenLinear, TokenMLP, initialise
from mixonomy.nn.init import TRUNCATED_STD


@pytest.mark.parametrize(
    ("gelu", "formula"),
    [
        ("tanh", lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))),
        ("erf", lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2)))),
    ],
)
def test_mlp_is_linear_gelu_linear(gelu, formula):
    torch.manual_seed(0)
    mlp = MLP(6, 12, gelu=gelu).double()
    x = torch.randn(2, 9, 6, dtype=torch.float64)
    hidden = (x @ mlp.fc1.weight.T + mlp.fc1.bias).detach().clone().apply_(formula)
    torch.testing.assert_close(mlp(x), hidden @ mlp.fc2.weight.T + mlp.fc2.bias, rtol=0, atol=1e-12)


def test_token_mlp_is_an_mlp_on_each_channels_column_of_tokens():
    torch.manual_seed(0)
    layer = TokenMLP(9, 5).double()
    plain = MLP(9, 5).double()
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(2, 9, 6, dtype=torch.float64)
    columns = torch.stack([plain(x[:, :, c]) for c in range(6)], dim=2)
    torch.testing.assert_close(layer(x), columns, rtol=0, atol=1e-12)


@pytest.mark.parametrize("is_contiguous", [True, False])
@pytest.mark.parametrize(("kind", "sizes"), [(TokenMLP, (9, 5)), (TokenLinear, (9,)), (MLP, (6, 12))])
def test_layer_in_bf16_has_the_gradients_of_float64_to_bf16s_precision(kind, sizes, is_contiguous):
    torch.manual_seed(0)
    layer = kind(*sizes)
    x = torch.randn(4, 9, 6) if is_contiguous else torch.randn(4, 6, 9).transpose(1, 2)
    wanted = torch.randn(4, 9, 6)

    def gradients(layer: nn.Module, x: torch.Tensor, *, is_bf16: bool = False) -> list[torch.Tensor]:
        x = x.detach().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
            out = layer(x)
        return list(torch.autograd.grad((out * wanted.to(x.dtype)).sum(), [x, *layer.parameters()]))

    exact = gradients(copy.deepcopy(layer).double(), x.double())
    for precision, tolerance in ((False, 1e-6), (True, 1e-2)):
        for ours, reference in zip(gradients(layer, x, is_bf16=precision), exact, strict=True):
            assert ours.dtype == torch.float32
            assert (ours - reference).norm() <= tolerance * reference.norm()


@pytest.mark.parametrize("layer", [TokenMLP(9, 5), TokenLinear(9)], ids=lambda layer: type(layer).__name__)
def test_weight_gradient_of_a_token_mixer_is_one_product_not_one_for_each_image(layer):
    with FlopCounterMode(display=False) as counter:
        layer(torch.randn(4, 9, 6, requires_grad=True)).sum().backward()
    assert {operator.__name__ for operator in counter.get_flop_counts()["Global"]} == {"addmm", "mm"}


@pytest.mark.parametrize(
    ("layer", "mixes_locations", "mixes_channels"),
    [(TokenMLP(9, 5), True, False), (MLP(6, 12), False, True)],
    ids=["token MLP", "channel MLP"],
)
def test_layer_mixes_what_the_taxonomy_says(layer, mixes_locations, mixes_channels):
    torch.manual_seed(0)
    layer, x = layer.double(), torch.randn(9, 6, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda x: layer(x[None])[0], x)  # [S, C, S, C]
    jacobian = jacobian.abs()
    between_locations = jacobian.sum((1, 3)) * (1 - torch.eye(9))
    between_channels = jacobian.sum((0, 2)) * (1 - torch.eye(6))
    assert bool((between_locations > 0).any()) == mixes_locations
    assert bool((between_channels > 0).any()) == mixes_channels


def test_patch_embedding_is_one_linear_map_of_patches_in_raster_order():
    torch.manual_seed(0)
    stem = PatchEmbed(3, 5, 4).double()
    images = torch.randn(2, 3, 8, 12, dtype=torch.float64)
    patches = [images[:, :, r : r + 4, c : c + 4].flatten(1) for r in (0, 4) for c in (0, 4, 8)]
    expected = torch.stack([p @ stem.proj.weight.flatten(1).T + stem.proj.bias for p in patches], dim=1)
    torch.testing.assert_close(stem(images), expected, rtol=0, atol=1e-12)
    assert stem(images).is_contiguous(), "all residual sums take these strides"


def test_block_is_two_normalised_branches_each_with_a_skip():
    torch.manual_seed(0)
    block = Block(6, TokenMLP(9, 5), MLP(6, 12)).double()
    x = torch.randn(2, 9, 6, dtype=torch.float64)

    def normalised(x):
        return (x - x.mean(2, keepdim=True)) / (x.var(2, keepdim=True, correction=0) + 1e-6).sqrt()

    expected = x + block.token_mixer(normalised(x))
    expected = expected + block.channel_mixer(normalised(expected))
    torch.testing.assert_close(block(x), expected, rtol=0, atol=1e-12)


def test_block_takes_another_norm():
    block = Block(6, nn.Identity(), nn.Identity(), norm=lambda dim: nn.Identity())
    assert torch.equal(block(torch.ones(1, 2, 6)), torch.full((1, 2, 6), 4.0))


def test_drop_path_keeps_or_zeroes_each_image_and_rescales_nothing():
    torch.manual_seed(0)
    layer = DropPath(0.3).train()
    out = layer(torch.ones(4000, 3, 2))
    assert all(len(image.unique()) == 1 for image in out)
    assert set(out.unique().tolist()) == {0.0, 1.0}
    dropped = (out[:, 0, 0] == 0).float().mean()
    assert abs(dropped - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 4000)


def test_drop_path_does_nothing_in_evaluation():
    x = torch.randn(5, 3, 2)
    assert torch.equal(DropPath(0.9).eval()(x), x)


def test_the_two_branches_of_a_block_are_dropped_independently():
    torch.manual_seed(0)

    class Constant(nn.Module):
        def __init__(self, value):
            super().__init__()
            self.value = value

        def forward(self, x):
            return torch.full_like(x, self.value)

    block = Block(4, Constant(1.0), Constant(2.0), drop_path=0.5).train()
    out = block(torch.zeros(4000, 2, 4))[:, 0, 0]
    shares = [(out == value).float().mean().item() for value in (0.0, 1.0, 2.0, 3.0)]
    assert shares == pytest.approx([0.25] * 4, abs=0.03)


def test_mlp_drops_after_the_gelu_and_after_the_second_layer():
    torch.manual_seed(0)
    mlp = MLP(50, 50, dropout=0.2).train()
    with torch.no_grad():
        mlp.fc1.weight.zero_()
        mlp.fc1.bias.fill_(1.0)  # hidden units are alike and not 0
        mlp.fc2.weight.copy_(torch.eye(50))
        mlp.fc2.bias.zero_()
    out = mlp(torch.zeros(400, 50))
    assert (out == 0).float().mean().item() == pytest.approx(1 - 0.8**2, abs=0.015)
    kept = out[out != 0].unique()
    torch.testing.assert_close(kept, nn.functional.gelu(torch.ones(1), approximate="tanh") / 0.8**2)


def test_dropout_does_nothing_in_evaluation():
    torch.manual_seed(0)
    with_dropout, without = MLP(6, 12, dropout=0.5), MLP(6, 12)
    without.load_state_dict(with_dropout.state_dict())
    x = torch.randn(2, 9, 6)
    assert torch.equal(with_dropout.eval()(x), without.eval()(x))


@pytest.mark.parametrize(
    ("layer", "fan_in"), [(nn.Linear(300, 400), 300), (nn.Conv2d(3, 600, 8, 8), 192)], ids=["linear", "convolution"]
)
def test_flax_initialisation_is_lecun_normal_truncated_at_two_sigma_with_zero_bias(layer, fan_in):
    torch.manual_seed(0)
    initialise(layer, "flax")
    std = math.sqrt(1 / fan_in)
    assert layer.weight.std().item() == pytest.approx(std, rel=0.01)
    assert layer.weight.mean().abs().item() < 0.01 * std
    assert layer.weight.abs().max().item() <= 2 * std / TRUNCATED_STD * (1 + 1e-6)
    assert not layer.bias.any()


def test_timm_initialisation_is_xavier_uniform_with_tiny_biases_for_linear_layers():
    torch.manual_seed(0)
    layer = nn.Linear(300, 500)
    initialise(layer, "timm")
    bound = math.sqrt(6 / (300 + 500))
    assert layer.weight.abs().max().item() == pytest.approx(bound, rel=1e-3)
    assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)
    assert layer.bias.std().item() == pytest.approx(1e-6, rel=0.2)


def test_initialisation_leaves_norms_alone():
    norm = nn.LayerNorm(6)
    initialise(norm)
    assert torch.equal(norm.weight, torch.ones(6)) and torch.equal(norm.bias, torch.zeros(6))


def test_truncation_constant_is_the_standard_deviation_that_is_left():
    # Of a standard normal cut at +-2: 1 - 2 * 2 * density(2) / P(|x| < 2).
    density = math.exp(-2) / math.sqrt(2 * math.pi)
    left = math.sqrt(1 - 4 * density / math.erf(math.sqrt(2)))
    assert pytest.approx(left, abs=1e-12) == TRUNCATED_STD
