"""The summary as a LaTeX table for a paper; it needs the package booktabs and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from crosstask.report import words
from crosstask.report.summary import Estimate, Summary

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # at the beginning of a row it would be an argument of the line break before, as a star would
    "*": "{*}",
    "\N{PLUS-MINUS SIGN}": r"$\pm$",
    "\N{MINUS SIGN}": "$-$",
    "\N{DEGREE SIGN}": r"$^\circ$",
    "\N{EN DASH}": "--",
} | {sign: f"\\{sign}" for sign in "&%$#_{}"}


def latex(summary: Summary) -> str:
    """Return a row a corruption and a column a method, or a row a method for many of them, with a caption."""
    headings, rows = _by_method(summary) if words.is_wide(summary) else _by_corruption(summary)
    lines = [
        "% needs \\usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_escape(words.below(summary))}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(headings) - 1)}}}",
        r"\toprule",
        _line(headings),
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _by_corruption(summary: Summary) -> tuple[list[str], Iterator[str]]:
    headings = ["corruption", *(_escape(words.display(column.label)) for column in summary.columns)]

    def rows() -> Iterator[str]:
        for name, estimates in words.table(summary):
            if name == "mean":
                yield r"\midrule"
            best = words.best(estimates)
            yield _line([_escape(name), *(_share(each, place in best) for place, each in enumerate(estimates))])

    return headings, rows()


def _by_method(summary: Summary) -> tuple[list[str], Iterator[str]]:
    headings = [
        "method",
        "mean",
        "over Source",
        *(_escape(words.row_name(summary, r)) for r in words.all_rows(summary)),
    ]
    best = words.best([column.mean for column in summary.columns])

    def rows() -> Iterator[str]:
        for place, column in enumerate(summary.columns):
            gain = words.NOTHING
            if column.gain:
                gain = f"{words.with_spread(words.points(column.gain.mean), column.gain)}{words.mark(column.gain)}"
            found = [column.cells.get(row) for row in words.all_rows(summary)]
            cells = [words.percent(cell.mean) if cell else words.NOTHING for cell in found]
            name = words.display(column.label)
            yield _line([_escape(name), _share(column.mean, place in best), *map(_escape, (gain, *cells))])

    return headings, rows()


def _share(estimate: Estimate | None, bold: bool) -> str:
    if estimate is None:
        return "--"
    share = words.percent(estimate.mean)
    shown = rf"\textbf{{{share}}}" if bold else share
    return f"{shown} {_escape(words.spread(estimate))}".rstrip()


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _escape(text: str) -> str:
    return "".join(_SPECIAL.get(sign, sign) for sign in text)
