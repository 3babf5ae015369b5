"""Folders of class folders: every layout that people have opens, what is no such layout gets one sentence."""

import os
import unicodedata

import pytest
from PIL import Image

from mixonomy.data import hold_out, open_source
from mixonomy.data.sources.files import PackedStrings


def tree(root, *paths):
    """Writes a small image of a colour of its own at every path."""
    for number, path in enumerate(paths):
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        kind = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".gif": "GIF"}[file.suffix.lower()]
        Image.new("RGB", (4, 4), (number, 0, 0)).save(file, kind)
    return root


def shown(split, class_names):
    """(name, class) of every sample."""
    return [(name, class_names[label]) for name, label in zip(split.names, split.labels, strict=True)]


def test_class_folders_without_splits(tmp_path):
    opened = open_source(str(tree(tmp_path, "dog/b.jpg", "cat/z.PNG", "cat/a.JPEG", "dog/old/c.gif")))
    assert opened.class_names == ("cat", "dog") and list(opened.splits) == ["train"]
    expected = [("cat/a.JPEG", "cat"), ("cat/z.PNG", "cat"), ("dog/b.jpg", "dog"), ("dog/old/c.gif", "dog")]
    assert shown(opened.splits["train"], opened.class_names) == expected
    image, label = opened.splits["train"][2]
    assert image == (tmp_path / "dog/b.jpg").read_bytes() and label == 1


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Validation"])
def test_split_folders_with_any_usual_name(tmp_path, val):
    paths = [f"{split}/{c}/{i}.png" for split in ("Train", val, "test") for c in ("a", "b") for i in range(2)]
    opened = open_source(str(tree(tmp_path, *paths)))
    assert {name: len(split) for name, split in opened.splits.items()} == {"train": 4, "val": 4, "test": 4}
    assert opened.splits["val"].names[0] == f"{val}/a/0.png"


def test_folder_of_validation_and_test_alone_can_be_scored_on(tmp_path):
    opened = open_source(str(tree(tmp_path, "val/a/0.png", "val/b/0.png", "test/b/1.png", "test/a/1.png")))
    assert sorted(opened.splits) == ["test", "val"] and opened.class_names == ("a", "b")


def test_class_may_be_called_test(tmp_path):
    assert open_source(str(tree(tmp_path, "test/0.png", "control/0.png"))).class_names == ("control", "test")


def test_class_may_be_called_train_as_in_cifar100(tmp_path):
    tree(tmp_path, "train/0.png", "tractor/0.png", "test/0.png")
    opened = open_source(str(tmp_path))
    assert opened.class_names == ("test", "tractor", "train") and list(opened.splits) == ["train"]


def test_split_that_lacks_a_class_keeps_the_numbers_of_train(tmp_path):
    opened = open_source(str(tree(tmp_path, "train/a/0.png", "train/b/0.png", "train/c/0.png", "test/c/0.png")))
    assert opened.splits["test"].labels.tolist() == [2]


def test_hidden_files_and_leftovers_of_other_systems_are_ignored(tmp_path):
    tree(
        tmp_path, "a/0.png", "b/0.png", "a/.hidden.png", "a/._0.png", ".git/x.png", "__MACOSX/a/0.png", "b/@eaDir/t.jpg"
    )
    (tmp_path / "b/notes.txt").write_text("not an image")
    opened = open_source(str(tmp_path))
    assert list(opened.splits["train"].names) == ["a/0.png", "b/0.png"] and opened.class_names == ("a", "b")


def test_links_are_followed_and_a_circle_ends(tmp_path):
    tree(tmp_path, "elsewhere/more/1.png", "data/a/0.png", "data/b/0.png")
    (tmp_path / "data/a/linked").symlink_to(tmp_path / "elsewhere/more")
    (tmp_path / "data/b/above").symlink_to(tmp_path / "data/b")
    (tmp_path / "data/b/file.png").symlink_to(tmp_path / "elsewhere/more/1.png")
    (tmp_path / "data/c").symlink_to(tmp_path / "elsewhere")
    opened = open_source(str(tmp_path / "data"))
    assert list(opened.splits["train"].names) == ["a/0.png", "a/linked/1.png", "b/0.png", "b/file.png", "c/more/1.png"]


def test_link_to_a_folder_above_brings_no_images_of_other_classes(tmp_path):
    tree(tmp_path, "elsewhere/1.png", "data/train/a/0.png", "data/train/b/sub/0.png", "data/val/a/0.png")
    (tmp_path / "data/train/a/all").symlink_to(tmp_path / "data/train")
    (tmp_path / "data/train/b/sub/root").symlink_to("../../../..")
    opened = open_source(str(tmp_path / "data"))
    assert list(opened.splits["train"].names) == ["train/a/0.png", "train/b/sub/0.png"]


def test_names_are_the_same_however_the_file_system_writes_them(tmp_path):
    for form in ("NFC", "NFD"):
        name = unicodedata.normalize(form, "Äpfel/größe ü.png")
        tree(tmp_path / form, name, "ぶどう/0.png")
    first, second = (open_source(str(tmp_path / form)) for form in ("NFC", "NFD"))
    assert first.class_names == second.class_names == ("Äpfel", "ぶどう")
    assert first.digest() == second.digest()
    assert second.splits["train"][0][0]  # and the file is found by the name it has on disk


