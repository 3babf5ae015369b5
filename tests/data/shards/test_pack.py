"""Packing: nothing is lost or changed, others can read it, and an interruption costs nothing but time."""

import errno
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shard_files import CLASSES, contents, image, split, toy

from mixonomy.data import BadImages, Source, Split, open_source, plan_splits
from mixonomy.data.shards import pack as packing
from mixonomy.data.shards.index import NAME, open_index
from mixonomy.data.shards.pack import Options, pack
from mixonomy.data.shuffle import Permutation

SMALL = Options(shard_bytes=20_480)


def files_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_images_labels_names_and_splits_come_back_bit_by_bit(tmp_path):
    source = toy(train=40, val=9, test=5)
    packed = pack(source, tmp_path / "out", SMALL, workers=3)
    opened = open_source(f"shards:{tmp_path}/out")
    assert (opened.name, opened.class_names, opened.channels) == ("toy", CLASSES, 3)
    assert {name: contents(part) for name, part in opened.splits.items()} == {
        name: contents(part) for name, part in source.splits.items()
    }
    assert {name: images for name, (images, _) in packed.splits.items()} == {"train": 40, "val": 9, "test": 5}
    assert packed.splits["train"][1] > 2 and len(packed) == 54 and packed.before == 0 and not packed.bad
    assert packed.num_bytes == sum(path.stat().st_size for path in (tmp_path / "out").glob("*.tar"))
    assert all(path.stat().st_size <= 20_480 for path in (tmp_path / "out").glob("*.tar"))


def test_training_images_are_shuffled_once_and_others_keep_their_order(tmp_path):
    source = toy()
    for name, options in (("a", SMALL), ("b", Options(shard_bytes=10**6)), ("c", Options(keep_order=True))):
        pack(source, tmp_path / name, options)
    a, b, c = (open_source(f"shards:{tmp_path}/{name}").splits for name in "abc")
    assert list(a["train"].names) == list(b["train"].names) != list(source.splits["train"].names)
    assert list(c["train"].names) == list(source.splits["train"].names)
    assert all(list(found["val"].names) == list(source.splits["val"].names) for found in (a, b, c))


def test_digest_tells_data_apart_and_not_how_they_lie_in_shards(tmp_path):
    for name, source, options in (
        ("a", toy(), SMALL),
        ("b", toy(), Options()),
        ("c", toy(train=41, val=9), Options()),
        ("d", Source("toy", ("ant", "bee", "dog"), toy().splits), Options()),
    ):
        pack(source, tmp_path / name, options)
    a, b, c, d = (open_source(f"shards:{tmp_path}/{name}").digest() for name in "abcd")
    assert a == b and len({a, c, d}) == 3
    assert len({open_index(tmp_path / name / NAME).about["layout"] for name in "abc"}) == 3


def test_several_labels_or_none_come_back(tmp_path):
    labels = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]], dtype=bool)
    part = Split([image(i) for i in range(4)], labels, [f"{i}.png" for i in range(4)])
    pack(Source("multi", CLASSES, {"train": part}), tmp_path / "out", Options(keep_order=True))
    opened = open_source(f"shards:{tmp_path}/out")
    assert opened.is_multilabel and np.array_equal(opened.splits["train"].labels, labels)
    with tarfile.open(tmp_path / "out/train-000000.tar") as tar:
        assert not [name for name in tar.getnames() if name.endswith(".cls")]


def test_a_packed_folder_holds_out_the_same_images_as_the_folder(tmp_path):
    source = toy(train=60)
    pack(source, tmp_path / "out", SMALL)
    ours, theirs = (plan_splits(each, 0.2) for each in (source, open_source(f"shards:{tmp_path}/out")))
    for part in ("train", "val", "test"):
        assert sorted(getattr(ours, part).names) == sorted(getattr(theirs, part).names)


def test_copies_are_held_out_together_as_in_a_folder(tmp_path):
    images = [image(i // 2) for i in range(40)]
    part = Split(images, np.zeros(40, dtype=np.int64), [f"{i}.png" for i in range(40)])
    part = Split(images, np.arange(40) // 20, part.names)
    pack(Source("copies", CLASSES, {"train": part}), tmp_path / "out", SMALL)
    plan = plan_splits(open_source(f"shards:{tmp_path}/out"), 0.2)
    assert plan.val is not None
    parts = [{each.images[i] for i in range(len(each))} for each in (plan.train, plan.val, plan.test)]
    assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])


def test_grey_images_and_pixels_without_a_file_are_kept_exactly(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 7), dtype=np.uint8)
    source = Source("grey", CLASSES, {"train": Split(pixels, np.arange(6) % 3, [str(i) for i in range(6)])}, channels=1)
    pack(source, tmp_path / "out", Options(keep_order=True))
    opened = open_source(f"shards:{tmp_path}/out")
    assert opened.channels == 1
    for index in range(6):
        assert np.array_equal(np.array(Image.open(io.BytesIO(opened.splits["train"].images[index]))), pixels[index])


