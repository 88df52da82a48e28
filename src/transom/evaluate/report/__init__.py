"""An evaluation as one page of HTML, with everything inside."""

from transom.evaluate.report.page import page

__all__ = ["page"]
