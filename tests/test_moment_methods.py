"""TTT++, TTAC and ReC-TTT against independent re-computations in plain lines, and the source's moments they ask for."""

from __future__ import annotations

import copy
import math
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crosstask import runtime
from crosstask.config import Supervised, Task
from crosstask.data.images import ImageSet
from crosstask.errors import AdapterError, ConfigError, DataError, UnknownName
from crosstask.methods.rec_ttt import RecTTT
from crosstask.methods.ttac import TTAC, symmetric_kl
from crosstask.methods.ttt_plus_plus import TTTPlusPlus
from crosstask.nets.encoders import make_encoder
from crosstask.nets.split import Classifier
from crosstask.nets.twin import Twin
from crosstask.tasks import make_task
from crosstask.tasks.reconstruction import Reconstruction
from crosstask.testing import check_adapter
from crosstask.train.joint import pretrain_joint
from crosstask.train.loop import Run
from crosstask.train.moments import class_moments, projection_moments
from crosstask.train.statistics import feature_statistics
from test_methods import CPU, close, normed, plain_features, plain_nt_xent, training, weights  # noqa: F401

NETS = {"gray": (1, "batch"), "colour": (3, "batch"), "group norm": (3, "group")}
RUN = Run(seed=0, device=CPU, precision="float32")


def source_set(count: int = 40, channels: int = 1, classes: int = 5, labels: Tensor | None = None) -> ImageSet:
    """Return random images, of all classes in turn if no labels are given."""
    pixels = torch.randint(0, 256, (count, channels, 12, 12), generator=torch.Generator().manual_seed(3))
    return ImageSet(
        images=pixels.to(torch.uint8),
        labels=torch.arange(count) % classes if labels is None else labels,
        class_names=tuple("abcdefghij"[:classes]),
        name="source",
    )


def source_statistics(checkpoint, images: ImageSet) -> dict[str, Tensor]:
    """Return all statistics of the source, from copies of the checkpoint's networks."""
    encoder, task = copy.deepcopy(checkpoint.encoder), copy.deepcopy(checkpoint.task)
    return {
        **feature_statistics(encoder, images, RUN),
        **class_moments(encoder, images, RUN),
        **projection_moments(encoder, task, images, RUN),
    }


