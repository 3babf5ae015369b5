"""Other people's shards: the layouts that circulate are read, once, and what is wrong is said in one sentence."""

import gzip
import json
import os
import shutil
import tarfile

import numpy as np
import pytest
from shard_files import CLASSES, contents, image, samples, toy, write_tar

from mixonomy.data import open_source
from mixonomy.data.shards import scan
from mixonomy.data.shards.index import NAME
from mixonomy.data.shards.pack import Options, pack


def opened(where):
    return open_source(f"shards:{where}")


def count_scans(monkeypatch):
    """A list that grows by the name of each shard that is read through."""
    read, original = [], scan._scan_shard

    def counted(file, shard, *rest):
        read.append(shard)
        return original(file, shard, *rest)

    monkeypatch.setattr(scan, "_scan_shard", counted)
    return read


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_images_with_class_numbers(tmp_path, form):
    for shard in range(3):
        members = samples(range(shard * 4, shard * 4 + 4), cls=lambda number: str(number % 3))
        write_tar(tmp_path / f"{shard:05d}.tar", members, form)
    found = opened(tmp_path)
    assert found.class_names == ("0", "1", "2") and list(found.splits) == ["train"] and found.name == tmp_path.name
    assert contents(found.splits["train"]) == {
        f"{i // 4:05d}/{i:04d}.png": (image(i), i % 3) for i in range(12)
    }  # fmt: skip


def test_timms_layout_with_its_description(tmp_path):
    info = {"splits": {}}
    for split, start, count in (("train", 0, 6), ("validation", 100, 4)):
        shard = f"toy-{split}-0000.tar"
        members = samples(
            range(start, start + count),
            cls=lambda number: str(number % 3),
            json=lambda number: {"label": number % 3, "width": 8, "filename": f"{number}.JPEG"},
        )
        write_tar(tmp_path / shard, members)
        info["splits"][split] = {
            "name": split, "filenames": [shard], "shard_lengths": [count], "num_samples": count,
        }  # fmt: skip
    (tmp_path / "_info.json").write_text(json.dumps(info))
    found = opened(tmp_path)
    assert {name: len(part) for name, part in found.splits.items()} == {"train": 6, "val": 4}
    assert found.splits["val"].labels.tolist() == [1, 2, 0, 1]


def test_timms_other_label_field_and_images_that_are_marked_as_having_none(tmp_path):
    members = samples(range(5), cls=lambda number: "0", json=lambda number: {"label": 0, "fine": number - 1})
    write_tar(tmp_path / "a.tar", members)
    about = {"name": "train", "filenames": ["a.tar"], "shard_lengths": [5], "num_samples": 5, "alt_label": "fine"}
    (tmp_path / "_info.json").write_text(json.dumps({"splits": {"train": about}}))
    found = opened(tmp_path)
    assert found.splits["train"].labels.tolist() == [0, 1, 2, 3]
    assert found.notes == (f"{tmp_path.name} has 1 images marked as having no label, left out.",)


def test_img2datasets_layout_with_a_column_of_labels(tmp_path):
    for shard in range(2):
        start = shard * 10_000
        members = {}
        for number in range(start, start + 3):
            key = f"{number:09d}"
            members[f"{key}.jpg"] = image(number, "JPEG")
            members[f"{key}.txt"] = f"a caption of number {number}".encode()
            fields = {"caption": "...", "url": "...", "key": key, "status": "success", "label": CLASSES[number % 3]}
            members[f"{key}.json"] = json.dumps(fields).encode()
        write_tar(tmp_path / f"{shard:05d}.tar", members)
        (tmp_path / f"{shard:05d}_stats.json").write_text("{}")
        (tmp_path / f"{shard:05d}.parquet").write_bytes(b"")
    found = opened(tmp_path)
    assert found.class_names == CLASSES and len(found) == 6
    assert contents(found.splits["train"])["00001/000010001.jpg"] == (image(10_001, "JPEG"), 10_001 % 3)


