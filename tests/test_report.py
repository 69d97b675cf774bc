"""The report: its tables, its words and its page. All numbers here are invented."""

from __future__ import annotations

import io
import re
import shlex
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from crosstask import config, report
from crosstask.bench.records import Record
from crosstask.errors import DataError
from crosstask.presets import PRESETS
from crosstask.report import commands, html, plots, protocols, words
from crosstask.report.summary import summarise
from invented import (
    CORRUPTIONS,
    METHODS,
    accuracies,
    changed,
    fake_examples,
    fake_record,
    fake_records,
    modern_records,
    seed_means,
    wobble,
    write_run,
)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("run"), fake_records(), fake_examples())
    report.write(folder)
    return folder


@pytest.fixture(scope="module")
def page(run_folder: Path) -> str:
    return (run_folder / "report.html").read_text(encoding="utf-8")


def test_damaged_examples_are_refused(tmp_path: Path) -> None:
    write_run(tmp_path, fake_records(seeds=(0,)), [fake_examples()[0] | {"clean_png": "bm90IGEgcG5n"}])
    with pytest.raises(DataError, match=r"examples\.json: examples\.0\.clean_png: .*PNG"):
        report.write(tmp_path)
    assert not (tmp_path / "report.html").exists()


FEW = [record for record in fake_records() if record.corruption in ("clean", "fog", "contrast")]


# Tables and headline


def test_the_protocol_is_told_in_words() -> None:
    def said(**protocol: Any) -> dict[str, str]:
        return dict(protocols.facts(summarise(modern_records(fake_records(seeds=(0,)), **protocol))))

    assert said()["stream"] == (
        "For each seed and corruption every method sees the same 256 test images, in the same order."
    )
    assert "protocol" not in said() and said()["pace"] == "The stream waits for the method."
    assert said(preset="tent")["protocol"] == f"tent: {PRESETS['tent'].about}"
    for frost, told in (("photographs", "the official photographs."), ("procedural", "computed sheets, not the")):
        assert f"those of imagenet. Frost is cut from {told}" in said(table="imagenet", frost=frost)["corruptions"]
    several = {"sequence": CORRUPTIONS, "reset": "never"}
    assert said(shift="mixed", **several)["stream"].startswith("One stream a seed of 7 corruptions mixed")
    twice = said(shift="gradual", rounds=2, shuffled=True, **several)["stream"]
    assert "drawn by the seed, 2 rounds of them, the severity of each climbs" in twice
    assert said(stream="clumped", delta=0.1, slots=5)["classes"].startswith("in clumps: spread over 5 time slots")
    assert "every 2 forward passes" in said(rate=0.5)["pace"] and "every 1 forward pass," in said(rate=1.0)["pace"]
    assert said(predict="before")["prediction"].startswith("before the updates")
    by_trial = [replace(r, protocol=r.protocol | {"chosen": "held-out", "predict": "before"}) for r in fake_records()]
    policies = [protocols.policy(column) for column in summarise(by_trial).columns]
    assert policies[2].startswith("20 updates per batch; back to its source state before every batch")
    assert "predicts before the updates" in policies[2] and "chosen under held-out corruptions" in policies[2]
    assert policies[0] == "does not learn"


def test_headline() -> None:
    assert report.headline(fake_records()) == "Frozen 48.7 % -> adapted 78.2 % (+29.6 points) without a label"
    assert report.headline(fake_records(labels=("source", "tent"))).startswith(
        "Frozen 48.7 % -> adapted by TENT 75.7 %"
    )
    assert report.headline(fake_records(labels=("cta",))).startswith("Adapted 78.2 % without a label")
    assert report.headline(fake_records(labels=("source",))).startswith("Frozen 48.7 %; no adapted model")


def test_markdown_is_a_table_with_every_mean_and_a_caption() -> None:
    records = fake_records()
    lines = report.table_markdown(records).splitlines()
    assert lines[0] == "| corruption | Source | PTBN | TENT | tent-online | CTA |"
    assert {line.count("|") for line in lines[:11]} == {7}
    assert len(lines) == 2 + 1 + len(CORRUPTIONS) + 1 + 2
    fog = next(line for line in lines if line.startswith("| fog"))
    assert f"**{100 * accuracies(records, 'cta', 'fog').mean():.1f}** ±" in fog
    assert lines[10].startswith("| **mean**") and f"**{100 * seed_means(records, 'cta').mean():.1f}**" in lines[10]
    assert "3 seeds, 256 images a cell" in lines[-1] and "severity 5" in lines[-1]


