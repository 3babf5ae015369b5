"""Text and figures of docs/ from the rows of the studies; each study reads its own rows."""

from collections.abc import Callable, Sequence
from pathlib import Path

from mixonomy.report.charts import standalone
from mixonomy.report.study_page import Found, markdown
from mixonomy.studies import ablate, compared, permutation, scale, weights
from rows import Row, read

# Study -> what reads its rows, which are in results/STUDY.jsonl.
STUDIES: dict[str, Callable[[Sequence[Row]], Found]] = {
    "permutation": permutation.read,
    "ablate": ablate.read,
    "scale": scale.read,
    "compare": compared.found_of,
    "weights": weights.read,
}


def text_of(study: str) -> Callable[[Path], str]:
    """The function from the folder of results to what the study found, in Markdown."""

    def text(results: Path) -> str:
        rows = read(results / f"{study}.jsonl")
        if not rows:
            return "No rows yet."
        found = STUDIES[study](rows)
        parts = [
            part
            for topic, texts in found.by_topic()
            for part in (*((f"**{topic}**",) if topic else ()), "\n".join(f"- {text}" for text in texts))
        ]
        parts += [f"![{figure.caption}]({figure.name}.svg)" for figure in found.figures]
        parts += [f"**{table.title}**\n\n{markdown(table)}" for table in found.tables]
        commands, commits = (", ".join(dict.fromkeys(str(row[key]) for row in rows)) for key in ("command", "commit"))
        machines = "; ".join(dict.fromkeys(row["device"] for row in rows))
        return "\n\n".join([*parts, f"Measured by `{commands}` at {commits} on {machines}."])

    return text


def figures(results: Path) -> dict[str, str]:
    """File, relative to the repository -> SVG, of all studies that have rows."""
    found = {}
    for study, reading in STUDIES.items():
        if rows := read(results / f"{study}.jsonl"):
            found |= {f"docs/{figure.name}.svg": standalone(figure.svg) for figure in reading(rows).figures}
    return found