def test_class_names_in_text_members_and_several_in_json(tmp_path):
    write_tar(tmp_path / "text/a.tar", samples(range(6), txt=lambda number: f" {CLASSES[number % 3]}\n"))
    assert opened(tmp_path / "text").class_names == CLASSES
    names = ["great white shark", "Émeu", "3 bees, or more"]
    write_tar(tmp_path / "names/a.tar", samples(range(6), cls=lambda number: f"{names[number % 3]}\n"))
    found = opened(tmp_path / "names")
    assert found.class_names == tuple(sorted(names)) and not found.is_multilabel
    write_tar(tmp_path / "several/a.tar", samples(range(2), cls=lambda number: ["ant; big bee", "ant"][number]))
    found = opened(tmp_path / "several")
    assert found.class_names == ("ant", "big bee") and found.is_multilabel
    write_tar(tmp_path / "few/a.tar", samples(range(3), cls=lambda number: CLASSES[number]))
    assert opened(tmp_path / "few").class_names == CLASSES  # though all are different
    sets = [["bee"], ["ant", "cow"], [], ["cow"]]
    write_tar(tmp_path / "many/a.tar", samples(range(4), json=lambda number: {"labels": sets[number]}))
    found = opened(tmp_path / "many")
    assert found.is_multilabel and found.class_names == CLASSES
    assert found.splits["train"].labels.astype(int).tolist() == [[0, 1, 0], [1, 0, 1], [0, 0, 0], [0, 0, 1]]
    write_tar(tmp_path / "numbers/a.tar", samples(range(3), cls=lambda number: f"{number} 2" if number else "1"))
    found = opened(tmp_path / "numbers")
    assert found.splits["train"].labels.astype(int).tolist() == [[0, 1, 0], [0, 1, 1], [0, 0, 1]]


def test_folders_within_shards_other_members_and_upper_case_are_no_matter(tmp_path):
    members = {
        "./set/b.JPG": image(0, "JPEG"), "./set/b.seg.png": image(9), "./set/b.cls": b"1",
        "set/c.jpeg": image(1, "JPEG"), "set/c.npy": b"x", "set/c.CLS": b"0\n",
        "set/notes.txt": b"cow", "__meta__/x.json": b"{", "set/.hidden": b"",
    }  # fmt: skip
    write_tar(tmp_path / "a.tar", members)
    assert contents(opened(tmp_path).splits["train"]) == {
        "a/set/b.jpg": (image(0, "JPEG"), 1),
        "a/set/c.jpeg": (image(1, "JPEG"), 0),
    }


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["train-0.tar", "val-0.tar", "test-0.tar"], ["train", "val", "test"]),
        (["train/00.tar", "valid/00.tar"], ["train", "val"]),
        (["imagenet-validation-12.tar"], ["val"]),
        (["contest-0.tar", "latest.tar"], ["train"]),
    ],
)
def test_names_of_shards_and_folders_say_which_split_they_are(tmp_path, names, splits):
    for name in names:
        write_tar(tmp_path / name, samples(range(2), cls=lambda number: str(number)))
    assert list(opened(tmp_path).splits) == splits


def test_shards_by_braces_stars_and_one_by_one(tmp_path):
    for shard in range(12):
        write_tar(tmp_path / f"{shard:03d}.tar", samples(range(shard * 2, shard * 2 + 2), cls=lambda n: str(n % 2)))
    for pattern, count in (("{000..011}.tar", 24), ("{003,005}.tar", 4), ("00[0-4].tar", 10), ("01*.tar", 4)):
        assert len(opened(f"{tmp_path}/{pattern}")) == count
    assert list(opened(tmp_path / "007.tar").splits["train"].names) == ["007/0014.png", "007/0015.png"]
    assert not (tmp_path / NAME).exists()  # which belongs to the whole folder
    with pytest.raises(
        ValueError, match=r"there is no shard .*/012.tar; copy it there, or leave it out of the pattern"
    ):
        opened(f"{tmp_path}/{{010..012}}.tar")
    with pytest.raises(ValueError, match=r"\{5..2\} counts down; write \{2..5\}"):
        opened(f"{tmp_path}/{{5..2}}.tar")


def test_the_index_is_made_once_beside_the_shards_and_again_when_they_change(tmp_path, monkeypatch):
    read = count_scans(monkeypatch)
    for name in "ab":
        write_tar(tmp_path / f"{name}.tar", samples(range(4), cls=lambda number: str(number % 2)))
    first = opened(tmp_path).digest()
    assert (tmp_path / NAME).is_file() and sorted(read) == ["a.tar", "b.tar"]
    assert opened(tmp_path).digest() == first and len(read) == 2
    write_tar(tmp_path / "c.tar", samples(range(2), cls=lambda number: str(number % 2)))
    assert len(opened(tmp_path)) == 10 and len(read) == 5
    write_tar(tmp_path / "c.tar", samples(range(2), cls=lambda number: "1"))
    future = (tmp_path / NAME).stat().st_mtime + 5
    os.utime(tmp_path / "c.tar", (future, future))
    assert opened(tmp_path).splits["train"].labels[-2:].tolist() == [1, 1] and len(read) == 8
    write_tar(tmp_path / "c.tar", samples(range(2), cls=lambda number: "0"))
    os.utime(tmp_path / "c.tar", (1e9, 1e9))  # as rsync -t and mv bring an older one
    assert opened(tmp_path).splits["train"].labels[-2:].tolist() == [0, 0] and len(read) == 11