def plain_moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased covariance, a row at a time."""
    mean = sum(rows) / len(rows)
    return mean, sum(torch.outer(row - mean, row - mean) for row in rows) / (len(rows) - 1)


def plain_projections(task: nn.Module, features: Tensor) -> Tensor:
    g = task.projector
    return (features @ g[0].weight.T + g[0].bias).clamp(min=0) @ g[2].weight.T + g[2].bias


def quietly(adapter: nn.Module, x: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return adapter(x)


# The source's moments


def test_class_moments_are_those_of_the_features_of_each_class(tiny):
    checkpoint = tiny.checkpoint(classes=4)
    images = source_set(30, labels=torch.tensor([0] * 17 + [1] * 12 + [2]), classes=4)
    found = class_moments(checkpoint.encoder.train(), images, RUN)
    features = plain_features(checkpoint.encoder, weights(checkpoint.encoder), images.images / 255, "source").double()
    whole = plain_moments(features)
    expected = [plain_moments(features[:17]), plain_moments(features[17:29]), (features[29], whole[1]), whole]
    close(found["class_mean"], torch.stack([mean for mean, _ in expected]).float())
    close(found["class_covariance"], torch.stack([covariance for _, covariance in expected]).float())
    assert not checkpoint.encoder.training
    with pytest.raises(DataError, match="needs labels"):
        class_moments(checkpoint.encoder, images.unlabelled(), RUN)


@pytest.mark.parametrize(("count", "batches"), [(600, 3), (9, 2)])
def test_projection_moments_and_the_distance_of_a_typical_batch(tiny, count, batches):
    checkpoint, images = tiny.checkpoint(), source_set(count)
    found = projection_moments(checkpoint.encoder, checkpoint.task, images, RUN)
    order = torch.randperm(count, generator=runtime.generator(CPU, 0, "statistics"))
    x = images.images[order] / 255
    features = plain_features(checkpoint.encoder, weights(checkpoint.encoder), x, "source").detach().double()
    projections = plain_projections(checkpoint.task.double(), features).detach()
    expected = []
    for rows in (features, projections):
        mean, covariance = plain_moments(rows)
        parts = [plain_moments(part) for part in rows.tensor_split(batches)]
        expected.append(sum(((c - covariance) ** 2).sum() / (4 * len(c) ** 2) for _, c in parts) / batches)
        expected.append(sum(((m - mean) ** 2).sum() / len(m) for m, _ in parts) / batches)
    close(found["task_mean"], mean.float())
    close(found["task_covariance"], covariance.float())
    torch.testing.assert_close(found["discrepancy"], torch.stack(expected).float(), rtol=1e-4, atol=1e-9)
    assert (found["discrepancy"] > 0).all()
    bare = make_task(Task(hidden=0), checkpoint.encoder.feature_dim)
    close(projection_moments(checkpoint.encoder, bare, images, RUN)["task_mean"], features.mean(dim=0).float())
    with pytest.raises(DataError, match="at least 4 images for the moments of TTT"):
        projection_moments(checkpoint.encoder, checkpoint.task, source_set(3), RUN)


# TTT++


def plain_alignment(rows: Tensor, mean: Tensor, covariance: Tensor, c0: Tensor, m0: Tensor) -> Tensor:
    own_mean, own_covariance = plain_moments(rows)
    coral = ((covariance - own_covariance) ** 2).sum() / (4 * len(mean) ** 2)
    return coral / c0 + 0.5 * ((mean - own_mean) ** 2).sum() / len(mean) / m0


@pytest.mark.parametrize("queue", [0, 8, 100])
@pytest.mark.parametrize("steps", [1, 2])
def test_ttt_plus_plus_is_momentum_on_nt_xent_and_aligned_moments(tiny, training, steps, queue):  # noqa: F811
    checkpoint, batches = tiny.checkpoint(), (tiny.images(seed=1), tiny.images(seed=2))
    s = source_statistics(checkpoint, source_set())
    model, task = checkpoint.classifier.train(training), checkpoint.task.train(training)
    how = {"learning_rate": 0.003, "momentum": 0.8, "scale_features": 0.3, "scale_projections": 0.1}
    adapter = TTTPlusPlus(model, task, s, steps=steps, queue=queue, seed=7, **how)
    w = weights(model.encoder)
    momentum, past = dict.fromkeys(w, 0.0), torch.empty(0, 12)
    for seen, x in enumerate(batches):
        for step in range(steps):
            views = task.views(x, runtime.generator(CPU, 7, seen, step))
            loss = plain_nt_xent(plain_projections(task, plain_features(model.encoder, w, views)), task.temperature)
            own = plain_features(model.encoder, w, x)
            rows = torch.cat([past, own])
            loss = loss + 0.3 * plain_alignment(rows, s["mean"], s["covariance"], *s["discrepancy"][:2])
            rows = plain_projections(task, rows)
            loss = loss + 0.1 * plain_alignment(rows, s["task_mean"], s["task_covariance"], *s["discrepancy"][2:])
            past = torch.cat([past, own.detach()])[max(0, len(past) + len(own) - queue) :]
            for name, gradient in zip(w, torch.autograd.grad(loss, list(w.values())), strict=True):
                momentum[name] = 0.8 * momentum[name] + gradient
                w[name] = (w[name] - 0.003 * momentum[name]).detach().requires_grad_()
        close(adapter(x), plain_features(model.encoder, w, x) @ model.head.weight.T + model.head.bias)
    assert sorted(adapter.adapted_names) == sorted(f"encoder.{name}" for name in w)
    for name in w:
        close(adapter.model.get_parameter(f"encoder.{name}"), w[name])


@pytest.mark.parametrize("net", NETS)
def test_ttt_plus_plus_keeps_the_contract(tiny, net):
    channels, norm = NETS[net]
    checkpoint = tiny.checkpoint(channels, norm)
    s = source_statistics(checkpoint, source_set(channels=channels))
    caller = nn.ModuleList([checkpoint.encoder, checkpoint.head, checkpoint.task])

    def factory() -> TTTPlusPlus:
        return TTTPlusPlus(checkpoint.classifier, checkpoint.task, s, steps=2, learning_rate=1e-3, queue=9)

    check_adapter(factory, tiny.images(4, channels), model=caller)


def test_the_queue_of_ttt_plus_plus_keeps_the_last_features_and_no_bad_ones(tiny):
    checkpoint, x = tiny.checkpoint(), tiny.images()
    adapter = TTTPlusPlus(checkpoint.classifier, checkpoint.task, source_statistics(checkpoint, source_set()), queue=8)
    adapter(x)
    assert adapter.queue.kept.shape == (6, 12)
    adapter(1 - x)
    before = adapter.queue.kept.clone()
    assert before.shape == (8, 12)
    poisoned = x.clone()
    poisoned[2] = torch.nan
    with pytest.warns(RuntimeWarning, match="an update was refused"):
        adapter(poisoned)
    assert torch.equal(adapter.queue.kept, before)
    adapter.reset()
    assert adapter.queue.kept is None


def test_ttt_plus_plus_says_what_it_lacks(tiny):
    checkpoint = tiny.checkpoint()
    s = source_statistics(checkpoint, source_set())
    less = {name: value for name, value in s.items() if name not in ("task_mean", "discrepancy")}
    with pytest.raises(AdapterError, match=r"needs task_mean, discrepancy among .* pretrain RECIPE --only joint"):
        TTTPlusPlus(checkpoint.classifier, checkpoint.task, less)
    with pytest.raises(AdapterError, match="an encoder and a head, and got a TinyEncoder"):
        TTTPlusPlus(checkpoint.encoder, checkpoint.task, s)
    with pytest.raises(AdapterError, match="the SimCLR task of its training, and got a Linear"):
        TTTPlusPlus(checkpoint.classifier, nn.Linear(2, 2), s)


# TTAC


class Averages:
    """The running averages of the tiny encoder's two norms, moved by hand by a tenth of the way."""

    def __init__(self, encoder: nn.Module) -> None:
        self.encoder = encoder
        layers = {name: getattr(encoder, name) for name in ("norm1", "norm2")}
        self.mean = {name: layer.running_mean.clone() for name, layer in layers.items()}
        self.var = {name: layer.running_var.clone() for name, layer in layers.items()}

    def features(self, w: dict[str, Tensor], x: Tensor, learning: bool, taps: list[Tensor] | None = None) -> Tensor:
        x = (x - 0.5) / 0.25
        for index in "12":
            x = F.conv2d(x, w[f"conv{index}.weight"], stride=2, padding=1)
            x = self.normed(f"norm{index}", w, x, learning)
            if taps is not None:
                taps.append(x)
            x = x.clamp(min=0)
        return x.mean(dim=(2, 3))

    def normed(self, name: str, w: dict[str, Tensor], x: Tensor, learning: bool) -> Tensor:
        layer = copy.deepcopy(getattr(self.encoder, name))
        if learning:
            flat = x.detach().transpose(0, 1).flatten(1)
            self.mean[name] = 0.9 * self.mean[name] + 0.1 * flat.mean(dim=1)
            self.var[name] = 0.9 * self.var[name] + 0.1 * flat.var(dim=1, correction=0)
        layer.running_mean, layer.running_var = self.mean[name], self.var[name]
        return normed(x, layer, w[f"{name}.weight"], w[f"{name}.bias"], "batch" if learning else "source")


