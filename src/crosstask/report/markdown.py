"""The summary as a GitHub table, for a README."""

from __future__ import annotations

import re

from crosstask.report import words
from crosstask.report.summary import Estimate, Summary


def table(summary: Summary) -> str:
    """Return a row a corruption and a column a method, or for many methods a row each with its cost, and a caption."""
    if words.is_wide(summary):
        return _by_method(summary)
    header = ["corruption", *(_escape(words.display(column.label)) for column in summary.columns)]
    lines = [_line(header), _line(["---", *(["---:"] * len(summary.columns))])]
    for name, estimates in words.table(summary):
        bold = words.best(estimates)
        cells = [_cell(estimate, place in bold) for place, estimate in enumerate(estimates)]
        lines.append(_line([f"**{name}**" if name == "mean" else _escape(name), *cells]))
    return "\n".join([*lines, "", _escape(words.below(summary))]) + "\n"


def _by_method(summary: Summary) -> str:
    headings = [*map(_escape, words.headings(summary)), "images/s", "peak MB"]
    lines = [_line(["method", *headings]), _line(["---", *(["---:"] * len(headings))])]
    columns = list(zip(*(estimates for _, estimates in words.by_method(summary)), strict=True))
    bold = [words.best(estimates) for estimates in columns]
    for place, (column, estimates) in enumerate(words.by_method(summary)):
        cells = []
        for index, estimate in enumerate(estimates):
            text = words.entry(index, estimate) if estimate else words.NOTHING
            text = f"**{text}**" if place in bold[index] and index not in (1, words.GAIN) else text
            text = words.with_spread(text, estimate) if estimate and index <= words.GAIN else text
            cells.append(f"{text} {words.mark(estimate)}".rstrip() if estimate and index == words.GAIN else text)
        cost = [f"{column.cost.images_per_second:,.0f}", f"{column.cost.peak_memory_mb:,.0f}"]
        lines.append(_line([_escape(words.display(column.label)), *cells, *cost]))
    return "\n".join([*lines, "", _escape(words.below(summary))]) + "\n"


def _cell(estimate: Estimate | None, bold: bool) -> str:
    if estimate is None:
        return words.NOTHING
    share = words.percent(estimate.mean)
    return words.with_spread(f"**{share}**" if bold else share, estimate)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escape(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", text)
