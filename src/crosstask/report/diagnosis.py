"""The look inside the models as the report shows it: numbers, sentences and drawings, in the order of the page."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup
from rich import box
from rich.table import Table
from rich.text import Text

from crosstask.bench.diagnosis import Diagnosis, Drift, Gradients, Moment, Panel, Similarity
from crosstask.report import words
from crosstask.report.plots import diagnosis as plots
from crosstask.report.summary import Estimate, Summary, over_seeds, t_quantile

WIDTHS = (880, 350)
"""Widths in pixels that a plot is drawn for: for a desk, and for a hand."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One model in the table of figures: texts, each with its interval."""

    model: str
    tone: str
    cells: Sequence[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A drawing at one or two widths, and what stands over it."""

    title: str
    note: str
    svgs: Sequence[Markup]


@dataclass(frozen=True, kw_only=True)
class View:
    """What the page needs of a diagnosis.

    Attributes:
        stale: whether the records are of other models.
        scope: what was looked at, in a sentence.
        drawn: name and colour of each model whose gradients are drawn.
        adapting: name and colour of each model whose drift is drawn.
        headings, lines: the table of figures.
        gradients, likeness, drift, picture: what one sees, in sentences.
        layers, moments, panels: the drawings.
        classes: names and colours of the classes that are drawn, in order.
        others: how many more classes there are.
    """

    stale: bool
    scope: str
    drawn: Sequence[tuple[str, str]]
    adapting: Sequence[tuple[str, str]]
    headings: Sequence[str]
    lines: Sequence[Line]
    gradients: Sequence[str]
    likeness: str
    drift: Sequence[str]
    picture: str
    layers: Sequence[Figure]
    moments: Sequence[Figure]
    panels: Sequence[Figure]
    classes: Sequence[tuple[str, str]]
    others: int


def view(found: Diagnosis | None, summary: Summary) -> View | None:
    """Return what the page needs of a diagnosis beside the records' summary; None where there is none."""
    if found is None:
        return None
    classes = found.class_names[: len(plots.CLASS_TONES)]
    return View(
        stale=_is_stale(found, summary),
        scope=_scope(found),
        drawn=[(line.model, line.tone) for line in _lines(found)],
        adapting=[(_name(drift.model), plots.SERIES[drift.model]) for drift in found.drifts],
        headings=HEADINGS,
        lines=_lines(found),
        gradients=[sentence for images in ("source", "corrupted") if (sentence := _pull(found, images))],
        likeness=_likeness(found),
        drift=[_going(found, drift) for drift in found.drifts],
        picture=_projection(found.picture),
        layers=_layers(found),
        moments=_moments(found),
        panels=_panels(found),
        classes=[(name, plots.CLASS_TONES[place]) for place, name in enumerate(classes)],
        others=len(found.class_names) - len(classes),
    )


def table(found: Diagnosis) -> Table:
    """Return the table of figures for the terminal."""
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, caption=Text(_scope(found)))
    grid.caption_justify = "left"
    grid.add_column("encoder", no_wrap=True)
    for heading in HEADINGS:
        grid.add_column(heading.replace(" ", "\n", 1), justify="right", no_wrap=True)
    for line in _lines(found):
        grid.add_row(Text(line.model), *(f"{text} {half}".rstrip() for text, half in line.cells))
    return grid


def jackknife(value: float, without: Sequence[float]) -> Estimate:
    """Return a figure with the interval that its values with one part left out, each in turn, give it."""
    count, middle = len(without), statistics.fmean(without)
    error = math.sqrt((count - 1) / count * sum((each - middle) ** 2 for each in without))
    return Estimate(mean=value, half=t_quantile(count - 1) * error, count=count)


HEADINGS = ("cosine, source", "cosine, corrupted", "layers against", "CKA, clean", "CKA, corrupted")


def _lines(found: Diagnosis) -> list[Line]:
    return [
        Line(
            model=_name(kind),
            tone=plots.SERIES[kind],
            cells=[
                *(_cosine_cell(_pulls(found, kind, images)) for images in ("source", "corrupted")),
                (_against(_pulls(found, kind, "corrupted")), ""),
                *(_cka_cell(_like(found, kind, images)) for images in ("clean", "corrupted")),
            ],
        )
        for kind in plots.SERIES
        if kind in _drawn(found)
    ]


def _drawn(found: Diagnosis) -> set[str]:
    kinds: list[str] = [each.model for each in found.gradients]
    return {*kinds, *(each.model for each in found.similarities)}


def _pulls(found: Diagnosis, kind: str, images: str) -> Gradients | None:
    return next((each for each in found.gradients if (each.model, each.images) == (kind, images)), None)


def _like(found: Diagnosis, kind: str, images: str) -> Similarity | None:
    return next((each for each in found.similarities if (each.model, each.images) == (kind, images)), None)


def _cosine_cell(gradients: Gradients | None) -> tuple[str, str]:
    return _signed(over_seeds(gradients.whole)) if gradients else (words.NOTHING, "")


def _against(gradients: Gradients | None) -> str:
    """Return in how many layers the two losses pull against each other beyond chance."""
    if gradients is None:
        return words.NOTHING
    against = sum(_side(over_seeds(layer.cosines)) < 0 for layer in gradients.layers)
    return f"{against} of {len(gradients.layers)}"


def _cka_cell(similarity: Similarity | None) -> tuple[str, str]:
    if similarity is None:
        return words.NOTHING, ""
    estimate = jackknife(similarity.cka, similarity.without)
    return f"{estimate.mean:.3f}", f"±{estimate.half:.3f}"


def _signed(estimate: Estimate) -> tuple[str, str]:
    return f"{estimate.mean:+.3f}".replace("-", "\N{MINUS SIGN}"), f"±{estimate.half:.3f}"


