"""The summary as a table for the terminal."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from crosstask.report import words
from crosstask.report.summary import Estimate, Summary


def table(summary: Summary) -> Table:
    """Return rows of corruptions and columns of methods; the last row is the mean, the best of a row is bold."""
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=Text(words.caption(summary)), caption_justify="left")
    grid.add_column("corruption", no_wrap=True)
    for column in summary.columns:
        grid.add_column(Text(words.display(column.label)), justify="right", no_wrap=True)
    for name, estimates in words.table(summary):
        if name == "mean":
            grid.add_section()
        bold = words.best(estimates)
        grid.add_row(Text(name), *(_cell(estimate, place in bold) for place, estimate in enumerate(estimates)))
    return grid


def _cell(estimate: Estimate | None, bold: bool) -> Text:
    if estimate is None:
        return Text(words.NOTHING, style="dim")
    cell = Text(words.percent(estimate.mean), style="bold" if bold else "")
    return cell.append(f" {words.spread(estimate)}".rstrip(), style="dim not bold")
