"""Reports: rows to tables, plots, and one HTML page for a run."""

from mixonomy.report.lr_page import write_lr_page
from mixonomy.report.page import write_report

__all__ = ["write_lr_page", "write_report"]
