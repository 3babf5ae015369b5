"""Sources: every kind of SOURCE string opens, and what is not as it should be gets one sentence."""

import gzip
import io
import json
import struct
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mixonomy.data import known_sources, open_source, plan_splits
from mixonomy.data.decode import decode
from mixonomy.data.sources import known

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def png(value: int = 0, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (4, 4), (value,) * 3 if mode == "RGB" else value).save(buffer, "PNG")
    return buffer.getvalue()


def write(path, *, images=None, labels=(0, 1, 1, 0), metadata=None, **columns):
    """A .parquet file of as many images as labels; None leaves a column out."""
    count = len(labels) if labels is not None else 4
    images = [png(i) for i in range(count)] if images is None else images
    table = pa.table({key: value for key, value in {"image": images, "label": labels, **columns}.items()
                      if value is not None})  # fmt: skip
    pq.write_table(table.replace_schema_metadata(metadata), path)
    return path


@pytest.mark.slow
def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    opened, reference = open_source("digits"), load_digits()
    assert {name: len(split) for name, split in opened.splits.items()} == {"train": 1438, "test": 359}
    assert opened.class_names == tuple("0123456789") and opened.channels == 1
    ours = {}
    for split in opened.splits.values():
        assert set(split.labels.tolist()) == set(range(10))
        for i in range(len(split)):
            image, label = split[i]
            ours.setdefault(decode(image, 1).numpy().tobytes(), []).append(label)
    theirs = {}
    for pixels, label in zip(reference.images, reference.target, strict=True):
        theirs.setdefault(np.round(pixels * 255 / 16).astype(np.uint8).tobytes(), []).append(int(label))
    assert {key: sorted(value) for key, value in ours.items()} == {key: sorted(v) for key, v in theirs.items()}
    assert len({name for split in opened.splits.values() for name in split.names}) == 1797


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "counts", "num_classes", "first_classes"),
    [
        ("cifar10", {"train": 50_000, "test": 10_000}, 10, CIFAR10),
        ("cifar100", {"train": 50_000, "test": 10_000}, 100, ("apple", "aquarium_fish", "baby")),
        ("flowers102", {"train": 1020, "val": 1020, "test": 6149}, 102, ("pink primrose",)),
        ("imagenette", {"train": 4000, "val": 2000}, 10, ("tench",)),
        ("eurosat", {"train": 1000, "test": 2000}, 10, ("AnnualCrop",)),
    ],
)
def test_real_parquet_files_open_by_their_known_name(shared, name, counts, num_classes, first_classes):
    if not (shared / f"data/{name}_train.parquet").exists():
        pytest.skip(f"needs ../shared/data/{name}_train.parquet")
    opened = open_source(name, shared / "data")
    assert {split: len(images) for split, images in opened.splits.items()} == counts
    assert opened.class_names[: len(first_classes)] == first_classes and opened.channels == 3
    for split in opened.splits.values():
        per_class = np.bincount(split.labels, minlength=num_classes)
        assert len(per_class) == num_classes == len(opened.class_names) and per_class.min() > 0
        if name != "flowers102" or len(split) == 1020:
            assert per_class.min() == per_class.max()
        assert decode(split[len(split) - 1][0]).shape[0] == 3
    assert open_source(str(shared / "data" / name)).class_names == opened.class_names


def test_prefix_opens_the_splits_that_exist(tmp_path):
    for split in ("train", "test"):
        write(tmp_path / f"toy_{split}.parquet", filename=[f"{split}{i}.png" for i in range(4)])
    opened = open_source(str(tmp_path / "toy"))
    assert set(opened.splits) == {"train", "test"} and opened.name == "toy"
    assert list(opened.splits["test"].names) == ["test0.png", "test1.png", "test2.png", "test3.png"]
    assert opened.splits["train"][2] == (png(2), 1)
    assert opened.class_names == ("0", "1")


def test_data_root_comes_from_the_environment_where_it_is_not_given(tmp_path, monkeypatch):
    write(tmp_path / "pets_train.parquet")
    monkeypatch.setenv("MIXONOMY_DATA", str(tmp_path))
    assert len(open_source("pets").splits["train"]) == 4


