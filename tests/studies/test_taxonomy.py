"""What the layers of whole models mix and cost, against counts by hand; ours, timm's and modules of one's own.

Axes: B images, S tokens, C channels, K classes.
"""

import copy
import re

import pytest
import timm
import torch
from timm.layers import GatedMlp, Mlp
from timm.models.convmixer import ConvMixer
from timm.models.convnext import ConvNeXt
from timm.models.mlp_mixer import Affine, MlpMixer, ResBlock, SpatialGatingBlock
from timm.models.resnet import BasicBlock, ResNet
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

import mixonomy as mx
from mixonomy.studies import Cost, Taxonomy, taxonomy
from mixonomy.studies.trace import trace

SIZE = (16, 24)  # pixels, not square
SMALL = {"patch_size": 4, "hidden_dim": 16, "num_blocks": 2, "tokens_mlp_dim": 5, "channels_mlp_dim": 40}


def roles(found: Taxonomy) -> dict[str, str]:
    """Role by name, numbers in names taken out."""
    return {re.sub(r"\d+", "*", layer.name): layer.role for layer in found.layers}


def timm_mixer(block: type[nn.Module], norm: type[nn.Module], mlp: type[nn.Module] = Mlp) -> nn.Module:
    """timm's ResMLP and gMLP are its Mixer with other blocks and norms."""
    sizes = {"img_size": 16, "patch_size": 4, "num_blocks": 2, "embed_dim": 20, "mlp_ratio": 2}
    return MlpMixer(3, block_layer=block, norm_layer=norm, mlp_layer=mlp, **sizes)


def test_mixer_costs_what_the_formulas_say():
    model = mx.create("mixer", num_classes=3, image_size=SIZE, **SMALL)
    found = taxonomy(model, "small", image_size=SIZE)
    s, c, ds, dc, k, patch = 24, 16, 5, 40, 3, 4 * 4 * 3
    assert {layer.name: layer.role for layer in found.layers if not layer.name.startswith("blocks.1")} == {
        "stem.proj": "both",
        "blocks.0.norm1": "channels",
        "blocks.0.token_mixer": "locations",
        "blocks.0.norm2": "channels",
        "blocks.0.channel_mixer": "channels",
        "norm": "channels",
        "head": "channels",
    }
    by_role = found.by_role()
    assert list(by_role) == ["channels", "locations", "both", "neither"]
    # MLP-Mixer paper, equation 1: two matrices per MLP; parameters with biases, norms 2C.
    assert (by_role["locations"].parameters, by_role["locations"].macs) == (
        2 * (2 * s * ds + ds + s),
        2 * 2 * s * ds * c,
    )
    assert (by_role["both"].parameters, by_role["both"].macs) == (patch * c + c, patch * c * s)
    assert by_role["channels"].parameters == 2 * (2 * c * dc + dc + c + 4 * c) + 2 * c + c * k + k
    assert by_role["channels"].macs == 2 * 2 * c * dc * s + c * k
    assert by_role["neither"] == Cost()
    assert found.total().parameters == sum(p.numel() for p in model.parameters())


