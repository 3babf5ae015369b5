"""MLP-Mixer: agreement with two independent implementations, and what must hold for any Mixer.

Axes: B images, S tokens, C channels, K classes.
"""

import re

import numpy as np
import pytest
import torch
from torch import nn

from mixonomy.models import create, read_npz
from mixonomy.nn import DropPath

TINY = {"patch_size": 4, "hidden_dim": 8, "num_blocks": 2, "tokens_mlp_dim": 5, "channels_mlp_dim": 12}


def tiny(**changes) -> nn.Module:
    """A Mixer of two small blocks whose weights are all drawn at random, the head's too."""
    torch.manual_seed(0)
    model = create("mixer", **{"num_classes": 3, "image_size": 8, **TINY, **changes})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def test_features_and_logits_agree_with_flax(shared):
    model = read_npz(shared / "fixtures/flax_mixer_tiny_weights.npz")
    reference = np.load(shared / "fixtures/flax_mixer_tiny_io.npz")
    images = torch.from_numpy(reference["images"]).permute(0, 3, 1, 2)  # NHWC -> NCHW
    with torch.inference_mode():
        torch.testing.assert_close(
            model.features(images), torch.from_numpy(reference["features"]), rtol=1e-5, atol=1e-5
        )
        torch.testing.assert_close(model(images), torch.from_numpy(reference["logits"]), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "mixer_s32_224"])
def test_logits_agree_with_timm(name):
    import timm
    from timm.models.mlp_mixer import MlpMixer

    if name == "tiny":
        ours = tiny(image_size=16, gelu="erf", hidden_dim=16)
        theirs = MlpMixer(3, img_size=16, patch_size=4, num_blocks=2, embed_dim=16, mlp_ratio=(5 / 16, 12 / 16))
    else:
        torch.manual_seed(0)
        ours = create("mixer-s/32", num_classes=3, gelu="erf").eval()
        nn.init.normal_(ours.head.weight)
        theirs = timm.create_model(name, num_classes=3)
    renamed = {
        key.replace("token_mixer", "mlp_tokens").replace("channel_mixer", "mlp_channels"): tensor
        for key, tensor in ours.state_dict().items()
    }
    theirs.load_state_dict(renamed, strict=True)
    size = 16 if name == "tiny" else 224
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), theirs.eval()(images), rtol=1e-5, atol=1e-5)


def test_image_size_may_be_height_and_width():
    model = tiny(image_size=(8, 20))
    assert model.blocks[0].token_mixer.fc1.in_features == 2 * 5
    assert model(torch.zeros(2, 3, 8, 20)).shape == (2, 3)
    assert model.features(torch.zeros(2, 3, 8, 20)).shape == (2, 8)


@pytest.mark.parametrize("in_channels", [1, 4])
def test_images_may_have_any_number_of_channels(in_channels):
    model = tiny(in_channels=in_channels)
    assert model.stem.proj.weight.shape == (8, in_channels, 4, 4)
    assert model(torch.zeros(2, in_channels, 8, 8)).shape == (2, 3)


@pytest.mark.parametrize("init", ["flax", "timm"])
def test_fresh_model_answers_with_the_heads_bias(init):
    torch.manual_seed(0)
    model = create("mixer", num_classes=3, image_size=8, init=init, head_bias=-6.9, **TINY)
    assert torch.equal(model(torch.randn(2, 3, 8, 8)), torch.full((2, 3), -6.9))


def test_initial_weights_are_lecun_normal_and_a_function_of_the_seed():
    def fresh(seed):
        torch.manual_seed(seed)
        return create("mixer-s/32", num_classes=10, num_blocks=1).state_dict()

    weights = fresh(0)
    for name, tensor in weights.items():
        if name.endswith("bias") or name.startswith("head"):
            assert not tensor.any(), name
        elif "norm" in name:
            assert torch.equal(tensor, torch.ones_like(tensor)), name
        else:
            fan_in = tensor[0].numel()
            assert tensor.std().item() == pytest.approx(fan_in**-0.5, rel=0.03), name
    assert all(torch.equal(tensor, weights[name]) for name, tensor in fresh(0).items())
    assert not torch.equal(fresh(1)["stem.proj.weight"], weights["stem.proj.weight"])


def test_stochastic_depth_grows_linearly_with_the_block():
    model = tiny(num_blocks=5, drop_path=0.2)
    probs = [block.drop_path.drop_prob if isinstance(block.drop_path, DropPath) else 0.0 for block in model.blocks]
    assert probs == pytest.approx([0.0, 0.05, 0.1, 0.15, 0.2])


