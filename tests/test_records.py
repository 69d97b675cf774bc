"""Records: one line each, whole or not there, and every mistake named."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from crosstask.bench import records
from crosstask.bench.records import Record
from crosstask.errors import DataError, StorageError


def a_record(**changes: Any) -> Record:
    """Return an invented record."""
    values: dict[str, Any] = {
        "method": "cta",
        "label": "cta",
        "dataset": "fashion-mnist",
        "corruption": "fog",
        "severity": 5,
        "seed": 0,
        "steps": 20,
        "n": 256,
        "accuracy": 0.57,
        "accuracy_before": 0.5,
        "curve": {"0": 0.5, "20": 0.57},
        "ece": 0.1,
        "nll": 1.2,
        "right_to_wrong": 0.02,
        "wrong_to_right": None,
        "ms_per_batch": 900.0,
        "images_per_second": 142,
        "peak_memory_mb": 640.0,
        "protocol": {"reset": "batch", "batch_size": 128, "n": 256, "stream": "iid", "steps": 20, "curve": [0, 20]},
        "checkpoint": "ab" * 32,
        "config": {"learning_rate": 0.01},
        "versions": {"torch": "2.13.0"},
        "device": "invented CPU — zwölf Kerne",
        "commit": None,
        "command": "crosstask bench",
        "key": "0" * 64,
    }
    return Record(**(values | changes))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "records.jsonl"


def test_what_is_appended_is_read_back_in_order(path: Path) -> None:
    written = [a_record(seed=seed) for seed in range(3)]
    for record in written:
        records.append(path, record)
    assert records.read(path) == written
    assert [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] == list(map(asdict, written))


def test_a_line_carries_the_fields_that_readers_rely_on() -> None:
    promised = (
        "format method dataset corruption severity seed steps n accuracy accuracy_before curve ece nll ms_per_batch "
        "images_per_second peak_memory_mb protocol checkpoint config versions device commit command"
    )
    assert set(promised.split()) <= asdict(a_record()).keys()
    assert a_record().format == records.FORMAT == 2


@pytest.mark.parametrize("cut", [1, 7, 300])
def test_a_torn_last_line_is_ignored_then_repaired(path: Path, cut: int) -> None:
    records.append(path, a_record(seed=0))
    whole = path.read_bytes()
    records.append(path, a_record(seed=1))
    path.write_bytes(path.read_bytes()[:-cut])
    assert [record.seed for record in records.read(path)] == [0]
    records.append(path, a_record(seed=2))
    assert [record.seed for record in records.read(path)] == [0, 2]
    assert path.read_bytes().startswith(whole)


def test_a_torn_only_line_and_a_long_torn_tail_are_repaired(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b'{"format": 1, "method": "' + b"x" * 200_000)
    assert records.read(path) == []
    records.append(path, a_record())
    assert records.read(path) == [a_record()]


@pytest.mark.parametrize("line", [b"", b"{", b"\xff\xfe", b'{"accuracy": NaN}', b"[1]"])
def test_any_other_malformed_line_is_an_error_with_its_number(path: Path, line: bytes) -> None:
    records.append(path, a_record())
    path.write_bytes(path.read_bytes() + line + b"\n" + path.read_bytes())
    with pytest.raises(DataError, match=r"records\.jsonl, line 2: "):
        records.read(path)


def test_every_mistake_of_a_line_is_named_at_once(path: Path) -> None:
    path.parent.mkdir()
    values = asdict(a_record()) | {"accuracy": 57.0, "steps": "20", "colour": "red", "curve": {"soon": 0.5}}
    for name in ("format", "ece", "key"):
        del values[name]
    path.write_text(json.dumps(values) + "\n")
    with pytest.raises(DataError) as caught:
        records.read(path)
    message = str(caught.value)
    assert "missing fields format, ece, key" in message
    assert "unknown field colour" in message
    assert "accuracy: input should be less than or equal to 1, got 57.0" in message
    assert "steps: " in message and "curve.soon" in message


def test_a_newer_format_says_so(path: Path) -> None:
    path.parent.mkdir()
    path.write_text(json.dumps({"format": 3, "something": "new"}) + "\n")
    with pytest.raises(DataError, match="format 3 is newer than this crosstask reads"):
        records.read(path)


@pytest.mark.parametrize(
    "changes",
    [{"accuracy": float("nan")}, {"nll": float("inf")}, {"n": 0}, {"severity": 6}, {"config": {"path": Path()}},
     {"config": {"rate": float("nan")}}, {"label": ""}, {"seed": 1.5}, {"images_per_second": 0.0}, {"right": "AAA="}],
)  # fmt: skip
def test_a_wrong_record_is_refused_before_it_reaches_the_file(path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        records.append(path, replace(a_record(), **changes))
    assert not path.exists()


def test_no_file_says_what_writes_it(path: Path) -> None:
    with pytest.raises(DataError, match="crosstask bench"):
        records.read(path)
    with pytest.raises(DataError, match="cannot read"):
        records.read(path.parent.parent)


def test_a_full_disk_leaves_the_file_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records.append(path, a_record())
    before = path.read_bytes()
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, line: write(descriptor, line[:50]))
    with pytest.raises(StorageError, match="disk is full"):
        records.append(path, a_record(seed=1))
    assert path.read_bytes() == before


def test_unwanted_records_are_set_aside_and_none_is_lost(path: Path) -> None:
    written = [replace(a_record(seed=seed), key=f"key {seed}") for seed in range(4)]
    for record in written:
        records.append(path, record)
    records.set_aside(path, {"key 0", "key 1", "key 2", "key 3"}, path.with_name("aside"))
    assert not path.with_name("aside").exists()
    records.set_aside(path, {"key 1", "key 3"}, path.with_name("aside"))
    assert records.read(path) == written[1::2] and records.read(path.with_name("aside")) == written[::2]


def test_records_are_brought_in_order_line_by_line_as_they_are(path: Path) -> None:
    for seed in (3, 0, 9, 2, 1):
        records.append(path, replace(a_record(seed=seed), key=f"key {seed}"))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines) + lines[0][:40])
    records.arrange(path, [f"key {seed}" for seed in range(5)])
    assert path.read_bytes() == b"".join(lines[place] for place in (1, 4, 3, 0, 2)), "others stand behind"
    before = path.stat().st_ino
    records.arrange(path, [f"key {seed}" for seed in range(5)])
    assert path.stat().st_ino == before, "what is in order is not written again"


def set_aside_again_and_again(path: Path) -> None:
    for _ in range(20):
        records.set_aside(path, {"wanted"}, path.with_name("aside"))


def test_setting_aside_loses_nothing_that_others_append_meanwhile(path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    records.append(path, a_record())
    processes = [context.Process(target=append_many, args=(path, seed)) for seed in range(2)]
    processes.append(context.Process(target=set_aside_again_and_again, args=(path,)))
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    everywhere = records.read(path) + (records.read(path.with_name("aside")))
    assert sorted(r.seed for r in everywhere) == sorted([a_record().seed, *range(20), *range(100, 120)])


def append_many(path: Path, seed: int) -> None:
    for number in range(20):
        records.append(path, a_record(seed=100 * seed + number))


def test_processes_may_append_to_one_file(path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=append_many, args=(path, seed)) for seed in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(record.seed for record in records.read(path)) == [*range(20), *range(100, 120)]


def test_neither_records_nor_reports_import_torch() -> None:
    code = (
        "import sys, crosstask.bench.records, crosstask.report, crosstask.report.html\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('torch', 'torchvision', 'scipy')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
