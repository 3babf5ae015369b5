"""Each defect that is planted is found as what it is, and sound data give no finding."""

import json
import os
import signal

import numpy as np
import pytest

from mixonomy.data import Source, Split, open_source
from mixonomy.data.check import check_source
from mixonomy.data.check.summary import class_counts


@pytest.fixture
def sound(picture, encoded, make_source):
    """A source of different pictures, with other samples added to its splits."""

    def build(train=(), val=(), test=(), classes=("cat", "dog"), **options) -> Source:
        seeds = iter(range(100))
        counts = {"train": 12, "val": 4, "test": 4}
        added = {"train": train, "val": val, "test": test}
        splits = {
            split: [(encoded(picture(next(seeds))), i % 2) for i in range(count)] + list(added[split])
            for split, count in counts.items()
        }
        return make_source(classes, **splits, **options)

    return build


def found(source: Source, other: Source | None = None) -> dict[str, list[tuple[list[str], str]]]:
    """kind -> (names of the images, note) of each case."""
    check = check_source(source, other)
    assert check.is_ok == (not any(finding.is_blocking for finding in check.findings))
    return {
        finding.kind: [([check.name_of(i) for i in case.images], case.note) for case in finding.cases]
        for finding in check.findings
    }


def test_sound_data_give_no_finding(sound):
    assert found(sound()) == {}