def test_the_index_goes_to_the_cache_where_the_folder_cannot_be_written(tmp_path, monkeypatch, cache):
    read = count_scans(monkeypatch)
    write_tar(tmp_path / "a.tar", samples(range(4), cls=lambda number: str(number % 2)))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert len(opened(tmp_path)) == len(opened(tmp_path)) == 4
    assert not (tmp_path / NAME).exists() and len(read) == 1 and len(list(cache.rglob("*.safetensors"))) == 1


def test_an_interrupted_scan_goes_on(tmp_path, monkeypatch):
    for name in "abc":
        write_tar(tmp_path / f"{name}.tar", samples(range(4), cls=lambda number: str(number % 2)))
    whole = (tmp_path / "c.tar").read_bytes()
    (tmp_path / "c.tar").write_bytes(whole[:1500])
    with pytest.raises(ValueError, match="shard c.tar .* was cut off"):
        opened(tmp_path)
    (tmp_path / "c.tar").write_bytes(whole)
    left = tmp_path / f"{NAME}.partial"
    (left / ".000001.4711.tmp").write_bytes(b"x")  # of a process that was killed
    (left / "000009").write_bytes(b"x")  # of a shard that was there
    write_tar(tmp_path / "a.tar", samples(range(4), cls=lambda number: str(1 - number % 2)))  # of the same size
    read = count_scans(monkeypatch)
    found = opened(tmp_path)
    assert len(found) == 12 and {"a.tar", "c.tar"} <= set(read) and found.splits["train"].labels[0] == 1
    assert opened(tmp_path).digest() == found.digest() and len(read) < 4
    assert not list(tmp_path.glob("*.partial"))


def test_a_lost_index_of_ours_is_made_again_with_names_checksums_and_digest(tmp_path):
    pack(toy(), tmp_path / "out", Options(shard_bytes=20_480))
    before = opened(tmp_path / "out")
    (tmp_path / "out" / NAME).unlink()
    after = opened(tmp_path / "out")
    assert after.digest() == before.digest() and after.name == before.name
    assert {name: contents(part) for name, part in after.splits.items()} == {
        name: contents(part) for name, part in before.splits.items()
    }
    assert after.splits["train"].images.index.about["layout"] == before.splits["train"].images.index.about["layout"]
    assert "checksums" in after.splits["train"].images.index.columns


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([("a.png", image(0))], "a in shard x.tar has no label; a sample needs a member cls"),
        ([("a.png", image(0)), ("a.cls", b" ")], "a in shard x.tar has no label"),
        ([("a.png", image(0)), ("a.json", b"{}")], "a in shard x.tar has no label"),
        ([("a.png", image(0)), ("a.json", b"{")], "a.json in shard x.tar cannot be read"),
        ([("a.png", image(0)), ("a.json", b'{"label": 1.5}')], "a in shard x.tar has the label 1.5; a class is"),
        ([("a.png", image(0)), ("a.cls", b"0"), ("b.png", image(1)), ("b.cls", b"bee")], "are numbers and names"),
        ([("a.png", image(0)), ("a.cls", b"-3"), ("b.png", image(1)), ("b.cls", b"1")], "labels .* go from -3 to 1"),
        ([("a.png", image(0)), ("a.cls", b"0"), ("a.cls", b"1")], "has the member 'a.cls' twice"),
        ([("a.png", image(0)), ("a.png", image(1))], "has the member 'a.png' twice"),
        (
            [("a.png", image(0)), ("a.cls", b"0"), ("b.png", image(1)), ("b.cls", b"1"), ("a.png", image(2))],
            "has the key 'a' twice, in different places",
        ),
        ([("a.txt", b"x"), ("b.txt", b"y")], "hold no images with labels"),
        ([(f"{i}.{e}", c) for i in range(8) for e, c in (("png", image(i)), ("txt", b"dog %d" % i))], "like captions"),
        ([("a.png", image(0)), ("a.cls", b"0"), ("b.png", image(1)), ("b.cls", b"0")], "images of one class only"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_shard_is_one_sentence(tmp_path, members, said):
    write_tar(tmp_path / "x.tar", members)
    with pytest.raises(ValueError, match=said):
        opened(tmp_path)


@pytest.mark.parametrize("keep", [0, 100, 700, 1024, 5000, -1024, -10_240 + 512])
def test_a_shard_that_was_cut_off_anywhere_is_refused(tmp_path, keep):
    path = write_tar(tmp_path / "x.tar", samples(range(20), cls=lambda number: str(number % 2)))
    whole = path.read_bytes()
    used = len(whole.rstrip(b"\0")) // 512 * 512 + 512  # up to the end of the last member
    cut = keep if keep >= 0 else used + keep
    path.write_bytes(whole[:cut])
    with pytest.raises(ValueError, match=r"shard x.tar (is no tar file, or was cut off|has no end mark|is damaged)"):
        opened(tmp_path)


def test_a_shard_that_ends_with_its_last_member_is_refused_and_a_damaged_header_too(tmp_path):
    path = write_tar(tmp_path / "x.tar", samples(range(4), cls=lambda number: str(number % 2)))
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        members = tar.getmembers()
    path.write_bytes(whole[: members[-1].offset_data + 512])
    with pytest.raises(ValueError, match="has no end mark where its files end"):
        opened(tmp_path)
    damaged = bytearray(whole)
    damaged[members[2].offset + 20] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match="has no end mark where its files end, it was cut off or damaged"):
        opened(tmp_path)


