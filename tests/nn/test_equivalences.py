"""The paper's remark that a Mixer is a convolutional network, part by part and whole, exact but for float64's rounding.

Axes: B images, S tokens in raster order, C channels, h and w rows and columns of tokens.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mixonomy as mx
from mixonomy.nn import (
    MLP,
    Block,
    DepthwiseConv,
    Pooling,
    SelfAttention,
    SpatialGatingUnit,
    TokenLinear,
    TokenMLP,
)

ROWS, COLUMNS, C = 3, 4, 6
S = ROWS * COLUMNS


def tokens(seed: int = 0) -> Tensor:
    return torch.randn(2, S, C, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def as_map(x: Tensor) -> Tensor:
    """[B, S, C] -> [B, C, h, w]."""
    return x.transpose(1, 2).unflatten(2, (ROWS, COLUMNS))


def channel_mixing(mlp: MLP, image: Tensor) -> Tensor:
    """The channel MLP as two 1 x 1 convolutions over [B, C, h, w]."""
    hidden = F.conv2d(image, mlp.fc1.weight[:, :, None, None], mlp.fc1.bias)
    return F.conv2d(mlp.act(hidden), mlp.fc2.weight[:, :, None, None], mlp.fc2.bias)


def token_mixing(mlp: TokenMLP, image: Tensor) -> Tensor:
    """The token MLP as two depthwise convolutions, whose kernels are as large as the map and shared by all channels.

    Each hidden unit is one kernel that covers the whole map [B, C, h, w]: one number for each channel. The way back is
    the same with the hidden units as the map.
    """
    channels, (rows, columns) = image.shape[1], image.shape[2:]
    kernels = mlp.fc1.weight.unflatten(1, (rows, columns))  # [D_S, h, w]
    hidden = [
        F.conv2d(image, kernel.expand(channels, 1, -1, -1), bias.expand(channels), groups=channels)  # [B, C, 1, 1]
        for kernel, bias in zip(kernels, mlp.fc1.bias, strict=True)
    ]
    act = mlp.act(torch.cat(hidden, dim=2))  # [B, C, D_S, 1]
    out = [
        F.conv2d(act, kernel[:, None].expand(channels, 1, -1, -1), bias.expand(channels), groups=channels)
        for kernel, bias in zip(mlp.fc2.weight, mlp.fc2.bias, strict=True)
    ]
    return torch.cat(out, dim=2).unflatten(2, (rows, columns)).squeeze(-1)  # [B, C, S, 1] -> [B, C, h, w]


def channel_norm(norm: nn.LayerNorm, image: Tensor) -> Tensor:
    """LayerNorm over the channels of [B, C, h, w]; its two means are 1 x 1 convolutions with equal weights."""
    channels = image.shape[1]
    average = torch.full((channels, channels, 1, 1), 1 / channels, dtype=image.dtype)
    centred = image - F.conv2d(image, average)
    scaled = centred / (F.conv2d(centred.square(), average) + norm.eps).sqrt()
    return F.conv2d(scaled, norm.weight[:, None, None, None], norm.bias, groups=channels)


def test_channel_mixing_is_a_1x1_convolution():
    mlp, x = MLP(C, 10).double(), tokens()
    torch.testing.assert_close(channel_mixing(mlp, as_map(x)), as_map(mlp(x)), rtol=0, atol=1e-13)


def test_token_mixing_is_a_depthwise_convolution_of_full_receptive_field_with_one_kernel_for_all_channels():
    mlp, x = TokenMLP(S, 5).double(), tokens()
    torch.testing.assert_close(token_mixing(mlp, as_map(x)), as_map(mlp(x)), rtol=0, atol=1e-13)


@pytest.mark.parametrize("gelu", ["tanh", "erf"])
def test_whole_mixer_is_a_convolutional_network(gelu):
    torch.manual_seed(0)
    sizes = {"patch_size": 4, "hidden_dim": C, "num_blocks": 3, "tokens_mlp_dim": 5, "channels_mlp_dim": 10}
    model = mx.create("mixer", num_classes=7, image_size=(4 * ROWS, 4 * COLUMNS), gelu=gelu, **sizes).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
        images = torch.randn(2, 3, 4 * ROWS, 4 * COLUMNS, dtype=torch.float64)
        stem, head = model.get_submodule("stem.proj"), model.get_submodule("head")
        x = F.conv2d(images, stem.weight, stem.bias, stride=4)
        for block in model.get_submodule("blocks").children():
            assert isinstance(block, Block)
            x = x + token_mixing(block.token_mixer, channel_norm(block.norm1, x))
            x = x + channel_mixing(block.channel_mixer, channel_norm(block.norm2, x))
        x = channel_norm(model.get_submodule("norm"), x)
        x = F.conv2d(x, torch.full((C, 1, ROWS, COLUMNS), 1 / S, dtype=x.dtype), groups=C)  # the mean over locations
        logits = F.conv2d(x, head.weight[:, :, None, None], head.bias)[:, :, 0, 0]
        torch.testing.assert_close(logits, model(images), rtol=0, atol=1e-12)


def test_token_map_is_a_matrix_over_the_tokens_of_each_channel():
    layer, x = TokenLinear(S).double(), tokens()
    expected = torch.stack([layer.weight @ image + layer.bias[:, None] for image in x])
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-13)


def test_depthwise_convolution_over_the_grid_is_torchs_over_the_map():
    layer, x = DepthwiseConv(C, (ROWS, COLUMNS), kernel_size=3).double(), tokens()
    expected = F.conv2d(as_map(x), layer.conv.weight, layer.conv.bias, padding=1, groups=C)
    torch.testing.assert_close(as_map(layer(x)), expected, rtol=0, atol=1e-13)


def test_pooling_is_the_mean_of_the_neighbours_that_exist_less_the_token():
    x = tokens()
    out, image = as_map(Pooling((ROWS, COLUMNS))(x)), as_map(x)
    for row in range(ROWS):
        for column in range(COLUMNS):
            window = image[:, :, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
            expected = window.mean(dim=(2, 3)) - image[:, :, row, column]
            torch.testing.assert_close(out[:, :, row, column], expected, rtol=0, atol=1e-14)


def test_attention_is_the_formula():
    torch.manual_seed(0)
    layer, x = SelfAttention(C, num_heads=2).double(), tokens()
    q, k, v = layer.qkv(x).chunk(3, dim=2)
    heads = []
    for part in (slice(0, 3), slice(3, 6)):
        weights = (q[..., part] @ k[..., part].transpose(1, 2) / 3**0.5).softmax(dim=-1)
        heads.append(weights @ v[..., part])
    torch.testing.assert_close(layer(x), layer.proj(torch.cat(heads, dim=2)), rtol=0, atol=1e-13)


def test_gating_unit_multiplies_one_half_by_the_mixed_other_half_and_starts_as_the_first_half():
    torch.manual_seed(0)
    layer, x = SpatialGatingUnit(C, S).double(), tokens()
    u, v = x[..., :3], x[..., 3:]
    normed = (v - v.mean(2, keepdim=True)) / (v.var(2, keepdim=True, correction=0) + layer.norm.eps).sqrt()
    expected = u * (layer.proj.weight @ normed + layer.proj.bias[:, None])
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-13)
    layer.reset_gate()
    torch.testing.assert_close(layer(x), u, rtol=0, atol=1e-3)
