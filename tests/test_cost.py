"""`make bench` counts what it says it counts."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from crosstask.bench import cost

CPU = torch.device("cpu")


def test_operations_are_those_of_products_and_convolutions():
    a, b = torch.ones(3, 5), torch.ones(5, 7)
    assert cost.operations(lambda: a @ b) == 2 * 3 * 5 * 7
    x, weight = torch.ones(2, 3, 8, 8), torch.ones(4, 3, 3, 3)
    assert cost.operations(lambda: F.conv2d(x, weight, padding=1)) == 2 * (2 * 4 * 8 * 8) * (3 * 3 * 3)
    assert cost.operations(lambda: a + 1) == 0


def test_a_step_is_forward_and_backward_and_little_else_to_multiply():
    x = torch.rand(4, 3, 32, 32)
    adapter, step = cost.cta("resnet-small", x, CPU)
    passes = cost.operations(cost.passes(adapter, x, CPU))
    with torch.no_grad():
        encoder = adapter.model.get_submodule("encoder")
        forward = cost.operations(lambda: adapter.task.projector(encoder(torch.cat([x, x]))))
    assert 2.5 * forward < passes < 3 * forward, "backward is two passes, but for the images' own gradient"
    assert passes < cost.operations(step) < 1.1 * passes, "and the views"


def test_a_step_takes_longer_than_its_passes_and_stays_below_the_peak():
    found = cost.measure("resnet-small", (1, 28, 28), 8, CPU, 9)
    assert found.images_per_second > 0 and found.over_bare > 0
    assert 0 < found.of_peak < found.passes_of_peak < 1
    assert found.outside == pytest.approx(1 - found.of_peak / found.passes_of_peak, abs=0.3)
