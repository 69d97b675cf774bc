"""Batches of any size in the benchmark: under every preset's stream the records are whole and agree with themselves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crosstask.bench import records
from crosstask.bench.cells import cells
from crosstask.bench.grid import measure
from crosstask.presets import PRESETS
from test_protocols import SEVERAL, bench, grid

NAMES = SEVERAL[:2]


def of_preset(name: str, batch_size: int, images: int) -> dict[str, Any]:
    """Return the settings of a bench on a preset's stream, with batches of another size."""
    preset = PRESETS[name]
    columns = {
        "source": {"method": "source"},
        "tent": {"method": "tent", "arguments": {"steps": 1}},
        "rotta": {"method": "rotta", "arguments": {"steps": 1, "every": 4, "capacity": 4}},
    }
    return {
        **preset.bench, "corruptions": NAMES, "images": images, "batch_size": batch_size,
        "columns": {label: column | dict(preset.columns) for label, column in columns.items()},
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch_size=st.integers(1, 512), small=st.integers(1, 12), images=st.integers(2, 25), by=st.booleans())
def test_any_batch_size_gives_whole_records(tiny, preset, batch_size, small, images, by):
    size = small if by else batch_size
    made = grid(tiny, bench(**of_preset(preset, size, images)))
    wanted = cells(made)
    found = [record for measured in measure(made, wanted) for record in measured.records]
    assert {(r.label, r.corruption) for r in found} == {(x, y) for x in ("source", "tent", "rotta") for y in NAMES}
    assert len({r.key for r in found}) == len(found) == 6
    assert {key for cell in wanted for key in cell.keys} == {r.key for r in found}
    for record in found:
        assert record.n == images and record.protocol["batch_size"] == size
        right = records.unpacked(record)
        assert len(right) == images and sum(right) == round(record.accuracy * images)
        assert record.accuracy == pytest.approx(sum(right) / images)
        parts = torch.tensor(right).tensor_split(min(20, images))
        assert len(record.over_stream) == len(parts)
        whole = sum(share * len(part) for share, part in zip(record.over_stream, parts, strict=True))
        assert whole / images == pytest.approx(record.accuracy, abs=1e-5)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("size", [1, 2, 511, 512])
def test_the_frozen_model_answers_the_same_in_batches_of_any_size(tiny, preset, size):
    first, second = (
        [r for m in measure(made, [c for c in cells(made) if c.label == "source"]) for r in m.records]
        for made in (grid(tiny, bench(**of_preset(preset, each, 15))) for each in (size, 4))
    )
    assert [(r.corruption, r.right) for r in first] == [(r.corruption, r.right) for r in second]
    assert not {r.key for r in first} & {r.key for r in second}
