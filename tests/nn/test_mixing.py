"""The table of the taxonomy: what each kind of layer mixes, ours, torch's and timm's.

Axes: B images, S tokens, C channels.
"""

import copy
import re
from functools import partial

import pytest
import torch
from timm.layers import GatedMlp, SelectAdaptivePool2d
from timm.layers import LayerScale as TimmLayerScale
from timm.layers.squeeze_excite import SEModule
from timm.models.mlp_mixer import ResBlock
from timm.models.mlp_mixer import SpatialGatingUnit as TimmGatingUnit
from timm.models.vision_transformer import Attention
from torch import Tensor, nn

import mixonomy as mx
from mixonomy.nn import (
    MLP,
    Affine,
    Block,
    DepthwiseConv,
    DropPath,
    PatchEmbed,
    Pooling,
    SelfAttention,
    SpatialGatingUnit,
    TokenLinear,
    TokenMLP,
)
from mixonomy.nn.block import LayerScale
from mixonomy.nn.mixing import MixingPattern, mixing_pattern

NEITHER = MixingPattern(locations=False, channels=False)
CHANNELS = MixingPattern(locations=False, channels=True)
LOCATIONS = MixingPattern(locations=True, channels=False)
BOTH = MixingPattern(locations=True, channels=True)

S, C = 9, 6
TOKENS = (2, S, C)
IMAGE = (2, C, 4, 6)  # not square


