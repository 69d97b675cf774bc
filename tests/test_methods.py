"""Every method against an independent re-computation in plain lines, and on a shift where it has to help."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crosstask import runtime
from crosstask.config import Align, SelfSupervised, Supervised, Task, Views
from crosstask.data.images import ImageSet
from crosstask.errors import AdapterError
from crosstask.methods import CTA, PTBN, Source, Tent, passes
from crosstask.methods.batchnorm import learning, norm_parameters, set_batch_norm
from crosstask.methods.memory import BalancedMemory
from crosstask.nets.split import Classifier
from crosstask.tasks import make_task
from crosstask.train.align import align
from crosstask.train.loop import Run
from crosstask.train.pretrain import pretrain_self_supervised, pretrain_supervised

POLICIES = ("source", "batch", "mixed", "prior")
CPU = torch.device("cpu")


def normed(x: Tensor, layer: nn.Module, weight: Tensor, bias: Tensor, policy: str, share: float = 0.5) -> Tensor:
    """Batch norm from its formula (Ioffe & Szegedy 2015, alg. 1), with the statistics of the policy."""
    mean = x.sum(dim=(0, 2, 3)) / (x.numel() / x.shape[1])
    var = ((x - mean.view(1, -1, 1, 1)) ** 2).sum(dim=(0, 2, 3)) / (x.numel() / x.shape[1])
    share = {"source": 0.0, "batch": 1.0, "mixed": share, "prior": len(x) / (len(x) + 16)}[policy]
    mean = (1 - share) * layer.running_mean + share * mean
    var = (1 - share) * layer.running_var + share * var
    flat = (x - mean.view(1, -1, 1, 1)) / torch.sqrt(var.view(1, -1, 1, 1) + layer.eps)
    return flat * weight.view(1, -1, 1, 1) + bias.view(1, -1, 1, 1)


def plain_features(encoder: nn.Module, w: dict[str, Tensor], x: Tensor, policy: str = "batch") -> Tensor:
    """Run the tiny encoder by hand on the weights `w`."""
    x = (x - 0.5) / 0.25
    x = F.conv2d(x, w["conv1.weight"], stride=2, padding=1)
    x = normed(x, encoder.norm1, w["norm1.weight"], w["norm1.bias"], policy).clamp(min=0)
    x = F.conv2d(x, w["conv2.weight"], stride=2, padding=1)
    x = normed(x, encoder.norm2, w["norm2.weight"], w["norm2.bias"], policy).clamp(min=0)
    return x.sum(dim=(2, 3)) / (x.shape[2] * x.shape[3])


def plain_logits(model: Classifier, w: dict[str, Tensor], x: Tensor, policy: str = "batch") -> Tensor:
    return plain_features(model.encoder, w, x, policy) @ model.head.weight.T + model.head.bias


def weights(encoder: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone().requires_grad_() for name, parameter in encoder.named_parameters()}


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-5)


@pytest.fixture(params=[True, False], ids=["train", "eval"])
def training(request) -> bool:
    """Return the mode in which the caller hands over its model."""
    return request.param


def test_source_is_the_model_in_eval_mode(tiny, training):
    model, x = tiny.classifier().train(training), tiny.images()
    close(Source(model)(x), plain_logits(model, weights(model.encoder), x, "source"))
    close(Source(model)(x), copy.deepcopy(model).eval()(x))


def test_ptbn_is_the_model_with_its_norms_in_train_mode(tiny, training):
    model, x = tiny.classifier(channels=3).train(training), tiny.images(channels=3)
    close(PTBN(model)(x), plain_logits(model, weights(model.encoder), x, "batch"))
    close(PTBN(model)(x), copy.deepcopy(model).train()(x))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("steps", [1, 3])
def test_tent_is_adam_on_the_entropy_over_scales_and_shifts(tiny, training, steps, policy):
    model, batches = tiny.classifier().train(training), (tiny.images(seed=1), tiny.images(seed=2))
    adapter = Tent(model, steps=steps, learning_rate=0.02, batch_norm=policy)
    w = weights(model.encoder)
    moving = [name for name in w if "norm" in name]
    first, second, count = dict.fromkeys(moving, 0.0), dict.fromkeys(moving, 0.0), 0
    for x in batches:  # the second batch goes on from the first: online
        for _ in range(steps):
            p = plain_logits(model, w, x, policy).softmax(dim=1)
            loss = -(p * p.log()).sum() / len(x)
            count += 1
            for name, g in zip(moving, torch.autograd.grad(loss, [w[name] for name in moving]), strict=True):
                first[name] = 0.9 * first[name] + 0.1 * g
                second[name] = 0.999 * second[name] + 0.001 * g**2
                step = first[name] / (1 - 0.9**count) / ((second[name] / (1 - 0.999**count)).sqrt() + 1e-8)
                w[name] = (w[name] - 0.02 * step).detach().requires_grad_()
        close(adapter(x), plain_logits(model, w, x, policy))
    assert sorted(adapter.adapted_names) == sorted(f"encoder.{name}" for name in moving)
    for name in w:
        close(adapter.model.get_parameter(f"encoder.{name}"), w[name])


def plain_nt_xent(z: Tensor, temperature: float) -> Tensor:
    """Chen et al. 2020, eq. 1, a term at a time."""
    z, total = z / (z**2).sum(dim=1, keepdim=True).sqrt(), torch.zeros(())
    for i in range(len(z)):
        others = [z[i] @ z[k] / temperature for k in range(len(z)) if k != i]
        total = total - z[i] @ z[(i + len(z) // 2) % len(z)] / temperature + torch.stack(others).exp().sum().log()
    return total / len(z)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    ("steps", "keep", "aligned"), [(1, 1.0, True), (3, 1.0, True), (3, 0.75, True), (3, 0.75, False)]
)
def test_cta_is_momentum_on_nt_xent_over_the_whole_encoder(tiny, training, steps, keep, aligned, policy):
    checkpoint = tiny.checkpoint(task_config=Task(views=Views(crop=(0.5, 1.0))))
    batches = tiny.images(seed=1), tiny.images(seed=2)
    model, task = checkpoint.classifier.train(training), checkpoint.task.train(training)
    adapter = CTA(
        model,
        task if aligned else None,
        steps=steps,
        learning_rate=0.05,
        momentum=0.8,
        batch_norm=policy,
        keep=keep,
        seed=7,
    )
    w, source = weights(model.encoder), weights(model.encoder)
    momentum = dict.fromkeys(w, 0.0)
    for seen, x in enumerate(batches):  # the second batch goes on from the first: online
        for step in range(steps):
            views = task.views(x, runtime.generator(CPU, 7, seen, step))
            g = task.projector
            z = plain_features(model.encoder, w, views, policy)
            if aligned:
                z = (z @ g[0].weight.T + g[0].bias).clamp(min=0) @ g[2].weight.T + g[2].bias
            loss = plain_nt_xent(z, task.temperature)
            for name, gradient in zip(w, torch.autograd.grad(loss, list(w.values())), strict=True):
                momentum[name] = 0.8 * momentum[name] + gradient
                moved = keep * (w[name] - 0.05 * momentum[name]) + (1 - keep) * source[name]
                w[name] = moved.detach().requires_grad_()
        close(adapter(x), plain_logits(model, w, x, policy))
    assert sorted(adapter.adapted_names) == sorted(f"encoder.{name}" for name in w)
    for name in w:
        close(adapter.model.get_parameter(f"encoder.{name}"), w[name])


def test_the_first_steps_are_more_on_the_first_batch_alone(tiny):
    """Three updates, then one: as many plain updates with the same views, and the same again after a reset."""
    checkpoint, batches = tiny.checkpoint(), [tiny.images(seed=seed) for seed in (1, 2)]
    adapter = CTA(checkpoint.classifier, checkpoint.task, steps=1, first_steps=3, learning_rate=0.05)
    plain = CTA(checkpoint.classifier, checkpoint.task, steps=1, learning_rate=0.05)
    generators = [runtime.generator(CPU, 0, seen, 0) for seen in range(2)]
    for x, generator, updates in zip(batches, generators, (3, 1), strict=True):
        for _ in range(updates):
            with torch.enable_grad(), learning(plain):
                plain.update(x, generator)
        with torch.no_grad():
            expected = plain.predict(x)
        assert torch.equal(adapter(x), expected)
    adapter.reset()
    again = adapter(batches[0])
    once = CTA(checkpoint.classifier, checkpoint.task, steps=1, learning_rate=0.05)
    assert not torch.equal(again, once(batches[0]))


def test_the_first_steps_come_once_however_many_updates_the_curve_asks_for(tiny, monkeypatch):
    checkpoint, x, taken = tiny.checkpoint(), tiny.images(), []
    adapter = CTA(checkpoint.classifier, checkpoint.task, steps=1, first_steps=3)
    monkeypatch.setattr(CTA, "_learn", lambda *_: taken.append(1))
    for at, expected in (((0,), 0), ((0, 5), 3 + 4), ((0, 2), 2)):
        taken.clear()
        adapter.curve(x, at)
        assert len(taken) == expected
    adapter.reset()
    taken.clear()
    adapter(x)
    assert len(taken) == 3


@pytest.mark.parametrize(
    ("change", "task", "expected"),
    [
        ({}, {}, (2, 2)),
        ({"entropy": 0.1}, {}, (3, 3)),
        ({}, {"name": "vicreg"}, (2, 2)),
        ({}, {"name": "byol"}, (4, 2)),
        ({}, {"name": "rotation"}, (4, 4)),
    ],
)
def test_an_update_of_cta_costs_the_passes_that_are_told(tiny, change, task, expected):
    """Counted: images that go forward through the first convolution, and those whose gradient comes back to it."""
    checkpoint, x = tiny.checkpoint(task_config=Task(**task)), tiny.images(6)
    adapter, seen = CTA(checkpoint.classifier, checkpoint.task, **({"steps": 2} | change)), [0, 0]

    def count(_: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        seen[0] += len(inputs[0])
        if output.requires_grad:
            output.register_hook(lambda gradient: seen.__setitem__(1, seen[1] + len(gradient)))

    adapter.model.encoder.conv1.register_forward_hook(count)
    adapter(x)
    steps = change.get("steps", 2)
    assert passes("cta", change, checkpoint.task) == expected
    assert (seen[0] / 6 - 1, seen[1] / 6) == (expected[0] * steps, expected[1] * steps)


@pytest.mark.parametrize(
    ("method", "arguments", "expected"),
    [
        ("memo", {"views": 5}, (5, 5)),
        ("cotta", {"views": 5}, (7, 1)),
        ("cta", {"memory": 64, "steps": 1}, (3, 2)),
        ("tent", {}, (1, 1)),
    ],
)
def test_passes_follow_views_and_memory(method, arguments, expected):
    assert passes(method, arguments, None) == expected


def test_an_episode_of_cta_starts_with_fresh_momentum(tiny):
    checkpoint, x = tiny.checkpoint(), tiny.images()
    adapter = CTA(checkpoint.classifier, checkpoint.task, steps=2)
    alone = adapter(x)
    adapter(1 - x)
    adapter.reset()
    assert torch.equal(adapter(x), alone)


def test_the_seed_of_cta_chooses_the_views(tiny):
    checkpoint, x = tiny.checkpoint(), tiny.images()
    answers = [CTA(checkpoint.classifier, checkpoint.task, steps=1, seed=seed)(x) for seed in (0, 0, 1)]
    assert torch.equal(answers[0], answers[1]) and not torch.equal(answers[0], answers[2])


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("policy", ["source", "robust"])
def test_cta_with_a_memory_learns_from_what_it_kept(tiny, policy, autocast):
    checkpoint, size, updates = tiny.checkpoint(), 6, []
    how = {"steps": 1, "learning_rate": 0.05, "batch_norm": policy, "batch_share": 0.2, "keep": 0.75, "seed": 7}
    adapter = CTA(checkpoint.classifier, checkpoint.task, memory=size, **how)
    plain, memory = CTA(checkpoint.classifier, checkpoint.task, **how), BalancedMemory(size)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        for seen in range(4):  # 10 images at a time: an update after the 6th, 12th, 18th ..., two within a batch
            x, views = tiny.images(10, seed=seen), runtime.generator(CPU, 7, seen, 0)
            torch.clear_autocast_cache()
            for images, _ in memory.offer(x, plain.model(x).detach(), size):
                torch.clear_autocast_cache()
                with learning(plain):
                    plain.update(images, views)
                updates.append(len(images))
            torch.clear_autocast_cache()
            close(adapter(x), plain.model(x).detach())
    assert len(updates) == 6 and len(adapter.memory.items) == updates[-1]
    for name in adapter.adapted_names:
        close(adapter.model.state_dict()[name], plain.model.state_dict()[name])
    adapter.reset()
    assert not adapter.memory.items and adapter.memory.seen == 0


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_mixed_statistics_go_from_the_source_to_the_batch(tiny, share):
    model, x = tiny.classifier(), tiny.images()
    w = {name: parameter.detach() for name, parameter in model.encoder.named_parameters()}
    first = F.conv2d((x - 0.5) / 0.25, w["conv1.weight"], stride=2, padding=1)
    mixed = copy.deepcopy(model.encoder)
    assert set_batch_norm(mixed, "mixed", share) == 2
    close(mixed.norm1(first), normed(first, model.encoder.norm1, w["norm1.weight"], w["norm1.bias"], "mixed", share))
    if share in (0, 1):
        end = Source(model) if share == 0 else PTBN(model)
        close(PTBN(model, batch_norm="mixed", batch_share=share)(x), end(x))


@pytest.mark.parametrize("policy", POLICIES)
def test_no_policy_moves_the_running_statistics(tiny, policy):
    checkpoint, x = tiny.checkpoint(), tiny.images()
    for adapter in (
        Tent(checkpoint.classifier, batch_norm=policy),
        CTA(checkpoint.classifier, checkpoint.task, steps=2, batch_norm=policy),
    ):
        adapter.train()
        adapter(x), adapter(1 - x)
        buffers = dict(adapter.model.named_buffers())
        assert sum("running" in name for name in buffers) == 4
        for name, buffer in checkpoint.classifier.named_buffers():
            assert torch.equal(buffers[name], buffer), name


def test_a_policy_replaces_every_kind_of_batch_norm_and_nothing_else():
    shared = nn.BatchNorm1d(4)
    model = nn.Sequential(
        nn.BatchNorm1d(4), nn.Sequential(nn.BatchNorm1d(4, affine=False), nn.LayerNorm(4)), shared, shared
    )
    model.train()
    kept = copy.deepcopy(model)
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    expected = kept(x)
    assert set_batch_norm(model, "batch") == 4
    close(model.eval()(x), expected)
    assert [type(layer).__name__ for layer in model] == ["PolicyBatchNorm", "Sequential", *["PolicyBatchNorm"] * 2]
    assert isinstance(model[1][1], nn.LayerNorm)
    assert not any(layer.running_mean.any() for layer in (model[0], model[2]))
    assert model.state_dict().keys() == kept.state_dict().keys()


class BatchNormAct(nn.BatchNorm2d):
    """A batch norm with its activation inside, as timm has it."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