def test_bad_files_are_named_with_the_reason(sound, picture, encoded):
    jpeg = encoded(picture(50), "JPEG")
    kinds = found(sound(train=[(b"no image at all", 0)], test=[(jpeg[: len(jpeg) // 2], 1)]))
    assert kinds == {
        "unreadable": [(["train/12.png"], "not a readable image (no known format)")],
        "truncated": [(["test/4.png"], "the end marker of the JPEG file is missing")],
    }


def test_a_file_that_is_gone_is_unreadable_and_no_crash(sound):
    class Gone:
        def __len__(self):
            return 2

        def __getitem__(self, index, /):
            raise FileNotFoundError(2, "No such file or directory", "gone.png")

    source = sound()
    source.splits["val"] = Split(Gone(), np.array([0, 1]), ["gone.png", "too.png"])
    assert [note for _, note in found(source)["unreadable"]] == ["No such file or directory"] * 2


def test_copies_between_splits_leak_and_copies_within_one_do_not(sound, picture, encoded):
    smaller = encoded(picture(0).resize((48, 36)))
    kinds = found(sound(train=[(encoded(picture(1)), 1)], test=[(smaller, 0)]))
    assert kinds == {
        "leak": [(["train/0.png", "test/4.png"], "nearly the same")],
        "duplicate": [(["train/1.png", "train/12.png"], "the same file")],
    }


def test_of_many_copies_the_first_of_each_split_comes_first(sound, picture, encoded):
    kinds = found(sound(train=[(encoded(picture(0)), 0)] * 5, test=[(encoded(picture(0)), 0)]))
    (names, note), *rest = kinds["leak"]
    assert names[:3] == ["train/0.png", "test/4.png", "train/12.png"] and len(names) == 7 and not rest


def test_same_pixels_in_another_file_are_told_from_the_same_file(sound, picture, encoded):
    kinds = found(sound(test=[(encoded(picture(0)), 0), (encoded(picture(1), "BMP"), 1)]))
    assert [note for _, note in kinds["leak"]] == ["the same file", "the same pixels"]


def test_copies_with_different_labels_contradict(sound, picture, encoded):
    kinds = found(sound(train=[(encoded(picture(0)), 1)]))
    assert kinds == {"contradiction": [(["train/0.png", "train/12.png"], "the same file")]}


def test_labels_of_several_classes_contradict_if_the_sets_differ(sound, picture, encoded):
    source = sound(train=[(encoded(picture(0)), 0), (encoded(picture(1)), 0)])
    for name, split in source.splits.items():
        labels = np.zeros((len(split), 2), dtype=bool)
        labels[np.arange(len(split)), np.arange(len(split)) % 2] = True
        source.splits[name] = Split(split.images, labels, split.names)
    source.splits["train"].labels[[0, 12]] = True  # both copies show a cat and a dog
    source.splits["train"].labels[13] = [True, True]  # the copy of a dog
    kinds = found(source)
    assert kinds == {
        "contradiction": [(["train/1.png", "train/13.png"], "the same file")],
        "duplicate": [(["train/0.png", "train/12.png"], "the same file")],
    }
    images = check_source(source).to_dict()["findings"][0]["cases"][0]["images"]
    assert [image["label"] for image in images] == ["dog", "cat + dog"]


def test_pictures_that_are_also_in_another_source_are_found(sound, picture, encoded, make_source):
    copies = [encoded(picture(3).resize((50, 40)), "JPEG"), encoded(picture(3)), encoded(picture(70)), b"broken"]
    # Copies and labels within the other source are not judged.
    other = make_source(("x",), "other", test=[(copy, 0) for copy in copies])
    kinds = found(sound(), other)
    assert kinds == {
        "leak-against": [(["train/3.png", "test/0.png of other", "test/1.png of other"], "the same file")],
        "uncompared": [(["test/3.png of other"], "not a readable image (no known format)")],
    }
    assert not check_source(sound(), other).is_ok


def test_classes_without_training_images_are_found(sound, picture, encoded):
    test = [(encoded(picture(60)), 2), (encoded(picture(61)), 2)]
    train = [(encoded(picture(62)), 4)]
    kinds = found(sound(train=train, test=test, classes=("cat", "dog", "owl", "yak", "rare")))
    assert kinds == {
        "untrained-class": [([], "owl: 2 in test")],
        "empty-class": [([], "yak")],
        "rare-class": [([], "rare: 1 (median of all classes: 6)")],
    }


def test_tiny_and_long_images_are_found_relative_to_the_others(sound, picture, encoded, make_source):
    odd = [(encoded(picture(60, 12, 12)), 0), (encoded(picture(61, 500, 80)), 0)]
    kinds = found(sound(train=odd))
    assert kinds == {
        "tiny": [(["train/12.png"], "12 x 12 pixels")],
        "long": [(["train/13.png"], "500 x 80 pixels")],
    }
    small = [(encoded(picture(seed, 12, 12)), seed % 2) for seed in range(12)]
    long = [(encoded(picture(seed, 500, 80)), seed % 2) for seed in range(12)]
    assert found(make_source(train=small)) == found(make_source(train=long)) == {}


def test_image_that_ends_grey_is_only_a_note(sound, picture, encoded):
    jpeg = encoded(picture(60), "JPEG")
    source = sound(train=[(jpeg[: len(jpeg) // 2] + b"\xff\xd9", 0)])
    assert list(found(source)) == ["ends-grey"] and check_source(source).is_ok


def test_json_has_every_case_and_the_counts(sound, picture, encoded):
    train = [(encoded(picture(0)), 0)] * 20 + [(b"broken", 1)]
    result = json.loads(json.dumps(check_source(sound(train=train)).to_dict()))
    assert result["ok"] is False and result["images"] == 41
    assert result["splits"] == {"train": 33, "val": 4, "test": 4}
    assert result["classes"] == {"cat": {"train": 26, "val": 2, "test": 2}, "dog": {"train": 7, "val": 2, "test": 2}}
    assert result["formats"] == {"PNG": 40} and result["modes"] == {"RGB": 40}
    assert result["median_size"] == [72, 96] and result["shorter_sides"] == {"64 to 127": 40}
    unreadable, duplicate = result["findings"]
    assert (unreadable["kind"], unreadable["blocking"], unreadable["title"]) == (
        "unreadable", True, "1 image cannot be read",
    )  # fmt: skip
    assert unreadable["cases"][0]["images"] == [
        {"source": "pets", "split": "train", "index": 32, "name": "32.png", "label": "dog"}
    ]
    assert duplicate["blocking"] is False and len(duplicate["cases"][0]["images"]) == 21


def test_a_process_finds_the_same_as_none(sound, picture, encoded):
    source = sound(train=[(encoded(picture(1)), 1), (b"broken", 0)], test=[(encoded(picture(0)), 0)])
    alone, shared = (check_source(source, workers=workers).to_dict() for workers in (0, 1))
    assert {**alone, "seconds": 0, "images_per_s": 0} == {**shared, "seconds": 0, "images_per_s": 0}


class Deadly(list):
    """Images of which reading one ends the process, as the system does when memory is full."""

    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGKILL)


def test_process_that_is_killed_is_one_sentence():
    source = Source("pets", ("cat",), {"train": Split(Deadly([b"", b""]), np.zeros(2, dtype=np.int64), ["a", "b"])})
    with pytest.raises(ValueError, match=r"ended from outside.*give fewer --workers \(0 decodes without.*\)\.$"):
        check_source(source, workers=1)


def test_progress_ends_at_the_number_of_images(sound):
    seen: list[int] = []
    check_source(sound(), report=seen.append)
    assert seen == sorted(seen) and seen[-1] == 20


def test_embedded_digits_are_sound():
    assert check_source(open_source("digits")).findings == ()


@pytest.mark.parametrize(
    ("labels", "expected"),
    [(np.array([0, 2, 2]), [1, 0, 2]), (np.array([[1, 1, 0], [0, 1, 0]], dtype=bool), [1, 2, 0])],
)
def test_class_counts(labels, expected):
    assert class_counts(labels, 3).tolist() == expected
