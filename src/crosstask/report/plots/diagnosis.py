"""Drawings of a look inside the models: cosines over layers, drift over updates, features in two dimensions."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from crosstask.bench.diagnosis import Drift, Gradients, Panel
from crosstask.report.plots.canvas import GRID, INK, LOSS, MUTED, PAPER, STYLE, VARIABLES, bare_axes, marker_of, to_svg
from crosstask.report.summary import Estimate, over_seeds

SERIES = {
    "supervised": "series-source",
    "self-supervised": "series-4",
    "aligned": "series-cta",
    "joint": "series-1",
}
"""The colour of each kind of model: a CSS variable of the page."""

CLASS_TONES = (
    "series-cta", "series-2", "series-1", "series-4", "series-3", "series-5", "series-source", "series-6", "ink",
    "series-3",
)  # fmt: skip
"""The colours of the first classes in a picture; points of others are small and gray. The fifth and the last share one,
and differ in marker and number."""

_CLASS_MARKERS = "oD^vPXsh*p"

Limits = tuple[tuple[float, float], tuple[float, float]]
"""Of the two axes of a picture."""


def cosine_limit(found: Iterable[Gradients]) -> float:
    """Return where the axis of cosines ends, up and down, so that all drawings have one scale."""
    estimates = [over_seeds(layer.cosines) for each in found for layer in each.layers]
    means, halves = [abs(each.mean) for each in estimates], [each.half or 0 for each in estimates]
    return min(1.0, max([0.05, *means]) + statistics.median(halves or [0.0]))


def layers(found: Sequence[Gradients], limit: float, width: int) -> str:
    """Draw the cosine over the layers, from the image on: a line a model, its band the interval over batches."""
    with mpl.rc_context(STYLE):
        figure, axes = bare_axes(width, 280, left=44, right=10, top=10, bottom=52)
        axes.set_ylim(-limit, limit)
        longest = max((each.layers for each in found), key=len)
        axes.set_xlim(-0.5, len(longest) - 0.5)
        axes.axhspan(-limit, 0, color=LOSS, alpha=0.06, lw=0)
        axes.axhline(0, color=MUTED, lw=1)
        places = {layer.name: place for place, layer in enumerate(longest)}
        for each in found:
            known = [(places[layer.name], over_seeds(layer.cosines)) for layer in each.layers if layer.name in places]
            _line(axes, known, _tone(SERIES[each.model]), markers=width > 500)
        _side_names(axes)
        _layer_axis(axes, [layer.name for layer in longest], width)
        axes.yaxis.set_major_locator(MaxNLocator(5, symmetric=True))
        return to_svg(figure, f"layers-{found[0].images}-{width}")


def moments(drifts: Sequence[Drift], name: str) -> str:
    """Draw one figure of the drift over updates, small: a line a model, its band the interval over batches.

    Args:
        name: a field of `Moment` that has a value a batch.
    """
    scale = 100 if name == "accuracy" else 1
    with mpl.rc_context(STYLE):
        figure, axes = bare_axes(210, 150, left=38, right=10, top=8, bottom=36)
        for drift in drifts:
            tone = _tone(SERIES[drift.model])
            known = [
                (moment.steps, over_seeds([scale * value for value in getattr(moment, name)]))
                for moment in drift.moments
            ]
            if name == "from_source":
                clean = statistics.fmean(drift.clean_from_source)
                axes.plot([0, known[-1][0]], [clean, clean], ":", color=tone, lw=1.6)
            _line(axes, known, tone, markers=False)
        _steps_axis(axes, [moment.steps for moment in drifts[0].moments])
        if name != "accuracy":
            axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(MaxNLocator(4))
        return to_svg(figure, f"drift-{name}")


def panel(found: Panel, number: int, limits: Limits | None) -> str:
    """Draw features in two dimensions: a colour, a marker and a number a class; the number stands at its median.

    Args:
        number: keeps the drawing's ids apart from others'.
        limits: of the axes, where they are shared.
    """
    with mpl.rc_context(STYLE):
        figure, axes = bare_axes(350, 300, left=6, right=6, top=6, bottom=6)
        axes.grid(visible=False)
        axes.spines[:].set_visible(True)
        axes.spines[:].set_color(GRID)
        (left, right), (low, high) = limits or panel_limits([found])
        axes.set(xlim=(left, right), ylim=(low, high), xticks=[], yticks=[])
        points = np.array(found.points).reshape(-1, 3)
        rest = points[points[:, 2] >= len(CLASS_TONES)]
        axes.plot(rest[:, 0], rest[:, 1], ".", ms=3, mew=0, color=MUTED, alpha=0.5)
        groups = {place: points[points[:, 2] == place] for place in range(len(CLASS_TONES))}
        for place, group in groups.items():
            look: Any = {"ms": 5, "mew": 0, "alpha": 0.75, "color": _tone(CLASS_TONES[place])}
            axes.plot(group[:, 0], group[:, 1], _CLASS_MARKERS[place], **look)
        for place, group in groups.items():
            if len(group):
                _class_number(axes, place, np.median(group[:, :2], axis=0))
        return _slim(to_svg(figure, f"panel-{number}"))


def panel_limits(panels: Iterable[Panel]) -> Limits:
    """Return limits that hold the points of all `panels`."""
    points = np.array([point[:2] for panel in panels for point in panel.points]).reshape(-1, 2)
    if not len(points):
        return (0.0, 1.0), (0.0, 1.0)
    low, high = points.min(axis=0), points.max(axis=0)
    slack = 0.04 * np.maximum(high - low, 1e-6)
    (left, bottom), (right, top) = (low - slack).tolist(), (high + slack).tolist()
    return (left, right), (bottom, top)


def _tone(variable: str) -> str:
    """Return the sentinel that stands for a CSS variable."""
    return next(sentinel for sentinel, name in VARIABLES.items() if name == f"var(--{variable})")


def _slim(svg: str) -> str:
    """Return a drawing of many points in a third of its length: one style a group, coordinates to 1/100 pixel."""

    def grouped(found: re.Match[str]) -> str:
        head, points = found.groups()
        (style,) = set(re.findall(r' style="[^"]*"', points)) or {""}
        return f"{head}{style}>{points.replace(style, '')}</g>"

    svg = re.sub(r'(<g clip-path="[^"]*")>\s*((?:<use [^>]*/>\s*)+)</g>', grouped, svg)
    return re.sub(r"(\.\d\d)\d+", r"\1", svg)


def _line(axes: Axes, known: Sequence[tuple[int, Estimate]], tone: str, *, markers: bool) -> None:
    places, means = [place for place, _ in known], np.array([each.mean for _, each in known])
    halves = np.array([each.half or 0 for _, each in known])
    look: Any = {"marker": marker_of(tone), "ms": 5, "mec": PAPER, "mew": 0.8} if markers else {}
    axes.fill_between(places, means - halves, means + halves, color=tone, alpha=0.13, lw=0)
    axes.plot(places, means, color=tone, lw=1.8, zorder=3, **look)


def _side_names(axes: Axes) -> None:
    """Say what lies above and below zero."""
    for place, text, align in ((0.98, "the same way", "top"), (0.02, "against each other", "bottom")):
        axes.text(0.01, place, text, transform=axes.transAxes, color=MUTED, fontsize=12, va=align)


def _layer_axis(axes: Axes, names: Sequence[str], width: int) -> None:
    """Name the blocks of layers where they begin, as far as there is room."""
    blocks = [_block(name) for name in names]
    begins = [place for place, block in enumerate(blocks) if place == 0 or blocks[place - 1] != block]
    room = 7 * max(map(len, blocks)) / (width - 54) * len(names)
    shown: list[int] = []
    for place in begins:
        if not shown or place - shown[-1] >= room:
            shown.append(place)
    axes.set_xticks(shown, [blocks[place] for place in shown], ha="left")
    axes.set_xlabel("layer, from the image on", color=MUTED, fontsize=12, labelpad=6)
    for place in begins[1:]:
        axes.axvline(place - 0.5, color=GRID, lw=1, zorder=0)


def _block(name: str) -> str:
    """Return the block that a layer belongs to: `stages.1` of `stages.1.0.conv2`, else its first part."""
    first, *rest = name.split(".")
    return f"{first}.{rest[0]}" if rest and rest[0].isdigit() else first


def _steps_axis(axes: Axes, steps: Sequence[int]) -> None:
    """Space steps by their square root: the first few matter most."""
    last = max(*steps, 1)
    axes.set_xscale("function", functions=(lambda x: np.sqrt(np.maximum(x, 0)), np.square))
    axes.set_xlim(0, last)
    apart = [step for step in sorted(set(steps)) if step in (0, last) or 0.15 < (step / last) ** 0.5 < 0.85]
    axes.xaxis.set_major_locator(FixedLocator(apart))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0f}")
    axes.set_xlabel("updates", color=MUTED, fontsize=12, labelpad=2)


def _class_number(axes: Axes, place: int, at: Any) -> None:
    tone = _tone(CLASS_TONES[place])
    axes.plot(at[0], at[1], "o", ms=15, color=PAPER, mec=tone, mew=1.6, alpha=0.92, zorder=5)
    axes.text(at[0], at[1], str(place), color=INK, fontsize=11, ha="center", va="center_baseline", zorder=6)