def plain_divergence(mean: Tensor, covariance: Tensor, other_mean: Tensor, other_covariance: Tensor) -> Tensor:
    """Both directions, from torch's own Gaussians in double precision."""
    one = torch.distributions.MultivariateNormal(mean.double(), covariance.double())
    other = torch.distributions.MultivariateNormal(other_mean.double(), other_covariance.double())
    kl = torch.distributions.kl_divergence
    return (kl(one, other) + kl(other, one)).float()


@pytest.mark.parametrize("fewest", [1, 3])
@pytest.mark.parametrize("steps", [1, 2])
def test_ttac_is_momentum_on_the_divergence_of_running_gaussians(tiny, training, steps, fewest):  # noqa: F811
    checkpoint, batches = tiny.checkpoint(classes=3), (tiny.images(9, seed=1), tiny.images(5, seed=2))
    s = source_statistics(checkpoint, source_set(classes=3))
    model = checkpoint.classifier.train(training)
    how = {"class_memory": 12, "global_memory": 20, "confidence": 0.5, "fewest": fewest}
    adapter = TTAC(model, s, steps=steps, learning_rate=3e-5, momentum=0.8, class_weight=0.3, global_weight=0.1, **how)
    w, averages = weights(model.encoder), Averages(model.encoder)
    momentum = dict.fromkeys(w, 0.0)
    ridge = s["covariance"].max() / 30 * torch.eye(12)
    targets = {k: (0, s["class_mean"][k], s["class_covariance"][k]) for k in range(3)}
    targets[None] = (0, s["mean"], s["covariance"])
    aligned = 0
    for x in batches:
        for _ in range(steps):
            features = averages.features(w, x, learning=True)
            chance = (features @ model.head.weight.T + model.head.bias).softmax(dim=1)
            sure = chance.max(dim=1).values > 0.5
            rows = list(zip(features, chance, sure, strict=True))
            groups = {k: [row for row, p, yes in rows if yes and p.argmax() == k] for k in range(3)}
            loss, groups[None] = 0.0, list(features)
            for k, rows in groups.items():
                if not rows:
                    continue
                n, mean, covariance = targets[k]
                n += len(rows)
                rate = 1 / max(min(n, 20 if k is None else 12), len(rows))
                shift = rate * sum(row - mean for row in rows)
                spread = sum(torch.outer(row - mean, row - mean) - covariance for row in rows)
                moved = mean + shift, covariance + rate * spread - torch.outer(shift, shift)
                source = (s["mean"], s["covariance"]) if k is None else (s["class_mean"][k], s["class_covariance"][k])
                if k is None or n >= fewest:
                    aligned += k is not None
                    weight = 0.1 if k is None else 0.3 / 3
                    loss += weight * plain_divergence(source[0], source[1] + ridge, moved[0], moved[1] + ridge)
                targets[k] = (n, moved[0].detach(), moved[1].detach())
            for name, gradient in zip(w, torch.autograd.grad(loss, list(w.values())), strict=True):
                momentum[name] = 0.8 * momentum[name] + gradient
                w[name] = (w[name] - 3e-5 * momentum[name]).detach().requires_grad_()
        expected = averages.features(w, x, learning=False) @ model.head.weight.T + model.head.bias
        close(adapter(x), expected)
    assert aligned, "the classes take part in this test"
    for name in w:
        close(adapter.model.get_parameter(f"encoder.{name}"), w[name])
    for k in range(3):
        assert int(adapter.classes.count[k]) == targets[k][0]
        close(adapter.classes.covariance[k], targets[k][2])
    assert int(adapter.whole.count) == targets[None][0]
    close(adapter.whole.mean[0], targets[None][1])


