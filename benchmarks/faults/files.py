"""Damaged checkpoints, shards and images."""

import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from faults.commands import Ended
from faults.kills import went_on
from faults.place import CLASSES, PER_CLASS, Outcome, Place, checkpoints, different

BAD_SHARE = 0.02


def truncated_checkpoint(place: Place) -> Outcome:
    """The newest checkpoint of a killed run, cut off."""
    return _damaged_checkpoint(place, "a truncated checkpoint", lambda content: content[: len(content) // 2])


def flipped_checkpoint(place: Place) -> Outcome:
    """The newest checkpoint of a killed run, with one bit of a weight changed."""

    def flipped(content: bytes) -> bytes:
        middle = len(content) * 2 // 3
        return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]

    return _damaged_checkpoint(place, "a bit-flipped checkpoint", flipped)


def _damaged_checkpoint(place: Place, case: str, damaged) -> Outcome:
    source, out = place.photos, place.folder / case.split()[1]
    _killed_with_two_checkpoints(place, source, out)
    newest = checkpoints(out)[-1]
    newest.write_bytes(damaged(newest.read_bytes()))
    ended = place.run(*place.train(source, out))
    said = f"{newest.name} (cannot be read|does not match its checksum).*; the checkpoint before it is taken"
    found = different(place.whole(source), out)
    return Outcome(case, ended, [*ended.problems(said, status=0), *found], is_intact=not found, is_equal=not found)


def all_checkpoints_damaged(place: Place) -> Outcome:
    """All checkpoints of a killed run damaged: nothing is begun anew in their place."""
    source, out = place.photos, place.folder / "all-damaged"
    _killed_with_two_checkpoints(place, source, out)
    for path in checkpoints(out):
        path.write_bytes(path.read_bytes()[:-5])
    before = {path.name: path.stat().st_mtime_ns for path in checkpoints(out)}
    ended = place.run(*place.train(source, out))
    is_intact = before == {path.name: path.stat().st_mtime_ns for path in checkpoints(out)}
    problems = ended.problems("no usable checkpoint: .*; start again in another --out")
    return Outcome("all checkpoints damaged", ended, problems, is_intact=is_intact)


def _killed_with_two_checkpoints(place: Place, source: str | Path, out: Path) -> None:
    command = place.started(source, out)
    command.surely(lambda: len(checkpoints(out)) == 2, place.limit_s)
    command.kill()


def half_shard(place: Place) -> Outcome:
    """A packed shard cut in half before the training."""
    return _shard_before(place, "a shard cut in half", _cut, "shard .* was cut off: it has .* bytes and its index says")


def missing_shard(place: Place) -> Outcome:
    """A packed shard that is gone before the training."""
    return _shard_before(place, "a missing shard", os.unlink, "shard .* is missing, and its index says")


def _shard_before(place: Place, case: str, damage, wanted: str) -> Outcome:
    folder, out = place.folder / "damaged-shards", place.folder / "of-damaged-shards"
    for path in (folder, out):
        shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(place.shards, folder)
    shard = sorted(folder.glob("*.tar"))[1]
    content = shard.read_bytes()
    _killed_with_two_checkpoints(place, f"shards:{folder}", out)
    damage(shard)
    ended = place.run(*place.train(f"shards:{folder}", out))
    shard.write_bytes(content)
    return went_on(place, case, ended, wanted, f"shards:{folder}", out)


def shard_cut_while_training(place: Place) -> Outcome:
    """A packed shard cut in half while the training reads it."""
    folder, out = place.folder / "cut-shards", place.folder / "of-cut-shards"
    shutil.copytree(place.shards, folder)
    shard = sorted(folder.glob("*.tar"))[1]
    content = shard.read_bytes()
    command = place.started(f"shards:{folder}", out)
    command.surely(lambda: bool(checkpoints(out)), place.limit_s)
    _cut(shard)
    ended = command.ended(place.limit_s)
    place.say(f"  {ended.seconds:5.1f} s  status {ended.status:3d}  {ended.sentence}")
    shard.write_bytes(content)
    wanted = "image '.*': its file cannot be read .*shard .*; remove or replace it"
    return went_on(place, "a shard cut in half while it is read", ended, wanted, f"shards:{folder}", out)


def _cut(shard: Path) -> None:
    os.truncate(shard, shard.stat().st_size // 2)


def duplicate_key(place: Place) -> Outcome:
    """A shard of somebody else in which a key stands twice."""
    folder = place.folder / "duplicate"
    folder.mkdir()
    pixels = io.BytesIO()
    Image.fromarray(np.zeros((40, 40, 3), dtype=np.uint8)).save(pixels, "PNG")
    with tarfile.open(folder / "000.tar", "w") as tar:
        for number in (*range(40), 7):
            for ending, content in (("png", pixels.getvalue()), ("cls", f"{number % 2}".encode())):
                member = tarfile.TarInfo(f"{number:04d}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    ended = place.run(*place.train(f"shards:{folder}", place.folder / "of-duplicate"))
    return Outcome("a duplicate key in a shard", ended, ended.problems("000.tar.*0007.*twice|0007.*twice"))


def corrupt_images(place: Place) -> Outcome:
    """2 % of the images damaged in different ways: the first is named."""
    photos = _corrupt(place)
    ended = place.run(*place.train(photos, place.folder / "of-corrupt"))
    wanted = "image '.*': .*; remove or replace it, or leave out what cannot be read by --on-bad-image skip"
    return Outcome("2 % of the images corrupt", ended, ended.problems(wanted))


def corrupt_images_skipped(place: Place) -> Outcome:
    """The same left out: more than the 1 % that may be."""
    photos, out = _corrupt(place), place.folder / "of-corrupt-skipped"
    ended = place.run(*place.train(photos, out, "--on-bad-image", "skip"))
    wanted = r"images cannot be read, more than the 1.00% that may be left out .*--max-bad-share"
    return Outcome("2 % corrupt, left out", ended, ended.problems(wanted))


def corrupt_images_allowed(place: Place) -> Outcome:
    """A run that ended with the first corrupt image goes on without them when that is asked for; all are named."""
    photos, out = _corrupt(place), place.folder / "of-corrupt"
    ended = place.run(*place.train(photos, out, "--on-bad-image", "skip", "--max-bad-share", "0.03"))
    problems = ended.problems("images could not be read and were left out; result.json names them", status=0)
    named = json.loads((out / "result.json").read_text())["bad_images"] if not problems else []
    wanted = round(BAD_SHARE * CLASSES * PER_CLASS)
    problems += [] if len(named) == wanted else [f"{len(named)} of {wanted} bad images are named"]
    return Outcome("2 % corrupt, left out, 3 % allowed", ended, problems, counts={"bad_images": len(named)})


def _corrupt(place: Place) -> Path:
    """A copy of the photographs with some of them cut off, empty, text, or noise; and not a file."""
    photos = place.folder / "corrupt"
    if photos.is_dir():
        return photos
    shutil.copytree(place.photos, photos)
    paths = sorted(photos.rglob("*.jpg"))
    random = np.random.default_rng(1)
    chosen = random.choice(len(paths), round(BAD_SHARE * len(paths)), replace=False)
    for number, index in enumerate(chosen.tolist()):
        content = paths[index].read_bytes()
        damaged = (content[: len(content) // 3], b"", b"<html>404</html>", random.bytes(2000))[number % 4]
        paths[index].write_bytes(damaged)
    return photos


def pack_of_corrupt_images(place: Place) -> Outcome:
    """Packing the same images: the first that is no image is named, and no folder is there that looks whole."""
    out = place.folder / "packed-corrupt"
    ended: Ended = place.run("data", "pack", str(_corrupt(place)), str(out), "--short-side", "32")
    problems = ended.problems("image '.*': .*--on-bad-image skip")
    return Outcome("2 % corrupt, packed", ended, problems, is_intact=not out.exists())