def test_a_batch_norm_with_a_forward_of_its_own_keeps_it(tiny):
    model, x = tiny.classifier(), tiny.images()
    own = BatchNormAct(8)
    own.load_state_dict(model.encoder.norm1.state_dict())
    model.encoder.norm1 = own
    close(Source(model)(x), copy.deepcopy(model).eval()(x))
    close(PTBN(model)(x), copy.deepcopy(model).train()(x))
    assert Tent(model, steps=2)(x).isfinite().all() and own.running_mean is not None
    with pytest.raises(AdapterError, match=r"BatchNormAct has a forward pass of its own: .* not 'mixed'"):
        Tent(model, batch_norm="mixed")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_cta_works_in_the_precision_of_its_model(tiny, dtype):
    checkpoint, x = tiny.checkpoint(), tiny.images()
    exact = CTA(checkpoint.classifier, checkpoint.task, steps=2)(x)
    other = CTA(copy.deepcopy(checkpoint.classifier).to(dtype), copy.deepcopy(checkpoint.task).to(dtype), steps=2)
    found = other(x.to(dtype))
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), exact, rtol=0.05, atol=0.2)


def test_layers_without_a_shift_or_without_running_statistics():
    x = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    unshifted = nn.BatchNorm2d(4)
    unshifted.bias = None
    for policy in POLICIES:
        model = nn.Sequential(copy.deepcopy(unshifted))
        set_batch_norm(model, policy, 0.5)
        assert model(x).isfinite().all()
    model = nn.Sequential(nn.BatchNorm2d(4, track_running_stats=False))
    for policy in ("source", "mixed", "prior"):
        with pytest.raises(AdapterError, match=f"policy '{policy}' needs running statistics .* use 'batch'"):
            set_batch_norm(model, policy)
    expected = model(x)
    set_batch_norm(model, "batch")
    close(model(x), expected)


