"""Writes the tables of README.md and docs/*.md, and the figures of docs/, from the rows in results/.

python benchmarks/tables.py            rewrites what stands between <!-- generated: NAME --> and <!-- /generated -->,
                                       and the files of FIGURES and of the studies
python benchmarks/tables.py --check    writes nothing; exit status 1 if a file is not up to date
"""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from figures import curves_figure, newest_curves, taxonomy_figure
from many_gpus_tables import cost, faults, runs
from plain import PLAIN, newest, number, of_same_run, table
from rows import RESULTS, Row, read
from studied import STUDIES, text_of
from studied import figures as study_figures
from taxonomy import ARCHITECTURES, ROLES, TaxonomyRow, newest_of
from transfer_tables import resolution, tuned

OPEN, CLOSE = "<!-- generated: {} -->", "<!-- /generated -->"
PUBLISHED = "published.jsonl"


def recipes(results: Path) -> str:
    """One line per recipe and machine, with what others published on the same data."""
    summaries = [row for row in read(results / "recipes.jsonl") if row["seed"] is None]
    published = [row for row in read(results / PUBLISHED) if row["study"] == "recipe"]
    lines, used = [], []
    for row in newest(summaries, "top1"):
        same = of_same_run(summaries, row)
        theirs = [p for p in published if _family(p) == _family(row)]
        used += theirs
        minutes = None if "seconds" not in same or same["seconds"]["value"] is None else same["seconds"]["value"] / 60
        lines.append(
            [
                row["data"],
                row["model"],
                number(same.get("params"), ",.0f"),
                _percent(row),
                f"{row['n']}" + (f" ({row['note']})" if row.get("note") else ""),
                "-" if minutes is None else f"{minutes:.1f}",
                number(same.get("images_per_s"), ",.0f"),
                "; ".join(map(_cite, theirs)) or "-",
                row["device"],
                row["commit"] or "-",
            ]
        )
    lines += [
        [p["data"], p["model"], "-", "not run here", "-", "-", "-", _cite(p), "-", "-"]
        for p in published
        if p not in used
    ]
    header = "data|model and length|parameters|test top-1, %|n|minutes|images/s|published top-1, %|machine|commit"
    return table(header.split("|"), lines, right=(2, 3, 5, 6))


def curves(results: Path) -> str:
    """One line per point of the curves of cost."""
    rows = newest_curves(read(results / "curves.jsonl"))
    by_point: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        by_point.setdefault((row["model"], row["data"]), {})[row["metric"]] = row
    lines = []
    for (model, place), found in by_point.items():
        sweep, name = model.split(": ")
        times = [number(found.get(metric), ",.1f", scale=1e3, with_spread=True) for metric in ("forward_s", "step_s")]
        memory = [number(found.get(metric), ",.0f", scale=1e-6) for metric in ("forward_bytes", "step_bytes")]
        flops = number(found.get("flops"), ",.2f", scale=1e-9)
        about = found["forward_s"]
        lines.append([f"{sweep} {place}", name, flops, *times, *memory, about["device"], about["commit"] or "-"])
    header = "what|model|GFLOP per image|forward, ms|step, ms|forward, MB|step, MB|machine|commit"
    return table(header.split("|"), lines, right=(2, 3, 4, 5, 6))


def label_errors(results: Path) -> str:
    """One line per share of wrong labels: how many of them were found; numbers of images are means over the seeds."""
    rows = read(results / "label_errors.jsonl")
    lines = []
    for row in newest(rows, "top1"):
        same = of_same_run(rows, row)
        wrong, found, right = (same[metric]["value"] for metric in ("wrong", "found", "right"))
        lines.append(
            [
                row["data"],
                row["model"],
                _percent(row),
                f"{wrong:.1f}",
                f"{found:.1f}",
                f"{right:.1f}",
                f"{right / found:.2f}" if found else "-",
                f"{right / wrong:.2f}" if wrong else "-",
                f"{row['n']}",
                row["device"],
                row["commit"] or "-",
            ]
        )
    header = "data|model and length|top-1, %|wrong|listed|of them wrong|precision|recall|n|machine|commit"
    return table(header.split("|"), lines, right=(2, 3, 4, 5, 6, 7))


def folder(results: Path) -> str:
    """One line per variant of the folder recipe, one pair of columns (validation and test top-1) per data set."""
    rows = read(results / "folder.jsonl")
    data = list(dict.fromkeys(row["data"] for row in rows))
    found: dict[tuple[str, str], dict[str, dict[str, Row]]] = {}
    for row in newest(rows, "val_top1"):
        line = found.setdefault((row["model"], row["device"]), {})
        line[row["data"]] = of_same_run(rows, row)
    lines = []
    for (model, device), by_data in found.items():
        scores = [_percent(by_data[d][m]) if d in by_data else "-" for d in data for m in ("val_top1", "top1")]
        minutes = ", ".join(f"{by_data[d]['cpu_minutes']['value']:.0f}" if d in by_data else "-" for d in data)
        lines.append([model, *scores, minutes, device])
    header = [f"{d}, {which}, %" for d in data for which in ("validation", "test")]
    right = range(1, 2 + 2 * len(data))
    return table(["recipe and length", *header, "CPU minutes", "machine"], lines, right=right)


