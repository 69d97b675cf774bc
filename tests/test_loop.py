"""The training loop: it learns, its steps are the textbook's, and a killed run ends in the bits of an unbroken one."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crosstask import runtime
from crosstask.config import Optimisation
from crosstask.data.images import ImageSet
from crosstask.errors import TrainingError
from crosstask.train import loop
from crosstask.train.loop import Run, fit

CPU = torch.device("cpu")


class Killed(BaseException):
    """Stands for `kill -9`: nothing catches it."""


def run(**changes) -> Run:
    return Run(**({"seed": 3, "device": CPU, "precision": "float32"} | changes))


def labelled(count: int = 60, channels: int = 1) -> ImageSet:
    """Return noise whose class is a brighter half."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 120, (count, channels, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count) % 2
    images[labels == 1, :, :4] += 100
    images[labels == 0, :, 4:] += 100
    return ImageSet(images=images, labels=labels, class_names=("top", "bottom"), name="halves")


def net(channels: int = 1) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 2)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return runtime.place(model, CPU)


def objective(model: nn.Module):
    """Return cross-entropy on images with noise and dropout, so that both the step's and torch's generator matter."""

    def loss(x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        return F.cross_entropy(model(F.dropout(x, 0.1) + 0.1 * torch.randn(x.shape, generator=generator)), y)

    return loss


HOW = Optimisation(epochs=15, batch_size=10, learning_rate=0.05)  # 6 steps an epoch, 90 in all


def train(channels: int = 1, **changes) -> tuple[dict[str, Tensor], list[float]]:
    model = net(channels)
    history = fit(objective(model), model, labelled(channels=channels), HOW, run(**changes))
    return model.state_dict(), history


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_fit_lowers_the_loss():
    _, history = train()
    assert len(history) == math.ceil(90 / 25) and history[-1] < 0.2 * history[0]


def test_the_same_seed_gives_the_same_bits_and_another_seed_others():
    assert same(train()[0], train()[0])
    assert not same(train()[0], train(seed=4)[0])


def test_torchs_own_generator_is_left_to_the_caller():
    model, before = net(), torch.random.get_rng_state()
    fit(objective(model), model, labelled(), HOW, run())
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.fixture
def saving_always(monkeypatch):
    """Let two seconds pass between any two looks at the clock, and let saving be free: each report is also a save."""
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=itertools.count(0.0, 2.0).__next__))
    monkeypatch.setattr(loop, "_SAVING_SHARE", math.inf)


def killer(at: int):
    def progress(done: int, total: int, loss: float) -> None:
        if done >= at:
            raise Killed

    return progress


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("at", [50, 75, 90])
def test_a_killed_run_taken_up_again_ends_in_the_same_bits(tmp_path, saving_always, at, channels):
    whole, history = train(channels)
    saving = {"state": tmp_path / "state", "key": "a"}
    with pytest.raises(Killed):
        train(channels, progress=killer(at), **saving)
    assert (tmp_path / "state").is_file()
    steps = []
    again, taken_up = train(channels, progress=lambda done, total, loss: steps.append((done, total)), **saving)
    assert steps[0] == (at, 90), "it goes on after the last saved state, not from the start"
    assert same(again, whole) and taken_up == history


def test_a_run_killed_again_and_again_still_ends_in_the_same_bits(tmp_path, saving_always):
    saving = {"state": tmp_path / "state", "key": "a"}
    for at in (50, 75, 90):
        with pytest.raises(Killed):
            train(progress=killer(at), **saving)
    assert same(train(**saving)[0], train()[0])


def test_a_run_of_less_than_a_second_saves_no_state(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=itertools.count(0.0, 0.01).__next__))
    train(state=tmp_path / "state")
    assert not list(tmp_path.iterdir())


def spoil(state: Path, how: str) -> None:
    content = state.read_bytes()
    state.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "noise": bytes(range(256)) * 4}[how])


@pytest.mark.parametrize("how", ["cut", "empty", "noise"])
def test_a_torn_state_is_not_taken_up(tmp_path, saving_always, how):
    saving = {"state": tmp_path / "state", "key": "a"}
    train(**saving)
    spoil(tmp_path / "state", how)
    first = []
    again, _ = train(progress=lambda done, total, loss: first.append(done), **saving)
    assert first[0] == 25 and same(again, train()[0])


def test_a_state_with_another_key_is_not_taken_up(tmp_path, saving_always):
    with pytest.raises(Killed):
        train(state=tmp_path / "state", key="a", seed=9, progress=killer(50))
    first = []
    again, _ = train(state=tmp_path / "state", key="b", progress=lambda done, total, loss: first.append(done))
    assert first[0] == 25 and same(again, train()[0])


