"""Invented records, for the tests of reports: they look like real ones, and mean nothing."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import stats

from crosstask.bench import records as bench_records
from crosstask.bench.protocol import Protocol
from crosstask.bench.records import Record
from crosstask.report.summary import Column, Summary

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


def modern(record: Record, **protocol: Any) -> Record:
    """Return a record of format 1 as format 2 has it: which images are right, the stream, passes, the whole protocol.

    Some images are hard for every method, as real ones are.
    """
    difficulty = np.random.default_rng(record.seed).normal(size=record.n)
    own = np.random.default_rng(int(1e9 * (1 + wobble(record.label, record.corruption, record.seed))))
    order = np.argsort(difficulty + 0.4 * own.normal(size=record.n))
    right = np.zeros(record.n, dtype=bool)
    right[order[: round(record.accuracy * record.n)]] = True
    whole = Protocol(**(record.protocol | protocol)).to_dict()  # type: ignore[arg-type]
    return replace(
        record,
        format=2,
        right=base64.b64encode(np.packbits(right).tobytes()).decode(),
        over_stream=[round(float(part.mean()), 6) for part in np.array_split(right, min(20, record.n))],
        forwards=1.0 + 2 * record.steps,
        backwards=1.0 * record.steps,
        missed=0.0,
        protocol=whole,
    )


def modern_records(records: Iterable[Record], **protocol: Any) -> list[Record]:
    return [modern(record, **protocol) for record in records]


def changed(records: list[Record], where: Callable[[Record], bool], **changes: Any) -> list[Record]:
    return [replace(r, **changes) if where(r) else r for r in records]


def accuracies(records: list[Record], label: str, corruption: str) -> np.ndarray:
    return np.array([r.accuracy for r in records if (r.label, r.corruption) == (label, corruption)])


def seed_means(records: list[Record], label: str) -> np.ndarray:
    return np.mean([accuracies(records, label, name) for name in CORRUPTIONS], axis=0)


def t_half(values: np.ndarray) -> float:
    low, high = stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values))
    return (high - low) / 2


def column_of(summary: Summary, label: str) -> Column:
    return next(column for column in summary.columns if column.label == label)
