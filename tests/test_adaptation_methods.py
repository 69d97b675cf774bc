"""The adaptation methods against independent re-computations in plain lines, and on what each of them promises."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crosstask import runtime
from crosstask.errors import AdapterError
from crosstask.methods import PTBN, Source, Tent, augment
from crosstask.methods.augment import StrongViews
from crosstask.methods.batchnorm import set_batch_norm
from crosstask.methods.cotta import CoTTA
from crosstask.methods.deyo import DeYO, shuffle_patches
from crosstask.methods.eata import EATA
from crosstask.methods.lame import LAME
from crosstask.methods.memo import MEMO, memo_views
from crosstask.methods.roid import ROID
from crosstask.methods.rotta import RoTTA
from crosstask.methods.sar import SAR
from crosstask.methods.shot import SHOT
from crosstask.methods.t3a import T3A
from crosstask.nets.split import Classifier
from crosstask.testing import check_adapter
from test_methods import (  # noqa: F401
    CPU,
    accuracy,
    close,
    normed,
    plain_features,
    shifted,
    textures,
    training,
    world,
)

# Plain lines that several methods share. `w` holds the weights of the whole classifier by name.


def lively(tiny, classes: int = 5) -> Classifier:
    """Return a classifier that knows the statistics of textures, and is sure of some and unsure of others."""
    model, x = tiny.classifier(classes=classes), pictures(64, seed=9)
    for layer in (model.encoder.norm1, model.encoder.norm2):
        layer.reset_running_stats()
        layer.momentum = 1.0
    with torch.no_grad():
        model.train()(x)
        model.head.weight.mul_(5)
        model.head.bias.copy_(-(model.encoder.eval()(x) @ model.head.weight.T).mean(dim=0))
    return model


def pictures(count: int, seed: int) -> Tensor:
    """Return float images [count, 1, 16, 16] that differ from one another."""
    return runtime.to_unit_floats(textures(count, seed).images, CPU)


def whole(model: Classifier) -> dict[str, Tensor]:
    return {name: parameter.detach().clone().requires_grad_() for name, parameter in model.named_parameters()}


def features_of(model: Classifier, w: dict[str, Tensor], x: Tensor, policy: str = "batch") -> Tensor:
    inside = {name.removeprefix("encoder."): value for name, value in w.items() if name.startswith("encoder.")}
    return plain_features(model.encoder, inside, x, policy)


def logits_of(model: Classifier, w: dict[str, Tensor], x: Tensor, policy: str = "batch") -> Tensor:
    return features_of(model, w, x, policy) @ w["head.weight"].T + w["head.bias"]


def norms(w: dict[str, Tensor]) -> list[str]:
    return [name for name in w if "norm" in name]


def plain_entropies(logits: Tensor) -> Tensor:
    p = logits.softmax(dim=1)
    return -(p * torch.log(p.clamp(min=1e-30))).sum(dim=1)


class PlainSGD:
    """Gradient descent with momentum on some of the weights `w`, which it replaces in their dict."""

    def __init__(self, w: dict[str, Tensor], names: list[str], rate: float, momentum: float) -> None:
        self.w, self.names, self.rate, self.momentum = w, names, rate, momentum
        self.velocity: dict[str, Tensor | float] = dict.fromkeys(names, 0.0)

    def gradients(self, loss: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(loss, [self.w[name] for name in self.names]))

    def put(self, name: str, value: Tensor) -> None:
        self.w[name] = value.detach().requires_grad_()

    def descend(self, loss: Tensor) -> None:
        for name, gradient in zip(self.names, self.gradients(loss), strict=True):
            self.velocity[name] = self.momentum * self.velocity[name] + gradient
            self.put(name, self.w[name] - self.rate * self.velocity[name])


class PlainAdam(PlainSGD):
    """Adam (Kingma & Ba 2015, alg. 1)."""

    def __init__(self, w: dict[str, Tensor], names: list[str], rate: float) -> None:
        super().__init__(w, names, rate, 0.9)
        self.square: dict[str, Tensor | float] = dict.fromkeys(names, 0.0)
        self.count = 0

    def descend(self, loss: Tensor) -> None:
        self.count += 1
        for name, gradient in zip(self.names, self.gradients(loss), strict=True):
            self.velocity[name] = 0.9 * self.velocity[name] + 0.1 * gradient
            self.square[name] = 0.999 * self.square[name] + 0.001 * gradient**2
            mean, square = self.velocity[name] / (1 - 0.9**self.count), self.square[name] / (1 - 0.999**self.count)
            self.put(name, self.w[name] - self.rate * mean / (square.sqrt() + 1e-8))


def expect_weights(adapter: nn.Module, w: dict[str, Tensor]) -> None:
    for name, value in w.items():
        close(adapter.model.get_parameter(name), value)


def moved(adapter: nn.Module) -> bool:
    """Say whether a parameter is not where it was at the source."""
    pairs = zip(adapter.moving_parameters, adapter.source_values, strict=True)
    return any(not torch.equal(now, then) for now, then in pairs)


def distance(adapter: nn.Module) -> float:
    """Return how far a parameter has gone from the source at most."""
    pairs = zip(adapter.moving_parameters, adapter.source_values, strict=True)
    return max(float((now.detach() - then).abs().max()) for now, then in pairs)


def some(chosen: Tensor) -> bool:
    """Say whether a filter lets through a part, so that a test of it is one."""
    return 0 < int(chosen.sum()) < len(chosen)


# EATA


def fisher_of(model: Classifier, seed: int = 3) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        f"fisher.{name}": 5 * torch.rand(parameter.shape, generator=g)
        for name, parameter in model.named_parameters()
        if "norm" in name
    }


@pytest.mark.parametrize("fisher_weight", [0.0, 2.0])
def test_eata_learns_from_sure_and_unlike_predictions_near_the_source(tiny, training, fisher_weight):  # noqa: F811
    model, steps, margin, redundancy = lively(tiny).train(training), 2, 0.6, 0.6
    batches, fisher = (pictures(16, seed=1), pictures(16, seed=2)), fisher_of(model)
    adapter = EATA(
        model,
        fisher if fisher_weight else {},
        steps=steps,
        learning_rate=0.01,
        margin=margin,
        redundancy=redundancy,
        fisher_weight=fisher_weight,
    )
    w, source, average, filtered = whole(model), whole(model), None, [0, 0]
    adam = PlainAdam(w, norms(w), 0.01)
    for x in batches:
        for _ in range(steps):
            logits = logits_of(model, w, x)
            h, p = plain_entropies(logits), logits.softmax(dim=1).detach()
            chosen = h < margin * math.log(5)
            filtered[0] += some(chosen)
            if average is not None:
                cosine = (p @ average) / ((p**2).sum(dim=1).sqrt() * (average**2).sum().sqrt())
                filtered[1] += some(cosine[chosen].abs() < redundancy)
                chosen = chosen & (cosine.abs() < redundancy)
            picked = p[chosen].sum(dim=0) / chosen.sum()
            average = picked if average is None else 0.9 * average + 0.1 * picked
            terms = [torch.exp(margin * math.log(5) - h[i].detach()) * h[i] for i in range(16) if chosen[i]]
            penalty = sum(
                (fisher[f"fisher.{name}"] * (w[name] - source[name].detach()) ** 2).sum() for name in norms(w)
            )
            adam.descend(sum(terms) / len(terms) + fisher_weight * penalty)
        close(adapter(x), logits_of(model, w, x))
    assert all(filtered), "both filters took part"
    assert sorted(adapter.adapted_names) == sorted(norms(w))
    expect_weights(adapter, w)


def test_a_large_fisher_weight_keeps_eata_at_the_source(tiny):
    model, x = lively(tiny), pictures(16, seed=1)
    ones = {name: torch.ones_like(value) for name, value in fisher_of(model).items()}

    def gone(fisher_weight: float) -> float:
        adapter = EATA(
            model, ones, steps=60, learning_rate=3e-3, margin=1.0, redundancy=2.0, fisher_weight=fisher_weight
        )
        adapter(x)
        return distance(adapter)

    assert gone(1e5) < 0.1 * gone(0.0)


# SAR


def test_sar_descends_from_where_it_climbed(tiny, training):  # noqa: F811
    model, steps, margin, radius = lively(tiny).train(training), 3, 0.5, 0.2
    batches = pictures(16, seed=1), pictures(16, seed=2)
    adapter = SAR(model, steps=steps, learning_rate=0.05, momentum=0.8, radius=radius, margin=margin, reset_below=0.0)
    w, filtered, average = whole(model), [0, 0], None
    sgd = PlainSGD(w, norms(w), 0.05, 0.8)
    for x in batches:
        for _ in range(steps):
            h = plain_entropies(logits_of(model, w, x))
            sure = h < margin * math.log(5)
            gradients = sgd.gradients(h[sure].sum() / sure.sum())
            length = sum((g**2).sum() for g in gradients).sqrt()
            here = dict(w)
            for name, g in zip(norms(w), gradients, strict=True):
                sgd.put(name, w[name] + radius * g / length)
            h = plain_entropies(logits_of(model, w, x))
            still = h < margin * math.log(5)
            filtered = [filtered[0] + some(sure), filtered[1] + int((sure ^ still).any())]
            loss = h[sure & still].sum() / (sure & still).sum()
            average = loss.detach() if average is None else 0.9 * average + 0.1 * loss.detach()
            uphill = sgd.gradients(loss)
            w.update(here)
            sgd.descend(sum((w[name] * g).sum() for name, g in zip(norms(w), uphill, strict=True)))
        close(adapter(x), logits_of(model, w, x))
        close(adapter.average.value, average)
    assert all(filtered), "both choices of images took part"
    assert sorted(adapter.adapted_names) == sorted(norms(w))
    expect_weights(adapter, w)


def test_sar_goes_back_to_the_source_when_its_average_loss_falls_below_the_threshold(tiny):
    model, x = lively(tiny), pictures(16, seed=1)
    reset, kept = (SAR(model, learning_rate=0.05, margin=1.0, reset_below=limit) for limit in (10.0, 0.0))
    source = whole(model)
    reset(x), kept(x)
    for name in norms(source):
        assert torch.equal(reset.model.get_parameter(name), source[name])
        assert not torch.equal(kept.model.get_parameter(name), source[name])
    assert reset.average.value is None and not reset.descent.optimiser.state


def test_sar_goes_on_until_its_average_loss_falls_below_the_threshold(tiny):
    adapter, x, averages = SAR(lively(tiny), learning_rate=0.05, margin=1.0), pictures(16, seed=1), []
    while len(averages) < 300:
        adapter(x)
        back = not moved(adapter)
        if adapter.average.value is None:
            break
        averages.append(float(adapter.average.value))
        assert averages[-1] >= 0.2 and not back
    assert 3 < len(averages) < 300 and back and averages[-1] < 0.25, "it went back when it was about to fall below 0.2"


def test_sar_leaves_the_last_norms_alone(tiny):
    model, x = lively(tiny), pictures(16, seed=1)
    adapter = SAR(model, learning_rate=0.05, margin=1.0, skip="norm2")
    adapter(x)
    assert sorted(adapter.adapted_names) == ["encoder.norm1.bias", "encoder.norm1.weight"]
    assert torch.equal(adapter.model.encoder.norm2.weight, model.encoder.norm2.weight)


# SHOT


def test_shot_makes_predictions_sure_and_diverse_and_trusts_the_confident_ones(tiny, training):  # noqa: F811
    model, steps, confidence, theta = lively(tiny).train(training), 2, 0.6, 0.3
    batches = pictures(16, seed=1), pictures(16, seed=2)
    adapter = SHOT(model, steps=steps, learning_rate=0.02, momentum=0.8, pseudo_weight=theta, confidence=confidence)
    w, filtered = whole(model), 0
    moving = [name for name in w if name.startswith("encoder.")]
    sgd = PlainSGD(w, moving, 0.02, 0.8)
    for x in batches:
        for _ in range(steps):
            logits = logits_of(model, w, x)
            p = logits.softmax(dim=1)
            mean = p.sum(dim=0) / len(p)
            trusted = [i for i in range(len(p)) if p[i].max() > confidence]
            filtered += 0 < len(trusted) < len(p)
            pseudo = sum(-torch.log(p[i].max()) for i in trusted) / len(trusted)
            sgd.descend(plain_entropies(logits).sum() / len(p) + (mean * mean.log()).sum() + theta * pseudo)
        close(adapter(x), logits_of(model, w, x))
    assert filtered == 2 * steps
    assert sorted(adapter.adapted_names) == sorted(moving)
    expect_weights(adapter, w)


def test_shot_without_a_confident_prediction_still_learns(tiny):
    model, x = lively(tiny), pictures(16, seed=1)
    some_way = SHOT(model, learning_rate=0.1, confidence=1.0)(x)
    assert some_way.isfinite().all() and not torch.equal(some_way, SHOT(model, steps=0)(x))
    close(some_way, SHOT(model, learning_rate=0.1, pseudo_weight=0.0)(x))


# T3A


@pytest.mark.parametrize("policy", ["source", "batch"])
@pytest.mark.parametrize("keep", [1, 3, 50])
def test_t3a_keeps_the_surest_features_of_each_class(tiny, training, keep, policy):  # noqa: F811
    model = lively(tiny).train(training)
    w = whole(model)
    adapter = T3A(model, keep=keep, batch_norm=policy)
    rows = w["head.weight"].detach()
    memory = list(zip(rows, rows @ rows.T + w["head.bias"].detach(), strict=True))
    for seed in (1, 2, 3):
        x = pictures(16, seed=seed)
        z = features_of(model, w, x, policy).detach()
        memory += list(zip(z, z @ rows.T + w["head.bias"].detach(), strict=True))
        expected = torch.zeros(16, 5)
        for k in range(5):
            mine = [(float(plain_entropies(logits[None])), f) for f, logits in memory if int(logits.argmax()) == k]
            best = [f for _, f in sorted(mine, key=lambda pair: pair[0])[:keep]]
            if best:
                template = sum(f / (f**2).sum().sqrt() for f in best)
                expected[:, k] = z @ template / (template**2).sum().sqrt()
        close(adapter(x), expected)


def test_t3a_begins_with_the_rows_of_the_head(tiny):
    model, x = lively(tiny), pictures(16, seed=1)
    with torch.no_grad():
        model.head.weight.copy_(
            torch.linalg.qr(torch.randn(12, 5, generator=torch.Generator().manual_seed(0)))[0].T * 3
        )
        model.head.bias.zero_()
    w = whole(model)
    found = T3A(model, batch_norm="batch").curve(x, (0,))[0]
    close(found, features_of(model, w, x) @ (w["head.weight"] / 3).T)


def test_t3a_remembers_the_lowest_entropies_and_nothing_that_is_not_finite(tiny):
    model = lively(tiny)
    w = whole(model)
    adapter = T3A(model, keep=4)
    seen = [(w["head.weight"] @ w["head.weight"].T + w["head.bias"]).detach()]
    for seed in range(5):
        x = pictures(16, seed=seed)
        adapter(x)
        seen.append(logits_of(model, w, x, "source").detach())
    logits = torch.cat(seen)
    for k in range(5):
        mine = plain_entropies(logits)[logits.argmax(dim=1) == k].sort().values[:4]
        kept = adapter.entropies[k].sort().values
        close(kept[: len(mine)], mine)
        assert kept[len(mine) :].isinf().all()
    before = adapter.supports.clone()
    adapter(torch.full_like(x, torch.nan))
    assert torch.equal(adapter.supports, before)


# LAME


@pytest.mark.parametrize("affinity", ["knn", "rbf", "linear"])
def test_lame_lets_neighbours_agree(tiny, training, affinity):  # noqa: F811
    model, neighbours = lively(tiny).train(training), 3
    w = whole(model)
    adapter = LAME(model, affinity=affinity, neighbours=neighbours)
    for seed, count in ((1, 12), (2, 9), (3, 2), (4, 1)):
        x = pictures(count, seed=seed)
        z = features_of(model, w, x, "source").detach()
        z = z / (z**2).sum(dim=1, keepdim=True).sqrt()
        p = logits_of(model, w, x, "source").detach().softmax(dim=1)
        distance = ((z[:, None] - z[None]) ** 2).sum(dim=2).sqrt()
        kernel = z @ z.T
        if affinity == "knn":
            kernel = torch.zeros(count, count)
            for i in range(count):
                others = sorted((j for j in range(count) if j != i), key=lambda j: float(distance[i, j]))
                kernel[i, others[:neighbours]] = 1
        if affinity == "rbf":
            width = distance.sort(dim=1).values[:, min(neighbours, count) - 1].mean()
            kernel = torch.exp(-(distance**2) / (2 * width**2)) if count > 1 else torch.ones(1, 1)
        y = p / p.sum(dim=1, keepdim=True)
        for _ in range(100):
            powers = p * torch.exp(kernel @ y)
            y = powers / powers.sum(dim=1, keepdim=True)
        torch.testing.assert_close(adapter(x).exp(), y, rtol=1e-3, atol=1e-3)
        assert adapter(x).isfinite().all()
    assert not adapter.adapted_names


@pytest.mark.parametrize("affinity", ["knn", "rbf", "linear", None])
def test_an_image_of_nan_leaves_the_answers_of_lame_and_roid_for_the_others_alone(tiny, affinity):
    model, x = lively(tiny), pictures(9, seed=1)
    adapter = LAME(model, affinity=affinity, neighbours=3) if affinity else ROID(model, steps=0, batch_norm="source")
    poisoned, others = x.clone(), [0, 1, 2, 3, 5, 6, 8]
    poisoned[[4, 7]] = torch.nan
    answer = adapter(poisoned)
    close(answer[others], adapter(x[others]))
    assert answer[[4, 7]].isnan().all() and adapter(torch.full_like(x, torch.nan)).isnan().all()


@pytest.mark.parametrize("method", [LAME, T3A])
def test_a_network_that_goes_on_after_its_last_linear_layer_is_an_error_that_says_to_split_it(tiny, method):
    model = nn.Sequential(lively(tiny), nn.Softplus())
    with pytest.raises(AdapterError, match=r"its last nn.Linear, '0.head', gives, .*crosstask.split"):
        method(model)(pictures(4, seed=1))


# MEMO


def normed_logits(encoder: nn.Module, w: dict[str, Tensor], x: Tensor, share: float, move: bool = False) -> Tensor:
    """Run the tiny classifier by hand with a share of the batch's statistics; `move` makes them the layers' own."""
    x = (x - 0.5) / 0.25
    for convolution, norm in (("conv1", "norm1"), ("conv2", "norm2")):
        x = F.conv2d(x, w[f"encoder.{convolution}.weight"], stride=2, padding=1)
        layer, raw = getattr(encoder, norm), x
        x = normed(raw, layer, w[f"encoder.{norm}.weight"], w[f"encoder.{norm}.bias"], "mixed", share).clamp(min=0)
        if move:
            flat = raw.detach().transpose(0, 1).flatten(1)
            layer.running_mean = (1 - share) * layer.running_mean + share * flat.mean(dim=1)
            layer.running_var = (1 - share) * layer.running_var + share * flat.var(dim=1, unbiased=False)
    return x.mean(dim=(2, 3)) @ w["head.weight"].T + w["head.bias"]


@pytest.mark.parametrize("steps", [1, 2])
def test_memo_makes_the_mean_prediction_over_views_of_one_image_sure(tiny, training, steps):  # noqa: F811
    model, views = lively(tiny).train(training), 6
    adapter = MEMO(model, steps=steps, learning_rate=0.01, views=views, batch_share=0.2, seed=7)
    for seen, x in enumerate((pictures(4, seed=1), pictures(3, seed=2))):
        answers = []
        for place in range(len(x)):
            w = whole(model)  # every image starts from the source
            sgd = PlainSGD(w, list(w), 0.01, 0.0)
            for step in range(steps):
                many = torch.cat([x[place : place + 1]] * views)
                many = memo_views(many, runtime.generator(CPU, 7, seen, place, step))
                mean = normed_logits(model.encoder, w, many, 0.2).softmax(dim=1).sum(dim=0) / views
                sgd.descend(-(mean * mean.log()).sum())
            answers.append(normed_logits(model.encoder, w, x[place : place + 1], 0.2))
        close(adapter(x), torch.cat(answers))
        expect_weights(adapter, w)
    assert sorted(adapter.adapted_names) == sorted(w)


def test_memo_answers_for_an_image_whatever_its_batch_mates(tiny):
    model, x, others = lively(tiny), pictures(4, seed=1), pictures(4, seed=2)
    expected = MEMO(model, steps=2, views=4)(x)
    for place in range(4):
        mixed = others.clone()
        mixed[place] = x[place]
        assert torch.equal(MEMO(model, steps=2, views=4)(mixed)[place], expected[place])
    assert torch.equal(MEMO(model, steps=2, views=4)(x[:1]), expected[:1])
    online = MEMO(model, steps=2, views=4)
    assert not torch.equal(online(x), online(x)), "each batch has views of its own"


# CoTTA


@pytest.mark.parametrize("sure", [0.0, 1.0], ids=["itself", "views"])
def test_cotta_learns_from_its_teacher_and_partly_forgets(tiny, training, sure):  # noqa: F811
    model, steps, keep, views, share = lively(tiny).train(training), 2, 0.9, 3, 0.2
    adapter = CoTTA(
        model, steps=steps, learning_rate=0.01, keep=keep, views=views, sure=sure, restore_share=share, seed=7
    )
    w, source, teacher = whole(model), whole(model), whole(model)
    adam, g = PlainAdam(w, list(w), 0.01), torch.Generator().manual_seed(0)
    for name in w:  # a student like its teacher has no gradient, but for the noise of rounding, which Adam makes large
        with torch.no_grad():
            adam.put(name, w[name] + 0.1 * torch.randn(w[name].shape, generator=g))
            adapter.model.get_parameter(name).copy_(w[name])
    for seen, x in enumerate((pictures(8, seed=1), pictures(8, seed=2))):
        for step in range(steps):
            g = runtime.generator(CPU, 7, seen, step)
            target = logits_of(model, teacher, x)
            if sure:
                target = sum(logits_of(model, teacher, adapter.strong_views(x, g)) for _ in range(views)) / views
            target = target.detach().softmax(dim=1)
            adam.descend(-(target * logits_of(model, w, x).softmax(dim=1).log()).sum() / len(x))
            for name in w:
                teacher[name] = (keep * teacher[name] + (1 - keep) * w[name]).detach()
            for name in w:
                back = torch.rand(w[name].shape, generator=g) < share
                adam.put(name, source[name] * back + w[name] * ~back)
        close(adapter(x), logits_of(model, teacher, x))
    assert sorted(adapter.adapted_names) == sorted(w)
    expect_weights(adapter, w)


def test_cotta_asks_for_views_where_the_source_is_unsure_of_the_batch(tiny):
    model, x = lively(tiny), pictures(16, seed=1)
    sureness = float(PTBN(model)(x).softmax(dim=1).amax(dim=1).mean())
    below, above, itself, views = (
        CoTTA(model, views=2, learning_rate=0.01, keep=0.5, sure=sure)(x)
        for sure in (sureness - 0.01, sureness + 0.01, 0.0, 1.0)
    )
    assert torch.equal(below, itself) and torch.equal(above, views) and not torch.equal(below, above)


def test_the_teacher_of_cotta_answers(tiny):
    model, x = lively(tiny), pictures(16, seed=1)
    still = CoTTA(model, steps=3, learning_rate=0.05, views=2, keep=1.0, restore_share=0.0)
    close(still(x), PTBN(model)(x))
    student = {name: parameter.detach() for name, parameter in still.model.named_parameters()}
    assert (logits_of(model, student, x) - PTBN(model)(x)).abs().max() > 0.1, "the student went elsewhere"
    following = CoTTA(model, steps=3, learning_rate=0.05, views=2, keep=0.0, restore_share=0.0)
    answer = following(x)
    close(answer, logits_of(model, dict(following.model.named_parameters()), x))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_cotta_sends_a_share_of_the_weights_back_to_the_source(tiny, share):
    model = lively(tiny)
    adapter = CoTTA(model, learning_rate=0.05, sure=0.0, restore_share=share)
    teacher_moves = adapter.curve(pictures(16, seed=1), (0, 1))
    with torch.no_grad():
        at_source = torch.cat(
            [
                (now == then).flatten()
                for now, then in zip(adapter.moving_parameters, adapter.source_values, strict=True)
            ]
        )
    found = float(at_source.float().mean())
    assert found == 1.0 if share == 1 else abs(found - share) < 0.05
    assert not torch.equal(teacher_moves[0], teacher_moves[1])


@pytest.mark.parametrize("size", [(16, 16), (16, 24), (28, 14)], ids=str)
def test_a_strong_view_is_turned_and_never_sheared(monkeypatch, size):
    taken = []
    monkeypatch.setattr(augment, "resampled", lambda x, matrix, padding: taken.append(matrix) or x)
    StrongViews()(torch.rand(32, 3, *size), torch.Generator().manual_seed(0))
    half = torch.tensor([size[1], size[0]]) / 2
    inside = half[:, None] * taken[0][:, :, :2] / half  # from units of half a side to pixels
    squares = inside.transpose(1, 2) @ inside
    torch.testing.assert_close(squares, squares[:, :1, :1] * torch.eye(2), rtol=1e-4, atol=1e-5)


# RoTTA


class PlainMemory:
    """A memory of (image, class, entropy / ln K, when it came), in the words of Yuan et al. 2023, sec. 3.3."""

    def __init__(self, capacity: int, classes: int) -> None:
        self.capacity, self.classes, self.now = capacity, classes, 0
        self.kept: list[tuple[Tensor, int, float, int]] = []
        self.replaced = {"within its class": 0, "of the largest class": 0, "refused": 0}

    def badness(self, entry: tuple[Tensor, int, float, int]) -> float:
        return 1 / (1 + math.exp(-(self.now - entry[3]) / self.capacity)) + entry[2]

    def offer(self, image: Tensor, label: int, unsure: float) -> None:
        entry = (image, label, unsure, self.now)
        sizes = [sum(other[1] == k for other in self.kept) for k in range(self.classes)]
        full_class = sizes[label] >= self.capacity / self.classes
        if full_class or len(self.kept) == self.capacity:
            rivals = [e for e in self.kept if (e[1] == label if full_class else sizes[e[1]] == max(sizes))]
            worst = max(rivals, key=self.badness)
            if self.badness(worst) > self.badness(entry):
                self.kept = [e for e in self.kept if e is not worst] + [entry]
                self.replaced["within its class" if full_class else "of the largest class"] += 1
            else:
                self.replaced["refused"] += 1
        else:
            self.kept.append(entry)
        self.now += 1


def test_rotta_learns_from_its_memory_by_a_teacher(tiny, training):  # noqa: F811
    model, capacity, every, rate, share = lively(tiny).train(training), 7, 6, 0.2, 0.1
    adapter = RoTTA(model, learning_rate=0.01, capacity=capacity, every=every, rate=rate, batch_share=share, seed=7)
    w, teacher, memory = whole(model), whole(model), PlainMemory(capacity, 5)
    student_norms, teacher_norms = copy.deepcopy(model.encoder), copy.deepcopy(model.encoder)
    adam, updates = PlainAdam(w, norms(w), 0.01), 0
    for seen in range(4):
        x, g = pictures(10, seed=seen), runtime.generator(CPU, 7, seen, 0)
        p = normed_logits(teacher_norms, teacher, x, 0.0).detach().softmax(dim=1)
        for i in range(len(x)):  # all of a batch is looked at by the teacher before it
            memory.offer(x[i], int(p[i].argmax()), float(-(p[i] * p[i].log()).sum() / math.log(5)))
            if memory.now % every:
                continue
            updates += 1
            images = torch.stack([entry[0] for entry in memory.kept])
            ages = torch.tensor([(memory.now - entry[3]) / capacity for entry in memory.kept])
            target = normed_logits(teacher_norms, teacher, images, share, move=True).detach().softmax(dim=1)
            views = adapter.strong_views(images, g)
            answer = normed_logits(student_norms, w, views, share, move=True).softmax(dim=1).log()
            timely = torch.exp(-ages) / (1 + torch.exp(-ages))
            adam.descend(-(timely * (target * answer).sum(dim=1)).sum() / len(images))
            for name in w:
                teacher[name] = ((1 - rate) * teacher[name] + rate * w[name]).detach()
        close(adapter(x), normed_logits(teacher_norms, teacher, x, 0.0))
    assert updates == 6 and all(memory.replaced.values()), "every rule of the memory took part"
    expect_weights(adapter, w)
    for name in ("norm1", "norm2"):
        close(adapter.model.get_buffer(f"encoder.{name}.running_mean"), getattr(student_norms, name).running_mean)
        close(adapter.model.get_buffer(f"encoder.{name}.running_var"), getattr(student_norms, name).running_var)


def test_rotta_updates_once_in_64_images_from_a_balanced_bounded_memory(tiny):
    model = lively(tiny)
    adapter, labels = RoTTA(model), []
    for seen in range(20):  # 13 images at a time
        before = [p.detach().clone() for p in adapter.moving_parameters]
        adapter(pictures(13, seed=seen))
        updated = any(not torch.equal(b, p) for b, p in zip(before, adapter.moving_parameters, strict=True))
        assert updated == ((13 * (seen + 1)) // 64 > 13 * seen // 64)
        labels = [item["label"] for item in adapter.memory.items]
        assert len(labels) <= 64 and all(labels.count(k) <= math.ceil(64 / 5) for k in range(5))
    assert len(labels) > 32
    again = RoTTA(model)
    again(pictures(64, seed=0))
    assert len(again.memory.items) <= 64 and again.memory.seen == 64
    again.reset()
    assert not again.memory.items and again.memory.seen == 0


def test_the_teacher_of_rotta_answers(tiny):
    model, x = lively(tiny), pictures(16, seed=1)
    still = RoTTA(model, learning_rate=0.1, every=4, rate=0.0, batch_share=0.0)
    close(still(x), Source(model)(x))
    assert moved(still), "the student went elsewhere"
    following = RoTTA(model, learning_rate=0.1, every=4, rate=1.0, batch_share=0.0)
    answer = following(x)
    close(answer, logits_of(model, dict(following.model.named_parameters()), x, "source"))


# DeYO


def test_deyo_learns_where_the_shape_matters(tiny, training):  # noqa: F811
    model, steps, margin, difference = lively(tiny).train(training), 2, 0.6, 0.15
    adapter = DeYO(model, steps=steps, learning_rate=0.01, margin=margin, difference=difference, seed=7)
    w, filtered = whole(model), [0, 0]
    adam = PlainAdam(w, norms(w), 0.01)
    for seen, x in enumerate((pictures(16, seed=1), pictures(16, seed=2))):
        for step in range(steps):
            destroyed = shuffle_patches(x, 4, runtime.generator(CPU, 7, seen, step))
            logits = logits_of(model, w, x)
            h, p = plain_entropies(logits), logits.detach().softmax(dim=1)
            q = logits_of(model, w, destroyed).detach().softmax(dim=1)
            fall = torch.stack([p[i].max() - q[i, p[i].argmax()] for i in range(16)])
            sure, shaped = h < margin * math.log(5), fall > difference
            filtered = [filtered[0] + some(sure), filtered[1] + some(shaped[sure])]
            terms = [
                (torch.exp(0.4 * math.log(5) - h[i].detach()) + torch.exp(fall[i])) * h[i]
                for i in range(16)
                if sure[i] and shaped[i]
            ]
            adam.descend(sum(terms) / len(terms))
        close(adapter(x), logits_of(model, w, x))
    assert all(filtered), "both filters took part"
    assert sorted(adapter.adapted_names) == sorted(norms(w))
    expect_weights(adapter, w)


def test_deyo_learns_nothing_from_images_that_survive_the_shuffle(tiny):
    model, x = lively(tiny), pictures(16, seed=1)
    tiles = x[:, :, :4, :4].repeat(1, 1, 4, 4)  # sixteen times the same piece
    for images, learns in ((tiles, False), (x, True)):
        adapter = DeYO(model, margin=1.0, difference=0.01, batch_norm="source")
        adapter(images)
        assert moved(adapter) == learns
    assert not torch.equal(
        DeYO(model, margin=1.0, difference=0.0, seed=1)(x), DeYO(model, margin=1.0, difference=0.0)(x)
    )


@pytest.mark.parametrize("size", [16, 14, 3])
def test_a_shuffle_moves_whole_patches(size):
    x = torch.rand(3, 2, size, size, generator=torch.Generator().manual_seed(0))
    mixed = shuffle_patches(x, 4, torch.Generator().manual_seed(1))
    assert mixed.shape == x.shape and not torch.equal(mixed, x)
    if size == 16:
        for one, other in zip(x, mixed, strict=True):
            before, after = (
                sorted(
                    tuple(image[:, r : r + 4, c : c + 4].flatten().tolist())
                    for r in range(0, 16, 4)
                    for c in range(0, 16, 4)
                )
                for image in (one, other)
            )
            assert before == after
        places = [
            [bool((a[:, r, c] == b[:, r, c]).all()) for r in range(16) for c in range(16)]
            for a, b in zip(x, mixed, strict=True)
        ]
        assert places[0] != places[1], "each image is shuffled in an order of its own"


# ROID


def corrected(logits: Tensor) -> Tensor:
    """Scale logits by the batch's smoothed class prior."""
    p = logits.softmax(dim=1)
    prior = p.sum(dim=0) / len(p)
    smooth = max(1 / p.shape[0], 1 / p.shape[1]) / prior.max()
    return logits * (prior + smooth) / (1 + p.shape[1] * smooth)