def test_a_second_tar_file_behind_the_first_is_not_left_out_in_silence(tmp_path):
    path = write_tar(tmp_path / "x.tar", samples(range(4), cls=lambda number: str(number % 2)))
    whole = path.read_bytes()
    path.write_bytes(whole + b"\0" * 2**20)  # filled up, as some disks and tools do
    assert len(opened(tmp_path)) == 4
    path.write_bytes(whole + whole)
    with pytest.raises(ValueError, match=r"shard x.tar goes on behind its end mark, .* joined by cat; join them"):
        opened(tmp_path)


def test_compressed_shards_are_refused_with_a_reason(tmp_path):
    path = write_tar(tmp_path / "x.tar", samples(range(2), cls=lambda number: str(number)))
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(ValueError, match="shard x.tar is compressed"):
        opened(tmp_path)


def test_shards_that_are_gone_are_missed(tmp_path):
    for name in "ab":
        write_tar(tmp_path / f"{name}.tar", samples(range(4), cls=lambda number: str(number % 2)))
    assert len(opened(tmp_path)) == 8
    shutil.move(tmp_path / "b.tar", tmp_path.parent / "elsewhere")
    with pytest.raises(ValueError, match=r"shard b.tar of .* is missing, and .*index.safetensors says that it belongs"):
        opened(tmp_path)
    (tmp_path / NAME).unlink()
    assert len(opened(tmp_path)) == 4
    about = {"name": "train", "filenames": ["a.tar", "b.tar"], "shard_lengths": [4, 4], "num_samples": 8}
    (tmp_path / "_info.json").write_text(json.dumps({"splits": {"train": about}}))
    with pytest.raises(ValueError, match=r"shard b.tar of .* is missing, and _info.json there says that it belongs"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("", "shards: names no shards"),
        ("nowhere", "there is no folder nowhere; give a folder of .tar files"),
        ("nowhere/x.tar", "there is no shard nowhere/x.tar"),
        ("nowhere/*.tar", r"nothing in nowhere fits \*.tar"),
    ],
)
def test_what_is_not_there_is_one_sentence(tmp_path, monkeypatch, where, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=said):
        opened(where)


def test_a_folder_without_shards_and_one_whose_description_is_damaged(tmp_path):
    with pytest.raises(ValueError, match="has no .tar files"):
        opened(tmp_path)
    write_tar(tmp_path / "x.tar", samples(range(2), cls=lambda number: str(number)))
    (tmp_path / "_info.json").write_text("{")
    with pytest.raises(ValueError, match="_info.json cannot be read"):
        opened(tmp_path)


def test_labels_of_shards_with_other_local_numbers_agree(tmp_path):
    write_tar(tmp_path / "a.tar", samples(range(3), txt=lambda number: CLASSES[2 - number]))
    write_tar(tmp_path / "b.tar", samples(range(3, 9), txt=lambda number: CLASSES[number % 3]))
    assert np.array_equal(opened(tmp_path).splits["train"].labels, [2, 1, 0, 0, 1, 2, 0, 1, 2])
