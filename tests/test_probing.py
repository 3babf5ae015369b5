"""`mixonomy.probe` and `mixonomy fewshot` on the digits: what is fitted, on which images, and what is said."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import mixonomy as mx
from mixonomy.cli import main
from mixonomy.data import Source, Split, hold_out, open_source, plan_splits
from mixonomy.evals import KNN, RidgeProbe, draw_support, features_of, linear_probe, top1
from mixonomy.predicting import predictor_of
from mixonomy.probing import probe

SIZES = {"patch_size": 2, "hidden_dim": 16, "num_blocks": 1, "tokens_mlp_dim": 8, "channels_mlp_dim": 16}


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    """A Mixer for digits with its initial weights."""
    torch.manual_seed(0)
    return mx.create("mixer", num_classes=10, image_size=8, in_channels=1, **SIZES)


@pytest.fixture(scope="module")
def weights(model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    mx.save(model, path)
    return path


def small(num_train: int = 120, num_val: int = 0, num_test: int = 60) -> Source:
    """The digits, cut down."""
    digits = open_source("digits")
    train, test = digits.splits["train"], digits.splits["test"]
    splits = {"train": train.pick(np.arange(num_train)), "test": test.pick(np.arange(num_test))}
    if num_val:
        splits["val"] = train.pick(np.arange(num_train, num_train + num_val))
    return Source("small", digits.class_names, splits, channels=1)


@pytest.mark.slow
@pytest.mark.parametrize("num_val", [0, 50])
def test_each_probe_is_fitted_to_train_chosen_on_validation_and_scored_on_test(model, num_val):
    source = small(num_val=num_val)
    found = probe(model, source, probes=("ridge", "linear", "knn"), shots=(3,), num_seeds=2, device="cpu")
    predictor = predictor_of(model, "cpu")
    train, test = (features_of(predictor, source.splits[split]) for split in ("train", "test"))
    expected = []
    for seed in range(2):
        support = train.pick(draw_support(source.splits["train"], 3, seed))
        expected.append(top1(RidgeProbe.fit(support.values, support.labels, 10), test))
    assert found.few_shot[0].top1 == tuple(expected)
    assert found.knn == top1(KNN.fit(train.values, train.labels, 10), test)
    if num_val:
        rest, held = train, features_of(predictor, source.splits["val"])
    else:
        rest, held = (features_of(predictor, part) for part in hold_out(source.splits["train"], 0.1))
    assert found.linear == linear_probe(rest, held, test, 10)
    assert found.linear.num_train == 120 + num_val and (found.num_train, found.n) == (120, 60)


def test_few_shots_alone_need_features_of_the_drawn_images_only(model, tmp_path):
    source = small()
    alone = probe(model, source, shots=(1, 2), num_seeds=2, device="cpu", cache=tmp_path)
    assert alone.num_train < 40
    beside = probe(model, source, probes=("ridge", "knn"), shots=(2, 1), num_seeds=2, device="cpu")
    assert alone.few_shot == beside.few_shot and [few.shots for few in alone.few_shot] == [1, 2]
    again = probe(model, source, shots=(1, 2), num_seeds=2, device="cpu", cache=tmp_path)
    assert again == alone and len(list(tmp_path.iterdir())) == 2


def test_limited_training_images_are_those_that_training_takes(model):
    source = small(num_val=50)
    taken = Source(
        "small", source.class_names, {**source.splits, "train": plan_splits(source, 0, train_images=40).train}
    )
    del taken.splits["val"]
    options = {"probes": ("ridge", "knn"), "shots": (9,), "num_seeds": 2, "device": "cpu"}
    found = probe(model, source, train_images=40, **options)
    assert found == probe(model, taken, **options) and found.num_train == 40
    assert found.few_shot[0].num_support <= 40 < len(source.splits["train"])


@pytest.mark.parametrize(("asked", "expected"), [(20, 20), (1000, 60)])
def test_limited_test_images_are_the_same_ones_each_time(model, asked, expected):
    first, again = (probe(model, small(), shots=(1,), num_seeds=1, device="cpu", test_images=asked) for _ in range(2))
    assert first.n == expected and first.few_shot == again.few_shot


def test_limit_of_test_images_is_named_where_there_are_too_many_to_choose_from(model, monkeypatch):
    test = small().splits["test"]
    monkeypatch.setattr("mixonomy.data.splits.is_large", lambda split: len(split) == len(test))
    with pytest.raises(ValueError, match="test_images chooses by name, and 60 images are too many for that"):
        probe(model, small(), shots=(1,), num_seeds=1, device="cpu", test_images=20)


def test_class_with_fewer_images_than_shots_is_said(model):
    found = probe(model, small(), shots=(2, 15), num_seeds=1, device="cpu")
    counts = np.bincount(small().splits["train"].labels, minlength=10)
    few = found.few_shot[1]
    assert few.num_short == (counts < 15).sum() > 0 and few.num_support == np.minimum(counts, 15).sum()
    assert found.notes == (
        f"{few.num_short} of 10 classes have fewer than 15 training images (the smallest has {counts.min()}) and gave "
        f"all they have: {few.num_support} images in all.",
    )


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"probes": ("rigde",)}, "unknown probe 'rigde'; use ridge, linear, knn."),
        ({"probes": ()}, "unknown probe nothing"),
        ({"probes": ("knn",), "shots": (1,)}, "shots and seeds have no effect without the probe ridge"),
        ({"shots": (0, 5)}, "give at least 1 image of each class"),
        ({"num_seeds": 0}, "seeds is 0; give at least 1."),
    ],
)
def test_options_that_cannot_work_are_one_sentence(model, arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        probe(model, small(), device="cpu", **arguments)


def test_images_with_several_labels_are_refused(model):
    several = {
        name: Split(split.images, np.eye(10, dtype=bool)[split.labels], split.names)
        for name, split in small().splits.items()
    }
    with pytest.raises(ValueError, match="small has images with several labels"):
        probe(model, Source("small", small().class_names, several, channels=1), device="cpu")


def test_command_prints_what_the_function_finds(weights, tmp_path, capsys):
    arguments = ["fewshot", str(weights), "--data", "digits", "--device", "cpu", "--cache", str(tmp_path), "--json"]
    assert main([*arguments, "--shots", "1", "5", "--seeds", "2", "--probe", "ridge,knn"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    found = mx.probe(weights, "digits", probes=("ridge", "knn"), shots=(1, 5), num_seeds=2, cache=tmp_path)
    assert result == json.loads(json.dumps(found.to_dict())) and out.count("\n") == 1
    assert result["scores"]["n"] == 359 and result["scores"]["ridge_5shot"] == found.few_shot[1].mean > 0.2
    assert "ridge, 5 of each class" in err and "n = 2)" in err


def test_command_says_what_is_wrong(weights, capsys):
    assert main(["fewshot", str(weights), "--data", "digits", "--probe", "linear", "--seeds", "2"]) == 1
    assert "mixonomy fewshot: shots and seeds have no effect" in capsys.readouterr().err
