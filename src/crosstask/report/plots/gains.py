"""From frozen to adapted, corruption by corruption."""

from __future__ import annotations

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from crosstask.report import words
from crosstask.report.plots.canvas import GAIN, GRID, INK, LOSS, MUTED, PAPER, STYLE, bare_axes, short, to_svg
from crosstask.report.summary import Column, Row, Summary


def gains(summary: Summary, source: Column, adapted: Column, width: int) -> str:
    """Draw the way from the frozen to the adapted accuracy for each corruption, the largest gain on top."""
    rows = sorted(adapted.row_gains.keys() & set(summary.rows), key=lambda row: adapted.row_gains[row].mean)
    with mpl.rc_context(STYLE):
        names = [short(words.row_name(summary, row)) for row in rows]
        left = 16 + 6.8 * max(map(len, names))
        figure, axes = bare_axes(width, 28 * len(rows) + 44, left=left, right=92, top=6, bottom=38)
        for place, row in enumerate(rows):
            _dumbbell(axes, place, (source, adapted), row)
        axes.set_yticks(range(len(rows)), names, color=INK, fontsize=12)
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.grid(axis="y", visible=False)
        axes.grid(axis="x", color=GRID, lw=1)
        axes.xaxis.set_major_locator(MaxNLocator(5 if width < 500 else 8, integer=True))
        axes.set_xlabel("accuracy, %", color=MUTED, fontsize=12, labelpad=6)
        return to_svg(figure, f"gains-{width}")


def _dumbbell(axes: Axes, place: int, columns: tuple[Column, Column], row: Row) -> None:
    frozen, moved = (100 * column.cells[row].mean for column in columns)
    gain = columns[1].row_gains[row]
    axes.plot([frozen, moved], [place, place], color=GAIN if moved >= frozen else LOSS, lw=3, alpha=0.45)
    for value, tone in ((frozen, f"#0102{0:02x}"), (moved, f"#0102{1:02x}")):
        axes.plot(value, place, "o", ms=9, color=tone, mec=PAPER, mew=1.2)
    axes.annotate(
        words.with_spread(words.points(gain.mean), gain),
        xy=(1, place),
        xytext=(12, 0),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        color=INK,
        fontsize=12,
        va="center",
        annotation_clip=False,
    )
