"""ImageNet ReaL: real labels of real images with fixed predictions, and what is refused."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

import mixonomy as mx
from mixonomy.data import open_source
from mixonomy.evals import Classification, Real, imagenet_classes, read_real
from mixonomy.evals.real import NO_IMAGE, image_index
from mixonomy.experiment import Runtime
from mixonomy.models import info_of, set_info

IMAGENETTE = [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]


def one_hot(answers: np.ndarray, num_classes: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.from_numpy(answers), num_classes).double()


# Counted by a loop over imagenet_real.json and the two files: of train's 4,000 images 366 are ImageNet's validation
# images, of val's 2,000 it is 134; the lists of 19 and 6 are empty. Of those with labels 319 and 112 have their
# Imagenette label among them, and 38 and 9 have class 0, tench; none has the label of the next class.
@pytest.mark.parametrize(
    ("split", "num_empty", "n", "own", "tench"), [("train", 19, 347, 319, 38), ("val", 6, 128, 112, 9)]
)
def test_real_images_with_fixed_predictions_score_as_counted_by_hand(shared, split, num_empty, n, own, tench):
    if not (shared / "data/imagenette_train.parquet").exists():
        pytest.skip("needs ../shared/data/imagenette_train.parquet")
    labels = read_real(shared / "data/imagenet_real.json")
    source = open_source("imagenette", shared / "data")
    assert source.imagenet_indices == tuple(IMAGENETTE)
    images = source.splits[split]
    ten = imagenet_classes(10, source.imagenet_indices, None, "imagenette")
    for answers, correct in (
        (images.labels, own),
        (np.zeros(len(images), np.int64), tench),
        ((images.labels + 1) % 10, 0),
    ):
        for classes, given in ((ten, answers), (np.arange(1000), np.array(IMAGENETTE)[answers])):
            real = Real.of_names(labels, images.names, classes)
            for start in range(0, len(images), 300):
                part = given[start : start + 300]
                real.add(one_hot(part, len(classes)), range(start, start + len(part)))
            assert (real.correct, real.n, real.num_empty) == (correct, n, num_empty)
            assert real.num_others == len(images) - n - num_empty
            assert dict(real.scores())["real_top1"] == correct / n


@pytest.mark.parametrize("num_classes", [10, 1000])
def test_evaluation_scores_by_real_labels_beside_the_data_s_own(shared, num_classes):
    if not (shared / "data/imagenette_val.parquet").exists():
        pytest.skip("needs ../shared/data/imagenette_val.parquet")
    sizes = {"patch_size": 8, "hidden_dim": 4, "num_blocks": 1, "tokens_mlp_dim": 2, "channels_mlp_dim": 4}
    model = mx.create("mixer", image_size=8, num_classes=num_classes, **sizes)
    model.head.bias.data[0] = 1.0  # and weights of zero: always class 0
    names = open_source("imagenette", shared / "data").class_names
    if num_classes == 1000:
        known = dict(zip(IMAGENETTE, names, strict=True))
        names = tuple(known.get(i, f"class {i}") for i in range(1000))
    set_info(model, replace(info_of(model), class_names=names))
    runtime = Runtime(data_root=str(shared / "data"), workers=0)
    arguments = {"split": "test", "real": shared / "data/imagenet_real.json", "runtime": runtime}
    scores = dict(mx.evaluate(model, "imagenette", **arguments).scores())
    assert scores["n"] == 2000 and scores["top1"] == 0.1
    assert (scores["real_top1"], scores["real_n"], scores["real_empty"], scores["real_others"]) == (
        9 / 128,
        128,
        6,
        1866,
    )


def test_missing_file_of_labels_is_named_before_the_data_is_opened(tmp_path):
    sizes = {"patch_size": 4, "hidden_dim": 4, "num_blocks": 1, "tokens_mlp_dim": 2, "channels_mlp_dim": 4}
    model = mx.create("mixer", image_size=8, num_classes=10, **sizes)
    with pytest.raises(ValueError, match="no ReaL labels in .*missing.json"):
        mx.evaluate(model, "/no/where", real=tmp_path / "missing.json")


def labels_of(**given: list[int]) -> list[frozenset[int]]:
    found = [frozenset[int]()] * 50_000
    for key, classes in given.items():
        found[int(key[1:])] = frozenset(classes)
    return found


def test_prediction_is_right_if_it_is_any_of_the_labels_and_images_without_do_not_count():
    labels = labels_of(_0=[3, 8], _1=[], _2=[4])
    names = [
        "ILSVRC2012_val_00000001.JPEG",
        "ILSVRC2012_val_00000002.JPEG",
        "ILSVRC2012_val_00000003.JPEG",
        "n01_7.JPEG",
    ]
    real = Real.of_names(labels, names, np.array([8, 4, -1]))
    scored = Classification(3, real)
    scored.add(one_hot(np.array([0, 0, 1, 1]), 3), torch.tensor([0, 1, 2, 0]))
    assert dict(scored.scores()) | {"real_top1": 1.0, "real_n": 2, "real_empty": 1, "real_others": 1} == dict(
        scored.scores()
    )
    scored.add(one_hot(np.array([2]), 3), torch.tensor([1]), torch.tensor([2]))
    assert dict(real.scores()) == {"real_top1": 2 / 3, "real_n": 3, "real_empty": 1, "real_others": 1}
    assert json.loads(json.dumps(scored.to_dict()))["real_n"] == 3


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("ILSVRC2012_val_00000001.JPEG", 0),
        ("val/n01440764/ILSVRC2012_val_00050000.JPEG", 49_999),
        ("ILSVRC2012_val_00050001.JPEG", NO_IMAGE),
        ("ILSVRC2012_val_00000000.JPEG", NO_IMAGE),
        ("ILSVRC2012_val_000000011.JPEG", NO_IMAGE),
        ("n01440764_10026.JPEG", NO_IMAGE),
    ],
)
def test_images_are_found_by_their_names(name, index):
    assert image_index(name) == index


def test_images_in_order_are_found_by_their_place_whatever_they_are_called():
    labels, own, classes = labels_of(_0=[3, 8], _2=[4]), np.zeros(50_000, np.int64), np.arange(1000)
    own[0] = 8
    real = Real.in_order(labels, own, classes, classes)
    real.add(one_hot(np.array([8, 0, 5]), 1000), [0, 1, 2])
    assert dict(real.scores()) == {"real_top1": 0.5, "real_n": 2, "real_empty": 1, "real_others": 0}
    with pytest.raises(ValueError, match="there are 49,999 images and ImageNet has 50,000 for validation"):
        Real.in_order(labels, own[1:], classes, classes)


def test_images_in_another_order_than_imagenets_are_refused_by_their_labels():
    rng, classes = np.random.default_rng(0), np.arange(1000)
    own = rng.integers(0, 1000, 50_000)
    labels = [
        frozenset({label} if right else {(label + 1) % 1000})
        for label, right in zip(own.tolist(), rng.random(50_000) < 0.9, strict=True)
    ]
    reversed_classes = classes[::-1]  # of data that names its classes the other way round
    for given, of_data in ((own, classes), (999 - own, reversed_classes)):
        Real.in_order(labels, given, of_data, classes)
        with pytest.raises(ValueError, match=r"only 0\.\d% of the images have a label that ReaL gives for"):
            Real.in_order(labels, np.sort(given), of_data, classes)


def test_evaluation_by_place_needs_all_images_and_the_file(shared):
    sizes = {"patch_size": 4, "hidden_dim": 4, "num_blocks": 1, "tokens_mlp_dim": 2, "channels_mlp_dim": 4}
    model = mx.create("mixer", image_size=8, num_classes=1000, **sizes)
    with pytest.raises(ValueError, match="real_by has no effect without real"):
        mx.evaluate(model, "digits", real_by="index")
    with pytest.raises(ValueError, match="unknown real_by 'place'; use name, index"):
        mx.evaluate(model, "digits", real_by="place")  # type: ignore[arg-type]
    if not (shared / "data/imagenette_val.parquet").exists():
        pytest.skip("needs ../shared/data/imagenette_val.parquet")
    arguments = {"real": shared / "data/imagenet_real.json", "real_by": "index"}
    with pytest.raises(ValueError, match="there are 2,000 images and ImageNet has 50,000"):
        mx.evaluate(model, "imagenette", split="test", runtime=Runtime(data_root=str(shared / "data")), **arguments)


def test_no_accuracy_where_no_image_has_labels():
    real = Real.of_names(labels_of(), ["ILSVRC2012_val_00000001.JPEG"], np.arange(1000))
    real.add(one_hot(np.array([5]), 1000), [0])
    assert dict(real.scores()) == {"real_n": 0, "real_empty": 1, "real_others": 0}


def test_what_has_no_real_labels_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="none of the 1 images is named like ImageNet's validation images"):
        Real.of_names(labels_of(), ["cat.jpg"], np.arange(1000))
    with pytest.raises(ValueError, match="no ReaL labels in .*missing.json .No such file"):
        read_real(tmp_path / "missing.json")
    file = tmp_path / "real.json"
    for content, complaint in (
        ("[[1], [2]]", "has 2 lists; real.json has 50,000 of them"),
        ("[1, 2]", "holds no ReaL labels"),
        ("{", "holds no ReaL labels"),
        (json.dumps([[1000]] * 50_000), "of numbers from 0 to 999"),
    ):
        file.write_text(content)
        with pytest.raises(ValueError, match=re.escape(complaint)):
            read_real(file)


def test_classes_of_imagenet_come_from_the_data_or_from_a_model_of_all_thousand():
    assert imagenet_classes(4, [7, 9], torch.tensor([2, 0]), "x").tolist() == [9, -1, 7, -1]
    assert imagenet_classes(1000, [], None, "x").tolist() == list(range(1000))
    with pytest.raises(ValueError, match="digits does not say which of ImageNet's classes its own are"):
        imagenet_classes(10, [], None, "digits")
    with pytest.raises(ValueError, match="the model's 1,000 classes are not in ImageNet's order"):
        imagenet_classes(1000, [7, 9], torch.tensor([7, 8]), "x")
