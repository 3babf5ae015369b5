"""`mixonomy study paper`."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import FlagCreatePairsOff

from mixonomy.cli.arguments import check_out, parse


@dataclass(frozen=True)
class StudyPaper:
    """Prints the paper's tables and figures beside ours, and what each number takes that was not run.

    Sizes and hyper-parameters are compared with this code as it is; scores with the rows of results/.
    """

    results: Path | None = None
    """Folder of rows; those that came with mixonomy if not given."""
    out: Path | None = None
    """An .html file to write as well."""
    json: FlagCreatePairsOff[bool] = False
    """Print everything as one JSON object on the last line of standard output."""


def main(argv: list[str]) -> int:
    """Runs the command."""
    options = parse(StudyPaper, argv, name="study paper")
    if options.out is not None:
        check_out(options.out, ".html")

    from mixonomy.report.study_page import terminal_lines, write_study_page
    from mixonomy.studies.paper import NAME, entries, found_of, results_folder

    results = options.results or results_folder()
    found = found_of(entries(results), results)
    print("\n".join(terminal_lines(found)), file=sys.stderr if options.json else sys.stdout)
    if options.out is not None:
        write_study_page(options.out, found, ())
    if options.json:
        print(json.dumps({"study": NAME, "summary": found.sentences(), **found.facts}))
    return 0
