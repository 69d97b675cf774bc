"""The report's plots: each is drawn from a summary as one `<svg>`, for a width in pixels."""

from crosstask.report.plots.canvas import series
from crosstask.report.plots.cost import accuracy_against_speed
from crosstask.report.plots.gains import gains
from crosstask.report.plots.steps import curves, row_curves
from crosstask.report.plots.stream import over_stream, says_something

__all__ = ["accuracy_against_speed", "curves", "gains", "over_stream", "row_curves", "says_something", "series"]