def layers(results: Path) -> str:
    """One line per kind of layer in one size of each architecture: what it mixes, and its shares of the model."""
    by_model = newest_of(read(results / "taxonomy.jsonl"))
    lines = []
    for model in (name for name in ARCHITECTURES if name in by_model):
        totals = _totals(by_model[model])
        for row in by_model[model]:
            crosses = ["x" if row.role in (kind, "both") else "" for kind in ("channels", "locations")]
            shares = [f"{100 * row.cost[metric] / totals[metric]:.1f}" for metric in totals]
            lines.append([model, f"`{row.layer}`", row.kind, *crosses, *shares])
    header = "model|layer|kind|mixes channels|mixes locations|parameters, %|MACs, %|memory, %"
    return table(header.split("|"), lines, right=(5, 6, 7))


def taxonomy(results: Path) -> str:
    """One line per model: parameters, MACs and memory, each with its shares by role."""
    lines = []
    for model, rows in newest_of(read(results / "taxonomy.jsonl")).items():
        cells = [model, f"{rows[0].data}"]
        for metric, total in _totals(rows).items():
            shares = (sum(row.cost[metric] for row in rows if row.role == role) / total for role in ROLES)
            cells += [f"{total / 1e6:,.1f}", " / ".join(f"{100 * share:.1f}" for share in shares)]
        lines.append([*cells, rows[0].commit])
    split = "% channels / locations / both / neither"
    header = f"model|image|parameters, M|{split}|MACs, M|{split}|memory, MB|{split}|commit"
    return table(header.split("|"), lines, right=(2, 3, 4, 5, 6, 7))


def _totals(rows: Sequence[TaxonomyRow]) -> dict[str, float]:
    return {metric: sum(row.cost[metric] for row in rows) for metric in rows[0].cost}


TABLES: dict[str, Callable[[Path], str]] = {
    **PLAIN,
    **{f"study_{study}": text_of(study) for study in STUDIES},
    "recipes": recipes,
    "curves": curves,
    "label_errors": label_errors,
    "folder": folder,
    "layers": layers,
    "taxonomy": taxonomy,
    "faults": faults,
    "scale_runs": runs,
    "transfer": tuned,
    "transfer_resolution": resolution,
    "scale_cost": cost,
}
FIGURES: dict[str, Callable[[Path], str]] = {
    "docs/taxonomy.svg": taxonomy_figure,
    "docs/curves.svg": curves_figure,
}


def rewritten(text: str, results: Path) -> str:
    """The text with all its generated parts made anew.

    Raises:
      ValueError: for an unknown name, and for a marker without its partner.
    """
    opened = re.findall(r"<!-- generated:\s*(\S*)\s*-->", text)
    for name in opened:
        if name not in TABLES:
            raise ValueError(f"unknown table {name!r} in a marker; use {', '.join(TABLES)}.")
    pattern = re.compile(r"<!-- generated:\s*(\S*)\s*-->((?!<!-- generated:).)*?<!-- /generated -->", re.DOTALL)
    if not len(opened) == text.count(CLOSE) == len(pattern.findall(text)):
        raise ValueError(f"{len(opened)} generated parts are opened and {text.count(CLOSE)} are closed by {CLOSE}.")
    return pattern.sub(lambda m: f"{OPEN.format(m[1])}\n\n{TABLES[m[1]](results)}\n\n{CLOSE}", text)


def _family(row: Row) -> tuple[str, str]:
    """What makes a published number comparable: the data, and the name that the model's description begins with."""
    return row["data"], re.split(r"[ ,]", row["model"])[0]


def _cite(row: Row) -> str:
    return f"{100 * row['value']:.2f} ({row['source']}{': ' + row['note'] if row.get('note') else ''})"


def _percent(row: Row) -> str:
    if row["value"] is None:
        return "-"
    spread = "" if row["spread"] is None else f" ± {100 * row['spread']:.2f}"
    return f"{100 * row['value']:.2f}{spread}"


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if a file would change")
    parser.add_argument("--root", type=Path, default=RESULTS.parent, help="folder of README.md, docs/ and results/")
    options = parser.parse_args()
    stale = []
    for path in (options.root / "README.md", *sorted((options.root / "docs").glob("**/*.md"))):
        if not path.is_file():
            continue
        before = path.read_text()
        try:
            after = rewritten(before, options.root / "results")
        except ValueError as error:
            print(f"{path}: {error}", file=sys.stderr)
            return 2
        if after != before:
            stale.append(path)
            if not options.check:
                path.write_text(after)
    drawn = {name: draw(options.root / "results") for name, draw in FIGURES.items()}
    for name, after in {**drawn, **study_figures(options.root / "results")}.items():
        path = options.root / name
        if after and (not path.is_file() or path.read_text() != after):
            stale.append(path)
            if not options.check:
                path.write_text(after)
    for path in stale:
        print(f"{path} {'is not up to date; run python benchmarks/tables.py' if options.check else 'written'}")
    return 1 if stale and options.check else 0


if __name__ == "__main__":
    raise SystemExit(main())
