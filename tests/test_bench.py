"""What is measured: figures against their formulas, what an adapter is shown, and what its time is made of."""

from __future__ import annotations

import ctypes
import math
import shutil
import subprocess
import time

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from crosstask import runtime
from crosstask.bench import examples, metrics
from crosstask.bench.benchmark import predict, score
from crosstask.bench.protocol import Protocol
from crosstask.data.images import ImageSet
from crosstask.data.streams import draw_stream
from crosstask.errors import DataError
from crosstask.methods import Tent
from crosstask.methods.adapter import Adapter

CPU = torch.device("cpu")


def logits_and_labels(count: int = 400, classes: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return 2 * torch.randn(count, classes, generator=generator), torch.randint(classes, (count,), generator=generator)


def test_figures_are_their_formulas():
    logits, labels = logits_and_labels()
    p = np.exp(logits.double().numpy()) / np.exp(logits.double().numpy()).sum(axis=1, keepdims=True)
    y, sure, said = labels.numpy(), p.max(axis=1), p.argmax(axis=1)
    assert metrics.accuracy(logits, labels) == pytest.approx(np.mean(said == y))
    assert metrics.negative_log_likelihood(logits, labels) == pytest.approx(-np.log(p[range(len(y)), y]).mean())
    error = 0.0
    for edge in range(15):
        inside = (sure > edge / 15) & (sure <= (edge + 1) / 15)
        if inside.any():
            error += inside.mean() * abs(sure[inside].mean() - (said == y)[inside].mean())
    assert metrics.expected_calibration_error(logits, labels) == pytest.approx(error)


def test_flips_are_counted_both_ways():
    labels = torch.tensor([0, 1, 2, 0])
    before, after = nn.functional.one_hot(torch.tensor([[0, 0, 2, 1], [0, 1, 1, 2]])).float()
    assert metrics.flips(before, after, labels) == (0.25, 0.25)
    assert metrics.flips(before, before, labels) == (0, 0)


class Counting(Adapter):
    """Takes a known time for everything and answers with how often it has learned since the last reset."""

    learned: Tensor

    def __init__(self) -> None:
        super().__init__(nn.Linear(1, 1), steps=2, batch_norm="batch")
        self.register_buffer("learned", torch.zeros(()))
        self.seen: list[Tensor] = []
        self.begin(())

    def update(self, x: Tensor, generator: torch.Generator) -> None:
        time.sleep(0.02)
        self.learned += 1

    def predict(self, x: Tensor) -> Tensor:
        time.sleep(0.01)
        self.seen.append(x)
        return torch.stack([self.learned.expand(len(x)), x.flatten(1).mean(dim=1)], dim=1)


def stream(count: int = 10, batch_size: int = 4):
    generator = torch.Generator().manual_seed(0)
    images = ImageSet(
        images=torch.randint(0, 256, (20, 1, 16, 16), generator=generator, dtype=torch.uint8),
        labels=torch.arange(20) % 2,
        class_names=("even", "odd"),
        name="numbers",
    )
    return draw_stream(images, "contrast", 5, count=count, batch_size=batch_size, seed=1)


def protocol(reset: str, steps: int = 2, curve: tuple[int, ...] = (0, 1, 2)) -> Protocol:
    return Protocol(model="supervised", reset=reset, batch_size=4, n=10, steps=steps, curve=curve, precision="float32")


@pytest.mark.parametrize(("reset", "expected"), [("batch", [2, 2, 2]), ("corruption", [2, 4, 6])])
def test_the_protocol_says_when_an_adapter_forgets(reset, expected):
    adapter, seen = Counting(), stream()
    adapter.learned += 7
    found = predict(adapter, seen, protocol(reset), CPU)
    assert found.logits[2][:, 0].tolist() == [expected[row // 4] for row in range(10)]
    assert found.logits[0][:, 0].tolist() == [expected[row // 4] - 2 for row in range(10)]
    assert found.batches == 3
    torch.testing.assert_close(found.logits[2][:, 1], seen.images.images.float().div(255).flatten(1).mean(dim=1))


@pytest.mark.parametrize(("set_up", "before"), [(True, 1), (False, 0)])
def test_a_pass_for_the_set_up_shows_the_first_batch_once_more_and_changes_nothing(set_up, before):
    adapter = Counting()
    found = predict(adapter, stream(), protocol("batch", curve=(0, 2)), CPU, set_up=set_up)
    assert len(adapter.seen) == before + 2 * 3
    assert torch.equal(adapter.seen[0], adapter.seen[before])
    assert found.logits[2][:, 0].tolist() == [2] * 10


def test_time_is_that_of_the_updates_and_of_the_last_prediction():
    """Of three batches with two updates (20 ms) each, and three predictions (10 ms) of which one counts."""
    seconds = predict(Counting(), stream(), protocol("batch"), CPU).seconds
    assert 3 * 0.05 <= seconds < 3 * 0.065
    adapter = Counting()
    predict(adapter, stream(), protocol("batch"), CPU)
    assert adapter.predict.__func__ is Counting.predict, "the clock is taken off again"


class AnswersFirst(Counting):
    """Says with each update what it would have predicted before."""

    answers_first = True

    def update(self, x: Tensor, generator: torch.Generator) -> Tensor:
        before = torch.stack([self.learned.expand(len(x)), x.flatten(1).mean(dim=1)], dim=1)
        super().update(x, generator)
        return before


def test_an_update_that_answers_saves_the_passes_of_the_curve_and_not_the_clocks_time():
    adapter, plain = AnswersFirst(), Counting()
    saved, asked = (predict(one, stream(), protocol("corruption"), CPU, set_up=False) for one in (adapter, plain))
    assert len(adapter.seen) == 3 and len(plain.seen) == 9
    for step in (0, 1, 2):
        assert torch.equal(saved.logits[step], asked.logits[step])
    assert 3 * 0.05 <= saved.seconds < 3 * 0.065
    assert adapter.saves_a_pass and not plain.saves_a_pass


def test_where_an_updates_forward_moves_averages_its_answer_is_not_the_one_before(tiny):
    model = tiny.classifier()
    assert Tent(model, batch_norm="batch").saves_a_pass and not Tent(model, batch_norm="ema").saves_a_pass


def test_a_score_is_made_of_labels_that_no_adapter_saw():
    seen, adapter = stream(), Counting()
    found = predict(adapter, seen, protocol("batch"), CPU)
    scores = score(found, torch.zeros(10, 2), seen, protocol("batch"))
    fields = scores.pop("contrast")
    assert not scores and fields["severity"] == 5
    said = found.logits[2].argmax(dim=1)
    assert fields["accuracy"] == pytest.approx((said == seen.images.labels).float().mean().item())
    assert fields["accuracy_before"] == fields["curve"]["0"] and set(fields["curve"]) == {"0", "1", "2"}
    assert fields["images_per_second"] == pytest.approx(10 / found.seconds)
    assert all(x.dtype == torch.float32 and x.shape[1:] == (1, 16, 16) for x in adapter.seen)
    with pytest.raises(DataError, match="needs labels, and numbers has none"):
        unlabelled = stream()
        object.__setattr__(unlabelled, "target", unlabelled.target.unlabelled())
        score(found, torch.zeros(10, 2), unlabelled, protocol("batch"))


def test_a_kept_example_is_found_by_its_cell_and_a_torn_file_holds_none(tmp_path):
    path = tmp_path / "examples.json"
    assert examples.kept(path) == {}
    example = examples.pick(stream(), *torch.eye(2).expand(10, 2, 2).unbind(1), ("even",))
    assert {example["frozen"]["name"], example["adapted"]["name"]} == {"even", "1"}, "a class without a name"
    examples.keep(path, {"a": example})
    assert examples.kept(path) == {"a": {"key": "a", **example}}
    for torn in ("", "{", "[]", '{"examples": [{}]}', path.read_text()[:200]):
        path.write_text(torn)
        assert examples.kept(path) == {}


@pytest.mark.skipif(not runtime.Path("/proc/self/clear_refs").exists(), reason="Linux tells")
def test_peak_memory_is_that_since_it_was_forgotten():
    large = torch.ones(1 << 26)
    high = runtime.peak_memory_mb(CPU)
    assert high > 256
    del large
    runtime.forget_peak_memory(CPU)
    assert runtime.peak_memory_mb(CPU) < high - 200


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="glibc gives back")
def test_peak_memory_is_without_what_the_allocator_keeps():
    small = [torch.ones(1 << 12) for _ in range(1 << 14)]
    high = runtime.peak_memory_mb(CPU)
    last = small[-1]
    del small
    runtime.forget_peak_memory(CPU)
    assert runtime.peak_memory_mb(CPU) < high - 150, last.shape


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_precision_that_is_named_is_kept(precision):
    assert runtime.resolve_precision(CPU, precision) == precision
    assert runtime.resolve_precision(CPU, "auto") in ("float32", "bfloat16")
    with runtime.autocast(CPU, precision):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert str(product.dtype) == f"torch.{precision}" and math.isclose(float(product.sum()), 8)


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_a_commit_is_that_of_our_own_repository_alone(tmp_path, monkeypatch):
    """A package in an environment inside of somebody's repository was not made from that repository's commit."""
    tracked, installed = tmp_path / "tracked.py", tmp_path / "installed.py"
    tracked.touch()
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    for words in (("init", "-q"), ("add", "tracked.py"), (*who, "commit", "-qm", "first")):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    installed.touch()
    found = []
    for path in (tracked, installed):
        monkeypatch.setattr(runtime, "__file__", str(path))
        found.append(runtime.commit.__wrapped__())
    assert found[0] and len(found[0]) >= 12 and found[1] is None
