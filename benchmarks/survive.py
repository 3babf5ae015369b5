"""Faults on purpose: what commands of mixonomy do when they are killed, disks fill up, files are damaged.

    python benchmarks/survive.py [--cases NAME ...] [--kills N] [--steps N] [--results FILE]

Each case is a training of a small Mixer on 400 photographs of its own making, or packing them, by the command line.
What ends has to end within a minute, with a status that is not 0 and one sentence on what happened and what to do;
then the cause is removed, and the same command has to end with the weights and scores of a run that met nothing, bit by
bit.
Rows: seconds to the end, exit status, whether the last good state was intact and the final weights bit-equal (1 yes,
0 no). Exit status 1 if something did not hold. Disks are file systems in memory, which takes the right to mount them.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from faults import disks, files, kills
from faults.commands import LIMIT_S, CaseFailed
from faults.place import Outcome, Place
from rows import RESULTS, Origin, Row, append, make_row, origin

CASES: dict[str, Callable[[Place], Outcome | list[Outcome]]] = {
    "kill": kills.killed_often,
    "workers-end": kills.workers_end,
    "worker": kills.worker_killed,
    "checkpoint-truncated": files.truncated_checkpoint,
    "checkpoint-flipped": files.flipped_checkpoint,
    "checkpoints-damaged": files.all_checkpoints_damaged,
    "shard-half": files.half_shard,
    "shard-missing": files.missing_shard,
    "shard-cut": files.shard_cut_while_training,
    "shard-duplicate": files.duplicate_key,
    "corrupt": files.corrupt_images,
    "corrupt-skipped": files.corrupt_images_skipped,
    "corrupt-allowed": files.corrupt_images_allowed,
    "corrupt-pack": files.pack_of_corrupt_images,
    "disk-sizes": disks.full_at_many_places,
    "disk-pack": disks.full_while_packing,
    "read-only": disks.read_only_out,
    "read-only-run": disks.read_only_run,
    "read-only-pack": disks.read_only_pack,
}
NEEDS = {"corrupt-allowed": "corrupt"}  # a run that another case began
MIN_SIZES = 3  # full at the start, later, and not at all
DATA = "400 photographs"


def rows_of(outcome: Outcome, where: Origin) -> list[Row]:
    """The rows of a case, or the one that says why it was left out."""
    about: dict[str, Any] = {"study": "faults", "model": outcome.case, "data": DATA}
    if outcome.skipped or outcome.ended is None:
        note = outcome.skipped or "; ".join(outcome.problems)
        return [make_row(where, **about, metric="seconds", value=None, unit="s", n=0, note=note)]
    note = "; ".join(outcome.problems) or None
    rows = [make_row(where, **about, metric="seconds", value=outcome.ended.seconds, unit="s", note=note)]
    numbers = {"exit_status": outcome.ended.status, "holds": not outcome.problems}
    numbers |= {"intact": outcome.is_intact, "bit_equal": outcome.is_equal, **outcome.counts}
    rows += [
        make_row(where, **about, metric=metric, value=int(value), unit="status" if metric == "exit_status" else "count")
        for metric, value in numbers.items()
        if value is not None
    ]
    return rows


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--sizes", type=int, default=8, help="of disks that are full at different places")
    parser.add_argument("--steps", type=int, default=0, help="of each training; by the case if not given")
    parser.add_argument("--limit", type=float, default=LIMIT_S, help="seconds in which a command has to end")
    parser.add_argument("--results", type=Path, default=RESULTS / "faults.jsonl")
    options = parser.parse_args()
    where, failed = origin(), []
    if missing := [
        f"{need} before {name}" for name, need in NEEDS.items() if name in options.cases and need not in options.cases
    ]:
        parser.error(f"give {', '.join(missing)}")
    if options.sizes < MIN_SIZES:
        parser.error(f"--sizes {options.sizes} leaves out full disks; give {MIN_SIZES} or more")
    with tempfile.TemporaryDirectory() as temporary:
        place = Place(Path(temporary), options.limit, lambda text: print(text, file=sys.stderr, flush=True))
        for name in (case for case in CASES if case in options.cases):
            print(name, file=sys.stderr)
            place.steps = options.steps or (600 if name == "kill" else 120)
            try:
                if name == "kill":
                    found = kills.killed_often(place, options.kills)
                elif name == "disk-sizes":
                    found = disks.full_at_many_places(place, options.sizes)
                else:
                    found = CASES[name](place)
            except CaseFailed as error:
                found = Outcome(name, problems=[str(error)])
            for outcome in found if isinstance(found, list) else [found]:
                append(options.results, rows_of(outcome, where))
                said = outcome.skipped or "; ".join(outcome.problems) or "holds"
                print(f"{outcome.case:44}{said}")
                if outcome.problems:
                    failed.append(outcome.case)
    if failed:
        print(f"did not hold: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
