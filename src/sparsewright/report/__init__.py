"""Pages of HTML about runs: what a run did, how runs compare, how plastic a network is."""

from sparsewright.report.comparison_page import write_comparison
from sparsewright.report.run_report import write_run_report

__all__ = ["write_comparison", "write_run_report"]