def test_the_divergence_of_gaussians_in_many_dimensions_is_exact_enough_in_single_precision():
    g = torch.Generator().manual_seed(0)
    rows = torch.randn(2, 100, 300, generator=g).relu()  # fewer rows than dimensions: the ridge alone makes it regular
    ridge = rows[0].T.cov().max() / 30 * torch.eye(300)
    means, covariances = rows.mean(dim=1), torch.stack([each.T.cov() + ridge for each in rows])
    gradients, values = [], []
    for dtype in (torch.float32, torch.float64):
        mean, covariance = means[1].to(dtype).requires_grad_(), covariances[1].to(dtype).requires_grad_()
        values.append(symmetric_kl(means[0].to(dtype), covariances[0].to(dtype), mean, covariance))
        gradients.append(torch.autograd.grad(values[-1], [mean, covariance]))
    torch.testing.assert_close(values[0].double(), values[1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(plain_divergence(means[0], covariances[0], means[1], covariances[1]), values[0])
    for found, expected in zip(*gradients, strict=True):
        assert (found - expected).norm() < 1e-3 * expected.norm()
    assert float(symmetric_kl(means[0], covariances[0], means[0], covariances[0])) == pytest.approx(0, abs=1e-2)


@pytest.mark.parametrize("net", NETS)
def test_ttac_keeps_the_contract(tiny, net):
    channels, norm = NETS[net]
    checkpoint = tiny.checkpoint(channels, norm)
    s = source_statistics(checkpoint, source_set(channels=channels))
    caller = nn.ModuleList([checkpoint.encoder, checkpoint.head])
    how = {"steps": 2, "learning_rate": 1e-3, "confidence": 0.4, "fewest": 2}
    check_adapter(lambda: TTAC(checkpoint.classifier, s, **how), tiny.images(4, channels), model=caller)


def unlike(adapter: nn.Module, before: dict[str, Tensor], prefixes: tuple[str, ...]) -> list[str]:
    now = {name: tensor for name, tensor in adapter.state_dict().items() if isinstance(tensor, Tensor)}
    return [name for name in now if name.startswith(prefixes) and not torch.equal(now[name], before[name])]


@pytest.mark.parametrize("failure", ["singular", "nan"])
def test_ttac_refuses_what_has_no_divergence(tiny, failure):
    checkpoint, x = tiny.checkpoint(), tiny.images()
    s = source_statistics(checkpoint, source_set())
    if failure == "singular":
        s["covariance"] = -torch.eye(12)  # its largest entry is nought, so there is no ridge, and no factor
    adapter = TTAC(checkpoint.classifier, s, confidence=0.3)
    before = {k: v.clone() for k, v in adapter.state_dict().items() if isinstance(v, Tensor)}
    poisoned = x.clone()
    if failure == "nan":
        poisoned[1] = torch.nan
    with pytest.warns(RuntimeWarning, match="an update was refused"):
        adapter(poisoned)
    assert adapter.descent.refused == 1
    moving = ("model.encoder.conv", "classes", "whole", "model.encoder.norm1.weight")
    assert not unlike(adapter, before, moving)
    if failure == "nan":
        assert adapter(x).isfinite().all() and int(adapter.whole.count) == 6 and unlike(adapter, before, moving)


def test_a_batch_beyond_the_memory_of_ttac_is_the_whole_target(tiny):
    checkpoint, x = tiny.checkpoint(), tiny.images(9)
    adapter = TTAC(checkpoint.classifier, source_statistics(checkpoint, source_set()), global_memory=4)
    features = plain_features(checkpoint.encoder, weights(checkpoint.encoder), x)
    adapter(x)
    close(adapter.whole.mean[0], features.mean(dim=0))
    close(adapter.whole.covariance[0], features.T.cov(correction=0))


def test_ttac_reads_its_counts_once_an_update(tiny, monkeypatch):
    checkpoint, x, reads = tiny.checkpoint(), tiny.images(16), []
    adapter = TTAC(checkpoint.classifier, source_statistics(checkpoint, source_set()), confidence=0.0)
    whole, one_by_one = Tensor.__int__, lambda tensor: reads.append(tensor) or whole(tensor)
    monkeypatch.setattr(Tensor, "__int__", one_by_one)
    adapter(x)
    assert int((adapter.classes.count > 0).sum()) > 1 and len(reads) == 1, "one read is this line's own"


def test_ttac_says_what_it_lacks(tiny):
    checkpoint = tiny.checkpoint()
    s = source_statistics(checkpoint, source_set())
    with pytest.raises(AdapterError, match=r"needs class_mean, class_covariance among .* `crosstask pretrain RECIPE"):
        TTAC(checkpoint.classifier, {name: s[name] for name in ("mean", "covariance")})
    with pytest.raises(AdapterError, match="statistics of the head's 4 classes, and got those of 5"):
        TTAC(tiny.classifier(classes=4), s)
    with pytest.raises(AdapterError, match="an encoder and a head, and got a TinyEncoder"):
        TTAC(checkpoint.encoder, s)


@pytest.mark.parametrize("classes", [2, 10])
def test_any_number_of_classes(tiny, classes):
    checkpoint, x = tiny.checkpoint(classes=classes), tiny.images()
    s = source_statistics(checkpoint, source_set(classes=classes))
    for adapter in (TTAC(checkpoint.classifier, s), TTTPlusPlus(checkpoint.classifier, checkpoint.task, s)):
        assert adapter(x).shape == (6, classes) and adapter(x[:1]).isfinite().all()


# ReC-TTT


def twins(tiny, channels: int = 1, norm: str = "batch", layers: str = "norm1") -> tuple[Classifier, Reconstruction]:
    """Return a classifier on two tiny encoders that differ, and the task, whose teacher is a third."""
    encoder = Twin(tiny.encoder(channels, norm, 0), tiny.encoder(channels, norm, 5))
    task = tiny.shaken(Reconstruction(encoder, (channels, 12, 12), layers=layers), 6)
    task.teacher.load_state_dict(tiny.encoder(channels, norm, 8).state_dict())
    return Classifier(encoder, tiny.shaken(nn.Linear(24, 5), 9)), task


def plain_layer(p: dict[str, Tensor], conv: str, norm: str, x: Tensor, stride: int, padding: int = 1) -> Tensor:
    """A convolution and a norm in eval mode."""
    x = F.conv2d(x, p[f"{conv}.weight"], stride=stride, padding=padding)
    scale = p[f"{norm}.weight"] / torch.sqrt(p[f"{norm}.running_var"] + 1e-5)
    shift = p[f"{norm}.bias"] - p[f"{norm}.running_mean"] * scale
    return x * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)


def plain_block(p: dict[str, Tensor], name: str, x: Tensor, stride: int) -> Tensor:
    out = plain_layer(p, f"{name}.conv1", f"{name}.norm1", x, stride).clamp(min=0)
    out = plain_layer(p, f"{name}.conv2", f"{name}.norm2", out, 1)
    if f"{name}.shortcut.0.weight" in p:
        x = plain_layer(p, f"{name}.shortcut.0", f"{name}.shortcut.1", x, stride, 0)
    return (out + x).clamp(min=0)


def plain_reconstruction(p: dict[str, Tensor], maps: list[Tensor], stream: int) -> list[Tensor]:
    """From the maps [8, 6, 6] and, if two are tapped, [12, 3, 3] of one stream to what is decoded from them."""
    *first, last = maps
    smaller = [plain_layer(p, "bottleneck.down.0.0", "bottleneck.down.0.1", x, 2).clamp(min=0) for x in first]
    x = plain_block(p, "bottleneck.block", torch.cat([*smaller, last], dim=1), 2)
    decoded = []
    for index, each in enumerate(reversed(maps)):
        rows = torch.arange(each.shape[2]) * x.shape[2] // each.shape[2]
        x = plain_block(p, f"decoder.blocks.{index}", x[:, :, rows][:, :, :, rows], 1)
        decoded.insert(0, x)
    outputs = [f"outputs.{stream}.{layer}" for layer in range(len(maps))]
    return [F.conv2d(x, p[f"{o}.weight"], p[f"{o}.bias"]) for x, o in zip(decoded, outputs, strict=True)]


def plain_distance(found: list[Tensor], targets: list[Tensor]) -> Tensor:
    """1 - cos, image by image and map by map."""
    total = torch.zeros(())
    for ours, theirs in zip(found, targets, strict=True):
        for a, b in zip(ours.flatten(1), theirs.detach().flatten(1), strict=True):
            total = total + (1 - a @ b / (a.norm() * b.norm())) / len(ours)
    return total


def taps(averages: Averages, w: dict[str, Tensor], x: Tensor, learning: bool, count: int) -> list[Tensor]:
    maps: list[Tensor] = []
    averages.features(w, x, learning, maps)
    return maps[:count]


@pytest.mark.parametrize("layers", ["norm1", "norm1,norm2"])
def test_the_reconstruction_loss_is_that_of_four_streams(tiny, layers):
    (model, task), x, count = twins(tiny, layers=layers), tiny.images(), len(layers.split(","))
    p, nets = task.state_dict(), (model.encoder.first, model.encoder.second, task.teacher)
    first, second, teacher = (
        lambda x, net=net: taps(Averages(net), dict(net.named_parameters()), x, False, count) for net in nets
    )
    mirrored = x.flip(3)
    pairs = [
        (first(x), teacher(x)),
        (teacher(x), first(x)),
        (teacher(mirrored), second(mirrored)),
        (second(mirrored), teacher(mirrored)),
    ]
    each = [plain_distance(plain_reconstruction(p, maps, i), targets) / 4 for i, (maps, targets) in enumerate(pairs)]
    model.eval(), task.eval()
    features, loss = task.joint(model.encoder, x, torch.Generator())
    close(loss, sum(each))
    own = [model.encoder.get_parameter(name) for name in task.upstream]
    for found, expected in zip(*(torch.autograd.grad(total, own) for total in (loss, sum(each))), strict=True):
        close(found, expected)  # targets carry no gradient
    close(features, model.encoder(x))
    close(task(model.encoder, x, torch.Generator()), each[0] + each[3])


@pytest.mark.parametrize("layers", ["norm1", "norm1,norm2"])
@pytest.mark.parametrize("steps", [1, 3])
def test_rec_ttt_is_adamw_on_the_reconstruction_of_the_teacher(tiny, training, steps, layers):  # noqa: F811
    (model, task), count = twins(tiny, layers=layers), len(layers.split(","))
    model.train(training), task.train(training)
    adapter = RecTTT(model, task, steps=steps, learning_rate=0.01, weight_decay=0.1)
    p, teacher = task.state_dict(), task.teacher
    halves = {name: model.encoder.get_submodule(name) for name in ("first", "second")}
    w = {name: weights(half) for name, half in halves.items()}
    averages = {name: Averages(half) for name, half in halves.items()}
    moving = [(half, name) for half in halves for name in w["first"] if count == 2 or "1" in name]
    first, second, n = dict.fromkeys(moving, 0.0), dict.fromkeys(moving, 0.0), 0
    for x in (tiny.images(seed=1), tiny.images(4, seed=2)):
        seen = {"first": x, "second": x.flip(3)}
        for _ in range(steps):
            loss = torch.zeros(())
            for half, stream in (("first", 0), ("second", 3)):
                maps = []
                after = averages[half]
                before = copy.deepcopy(after)
                after.features(w[half], seen[half], True, maps)
                if count == 1:  # what comes after the last map is not run, so its averages stay
                    averages[half].mean["norm2"], averages[half].var["norm2"] = (
                        before.mean["norm2"],
                        before.var["norm2"],
                    )
                targets = taps(Averages(teacher), dict(teacher.named_parameters()), seen[half], False, count)
                loss = loss + plain_distance(plain_reconstruction(p, maps[:count], stream), targets) / 4
            n += 1
            for (half, name), g in zip(moving, torch.autograd.grad(loss, [w[h][k] for h, k in moving]), strict=True):
                key = (half, name)
                first[key] = 0.9 * first[key] + 0.1 * g
                second[key] = 0.999 * second[key] + 0.001 * g**2
                step = first[key] / (1 - 0.9**n) / ((second[key] / (1 - 0.999**n)).sqrt() + 1e-8)
                w[half][name] = ((1 - 0.01 * 0.1) * w[half][name] - 0.01 * step).detach().requires_grad_()
        features = [averages[half].features(w[half], seen[half], False) for half in halves]
        expected = torch.cat(features, dim=1) @ model.head.weight.T + model.head.bias
        torch.testing.assert_close(adapter(x), expected.detach(), rtol=1e-3, atol=1e-4)
    for half, name in moving:
        found = adapter.model.get_parameter(f"encoder.{half}.{name}")
        torch.testing.assert_close(found, w[half][name].detach(), rtol=1e-3, atol=1e-4)
    listed = {f"encoder.{half}.{name}" for half, name in moving}
    assert {name for name in adapter.adapted_names if "running" not in name} == listed


@pytest.mark.parametrize("net", NETS)
def test_rec_ttt_keeps_the_contract(tiny, net):
    channels, norm = NETS[net]
    model, task = twins(tiny, channels, norm)
    caller = nn.ModuleList([model, task])
    check_adapter(lambda: RecTTT(model, task, steps=2), tiny.images(4, channels), model=caller)


def test_rec_ttt_says_what_it_lacks(tiny):
    model, task = twins(tiny)
    with pytest.raises(AdapterError, match=r"a Twin encoder, and got a TinyEncoder; .* --only rec-ttt"):
        RecTTT(tiny.classifier(), task)
    with pytest.raises(AdapterError, match=r"needs the Reconstruction task .* and got a SimCLR"):
        RecTTT(model, tiny.checkpoint().task)
    with pytest.raises(ConfigError, match="TinyEncoder has no two stages"):
        Reconstruction(model.encoder, (1, 12, 12))
    with pytest.raises(UnknownName, match="norm3"):
        Reconstruction(model.encoder, (1, 12, 12), layers="norm3")


@pytest.mark.parametrize("size", [1, 5, 11, 32])
def test_reconstruction_fits_images_of_any_size_and_is_loaded_as_it_was(size):
    encoder = Twin(make_encoder("resnet-small", 3), make_encoder("resnet-small", 3))
    task = Reconstruction(encoder, (3, size, size))
    assert task.layers == ["stages.0", "stages.1"]
    x = torch.rand(4, 3, size, size, generator=torch.Generator().manual_seed(0))
    features, loss = task.train().joint(encoder.train(), x, torch.Generator())
    assert features.shape == (4, encoder.feature_dim) == (4, 256) and loss.isfinite()
    loss.backward()
    own = dict(encoder.named_parameters())
    assert {name for name in own if own[name].grad is not None} == set(task.upstream)
    assert all(weight.grad is not None for name, weight in task.named_parameters() if not name.startswith("teacher."))
    fresh = Reconstruction(Twin(make_encoder("resnet-small", 3), make_encoder("resnet-small", 3)), (3, size, size))
    fresh.load_state_dict(task.state_dict())
    encoder.eval(), task.eval(), fresh.eval()
    assert torch.equal(fresh(encoder, x, torch.Generator()), task(encoder, x, torch.Generator()))


def test_training_beside_the_classifier_leaves_the_teacher_alone_and_lowers_the_loss(tiny):
    model, task = twins(tiny, layers="norm1,norm2")
    before, images = copy.deepcopy(task.teacher.state_dict()), source_set(64)
    x = images.images[:16] / 255

    def loss(encoder: nn.Module, x: Tensor) -> float:
        with torch.no_grad():
            return float(task.eval()(encoder.eval(), x, torch.Generator()))

    worse = loss(model.encoder, x)
    losses = pretrain_joint(model, task, images, Supervised(epochs=40, batch_size=16, learning_rate=0.05), RUN)
    assert all(math.isfinite(loss) for loss in losses)
    assert all(torch.equal(tensor, before[name]) for name, tensor in task.teacher.state_dict().items())
    assert not any(parameter.requires_grad for parameter in task.teacher.parameters())
    assert not task.train().teacher.training and task.training
    adapter = RecTTT(model, task, steps=5)
    assert loss(model.encoder, x) < 0.7 * worse
    adapter(x.square())
    assert loss(adapter.model.encoder, x.square()) < loss(model.encoder, x.square())


def test_rec_ttt_refuses_a_batch_with_nan(tiny):
    model, task = twins(tiny)
    adapter, x = RecTTT(model, task, steps=2), tiny.images()
    x[0] = torch.nan
    quietly(adapter, x)
    assert adapter.descent.refused == 2
    for name, parameter in model.named_parameters():
        assert torch.equal(adapter.model.get_parameter(name), parameter), name
