"""SIGKILL at random moments, and to the processes that decode images."""

import random
import time
from pathlib import Path

from faults.commands import Command, Ended, alive, kill_process
from faults.place import BATCH, TRAIN_IMAGES, Outcome, Place, checkpoints, different, half_written, last_step

AT_START, IN_TRAINING, IN_A_WRITE, AT_THE_END = "at the start", "in training", "in a write", "at the end"
SHARES = {AT_START: 0.16, IN_A_WRITE: 0.36, AT_THE_END: 0.08}  # of all kills; the rest is in training


def killed_often(place: Place, num_kills: int = 25, seed: int = 0) -> Outcome:
    """A training from shards, killed so often, and started again at once each time.

    Kills in training come at a random step of the whole run and a random time after it, so also in the middle of
    epochs; kills in a write, a few milliseconds after the file of a checkpoint began to grow; at the start, in the
    first seconds of a process; at the end, when weights and scores are being written.
    """
    draws = random.Random(seed)
    source, out = f"shards:{place.shards}", place.folder / "killed"
    kinds = [kind for kind, share in SHARES.items() if kind != AT_THE_END for _ in range(round(share * num_kills))]
    at_the_end = round(SHARES[AT_THE_END] * num_kills)
    kinds += [IN_TRAINING] * (num_kills - at_the_end - len(kinds))
    draws.shuffle(kinds)
    targets = sorted(draws.randrange(place.steps * 9 // 10) for _ in kinds)
    counts = {"kills": 0, "half_written": 0, "mid_epoch": 0}
    problems: list[str] = []
    for kind, target in [*zip(kinds, targets, strict=True), *[(AT_THE_END, place.steps)] * at_the_end]:
        before = set(half_written(out))
        command = place.started(source, out)
        if not _killed(command, kind, target, out, draws, place.limit_s, before):
            ended = command.ended(place.limit_s)
            problems.append(f"it ended before it was killed {kind} ({target}): {ended.status}, {ended.text[-300:]}")
            break
        counts["kills"] += 1
        counts["half_written"] += bool(set(half_written(out)) - before)  # a start that was killed early leaves the old
        counts["mid_epoch"] += last_step(out) * BATCH % TRAIN_IMAGES >= BATCH
        place.say(f"  killed {kind}, about step {last_step(out)}; {len(checkpoints(out))} checkpoints")
    ended = place.run(*place.train(source, out))
    problems += ended.problems("top-1|is finished", status=0)
    found = different(place.whole(source), out)
    left = [path.name for path in out.rglob(".*.tmp")]
    problems += [f"left behind: {', '.join(left)}"] if left else []
    return Outcome(f"killed {num_kills} times", ended, [*problems, *found], is_equal=not found, counts=dict(counts))


def _killed(
    command: Command, kind: str, target: int, out: Path, draws: random.Random, limit_s: float, before: set[Path]
) -> bool:
    """Whether the command could be killed at such a moment; False if it ended before.

    Args:
      before: half-written checkpoints that an earlier start left.
    """
    if kind == AT_START:
        time.sleep(draws.uniform(0.0, 4.0))
        happened = command.process.poll() is None
    elif kind == AT_THE_END:
        happened = command.until((out / "model.safetensors").exists, limit_s)
    else:
        happened = command.until(lambda: last_step(out) >= target, limit_s)
        if happened and kind == IN_TRAINING:
            time.sleep(draws.uniform(0.0, 0.3))
        elif happened:
            happened = command.until(lambda: bool(set(half_written(out)) - before), limit_s)
            time.sleep(draws.uniform(0.0, 0.02))
    if not happened or command.process.poll() is not None:
        return False
    command.kill()
    return True


def workers_end(place: Place) -> Outcome:
    """What becomes of the processes that decode images when the one they work for is killed."""
    source, out = place.photos, place.folder / "orphans"
    command = place.started(source, out)
    command.surely(lambda: bool(checkpoints(out)) and len(command.children()) == 2, place.limit_s)
    start = time.monotonic()
    command.kill()
    while (left := alive(command.orphans)) and time.monotonic() - start < place.limit_s:
        time.sleep(0.1)
    seconds = time.monotonic() - start
    place.say(f"  {seconds:5.1f} s until the workers ended")
    ended = Ended(command.process.returncode, seconds, "")
    problems = [f"{len(left)} workers are still there"] if left else []
    return Outcome("the workers of a killed process", ended, problems)


def worker_killed(place: Place) -> Outcome:
    """One of the processes that decode images, killed as the system does when memory is full."""
    source, out = place.photos, place.folder / "worker"
    command = place.started(source, out)
    command.surely(lambda: bool(checkpoints(out)) and len(command.children()) == 2, place.limit_s)
    kill_process(command.children()[0])
    ended = command.ended(place.limit_s)
    place.say(f"  {ended.seconds:5.1f} s  status {ended.status:3d}  {ended.sentence}")
    return went_on(place, "a worker killed", ended, "ended from outside.*--workers", source, out)


def went_on(place: Place, case: str, ended: Ended, wanted: str, source: str | Path, out: Path, *more: str) -> Outcome:
    """The outcome of a run that ended with a sentence, and then goes on by the same command."""
    before = len(checkpoints(out))
    found = place.has_lost(source, out, *more)
    problems = [*ended.problems(wanted), *found]
    return Outcome(case, ended, problems, is_intact=before > 0 and not found, is_equal=not found)
