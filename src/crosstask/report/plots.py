"""Plots as inline SVG whose colours are the page's own: one drawing for light and dark, screen and print.

Matplotlib knows nothing of CSS variables. So every colour is drawn as a sentinel, a hexadecimal colour that nothing
else uses, and replaced by its variable afterwards. Text stays text and takes the page's font.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from crosstask.report import words
from crosstask.report.summary import Column, Row, Summary

INK, MUTED, GRID, PAPER, GAIN, LOSS = (f"#01010{digit}" for digit in range(1, 7))
_SERIES = ("source", "cta", "1", "2", "3", "4", "5", "6")
_MARKERS = dict(zip(_SERIES, "oosD^vPX", strict=True))
_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--line)",
    PAPER: "var(--paper)",
    GAIN: "var(--gain)",
    LOSS: "var(--loss)",
} | {f"#0102{place:02x}": f"var(--series-{name})" for place, name in enumerate(_SERIES)}

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "crosstask",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "axes.unicode_minus": True,
    "path.simplify": False,
}
_DPI = 72
"""At 72 dots an inch a point, a pixel and a unit of the SVG are one length."""


def series(summary: Summary) -> dict[str, str]:
    """Return, for each label, the name of its colour: the page defines `--series-<name>`."""
    names, others = {}, 0
    for column in summary.columns:
        if column is summary.source:
            names[column.label] = "source"
        elif column is summary.adapted:
            names[column.label] = "cta"
        else:
            names[column.label] = str(others % 6 + 1)
            others += 1
    return names


def curves(summary: Summary, width: int, height: int) -> str:
    """Draw accuracy over updates per batch, averaged over corruptions: a line a label, its band the interval.

    A frozen model that lies far below all others is named at the lower edge, so that the others can be told apart.
    """
    with mpl.rc_context(_STYLE):
        names = {column.label: _short(words.display(column.label)) for column in summary.columns}
        right = 60 + 6.5 * max(map(len, names.values()))
        figure, axes = _axes(width, height, left=34, right=right, top=10, bottom=40)
        near = _near(summary)
        for column in near:
            tone = _tone(summary, column)
            _line(
                axes, column, {step: 100 * mean.mean for step, mean in column.curve.items()}, tone, _last_step(summary)
            )
            _band(axes, column, tone)
        axes.set_ylim(*_up_to_100(*_band_limits(near)))
        ends = [
            (100 * column.curve[max(column.curve)].mean, names[column.label], _tone(summary, column))
            for column in summary.columns
            if column.curve
        ]
        _steps_axis(axes, summary, _steps(summary))
        axes.set_xlabel("updates per batch", color=MUTED, fontsize=12, labelpad=6)
        _end_labels(axes, ends, height)
        return _svg(figure, f"curves-{width}")


def row_curves(summary: Summary, row: Row, number: int) -> str:
    """Draw accuracy over updates for one corruption, small; all of them have one scale, each around its own middle."""
    with mpl.rc_context(_STYLE):
        figure, axes = _axes(210, 136, left=28, right=8, top=8, bottom=22)
        for column in summary.columns:
            curve = {step: 100 * mean for step, mean in column.row_curves.get(row, {}).items()}
            if curve:
                _line(axes, column, curve, _tone(summary, column), _last_step(summary), markers=False)
        low, high = _row_limits(summary, row)
        half = max(high - low for low, high in (_row_limits(summary, other) for other in summary.rows)) * 0.55
        axes.set_ylim(*_up_to_100((low + high) / 2 - half, (low + high) / 2 + half))
        _steps_axis(axes, summary, [0, _last_step(summary)])
        axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        axes.tick_params(labelsize=12)
        return _svg(figure, f"row-{number}")


def gains(summary: Summary, source: Column, adapted: Column, width: int) -> str:
    """Draw the way from the frozen to the adapted accuracy for each corruption, the largest gain on top."""
    rows = sorted(adapted.row_gains.keys() & set(summary.rows), key=lambda row: adapted.row_gains[row].mean)
    with mpl.rc_context(_STYLE):
        names = [_short(words.row_name(summary, row)) for row in rows]
        left = 16 + 6.8 * max(map(len, names))
        figure, axes = _axes(width, 28 * len(rows) + 44, left=left, right=92, top=6, bottom=38)
        for place, row in enumerate(rows):
            _dumbbell(axes, place, (source, adapted), row)
        axes.set_yticks(range(len(rows)), names, color=INK, fontsize=12)
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.grid(axis="y", visible=False)
        axes.grid(axis="x", color=GRID, lw=1)
        axes.xaxis.set_major_locator(MaxNLocator(5 if width < 500 else 8, integer=True))
        axes.set_xlabel("accuracy, %", color=MUTED, fontsize=12, labelpad=6)
        return _svg(figure, f"gains-{width}")


def _axes(width: float, height: float, *, left: float, right: float, top: float, bottom: float) -> tuple[Figure, Axes]:
    """Return a bare figure, sizes in pixels."""
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
    FigureCanvasSVG(figure)
    box = (left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height)
    axes = figure.add_axes(box)
    figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    axes.spines[:].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=GRID, lw=1)
    axes.tick_params(length=0, labelcolor=MUTED, labelsize=12, pad=6)
    return figure, axes


def _tone(summary: Summary, column: Column) -> str:
    return f"#0102{_SERIES.index(series(summary)[column.label]):02x}"


def _marker(tone: str) -> str:
    return _MARKERS[_SERIES[int(tone[-2:], 16)]]


def _steps(summary: Summary) -> list[int]:
    return sorted({step for column in summary.columns for step in column.curve})


def _last_step(summary: Summary) -> int:
    return max(_steps(summary), default=0)


def _near(summary: Summary) -> list[Column]:
    """Return the columns that set a plot's scale: all but a frozen model whose accuracy lies far below the others'."""
    others = [column for column in summary.columns if column.curve and column is not summary.source]
    low, high = _limits([mean.mean for column in others for mean in column.curve.values()])
    far = summary.source and summary.source.mean and 100 * summary.source.mean.mean < low - (high - low)
    return others if far and others else [column for column in summary.columns if column.curve]


def _limits(shares: Sequence[float]) -> tuple[float, float]:
    """Return the lowest and highest of some shares in per cent, at least four points apart."""
    low, high = 100 * min(shares, default=0), 100 * max(shares, default=1)
    slack = max(0.0, 4 - (high - low)) / 2
    return low - slack, high + slack


def _band_limits(columns: Sequence[Column]) -> tuple[float, float]:
    """Return limits that hold the curves and their bands; a band wider than all curves together is cut."""
    means = [mean for column in columns for mean in column.curve.values()]
    low, high = _limits([mean.mean for mean in means])
    halves = [100 * mean.half for column in columns if column.steps for mean in column.curve.values() if mean.half]
    slack = min(max(halves, default=0), high - low) + 0.06 * (high - low)
    return low - slack, high + slack


def _up_to_100(low: float, high: float) -> tuple[float, float]:
    """Shift limits in per cent down to where no axis goes beyond what an accuracy can be."""
    over = max(0.0, high - 100)
    return low - over, high - over


def _row_limits(summary: Summary, row: Row) -> tuple[float, float]:
    learners = [column for column in summary.columns if column is not summary.source]
    return _limits([mean for column in learners for mean in column.row_curves.get(row, {}).values()])


def _line(
    axes: Axes, column: Column, curve: Mapping[int, float], tone: str, last: int, *, markers: bool = True
) -> None:
    """Draw one curve in per cent; dotted, its end goes on to the `last` step of the plot."""
    steps = sorted(curve)
    end = steps[-1]
    weight, layer = (2.2, 4) if column.method == "cta" else (1.6, 3)
    look: Any = {"marker": _marker(tone), "ms": 6, "mec": PAPER, "mew": 1, "clip_on": False} if markers else {}
    axes.plot([end, last], [curve[end]] * 2, ":", color=tone, lw=weight, zorder=layer)
    axes.plot(steps, [curve[step] for step in steps], color=tone, lw=weight, zorder=layer, **look)


def _band(axes: Axes, column: Column, tone: str) -> None:
    """Shade the interval over seeds of a method that learns."""
    known = [(step, mean.mean, mean.half) for step, mean in sorted(column.curve.items()) if mean.half is not None]
    if len(known) > 1:
        low = [100 * (mean - half) for _, mean, half in known]
        high = [100 * (mean + half) for _, mean, half in known]
        axes.fill_between([step for step, *_ in known], low, high, color=tone, alpha=0.13, lw=0)


def _steps_axis(axes: Axes, summary: Summary, ticks: Sequence[int]) -> None:
    """Space steps by their square root: the first few matter most."""
    last = _last_step(summary)
    axes.set_xscale("function", functions=(lambda x: np.sqrt(np.maximum(x, 0)), np.square))
    axes.set_xlim(0, max(last, 1))
    axes.xaxis.set_major_locator(FixedLocator(sorted(set(ticks))))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0f}")


def _end_labels(axes: Axes, ends: Sequence[tuple[float, str, str]], height: int) -> None:
    """Name each curve beside its end (value, name, tone), moved apart where names would overlap."""
    low, high = axes.get_ylim()
    gap = 17 * (high - low) / (height - 50)
    beside = axes.get_yaxis_transform()
    places = _apart([max(end, low + gap / 2) for end, *_ in ends], gap)
    for (end, name, tone), place in zip(ends, places, strict=True):
        text = f"{name} {end:.1f}" + (" \N{DOWNWARDS ARROW}" if end < low else "")
        axes.plot(1.035, place, _marker(tone), ms=6, color=tone, mew=0, transform=beside, clip_on=False)
        axes.annotate(
            text,
            xy=(1.035, place),
            xytext=(9, 0),
            xycoords=beside,
            textcoords="offset points",
            color=INK,
            fontsize=12,
            va="center",
            annotation_clip=False,
        )


def _apart(values: Sequence[float], gap: float) -> list[float]:
    """Move values as little as needed to lie at least `gap` apart, in the same order."""
    order = sorted(range(len(values)), key=lambda place: values[place])
    placed = [values[place] for place in order]
    for _ in range(200):
        for below in range(len(placed) - 1):
            overlap = gap - (placed[below + 1] - placed[below])
            if overlap > 0:
                placed[below] -= overlap / 2
                placed[below + 1] += overlap / 2
    apart = [0.0] * len(values)
    for place, value in zip(order, placed, strict=True):
        apart[place] = value
    return apart


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


def _short(name: str, longest: int = 22) -> str:
    return name if len(name) <= longest else name[: longest - 1] + "…"


def _svg(figure: Figure, prefix: str) -> str:
    """Return a figure as an `<svg>` element that fills its container; `prefix` keeps its ids apart from others'."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)
    head, mark, body = text.partition(">")
    head = re.sub(r'\s(?:width|height|version|xmlns)="[^"]*"', "", head)
    body = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", body)
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    for sentinel, variable in _VARIABLES.items():
        body = body.replace(sentinel, variable)
    return head + mark + body
