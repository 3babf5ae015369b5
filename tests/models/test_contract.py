"""What every family must do, each in a form of two tiny blocks.

Axes: B images, C channels, K classes.
"""

from dataclasses import replace

import pytest
import torch
from torch import nn

import mixonomy as mx
from mixonomy.models import FAMILIES, info_of, set_info
from mixonomy.models.surgery import with_head
from mixonomy.nn import Block, DropPath

COMMON = {"patch_size": 4, "hidden_dim": 8, "num_blocks": 2}
FORMS = {
    "mixer": ("mixer", {"tokens_mlp_dim": 5, "channels_mlp_dim": 12}),
    "vit": ("vit", {"channels_mlp_dim": 12, "num_heads": 2}),
    "vit of the mean": ("vit", {"channels_mlp_dim": 12, "num_heads": 2, "pool": "mean"}),
    "resmlp": ("resmlp", {"channels_mlp_dim": 12}),
    "gmlp": ("gmlp", {"channels_mlp_dim": 12}),
    "convmixer": ("convmixer", {"kernel_size": 3}),
    "convmixer of ReLU": ("convmixer", {"kernel_size": 3, "activation": "relu"}),
    "pool": ("pool", {"channels_mlp_dim": 12, "kernel_size": 3}),
    "dwconv": ("dwconv", {"channels_mlp_dim": 12, "kernel_size": 3}),
}
SIZE = (8, 12)
every_family = pytest.mark.parametrize("form", FORMS)


def tiny(form: str, **changes) -> nn.Module:
    """Two small blocks with all weights moved from their start, the head's too, and statistics that are no 0 and 1."""
    torch.manual_seed(0)
    name, sizes = FORMS[form]
    model = mx.create(name, **{"num_classes": 3, "image_size": SIZE, **COMMON, **sizes, **changes})
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(torch.rand_like(tensor) * 0.3)
    return model.eval()


def images(batch: int = 2, channels: int = 3) -> torch.Tensor:
    return torch.randn(batch, channels, *SIZE, generator=torch.Generator().manual_seed(1))


def test_every_family_is_tested_here():
    assert {name for name, _ in FORMS.values()} == set(FAMILIES)


@every_family
def test_logits_are_the_head_of_the_features(form):
    model = tiny(form)
    features = model.features(images())
    assert features.shape == (2, 8) and model(images()).shape == (2, 3)
    assert torch.equal(model.head(features), model(images()))


@every_family
@pytest.mark.parametrize("channels", [1, 4])
def test_images_may_have_other_channels(form, channels):
    assert tiny(form, in_channels=channels)(images(channels=channels)).shape == (2, 3)


@every_family
def test_fresh_model_answers_with_the_heads_bias_and_is_a_function_of_the_seed(form):
    name, sizes = FORMS[form]

    def fresh(seed: int, **options) -> nn.Module:
        torch.manual_seed(seed)
        return mx.create(name, num_classes=3, image_size=SIZE, **COMMON, **sizes, **options)

    for init in ("flax", "timm"):
        model = fresh(0, head_bias=-6.9, init=init).eval()
        assert torch.equal(model(images()), torch.full((2, 3), -6.9))
        assert model.features(images()).std() > 1e-3, "what is learned from is there from the start"
    first, again, other = (fresh(seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(tensor, again[key]) for key, tensor in first.items())
    assert any(not torch.equal(tensor, other[key]) for key, tensor in first.items())


@every_family
def test_an_image_is_classified_alike_alone_and_in_a_batch(form):
    model = tiny(form).double()
    batch = images(5).double()
    alone = torch.cat([model(image[None]) for image in batch])
    torch.testing.assert_close(model(batch), alone, rtol=0, atol=1e-12)


@every_family
def test_gradients_reach_every_parameter(form):
    model = tiny(form).double().train()
    (model(images(4).double()) * torch.randn(4, 3, dtype=torch.float64)).sum().backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


@every_family
def test_saved_model_comes_back_whole(form, tmp_path):
    model = tiny(form)
    mx.save(model, tmp_path / "model.safetensors")
    loaded = mx.load(tmp_path / "model.safetensors")
    assert type(loaded) is type(model) and info_of(loaded) == info_of(model)
    assert torch.equal(loaded(images()), model(images()))


@every_family
def test_bf16_is_near_float32(form):
    model = tiny(form)
    exact = model(images())
    rounded = model.to(torch.bfloat16)(images().to(torch.bfloat16))
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.slow
@every_family
def test_exported_program_gives_the_same_logits_at_any_batch_size(form):
    model = tiny(form)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (images(2),), dynamic_shapes=({0: batch},))
    for size in (1, 5):
        torch.testing.assert_close(program.module()(images(size)), model(images(size)), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["mixer", "vit"])
def test_compiled_model_gives_the_same_logits(form):
    model = tiny(form)
    with torch.inference_mode():
        expected = model(images())
        torch.testing.assert_close(torch.compile(model)(images()), expected, rtol=1e-5, atol=1e-5)
    torch.compiler.reset()


@every_family
def test_head_can_be_replaced_again_and_again(form):
    model = tiny(form).double()
    set_info(model, replace(info_of(model), temperature=2.0))
    features = model.features(images().double())
    for num_classes in (7, 2):
        model = with_head(model, num_classes)
        assert torch.equal(model(images().double()), torch.zeros(2, num_classes, dtype=torch.float64))
        assert torch.equal(model.features(images().double()), features)
        assert info_of(model).arguments["num_classes"] == num_classes and info_of(model).class_names == ()
        assert info_of(model).temperature == 1.0, "it was chosen for the old head"