def test_markdown_escapes_what_would_break_the_table() -> None:
    records = changed(fake_records(), lambda r: r.label == "tent", label="a|b<i>_c_")
    assert report.table_markdown(records).splitlines()[0].split(" | ")[3] == r"a\|b\<i\>\_c\_"
    shifts = changed(wide_records(), lambda r: r.corruption == "fog", corruption="fog|thick")
    assert r" fog\|thick |" in report.table_markdown(shifts).splitlines()[0]


def test_text_table_fits_a_terminal_and_shows_names_as_they_are() -> None:
    records = changed(fake_records(), lambda r: r.label == "tent-online", label="[red]t")
    console = Console(width=80, file=io.StringIO())
    console.print(report.table_text(records))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[red]t" in text and "gaussian noise" in text and "\N{HORIZONTAL ELLIPSIS}" not in text
    assert text.index("clean") < text.index("fog") < text.index("mean  ")


# The page


class Outline(HTMLParser):
    """Collects text and tags, and fails on tags that do not balance."""

    void = frozenset({"meta", "br", "img", "link", "input", "hr"})

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.text += data


def table_lines(page: str, section: str) -> dict[str, list[str]]:
    """Return a section's table: the text of its cells by the name of their line."""
    (part,) = re.findall(rf'<section id="{section}">(.*?)</section>', page, re.DOTALL)
    lines = re.findall(r'<th scope="row">(.*?)</th>(.*?)</tr>', part, re.DOTALL)
    return {Outline(name).text.strip(): [Outline(cell).text for cell in CELL.findall(line)] for name, line in lines}


CELL = re.compile(r"<td[^>]*>(.*?)</td>", re.DOTALL)


def test_leaders_stand_in_order_with_what_they_are_compared_by(page: str) -> None:
    summary = summarise(fake_records())
    lines = table_lines(page, "leaders")
    means = {words.display(c.label): c.mean.mean for c in summary.columns if c.mean}
    assert list(lines) == sorted(means, key=lambda name: -means[name])
    headings = [Outline(text).text for text in re.findall(r'<th scope="col"[^>]*>(.*?)</th>', page.split("<tbody>")[0])]
    assert headings == [
        "method", "mean", "over Source", "CTA minus this", "before updates", "images per second", "best steps †",
    ]  # fmt: skip
    for column in summary.columns:
        cells = lines[words.display(column.label)]
        shown = (column.mean, column.gain, column.lead, column.before if column.added else None)
        signs = (words.percent, words.points, words.points, words.percent)
        for cell, estimate, sign in zip(cells[:4], shown, signs, strict=True):
            assert cell == (f"{sign(estimate.mean)} {words.spread(estimate)}" if estimate else words.NOTHING)
        assert cells[-1].startswith(words.percent(column.oracle.mean) if column.oracle else words.NOTHING)


def test_what_is_chosen_on_test_labels_is_marked_and_never_bold_and_in_no_headline() -> None:
    records = [replace(r, curve={**r.curve, "3": 0.987}) if r.steps else r for r in fake_records()]
    page = html.page(summarise(records), [])
    assert page.count("98.7") >= 3 and "chosen on test labels" in page
    for cell in re.findall(r"<td[^>]*>[^<]*98\.7|<td[^>]*><b>98\.7", page):
        assert cell.startswith('<td class="oracle"') and "<b>" not in cell
    head = page[page.index("<header>") : page.index("</header>")]
    assert "98.7" not in head and "98.7" not in report.table_markdown(records) + report.headline(records)


def test_doubt_is_marked_in_the_tables_of_many_methods() -> None:
    level = [r for r in wide_records() if r.severity and r.method in ("source", "ptbn")]
    records = [replace(r, accuracy=0.5 + 0.01 * wobble(r.label, r.seed)) if r in level else r for r in wide_records()]
    summary = summarise(records)
    doubtful = {words.display(c.label) for c in summary.columns if c.gain and c.gain.holds_zero}
    assert "PTBN" in doubtful and "CTA" not in doubtful
    table = report.table_markdown(records)
    marked = {line.split("|")[1].strip() for line in table.splitlines() if f" {words.MARK} |" in line}
    assert marked == doubtful and "no difference shown: the interval holds zero" in table
    lines = table_lines(html.page(summary, []), "leaders")
    assert {name for name, cells in lines.items() if cells[1].endswith(words.MARK)} == doubtful
    assert not {name for name, gain in lines.items() if gain[1] == words.NOTHING} - {"Source"}


