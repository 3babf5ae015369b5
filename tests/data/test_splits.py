"""Splits: validation chooses, test is scored once; what is held out depends on names and on which files are equal."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixonomy.data import Source, Split, hold_out, plan_splits
from mixonomy.data.sources.files import Files


def split(prefix: str, labels) -> Split:
    labels = np.array(labels, dtype=np.int64)
    names = [f"{prefix}-{i}" for i in range(len(labels))]
    return Split([name.encode() for name in names], labels, names)


def source(**counts: int) -> Source:
    splits = {name: split(name, [i % 4 for i in range(count)]) for name, count in counts.items()}
    return Source("toy", ("a", "b", "c", "d"), splits)


def names(part: Split | None) -> set[str]:
    assert part is not None and len(set(part.names)) == len(part)
    return set(part.names)


def test_own_validation_split_chooses_where_there_is_a_test_split_too():
    opened = source(train=80, val=20, test=40)
    plan = plan_splits(opened, 0.1)
    assert (plan.train, plan.val, plan.test) == tuple(opened.splits[name] for name in ("train", "val", "test"))
    assert plan.test_name == "test"


def test_validation_comes_out_of_train_where_there_is_only_a_test_split():
    opened = source(train=80, test=40)
    plan = plan_splits(opened, 0.1)
    assert plan.test is opened.splits["test"]
    assert names(plan.train) | names(plan.val) == names(opened.splits["train"])
    assert len(plan.train) == 72 and len(plan.val) == 8


def test_only_other_split_named_val_is_scored_and_does_not_choose():
    opened = source(train=80, val=40)
    plan = plan_splits(opened, 0.1)
    assert plan.test is opened.splits["val"] and plan.test_name == "val"
    assert names(plan.val) < names(opened.splits["train"])


def test_source_of_train_alone_gives_a_tenth_for_test_and_then_validation():
    opened = source(train=200)
    plan = plan_splits(opened, 0.1)
    assert (len(plan.train), len(plan.val), len(plan.test)) == (164, 16, 20)
    assert plan.test_name == "a tenth of toy"


@pytest.mark.parametrize("counts", [{"train": 200}, {"train": 80, "val": 40}, {"train": 80, "test": 40}], ids=str)
@pytest.mark.parametrize("val_share", [0.0, 0.1, 0.5])
def test_parts_never_overlap_and_lose_nothing(counts, val_share):
    opened = source(**counts)
    plan = plan_splits(opened, val_share)
    parts = [names(part) for part in (plan.train, plan.val, plan.test) if part is not None]
    assert (plan.val is None) == (val_share == 0)
    assert sum(map(len, parts)) == len(set.union(*parts)) == sum(counts.values())


def test_test_images_do_not_depend_on_the_share_for_validation():
    opened = source(train=200)
    assert names(plan_splits(opened, 0.0).test) == names(plan_splits(opened, 0.4).test)


@given(st.lists(st.integers(0, 3), min_size=8, max_size=80), st.floats(0.05, 0.5), st.randoms())
def test_held_out_part_is_stratified_and_independent_of_the_order(labels, share, random):
    whole = split("image", labels)
    if max(np.bincount(whole.labels)) < 2:
        return
    rest, held = hold_out(whole, share)
    for label in set(labels):
        count = labels.count(label)
        assert (held.labels == label).sum() == (max(round(share * count), 1) if count > 1 else 0)
    order = list(range(len(whole)))
    random.shuffle(order)
    rest_again, held_again = hold_out(whole.pick(np.array(order)), share)
    assert names(held_again) == names(held) and names(rest_again) == names(rest)


@pytest.mark.parametrize("share", [0.5, 0.75, 0.9, 0.99])
def test_every_class_keeps_an_image_to_train_on(share):
    rest, _ = hold_out(split("image", [0] * 2 + [1] * 3 + [2] * 40), share)
    assert set(rest.labels.tolist()) == {0, 1, 2}


def test_labels_and_images_stay_together():
    whole = split("image", [i % 3 for i in range(60)])
    by_name = dict(zip(whole.names, whole.labels.tolist(), strict=True))
    for part in hold_out(whole, 0.3):
        for i, name in enumerate(part.names):
            assert part[i] == (name.encode(), by_name[name])


def test_held_out_images_are_pinned_so_that_old_scores_stay_comparable():
    _, held = hold_out(split("image", [0] * 20), 0.2)
    assert sorted(held.names) == ["image-10", "image-11", "image-18", "image-9"]


def copied(tmp_path=None) -> Split:
    """60 images of two classes; of every five three are the same file. In memory, or on disk."""
    contents = [f"picture {i if i % 5 < 2 else i // 5 * 5 + 2:02d}".encode() for i in range(60)]
    names, labels = [f"image-{i}" for i in range(60)], np.arange(60) // 30
    if tmp_path is None:
        return Split(contents, labels, names)
    for name, content in zip(names, contents, strict=True):
        (tmp_path / name).write_bytes(content)
    return Split(Files(tmp_path, names), labels, names)


@pytest.mark.parametrize("is_on_disk", [False, True])
def test_copies_of_a_file_are_held_out_together_or_not_at_all(is_on_disk, tmp_path):
    whole = copied(tmp_path if is_on_disk else None)
    opened = Source("toy", ("a", "b"), {"train": whole})
    plan = plan_splits(opened, 0.2)
    parts = [{part.images[i] for i in range(len(part))} for part in (plan.train, plan.val, plan.test) if part]
    assert len(parts) == 3 and sum(map(len, parts)) == len(set.union(*parts)) == 36
    assert plan.val and (len(plan.train), len(plan.val), len(plan.test)) == (44, 10, 6)
    order = np.random.default_rng(0).permutation(60)
    again = plan_splits(Source("toy", ("a", "b"), {"train": whole.pick(order)}), 0.2)
    assert names(again.test) == names(plan.test) and names(again.val) == names(plan.val)


def test_a_class_of_one_picture_is_left_to_training():
    rest, held = hold_out(
        Split([b"same"] * 10 + [bytes([i]) for i in range(10)], np.arange(20) // 10, split("i", range(20)).names), 0.2
    )
    assert held.labels.tolist() == [1, 1] and len(rest) == 18


def test_files_that_cannot_be_read_are_no_copies_of_one_another(tmp_path):
    whole = Split(
        Files(tmp_path, [f"{i}.jpg" for i in range(20)]), np.zeros(20, dtype=np.int64), split("i", range(20)).names
    )
    assert len(hold_out(whole, 0.2)[1]) == 4


def test_photographs_of_different_sizes_are_not_read(tmp_path):
    class Unread(Files):
        def __getitem__(self, index, /):
            raise AssertionError("was read")

    names = [f"{i}.jpg" for i in range(20)]
    for i, name in enumerate(names):
        (tmp_path / name).write_bytes(bytes(i))
    train = Split(Unread(tmp_path, names), np.zeros(20, dtype=np.int64), names)
    assert len(hold_out(train, 0.2)[1]) == 4
    parts = {"train": train.pick(np.arange(15)), "val": train.pick(np.arange(15, 20)), "test": train}
    plan = plan_splits(Source("toy", ("a",), parts), 0.2, train_images=20)
    assert plan.val is not None and len(plan.val) == 4


def test_too_few_images_to_hold_out_any_are_refused():
    with pytest.raises(ValueError, match="3 images, no class with two different ones, are too few to hold out 10%"):
        hold_out(split("image", [0, 1, 2]), 0.1)
    with pytest.raises(ValueError, match="6 images, no class with two different ones, .*; add images"):
        hold_out(Split([b""] * 6, np.arange(6) // 3, split("i", range(6)).names), 0.1)


def test_plan_describes_itself():
    assert plan_splits(source(train=2000), 0.1).describe() == "1,620 training, 180 validation and 200 test images"
    assert plan_splits(source(train=80, test=40), 0.0).describe() == "80 training, no validation and 40 test images"
