"""The summary as a table for the terminal."""

from __future__ import annotations

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from crosstask.report import words
from crosstask.report.comparison import Comparison
from crosstask.report.summary import Estimate, Summary


def table(summary: Summary) -> Table:
    """Return rows of corruptions and columns of methods, the mean last; with many methods, a row a method."""
    if words.is_wide(summary):
        return _by_method(summary)
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=Text(words.below(summary)), caption_justify="left")
    grid.add_column("corruption", no_wrap=True)
    for column in summary.columns:
        grid.add_column(Text(words.display(column.label)), justify="right", no_wrap=True)
    for name, estimates in words.table(summary):
        if name == "mean":
            grid.add_section()
        bold = words.best(estimates)
        grid.add_row(Text(name), *(_cell(estimate, place in bold) for place, estimate in enumerate(estimates)))
    return grid


def _by_method(summary: Summary) -> Table:
    """Return a row a method: its mean and its gain over the frozen model. The corruptions stand in the report."""
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=Text(words.below(summary)), caption_justify="left")
    grid.add_column("method", no_wrap=True)
    for heading in (*words.headings(summary)[: words.GAIN + 1], "images per second"):
        grid.add_column(heading, justify="right", no_wrap=True)
    bold = words.best([column.mean for column in summary.columns])
    for place, (column, (mean, before, gain, *_)) in enumerate(words.by_method(summary)):
        change = Text(words.NOTHING)
        if gain:
            change = Text(f"{words.with_spread(words.points(gain.mean), gain)} {words.mark(gain)}".rstrip())
        speed = Text(f"{column.cost.images_per_second:,.0f}")
        grid.add_row(Text(words.display(column.label)), _cell(mean, place in bold), _cell(before, False), change, speed)
    return grid


def _cell(estimate: Estimate | None, bold: bool) -> Text:
    if estimate is None:
        return Text(words.NOTHING, style="dim")
    cell = Text(words.percent(estimate.mean), style="bold" if bold else "")
    return cell.append(f" {words.spread(estimate)}".rstrip(), style="dim not bold")


def comparison(found: Comparison) -> Group:
    """Return two runs side by side, and below what one of them lacks and what differs between them."""
    first, second = found.names
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=Text(_caption(found)), caption_justify="left")
    grid.add_column("column", no_wrap=True)
    for heading in (first, second, "difference"):
        grid.add_column(Text(heading), justify="right", overflow="fold")
    grid.add_column("", no_wrap=True)
    for pair in found.pairs:
        change = Text(words.with_spread(words.points(pair.difference.mean), pair.difference))
        doubt = Text(words.UNDECIDED if pair.difference.holds_zero else "", style="dim")
        ends = (_cell(pair.first, False), _cell(pair.second, False))
        grid.add_row(Text(words.display(pair.label)), *ends, change, doubt)
    differs = ["What differs:", *(f"  {sentence}" for sentence in found.others)] if found.others else []
    return Group(grid, *(Text(line) for line in [*found.only, *differs]))


def _caption(found: Comparison) -> str:
    """Say what the numbers of a comparison are."""
    names = list(dict.fromkeys(row.corruption.replace("_", " ") for row in found.rows))
    over = names[0] if len(names) == 1 else f"mean over {len(names)} corruptions"
    kinds = {pair.difference.over for pair in found.pairs if pair.difference.half is not None}
    paired = {"seeds": "by seed (Student's t)", "images": "image by image (1.96 standard errors)"}
    ways = " or ".join(paired[kind] for kind in sorted(kinds, reverse=True)) or "by seed; one seed gives no interval"
    first, second = found.names
    return f"Accuracy in % on {found.dataset}, {over}; {second} minus {first} in points, paired {ways}."
