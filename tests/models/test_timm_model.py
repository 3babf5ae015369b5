"""timm's models behind our surface: what holds for all of them, small stems, and one sentence for what they refuse.

Axes: B images, C features, K classes.
"""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

import mixonomy as mx
from mixonomy.models import CURATED, TimmModel, info_of, list_models
from mixonomy.models.timm_model import NARROWABLE, adapter_to_timm, our_names
from mixonomy.models.timm_stem import make_small, stem_parts
from mixonomy.preprocessing import Preprocessing

# Tiny models that timm keeps for its own tests, one of each kind, and what their features are.
TINY = {
    "test_resnet": 96,
    "test_byobnet": 256,
    "test_nfnet": 192,
    "test_efficientnet": 256,
    "test_vit": 64,
}


def tiny(name: str, **changes) -> TimmModel:
    """A model of timm with 3 classes and a head that is not zero, in evaluation mode."""
    torch.manual_seed(0)
    model = mx.create(f"timm:{name}", **{"num_classes": 3, "image_size": 32, **changes})
    assert isinstance(model, TimmModel)
    nn.init.normal_(model.head.weight)
    return model.eval()


def random_images(*, count: int = 2, side: int = 32) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_features_and_logits_have_our_shapes_and_images_do_not_meet_in_evaluation(name):
    model, images = tiny(name), random_images(count=3)
    with torch.inference_mode():
        features, logits = model.features(images), model(images)
        assert features.shape == (3, TINY[name]) and torch.equal(model.head(features), logits)
        torch.testing.assert_close(logits[:1], model(images[:1]), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_a_training_step_reaches_every_parameter(name):
    model = tiny(name, drop_path=0.0).train()
    for parameter in model.parameters():  # scales and gains that start at zero would hide what is behind them
        if not parameter.any():
            nn.init.ones_(parameter)
    nn.functional.cross_entropy(model(random_images(count=4)), torch.tensor([0, 1, 2, 0])).backward()
    unreached = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # What comes before a norm over images or tokens shifts nothing.
    assert not [key for key in unreached if not key.endswith("bias")], unreached


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_saved_model_comes_back_with_the_same_logits(name, tmp_path):
    model, images = tiny(name), random_images()
    mx.save(model, tmp_path / "model.safetensors")
    state = torch.get_rng_state()
    again = mx.load(tmp_path / "model.safetensors")
    assert torch.equal(torch.get_rng_state(), state), "loading draws no random numbers"
    with torch.inference_mode():
        assert torch.equal(again(images), model(images))
    assert info_of(again) == info_of(model) and not again.training
    assert not any(tensor.is_meta for tensor in [*again.parameters(), *again.buffers()])


@pytest.mark.slow
def test_fresh_model_answers_with_the_heads_bias_and_has_our_plain_preprocessing():
    model = mx.create("timm:test_resnet", num_classes=3, image_size=(16, 32), in_channels=1, head_bias=-2.0)
    assert torch.equal(model(torch.randn(2, 1, 16, 32)), torch.full((2, 3), -2.0))
    info = info_of(model)
    assert info.preprocessing == Preprocessing((16, 32), channels=1, mean=(0.5,), std=(0.5,))
    assert info.arguments == {
        "name": "timm:test_resnet", "num_classes": 3, "image_size": [16, 32], "in_channels": 1, "stem": "small",
    }  # fmt: skip


@pytest.mark.slow
def test_initial_weights_are_a_function_of_the_seed():
    first, second = tiny("test_resnet").state_dict(), tiny("test_resnet").state_dict()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "resnetv2_18"])
def test_logits_are_those_of_timm_with_the_same_weights(name):
    import timm

    torch.manual_seed(0)
    theirs = (
        timm.create_model(name, num_classes=3, img_size=32) if "vit" in name else timm.create_model(name, num_classes=3)
    )
    theirs.reset_classifier(3)
    for parameter in theirs.get_classifier().parameters():
        nn.init.normal_(parameter)
    ours = tiny(name, stem="imagenet")
    ours.load_state_dict(our_names(theirs.state_dict(), f"timm:{name}"))
    images = random_images()
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), theirs.eval()(images), rtol=1e-5, atol=1e-5)
    back, config = adapter_to_timm(ours, info_of(ours).arguments)
    assert back.keys() == theirs.state_dict().keys() and config["architecture"] == name
    assert all(torch.equal(tensor, theirs.state_dict()[key]) for key, tensor in back.items())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "larger"), [("test_resnet", 4), ("test_byobnet", 2), ("test_nfnet", 4),
                                              ("test_efficientnet", 2)])  # fmt: skip