def test_name_that_is_no_unicode_can_be_used(tmp_path):
    tree(tmp_path, "a/0.png", "a/1.png", "b/0.png", "b/1.png")
    os.rename(os.fsencode(tmp_path / "a/0.png"), os.fsencode(tmp_path) + b"/a/\xff.png")
    opened = open_source(str(tmp_path))
    assert opened.splits["train"][0][0] and len(opened.digest()) == 16
    assert len(hold_out(opened.splits["train"], 0.5)[1]) == 2


def test_order_is_that_of_composed_names(tmp_path):
    for form in ("NFC", "NFD"):  # "e" and an accent sorts before "f", the composed letter after "z"
        tree(tmp_path / form, *(f"a/{unicodedata.normalize(form, name)}.png" for name in ("é", "f", "z")), "b/0.png")
    first, second = (open_source(str(tmp_path / form)) for form in ("NFC", "NFD"))
    assert list(first.splits["train"].names) == list(second.splits["train"].names)
    assert first.digest() == second.digest()


def test_class_name_that_is_no_unicode_can_be_used(tmp_path):
    tree(tmp_path, "a/0.png", "b/0.png")
    os.rename(os.fsencode(tmp_path / "a"), os.fsencode(tmp_path) + b"/\xff")
    assert len(open_source(str(tmp_path)).digest()) == 16


def test_link_to_itself_is_one_unreadable_image(tmp_path):
    tree(tmp_path, "a/0.png", "b/0.png")
    (tmp_path / "a/loop.png").symlink_to("loop.png")
    split = open_source(str(tmp_path)).splits["train"]
    assert list(split.names) == ["a/0.png", "a/loop.png", "b/0.png"]
    with pytest.raises(OSError):
        split[1]


def test_order_does_not_depend_on_the_order_of_the_files(tmp_path, monkeypatch):
    tree(tmp_path, *(f"{c}/{i}.png" for c in "ab" for i in range(20)), "a/real/0.png")
    (tmp_path / "a/linked").symlink_to("real")  # one folder by two names: one of them counts
    before = open_source(str(tmp_path))
    scandir = os.scandir

    class Backwards:
        def __init__(self, path):
            self.entries = list(scandir(path))[::-1]

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(os, "scandir", Backwards)
    after = open_source(str(tmp_path))
    assert list(after.splits["train"].names) == list(before.splits["train"].names)
    held = [list(hold_out(opened.splits["train"], 0.2)[1].names) for opened in (before, after)]
    assert held[0] == held[1] and len(held[0]) == 8


def test_images_outside_of_the_class_folders_are_left_out_and_said(tmp_path):
    tree(tmp_path, "train/a/0.png", "train/b/0.png", "train/1.png", "train/2.png", "test/a/0.png", "test/b/3.png")
    opened = open_source(str(tmp_path))
    assert len(opened.splits["train"]) == 2
    assert opened.notes == (f"train of {tmp_path.name} has 2 images outside of its class folders, left out.",)


def test_empty_class_is_left_out_and_said(tmp_path):
    tree(tmp_path, "train/a/0.png", "train/b/0.png", "test/a/0.png")
    (tmp_path / "train/nothing").mkdir()
    opened = open_source(str(tmp_path))
    assert opened.class_names == ("a", "b")
    assert opened.notes == (f"train of {tmp_path.name} has no images of nothing, left out.",)


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([], "has no class folders; put the images of each class in a folder"),
        (["0.png", "1.png"], "has 2 images but no class folders"),
        (["cats/0.png"], "has images of one class only, 'cats'; a classifier needs two or more"),
        (["mine/cats/0.png", "mine/dogs/0.png"], r"lie too deep, such as mine/.*; give .*mine"),
        (["x/cats/in/0.png", "y/cats/in/0.png"], "lie too deep.*put the images directly into the class folders"),
        (["train/a/0.png", "train/b/0.png", "test/c/0.png"], "test of .* has classes that train lacks: c"),
        (["cats/0.png", "dogs/0.png", "test/cats/1.png"], "has test and beside them cats, dogs; give a folder with"),
        (["train/a/0.png", "train/b/0.png", "extra/c/0.png"], "has train and beside them extra; give a folder with"),
        (["train/a/0.png", "val/a/0.png", "valid/b/0.png"], "two of which are the same split"),
        (["train/0.png", "train/1.png"], "train has 2 images but no class folders"),
    ],
)  # fmt: skip
def test_other_layouts_get_one_sentence(tmp_path, paths, message):
    with pytest.raises(ValueError, match=message):
        open_source(str(tree(tmp_path, *paths)))


def test_folders_without_images_are_refused(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a/readme.txt").write_text("no image")
    with pytest.raises(ValueError, match=r"no image in the folders of .* \(a, b\)"):
        open_source(str(tmp_path))


def test_packed_strings_are_a_sequence():
    texts = ["", "a", "größe", "", "\udcff", "z" * 300]
    packed = PackedStrings(texts)
    assert list(packed) == texts and len(packed) == 6 and packed[-1] == texts[-1] and packed[1:3] == texts[1:3]
    assert list(PackedStrings([])) == []
    for index in (6, -7):
        with pytest.raises(IndexError):
            packed[index]