def test_short_side_resizes_larger_images_and_leaves_smaller_ones_as_they_are(tmp_path):
    small, smooth, turned = image(1, "PNG", (20, 40)), io.BytesIO(), io.BytesIO()
    noise = Image.open(io.BytesIO(image(0, "PNG", (6, 3))))
    noise.resize((120, 60), Image.Resampling.BICUBIC).save(smooth, "JPEG")
    large = smooth.getvalue()
    picture = Image.open(smooth)
    exif = picture.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    picture.save(turned, "JPEG", exif=exif)
    part = Split([large, small, turned.getvalue()], np.array([0, 1, 2]), ["large.jpg", "small.png", "turned.jpg"])
    pack(Source("sizes", CLASSES, {"val": part}), tmp_path / "out", Options(short_side=30))
    found = open_source(f"shards:{tmp_path}/out").splits["val"].images
    sizes = [Image.open(io.BytesIO(found[i])).size for i in range(3)]
    assert sizes == [(60, 30), (20, 40), (30, 60)] and found[1] == small
    assert Image.open(io.BytesIO(found[0])).format == "JPEG"
    reference = np.asarray(picture.resize((60, 30), Image.Resampling.BILINEAR), dtype=float)
    assert np.abs(np.asarray(Image.open(io.BytesIO(found[0])), dtype=float) - reference).mean() < 2


