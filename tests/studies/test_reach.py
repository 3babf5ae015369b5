"""How far layers look, on layers of which it is known."""

import math

import pytest
import torch
from torch import nn

from mixonomy.models import create
from mixonomy.studies.reach import block_names, reach


class MeanBlock(nn.Module):
    """Every token becomes the mean of all."""

    def forward(self, x):
        return x.mean(1, keepdim=True).expand_as(x)


class SkipBlock(nn.Module):
    def forward(self, x):
        return 3 * x


class CrossBlock(nn.Conv2d):
    """Adds the left and the right neighbour, with weight 2, to the place itself, channel by channel."""

    def __init__(self):
        super().__init__(4, 4, 3, padding=1, bias=False)
        nn.init.zeros_(self.weight)
        with torch.no_grad():
            for channel in range(4):
                self.weight[channel, channel, 1] = torch.tensor([2.0, 1.0, 2.0])


class Tokens(nn.Module):
    def __init__(self, *blocks):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 2, stride=2)
        self.blocks = nn.Sequential(*blocks)

    def forward(self, images):
        return self.blocks(self.stem(images).flatten(2).transpose(1, 2)).mean(1)


class Maps(Tokens):
    def forward(self, images):
        return self.blocks(self.stem(images)).mean((2, 3))


def images(side=16, seed=0):
    return torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(seed))


def test_a_mean_looks_everywhere_alike_and_a_skip_nowhere_else():
    torch.manual_seed(0)
    mean, skip = reach(Tokens(MeanBlock(), SkipBlock()), images())
    assert (mean.layer, mean.kind, mean.grid) == ("blocks.0", "MeanBlock", (8, 8))
    assert mean.distance_elsewhere == pytest.approx(mean.uniform) and mean.elsewhere == pytest.approx(63 / 64)
    assert mean.distance_elsewhere == pytest.approx(mean.distance * 64 / 63)
    assert mean.distance == pytest.approx(0.52, abs=0.05)  # of a square, 0.5214 (Ghosh 1951)
    assert (skip.distance, skip.elsewhere, skip.distance_elsewhere) == (0.0, 0.0, None)
    assert skip.from_image == pytest.approx(mean.from_image, rel=0.1)


def test_a_convolution_looks_as_far_as_its_kernel_weighs():
    (cross,) = reach(Maps(CrossBlock()), images(128), num_probes=64)
    # Of squared weights 4, 1 and 4, eight ninths lie one place of 64 away, but at the borders.
    assert cross.distance == pytest.approx(8 / 9 / 64, rel=0.01)
    assert cross.elsewhere == pytest.approx(8 / 9, rel=0.01) and cross.distance_elsewhere == pytest.approx(1 / 64)


def test_distances_agree_with_the_whole_jacobian_of_a_mixer_block():
    torch.manual_seed(0)
    sizes = {"patch_size": 2, "hidden_dim": 6, "num_blocks": 1, "tokens_mlp_dim": 5, "channels_mlp_dim": 8}
    model = create("mixer", num_classes=3, image_size=8, **sizes).double()
    x = images(8)[:1].double()
    tokens = model.get_submodule("stem")(x)
    jacobian = torch.autograd.functional.jacobian(model.get_submodule("blocks.0"), tokens)[0, :, :, 0]  # [S, C, S, C]
    square = jacobian.square().sum((1, 3))
    place = torch.stack([torch.arange(16) // 4, torch.arange(16) % 4], 1).double() / 4
    distance = torch.cdist(place, place)
    (found,) = reach(model, x.expand(128, -1, -1, -1), num_probes=20)
    assert found.distance == pytest.approx(float((distance * square).sum() / square.sum()), rel=0.05)
    assert found.elsewhere == pytest.approx(float(1 - square.diagonal().sum() / square.sum()), rel=0.05)


@pytest.mark.parametrize(
    ("name", "size", "count", "sizes"),
    [
        ("vit", 16, 2, {"patch_size": 4, "hidden_dim": 8, "num_blocks": 2, "channels_mlp_dim": 8, "num_heads": 2}),
        ("convmixer", 16, 2, {"patch_size": 4, "hidden_dim": 8, "num_blocks": 2, "kernel_size": 3}),
        ("timm:resnet10t", 32, 4, {}),
    ],
)
def test_every_architecture_has_places(name, size, count, sizes):
    torch.manual_seed(0)
    model = create(name, num_classes=3, image_size=size, **sizes).train()
    for module in model.modules():  # timm's residual branches begin at zero
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    found = reach(model, images(size), num_probes=2)
    assert len(found) == count == len(block_names(model)) and model.training
    for each in found:
        assert 0 < each.distance < 1.5 and 0 < each.from_image < 1.5 and math.isfinite(each.uniform)
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())


def test_models_without_blocks_are_refused():
    with pytest.raises(ValueError, match="Sequential has no blocks"):
        reach(nn.Sequential(nn.Conv2d(3, 3, 1)), images(4))