def test_the_stream_is_drawn_where_a_method_could_change_over_it() -> None:
    def drawn(records: list[Record]) -> str:
        summary = summarise(records)
        return plots.over_stream(summary, html.WIDE, 400) if plots.says_something(summary) else ""

    episodic = [r for r in FEW if r.label != "tent-online"]
    assert drawn(FEW) == drawn(modern_records(episodic)) == ""
    online = drawn(modern_records(FEW))
    assert "tent-online" in online and "Source" in online and "CTA" not in online and "per cent of the stream" in online
    settings = {"shift": "continual", "reset": "never", "sequence": ("fog", "contrast", "clean")}
    continual = drawn(modern_records(FEW, **settings))
    assert "CTA" in continual and continual.index(">fog<") < continual.index(">contrast<") < continual.index(">clean<")
    assert "per cent of the stream" in drawn(modern_records(FEW, rounds=2, **settings))
    mixed = modern_records(FEW, **(settings | {"shift": "mixed"}))
    uneven = [replace(r, over_stream=(r.over_stream or [])[: 4 if r.corruption == "fog" else 8]) for r in mixed]
    assert "per cent of the stream" in drawn(uneven)
    assert '<section id="stream">' in html.page(summarise(modern_records(FEW)), [])


def test_speed_is_drawn_with_every_name_inside_the_plot() -> None:
    for records in (fake_records(), wide_records()):
        summary = summarise(records)
        for width in (html.WIDE, html.NARROW):
            svg = plots.accuracy_against_speed(summary, width)
            for column in summary.columns:
                assert f">{words.display(column.label)}" in svg
            places = [float(x) for x in re.findall(r'<text[^>]*x="([-\d.]+)"', svg)]
            assert places and min(places) >= 0 and max(places) <= width


def test_the_cost_says_passes_and_pace(page: str) -> None:
    records = [replace(r, missed=0.5 if r.steps else 0.0) for r in modern_records(FEW, rate=0.5)]
    page_of_old, page = page, html.page(summarise(records), [])
    lines = table_lines(page, "cost")
    assert lines["CTA"][3:6] == ["41", "20", "50.0"] and lines["Source"][3:6] == ["1", "0", "0.0"]
    assert "a batch comes every 2 forward passes" in page
    assert "forwards" not in page_of_old


def test_harm_names_the_worst_corruption_and_clean_images(page: str) -> None:
    lines = table_lines(page, "harm")
    column = next(c for c in summarise(fake_records()).columns if c.label == "cta")
    assert column.worst and lines["CTA"][4].startswith(f"fog {words.percent(column.cells[column.worst].mean)}")
    assert lines["CTA"][5].startswith(words.percent(column.clean_before.mean))  # type: ignore[union-attr]
    assert lines["Source"][5] == words.NOTHING


def test_page_is_well_formed_and_holds_every_number(page: str) -> None:
    outline = Outline(page)
    summary = summarise(fake_records())
    for column in summary.columns:
        assert words.display(column.label) in outline.text
        for estimate in (*column.cells.values(), column.mean, column.before):
            assert estimate and f"{100 * estimate.mean:.1f}" in outline.text
    for name in CORRUPTIONS:
        assert name.replace("_", " ") in outline.text
    for what in (
        "crosstask bench recipes/fashion-mnist.toml",
        "9f2c" * 16,
        "0123456789abcdef",
        "2.13.0",
        "invented CPU",
    ):
        assert what in outline.text
    assert "3 seeds, 256 images a cell" in outline.text and "NaN" not in page and "nan%" not in page


