"""Every loss against its formula in plain loops, and the properties the formulas promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from crosstask import losses

sizes = st.integers(1, 7)
seeds = st.integers(0, 10_000)
temperatures = st.floats(0.05, 5.0)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cosine(a: Tensor, b: Tensor) -> float:
    return float((a.double() @ b.double()) / math.sqrt(float(a.double() @ a.double()) * float(b.double() @ b.double())))


def nt_xent_by_hand(z: Tensor, temperature: float) -> float:
    """Chen et al. 2020, eq. 1, term by term."""
    count, total = len(z), 0.0
    for i in range(count):
        partner = i + count // 2 if i < count // 2 else i - count // 2
        attraction = math.exp(cosine(z[i], z[partner]) / temperature)
        crowd = sum(math.exp(cosine(z[i], z[k]) / temperature) for k in range(count) if k != i)
        total -= math.log(attraction / crowd)
    return total / count


def alignment_by_hand(student: Tensor, teacher: Tensor, temperature: float) -> float:
    """Radford et al. 2021, fig. 3: each feature picks its partner, from both sides."""
    count, total = len(student), 0.0
    for i in range(count):
        row = [math.exp(cosine(student[i], teacher[j]) / temperature) for j in range(count)]
        column = [math.exp(cosine(student[j], teacher[i]) / temperature) for j in range(count)]
        total -= math.log(row[i] / sum(row)) + math.log(column[i] / sum(column))
    return total / (2 * count)


def views_of(z: Tensor) -> tuple[np.ndarray, np.ndarray]:
    first, second = z.double().numpy().reshape(2, len(z) // 2, -1)
    return first, second


def vicreg_by_hand(z: Tensor, invariance: float, variance: float, covariance: float) -> float:
    """Bardes et al. 2022, eq. 1 to 6; one image has neither variance nor covariance."""
    first, second = views_of(z)
    total = invariance * np.mean((first - second) ** 2)
    for view in (first, second):
        cov = np.atleast_2d(np.cov(view.T)) if len(view) > 1 else np.zeros((view.shape[1],) * 2)
        size = len(cov)
        total += variance * sum(max(0.0, 1 - math.sqrt(cov[j, j] + 1e-4)) for j in range(size)) / size
        total += covariance * sum(cov[i, j] ** 2 for i in range(size) for j in range(size) if i != j) / size
    return float(total)


def barlow_twins_by_hand(z: Tensor, off_diagonal: float) -> float:
    """Zbontar et al. 2021, eq. 1 and 2, with the 1e-5 that batch norm adds to a variance."""
    first, second = views_of(z)
    total = 0.0
    for i in range(z.shape[1]):
        for j in range(z.shape[1]):
            a, b = first[:, i] - first[:, i].mean(), second[:, j] - second[:, j].mean()
            correlation = (a * b).mean() / math.sqrt((a.var() + 1e-5) * (b.var() + 1e-5))
            total += (1 - correlation) ** 2 if i == j else off_diagonal * correlation**2
    return float(total)


def byol_by_hand(predictions: Tensor, targets: Tensor) -> float:
    """Grill et al. 2020, eq. 2, for both orders of the views: a squared distance of unit vectors is 2 - 2 cos."""
    count, total = len(predictions) // 2, 0.0
    for i in range(count):
        total += 2 - 2 * cosine(predictions[i], targets[i + count])
        total += 2 - 2 * cosine(predictions[i + count], targets[i])
    return total / count


def white(count: int, dims: int, seed: int = 0) -> Tensor:
    """Return [count, dims] whose columns have mean zero and variance 4 and are uncorrelated, exactly."""
    table = np.random.default_rng(seed).standard_normal((count, dims))
    columns, _ = np.linalg.qr(np.column_stack([np.ones(count), table]))
    return torch.from_numpy(2 * math.sqrt(count) * columns[:, 1:]).float()


@given(sizes, temperatures, seeds)
def test_nt_xent_is_its_formula(batch, temperature, seed):
    z = normal(2 * batch, 5, seed=seed)
    assert float(losses.nt_xent(z, temperature)) == pytest.approx(nt_xent_by_hand(z, temperature), rel=1e-4, abs=1e-5)


@given(sizes, temperatures, seeds)
def test_alignment_is_its_formula(batch, temperature, seed):
    student, teacher = normal(batch, 5, seed=seed), normal(batch, 5, seed=seed + 1)
    expected = alignment_by_hand(student, teacher, temperature)
    assert float(losses.alignment(student, teacher, temperature)) == pytest.approx(expected, rel=1e-4, abs=1e-5)


@given(sizes, temperatures, seeds)
def test_nt_xent_knows_no_order_and_no_length(batch, temperature, seed):
    z = normal(2 * batch, 5, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(batch, generator=generator)
    shuffled, swapped = torch.cat([z[:batch][order], z[batch:][order]]), torch.cat([z[batch:], z[:batch]])
    stretched = z * (0.1 + torch.rand(len(z), 1, generator=generator))
    for other in (shuffled, swapped, stretched):
        torch.testing.assert_close(losses.nt_xent(other, temperature), losses.nt_xent(z, temperature))


@given(sizes, temperatures, seeds)
def test_alignment_knows_no_order_no_length_and_no_side(batch, temperature, seed):
    student, teacher = normal(batch, 5, seed=seed), normal(batch, 5, seed=seed + 1)
    order = torch.randperm(batch, generator=torch.Generator().manual_seed(seed))
    expected = losses.alignment(student, teacher, temperature)
    for a, b in ((student[order], teacher[order]), (3 * student, teacher / 7), (teacher, student)):
        torch.testing.assert_close(losses.alignment(a, b, temperature), expected)


@given(sizes, temperatures, seeds)
def test_contrastive_losses_lie_between_zero_and_their_worst(batch, temperature, seed):
    z = normal(2 * batch, 5, seed=seed)
    assert -1e-6 <= float(losses.nt_xent(z, temperature)) <= math.log(2 * batch - 1) + 2 / temperature + 1e-4
    value = float(losses.alignment(z[:batch], z[batch:], temperature))
    assert -1e-6 <= value <= math.log(batch) + 2 / temperature + 1e-4


def test_shares_of_the_rows_average_to_the_whole():
    z = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
    for loss, count in (
        (lambda rows: losses.nt_xent(z, 0.2, rows), 12),
        (lambda rows: losses.alignment(z[:6], z[6:], 0.1, rows), 6),
    ):
        parts = torch.stack([loss(rows) for rows in torch.randperm(count).chunk(3)])
        torch.testing.assert_close(parts.mean(), loss(None))
        assert parts.std() > 0.01


def test_nt_xent_of_one_image_is_zero_and_moves_nothing():
    z = normal(2, 5).requires_grad_()
    loss = losses.nt_xent(z, 0.2)
    loss.backward()
    assert float(loss.detach()) == 0 and not z.grad.any()


@given(sizes, seeds, *[st.floats(0, 30)] * 3)
def test_vicreg_is_its_formula(batch, seed, invariance, variance, covariance):
    z = 0.6 * normal(2 * batch, 5, seed=seed)
    weights = {"invariance": invariance, "variance": variance, "covariance": covariance}
    assert float(losses.vicreg(z, **weights)) == pytest.approx(vicreg_by_hand(z, **weights), rel=1e-4, abs=1e-4)


@given(sizes, seeds, st.floats(0, 1))
def test_barlow_twins_is_its_formula(batch, seed, off_diagonal):
    z = normal(2 * batch, 5, seed=seed)
    expected = barlow_twins_by_hand(z, off_diagonal)
    assert float(losses.barlow_twins(z, off_diagonal)) == pytest.approx(expected, rel=1e-3, abs=1e-4)


@given(sizes, seeds)
def test_byol_is_its_formula_and_has_bounds(batch, seed):
    predictions, targets = normal(2 * batch, 5, seed=seed), normal(2 * batch, 5, seed=seed + 1)
    found = float(losses.byol(predictions, targets))
    assert found == pytest.approx(byol_by_hand(predictions, targets), rel=1e-4, abs=1e-5)
    assert 0 <= found <= 8


def test_byol_looks_at_directions_alone_and_at_the_other_view():
    z = normal(8, 5)
    swapped = torch.cat([z[4:], z[:4]])
    assert float(losses.byol(3 * z, swapped / 7)) == pytest.approx(0, abs=1e-6)
    assert float(losses.byol(z, -swapped)) == pytest.approx(8)
    assert float(losses.byol(z, z)) > 0.1


def test_views_that_agree_in_white_projections_are_the_best_there_are():
    z = white(16, 5).repeat(2, 1)
    assert float(losses.barlow_twins(z, 1.0)) == pytest.approx(0, abs=1e-6)
    assert float(losses.vicreg(z, invariance=25, variance=25, covariance=1)) == pytest.approx(0, abs=1e-6)
    repeated = torch.cat([z, z], dim=1)
    assert float(losses.barlow_twins(repeated, 1.0)) == pytest.approx(2 * 5, rel=1e-3)
    assert float(losses.vicreg(repeated, invariance=25, variance=25, covariance=1)) > 10
    collapsed = torch.ones(32, 5)
    assert float(losses.vicreg(collapsed, invariance=25, variance=25, covariance=1)) == pytest.approx(2 * 25 * 0.99)
    assert float(losses.barlow_twins(collapsed, 1.0)) == pytest.approx(5)


@given(st.integers(3, 7), seeds)
def test_barlow_twins_knows_no_scale_and_no_place(batch, seed):
    z = normal(2 * batch, 5, seed=seed)
    moved = z * torch.tensor([9.0, 2.0, 5.0, 7.0, 3.0]) + normal(1, 5, seed=seed)
    torch.testing.assert_close(losses.barlow_twins(moved, 0.1), losses.barlow_twins(z, 0.1), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize(
    "loss",
    [
        lambda z: losses.vicreg(z, invariance=25, variance=25, covariance=1),
        lambda z: losses.barlow_twins(z, 5e-3),
        lambda z: losses.byol(z, z.square()),
    ],
    ids=["vicreg", "barlow_twins", "byol"],
)
def test_one_or_two_images_have_a_finite_loss_and_gradient(loss, constant, batch):
    z = (torch.zeros(2 * batch, 5) if constant else normal(2 * batch, 5)).requires_grad_()
    value = loss(z)
    value.backward()
    assert value.isfinite() and z.grad.isfinite().all() and z.grad.abs().max() < 1e3


def test_spread_over_one_image_moves_nothing():
    z = normal(2, 5).requires_grad_()
    (losses.vicreg(z, invariance=0, variance=25, covariance=1) + losses.barlow_twins(z, 5e-3)).backward()
    assert not z.grad.any()


def test_a_low_temperature_sharpens_what_is_right():
    views = torch.cat([torch.eye(4), torch.eye(4)])
    cold, warm = (float(losses.nt_xent(views, temperature)) for temperature in (0.05, 1.0))
    assert cold < 1e-6 < warm
    assert float(losses.nt_xent(torch.cat([torch.eye(4), torch.eye(4).roll(1, 0)]), 0.05)) > 10
    cold, warm = (float(losses.alignment(torch.eye(4), torch.eye(4), temperature)) for temperature in (0.05, 1.0))
    assert cold < 1e-6 < warm


def test_the_teacher_gets_no_gradient():
    student, teacher = normal(4, 3).requires_grad_(), normal(4, 3, seed=1).requires_grad_()
    taught = (
        losses.alignment(student, teacher, 0.1),
        losses.distillation(student, teacher),
        losses.byol(student, teacher),
    )
    sum(taught).backward()
    assert student.grad.any() and teacher.grad is None


@given(sizes, st.integers(2, 6), seeds)
def test_distillation_is_its_formula(batch, classes, seed):
    student, teacher = 3 * normal(batch, classes, seed=seed), 3 * normal(batch, classes, seed=seed + 1)
    expected = 0.0
    for row, target in zip(student.double().softmax(1).tolist(), teacher.double().softmax(1).tolist(), strict=True):
        expected += sum(t * (math.log(t) - math.log(s)) for s, t in zip(row, target, strict=True)) / batch
    assert float(losses.distillation(student, teacher)) == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert expected >= -1e-9
    assert float(losses.distillation(teacher + 5, teacher)) == pytest.approx(0, abs=1e-5)


@given(sizes, st.integers(2, 6), seeds, st.floats(0, 30))
def test_entropy_is_its_formula_and_has_bounds(batch, classes, seed, scale):
    logits = scale * normal(batch, classes, seed=seed)
    p = logits.double().softmax(dim=1)
    expected = float(-(p * p.clamp(min=1e-300).log()).sum() / batch)
    assert float(losses.entropy(logits)) == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert -1e-6 <= float(losses.entropy(logits)) <= math.log(classes) + 1e-5


def test_entropy_at_its_ends():
    assert float(losses.entropy(torch.zeros(3, 10))) == pytest.approx(math.log(10))
    assert float(losses.entropy(1e4 * torch.eye(4))) == 0


@pytest.mark.parametrize(
    "loss",
    [
        lambda z: losses.nt_xent(z, 0.1),
        lambda z: losses.vicreg(z, invariance=25, variance=25, covariance=1),
        lambda z: losses.barlow_twins(z, 5e-3),
        lambda z: losses.byol(z[:4], z[4:]),
        lambda z: losses.alignment(z[:4], z[4:], 0.1),
        lambda z: losses.distillation(z[:4], z[4:]),
        lambda z: losses.entropy(z),
    ],
    ids=["nt_xent", "vicreg", "barlow_twins", "byol", "alignment", "distillation", "entropy"],
)
def test_losses_are_computed_in_float32_under_autocast(loss):
    z = normal(8, 6)
    with torch.autocast("cpu", torch.bfloat16):
        inside, of_bfloat16 = loss(z), loss(z.bfloat16())
    assert inside.dtype == of_bfloat16.dtype == torch.float32
    torch.testing.assert_close(inside, loss(z), rtol=0, atol=1e-6)
    torch.testing.assert_close(of_bfloat16, loss(z.bfloat16().float()), rtol=0, atol=1e-6)