@pytest.mark.parametrize("count", [16, 3])
def test_roid_weighs_certainty_and_diversity_and_stays_near_the_source(tiny, training, count):  # noqa: F811
    model, steps, keep, temperature = lively(tiny).train(training), 2, 0.9, 0.5
    adapter = ROID(model, steps=steps, learning_rate=0.01, temperature=temperature, keep=keep, seed=7)
    w, source, average = whole(model), whole(model), torch.full((5,), 0.2)
    adam = PlainAdam(w, norms(w), 0.01)
    for seen, x in enumerate((pictures(count, seed=1), pictures(count, seed=2))):
        for step in range(steps):
            logits = logits_of(model, w, x)
            p = logits.softmax(dim=1)
            fixed = p.detach()
            unlike = 1 - (fixed @ average) / ((fixed**2).sum(dim=1).sqrt() * (average**2).sum().sqrt())
            certain = -plain_entropies(logits.detach())
            unlike = (unlike - unlike.min()) / (unlike.max() - unlike.min())
            certain = (certain - certain.min()) / (certain.max() - certain.min())
            kept = [i for i in range(count) if unlike[i] >= unlike.sum() / count]
            assert 0 < len(kept) < count
            average = 0.9 * average + 0.1 * fixed.sum(dim=0) / count
            views = adapter.weak_views(x[kept], runtime.generator(CPU, 7, seen, step))
            q, loss = logits_of(model, w, views).softmax(dim=1), 0.0
            for i, changed in zip(kept, q, strict=True):
                clipped = p[i].clamp(max=0.99)
                ratio = -(clipped * torch.log(clipped / (1 - clipped) + 1e-5)).sum()
                agreement = -0.5 * (p[i] * changed.log()).sum() - 0.5 * (changed * p[i].log()).sum()
                loss = loss + torch.exp(unlike[i] * certain[i] / temperature) * (ratio + agreement)
            adam.descend(loss / count)
            for name in norms(w):
                adam.put(name, keep * w[name] + (1 - keep) * source[name])
        close(adapter(x), corrected(logits_of(model, w, x)))
    assert sorted(adapter.adapted_names) == sorted(norms(w))
    expect_weights(adapter, w)


