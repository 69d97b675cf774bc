"""Reports for other programs: text formats, event files, data frames. All numbers here are invented."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas
import polars
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from crosstask import cli, report
from crosstask.bench import records as bench_records
from crosstask.bench.records import Record
from crosstask.errors import ConfigError, DataError
from crosstask.report.summary import summarise
from invented import METHODS, changed, column_of, fake_records, modern, modern_records, wobble, write_run

FEW = [r for r in fake_records(seeds=(0, 1)) if r.corruption in ("clean", "fog", "contrast")]


def run(*arguments: object) -> int:
    """Run the command line in this process and return its exit code."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(sys, "argv", ["crosstask", *map(str, arguments)])
        cli.main()
    return int(stop.value.code or 0)


# Records as they lie


def test_a_file_of_records_is_a_data_frame_in_one_line(tmp_path: Path) -> None:
    records = [*modern_records(FEW), *changed(FEW, lambda r: True, label="old")]
    path = write_run(tmp_path, records) / "records.jsonl"
    frames = {
        "pandas": pandas.read_json(path, lines=True).to_dict("records"),
        "polars": polars.read_ndjson(path, infer_schema_length=None).to_dicts(),
    }
    for rows in frames.values():
        assert len(rows) == len(records)
        for row, record in zip(rows, records, strict=True):
            assert (row["label"], row["corruption"], row["seed"]) == (record.label, record.corruption, record.seed)
            assert row["accuracy"] == pytest.approx(record.accuracy) and row["protocol"]["batch_size"] == 128
            assert row["curve"]["0"] == pytest.approx(record.curve["0"])
            assert pandas.isna(row["right"]) if record.right is None else row["right"] == record.right


# Text


def test_csv_has_a_line_a_cell_that_reads_back() -> None:
    records = modern_records(FEW, rate=0.5)
    rows = list(csv.DictReader(io.StringIO(report.table_csv([*records, records[0]]))))
    assert len(rows) == len(records), "a cell that was measured twice counts once"
    for row, record in zip(rows, records, strict=True):
        assert (row["label"], row["corruption"], int(row["seed"])) == (record.label, record.corruption, record.seed)
        assert float(row["accuracy"]) == record.accuracy and float(row["forwards"]) == record.forwards
        assert (row["rate"], row["shift"], row["reset"], row["delta"]) == (
            "0.5",
            "constant",
            record.protocol["reset"],
            "",
        )
    old = list(csv.DictReader(io.StringIO(report.table_csv(FEW))))
    assert old[0]["forwards"] == "" and old[0]["shift"] == "constant"
    comma = changed(FEW, lambda r: True, device='a "b", c\nd')
    assert {row["device"] for row in csv.DictReader(io.StringIO(report.table_csv(comma)))} == {'a "b", c\nd'}
    with pytest.raises(DataError, match="several data sets"):
        report.table_csv(changed(FEW, lambda r: r.seed == 1, dataset="other"))


def wide(records: list[Record]) -> list[Record]:
    peers = [replace(r, label=f"peer-{place}") for place in range(5) for r in records if r.label == "ptbn"]
    return [*records, *peers]


HOSTILE = "[a&b_%$#{}~^\\<|>"