def test_a_parquet_file_alone_is_a_train_split(tmp_path):
    opened = open_source(str(write(tmp_path / "toy.parquet")))
    assert set(opened.splits) == {"train"} and opened.splits["train"].names[1] == "toy.parquet[1]"


def test_hugging_faces_image_column_and_class_names_are_read(tmp_path):
    images = [{"bytes": png(i), "path": f"{i}.png"} for i in range(4)]
    feature = {"names": ["cat", "dog"], "_type": "ClassLabel"}
    metadata = {"huggingface": json.dumps({"info": {"features": {"image": {"_type": "Image"}, "label": feature}}})}
    opened = open_source(str(write(tmp_path / "hf.parquet", images=images, metadata=metadata)))
    assert opened.class_names == ("cat", "dog")
    assert opened.splits["train"][3] == (png(3), 0)


def test_hugging_faces_plain_integer_labels_get_numbers_as_names(tmp_path):
    features = {"image": {"_type": "Image"}, "label": {"dtype": "int64", "_type": "Value"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    assert open_source(str(write(tmp_path / "hf.parquet", metadata=metadata))).class_names == ("0", "1")


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_labels_may_be_class_names(tmp_path, kind):
    labels = pa.array(["dog", "cat", "dog", "ant"]).cast(kind)
    opened = open_source(str(write(tmp_path / "toy.parquet", labels=labels)))
    assert opened.class_names == ("ant", "cat", "dog")
    assert opened.splits["train"].labels.tolist() == [2, 1, 2, 0]


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint8(), pa.int32(), pa.uint64()], ids=str)
def test_labels_may_be_any_integers(tmp_path, kind):
    labels = (
        open_source(str(write(tmp_path / "toy.parquet", labels=pa.array([0, 2, 1, 0], kind)))).splits["train"].labels
    )
    assert labels.dtype == np.int64 and labels.tolist() == [0, 2, 1, 0]


def test_grey_sources_say_so_in_their_metadata(tmp_path):
    opened = open_source(str(write(tmp_path / "toy.parquet", metadata={"channels": "1"})))
    assert opened.channels == 1


NAMES = {"class_names": json.dumps(["a", "b"])}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"labels": None, "target": [0, 1, 1, 0]}, "has no column 'label', only image, target"),
        ({"images": pa.array([], pa.binary()), "labels": pa.array([], pa.int64())}, "has no rows"),
        ({"images": ["a.png"] * 4}, "column image .* holds string; it must hold the bytes"),
        ({"images": [png(), None, png(), png()]}, "image"),
        ({"images": [{"bytes": None, "path": "a.png"}] * 4}, "image"),
        ({"images": [{"data": png()}] * 4}, "image"),
        ({"labels": [0.0, 1.0, 1.0, 0.0]}, "column label .* holds double; it must hold integers or class names"),
        ({"labels": [0, None, 1, 0]}, "has 1 empty entries; every image needs a label"),
        ({"labels": [0, 1, 2, 0], "metadata": NAMES}, "labels from 0 to 2, but 2 class names"),
        ({"labels": [0, -1, 1, 0]}, "labels from -1 to 1"),
        ({"metadata": {"class_names": "[broken"}}, "class_names|class names"),
        ({"metadata": {"channels": "2"}}, "channels"),
    ],
    ids=["no label", "no rows", "paths", "null image", "path only", "other struct", "float label", "null label",
         "label too high", "label too low", "broken names", "two channels"],
)  # fmt: skip
def test_parquet_file_that_is_not_as_it_should_be_is_refused(tmp_path, options, words):
    path = write(tmp_path / "toy.parquet", **options)
    with pytest.raises(ValueError, match=words) as error:
        opened = open_source(str(path))
        decode(opened.splits["train"][1][0], opened.channels)
    assert "toy.parquet" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_damaged_parquet_file_is_refused(tmp_path, share):
    path = write(tmp_path / "toy.parquet")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"toy\.parquet cannot be read as parquet"):
        open_source(str(path))


