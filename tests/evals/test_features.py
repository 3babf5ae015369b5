"""Features of images: what a plain loop computes, and files that are found again only where nothing changed."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import mixonomy as mx
from mixonomy.data import BadImages, Split
from mixonomy.evals import features, features_of, normalise
from mixonomy.evals.features import digest
from mixonomy.models import info_of, set_info
from mixonomy.predicting import predictor_of

SIZES = {"patch_size": 2, "hidden_dim": 8, "num_blocks": 1, "tokens_mlp_dim": 5, "channels_mlp_dim": 12}


def model(seed: int = 0, gelu: str = "erf") -> torch.nn.Module:
    torch.manual_seed(seed)
    net = mx.create("mixer", num_classes=3, image_size=4, in_channels=1, gelu=gelu, dropout=0.5, **SIZES)
    info = info_of(net)
    set_info(net, replace(info, precision="fp32", preprocessing=replace(info.preprocessing, crop="squash")))
    return net.train()


def images(n: int = 6) -> Split:
    pixels = np.random.default_rng(0).integers(0, 256, (n, 4, 4), dtype=np.uint8)
    return Split(pixels, np.arange(n, dtype=np.int64) % 3, [f"{i}.png" for i in range(n)])


def test_features_are_those_of_the_model_in_evaluation(tmp_path):
    net, split = model(), images()
    found = features_of(predictor_of(net, "cpu"), split)
    assert net.training, "left as it was"
    pixels = normalise(torch.from_numpy(split.images)[:, None], info_of(net).preprocessing)
    torch.testing.assert_close(found.values, net.eval().features(pixels).detach())
    assert found.labels.tolist() == [0, 1, 2, 0, 1, 2] and found.indices.tolist() == list(range(6))
    assert found.values.dtype == torch.float32


def test_second_call_reads_what_the_first_one_wrote(tmp_path, monkeypatch):
    predictor, split = predictor_of(model(), "cpu"), images()
    first = features_of(predictor, split, cache=tmp_path / "made")
    monkeypatch.setattr(features, "_compute", None)
    second = features_of(predictor, split, cache=tmp_path / "made")
    assert torch.equal(first.values, second.values) and torch.equal(first.labels, second.labels)
    assert len(list((tmp_path / "made").iterdir())) == 1
    with pytest.raises(TypeError):
        features_of(predictor, split)


def test_damaged_file_is_written_again(tmp_path):
    predictor, split = predictor_of(model(), "cpu"), images()
    first = features_of(predictor, split, cache=tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-9])
    assert torch.equal(features_of(predictor, split, cache=tmp_path).values, first.values)
    assert torch.equal(features._read(path)[0], first.values)


def test_name_of_the_file_changes_with_all_that_features_depend_on_and_with_nothing_else():
    net, split = model(), images()
    predictor = predictor_of(net, "cpu")
    plain = digest(predictor, split)
    assert digest(predictor_of(model(), "cpu"), images()) == plain
    relabelled = Split(split.images, (split.labels + 1) % 3, [f"x{name}" for name in split.names])
    assert digest(predictor, relabelled) == plain
    other_pixel = split.images.copy()
    other_pixel[3, 1, 1] ^= 1
    others = {
        digest(predictor_of(model(seed=1), "cpu"), split),
        digest(predictor_of(model(gelu="tanh"), "cpu"), split),
        digest(replace(predictor, preprocessing=replace(predictor.preprocessing, crop="pad")), split),
        digest(replace(predictor, precision="bf16"), split),
        digest(predictor, Split(other_pixel, split.labels, split.names)),
        digest(predictor, split.pick(np.array([1, 0, 2, 3, 4, 5]))),
        digest(predictor, split.pick(np.arange(5))),
    }
    assert len(others | {plain}) == 8


def test_images_that_cannot_be_read_are_left_out_or_an_error_from_the_file_too(tmp_path):
    predictor, split = predictor_of(model(), "cpu"), images()
    encoded = [bytes(10) if i == 2 else split.images[i] for i in range(6)]
    broken = Split(encoded, split.labels, split.names)
    whole = features_of(predictor, split)
    for _ in range(2):
        bad = BadImages("skip")
        found = features_of(predictor, broken, cache=tmp_path, bad=bad)
        assert found.indices.tolist() == [0, 1, 3, 4, 5] and list(bad.errors) == ["2.png"]
        assert torch.equal(found.values, whole.values[found.indices])
        assert found.of_images([1, 2, 5]).indices.tolist() == [1, 5]
        with pytest.raises(ValueError, match="image '2.png'"):
            features_of(predictor, broken, cache=tmp_path)


def test_models_and_data_that_cannot_be_probed_are_one_sentence():
    net, split = model(), images()
    with pytest.raises(ValueError, match="images with several labels cannot be probed"):
        features_of(predictor_of(net, "cpu"), Split(split.images, np.ones((6, 3), dtype=bool), split.names))
    torch.nn.init.constant_(net.norm.bias, float("inf"))
    with pytest.raises(ValueError, match="features are not finite"):
        features_of(predictor_of(net, "cpu"), split)
    plain = replace(predictor_of(net, "cpu"), model=torch.nn.Identity())
    with pytest.raises(ValueError, match="this Identity has no features"):
        features_of(plain, split)
