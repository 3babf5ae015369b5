"""Figures of docs/ as SVG files, drawn by hand so that the same rows give the same file everywhere."""

from html import escape
from pathlib import Path

from rows import read
from taxonomy import ROLES, newest_of

NAMES, BAR, GAP, ROW, TOP = 132, 190, 70, 26, 64  # in units of the picture: widths, then heights
TITLES = {
    "parameters": ("parameters", 1e6, "M"),
    "macs": ("MACs per image", 1e9, "G"),
    "activation_bytes": ("memory per image", 1e6, "MB"),
}
# Light and dark pages; the file is also shown where neither stylesheet nor script of the page reaches it.
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#24292f}.small{font-size:11px;fill:#57606a}"
    ".channels{fill:#3f6fb5}.locations{fill:#d98324}.both{fill:#7a5aa6}.neither{fill:#a7adb5}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.small{fill:#9aa4af}}"
)


def taxonomy_figure(results: Path) -> str:
    """A line per model and a bar per cost, divided by what the layers mix; empty text if there are no rows."""
    by_model = newest_of(read(results / "taxonomy.jsonl"))
    if not by_model:
        return ""
    width = NAMES + len(TITLES) * (BAR + GAP)
    height = TOP + ROW * len(by_model) + 8
    parts = ['<text x="0" y="16">mixes</text>']
    for i, role in enumerate(ROLES):
        x = 60 + 100 * i
        parts.append(
            f'<rect class="{role}" x="{x}" y="6" width="12" height="12"/><text x="{x + 18}" y="16">{role}</text>'
        )
    for i, (title, _, _) in enumerate(TITLES.values()):
        parts.append(f'<text class="small" x="{NAMES + i * (BAR + GAP)}" y="{TOP - 12}">{title}</text>')
    for line, (model, rows) in enumerate(by_model.items()):
        y = TOP + ROW * line
        parts.append(f'<text x="0" y="{y + 13}">{escape(model)}</text>')
        for i, (metric, (title, scale, unit)) in enumerate(TITLES.items()):
            x = float(NAMES + i * (BAR + GAP))
            total = sum(row.cost[metric] for row in rows)
            for role in ROLES:
                share = sum(row.cost[metric] for row in rows if row.role == role) / total
                said = f"{model}, {title}: {100 * share:.1f} % in layers that mix {role}"
                if share:
                    parts.append(
                        f'<rect class="{role}" x="{x:.2f}" y="{y}" width="{BAR * share:.2f}" height="16">'
                        f"<title>{escape(said)}</title></rect>"
                    )
                x += BAR * share
            parts.append(f'<text class="small" x="{x + 6:.2f}" y="{y + 13}">{total / scale:,.1f} {unit}</text>')
    label = "Parameters, multiplications and memory of each model, by what its layers mix"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="{label}">\n'
        f"<style>{STYLE}</style>\n" + "\n".join(parts) + "\n</svg>\n"
    )
