"""Records in; text, markdown, HTML and other programs' formats out. Nothing here imports torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from rich.console import Group
from rich.table import Table

from crosstask import files
from crosstask.bench import diagnosis as bench_diagnosis
from crosstask.bench import records as bench_records
from crosstask.bench.records import Record
from crosstask.report import examples, markdown, text, words
from crosstask.report.comparison import Comparison, compare
from crosstask.report.exports.latex import latex
from crosstask.report.exports.numbers import comparison_numbers, numbers
from crosstask.report.exports.tidy import csv_of
from crosstask.report.summary import summarise

__all__ = [
    "TEXTS", "Comparison", "compare", "comparison_json", "comparison_text", "headline", "table_csv", "table_json",
    "table_latex", "table_markdown", "table_text", "write", "write_events",
]  # fmt: skip


def write(run_folder: Path) -> Path:
    """Write `report.html` from a run folder's `records.jsonl` and, where they are, `examples.json`, `diagnostics.json`.

    Returns:
        The path of the report.

    Raises:
        DataError: the records are missing or damaged, or follow protocols that do not compare.
        StorageError: the disk refuses.
    """
    from crosstask.report import diagnosis, html  # Matplotlib takes half a second to load; the tables do without it.

    run_folder = Path(run_folder)
    summary = summarise(bench_records.read(run_folder / "records.jsonl"))
    path = run_folder / "report.html"
    inside = diagnosis.view(bench_diagnosis.read(run_folder / "diagnostics.json"), summary)
    files.write_text(path, html.page(summary, examples.read(run_folder / "examples.json"), inside))
    return path


def write_events(run_folder: Path) -> Path:
    """Write event files for TensorBoard into the folder `tensorboard` of a run folder, and return its path.

    Raises:
        ConfigError: TensorBoard is not installed.
        DataError: the records are missing or damaged, or follow protocols that do not compare.
        StorageError: the disk refuses.
    """
    from crosstask.report.exports import events

    run_folder = Path(run_folder)
    path = run_folder / "tensorboard"
    events.write_events(summarise(bench_records.read(run_folder / "records.jsonl")), path)
    return path


def table_text(records: Iterable[Record]) -> Table:
    """Return the table of accuracies for the terminal: print it with `rich.print`."""
    return text.table(summarise(records))


def table_markdown(records: Iterable[Record]) -> str:
    """Return the table of accuracies as GitHub markdown, with a caption below it."""
    return markdown.table(summarise(records))


def table_latex(records: Iterable[Record]) -> str:
    """Return the table of accuracies for a paper; it needs the LaTeX package booktabs."""
    return latex(summarise(records))


def table_csv(records: Iterable[Record]) -> str:
    """Return the records as CSV: one line a cell, with its protocol beside its figures."""
    return csv_of(records)


def table_json(records: Iterable[Record]) -> str:
    """Return every figure of the report as JSON."""
    return json.dumps(numbers(summarise(records)), indent=1, ensure_ascii=False) + "\n"


TEXTS: Mapping[str, Callable[[Iterable[Record]], str]] = {
    "md": table_markdown,
    "csv": table_csv,
    "latex": table_latex,
    "json": table_json,
}
"""The formats that are one text, by the names that the command line has for them."""


def comparison_text(found: Comparison) -> Group:
    """Return two runs side by side for the terminal: print it with `rich.print`."""
    return text.comparison(found)


def comparison_json(found: Comparison) -> str:
    """Return every figure of a comparison as JSON."""
    return json.dumps(comparison_numbers(found), indent=1, ensure_ascii=False)


def headline(records: Iterable[Record]) -> str:
    """Return the outcome in one sentence: `Frozen 62.1 % -> adapted 83.0 % (+20.9 points) without a label`."""
    return words.headline(summarise(records))