def test_page_needs_nothing_from_outside_and_stays_small(page: str) -> None:
    outline = Outline(page)
    assert {tag for tag, _ in outline.tags}.isdisjoint({"link", "iframe", "object"})
    assert [attributes for tag, attributes in outline.tags if tag == "script"] == [{}], "one, inline"
    for _, attributes in outline.tags:
        for name in ("src", "href", "xlink:href", "data", "srcset"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/png;base64,"))
    assert re.sub(r'xmlns(:\w+)?="[^"]*"', "", page).count("://") == 0
    assert "@import" not in page and "url(http" not in page
    assert len(page.encode()) < 1_500_000


def test_page_ids_are_unique_and_colours_are_the_pages_own(page: str) -> None:
    outline = Outline(page)
    ids = [attributes["id"] for _, attributes in outline.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = re.findall(r"url\(#([^)]+)\)", page) + re.findall(r'xlink:href="#([^"]+)"', page)
    assert targets and set(targets) <= set(ids)
    drawn = "".join(re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL))
    assert "var(--series-cta)" in drawn and not re.search(r"#[0-9a-f]{6}\b", drawn)
    defined = set(re.findall(r"(--[\w-]+):", page))
    assert set(re.findall(r"var\((--[\w-]+)\)", page)) <= defined


def test_no_axis_goes_beyond_100_per_cent(tmp_path: Path) -> None:
    nearly_right = [
        replace(record, accuracy=0.996, accuracy_before=0.99, curve=dict.fromkeys(record.curve, 0.993))
        if record.corruption != "fog"
        else record
        for record in fake_records()
    ]
    drawn = re.findall(r"<svg.*?</svg>", report.write(write_run(tmp_path, nearly_right)).read_text(), re.DOTALL)
    ticks = [float(text) for svg in drawn for text in re.findall(r">(\d+)</text>", svg)]
    assert 95 <= max(ticks) <= 100


def test_page_shows_examples_with_verdicts_in_signs_and_colour(page: str) -> None:
    outline = Outline(page)
    images = [attributes for tag, attributes in outline.tags if tag == "img"]
    assert len(images) == 2 * len(fake_examples()) and "image-rendering: pixelated" in page
    verdicts = [attributes["class"] for tag, attributes in outline.tags if "verdict" in str(attributes.get("class"))]
    assert verdicts.count("verdict right") == 5 == outline.text.count("✓")
    assert verdicts.count("verdict wrong") == 7 == outline.text.count("✗")


def test_page_says_in_words_where_a_method_falls_below_source(tmp_path: Path) -> None:
    records = changed(fake_records(), lambda r: (r.label, r.corruption) == ("cta", "fog"), accuracy=0.1)
    text = Outline(report.write(write_run(tmp_path, records)).read_text(encoding="utf-8")).text
    sentence = next(line for line in text.splitlines() if "CTA falls below Source" in line)
    loss = 100 * (accuracies(records, "source", "fog").mean() - 0.1)
    assert f"fog (\N{MINUS SIGN}{loss:.1f} ±" in sentence


def test_page_escapes_hostile_names(tmp_path: Path) -> None:
    attack = "<script>alert('x')</script> & $x_1$"
    records = changed(fake_records(), lambda r: r.label == "tent", label=attack)
    records = changed(records, lambda r: True, device=attack, command=attack, dataset=attack, config={attack: attack})
    page = report.write(write_run(tmp_path, records, fake_examples(truth=attack))).read_text(encoding="utf-8")
    outline = Outline(page)
    assert page.count("<script") == 1 and "alert" not in page.partition("<script>")[2]
    assert outline.text.count(attack) > 10


UNUSUAL = {
    "one seed": [r for r in FEW if r.seed == 0],
    "only source": [r for r in FEW if r.label == "source"],
    "only cta": [r for r in FEW if r.label == "cta"],
    "neither": [r for r in FEW if r.method in ("ptbn", "tent")],
    "one corruption": [r for r in FEW if r.corruption == "fog"],
    "only clean": [r for r in FEW if r.corruption == "clean"],
    "no clean": [r for r in FEW if r.corruption != "clean"],
    "a gap": [r for r in FEW if (r.label, r.corruption) != ("cta", "fog")],
    "no seed in common": [r for r in FEW if (r.seed == 0) == (r.label == "source")],
    "no flips, no curve": [replace(r, right_to_wrong=None, wrong_to_right=None, commit=None, curve={}) for r in FEW],
    "two severities": [
        replace(r, severity=level, key=f"{r.key}{level}") for r in FEW for level in (1, 5) if r.corruption != "clean"
    ],
    "one record": [fake_record("source", "fog", 0)],
    "all right": [replace(r, accuracy=1.0, accuracy_before=1.0, curve={}, ms_per_batch=0) for r in FEW],
}


@pytest.mark.parametrize("records", UNUSUAL.values(), ids=UNUSUAL)
def test_page_stands_whatever_is_missing(tmp_path: Path, records: list[Record]) -> None:
    page = report.write(write_run(tmp_path, records)).read_text(encoding="utf-8")
    text = Outline(page).text
    for column in summarise(records).columns:
        assert words.display(column.label) in text
    assert "nan" not in text.lower() and "None" not in text and ">inf" not in page


def test_the_same_records_give_the_same_page(run_folder: Path, page: str) -> None:
    assert report.write(run_folder).read_text(encoding="utf-8") == page


def wide_records() -> list[Record]:
    """Return records of ten columns: those of `fake_records` and six more of one peer."""
    peers = [
        replace(record, label=f"peer-{index}", key=f"{index}-{record.key}")
        for index in range(10 - len(METHODS))
        for record in fake_records(("ptbn",))
    ]
    return fake_records() + peers


def test_many_methods_get_a_row_each_with_the_same_numbers() -> None:
    records = wide_records()
    summary = summarise(records)
    table = report.table_markdown(records).splitlines()
    assert table[0].startswith("| method | mean | before updates | over Source |")
    rows = {line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ") for line in table[2:12]}
    assert len(rows) == 10
    for column in summary.columns:
        cells = rows[words.display(column.label)]
        assert column.mean and words.percent(column.mean.mean) in cells[1]
        assert cells[2].startswith(words.percent(column.before.mean) if column.steps else words.NOTHING)
        assert cells[3].startswith(words.points(column.gain.mean) if column.gain else words.NOTHING)
        assert len(cells) == 6 + len(words.all_rows(summary))
        assert cells[-2:] == [f"{column.cost.images_per_second:,.0f}", f"{column.cost.peak_memory_mb:,.0f}"]
    lines = table_lines(html.page(summary, []), "accuracy")
    for column in summary.columns:
        cells = lines[words.display(column.label)]
        assert cells == [words.percent(column.cells[row].mean) for row in words.all_rows(summary)]
    assert words.leads(summary).count("minus") == 1, "of many peers the best is named"


def test_many_methods_fit_the_terminal(capsys) -> None:
    Console(width=80).print(report.table_text(wide_records()))
    shown = capsys.readouterr().out
    assert "over Source" in shown and "images per second" in shown and "…" not in shown


def test_each_column_has_a_command_that_measures_it_alone() -> None:
    records = modern_records(fake_records())
    summary = summarise(records)
    command = commands.of_column(summary, summary.columns[3])
    words_ = shlex.split(command)
    assert words_[:3] == ["crosstask", "run", "recipes/fashion-mnist.toml"] and words_[3:5] == ["--out", "again"]
    settings = config.parse_overrides([part for part in words_ if part.startswith("bench.")])["bench"]
    assert set(settings["columns"]) == {"source", "tent-online"}
    assert settings["columns"]["tent-online"] == {
        "method": "tent", "reset": "corruption", "predict": "after", "checkpoint": "supervised",
        "arguments": {"learning_rate": 0.01, "steps": 1},
    }  # fmt: skip
    assert settings["seeds"] == [0, 1, 2] and settings["corruptions"] == ["clean", *CORRUPTIONS]
    assert commands.one_cell(summary) == "--set 'bench.corruptions=[\"pixelate\"]' --set 'bench.seeds=[2]'"
    given = changed(records, lambda r: True, command="crosstask bench x --supervised a --aligned b --out c")
    assert shlex.split(commands.of_column(summarise(given), summarise(given).columns[0]))[1:3] == ["bench", "x"]
    assert not any(part.startswith("tune") for part in words_)
    tuned = summarise(
        changed(records, lambda r: r.label == "tent", protocol=records[2].protocol | {"chosen": "held-out"})
    )
    assert all(shlex.split(commands.of_column(tuned, each))[-1] == "tune=false" for each in tuned.columns)
    for strange in ("python my_script.py", "it's broken", ""):
        found = summarise(changed(records, lambda r: True, command=strange))
        assert commands.of_column(found, found.columns[0]) == strange
    page = html.page(summary, [])
    assert Outline(page).text.count("--out again") == len(METHODS)


def test_a_stream_of_several_corruptions_is_measured_again_as_a_whole() -> None:
    settings = {"shift": "continual", "reset": "never", "sequence": (*CORRUPTIONS, "clean")}
    summary = summarise(modern_records(fake_records(), **settings))
    assert "bench.corruptions" not in commands.of_column(summary, summary.columns[1])
    assert commands.one_cell(summary) == ""


def test_many_corruptions_stand_below_one_another() -> None:
    many = [
        replace(r, corruption=f"{r.corruption}_{place}", key=f"{place}{r.key}")
        for r in wide_records()
        if r.severity
        for place in range(4)
    ]
    lines = table_lines(html.page(summarise(many), []), "accuracy")
    assert len(lines) == 4 * len(CORRUPTIONS) + 1 and {len(cells) for cells in lines.values()} == {10}


def test_of_many_losses_the_largest_are_named() -> None:
    names = [f"shift_{place:02}" for place in range(20)]
    records = [
        replace(r, corruption=name, accuracy=0.5 - 0.001 * place * (r.label == "cta"), key=f"{r.key}{name}")
        for r in fake_records(("source", "cta"))
        if r.corruption == "fog"
        for place, name in enumerate(names)
    ]
    (sentence,) = words.below_source(summarise(records))
    assert "average (" in sentence and "shift 19 (" in sentence and sentence.endswith("and 14 more.")
