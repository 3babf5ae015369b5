"""Reports: rows to tables, plots, and one HTML page for a run."""

from mixonomy.report.page import write_report

__all__ = ["write_report"]