@pytest.mark.parametrize("records", [FEW, wide(FEW)], ids=["narrow", "wide"])
def test_latex_is_a_table_of_booktabs_whose_lines_are_alike_and_whose_signs_are_escaped(records: list[Record]) -> None:
    text = report.table_latex(changed(records, lambda r: r.label == "tent", label=HOSTILE))
    lines = text.splitlines()
    (spec,) = re.findall(r"\\begin\{tabular\}\{(l(r+))\}", text)
    cells = [line for line in lines if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in cells} == {len(spec[1])}
    assert (
        r"{[}a\&b\_\%\$\#\{\}\textasciitilde{}\textasciicircum{}\textbackslash{}\textless{}\textbar{}\textgreater{}"
        in text
    )
    bare = re.sub(r"\\[&%$#_{}]", "", "\n".join(lines[1:]))
    assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0 and "_" not in bare and "#" not in bare
    assert text.isascii() and text.count(r"\toprule") == text.count(r"\bottomrule") == 1
    best = max(column.mean.mean for column in summarise(records).columns if column.mean)
    assert rf"\textbf{{{100 * best:.1f}}}" in text


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs pdflatex")
def test_latex_compiles(tmp_path: Path) -> None:
    table = report.table_latex(changed(FEW, lambda r: r.label == "tent", label=HOSTILE))
    text = rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{chr(10)}{table}\end{{document}}"
    (tmp_path / "table.tex").write_text(text, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0


def test_json_has_every_figure_of_the_summary() -> None:
    records = modern_records(FEW)
    summary, found = summarise(records), json.loads(report.table_json(records))
    assert (found["format"], found["headline"], found["seeds"]) == (1, report.headline(records), [0, 1])
    assert [column["label"] for column in found["columns"]] == list(METHODS)
    for told, column in zip(found["columns"], summary.columns, strict=True):
        assert column.mean and told["mean"]["mean"] == column.mean.mean and told["mean"]["half"] == column.mean.half
        assert (told["oracle"] or {}).get("mean") == (column.oracle.mean if column.oracle else None)
        assert (told["lead"] or {}).get("holds_zero") == (column.lead.holds_zero if column.lead else None)
        by_row = {(row["corruption"], row["severity"]): row for row in told["rows"]}
        for row, cell in column.cells.items():
            assert by_row[row.corruption, row.severity]["accuracy"]["mean"] == cell.mean
            assert by_row[row.corruption, row.severity]["over_stream"] == column.over_stream[row]


# Event files


def test_tensorboard_reads_curves_and_cost(tmp_path: Path) -> None:
    records = changed(modern_records(FEW), lambda r: r.label == "tent", label="../a b")
    write_run(tmp_path, records)
    for _ in range(2):  # a second report takes the place of the first
        folder = report.write_events(tmp_path)
    assert folder == tmp_path / "tensorboard" and len(list(folder.iterdir())) == len(METHODS)
    assert {path.name for path in folder.iterdir()} >= {"cta", "..%2Fa b"}
    events = EventAccumulator(str(folder / "cta"))
    events.Reload()
    column = column_of(summarise(records), "cta")
    curve = events.Scalars("accuracy over updates/mean")
    assert [event.step for event in curve] == list(column.curve)
    assert [event.value for event in curve] == pytest.approx([mean.mean for mean in column.curve.values()], abs=1e-6)
    assert len(events.Scalars("accuracy over the stream/fog-5")) == 20
    (speed,) = events.Scalars("cost/images per second")
    assert speed.value == pytest.approx(column.cost.images_per_second)


def test_without_tensorboard_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    write_run(tmp_path, FEW)
    with pytest.raises(ConfigError, match=r"pip install 'crosstask\[tensorboard\]'"):
        report.write_events(tmp_path)
    assert not (tmp_path / "tensorboard").exists()


# The command line


def test_formats_go_to_the_terminal_or_to_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path, FEW)
    for name, make in report.TEXTS.items():
        assert run("report", tmp_path, "--format", name) == 0
        assert capsys.readouterr().out == make(FEW)
        assert run("report", tmp_path, "--format", name, "--out", tmp_path / f"table.{name}") == 0
        assert capsys.readouterr().out.strip() == str(tmp_path / f"table.{name}")
        assert (tmp_path / f"table.{name}").read_text(encoding="utf-8") == make(FEW)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--format", "htm"), "unknown format 'htm'; did you mean 'html'?"),
        (("--format", "html", "--out", "x.html"), "--out is for md, csv, latex, json"),
        (("--format", "tensorboard", "--out", "x"), "--out is for md, csv, latex, json"),
    ],
)
def test_mistakes_end_in_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    write_run(tmp_path, FEW)
    assert run("report", tmp_path, *arguments) == 2
    assert message in capsys.readouterr().err


# Size


def many_records() -> list[Record]:
    """Return 9,900 records of 10,000 images each: 22 methods, 15 corruptions, 5 severities, 6 seeds."""
    start = [modern(replace(r, n=10_000)) for r in fake_records(("source", "ptbn", "tent-online", "cta"), (0,))][:4]
    labels = {"source": 0, "ptbn": 1, **{f"peer-{place:02}": 2 for place in range(19)}, "cta": 3}
    return [
        replace(
            start[kind],
            label=label,
            corruption=f"corruption_{place}",
            severity=severity,
            seed=seed,
            accuracy=round(0.7 + 0.1 * wobble(label) + 0.1 * wobble(place, severity) + 0.02 * wobble(seed, label), 4),
            key=f"{label}-{place}-{severity}-{seed}",
        )
        for label, kind in labels.items()
        for place in range(15)
        for severity in range(1, 6)
        for seed in range(6)
    ]


@pytest.mark.slow
def test_ten_thousand_records_are_a_page_in_ten_seconds_and_five_megabytes(tmp_path: Path) -> None:
    bench_records.append(tmp_path / "records.jsonl", *many_records())
    report.write(write_run(tmp_path / "small", FEW))  # Matplotlib's fonts are looked up once
    started = time.process_time()
    path = report.write(tmp_path)
    assert time.process_time() - started < 10
    assert path.stat().st_size < 5_000_000
    assert len(summarise(bench_records.read(tmp_path / "records.jsonl")).columns) == 22
