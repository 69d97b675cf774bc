"""Records in; text, markdown and one self-contained HTML file out. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rich.table import Table

from crosstask import files
from crosstask.bench import diagnosis as bench_diagnosis
from crosstask.bench import records as bench_records
from crosstask.bench.records import Record
from crosstask.report import examples, markdown, text, words
from crosstask.report.summary import summarise

__all__ = ["headline", "table_markdown", "table_text", "write"]


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


def table_text(records: Iterable[Record]) -> Table:
    """Return the table of accuracies for the terminal: print it with `rich.print`."""
    return text.table(summarise(records))


def table_markdown(records: Iterable[Record]) -> str:
    """Return the table of accuracies as GitHub markdown, with a caption below it."""
    return markdown.table(summarise(records))


def headline(records: Iterable[Record]) -> str:
    """Return the outcome in one sentence: `Frozen 62.1 % -> adapted 83.0 % (+20.9 points) without a label`."""
    return words.headline(summarise(records))
