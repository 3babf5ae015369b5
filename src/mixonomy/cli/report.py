"""`mixonomy report`."""

import json
import sys
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg

from mixonomy.cli.arguments import parse


@dataclass(frozen=True)
class Report:
    """Writes report.html of a finished run again, from what the run folder holds."""

    run: Annotated[Positional[str], arg(metavar="RUN")]
    """A run folder."""
    data_root: str | None = None
    """Folder of the known data sets, for the pictures; $MIXONOMY_DATA if not given."""
    json: FlagCreatePairsOff[bool] = False
    """Print the path as one JSON object on the last line of standard output."""


def main(argv: list[str]) -> int:
    """Runs the command."""
    options = parse(Report, argv, name="report")

    from mixonomy.report import write_report
    from mixonomy.runs import RunFolder

    path = write_report(RunFolder(options.run), data_root=options.data_root)
    print(path, file=sys.stderr if options.json else sys.stdout)
    if options.json:
        print(json.dumps({"report": str(path)}))
    return 0
