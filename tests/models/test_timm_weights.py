"""timm's weights in our families and ours in timm's: the same logits, both ways, with every tensor drawn at random.

Axes: B images, S tokens, C channels, K classes.
"""

import pytest
import timm
import torch
from timm.models.convmixer import ConvMixer
from timm.models.mlp_mixer import MlpMixer
from torch import nn

import mixonomy as mx
from mixonomy.models import info_of
from mixonomy.models.timm_weights import IMAGENET_MEAN, from_timm, to_timm

SMALL = [
    "mixer_s32_224",
    "mixer_s16_224",
    "vit_tiny_patch16_224",
    "vit_small_patch16_224",
    "resmlp_12_224",
    "gmlp_s16_224",
]
LARGE = ["mixer_b32_224", "mixer_b16_224", "mixer_l16_224", "vit_base_patch16_224", "convmixer_768_32"]


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Every tensor drawn, none of them zero: weights by fan-in, gains and variances around one, the rest small."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            tensor.fill_(7)  # batches that a BatchNorm has seen
        elif tensor.ndim >= 2 and tensor.shape[0] > 1:
            tensor.normal_(0.0, tensor[0].numel() ** -0.5, generator=generator)
        elif name.endswith(("weight", "running_var", "alpha", "ls1", "ls2", "factor")):
            tensor.uniform_(0.5, 1.5, generator=generator)
        else:
            tensor.normal_(0.0, 0.2, generator=generator)
    return model.eval()


