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
NAMES = {
    "wild": "mixed, clumps, 16 at a time",
    "one-by-one": "mixed, clumps, 1 at a time",
    "clumps": "in turn, clumps, 64",
    "continual": "in turn, at random, 200",
}


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
    found = [summarise(records.read(ROOT / f"results/cifar10c-streams-{name}/records.jsonl")) for name in NAMES]
    lines = [["method", *NAMES.values()], ["---", *["---:"] * len(NAMES)]]
    for label in dict.fromkeys(column.label for summary in found for column in summary.columns):
        means = [next((c.mean for c in summary.columns if c.label == label), None) for summary in found]
        cells = [words.with_spread(words.percent(mean.mean), mean) if mean else words.NOTHING for mean in means]
        lines.append([words.display(label), *cells])
    before, _, rest = text.partition(STREAMS)
    _, _, after = rest.partition(END)
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    seeds, images = len(found[0].seeds), ", ".join(f"{summary.n}" for summary in found)
    caption = (
        f"Mean accuracy in % ± 95 % interval over {seeds} seeds; images of each corruption, from the left: {images}."
    )
    return f"{before}{STREAMS}\n{table}\n\n{caption}\n{END}{after}"


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(with_streams(with_tables(readme.read_text(encoding="utf-8"))), encoding="utf-8")
