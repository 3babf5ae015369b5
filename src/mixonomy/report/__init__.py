"""Reports: one HTML page for a run, what to do next, and tables for a terminal."""

from mixonomy.report.advice import Advice, advise
from mixonomy.report.finished import FinishedRun, read_finished
from mixonomy.report.lr_page import write_lr_page
from mixonomy.report.page import write_report

__all__ = ["Advice", "FinishedRun", "advise", "read_finished", "write_lr_page", "write_report"]