class TorchAttention(nn.Module):
    """torch's attention with one input and one output."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(C, num_heads=2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


class Shift(nn.Module):
    """The first half of the channels comes from the location before (S^2-MLP's way to mix locations)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x[..., : C // 2].roll(1, dims=1), x[..., C // 2 :]], dim=-1)


class Function(nn.Module):
    """A function as a layer."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Skip(nn.Module):
    """A layer with a skip around it."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer(x)


class PartialConv(nn.Module):
    """A 3 x 3 convolution of two channels that leaves the others as they are."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.conv(x[:, :2]), x[:, 2:]], dim=1)


def zero(layer: nn.Module) -> nn.Module:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


# The first rows are the table of docs/taxonomy.md, "Three kinds of layer". Seeded, since of two hidden units drawn at
# random both can be silent for every probe.
torch.manual_seed(0)
TABLE = [
    ("channel MLP", MLP(C, 12), TOKENS, CHANNELS),
    ("1x1 convolution", nn.Conv2d(C, 8, 1), IMAGE, CHANNELS),
    ("token MLP", TokenMLP(S, 5), TOKENS, LOCATIONS),
    ("depthwise convolution", nn.Conv2d(C, C, 3, padding=1, groups=C), IMAGE, LOCATIONS),
    ("token map", TokenLinear(S), TOKENS, LOCATIONS),
    ("depthwise convolution over the grid", DepthwiseConv(C, (3, 3), kernel_size=3), TOKENS, LOCATIONS),
    ("pooling over the grid", Pooling((3, 3)), TOKENS, LOCATIONS),
    ("average pooling", nn.AvgPool2d(2), IMAGE, LOCATIONS),
    ("max pooling of one channel", nn.MaxPool2d(2), (2, 1, 4, 6), LOCATIONS),
    ("global pooling", SelectAdaptivePool2d(flatten=True), IMAGE, LOCATIONS),
    ("3x3 convolution", nn.Conv2d(C, 8, 3, padding=1), IMAGE, BOTH),
    ("self-attention", SelfAttention(C, num_heads=2), TOKENS, BOTH),
    ("torch's self-attention", TorchAttention(), TOKENS, BOTH),
    ("timm's self-attention", Attention(C, num_heads=2), TOKENS, BOTH),
    ("gating unit and projection", nn.Sequential(SpatialGatingUnit(C, S), nn.Linear(C // 2, C)), TOKENS, BOTH),
    ("timm's gating unit and projection", nn.Sequential(TimmGatingUnit(C, S), nn.Linear(C // 2, C)), TOKENS, BOTH),
    ("gMLP's channel MLP", GatedMlp(C, 8, gate_layer=partial(TimmGatingUnit, seq_len=S)), TOKENS, BOTH),
    # Convolutions of other shapes.
    ("grouped 1x1 convolution", nn.Conv2d(C, C, 1, groups=2), IMAGE, CHANNELS),
    ("strided 1x1 convolution", nn.Conv2d(C, 8, 1, stride=2), IMAGE, CHANNELS),
    ("patch embedding", PatchEmbed(C, 8, 2), IMAGE, BOTH),
    ("depthwise, two outputs each", nn.Conv2d(C, 2 * C, 3, padding=1, groups=C), IMAGE, LOCATIONS),
    ("strided depthwise", nn.Conv2d(C, C, 2, stride=2, groups=C), IMAGE, LOCATIONS),
    ("partial convolution", PartialConv(), IMAGE, BOTH),
    ("squeeze and excite", SEModule(C, rd_channels=2), IMAGE, BOTH),
    # Normalisations: what the Jacobian says.
    ("layer norm", nn.LayerNorm(C), TOKENS, CHANNELS),
    ("RMS norm", nn.RMSNorm(C), TOKENS, CHANNELS),
    ("batch norm", nn.BatchNorm2d(C), IMAGE, NEITHER),
    ("group norm of one group", nn.GroupNorm(1, C), IMAGE, BOTH),
    ("group norm of one channel each", nn.GroupNorm(C, C), IMAGE, LOCATIONS),
    ("instance norm", nn.InstanceNorm2d(C), IMAGE, LOCATIONS),
    # What mixes nothing.
    ("identity", nn.Identity(), TOKENS, NEITHER),
    ("GELU", nn.GELU(), TOKENS, NEITHER),
    ("ReLU in place", nn.ReLU(inplace=True), IMAGE, NEITHER),
    ("layer scale", LayerScale(C, 1e-6), TOKENS, NEITHER),
    ("timm's layer scale", TimmLayerScale(C, init_values=1e-6), TOKENS, NEITHER),
    ("affine map of each channel", Affine(C), TOKENS, NEITHER),
    ("dropout", nn.Dropout(0.5), TOKENS, NEITHER),
    ("stochastic depth", DropPath(0.5), TOKENS, NEITHER),
    ("tokens in another order", Function(lambda x: x.flip(1)), TOKENS, NEITHER),
    ("position embedding", Function(lambda x: x + torch.arange(S)[:, None]), TOKENS, NEITHER),
    # Skips count for nothing, what is added to them does.
    ("skip around a token MLP", Skip(TokenMLP(S, 5)), TOKENS, LOCATIONS),
    ("skip around a shift of all", Function(lambda x: x + x.roll(1, dims=1)), TOKENS, LOCATIONS),
    ("shift of half the channels", Shift(), TOKENS, LOCATIONS),
    ("Mixer block", Block(C, TokenMLP(S, 5), MLP(C, 12)), TOKENS, BOTH),
    ("scaled block of nothing", Block(C, Affine(C), Affine(C), norm=Affine, layer_scale=1e-6), TOKENS, NEITHER),
    # Weights that start at zero or next to it, and units that are mostly silent.
    ("zero head", zero(nn.Linear(C, 4)), TOKENS, CHANNELS),
    ("zero 3x3 convolution", zero(nn.Conv2d(C, C, 3, padding=1)), IMAGE, BOTH),
    ("ResMLP block, layer scale 1e-6", ResBlock(C, S, init_values=1e-6), TOKENS, BOTH),
    ("convolution and ReLU", nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.ReLU()), (2, 1, 4, 6), LOCATIONS),
    ("one location", nn.Conv2d(C, C, 3, padding=1), (2, C, 1, 1), CHANNELS),
]


@pytest.mark.parametrize(("layer", "shape", "expected"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_layer_mixes_what_the_taxonomy_says(layer, shape, expected):
    assert mixing_pattern(layer, torch.zeros(shape)) == expected


def test_whole_model_from_image_to_logits_mixes_both():
    sizes = {"patch_size": 2, "hidden_dim": 4, "num_blocks": 1, "tokens_mlp_dim": 3, "channels_mlp_dim": 5}
    model = mx.create("mixer", num_classes=3, image_size=(4, 6), **sizes)
    assert mx.mixing_pattern(model, torch.zeros(1, 3, 4, 6)) == BOTH, "though its head starts at zero"


def test_zeros_among_other_weights_are_kept():
    diagonal = nn.Linear(C, C)
    with torch.no_grad():
        diagonal.weight.copy_(torch.eye(C))
    assert mixing_pattern(diagonal, torch.zeros(TOKENS)) == NEITHER


@pytest.mark.parametrize("seed", range(20))
def test_a_single_mixing_output_is_found_with_any_seed(seed):
    """One of 64 channels gets one other channel: the hardest case that the docstring counts."""
    linear = nn.Linear(64, 64)
    with torch.no_grad():
        linear.weight.copy_(torch.eye(64))
        linear.weight[5, 40] = 1.0
    assert mixing_pattern(linear, torch.zeros(1, 2, 64), seed=seed) == CHANNELS


def test_pattern_agrees_with_the_full_jacobian():
    """Independent of the probes: the matrix by autograd, at one random input."""
    torch.manual_seed(0)
    x = torch.randn(1, C, 3, 4, dtype=torch.float64)
    for groups, size in [(1, 1), (1, 3), (C, 1), (C, 3), (2, 3)]:
        conv = nn.Conv2d(C, C, size, padding=size // 2, groups=groups).double()
        jacobian = torch.autograd.functional.jacobian(conv, x).flatten(6, 7).flatten(2, 3)[0, :, :, 0]  # [C, S, C, S]
        by_channel = (jacobian != 0).any(dim=3).any(dim=1).sum(1).max()  # of [C, C]
        by_location = (jacobian != 0).any(dim=2).any(dim=0).sum(1).max()  # of [S, S]
        expected = MixingPattern(locations=bool(by_location > 1), channels=bool(by_channel > 1))
        assert mixing_pattern(conv, x) == expected


def test_the_layer_is_left_as_it_is():
    layer = nn.Sequential(nn.Linear(C, C), nn.BatchNorm1d(S), nn.Dropout(0.5)).train()
    nn.init.zeros_(layer[0].weight)
    before, random_state = copy.deepcopy(layer.state_dict()), torch.get_rng_state()
    mixing_pattern(layer, torch.zeros(TOKENS, dtype=torch.bfloat16))
    assert layer.training and layer[0].weight.dtype == torch.float32
    assert all(torch.equal(before[name], tensor) for name, tensor in layer.state_dict().items())
    assert torch.equal(random_state, torch.get_rng_state()), "nor is torch's generator moved"


@pytest.mark.parametrize(
    ("layer", "example", "complaint"),
    [
        (nn.Identity(), torch.zeros(2, 3), "the example is torch.float32 [2, 3]; give a float tensor [B, S, C]"),
        (nn.Identity(), torch.zeros(TOKENS, dtype=torch.uint8), "the example is torch.uint8 [2, 9, 6]"),
        (nn.Identity(), [1.0], "the example is list"),
        (nn.Identity(), torch.zeros(2, 0, 3), "the example has the shape [2, 0, 3]; give one that is not empty."),
        (nn.LSTM(C, 4), torch.zeros(TOKENS), "LSTM returns a tuple; wrap it so that it returns one tensor."),
        (Function(torch.isnan), torch.zeros(TOKENS), "Function returns torch.bool [1, 9, 6]; only float outputs"),
        (Function(torch.log), torch.zeros(TOKENS), "Function returns values that are not finite"),
    ],
)
def test_what_has_no_pattern_is_refused_in_one_sentence(layer, example, complaint):
    with pytest.raises(ValueError, match=re.escape(complaint)):
        mixing_pattern(layer, example)