def test_a_loss_that_is_not_finite_stops_the_run_and_is_not_saved(tmp_path, saving_always):
    model, calls = net(), []

    def sick(x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        calls.append(None)
        return objective(model)(x, y, generator) * (torch.nan if len(calls) == 30 else 1)

    with pytest.raises(TrainingError, match=r"the loss became nan within the steps up to 50; lower the learning rate"):
        fit(sick, model, labelled(), HOW, run(state=tmp_path / "state", key="a"))
    again, _ = train(state=tmp_path / "state", key="a")
    assert same(again, train()[0])


def test_progress_is_told_every_25_steps_and_at_the_end():
    told = []
    _, history = train(progress=lambda *news: told.append(news))
    assert [(done, total) for done, total, _ in told] == [(25, 90), (50, 90), (75, 90), (90, 90)]
    assert [loss for _, _, loss in told] == history


def test_the_loss_told_is_the_mean_since_the_last_time():
    model, seen = net(), []

    def remembering(x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        loss = objective(model)(x, y, generator)
        seen.append(float(loss.detach()))
        return loss

    history = fit(remembering, model, labelled(), HOW, run())
    expected = [sum(part) / len(part) for part in (seen[:25], seen[25:50], seen[50:75], seen[75:])]
    assert history == pytest.approx(expected, rel=1e-5)


def test_a_step_is_nesterov_momentum_under_a_warmup_and_a_cosine():
    """Minimise the sum of two weights: the gradient is one, so every step can be written down."""
    model = nn.ParameterDict({"matrix": nn.Parameter(torch.ones(1, 1)), "vector": nn.Parameter(torch.ones(1))})
    how = Optimisation(epochs=2, batch_size=4, learning_rate=0.1, weight_decay=0.3, warmup=0.25)  # 20 steps, 5 rising
    images = ImageSet(images=torch.zeros(40, 1, 4, 4, dtype=torch.uint8), name="black")
    fit(lambda x, y, generator: model["matrix"].sum() + model["vector"].sum(), model, images, how, run())
    for name, decay in (("matrix", 0.3), ("vector", 0.0)):
        weight, momentum = 1.0, 0.0
        for step in range(20):
            rate = 0.1 * ((step + 1) / 5 if step < 5 else (1 + math.cos(math.pi * (step - 5) / 15)) / 2)
            gradient = 1 + decay * weight
            momentum = 0.9 * momentum + gradient
            weight -= rate * (gradient + 0.9 * momentum)
        assert model[name].item() == pytest.approx(weight, rel=1e-5)


@pytest.mark.parametrize(("total", "warmup"), [(1, 0.1), (2, 0.5), (10, 0.0), (100, 0.1), (100, 1.0)])
def test_the_schedule_rises_to_one_and_falls_towards_zero(total, warmup):
    rates = [loop._schedule(step, total, warmup) for step in range(total)]
    top = max(1, round(warmup * total)) - 1
    assert rates[top] == max(rates) == 1 and min(rates) > 0
    assert rates[: top + 1] == sorted(rates[: top + 1]) and rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[0] == pytest.approx(1 / (top + 1))
    if total - top > 2:
        assert rates[-1] < 0.3 and loop._schedule(total, total, warmup) == pytest.approx(0, abs=1e-12)


def drawn(count: int, how: Optimisation) -> list[list[int]]:
    """Return which images each step of a training run was given."""
    numbers = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1)
    images, model, steps = ImageSet(images=numbers, name="numbers"), nn.Linear(1, 1), []

    def watch(x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        assert y.numel() == 0 and x.dtype == torch.float32 and x.min() >= 0 and x.max() <= 1
        steps.append((x * 255).round().int().flatten().tolist())
        return model.weight.sum()

    fit(watch, model, images, how, run())
    return steps


def test_an_epoch_shows_each_image_once_in_an_order_of_its_own():
    steps = drawn(40, Optimisation(epochs=3, batch_size=8))
    epochs = [[*itertools.chain(*steps[start : start + 5])] for start in (0, 5, 10)]
    assert len(steps) == 15 and all(sorted(epoch) == list(range(40)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] and epochs[0] != list(range(40))


def test_the_incomplete_last_batch_of_an_epoch_is_left_out():
    steps = drawn(43, Optimisation(epochs=2, batch_size=8))
    assert [len(step) for step in steps] == [8] * 10
    assert all(len({*itertools.chain(*steps[start : start + 5])}) == 40 for start in (0, 5))


def test_a_part_of_an_epoch_and_a_batch_larger_than_the_set():
    assert len(drawn(40, Optimisation(epochs=0.5, batch_size=8))) == 3
    assert [sorted(step) for step in drawn(5, Optimisation(epochs=2, batch_size=8))] == [list(range(5))] * 2


def test_frozen_parameters_stay():
    model = net()
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    fit(objective(model), model, labelled(), HOW, run())
    assert torch.equal(model[0].weight, before)


def test_bfloat16_trains_too_and_keeps_float32_weights():
    model = net()
    history = fit(objective(model), model, labelled(), HOW, run(precision="bfloat16"))
    assert history[-1] < 0.3 * history[0]
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
