"""Accuracy against speed: what each method gives, and what it takes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from crosstask.report import words
from crosstask.report.plots.canvas import GRID, INK, MUTED, PAPER, STYLE, bare_axes, marker_of, short, to_svg, tone_of
from crosstask.report.summary import Column, Summary


@dataclass(frozen=True, kw_only=True)
class Box:
    """A rectangle in pixels, from its lower left corner."""

    left: float
    low: float
    width: float
    height: float

    def overlap(self, other: Box) -> float:
        """Return the area that two rectangles share."""
        across = min(self.left + self.width, other.left + other.width) - max(self.left, other.left)
        along = min(self.low + self.height, other.low + other.height) - max(self.low, other.low)
        return max(0.0, across) * max(0.0, along)


def accuracy_against_speed(summary: Summary, width: int) -> str:
    """Draw a point a method: images per second on a logarithmic axis, the mean accuracy with its interval, its name."""
    columns = [column for column in summary.columns if column.mean and column.cost.images_per_second > 0]
    height = 300 + (8 if width > 500 else 12) * len(columns)
    with mpl.rc_context(STYLE):
        figure, axes = bare_axes(width, height, left=38, right=24, top=12, bottom=44)
        _speed_axis(axes, [column.cost.images_per_second for column in columns])
        axes.set_ylim(*_limits(_near(summary, columns)))
        axes.yaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.set_xlabel("images per second", color=MUTED, fontsize=12, labelpad=6)
        for column in columns:
            _point(axes, column, tone_of(summary, column), axes.get_ylim()[0])
        _name_points(axes, columns)
        return to_svg(figure, f"speed-{width}")


def _speed_axis(axes: Axes, speeds: Sequence[float]) -> None:
    axes.set_xscale("log")
    low, high = min(speeds) / 2.6, max(speeds) * 2.6
    axes.set_xlim(low, high)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    between = (1, 2, 5) if high / low < 100 else (1,)
    axes.xaxis.set_major_locator(FixedLocator([digit * 10.0**decade for decade in decades for digit in between]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axes.grid(axis="x", color=GRID, lw=1)


def _limits(columns: Sequence[Column]) -> tuple[float, float]:
    """Return limits in per cent that hold all points with their intervals."""
    means = [column.mean for column in columns if column.mean]
    low = min(100 * (mean.mean - (mean.half or 0)) for mean in means)
    high = max(100 * (mean.mean + (mean.half or 0)) for mean in means)
    slack = max(2.0, 0.07 * (high - low))
    return max(low - slack, -1.0), min(high + slack, 101.0)


def _near(summary: Summary, columns: Sequence[Column]) -> list[Column]:
    """Return the columns that set the scale: all but a frozen model that lies far below the others."""
    others = [column for column in columns if column is not summary.source]
    if not summary.source or not summary.source.mean or len(others) < 2:
        return list(columns)
    low, high = _limits(others)
    return others if 100 * summary.source.mean.mean < low - (high - low) else list(columns)


def _point(axes: Axes, column: Column, tone: str, floor: float) -> None:
    """Draw a mean with its interval; what lies below the plot stands on its lower edge."""
    if column.mean:
        mean, half = 100 * column.mean.mean, 100 * (column.mean.half or 0)
        speed = column.cost.images_per_second
        if mean < floor:
            axes.plot(speed, floor, marker_of(tone), ms=7, color=tone, mec=PAPER, mew=1, zorder=3, clip_on=False)
            return
        axes.plot([speed, speed], [mean - half, mean + half], color=tone, lw=1.4, alpha=0.55, zorder=2)
        size = 9 if column.method in ("source", "cta") else 7
        axes.plot(speed, mean, marker_of(tone), ms=size, color=tone, mec=PAPER, mew=1, zorder=3)


def _name_points(axes: Axes, columns: Sequence[Column]) -> None:
    """Write each name where it covers least, the nearest place first, with a line to a point that is not beside it."""
    axes.figure.canvas.draw()
    frame, floor = axes.get_window_extent(), axes.get_ylim()[0]
    points = [
        tuple(axes.transData.transform((column.cost.images_per_second, max(100 * column.mean.mean, floor))))
        for column in columns
        if column.mean
    ]
    taken = [Box(left=x - 5, low=y - 5, width=10, height=10) for x, y in points]
    for column, (x, y) in sorted(zip(columns, points, strict=True), key=lambda each: -each[1][1]):
        name = short(words.display(column.label), 16)
        if column.mean and 100 * column.mean.mean < floor:
            name += f" {words.percent(column.mean.mean)} \N{DOWNWARDS ARROW}"
        places = [
            Box(left=x + right, low=y + up, width=6.3 * len(name) + 4, height=13) for right, up in _offsets(len(name))
        ]
        inside = [box for box in places if _inside(box, frame)]
        best = min(inside or places, key=lambda box: sum(box.overlap(other) for other in taken))
        taken.append(best)
        _name(axes, name, (x, y), best)


def _offsets(letters: int) -> Iterator[tuple[float, float]]:
    """Yield where a name may stand around its point, lower left corners in pixels, the nearest first."""
    width = 6.3 * letters + 4
    for far in (0, 14, 28, 42, 60, 80, 105, 135, 170):
        for right in (7 + far / 3, -7 - far / 3 - width):
            yield from ((right, up) for up in ((-6.5,) if not far else (far - 6.5, -far - 6.5)))
        yield from ((-width / 2, up) for up in (8 + far, -21 - far))


def _inside(box: Box, frame: Any) -> bool:
    return (
        frame.x0 - 4 <= box.left and box.left + box.width <= frame.x1 + 20 and frame.y0 - 8 <= box.low <= frame.y1 - 10
    )


def _name(axes: Axes, name: str, point: tuple[float, float], box: Box) -> None:
    """Write a name into its box, in pixels of the figure."""
    to_figure = axes.figure.transFigure.inverted().transform
    middle = box.low + box.height / 2
    near = min(max(point[0], box.left), box.left + box.width), min(max(point[1], box.low), box.low + box.height)
    if math.dist(near, point) > 12:
        ends = [to_figure(end) for end in (point, near)]
        axes.plot(*zip(*ends, strict=True), color=MUTED, lw=0.6, transform=axes.figure.transFigure, zorder=1)
    x, y = to_figure((box.left + 2, middle))
    axes.figure.text(x, y, name, color=INK, fontsize=11, va="center", ha="left")