def test_one_value_a_channel_is_normalised_by_the_source():
    layer, x = nn.BatchNorm1d(4), torch.ones(1, 4)
    layer.running_mean.fill_(0.5)
    expected = copy.deepcopy(layer).eval()(x)
    model = nn.Sequential(layer)
    set_batch_norm(model, "batch")
    close(model(x), expected)


@pytest.mark.parametrize("policy", POLICIES)
def test_policies_work_in_half_precision(tiny, policy):
    model, x = tiny.classifier().bfloat16(), tiny.images().bfloat16()
    exact = PTBN(tiny.classifier(), batch_norm=policy)(tiny.images())
    found = PTBN(model, batch_norm=policy)(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), exact, rtol=0.05, atol=0.1)


def test_norm_parameters_are_scales_and_shifts_of_all_norms():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.GroupNorm(2, 4),
        nn.Flatten(),
        nn.LayerNorm(4),
        nn.BatchNorm1d(4, affine=False),
    )
    names = {"1.weight", "1.bias", "2.weight", "2.bias", "4.weight", "4.bias"}
    assert set(norm_parameters(model)) == names
    set_batch_norm(model, "batch")
    assert set(norm_parameters(model)) == names
    assert set(norm_parameters(nn.LayerNorm(4))) == {"weight", "bias"}
    with pytest.raises(
        AdapterError, match="no norm layer with a scale and a shift among BatchNorm1d, Conv2d, Sequential"
    ):
        norm_parameters(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm1d(4, affine=False)))