def test_dropout_sits_in_both_mlps_of_every_block_and_nowhere_else():
    drops = {name for name, module in tiny(dropout=0.3).named_modules() if isinstance(module, nn.Dropout)}
    assert drops == {f"blocks.{i}.{mixer}.drop" for i in (0, 1) for mixer in ("token_mixer", "channel_mixer")}


def test_dropout_and_stochastic_depth_act_in_training_only():
    plain, noisy = tiny(), tiny(dropout=0.4, drop_path=0.4)
    images = torch.randn(4, 3, 8, 8)
    assert torch.equal(noisy(images), plain(images))
    noisy.train()
    assert not torch.equal(noisy(images), noisy(images))


def test_an_image_is_classified_alike_alone_and_in_a_batch():
    model = tiny(dropout=0.4, drop_path=0.4).double()
    images = torch.randn(5, 3, 8, 8, dtype=torch.float64)
    alone = torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(model(images), alone, rtol=0, atol=1e-12)


def test_gradients_reach_every_parameter_once_the_head_is_not_zero():
    model = tiny().train()
    model(torch.randn(2, 3, 8, 8)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_shuffled_tokens_are_classified_alike_only_if_the_token_mixer_is_shuffled_too():
    model = tiny().double()
    order = torch.tensor([2, 0, 3, 1])
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    patches = images.unflatten(2, (2, 4)).unflatten(4, (2, 4)).transpose(3, 4).flatten(2, 3)  # [B, 3, S, 4, 4]
    shuffled = patches[:, :, order].unflatten(2, (2, 2)).transpose(3, 4).flatten(4, 5).flatten(2, 3)
    plain = model(images)
    assert not torch.allclose(model(shuffled), plain)
    with torch.no_grad():
        for block in model.blocks:
            mixer = block.token_mixer
            mixer.fc1.weight.copy_(mixer.fc1.weight[:, order])
            mixer.fc2.weight.copy_(mixer.fc2.weight[order])
            mixer.fc2.bias.copy_(mixer.fc2.bias[order])
    torch.testing.assert_close(model(shuffled), plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize("image_size", [225, (224, 225), (225, 224), 10, (1, 1000), (0, 16)])
def test_image_size_that_the_patch_size_does_not_divide_is_refused_naming_sizes_that_work(image_size):
    sizes = {**TINY, "patch_size": 16}
    with pytest.raises(ValueError, match="is not divisible by patch size 16; use ") as error:
        create("mixer", image_size=image_size, **sizes)
    named = [(int(h), int(w)) for h, w in re.findall(r"(\d+)x(\d+)", str(error.value).split("; ")[1])]
    assert named and len(set(named)) == len(named), "each is named once"
    for size in named:
        with torch.device("meta"):
            create("mixer", image_size=size, **sizes)


def test_negative_image_size_is_refused():
    with pytest.raises(ValueError, match="image"):
        create("mixer", image_size=-16, **TINY)


def test_unknown_model_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match="unknown model 'mixer-b16'; did you mean 'mixer-b/16'"):
        create("mixer-b16")


def test_mixer_of_any_shape_needs_all_its_sizes():
    with pytest.raises(ValueError, match="needs hidden_dim, tokens_mlp_dim"):
        create("mixer", patch_size=4, num_blocks=2, channels_mlp_dim=12)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_classes": 0}, "num_classes is 0"),
        ({"in_channels": 0}, "in_channels is 0"),
        ({"patch_size": 0}, "patch_size is 0"),
        ({"gelu": "quick"}, "gelu is 'quick'; use tanh or erf"),
        ({"init": "zero"}, "init is 'zero'; use flax or timm"),
        ({"drop_path": 1.5}, "drop_path"),
        ({"dropout": -0.5}, "dropout"),
    ],
)
def test_argument_outside_its_range_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        create("mixer", **{"image_size": 8, **TINY, **changes})


def test_drop_path_that_could_drop_nothing_is_refused():
    sizes = {"patch_size": 4, "hidden_dim": 8, "num_blocks": 1, "tokens_mlp_dim": 4, "channels_mlp_dim": 8}
    with pytest.raises(ValueError, match="no effect on one block"):
        create("mixer", image_size=8, drop_path=0.1, **sizes)
