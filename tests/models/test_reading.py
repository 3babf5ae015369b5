"""Files of timm and of mixonomy become the same models, with another head or image where that is asked for."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import mixonomy as mx
from mixonomy.models import Mixer, TimmModel, info_of
from mixonomy.models.timm_weights import to_timm
from mixonomy.preprocessing import Preprocessing

SIZES = {"patch_size": 4, "hidden_dim": 8, "num_blocks": 2, "tokens_mlp_dim": 5, "channels_mlp_dim": 12}


def tiny(**changes) -> nn.Module:
    torch.manual_seed(0)
    model = mx.create("mixer", **{"num_classes": 3, "image_size": 8, "gelu": "erf", **SIZES, **changes})
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model.eval()


def timm_file(model: nn.Module, path: Path, metadata: dict[str, str] | None = None) -> Path:
    """A Mixer as timm saves it."""
    renamed = {
        key.replace("token_mixer", "mlp_tokens").replace("channel_mixer", "mlp_channels"): tensor.contiguous()
        for key, tensor in model.state_dict().items()
    }
    save_file(renamed, path, metadata=metadata)
    return path


def test_file_of_timm_that_pools_otherwise_than_our_model_is_refused(tmp_path):
    timm_file(tiny(), tmp_path / "model.safetensors")
    config = {"architecture": "mixer_b16_224", "pretrained_cfg": {"input_size": [3, 8, 8]}}
    for pool, is_read in (("avg", True), ("max", False)):
        (tmp_path / "config.json").write_text(json.dumps({**config, "model_args": {"global_pool": pool}}))
        if is_read:
            assert isinstance(mx.load(tmp_path), Mixer)
        else:
            with pytest.raises(ValueError, match="pools by 'max', and our Mixer by 'avg'; it is not read"):
                mx.load(tmp_path)


def test_timms_file_becomes_our_model_with_what_its_config_says(tmp_path):
    model = tiny()
    path = timm_file(model, tmp_path / "model.safetensors")
    config = {
        "architecture": "mixer_b16_224",
        "label_names": ["ant", "bee", "cat"],
        "pretrained_cfg": {
            "num_classes": 3,
            "input_size": [3, 8, 8],
            "crop_pct": 0.8,
            "mean": [0.1] * 3,
            "std": [0.2] * 3,
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    images = torch.randn(2, 3, 8, 8)
    for where in (path, tmp_path):
        loaded = mx.load(where)
        assert isinstance(loaded, Mixer) and torch.equal(loaded(images), model(images))
        info = info_of(loaded)
        assert info.class_names == ("ant", "bee", "cat")
        assert info.preprocessing == Preprocessing((8, 8), resize=10 / 8, mean=(0.1,) * 3, std=(0.2,) * 3)


@pytest.mark.slow
@pytest.mark.parametrize("is_metadata", [True, False])
def test_file_of_another_family_needs_the_name_of_its_architecture_and_becomes_the_adapter(tmp_path, is_metadata):
    import timm

    torch.manual_seed(0)
    theirs = timm.create_model("test_resnet", num_classes=4).eval()
    config = {"architecture": "test_resnet", "pretrained_cfg": {"input_size": [3, 32, 32], "num_classes": 4}}
    save_file(
        theirs.state_dict(), tmp_path / "m.safetensors", metadata={"architecture": "test_resnet"} if is_metadata else {}
    )
    if not is_metadata:
        with pytest.raises(ValueError, match=r"m\.safetensors"):
            mx.load(tmp_path / "m.safetensors")
        (tmp_path / "config.json").write_text(json.dumps(config))
    loaded, images = mx.load(tmp_path / "m.safetensors"), torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert isinstance(loaded, TimmModel) and torch.equal(loaded(images), theirs(images))


@pytest.mark.slow
def test_file_without_a_head_gets_one_where_its_classes_are_counted(tmp_path):
    import timm

    theirs = timm.create_model("test_resnet", num_classes=0)
    save_file(theirs.state_dict(), tmp_path / "m.safetensors", metadata={"architecture": "test_resnet"})
    with pytest.raises(ValueError, match=r"m\.safetensors has no head; give num_classes for a new one\."):
        mx.load(tmp_path / "m.safetensors")
    model = mx.load(tmp_path / "m.safetensors", num_classes=6)
    assert (
        info_of(model).arguments["num_classes"] == 6 and not model.get_submodule("head").get_parameter("weight").any()
    )


def test_damaged_file_of_a_family_of_ours_is_explained_as_one(tmp_path):
    tensors, config = to_timm(mx.create("mixer-s/32", num_classes=3, gelu="erf"))
    del tensors["blocks.7.mlp_tokens.fc2.bias"]
    save_file(tensors, tmp_path / "m.safetensors", metadata={"architecture": config["architecture"]})
    with pytest.raises(ValueError, match=r"does not fit this model: it lacks blocks\.7\.token_mixer\.fc2\.bias\."):
        mx.load(tmp_path / "m.safetensors")


def test_new_head_starts_at_zero_and_has_no_class_names(tmp_path):
    model = tiny()
    mx.save(model, tmp_path / "m.safetensors")
    other = mx.load(tmp_path / "m.safetensors", num_classes=7)
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(other(images), torch.zeros(2, 7)) and torch.equal(other.features(images), model.features(images))
    assert info_of(other).arguments["num_classes"] == 7 and info_of(other).class_names == ()
    same = mx.load(tmp_path / "m.safetensors", num_classes=3)
    assert torch.equal(same(images), model(images)), "as many classes as the file has change nothing"


def test_image_size_with_as_many_tokens_declares_the_grid(tmp_path):
    model = tiny(image_size=(8, 16))  # 2 x 4 patches
    mx.save(model, tmp_path / "m.safetensors")
    turned = mx.load(tmp_path / "m.safetensors", image_size=(16, 8))
    assert info_of(turned).preprocessing.image_size == (16, 8)
    assert all(torch.equal(tensor, turned.state_dict()[key]) for key, tensor in model.state_dict().items())
    assert info_of(mx.load(tmp_path / "m.safetensors", image_size=(8, 16))) == info_of(model)
    larger = mx.load(tmp_path / "m.safetensors", image_size=(16, 32))
    assert info_of(larger).changes and "8x16 to 16x32" in info_of(larger).changes[0], "any other size is resized"
    images = torch.rand(2, 3, 16, 32)
    torch.testing.assert_close(larger(images), mx.resize(model, (16, 32)).eval()(images))


@pytest.mark.parametrize("num_classes", ["3", 2.5, True, 0])
def test_number_of_classes_that_is_none_is_refused(tmp_path, num_classes):
    mx.save(tiny(), tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match="num_classes is .*; give"):
        mx.load(tmp_path / "m.safetensors", num_classes=num_classes)


def test_grid_of_an_npz_that_is_no_square_must_be_declared(tmp_path):
    from mixonomy.models.mixer import npz_name

    model = tiny(image_size=(8, 16), gelu="tanh")
    arrays = {}
    for name, tensor in model.state_dict().items():
        array = tensor.numpy()
        arrays[npz_name(name)] = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
    np.savez(tmp_path / "m.npz", **arrays)
    with pytest.raises(ValueError, match=r"m\.npz has 8 tokens, which make no square grid; give image_size\."):
        mx.load(tmp_path / "m.npz")
    images = torch.randn(2, 3, 8, 16)
    loaded = mx.load(tmp_path / "m.npz", image_size=(8, 16))
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())
    torch.testing.assert_close(loaded(images), model(images))


@pytest.mark.slow
def test_model_that_reads_any_size_takes_another_one(tmp_path):
    torch.manual_seed(0)
    model = mx.create("timm:test_resnet", num_classes=3, image_size=96)
    mx.save(model, tmp_path / "m.safetensors")
    other = mx.load(tmp_path / "m.safetensors", image_size=128)
    assert info_of(other).preprocessing.image_size == (128, 128) and info_of(other).arguments["image_size"] == [
        128,
        128,
    ]
    assert all(torch.equal(tensor, other.state_dict()[key]) for key, tensor in model.state_dict().items())


def test_options_without_effect_are_refused(tmp_path):
    with pytest.raises(ValueError, match="num_classes and image_size have no effect on a module of your own"):
        mx.load(tmp_path / "m.safetensors", num_classes=2, model=nn.Linear(2, 2))
    with pytest.raises(ValueError, match="num_classes is 0; give at least 1"):
        mx.load(tmp_path / "m.safetensors", num_classes=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:mixer_b61_224", "timm has no model 'mixer_b61_224'; did you mean 'timm:mixer_b"),
        ("timm:mixer_b16_224.nonsense", "timm has no weights 'nonsense' of mixer_b16_224; use goog_in21k or "),
        ("timm:../../x", "timm has no model '"),
        ("timm:", "timm has no model ''"),
    ],
)
def test_names_that_are_not_timms_are_refused_before_anything_is_asked(name, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace("?", r"\?")) as error:
        mx.load(name)
    assert "\n" not in str(error.value)