@pytest.mark.parametrize("classes", [2, 5])
def test_two_classes_and_a_head_of_several_layers(tiny, classes):
    checkpoint, x = tiny.checkpoint(classes=classes), tiny.images()
    head = nn.Sequential(nn.Linear(12, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Dropout(0.5), nn.Linear(9, classes))
    for model in (checkpoint.classifier, Classifier(checkpoint.encoder, tiny.shaken(head, seed=3))):
        model.train()
        kept = copy.deepcopy(model.head.state_dict())
        for adapter in (Source(model), PTBN(model), Tent(model), CTA(model, checkpoint.task, steps=2)):
            assert adapter(x).shape == (6, classes) and adapter(x[:1]).isfinite().all()
            if isinstance(adapter, CTA):
                moved = adapter.model.head.state_dict()
                assert all(torch.equal(kept[name], moved[name]) for name in kept), "the head stays frozen"


def test_a_projector_with_batch_norm_follows_the_policy_too(tiny):
    checkpoint, x = tiny.checkpoint(), tiny.images()
    features = torch.randn(12, 12, generator=torch.Generator().manual_seed(0))
    task = copy.deepcopy(checkpoint.task)
    task.projector.insert(1, tiny.shaken(nn.BatchNorm1d(16), seed=4))
    norm_as_trained = {"source": copy.deepcopy(task.projector).eval(), "batch": copy.deepcopy(task.projector).train()}
    task.projector.append(nn.Dropout(0.5))
    for policy, projector in norm_as_trained.items():
        answers = []
        for mode in (True, False):
            adapter = CTA(checkpoint.classifier, task.train(mode), steps=2, batch_norm=policy).train(mode)
            close(adapter.task.projector(features), projector(features))
            answers.append(adapter(x))
            assert torch.equal(adapter.task.projector[1].running_mean, task.projector[1].running_mean)
        assert torch.equal(*answers)


def test_gradients_are_taken_for_what_moves_alone(tiny):
    checkpoint, x = tiny.checkpoint(), tiny.images()
    for adapter in (Tent(checkpoint.classifier), CTA(checkpoint.classifier, checkpoint.task, steps=2)):
        adapter(x)
        moving = {name for name, parameter in adapter.named_parameters() if parameter.requires_grad}
        assert moving == {f"model.{name}" for name in adapter.adapted_names}
        assert all(parameter.grad is None for parameter in adapter.parameters())


# A toy world of four textures, and a shift: the pass mark is beating the model that does not adapt.


def textures(count: int, seed: int) -> ImageSet:
    """Return noisy images 16 x 16 of stripes across, stripes along, checks and rings, in all phases and contrasts."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 4
    phase, frequency, contrast = (torch.rand(3, count, 1, 1, generator=g)).unbind()
    across = torch.sin((0.9 + 0.9 * frequency) * torch.arange(16).view(1, 1, 16) + 6.3 * phase).expand(-1, 16, -1)
    along = across.transpose(1, 2)
    grid = torch.arange(16) - 7.5
    radius = (grid.view(1, 16, 1) ** 2 + grid.view(1, 1, 16) ** 2).sqrt()
    rings = torch.sin((0.9 + 0.9 * frequency) * radius + 6.3 * phase)
    pattern = torch.stack([across, along, across * along, rings])[labels, torch.arange(count)]
    noise = 0.3 * torch.randn(count, 16, 16, generator=g)
    images = 0.5 + (0.15 + 0.2 * contrast) * (pattern + noise)
    return ImageSet(
        images=(255 * images.clamp(0, 1)).round().to(torch.uint8).unsqueeze(1),
        labels=labels,
        class_names=("across", "along", "checks", "rings"),
        name="textures",
    )


def shifted(x: Tensor) -> Tensor:
    """Take away most of the contrast and of the light, as at dusk."""
    noise = 0.01 * torch.randn(x.shape, generator=torch.Generator().manual_seed(5))
    return (0.25 + 0.3 * (x - 0.5) + noise).clamp(0, 1)


@pytest.fixture(scope="module")
def world(tiny):
    """Train the three stages on the toy world; return teacher, aligned classifier, task, and labelled test images."""
    images, run = textures(512, seed=0), Run(seed=0, device=CPU, precision="float32")
    task_config = Task(hidden=32, out=16, temperature=0.2, views=Views(brightness=0.6, contrast=0.6))
    teacher = tiny.classifier(classes=4, seed=10)
    for layer in (teacher.encoder.norm1, teacher.encoder.norm2):
        layer.reset_parameters()
    student = copy.deepcopy(teacher.encoder)
    task = tiny.shaken(make_task(task_config, 12), seed=11)
    pretrain_supervised(teacher, images, Supervised(epochs=12, batch_size=64, crop=(0.5, 1.0)), run)
    pretrain_self_supervised(student, task, images, SelfSupervised(epochs=24, batch_size=64, learning_rate=0.05), run)
    how = Align(epochs=30, batch_size=64, learning_rate=0.05, augmix=0)  # with it little would be left to adapt to
    align(student, task, teacher, images, how, run)
    return teacher, Classifier(student, teacher.head), task, textures(256, seed=1)


def accuracy(adapter: nn.Module, test: ImageSet, shift) -> float:
    """Return the share of right answers over batches of 64, each from the source."""
    right = 0
    for x, y in zip(test.images.split(64), test.labels.split(64), strict=True):
        adapter.reset()
        right += int((adapter(shift(runtime.to_unit_floats(x, CPU))).argmax(dim=1) == y).sum())
    return right / len(test)


def test_the_toy_world_is_learned_and_the_shift_hurts(world):
    teacher, aligned, _, test = world
    assert accuracy(Source(teacher), test, lambda x: x) > 0.9
    assert accuracy(Source(aligned), test, lambda x: x) > 0.9
    assert accuracy(Source(teacher), test, shifted) < 0.5


@pytest.mark.parametrize("method", ["ptbn", "tent", "cta", "cta without alignment"])
def test_adapting_beats_the_model_that_does_not(world, method):
    teacher, aligned, task, test = world
    adapter = {
        "ptbn": lambda: PTBN(teacher),
        "tent": lambda: Tent(teacher, steps=3, learning_rate=5e-3),
        "cta": lambda: CTA(aligned, task, steps=20),
        "cta without alignment": lambda: CTA(teacher, steps=20),
    }[method]()
    assert accuracy(adapter, test, shifted) > accuracy(Source(teacher), test, shifted) + 0.2


@pytest.mark.parametrize("batch_size", [1, 16])
def test_a_memory_helps_where_classes_come_in_clumps(world, batch_size):
    _, aligned, task, _ = world
    stream = textures(960, seed=3)
    by_class = stream.labels.view(6, -1).sort(dim=1, stable=True).indices + 160 * torch.arange(6).view(6, 1)
    order = by_class.flatten()  # 40 images of a class, then 40 of the next
    x, y = shifted(runtime.to_unit_floats(stream.images, CPU))[order], stream.labels[order]
    how = {"steps": 1, "learning_rate": 1e-3}

    def right(adapter: CTA | Source) -> float:
        answers = torch.cat([adapter(part).argmax(dim=1) for part in x.split(batch_size)])
        return float((answers == y).float().mean())

    remembering = right(CTA(aligned, task, memory=32, batch_norm="robust", batch_share=0.2, **how))
    assert remembering > max(right(Source(aligned)), right(CTA(aligned, task, **how))) + 0.03


def test_learning_does_what_it_is_for(world):
    """TENT lowers the entropy it descends on; CTA lowers the loss of its task, and is no worse for it."""
    teacher, aligned, task, test = world
    before, after = (accuracy(CTA(aligned, task, steps=steps), test, shifted) for steps in (0, 20))
    assert after >= before
    x = shifted(runtime.to_unit_floats(test.images[:64], CPU))
    curve = Tent(teacher, learning_rate=5e-3).curve(x, (0, 1, 5))
    entropies = [float(-(p * p.log()).sum(dim=1).mean()) for p in (curve[step].softmax(dim=1) for step in (0, 1, 5))]
    assert entropies[0] > entropies[1] > entropies[2]
    adapter = CTA(aligned, task)

    def loss() -> float:
        with torch.no_grad():
            return float(adapter.task(adapter.model.encoder, x, torch.Generator().manual_seed(0)))

    before = loss()
    adapter(x)
    assert loss() < before and math.isfinite(before)
