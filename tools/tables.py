"""Write the tables of README.md anew from the committed records. `make tables` runs it; a test compares."""

from __future__ import annotations

from pathlib import Path

from crosstask import report
from crosstask.bench import records
from crosstask.report import words
from crosstask.report.summary import summarise

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- table: {} -->", "<!-- end of table -->"


def with_tables(text: str) -> str:
    """Return `text` with every marked table replaced by the one its records give."""
    for path in sorted((ROOT / "results").glob("*/records.jsonl")):
        begin = BEGIN.format(path.parent.name)
        if begin in text:
            before, _, rest = text.partition(begin)
            _, _, after = rest.partition(END)
            found = records.read(path)
            summary = summarise(found)
            told = f"**{words.headline(summary)}.** {words.leads(summary)} {words.before(summary)}"
            table = f"{told}\n\n{report.table_markdown(found)}"
            text = f"{before}{begin}\n{table.strip()}\n{END}{after}"
    return text


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(with_tables(readme.read_text(encoding="utf-8")), encoding="utf-8")