def test_roid_corrects_for_the_prior_of_the_batch_and_nothing_else_before_it_learns(tiny):
    model, x = lively(tiny), pictures(16, seed=1)
    answer = ROID(model).curve(x, (0,))[0]
    close(answer, corrected(PTBN(model)(x)))
    p = PTBN(model)(x).softmax(dim=1).mean(dim=0)
    scale = (answer / PTBN(model)(x)).mean(dim=0)
    assert scale.argmax() == p.argmax() and scale.argmin() == p.argmin()


def test_weight_ensembling_pulls_roid_back_to_the_source(tiny):
    model, x = lively(tiny), pictures(16, seed=1)

    def gone(keep: float) -> float:
        adapter = ROID(model, steps=20, learning_rate=0.01, keep=keep)
        adapter(x)
        return distance(adapter)

    assert gone(0.0) < 1e-6 < gone(0.5) < gone(0.9) < gone(1.0)


# Batch norm, and the check of the contract


class BatchNormAct(nn.BatchNorm2d):
    """A batch norm with its activation inside, as timm has it."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


@pytest.mark.parametrize(
    "layer", [BatchNormAct(4), nn.BatchNorm2d(4, track_running_stats=False)], ids=["own forward", "no averages"]
)
def test_a_single_value_a_channel_without_running_averages_is_an_error_that_says_what_to_do(layer):
    adapter = PTBN(nn.Sequential(nn.Conv2d(1, 4, 6), layer, nn.Flatten()))
    with pytest.raises(AdapterError, match=r"than one value a channel, .* got \[1, 4, 1, 1\]; give larger batches"):
        adapter(torch.rand(1, 1, 6, 6))
    assert copy.deepcopy(adapter)(torch.rand(2, 1, 6, 6)).isfinite().all()


@pytest.mark.parametrize("make", [nn.BatchNorm2d, BatchNormAct])
def test_a_batch_norm_in_two_places_stays_one(make):
    norm = make(4)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.Conv2d(4, 4, 3), norm, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert set_batch_norm(copy.deepcopy(model), "batch") == 2
    adapter = Tent(model, learning_rate=0.1)
    assert adapter.model[1] is adapter.model[3] and adapter.adapted_names == ["1.weight", "1.bias"]
    assert len({id(p) for p in adapter.moving_parameters}) == len(adapter.moving_parameters) == 2
    assert adapter(pictures(4, seed=1)).isfinite().all() and moved(adapter)


def test_an_adapter_that_takes_pixels_up_to_255_breaks_the_contract(tiny):
    class Clamps(Source):
        def curve(self, x, at):
            return super().curve(x.clamp(0, 1), at)

    model, x = tiny.classifier(), tiny.images()
    check_adapter(lambda: Source(model), 0.001 * x, model=model)
    with pytest.raises(AdapterError, match=r"1 clause.*\n  wrong input: a batch of pixels up to 255 should raise"):
        check_adapter(lambda: Clamps(model), x, model=model)


# In the toy world of `test_methods`


def stream_accuracy(adapter: nn.Module, images: Tensor, labels: Tensor, batch_size: int = 64) -> float:
    """Return the share of right answers over a stream, online."""
    right = 0
    for x, y in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        right += int((adapter(x).argmax(dim=1) == y).sum())
    return right / len(labels)


def hazy(x: Tensor) -> Tensor:
    """Take away contrast alone: a shift that one image by itself can tell something about."""
    return 0.5 + 0.4 * (x - 0.5)


def grainy(x: Tensor) -> Tensor:
    """Add noise: a shift under which features still have the right neighbours."""
    return (x + 0.12 * torch.randn(x.shape, generator=torch.Generator().manual_seed(5))).clamp(0, 1)


def unchanged(x: Tensor) -> Tensor:
    return x


def of_the_world(method: str, model: Classifier) -> nn.Module:
    """Return the method, in a few steps at a rate for a tiny network where its own is for a large one."""
    if method == "eata":
        fisher = {name: torch.ones_like(value) for name, value in fisher_of(model).items()}
        return EATA(model, fisher, steps=3, learning_rate=5e-3)
    few = {"sar": SAR, "shot": SHOT, "deyo": DeYO, "roid": ROID}
    return few[method](model, steps=3, learning_rate=5e-3) if method in few else CoTTA(model, steps=3, views=8)


@pytest.mark.parametrize("method", ["eata", "sar", "shot", "cotta", "deyo", "roid"])
def test_adapting_beats_the_model_that_does_not(world, method):  # noqa: F811
    teacher, _, _, test = world
    adapter = of_the_world(method, teacher)
    assert accuracy(adapter, test, shifted) > accuracy(Source(teacher), test, shifted) + 0.2
    assert moved(adapter), "it learned, and did not only take the batch's statistics"
    assert accuracy(adapter, test, unchanged) >= accuracy(Source(teacher), test, unchanged) - 0.01


def test_memo_beats_the_model_that_does_not_adapt_an_image_at_a_time(world):  # noqa: F811
    teacher, _, _, test = world
    x, y = hazy(runtime.to_unit_floats(test.images[:64], CPU)), test.labels[:64]
    right = {steps: stream_accuracy(MEMO(teacher, steps=steps, learning_rate=0.05, views=16), x, y) for steps in (0, 1)}
    assert right[1] > stream_accuracy(Source(teacher), x, y) + 0.08 and right[1] > right[0]


def test_rotta_beats_the_model_that_does_not_adapt_along_a_stream(world):  # noqa: F811
    teacher = world[0]
    stream = textures(1280, seed=3)
    x, y = shifted(runtime.to_unit_floats(stream.images, CPU)), stream.labels
    assert stream_accuracy(RoTTA(teacher, batch_share=0.2), x, y) > stream_accuracy(Source(teacher), x, y) + 0.2


def test_lame_wins_where_neighbours_in_time_share_a_class(world):  # noqa: F811
    teacher, stream = world[0], textures(640, seed=3)
    by_class = stream.labels.sort(stable=True).indices  # so that a batch holds one class or two
    x, y = grainy(runtime.to_unit_floats(stream.images, CPU)[by_class]), stream.labels[by_class]
    for affinity in ("knn", "rbf"):
        right = stream_accuracy(LAME(teacher, affinity=affinity), x, y)
        assert right > stream_accuracy(Source(teacher), x, y) + 0.03


@pytest.mark.parametrize("adapter", [LAME, T3A])
def test_methods_without_a_gradient_lose_little_on_clean_images_in_random_order(world, adapter):  # noqa: F811
    teacher, _, _, test = world
    assert accuracy(adapter(teacher), test, unchanged) >= accuracy(Source(teacher), test, unchanged) - 0.01
    x, y = runtime.to_unit_floats(test.images, CPU), test.labels
    assert stream_accuracy(adapter(teacher), x, y) >= stream_accuracy(Source(teacher), x, y) - 0.01


def test_t3a_corrects_the_last_layer_under_a_shift(world):  # noqa: F811
    teacher, _, _, test = world
    x, y = shifted(runtime.to_unit_floats(test.images, CPU)), test.labels
    adapted = stream_accuracy(T3A(teacher, batch_norm="batch"), x, y)
    assert adapted > stream_accuracy(PTBN(teacher), x, y) + 0.02