def printed(code: str, *arguments: object) -> list:
    """What Python code prints as JSON, in a process of its own: readers of others leave files open."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_webdataset_reads_what_was_packed(tmp_path):
    pytest.importorskip("webdataset")
    source = toy()
    pack(source, tmp_path / "out", SMALL)
    code = (
        "import sys, json, webdataset as wds\n"
        "rows = [(s['png'].hex(), int(s['cls']), json.loads(s['json'])) for s in wds.WebDataset(sys.argv[1:],"
        " shardshuffle=False)]\n"
        "print(json.dumps(rows))\n"
    )
    found = {}
    for content, label, fields in printed(code, *sorted((tmp_path / "out").glob("train-*.tar"))):
        assert fields["label"] == label and fields["class"] == CLASSES[label]
        found[fields["name"]] = (bytes.fromhex(content), label)
    assert found == contents(source.splits["train"])


@pytest.mark.slow
def test_timm_reads_what_was_packed(tmp_path):
    pytest.importorskip("webdataset")
    pack(toy(), tmp_path / "out", SMALL)
    code = (
        "import sys, json\n"
        "from timm.data.readers.reader_wds import ReaderWds\n"
        "reader = ReaderWds(sys.argv[1], name='', split='val')\n"
        "print(json.dumps([len(reader), sorted(label for _, label in reader)]))\n"
    )
    assert printed(code, tmp_path / "out") == [9, [0, 0, 0, 1, 1, 1, 2, 2, 2]]


def test_safetensors_reads_the_index(tmp_path):
    from safetensors.numpy import load_file

    pack(toy(), tmp_path / "out", SMALL)
    columns, index = load_file(tmp_path / "out/index.safetensors"), open_index(tmp_path / "out/index.safetensors")
    assert columns.keys() == index.columns.keys()
    assert all(np.array_equal(column, index.columns[name]) for name, column in columns.items())
    with tarfile.open(tmp_path / "out/train-000001.tar") as tar:
        members = [member for member in tar if member.name.endswith(".png")]
    first = int(columns["shard_ends"][0])
    assert [member.offset_data // 512 for member in members] == columns["blocks"][first : first + len(members)].tolist()


class Broken:
    """Images of which some cannot be read, until they are mended."""

    def __init__(self, images, broken):
        self.images, self.broken = images, dict(broken)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        if index not in self.broken:
            return self.images[index]
        if isinstance(self.broken[index], OSError):
            raise self.broken[index]
        return self.broken[index]


def broken_toy(**broken):
    whole = toy()
    images = Broken(whole.splits["train"].images, {int(key[1:]): value for key, value in broken.items()})
    part = whole.splits["train"]
    return Source("toy", CLASSES, {**whole.splits, "train": Split(images, part.labels, part.names)}), images


def test_an_image_that_cannot_be_read_is_named_and_the_same_command_goes_on(tmp_path):
    pack(toy(), tmp_path / "whole", SMALL)
    late = int(Permutation(packing.SHUFFLE_KEY, 40)(np.array([35]))[0])
    source, images = broken_toy(**{f"_{late}": OSError(errno.EIO, "Input/output error")})
    with pytest.raises(
        ValueError, match=rf"'train/{late:03d}.png': its file cannot be read \(Input/output error\); remove or"
    ):
        pack(source, tmp_path / "out", SMALL)
    assert not (tmp_path / "out").exists() and any((tmp_path / "out.partial").glob("train-*.tar"))
    images.broken.clear()
    packed = pack(source, tmp_path / "out", SMALL)
    assert packed.before > 0 and not (tmp_path / "out.partial").exists()
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


def test_images_that_cannot_be_read_are_left_out_and_named_if_so_asked(tmp_path):
    source, _ = broken_toy(_3=b"no image", _30=OSError(errno.EACCES, "Permission denied"), _39=b"")
    bad = BadImages("skip")
    with pytest.raises(ValueError, match=r"of 49 images cannot be read, more than the 1.00%"):
        pack(source, tmp_path / "out", SMALL, bad=BadImages("skip"))
    packed = pack(source, tmp_path / "out", SMALL, bad=bad, max_bad_share=0.2)
    assert set(packed.bad) == set(bad.errors) == {"train/003.png", "train/030.png", "train/039.png"}
    assert packed.bad["train/039.png"] == "not a readable image (an empty file)"
    opened = open_source(f"shards:{tmp_path}/out")
    names = {f"train/{i:03d}.png" for i in range(40)} - set(packed.bad)
    assert set(opened.splits["train"].names) == names and packed.splits["train"][0] == 37


def test_what_was_left_out_before_an_interruption_is_still_counted_after_it(tmp_path, monkeypatch):
    source, images = broken_toy(**{f"_{i}": b"no image" for i in range(0, 40, 10)})
    whole = pack(source, tmp_path / "whole", SMALL, bad=BadImages("skip"), max_bad_share=0.5)
    stop_at(monkeypatch, 3)
    with pytest.raises(Stop):
        pack(source, tmp_path / "out", SMALL, bad=BadImages("skip"), max_bad_share=0.5)
    monkeypatch.undo()
    packed = pack(source, tmp_path / "out", SMALL, bad=BadImages("skip"), max_bad_share=0.5)
    assert packed.bad == whole.bad and len(packed.bad) == 4
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


class Stop(Exception):
    """Stands for a process that ends."""


def stop_at(monkeypatch, number, error=Stop):
    """Lets the fsync of that number fail; everything written comes by one."""
    calls, fsync = [0], os.fsync

    def counted(descriptor):
        calls[0] += 1
        if calls[0] == number:
            raise error
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", counted)
    return calls


def test_wherever_it_is_interrupted_the_same_command_gives_the_same_files(tmp_path, monkeypatch):
    calls = stop_at(monkeypatch, -1)
    pack(toy(), tmp_path / "whole", SMALL)
    total, expected = calls[0], files_of(tmp_path / "whole")
    monkeypatch.undo()
    assert total > 8
    for number in range(1, total):  # the last is that of the folder above, when all is there
        out = tmp_path / f"out-{number}"
        stop_at(monkeypatch, number)
        with pytest.raises(Stop):
            pack(toy(), out, SMALL)
        monkeypatch.undo()
        assert not out.exists()
        (tmp_path / f"out-{number}.partial/.index.safetensors.4711.tmp").write_bytes(
            b""
        )  # of a process that was killed
        pack(toy(), out, SMALL)
        assert files_of(out) == expected


@pytest.mark.slow
def test_killed_by_force_it_goes_on(tmp_path):
    source = tmp_path / "images"
    for number in range(60):
        path = source / CLASSES[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image(number))
    command = [sys.executable, "-m", "mixonomy", "data", "pack", str(source), "OUT", "--shard-size", "20480B"]
    killer = (
        "import os, signal, sys\n"
        "from mixonomy.data.shards import pack\n"
        "finish, count = pack._Shard.finish, [0]\n"
        "def dying(self, *rest):\n"
        "    count[0] += 1\n"
        "    if count[0] == 3:\n"
        "        self.file.flush()\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return finish(self, *rest)\n"
        "pack._Shard.finish = dying\n"
        "from mixonomy.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    size = ["--shard-size", "20480"]
    arguments = ["data", "pack", str(source), str(tmp_path / "out"), *size]
    killed = subprocess.run([sys.executable, "-c", killer, *arguments], capture_output=True, text=True)
    assert killed.returncode == -9
    again = subprocess.run([*command[:3], *arguments], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "were packed before, by a command that was interrupted" in again.stdout
    whole = subprocess.run([*command[:3], *arguments[:3], str(tmp_path / "whole"), *size], capture_output=True)
    assert whole.returncode == 0 and files_of(tmp_path / "out") == files_of(tmp_path / "whole")


@pytest.mark.parametrize("number", [5, 6])  # the third shard, or its index
def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path, monkeypatch, number):
    stop_at(monkeypatch, number, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(
        ValueError, match=r"the disk of .*out is full; what is finished is kept in .*out.partial: make room"
    ):
        pack(toy(), tmp_path / "out", SMALL)
    monkeypatch.undo()
    partial = tmp_path / "out.partial"
    assert len(list(partial.glob(".*.index"))) == 2 and not list(partial.glob(".*.tmp"))
    assert pack(toy(), tmp_path / "out", SMALL).before > 0


def test_what_is_there_is_not_overwritten(tmp_path):
    pack(toy(), tmp_path / "out", SMALL)
    before = files_of(tmp_path / "out")
    with pytest.raises(ValueError, match="is there already, and packing overwrites nothing"):
        pack(toy(train=3), tmp_path / "out", SMALL)
    assert files_of(tmp_path / "out") == before
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="is there already"):
        pack(toy(), tmp_path / "file", SMALL)
    (tmp_path / "empty").mkdir()
    assert len(pack(toy(), tmp_path / "empty", SMALL)) == 49


@pytest.mark.parametrize(
    ("source", "options", "said"),
    [
        (toy(train=41, val=9), SMALL, "data "),
        (toy(), Options(shard_bytes=30_000), "shard-bytes 20480 there, 30000 now"),
        (toy(), Options(shard_bytes=20_480, short_side=4), "short-side None there, 4 now"),
        (toy(), Options(shard_bytes=20_480, keep_order=True), "keep-order False there, True now"),
    ],
)
def test_an_interrupted_packing_of_something_else_is_refused(tmp_path, monkeypatch, source, options, said):
    stop_at(monkeypatch, 4)
    with pytest.raises(Stop):
        pack(toy(), tmp_path / "out", SMALL)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"holds an interrupted packing of something else \(.*" + said):
        pack(source, tmp_path / "out", options)


def test_two_at_a_time_in_one_folder_are_refused(tmp_path):
    (tmp_path / "out.partial").mkdir()
    with (
        packing.locked(tmp_path / "out.partial/.lock"),
        pytest.raises(ValueError, match="another process is packing into"),
    ):
        pack(toy(), tmp_path / "out", SMALL)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match=r"cannot write to .*out \(Permission denied\); give another OUT."):
        pack(toy(), tmp_path / "out", SMALL)
    tmp_path.chmod(0o700)


@pytest.mark.parametrize("out", [".", ".."])
def test_packing_into_a_folder_without_a_name_is_refused(out):
    with pytest.raises(ValueError, match="packing makes a new folder, and .* is one already; give its name as OUT"):
        pack(toy(), Path(out), SMALL)


def test_an_out_below_a_file_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot write to .*file/out \(Not a directory\); give another OUT."):
        pack(toy(), tmp_path / "file/out", SMALL)


def test_nothing_readable_is_one_sentence(tmp_path):
    part = Split([b"x", b"y"], np.array([0, 1]), ["x", "y"])
    with pytest.raises(ValueError, match="none of the 2 images can be read"):
        pack(Source("bad", CLASSES, {"train": part}), tmp_path / "out", SMALL, bad=BadImages("skip"), max_bad_share=1.0)


def test_a_single_image_larger_than_a_shard_has_one_of_its_own(tmp_path):
    pack(Source("big", CLASSES, {"val": split("val", 3)}), tmp_path / "out", Options(shard_bytes=1))
    opened = open_source(f"shards:{tmp_path}/out")
    assert len(list((tmp_path / "out").glob("*.tar"))) == 3 and contents(opened.splits["val"]) == contents(
        split("val", 3)
    )


def test_shards_can_be_packed_again_into_others(tmp_path):
    pack(toy(), tmp_path / "a", SMALL)
    again = pack(open_source(f"shards:{tmp_path}/a"), tmp_path / "b", Options())
    opened = open_source(f"shards:{tmp_path}/b")
    assert again.splits["train"] == (40, 1) and contents(opened.splits["train"]) == contents(toy().splits["train"])
