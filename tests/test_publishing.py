"""A published folder: timm reads it and gives our logits, we read it back, and its card says what the run knows."""

import json
import re

import pytest
import torch
from torch import nn

import mixonomy as mx
from mixonomy.models import info_of
from mixonomy.recipe import changed
from mixonomy.recipes import load_recipe

SMALL = {"hidden_dim": 16, "num_blocks": 2, "tokens_mlp_dim": 8, "channels_mlp_dim": 32}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of ten steps on the digits."""
    recipe = changed(load_recipe("digits"), model=SMALL, duration="10 steps", precision="fp32", eval_every="10 steps")
    return mx.train(recipe, tmp_path_factory.mktemp("runs") / "digits")


def test_card_says_what_the_run_knows(run, tmp_path):
    mx.save_pretrained(run.path, tmp_path / "out", licence="cc-by-4.0")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    card = (tmp_path / "out/README.md").read_text()
    assert card.startswith("---\nlicense: cc-by-4.0\nlibrary_name: ")
    for expected in (
        "On the test split of `digits`, 359 images, scored once:",
        f"| top-1 accuracy | {run.result['top1']:.4f} |",
        "In label order: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9.",
        "8 x 8 pixels, grey; the whole image is stretched to the image size",
        'model = mx.load("FOLDER")',
        "10 steps,",
        '"tokens_mlp_dim": 8',
    ):
        assert expected in card, expected


def test_published_folder_loads_as_the_run_does(run, tmp_path):
    mx.save_pretrained(run.path, tmp_path / "out")
    model, again = mx.load(run.path), mx.load(tmp_path / "out")
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(again(images), model(images)) and info_of(again) == info_of(model)
    assert mx.evaluate(tmp_path / "out").top1 == run.result["top1"]
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["mixonomy"]["class_names"] == list("0123456789")


def test_card_without_a_run_or_licence_says_so_and_names_of_classes_are_only_text(tmp_path):
    from dataclasses import replace

    from mixonomy.models import set_info

    model = mx.create("mixer", num_classes=2, image_size=8, patch_size=4, **SMALL)
    set_info(model, replace(info_of(model), class_names=("<script>x</script>\n# evil", "a|b`c")))
    mx.save_pretrained(model, tmp_path / "my_model")
    card = (tmp_path / "my_model/README.md").read_text()
    assert "license:" not in card and "None was named" in card and "published without its run" in card
    assert "<script>" not in card and "\n# evil" not in card and r"a\|b\`c" in card


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("timm:test_resnet", {"stem": "imagenet", "image_size": 96}),
        ("timm:test_vit", {"image_size": 64}),
        ("timm:resnetv2_18", {"image_size": 96}),
        ("timm:botnet26t_256", {"image_size": 96}),
        ("mixer-s/32", {"gelu": "erf"}),
    ],
)
def test_timm_loads_the_folder_and_gives_the_same_logits(name, options, tmp_path):
    import timm

    torch.manual_seed(0)
    model = mx.create(name, num_classes=7, **options).eval()
    nn.init.normal_(model.get_submodule("head").get_parameter("weight"))
    mx.save_pretrained(model, tmp_path)
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    images = torch.randn(1, 3, *info_of(model).preprocessing.image_size)
    with torch.inference_mode():
        torch.testing.assert_close(theirs(images), model(images), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(mx.load(tmp_path)(images), model(images), rtol=1e-5, atol=1e-5)
    prepared = timm.data.resolve_model_data_config(theirs)
    assert tuple(prepared["mean"]) == (0.5, 0.5, 0.5) and prepared["crop_pct"] == pytest.approx(224 / 256)
    assert "timm.create_model(" in (tmp_path / "README.md").read_text()


@pytest.mark.slow
def test_model_that_timm_cannot_build_is_published_in_our_own_layout(tmp_path):
    model = mx.create("timm:test_resnet", num_classes=3, image_size=32)
    mx.save_pretrained(model, tmp_path)
    assert "architecture" not in json.loads((tmp_path / "config.json").read_text())
    assert "timm cannot read it: its small stem is none of timm's." in (tmp_path / "README.md").read_text()
    assert info_of(mx.load(tmp_path)) == info_of(model)


def test_what_cannot_be_published_is_one_sentence(run, tmp_path):
    for model, options, message in (
        (run.path, {"licence": "free: [yes]"}, "licence is 'free: [yes]'; give the hub's short name"),
        (nn.Linear(2, 2), {}, "this Linear has no class names and preprocessing"),
        (tmp_path / "none", {}, "no file or run folder"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            mx.save_pretrained(model, tmp_path / "out", **options)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write to .*; give another folder"):
        mx.save_pretrained(run.path, tmp_path / "file/out")
