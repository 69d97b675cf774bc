"""The report: what is computed, what is refused, and what the page holds. All numbers here are invented."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from scipy import stats

from crosstask import report
from crosstask.bench import records as bench_records
from crosstask.bench.records import Record
from crosstask.errors import DataError
from crosstask.report import html, words
from crosstask.report.summary import Column, Summary, summarise, t_quantile

CORRUPTIONS = ("gaussian_noise", "impulse_noise", "defocus_blur", "fog", "brightness", "contrast", "pixelate")
SOURCE = dict(zip(("clean", *CORRUPTIONS), (0.905, 0.43, 0.37, 0.62, 0.31, 0.79, 0.22, 0.66), strict=True))
PTBN = dict(zip(("clean", *CORRUPTIONS), (0.9, 0.79, 0.76, 0.83, 0.545, 0.87, 0.785, 0.655), strict=True))
METHODS: dict[str, tuple[str, int, str, float]] = {  # label: method, steps, reset, gain over PTBN
    "source": ("source", 0, "batch", 0.0),
    "ptbn": ("ptbn", 0, "batch", 0.0),
    "tent": ("tent", 20, "batch", 0.008),
    "tent-online": ("tent", 1, "corruption", 0.015),
    "cta": ("cta", 20, "batch", 0.034),
}
CURVE = (0, 1, 3, 5, 10, 20)


def wobble(*what: object) -> float:
    """Return a fixed number in -1..1 for a name."""
    return int.from_bytes(hashlib.sha256(repr(what).encode()).digest()[:4], "big") / 2**31 - 1


def fake_record(label: str, corruption: str, seed: int, **changes: Any) -> Record:
    """Return an invented record that looks like a real one."""
    method, steps, reset, gain = METHODS[label]
    clean = corruption == "clean"
    end = SOURCE[corruption] if method == "source" else PTBN[corruption] + gain * (0.1 if clean else 1)
    end += 0.025 * wobble(corruption, seed) + 0.004 * wobble(label, corruption, seed)
    end = round(256 * end) / 256
    start = end if not steps else end - gain * (1.4 if method == "cta" else 0.8)
    curve = [step for step in CURVE if step <= steps]
    values: dict[str, Any] = {
        "method": method,
        "label": label,
        "dataset": "fashion-mnist",
        "corruption": corruption,
        "severity": 0 if clean else 5,
        "seed": seed,
        "steps": steps,
        "n": 256,
        "accuracy": end,
        "accuracy_before": start,
        "curve": {str(step): end - (end - start) * (1 - step / max(steps, 1)) ** 3 for step in curve},
        "ece": 0.04 + 0.3 * (1 - end),
        "nll": 0.25 + 1.9 * (1 - end),
        "right_to_wrong": 0.0 if method == "source" else 0.02,
        "wrong_to_right": 0.0 if method == "source" else max(end - SOURCE[corruption], 0) + 0.02,
        "ms_per_batch": 14.0 + 31.0 * steps * (1.6 if method == "cta" else 1),
        "images_per_second": 128_000 / (14.0 + 31.0 * steps * (1.6 if method == "cta" else 1)),
        "peak_memory_mb": 612.0 + 3 * steps,
        "protocol": {
            "model": "aligned" if method == "cta" else "supervised",
            "reset": reset,
            "stream": "iid",
            "batch_size": 128,
            "n": 256,
            "steps": steps,
            "curve": curve,
            "precision": "bfloat16",
        },
        "checkpoint": "9f2c" * 16,
        "config": {"learning_rate": 0.01, "steps": steps} if steps else {},
        "versions": {"crosstask": "0.1.0", "python": "3.11.9", "torch": "2.13.0"},
        "device": "invented CPU, 2 cores",
        "commit": "0123456789abcdef",
        "command": "crosstask bench recipes/fashion-mnist.toml",
        "key": f"{label}-{corruption}-{seed}",
    }
    return Record(**(values | changes))


def fake_records(labels: tuple[str, ...] = tuple(METHODS), seeds: tuple[int, ...] = (0, 1, 2)) -> list[Record]:
    return [fake_record(label, name, seed) for seed in seeds for name in SOURCE for label in labels]


def fake_png(seed: int, noise: int) -> str:
    grid = np.hypot(*np.mgrid[-14:14, -14:14]) < 9 + seed % 4
    noisy = grid * 180 + np.random.default_rng(seed).integers(0, noise + 1, grid.shape)
    file = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "png")
    return base64.b64encode(file.getvalue()).decode()


def fake_examples(truth: str = "Sneaker") -> list[dict[str, Any]]:
    return [
        {
            "corruption": name,
            "severity": 5,
            "truth": truth,
            "clean_png": fake_png(place, 0),
            "corrupted_png": fake_png(place, 160),
            "frozen": {"name": "Bag", "confidence": 0.61},
            "adapted": {"name": truth if place != 2 else "Ankle boot", "confidence": 0.93},
        }
        for place, name in enumerate(CORRUPTIONS[:6])
    ]


def write_run(folder: Path, records: list[Record], examples: list[dict[str, Any]] | None = None) -> Path:
    for record in records:
        bench_records.append(folder / "records.jsonl", record)
    if examples is not None:
        (folder / "examples.json").write_text(json.dumps({"examples": examples}), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("run"), fake_records(), fake_examples())
    report.write(folder)
    return folder


@pytest.fixture(scope="module")
def page(run_folder: Path) -> str:
    return (run_folder / "report.html").read_text(encoding="utf-8")


def accuracies(records: list[Record], label: str, corruption: str) -> np.ndarray:
    return np.array([r.accuracy for r in records if (r.label, r.corruption) == (label, corruption)])


def seed_means(records: list[Record], label: str) -> np.ndarray:
    return np.mean([accuracies(records, label, name) for name in CORRUPTIONS], axis=0)


def t_half(values: np.ndarray) -> float:
    low, high = stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values))
    return (high - low) / 2


def column_of(summary: Summary, label: str) -> Column:
    return next(column for column in summary.columns if column.label == label)


# What is computed


@pytest.mark.parametrize("freedom", [*range(1, 40), 100, 10_000])
def test_t_quantile_is_that_of_scipy(freedom: int) -> None:
    assert t_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=1e-4)


def test_means_and_intervals_are_those_of_scipy() -> None:
    records = fake_records()
    summary = summarise(records)
    for label in METHODS:
        column = column_of(summary, label)
        for row in summary.rows:
            values = accuracies(records, label, row.corruption)
            assert (column.cells[row].mean, column.cells[row].half) == pytest.approx(
                (values.mean(), t_half(values)), abs=2e-5
            )
        means = seed_means(records, label)
        assert column.mean and (column.mean.mean, column.mean.half) == pytest.approx(
            (means.mean(), t_half(means)), abs=2e-5
        )


def test_differences_are_paired_by_seed() -> None:
    records = fake_records()
    summary = summarise(records)
    ours, source = seed_means(records, "cta"), seed_means(records, "source")
    for label in ("source", "ptbn", "tent", "tent-online"):
        column, theirs = column_of(summary, label), seed_means(records, label)
        assert column.lead
        assert (column.lead.mean, column.lead.half) == pytest.approx(
            ((ours - theirs).mean(), t_half(ours - theirs)), abs=2e-5
        )
        if label != "source":
            assert column.gain and column.gain.mean == pytest.approx((theirs - source).mean())
    assert column_of(summary, "source").gain is None
    assert column_of(summary, "cta").lead is None
    fog = next(row for row in summary.rows if row.corruption == "fog")
    difference = accuracies(records, "cta", "fog") - accuracies(records, "source", "fog")
    assert column_of(summary, "cta").row_gains[fog].half == pytest.approx(t_half(difference), abs=2e-5)


def test_one_seed_has_wilsons_interval_over_images_and_says_so() -> None:
    records = fake_records(seeds=(4,))
    summary = summarise(records)
    column = column_of(summary, "cta")
    for row in summary.rows:
        share = accuracies(records, "cta", row.corruption)[0]
        expected = stats.binomtest(round(share * 256), 256).proportion_ci(method="wilson")
        assert column.cells[row].half == pytest.approx((expected.high - expected.low) / 2, abs=1e-4)
        assert (column.cells[row].over, column.cells[row].count) == ("images", 256)
    assert column.mean and column.mean.over == "images"
    assert column.gain and column.gain.half is None
    assert "Wilson" in report.table_markdown(records) and "Student" not in report.table_markdown(records)


def test_columns_stand_source_first_and_ours_last_in_any_order_of_records() -> None:
    records = fake_records()
    summary = summarise(reversed(records))
    assert [column.label for column in summary.columns] == list(METHODS)
    assert summary.adapted is column_of(summary, "cta") and summary.source is column_of(summary, "source")


def test_clean_images_are_no_part_of_the_mean() -> None:
    records = fake_records()
    worse = [replace(r, accuracy=0.1) if r.corruption == "clean" else r for r in records]
    assert [c.mean for c in summarise(worse).columns] == [c.mean for c in summarise(records).columns]
    assert len(summarise(records).rows) == len(CORRUPTIONS)


def test_a_mean_waits_until_a_seed_has_every_corruption() -> None:
    records = [r for r in fake_records() if (r.label, r.corruption, r.seed) != ("tent", "fog", 1)]
    summary = summarise(records)
    tent = column_of(summary, "tent")
    assert tent.mean and tent.mean.count == 2 and summary.gaps == {"tent": ["fog"]}
    assert tent.lead and tent.lead.count == 2
    without = [r for r in fake_records() if (r.label, r.corruption) != ("cta", "fog")]
    assert column_of(summarise(without), "cta").mean is None
    assert report.headline(without) == "Frozen 48.7 %; CTA is not measured on every corruption yet"


def test_curves_run_from_the_prediction_before_any_update_to_the_reported_one() -> None:
    records = [replace(r, curve={"5": 0.6}) for r in fake_records(labels=("cta",))]
    curve = summarise(records).columns[0].curve
    assert list(curve) == [0, 5, 20]
    assert curve[0].mean == pytest.approx(np.mean([r.accuracy_before for r in records if r.corruption != "clean"]))
    assert curve[5].mean == pytest.approx(0.6)
    assert curve[20].mean == pytest.approx(seed_means(records, "cta").mean())


def test_a_cell_that_was_measured_twice_counts_once() -> None:
    records = fake_records()
    assert summarise([*records, *records[:5]]) == summarise(records)


def test_arguments_that_differ_between_records_are_left_out() -> None:
    records = [replace(r, config={"seed": 7 * r.seed, "steps": 20}) for r in fake_records(labels=("cta",))]
    assert summarise(records).columns[0].config == {"steps": 20}


# What is refused


def changed(records: list[Record], where: Callable[[Record], bool], **changes: Any) -> list[Record]:
    return [replace(r, **changes) if where(r) else r for r in records]


def protocol(**changes: Any) -> dict[str, Any]:
    return fake_record("tent", "fog", 0).protocol | changes


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "no records to report"),
        (
            changed(fake_records(), lambda r: r.label == "tent" and r.seed == 2, protocol=protocol(reset="never")),
            "label 'tent' mixes two protocols.*reset: 'batch' and 'never'",
        ),
        (
            changed(fake_records(), lambda r: r.label == "tent", protocol=protocol(batch_size=64)),
            "must share batch_size, got 128 for 'source', 64 for 'tent'",
        ),
        (
            changed(fake_records(), lambda r: r.label == "tent", protocol={"n": 256}),
            "does not say batch_size, precision, stream",
        ),
        (
            changed(fake_records(), lambda r: r.label == "tent", protocol=protocol(precision="float32")),
            "must share precision, got \"bfloat16\" for 'source', \"float32\" for 'tent'",
        ),
        (
            changed(fake_records(), lambda r: r.label == "tent", protocol=protocol(table="imagenet")),
            "must share table, got null for 'source', \"imagenet\" for 'tent'",
        ),
        (changed(fake_records(), lambda r: r.seed == 1, dataset="cifar10"), "several data sets"),
        (changed(fake_records(), lambda r: r.key == "cta-fog-1", method="tent"), "method: 'cta' and 'tent'"),
        ([*fake_records(), fake_record("cta", "fog", 0, key="other")], "two different records for label 'cta'"),
    ],
)  # fmt: skip
def test_what_does_not_compare_is_refused(records: list[Record], message: str) -> None:
    with pytest.raises(DataError, match=message):
        report.table_markdown(records)


def test_damaged_examples_are_refused(tmp_path: Path) -> None:
    write_run(tmp_path, fake_records(seeds=(0,)), [fake_examples()[0] | {"clean_png": "bm90IGEgcG5n"}])
    with pytest.raises(DataError, match=r"examples\.json: examples\.0\.clean_png: .*PNG"):
        report.write(tmp_path)
    assert not (tmp_path / "report.html").exists()


# Tables and headline


def test_what_decided_the_pixels_is_said_where_there_was_a_choice() -> None:
    assert words.stream(summarise(fake_records())).endswith("in batches of 128.")
    for frost, told in (("photographs", "the official photographs"), ("procedural", "computed sheets, not the")):
        records = [replace(r, protocol=r.protocol | {"table": "imagenet", "frost": frost}) for r in fake_records()]
        said = words.stream(summarise(records))
        assert f"128. The severities are those of imagenet. Frost is cut from {told}" in said


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
        if "style" not in self.open:
            self.text += data


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
    assert {tag for tag, _ in outline.tags}.isdisjoint({"script", "link", "iframe", "object"})
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
    assert "<script" not in page
    assert outline.text.count(attack) > 10


FEW = [record for record in fake_records() if record.corruption in ("clean", "fog", "contrast")]

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
    page = html.page(summary, [])
    for column in summary.columns:
        line = re.search(
            rf'<th scope="row"><i [^>]*></i>{re.escape(words.display(column.label))}</th>(.*?)</tr>', page, re.S
        )
        assert line and all(words.percent(cell.mean) in line[1] for cell in column.cells.values())
    assert words.leads(summary).count("minus") == 1, "of many peers the best is named"


def test_many_methods_fit_the_terminal(capsys) -> None:
    Console(width=80).print(report.table_text(wide_records()))
    shown = capsys.readouterr().out
    assert "over Source" in shown and "images per second" in shown and "…" not in shown
