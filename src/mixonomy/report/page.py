"""x"""

from pathlib import Path

from mixonomy.runs import RunFolder


def write_report(folder: RunFolder, *, data_root: str | None = None) -> Path:
    folder.report.write_text("todo")
    return folder.report