def test_missing_parquet_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no file .*nowhere\.parquet"):
        open_source(str(tmp_path / "nowhere.parquet"))


def test_splits_are_joined_by_class_name(tmp_path):
    write(tmp_path / "toy_train.parquet", metadata=NAMES)
    names = json.loads(NAMES["class_names"])
    turned = names[::-1]
    write(tmp_path / "toy_test.parquet", metadata={"class_names": json.dumps(turned)})
    alone = open_source(str(tmp_path / "toy_test.parquet"))
    joined = open_source(str(tmp_path / "toy"))
    assert joined.class_names == tuple(names)
    meant = [alone.class_names[label] for label in alone.splits["train"].labels]
    assert [joined.class_names[label] for label in joined.splits["test"].labels] == meant


def test_split_with_a_class_that_train_lacks_is_refused(tmp_path):
    write(tmp_path / "toy_train.parquet", metadata=NAMES)
    names = [*json.loads(NAMES["class_names"])[:-1], "zebra"]
    write(tmp_path / "toy_test.parquet", metadata={"class_names": json.dumps(names)})
    with pytest.raises(ValueError, match="test of toy has classes that train lacks: zebra"):
        open_source(str(tmp_path / "toy"))


def test_splits_without_train_can_be_read_but_not_trained_on(tmp_path):
    write(tmp_path / "toy_test.parquet")
    source = open_source(str(tmp_path / "toy"))
    assert list(source.splits) == ["test"]
    with pytest.raises(ValueError, match="toy has no train split, only test"):
        plan_splits(source, 0.1)


@pytest.mark.parametrize(("given", "meant"), [("cifar-10", "cifar10"), ("digit", "digits"), ("flowers", "flowers102")])
def test_unknown_name_is_refused_with_the_nearest_one(given, meant):
    with pytest.raises(ValueError, match=f"no data set '{given}'.*did you mean '{meant}'"):
        open_source(given)


def test_name_that_is_not_there_is_told_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos.zip").write_bytes(b"")
    for given, said in {
        "fotos": f"{tmp_path} has no folder, and no _train.parquet, of that name, .* did you mean 'photos'?",
        f"{tmp_path}/photo": f"did you mean '{tmp_path}/photos'?",
        "nowhere/photos": f"there is no folder {tmp_path}/nowhere, .*; give a folder of class folders, a .csv",
        "photos.zip": "this file is none of .csv, .tsv and .parquet",
    }.items():
        with pytest.raises(ValueError, match=f"no data set '{given}': .*{said}"):
            open_source(given)


@pytest.mark.parametrize("text", ["", "no such thing [*]", "/nowhere/at/all"])
def test_nonsense_is_refused(text):
    with pytest.raises(ValueError, match="no data set"):
        open_source(text)


def test_known_sources_begin_with_the_embedded_one():
    names = [name for name, _ in known_sources()]
    assert names[0] == "digits" and len(set(names)) == len(names)
    assert {"cifar10", "cifar100", "fashion-mnist", "flowers102", "pets", "svhn", "dtd", "imagenet1k"} <= set(names)


