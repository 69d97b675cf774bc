"""Write the tables of README.md anew from the committed records. `make tables` runs it; a test compares."""

from __future__ import annotations

from pathlib import Path

from crosstask import report
from crosstask.bench import records
from crosstask.report import words
from crosstask.report.summary import summarise

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- table: {} -->", "<!-- end of table -->"
STREAMS = "<!-- streams -->"


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


def with_streams(text: str) -> str:
    """Return `text` with the marked table of means over streams replaced by the one that their records give."""
    if STREAMS not in text:
        return text
    paths = sorted((ROOT / "results").glob("cifar10c-streams-*/records.jsonl"))
    found = {path.parent.name.removeprefix("cifar10c-streams-"): summarise(records.read(path)) for path in paths}
    labels = [column.label for column in next(iter(found.values())).columns]
    lines = [["method", *found], ["---", *["---:"] * len(found)]]
    for place, label in enumerate(labels):
        means = [summary.columns[place].mean for summary in found.values()]
        lines.append([words.display(label), *(words.with_spread(words.percent(mean.mean), mean) for mean in means)])
    before, _, rest = text.partition(STREAMS)
    _, _, after = rest.partition(END)
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{before}{STREAMS}\n{table}\n{END}{after}"


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(with_streams(with_tables(readme.read_text(encoding="utf-8"))), encoding="utf-8")