def images_for(model: nn.Module, batch: int = 1) -> torch.Tensor:
    size = info_of(model).preprocessing.image_size
    return torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest difference over the largest logit."""
    assert theirs.std() > 1e-3, "logits that say nothing agree with everything"
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)])
def test_logits_are_timms_and_the_weights_come_back_as_they_went(name):
    theirs = randomised(timm.create_model(name, num_classes=11))
    state = theirs.state_dict()
    ours = from_timm(state, name, {"architecture": name})
    with torch.inference_mode():
        assert relative(ours(images_for(ours)), theirs(images_for(ours))) <= 1e-5
    back, config = to_timm(ours)
    assert config["architecture"] == name and "model_args" not in config
    assert list(back.keys() ^ state.keys()) == []
    assert all(torch.equal(back[key], tensor) and back[key].shape == tensor.shape for key, tensor in state.items())


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_logits_are_timms_to_double_precision(name):
    theirs = randomised(timm.create_model(name, num_classes=11))
    ours = from_timm(theirs.state_dict(), name).double()
    with torch.inference_mode():
        assert relative(ours(images_for(ours).double()), theirs.double()(images_for(ours).double())) <= 1e-10


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mixer-s/32", {"image_size": (64, 96), "in_channels": 1}),
        ("resmlp-12", {"image_size": (64, 96)}),
        ("gmlp-ti/16", {"image_size": (64, 96)}),
        ("vit-ti/16", {"image_size": (64, 96)}),
        ("vit", {"image_size": 32, "patch_size": 8, "hidden_dim": 32, "num_blocks": 3, "channels_mlp_dim": 80,
                 "num_heads": 4}),
        ("convmixer-1024/20", {"image_size": (28, 42)}),
    ],
)  # fmt: skip
def test_our_weights_make_timms_model_by_the_config_alone(name, options):
    ours = randomised(mx.create(name, num_classes=5, gelu="erf", **options))
    tensors, config = to_timm(ours)
    theirs = timm.create_model(
        config["architecture"],
        pretrained_cfg=config["pretrained_cfg"],
        num_classes=config["num_classes"],
        **config.get("model_args", {}),
    )
    theirs.load_state_dict(tensors, strict=True)
    images = torch.randn(2, options.get("in_channels", 3), *info_of(ours).preprocessing.image_size)
    with torch.inference_mode():
        assert relative(ours(images), theirs.eval()(images)) <= 1e-5
        again = from_timm(tensors, "again", config)
        assert torch.equal(again(images), ours(images))
    drop = ("name", "mean", "std")
    first, second = ({k: v for k, v in info_of(m).arguments.items() if k not in drop} for m in (ours, again))
    assert first == second


def tiny_timm(**changes) -> dict[str, torch.Tensor]:
    sizes = {"img_size": 16, "patch_size": 4, "num_blocks": 2, "embed_dim": 16, "mlp_ratio": (0.25, 2.0)}
    return randomised(MlpMixer(3, **{**sizes, **changes})).state_dict()


def test_what_is_missing_extra_or_misshapen_is_named():
    state = tiny_timm()
    for change, words in (
        ({"norm.weight": None}, "it lacks norm.weight"),
        ({"head_drop.weight": torch.ones(3)}, "it also has head_drop.weight"),
        ({"blocks.1.mlp_tokens.fc2.bias": torch.ones(3)}, r"blocks.1.token_mixer.fc2.bias is \[3\] there and \[16\]"),
        ({"head.weight": None}, "holds no whole mixer in timm's names: it has no head.weight"),
        ({"stem.proj.weight": None}, "it has no stem.proj.weight"),
    ):
        changed = {key: tensor for key, tensor in (state | change).items() if tensor is not None}
        with pytest.raises(ValueError, match=f"^m.safetensors .*{words}"):
            from_timm(changed, "m.safetensors")


def test_tensors_of_another_family_or_architecture_are_refused():
    with pytest.raises(ValueError, match="holds no Mixer, ViT, ResMLP, gMLP or ConvMixer in timm's names"):
        from_timm({"conv1.weight": torch.zeros(1)}, "m.safetensors")
    with pytest.raises(ValueError, match="is timm's gmixer_12_224, which may differ from our mixer"):
        from_timm(tiny_timm(), "m.safetensors", {"architecture": "gmixer_12_224"})


def test_grid_that_is_no_square_comes_from_the_config():
    state = tiny_timm(img_size=(8, 24))  # 2 x 6 patches
    with pytest.raises(ValueError, match="12 tokens make no square grid"):
        from_timm(state, "m.safetensors")
    config = {"architecture": "mixer_s16_224", "pretrained_cfg": {"input_size": [3, 8, 24]}}
    assert info_of(from_timm(state, "m.safetensors", config)).preprocessing.image_size == (8, 24)


def test_relu_of_a_convmixer_comes_from_the_config_or_from_known_sizes():
    state = randomised(ConvMixer(8, 2, kernel_size=3, patch_size=7, num_classes=3, act_layer=nn.ReLU)).state_dict()
    plain = from_timm(state, "m.safetensors")
    relu = from_timm(state, "m.safetensors", {"architecture": "convmixer_768_32"})
    assert info_of(plain).arguments["activation"] == "gelu" and info_of(plain).arguments["gelu"] == "erf"
    assert info_of(relu).arguments["activation"] == "relu" and info_of(relu).arguments["gelu"] is None
    assert info_of(plain).preprocessing.image_size == (224, 224) and info_of(plain).preprocessing.mean == IMAGENET_MEAN
    with torch.device("meta"):
        known = timm.create_model("convmixer_768_32", num_classes=2).state_dict()
    empty = {name: torch.zeros(tensor.shape, dtype=tensor.dtype) for name, tensor in known.items()}
    assert info_of(from_timm(empty, "m.safetensors")).arguments["activation"] == "relu"


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("mixer-s/32", {"num_blocks": 1}, "computes the erf form of GELU, and this mixer the tanh form"),
        ("mixer-s/32", {"num_blocks": 1, "gelu": "erf"}, "has no mixer of these sizes; it has mixer_s32_224, "),
        ("mixer-h/14", {"gelu": "erf"}, "has no mixer of these sizes"),
        ("convmixer-256/8", {}, "has no convmixer of these sizes"),
        ("vit-ti/16", {"pool": "mean", "gelu": "erf"}, "no ViT that takes the mean"),
        ("pool-s/16", {}, "has no model like pool-s/16"),
    ],
)
def test_model_that_timm_has_not_is_refused_in_one_sentence(name, options, words):
    with torch.device("meta"):
        model = mx.create(name, **options)
    with pytest.raises(ValueError, match=f"timm .*{words}"):
        to_timm(model)