def _side(estimate: Estimate) -> int:
    """Return the sign of a mean whose interval does not hold 0, else 0."""
    return 0 if abs(estimate.mean) <= (estimate.half or 0) else int(math.copysign(1, estimate.mean))


def _is_stale(found: Diagnosis, summary: Summary) -> bool:
    """Say whether a column of the records stands on another model of a kind than the one that was looked at."""
    return any(
        column.protocol.get("model") == kind and weights not in column.checkpoints
        for kind, weights in found.checkpoints.items()
        for column in summary.columns
    )


def _scope(found: Diagnosis) -> str:
    return (
        f"{found.n:,} source images and {found.n:,} test images of {found.dataset}, these as they are and under "
        f"{_corruption(found)}, in {found.batches} batches of {found.batch_size}; ± 95 % interval over "
        f"batches. CTA adapts to the first {found.adapted} of them, each from the source state."
    )


def _corruption(found: Diagnosis) -> str:
    stored = f" in {found.copies}" if found.copies else ""
    return f"{found.corruption.replace('_', ' ')} at severity {found.severity}{stored}"


_NAMES = {"self-supervised": "unaligned"}


def _name(kind: str) -> str:
    return _NAMES.get(kind, kind)


_PULLS = {1: "pull the same way", -1: "pull against each other, which is interference,", 0: "show no common direction"}


def _pull(found: Diagnosis, images: str) -> str:
    """Say in which encoders the two losses agree, oppose each other, or do neither."""
    here = [(each.model, over_seeds(each.whole)) for each in found.gradients if each.images == images]
    told = []
    for side, verb in _PULLS.items():
        models = [
            f"the {_name(kind)} encoder ({' '.join(_signed(each))})" for kind, each in here if _side(each) == side
        ]
        if models:
            told.append(f"{verb} in {_listed(models)}")
    where = "On source images" if images == "source" else f"Under {_corruption(found)}"
    return f"{where} the two losses {'; they '.join(told)}." if told else ""


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _likeness(found: Diagnosis) -> str:
    before, after = (
        [_like(found, kind, images) for images in ("clean", "corrupted")] for kind in ("self-supervised", "aligned")
    )
    told = [
        f"from {old.cka:.2f} to {new.cka:.2f} on {'clean images' if new.images == 'clean' else 'corrupted ones'}"
        for old, new in zip(before, after, strict=True)
        if old and new
    ]
    return f"Alignment takes the likeness to the supervised encoder {_listed(told)}." if told else ""


def _going(found: Diagnosis, drift: Drift) -> str:
    """Say how far one model goes, at the steps of the comparison and at the last."""
    first, last = drift.moments[0], drift.moments[-1]
    wanted = {found.adaptation.get("steps"), last.steps} - {0}
    told = [_at(moment, first) for moment in drift.moments if moment.steps in wanted]
    begin, end, clean = (statistics.fmean(d) for d in (first.from_source, last.from_source, drift.clean_from_source))
    return (
        f"{_name(drift.model).capitalize()}: {'; '.join(told) or 'no update was made'}. The mean of the features lies "
        f"{begin:.2f} from the source's before any update, {end:.2f} after the last, and {clean:.2f} on clean images."
    )


def _at(moment: Moment, first: Moment) -> str:
    moved, after, before = (statistics.fmean(values) for values in (moment.moved, moment.accuracy, first.accuracy))
    return (
        f"after {moment.steps} update{'s' * (moment.steps > 1)} features have moved by {100 * moved:.0f} % of their "
        f"length, and accuracy is {words.percent(after)} % ({words.points(after - before)} points)"
    )


def _projection(panels: Sequence[Panel]) -> str:
    shared = next((panel for panel in panels if panel.basis == "supervised"), None)
    return f"They hold {100 * sum(shared.explained):.0f} % of their variance. " if shared else ""


def _layers(found: Diagnosis) -> list[Figure]:
    titles = {"source": "source images", "corrupted": f"test images under {_corruption(found)}"}
    limit = plots.cosine_limit(found.gradients)
    return [
        Figure(
            title=title,
            note="",
            svgs=[Markup(plots.layers(here, limit, width)) for width in WIDTHS],
        )
        for images, title in titles.items()
        if (here := [each for each in found.gradients if each.images == images and each.layers])
    ]


_FIGURES = {
    "turned": ("turned", "1 minus cosine"),
    "moved": ("moved", "share of their length"),
    "from_source": ("mean from source's", "share of its length"),
    "accuracy": ("accuracy", "%"),
}


def _moments(found: Diagnosis) -> list[Figure]:
    if not any(len(drift.moments) > 1 for drift in found.drifts):
        return []
    return [
        Figure(title=title, note=note, svgs=[Markup(plots.moments(found.drifts, name))])
        for name, (title, note) in _FIGURES.items()
    ]


def _panels(found: Diagnosis) -> list[Figure]:
    limits = plots.panel_limits(panel for panel in found.picture if panel.basis == "supervised")
    return [
        Figure(
            title=_panel_title(panel),
            note=_panel_note(panel),
            svgs=[Markup(plots.panel(panel, place, limits if panel.basis == "supervised" else None))],
        )
        for place, panel in enumerate(found.picture)
    ]


def _panel_title(panel: Panel) -> str:
    if panel.model == "supervised":
        return "Supervised, clean: the reference"
    if panel.basis == "own":
        return "Unaligned, corrupted"
    if not panel.steps:
        return "Aligned, corrupted"
    return f"Adapted, corrupted: {panel.steps} update{'s' * (panel.steps > 1)}"


def _panel_note(panel: Panel) -> str:
    axes = "axes of its own" if panel.basis == "own" else "the reference's axes"
    return f"{axes}; {100 * sum(panel.explained):.0f} % of the variance"