def test_model_without_a_linear_head_gets_no_new_one():
    with pytest.raises(ValueError, match="this Identity has no linear layer named `head`"):
        with_head(nn.Identity(), 3)
    with pytest.raises(ValueError, match="num_classes is 0"):
        with_head(tiny("mixer"), 0)


@every_family
def test_dropout_and_stochastic_depth_act_in_training_only(form):
    for option in ("dropout", "drop_path"):
        if option in FAMILIES[FORMS[form][0]].unread:
            with pytest.raises(ValueError, match=f"{option} has no effect on convmixer; it belongs to mixer, vit"):
                tiny(form, **{option: 0.4})
            continue
        noisy = tiny(form, **{option: 0.4})
        assert torch.equal(noisy(images()), tiny(form)(images()))
        noisy.train()
        assert not torch.equal(noisy(images(8)), noisy(images(8)))


@pytest.mark.parametrize("form", [f for f in FORMS if "drop_path" not in FAMILIES[FORMS[f][0]].unread])
def test_stochastic_depth_grows_linearly_with_the_block(form):
    found = [block.drop_path for block in tiny(form, num_blocks=5, drop_path=0.2).get_submodule("blocks").children()]
    probs = [each.drop_prob if isinstance(each, DropPath) else 0.0 for each in found]
    assert probs == pytest.approx([0.0, 0.05, 0.1, 0.15, 0.2])


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("mixer-s/16", {"num_heads": 2}, "num_heads has no effect on mixer-s/16; it belongs to vit"),
        ("vit-b/16", {"tokens_mlp_dim": 2}, "tokens_mlp_dim has no effect on vit-b/16; it belongs to mixer"),
        ("gmlp-s/16", {"pool": "mean"}, "pool has no effect on gmlp-s/16; it belongs to vit"),
        ("resmlp-12", {"kernel_size": 3}, "kernel_size has no effect on resmlp-12; it belongs to convmixer, pool, dwc"),
        ("dwconv-s/16", {"activation": "relu"}, "activation has no effect on dwconv-s/16; it belongs to convmixer"),
        ("convmixer-768/32", {"gelu": "erf"}, "gelu has no effect with activation=relu"),
        ("convmixer", COMMON, "model 'convmixer' needs kernel_size; give"),
        ("vit", COMMON, "model 'vit' needs channels_mlp_dim, num_heads; give"),
        ("vit-s/16", {"num_heads": 5}, "num_heads 5 does not divide hidden_dim 384"),
        ("vit-s/16", {"pool": "max"}, "pool is 'max'; use token or mean"),
        ("gmlp-s/16", {"channels_mlp_dim": 7}, "channels_mlp_dim is 7; the gating unit halves it"),
        ("convmixer-256/8", {"kernel_size": 4}, "kernel_size is 4; give an odd number"),
        ("convmixer-256/8", {"activation": "tanh"}, "activation is 'tanh'; use gelu or relu"),
        ("pool-s/16", {"kernel_size": 0}, "kernel_size is 0; give"),
        ("vit-b16", {}, "unknown model 'vit-b16'; did you mean 'vit-b/16'"),
        ("Mixer-B/16", {}, "did you mean 'mixer-b/16'"),
        ("convmixer-256/8", {"image_size": 33}, "image size 33x33 is not divisible by patch size 2"),
        ("mixer-s/16", {"image_size": 10}, "by patch size 16; use 16x16, or another patch size"),
        ("mixer-s/16", {"image_size": (224, 224, 3)}, r"image_size is \(224, 224, 3\); give a whole number of pixels"),
        ("mixer-s/16", {"image_size": "224"}, "image_size is '224'; give"),
        ("timm:resnet10t", {"image_size": 64.0}, "image_size is 64.0; give"),
        ("mixer-s/16", {"num_classes": 10.0}, "num_classes is 10.0; give a whole number"),
        ("mixer-s/16", {"num_classes": True}, "num_classes is True; give a whole number"),
        ("vit-s/16", {"hidden_dim": "64"}, "hidden_dim is '64'; give a whole number"),
        ("vit-s/16", {"dropout": "0.1"}, "dropout is '0.1'; give a probability"),
        ("pool-s/16", {"kernel_size": 1}, "kernel_size is 1: each token less itself is zero"),
    ],
)
def test_argument_that_does_not_suit_the_family_is_refused_in_one_sentence(name, options, words):
    with torch.device("meta"), pytest.raises(ValueError, match=words):
        mx.create(name, **options)


def test_initial_layer_scale_of_a_resmlp_shrinks_with_its_depth():
    """ResMLP paper, section 2; CaiT paper, section 2."""
    for name, value in (("resmlp-12", 0.1), ("resmlp-24", 1e-5), ("resmlp-36", 1e-6)):
        model = mx.create(name, hidden_dim=4, channels_mlp_dim=4, image_size=16)
        for block in model.get_submodule("blocks").children():
            assert isinstance(block, Block)
            assert torch.equal(block.scale1.factor, torch.full((4,), value))
            assert torch.equal(block.scale2.factor, torch.full((4,), value))


def test_initial_layer_scale_of_the_wide_resmlp_is_the_authors():
    """facebookresearch/deit resmlp_models.py, resmlpB_24; timm's resmlp_big_24_224 has it too."""
    block = mx.create("resmlp-big-24", channels_mlp_dim=4, image_size=16).get_submodule("blocks.0")
    assert isinstance(block, Block)
    assert torch.equal(block.scale1.factor, torch.full((768,), 1e-6))