def test_small_stem_keeps_the_size_of_the_image(name, larger):
    images = random_images(side=64)
    sides = {}
    for stem in ("small", "imagenet"):
        model = tiny(name, image_size=64, stem=stem)
        with torch.inference_mode():
            sides[stem] = model.body.forward_features(images).shape[-1]
    assert sides["small"] == larger * sides["imagenet"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet10t", "test_resnet", "botnet26t_256", "nf_regnet_b0"])
def test_half_the_width_has_less_than_half_the_weights_and_travels_with_them(name, tmp_path):
    whole, half = tiny(name, image_size=32), tiny(name, image_size=32, width_factor=0.5)
    share = sum(p.numel() for p in half.parameters()) / sum(p.numel() for p in whole.parameters())
    assert 0.2 < share < 0.5
    mx.save(half, tmp_path / "half.safetensors")
    again = mx.load(tmp_path / "half.safetensors")
    assert info_of(again).arguments["width_factor"] == 0.5 and "width_factor" not in info_of(whole).arguments
    assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in half.state_dict().items())
    with pytest.raises(ValueError, match="its .* is none of timm's"):
        adapter_to_timm(half, info_of(half).arguments)


@pytest.mark.parametrize(
    ("name", "factor", "complaint"),
    [
        ("timm:efficientnet_b0", 0.5, "belongs to timm's ResNets, BoTNets, HaloNets, RegNetZs and NFNets."),
        ("timm:resnet10t", 0.0, "width_factor is 0.0; give a number above 0"),
        ("mixer-b/16", 0.5, "width_factor has no effect on mixer-b/16"),
    ],
)
def test_width_that_cannot_be_chosen_is_refused(name, factor, complaint):
    with pytest.raises(ValueError, match=complaint):
        mx.create(name, width_factor=factor)


@pytest.mark.parametrize("where", ["CHANGELOG.md", "docs/compare.md", "src/mixonomy/recipe.py"])
def test_models_whose_width_can_be_chosen_are_named_alike_everywhere(where):
    assert f"timm's {NARROWABLE}" in (Path(__file__).parents[2] / where).read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["timm:botnet26t_256", "timm:halonet26t", "timm:nfnet_f0", "timm:regnetz_b16"])
def test_width_that_leaves_no_channels_is_refused_without_a_warning(name):
    with pytest.raises(ValueError, match=f"width_factor 0.01 leaves layers of {name} no channels, .*; give a larger"):
        mx.create(name, width_factor=0.01, image_size=64)


@pytest.mark.slow
def test_image_too_small_is_refused_as_such_at_any_width():
    with pytest.raises(ValueError, match="cannot read images of 2x2 pixels"):
        mx.create("timm:botnet26t_256", width_factor=0.5, image_size=2)


@pytest.mark.slow
def test_auto_takes_the_small_stem_up_to_64_pixels_where_one_is_known():
    for name, size, expected in (
        ("test_resnet", 64, "small"),
        ("test_resnet", (32, 65), "imagenet"),
        ("test_vit", 32, "imagenet"),
    ):
        assert info_of(tiny(name, image_size=size)).arguments["stem"] == expected


@pytest.mark.slow
def test_kernel_of_seven_becomes_one_of_three_and_standardised_weights_keep_their_scale():
    from timm.models import create_model

    for name, conv in (("resnet18", "conv1"), ("resnetv2_18", "stem.conv"), ("nf_resnet26", "stem.conv")):
        with torch.device("meta"):
            body = create_model(name, num_classes=0)
        scale = getattr(body.get_submodule(conv), "scale", None)
        assert make_small(body) == 4 and stem_parts(body)
        small = body.get_submodule(conv)
        assert isinstance(small, nn.Conv2d)
        assert small.kernel_size == (3, 3) and small.stride == (1, 1) and small.weight.shape[2:] == (3, 3)
        if scale is not None:
            assert small.scale == pytest.approx(scale * 7 / 3)