def write_idx(folder, counts=(("train", 6), ("t10k", 3))):
    """Fashion-MNIST as Debian installs it, with a few images."""
    rng = np.random.default_rng(0)
    for stem, count in counts:
        images, labels = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8), np.arange(count, dtype=np.uint8)
        header = struct.pack(">4I", 0x803, count, 28, 28)
        (folder / f"{stem}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + images.tobytes()))
        header = struct.pack(">2I", 0x801, count)
        (folder / f"{stem}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(header + labels.tobytes()))
    return images


def test_idx_files_are_read(tmp_path, monkeypatch):
    last = write_idx(tmp_path)
    monkeypatch.setattr(known, "DEBIAN_FASHION", tmp_path)
    opened = open_source("fashion-mnist", tmp_path)
    assert {name: len(split) for name, split in opened.splits.items()} == {"train": 6, "test": 3}
    assert opened.class_names[9] == "Ankle boot" and opened.channels == 1
    image, label = opened.splits["test"][2]
    assert np.array_equal(image, last[2]) and label == 2
    assert decode(image, 1).shape == (1, 28, 28)


def test_truncated_idx_file_is_refused(tmp_path, monkeypatch):
    write_idx(tmp_path)
    monkeypatch.setattr(known, "DEBIAN_FASHION", tmp_path)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="train-images-idx3-ubyte"):
        open_source("fashion-mnist", tmp_path)


@pytest.mark.slow
def test_debians_fashion_mnist_is_complete(tmp_path):
    if not known.DEBIAN_FASHION.is_dir():
        pytest.skip("needs Debian's package dataset-fashion-mnist")
    opened = open_source("fashion-mnist", tmp_path)
    for name, count in (("train", 60_000), ("test", 10_000)):
        split = opened.splits[name]
        assert len(split) == count and np.bincount(split.labels).tolist() == [count // 10] * 10
    assert np.asarray(opened.splits["train"].images).mean() / 255 == pytest.approx(0.2860, abs=1e-4)  # well known


def test_parquet_under_the_root_comes_before_other_copies(tmp_path):
    write(tmp_path / "fashion-mnist_train.parquet")
    assert len(open_source("fashion-mnist", tmp_path).splits["train"]) == 4


@pytest.mark.slow
def test_folder_that_torchvision_reads_is_found_without_network(tmp_path):
    dtd = tmp_path / "dtd/dtd"
    (dtd / "labels").mkdir(parents=True)
    for split in ("train", "val", "test"):
        lines = []
        for i, texture in enumerate(("dotted", "banded")):
            (dtd / "images" / texture).mkdir(parents=True, exist_ok=True)
            (dtd / "images" / texture / f"{texture}_{split}.jpg").write_bytes(png(i))
            lines.append(f"{texture}/{texture}_{split}.jpg\n")
        (dtd / f"labels/{split}1.txt").write_text("".join(lines))
    opened = open_source("dtd", tmp_path)
    assert {name: len(split) for name, split in opened.splits.items()} == {"train": 2, "val": 2, "test": 2}
    assert opened.class_names == ("banded", "dotted")
    assert list(opened.splits["val"].names) == ["dotted_val.jpg", "banded_val.jpg"]
    assert opened.splits["val"][0] == (png(0), 1)


def test_arrays_that_torchvision_reads_are_found_without_network(tmp_path):
    raw = tmp_path / "MNIST/raw"
    raw.mkdir(parents=True)
    images = write_idx(raw)
    for path in raw.glob("*.gz"):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
    opened = open_source("mnist", tmp_path)
    assert {name: len(split) for name, split in opened.splits.items()} == {"train": 6, "test": 3}
    assert len(opened.class_names) == 10 and opened.channels == 1
    assert np.array_equal(opened.splits["test"][1][0], images[1]) and opened.splits["test"][1][1] == 1


@pytest.mark.parametrize("error", [OSError("Network is unreachable"), RuntimeError("File not found or corrupted.")])
def test_neither_copy_nor_network_is_one_sentence(tmp_path, monkeypatch, error):
    from torchvision import datasets

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(datasets, "CIFAR10", fail)
    with pytest.raises(ValueError, match="data set 'cifar10' is not in .* as cifar10_train.parquet") as caught:
        open_source("cifar10", tmp_path)
    assert str(error) in str(caught.value) and "--data-root" in str(caught.value)


def test_library_that_torchvision_lacks_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "flowers-102/jpg").mkdir(parents=True)
    monkeypatch.setitem(sys.modules, "scipy", None)  # torchvision reads Flowers-102 and SVHN by scipy
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    from torchvision import datasets

    monkeypatch.setattr(datasets.Flowers102, "download", lambda self: None)
    monkeypatch.setattr(datasets.Flowers102, "_check_integrity", lambda self: True)
    with pytest.raises(ValueError, match="scipy"):
        open_source("flowers102", tmp_path)


def test_every_known_name_is_one_of_torchvisions():
    from torchvision import datasets

    for entry in known.KNOWN.values():
        assert hasattr(datasets, entry.dataset)
