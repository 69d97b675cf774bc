"""Plots as inline SVG whose colours are the page's own: one drawing for light and dark, screen and print.

Matplotlib knows nothing of CSS variables. So every colour is drawn as a sentinel, a hexadecimal colour that nothing
else uses, and replaced by its variable afterwards. Text stays text and takes the page's font.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from crosstask.report.summary import Column, Summary

INK, MUTED, GRID, PAPER, GAIN, LOSS = (f"#01010{digit}" for digit in range(1, 7))
_SERIES = ("source", "cta", "1", "2", "3", "4", "5", "6")
_MARKERS = dict(zip(_SERIES, "oosD^vPX", strict=True))
VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--line)",
    PAPER: "var(--paper)",
    GAIN: "var(--gain)",
    LOSS: "var(--loss)",
} | {f"#0102{place:02x}": f"var(--series-{name})" for place, name in enumerate(_SERIES)}

STYLE: Any = {
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


def bare_axes(
    width: float, height: float, *, left: float, right: float, top: float, bottom: float
) -> tuple[Figure, Axes]:
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


def tone_of(summary: Summary, column: Column) -> str:
    """Return the sentinel of a column's colour."""
    return f"#0102{_SERIES.index(series(summary)[column.label]):02x}"


def marker_of(tone: str) -> str:
    """Return the marker that goes with a tone."""
    return _MARKERS[_SERIES[int(tone[-2:], 16)]]


def name_ends(axes: Axes, ends: Sequence[tuple[float, str, str]], height: int) -> None:
    """Name each curve beside its end (value, name, tone), moved apart where names would overlap."""
    low, high = axes.get_ylim()
    gap = 17 * (high - low) / (height - 50)
    beside = axes.get_yaxis_transform()
    places = apart([max(end, low + gap / 2) for end, *_ in ends], gap)
    for (end, name, tone), place in zip(ends, places, strict=True):
        text = f"{name} {end:.1f}" + (" \N{DOWNWARDS ARROW}" if end < low else "")
        axes.plot(1.035, place, marker_of(tone), ms=6, color=tone, mew=0, transform=beside, clip_on=False)
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


def apart(values: Sequence[float], gap: float) -> list[float]:
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


def short(name: str, longest: int = 22) -> str:
    """Return a name cut to a length that a plot has room for."""
    return name if len(name) <= longest else name[: longest - 1] + "…"


def to_svg(figure: Figure, prefix: str) -> str:
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
    for sentinel, variable in VARIABLES.items():
        body = body.replace(sentinel, variable)
    return head + mark + body