@pytest.mark.slow
def test_botnet_is_built_for_the_size_that_its_attention_sees():
    model = tiny("botnet26t_256", image_size=32)
    tables = [p.shape[0] for name, p in model.named_parameters() if "height_rel" in name]
    assert tables == [15, 15, 7], "8, 8 and 4 locations a side have 2 n - 1 distances"
    with torch.inference_mode():
        assert model(random_images(count=1)).shape == (1, 3)


REFUSED = {
    "unknown name": ("resnt18", {}, "timm has no model 'resnt18'; did you mean 'timm:resnet18'? `timm.list_models()`"),
    "no name": ("../../x", {}, "timm has no model '../../x'; `timm.list_models()` shows all its names."),
    "tag": ("resnet18.a1_in1k", {}, "names weights, by the tag 'a1_in1k'; load them by mixonomy.load"),
    "size": ("halonet50ts", {}, "timm:halonet50ts cannot read images of 32x32 pixels ("),
    "drop_path": ("convmixer_768_32", {"drop_path": 0.1}, "timm:convmixer_768_32 takes no drop_path; leave it out."),
    "small stem": ("test_vit", {"stem": "small"}, "no small stem is known for timm:test_vit, a VisionTransformer;"),
    "stem": ("test_vit", {"stem": "large"}, "stem is 'large'; use auto, imagenet, small."),
    "sizes of ours": ("test_vit", {"patch_size": 4}, "patch_size has no effect on timm:test_vit; leave it out."),
    "gelu": ("test_vit", {"gelu": "erf"}, "gelu has no effect on timm:test_vit; leave it out."),
    "classes": ("test_vit", {"num_classes": 0}, "num_classes is 0; give at least 1."),
    "no pixels": ("test_vit", {"image_size": (0, 32)}, "the image's height is 0; give at least 1."),
    "probability": ("test_vit", {"dropout": 1.0}, "dropout is 1.0; give a probability from 0 to less than 1."),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", REFUSED)
def test_what_a_model_does_not_take_is_one_sentence(case):
    name, changes, message = REFUSED[case]
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        tiny(name, **changes)
    assert "\n" not in str(error.value)


def test_stem_has_no_effect_on_our_own_models():
    with pytest.raises(ValueError, match="stem has no effect on mixer-b/16; it belongs to models of timm"):
        mx.create("mixer-b/16", stem="small")


def test_curated_names_are_listed_without_importing_timm():
    assert set(CURATED) < set(list_models())


@pytest.mark.slow
def test_curated_names_are_timms():
    import timm

    assert all(timm.is_model(name.removeprefix("timm:")) for name in CURATED)


@pytest.mark.very_slow
@pytest.mark.parametrize("name", CURATED)
def test_curated_model_takes_a_step_at_its_own_size(name):
    from mixonomy.models.timm_model import native_size

    size = native_size(name.removeprefix("timm:"))
    model = tiny(name.removeprefix("timm:"), image_size=size).train()
    images = torch.randn(2, 3, *size)
    before = model.head.weight.detach().clone()
    nn.functional.cross_entropy(model(images), torch.tensor([0, 1])).backward()
    torch.optim.SGD(model.parameters(), lr=0.01).step()
    assert not torch.equal(model.head.weight, before)
    with torch.inference_mode():
        features = model.eval().features(images)
        assert features.shape == (2, model.head.in_features) and features.isfinite().all()
        torch.testing.assert_close(model.features(images[:1]), features[:1], rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_model_of_timm_trains_resumes_is_evaluated_and_predicts(tmp_path):
    import numpy as np

    from mixonomy.recipe import changed
    from mixonomy.recipes import load_recipe

    recipe = changed(
        load_recipe("digits"),
        model={"name": "timm:test_resnet"},
        duration="4 steps",
        eval_every="2 steps",
        precision="fp32",
    )
    run = mx.train(recipe, tmp_path / "run")
    assert run.result["model"] == "timm:test_resnet" and (run.path / "report.html").is_file()
    model = mx.load(run.path)
    assert isinstance(model, TimmModel) and info_of(model).arguments["stem"] == "small"
    assert mx.evaluate(run.path).top1 == run.result["top1"]
    (answer,) = mx.predict(model, [np.zeros((8, 8), np.uint8)])
    assert len(answer.classes) == 5 and mx.train(recipe, tmp_path / "run").result == run.result
