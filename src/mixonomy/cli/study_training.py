"""What the commands of studies that train share: their options, and how their results are shown."""

import json
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import FlagCreatePairsOff

if TYPE_CHECKING:
    from mixonomy.experiment import Runtime
    from mixonomy.progress import Console
    from mixonomy.report.study_page import Found
    from mixonomy.rows import Row
    from mixonomy.studies.study import Study

Train = Callable[[Path, "Runtime", "Console", str], "list[Row]"]
QUICK_IMAGES = 1_500  # of --quick: as many as the digits have
UNSAID = ("--data-root", "--out")  # options of a place on this machine, which decide no number


@dataclass(frozen=True)
class StudyOptions:
    """Base of all of them."""

    quick: FlagCreatePairsOff[bool] = False
    """A small size on the embedded digits, or on some images of the data given, to see it work in about two minutes."""
    seeds: tuple[int, ...] = ()
    """Seeds of the trainings; 0 1 2 if not given, with --quick 0. Processes with different seeds can share --out;
    the same command with all seeds then reads what they trained."""
    out: Path | None = None
    """Folder of the runs and results; runs/study-NAME if not given. The same command goes on where it was."""
    rows: Path | None = None
    """A .jsonl file of rows: write page and tables from these, and train nothing."""
    data_root: str | None = None
    """Folder of the data sets; $MIXONOMY_DATA if not given."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 or mps."""
    workers: int | None = None
    """Processes that decode images that do not fit in memory; as many as cores if not given."""
    json: FlagCreatePairsOff[bool] = False
    """Print the result as one JSON object on the last line of standard output."""

    @property
    def chosen_seeds(self) -> tuple[int, ...]:
        """Of all trainings."""
        return self.seeds or ((0,) if self.quick else (0, 1, 2))


def few_images(source: str, options: StudyOptions) -> int | None:
    """How many training images --quick takes of a source that has more than enough; None for all, and without it."""
    if not options.quick:
        return None
    return QUICK_IMAGES if num_images(source, options) > QUICK_IMAGES else None


def num_images(source: str, options: StudyOptions) -> int:
    """Of train and val together, once test images are held out where the source has none."""
    from mixonomy.data import open_source, plan_splits

    plan = plan_splits(open_source(source, options.data_root), 0.0)
    return len(plan.train) + len(plan.val or ())


def rows_in(path: Path, study: str) -> "list[Row]":
    """The rows of a study in a file.

    Raises:
      ValueError: if there is no file, or none in it.
    """
    from mixonomy.rows import read

    if not path.is_file():
        raise ValueError(f"there is no file {path}; give a .jsonl file of rows of the study {study}.")
    rows = [row for row in read(path) if row["study"] == study]
    if not rows:
        raise ValueError(f"{path} has no rows of the study {study}; give a file of its rows.")
    return rows


def show(name: str, options: StudyOptions, argv: Sequence[str], train: Train, read: "Callable[..., Found]") -> int:
    """Trains, or reads the rows that are given, and prints what was found.

    Args:
      name: of the study.
      argv: of the command, for the rows.
      train: folder of the study, runtime, console and command line -> rows.
      read: rows -> what they say.
    """
    from mixonomy.experiment import Runtime
    from mixonomy.progress import Console
    from mixonomy.stopping import Interrupted, stopped
    from mixonomy.studies.study import Study, write_results

    out = out_of(name, options)
    if options.rows is not None:
        check_rows_alone(options)
        rows = rows_in(options.rows, name)
        write_results(Study(name, (), read), out, rows)
    else:
        runtime = Runtime(device=options.device, workers=options.workers, data_root=options.data_root)
        try:
            rows = train(out, runtime, Console(), command_of(name, argv))
        except Interrupted as stop:
            return stopped(stop)
    say(name, out, read(rows), rows, is_json=options.json)
    return 0 if any(row["metric"] == "top1" and row["value"] is not None for row in rows) else 1


def trained(study: "Callable[[], Study]") -> Train:
    """What trains a study; it is planned then, not where rows are only read."""

    def train(out: Path, runtime: "Runtime", console: "Console", command: str) -> "list[Row]":
        from mixonomy.studies.study import run

        return run(study(), out, runtime=runtime, console=console, command=command)

    return train


def check_rows_alone(options: Any) -> None:
    """Refuses options of trainings and measurements beside --rows, which does neither.

    Args:
      options: the dataclass of a command.
    Raises:
      ValueError: naming them.
    """
    given = [
        f"--{field.name.replace('_', '-')}"
        for field in fields(options)
        if field.name not in ("rows", "out", "json")
        and getattr(options, field.name) != (field.default if field.default is not MISSING else [])
    ]
    if given:
        raise ValueError(f"--rows writes page and tables and trains nothing; leave {' and '.join(given)} out.")


def say(name: str, out: Path, found: "Found", rows: "Sequence[Row]", *, is_json: bool) -> None:
    """Prints what was found, for people, and with `is_json` as one JSON object on standard output."""
    from mixonomy.report.study_page import terminal_lines

    page = out / f"{name}.html"
    people = sys.stderr if is_json else sys.stdout
    print("\n".join([*terminal_lines(found), f"page: {page}, rows: {out / 'rows.jsonl'}"]), file=people)
    if is_json:
        about = {"study": name, "out": str(out), "page": str(page), "summary": found.sentences()}
        print(json.dumps({**about, **found.facts, "rows": rows}))


def out_of(name: str, options: StudyOptions) -> Path:
    """The folder of the study."""
    return options.out or Path("runs") / f"study-{name}{'-quick' if options.quick else ''}"


def command_of(name: str, argv: Sequence[str]) -> str:
    """The command line for rows and run folders, without what is a place on this machine or only a form of output."""
    kept, words = [], iter(argv)
    for word in words:
        if word in UNSAID:
            next(words, None)
        elif word != "--json" and not word.startswith(tuple(f"{option}=" for option in UNSAID)):
            kept.append(word)
    return shlex.join(["mixonomy", "study", name, *kept])
