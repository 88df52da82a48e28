"""An evaluation as one page of HTML that needs nothing else."""

from transom.evaluate.report.page import page

__all__ = ["page"]
