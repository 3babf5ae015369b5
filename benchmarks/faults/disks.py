"""Disks that are full, fill up, or cannot be written."""

import time

from faults.commands import CannotMount, alive, mounted, remount
from faults.kills import went_on
from faults.place import SHARD, Outcome, Place, checkpoints, different

FULL = "disk|space"
ROOM = 400_000_000


def full_at_many_places(place: Place, num_sizes: int = 6) -> list[Outcome]:
    """Disks of growing sizes, so that they are full at the start, at one of the checkpoints or at the end."""
    source, outcomes = place.photos, []
    whole = place.whole(source)
    checkpoint = checkpoints(whole)[-1].stat().st_size
    # Two kept, one being written, weights of the best: what a run takes at most.
    sizes = [16_384, *(round(checkpoint * (0.5 + 3.0 * part / (num_sizes - 2))) for part in range(num_sizes - 1))]
    for size in sizes:
        folder = place.folder / f"disk-{size}"
        case = f"a disk of {size / checkpoint:.1f} checkpoints"
        try:
            with mounted(folder, size):
                ended = place.run(*place.train(source, folder / "run"))
                if ended.status == 0:
                    found = different(whole, folder / "run")
                    outcomes.append(Outcome(f"{case}: enough", ended, found, is_equal=not found))
                    continue
                has_state = bool(checkpoints(folder / "run"))
                remount(folder, f"size={ROOM}")
                again = place.run(*place.train(source, folder / "run"))
                found = different(whole, folder / "run")
                problems = [*ended.problems(f"{FULL}.*room"), *again.problems("", status=0), *found]
                is_intact = not found if has_state else None
                outcomes.append(Outcome(case, ended, problems, is_intact=is_intact, is_equal=not found))
        except CannotMount as error:
            return [*outcomes, Outcome(case, skipped=f"no file system can be mounted here ({error})")]
    return outcomes


def full_while_packing(place: Place) -> Outcome:
    """A disk without room for all the shards: the same command goes on with the next, to the same bytes."""
    case, folder = "a full disk while packing", place.folder / "small"
    words = ("data", "pack", str(place.photos), str(folder / "shards"), "--shard-size", SHARD)
    needed = sum(path.stat().st_size for path in place.shards.iterdir())
    try:
        with mounted(folder, needed // 2):
            ended = place.run(*words)
            finished = sorted((folder / "shards.partial").glob("*.tar"))
            is_intact = bool(finished) and all(
                path.read_bytes() == (place.shards / path.name).read_bytes() for path in finished
            )
            remount(folder, f"size={ROOM}")
            again = place.run(*words)
            is_equal = again.status == 0 and all(
                path.read_bytes() == (folder / "shards" / path.name).read_bytes() for path in place.shards.iterdir()
            )
    except CannotMount as error:
        return Outcome(case, skipped=f"no file system can be mounted here ({error})")
    problems = ended.problems(f"{FULL}.*")
    problems += [] if is_intact and is_equal else ["other bytes than without the interruption"]
    return Outcome(case, ended, problems, is_intact=is_intact, is_equal=is_equal)


def read_only_out(place: Place) -> Outcome:
    """A place for the run that cannot be written."""
    case, folder = "read-only output", place.folder / "read-only"
    try:
        with mounted(folder, ROOM):
            remount(folder, "ro")
            ended = place.run(*place.train(place.photos, folder / "run"))
    except CannotMount as error:
        return Outcome(case, skipped=f"no file system can be mounted here ({error})")
    return Outcome(case, ended, ended.problems("cannot write to .*Read-only file system.*another --out"))


def read_only_run(place: Place) -> Outcome:
    """An unfinished run whose disk can no longer be written."""
    case, source, folder = "a run on a disk that became read-only", place.photos, place.folder / "became-read-only"
    out = folder / "run"
    try:
        with mounted(folder, ROOM):
            command = place.started(source, out)
            command.surely(lambda: len(checkpoints(out)) == 2, place.limit_s)
            command.kill()
            last = time.monotonic() + place.limit_s
            while alive(command.orphans) and time.monotonic() < last:  # their open files keep the disk writable
                time.sleep(0.1)
            remount(folder, "ro")
            ended = place.run(*place.train(source, out))
            remount(folder, "rw")
            return went_on(place, case, ended, "cannot write to .*Read-only file system.*another --out", source, out)
    except CannotMount as error:
        return Outcome(case, skipped=f"no file system can be mounted here ({error})")


def read_only_pack(place: Place) -> Outcome:
    """A place for shards that cannot be written."""
    case, folder = "read-only output of packing", place.folder / "read-only-pack"
    try:
        with mounted(folder, ROOM):
            remount(folder, "ro")
            ended = place.run("data", "pack", str(place.photos), str(folder / "shards"))
    except CannotMount as error:
        return Outcome(case, skipped=f"no file system can be mounted here ({error})")
    return Outcome(case, ended, ended.problems("Read-only file system"))