def test_kept_memory_of_a_channel_mlp_is_its_input_and_both_sides_of_the_gelu():
    model = nn.Sequential(nn.Flatten(2), nn.Linear(24, 40), nn.GELU(), nn.Linear(40, 5))
    found = taxonomy(model, "mlp", image_size=(4, 6))
    floats = {layer.name: layer.cost.activation_bytes // 4 for layer in found.layers}
    assert floats == {"1": 3 * 24, "2": 3 * 40, "3": 3 * 40}, "flattening keeps and mixes nothing"


@pytest.mark.slow
@pytest.mark.parametrize("size", ["mixer-s/32", "mixer-s/16"])
def test_macs_of_the_papers_sizes_are_those_that_timm_publishes(size):
    found = taxonomy(mx.create(size), size)
    published = {"mixer-s/32": 1.00e9, "mixer-s/16": 3.79e9}[size]  # timm results/benchmark-infer-*.csv
    assert found.total().macs == pytest.approx(published, rel=0.005)
    assert 0.10 < found.by_role()["locations"].macs / found.total().macs < 0.11


def test_timms_mixer_costs_the_same_though_its_token_mlp_is_called_on_the_transposed_input():
    theirs = MlpMixer(3, img_size=16, patch_size=4, num_blocks=2, embed_dim=20, mlp_ratio=(0.25, 2.0))
    sizes = {**SMALL, "hidden_dim": 20}
    ours = mx.create("mixer", num_classes=3, image_size=16, **sizes)
    by_role = taxonomy(theirs, "theirs", image_size=(16, 16)).by_role()
    assert by_role == taxonomy(ours, "ours", image_size=(16, 16)).by_role()


def test_attention_is_one_layer_with_its_products_counted():
    s, c = 16 + 1, 16  # a class token
    model = VisionTransformer(img_size=16, patch_size=4, embed_dim=c, depth=1, num_heads=2, num_classes=3)
    found = taxonomy(model, "vit", image_size=(16, 16))
    costs = {layer.name: (layer.role, layer.cost.macs) for layer in found.layers}
    assert costs["blocks.0.attn"] == ("both", s * 4 * c * c + 2 * s * s * c)
    assert costs["blocks.0.mlp"] == ("channels", 2 * s * c * 4 * c)
    own = next(layer for layer in found.layers if layer.kind == "VisionTransformer itself")
    assert (own.role, own.cost.parameters) == ("neither", s * c + c), "position embedding and class token"
    assert found.by_role()["locations"] == Cost()


def test_torchs_attention_with_three_inputs_is_one_layer():
    encoder = nn.TransformerEncoderLayer(12, nhead=2, dim_feedforward=20, batch_first=True, norm_first=True)
    found = taxonomy(nn.Sequential(nn.Conv2d(3, 12, 4, stride=4), Tokens(), encoder), "torch", image_size=(16, 16))
    found_roles = {layer.kind: layer.role for layer in found.layers}
    assert found_roles["MultiheadAttention"] == "both"
    assert found_roles["LayerNorm"] == found_roles["Linear"] == "channels"


class Tokens(nn.Module):
    """[B, C, H, W] -> [B, S, C]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).transpose(1, 2)


def test_convmixer_separates_the_two_but_for_its_stem():
    found = taxonomy(ConvMixer(8, depth=2, kernel_size=3, patch_size=4, num_classes=3), "convmixer", image_size=SIZE)
    assert {layer.kind: layer.role for layer in found.layers if layer.name.startswith("blocks.0.0")} == {
        "Conv2d": "locations",
        "GELU": "neither",
        "BatchNorm2d": "neither",
    }
    assert roles(found)["stem.*"] == "neither", "the last of it is a BatchNorm"
    assert next(layer for layer in found.layers if layer.name == "stem.0").role == "both"
    assert {layer.name: layer.role for layer in found.layers}["blocks.0.1"] == "channels"


def test_resnet_mixes_both_in_its_convolutions_and_channels_in_its_shortcuts():
    model = ResNet(BasicBlock, (1, 1, 1, 1), channels=(4, 8, 8, 8), num_classes=3)
    found = taxonomy(model, "resnet", image_size=(64, 96))
    by_name = {layer.name: layer.role for layer in found.layers}
    assert by_name["conv1"] == by_name["layer1.0.conv2"] == "both"
    assert by_name["layer2.0.downsample.0"] == "channels"
    assert by_name["maxpool"] == by_name["global_pool.pool"] == "locations"
    assert by_name["bn1"] == "neither" and by_name["fc"] == "channels"


def test_resmlp_and_gmlp_of_timm():
    resmlp = roles(taxonomy(timm_mixer(ResBlock, Affine), "resmlp", image_size=(16, 16)))
    assert resmlp["blocks.*.linear_tokens"] == "locations" and resmlp["blocks.*.mlp_channels"] == "channels"
    assert resmlp["blocks.*.norm*"] == resmlp["blocks.*"] == "neither", "scales and shifts"
    gmlp = roles(taxonomy(timm_mixer(SpatialGatingBlock, nn.LayerNorm, GatedMlp), "gmlp", image_size=(16, 16)))
    assert gmlp["blocks.*.mlp_channels"] == "both" and gmlp["blocks.*.norm"] == "channels"


def test_channels_last_inside_a_model_is_seen():
    convnext = ConvNeXt(depths=(1, 1, 1, 1), dims=(8, 8, 12, 12), num_classes=3, conv_mlp=False)
    assert roles(taxonomy(convnext, "convnext", image_size=(32, 48)))["stages.*.blocks.*.mlp"] == "channels"
    swin = SwinTransformer(img_size=32, patch_size=4, window_size=4, embed_dim=12, depths=(1, 1), num_heads=(2, 2))
    found = roles(taxonomy(swin, "swin", image_size=(32, 32)))
    assert found["layers.*.blocks.*.attn"] == "both"
    assert found["layers.*.downsample.reduction"] == found["layers.*.blocks.*.norm*"] == "channels"


class Homemade(nn.Module):
    """Mixes locations by a matrix of its own inside a block, and shares one linear layer between two places."""

    class Averaging(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(16, 16))
            self.drop = nn.Dropout(0.1)

        def forward(self, x: Tensor) -> Tensor:
            return self.drop(self.weight @ x)

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 1)
        self.tokens = Tokens()
        self.averaging = self.Averaging()
        self.first = nn.Linear(6, 6)
        self.second = self.first

    def forward(self, images: Tensor) -> Tensor:
        return self.second(self.first(self.averaging(self.tokens(self.stem(images)))))


def test_own_matrix_products_make_a_layer_and_shared_layers_count_once():
    found = taxonomy(Homemade(), "homemade", image_size=(4, 4))
    assert {layer.name: (layer.role, layer.cost.parameters, layer.cost.macs) for layer in found.layers} == {
        "stem": ("channels", 24, 16 * 18),
        "averaging": ("locations", 256, 16 * 16 * 6),
        "first": ("channels", 42, 2 * 16 * 36),
    }


def test_the_model_is_left_as_it_is():
    model = timm.create_model("resnet18", num_classes=3).train()
    model.layer1.eval()
    before = copy.deepcopy(model.state_dict())
    trace(model, torch.zeros(1, 3, 32, 32))
    assert model.training and not model.layer1.training and model.layer2.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


class Video(nn.Module):
    """A convolution over one frame."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(3, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(images.unsqueeze(2)).squeeze(2)


class Frames(nn.Module):
    """[B, 3, H, W] -> [B, 3, 1, H, W], brighter."""

    def forward(self, images: Tensor) -> Tensor:
        return (images + 1).unsqueeze(2)


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        (Video(), "layer conv (Conv3d) gets an input of shape [1, 3, 1, 4, 4]; only [B, C], [B, S, C] and"),
        (nn.Sequential(Frames()), "layer 0 (Frames) puts out the shape [1, 3, 1, 4, 4]; only"),
    ],
)
def test_five_axes_are_refused(model, complaint):
    with pytest.raises(ValueError, match=re.escape(complaint)):
        taxonomy(model, "video", image_size=(4, 4))


def test_json_values_hold_everything():
    found = taxonomy(Homemade(), "homemade", image_size=(4, 4)).to_dict()
    assert found["image_size"] == [4, 4] and found["total"]["parameters"] == 322
    assert found["roles"]["locations"]["macs"] == 1536
    assert found["layers"][0]["name"] == "stem" and found["layers"][0]["channels"] is True
