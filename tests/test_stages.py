"""The source-time stages: what a step of alignment descends on, what is left alone, and what is told of the source."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crosstask import runtime
from crosstask.augmix import augmix
from crosstask.config import Align, Supervised, Views, digest
from crosstask.data.images import ImageSet
from crosstask.errors import ConfigError, DataError
from crosstask.nets.split import Classifier
from crosstask.train.align import align
from crosstask.train.loop import Run
from crosstask.train.pretrain import pretrain_supervised
from crosstask.train.statistics import feature_statistics, pixel_statistics, refit_batch_norm
from crosstask.views import ViewSampler

CPU = torch.device("cpu")
RUN = Run(seed=3, device=CPU, precision="float32")


def noise(count: int, channels: int = 1) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, channels, 12, 12), generator=generator, dtype=torch.uint8)
    return ImageSet(images=images, name="noise")


def plain_imitation(student: Tensor, teacher: Tensor, head: torch.nn.Module, config: Align) -> Tensor:
    """CLIP's loss and the divergence of the outputs, from their formulas."""
    s, t = (z / z.norm(dim=1, keepdim=True) for z in (student, teacher))
    similarity = s @ t.T / config.temperature
    matched = similarity.diagonal()
    clip = -(2 * matched - similarity.logsumexp(dim=1) - similarity.logsumexp(dim=0)).mean() / 2
    p, q = head(teacher).softmax(dim=1), head(student).softmax(dim=1)
    return config.contrastive * clip + config.distillation * (p * (p / q).log()).sum(dim=1).mean()


@pytest.mark.parametrize(("start", "mixed"), [("supervised", 0.0), ("self-supervised", 0.5)])
def test_one_step_of_alignment_is_its_formula(tiny, start, mixed):
    checkpoint, teacher, images = tiny.checkpoint(), tiny.classifier(seed=8), noise(6)
    config = Align(
        epochs=1, batch_size=6, learning_rate=0.1, weight_decay=0, warmup=0, temperature=0.3, contrastive=0.7,
        distillation=1.5, self_supervised=0.4, start=start, augmix=mixed,
    )  # fmt: skip
    student, task = copy.deepcopy(checkpoint.encoder), copy.deepcopy(checkpoint.task)
    plain = copy.deepcopy(teacher.encoder if start == "supervised" else student).train()
    plain_task, frozen = copy.deepcopy(task), copy.deepcopy(teacher).eval()
    (loss,) = align(student, task, teacher, images, config, RUN)

    order = torch.randperm(6, generator=runtime.generator(CPU, 3, "epoch", 0))
    x, generator = images.images[order] / 255, runtime.generator(CPU, 3, "step", 0)
    crops = task.sampler.geometric(torch.cat([x, x]), generator)
    views = task.sampler.photometric(crops, generator)
    if mixed:
        chosen = torch.rand(12, 1, 1, 1, generator=generator) < mixed
        assert 0 < chosen.sum() < 12
        views = torch.where(chosen, augmix(views, generator), views)
    features = plain(views)
    pairs = [(features[:6], crops[:6]), (features[6:], crops[6:]), (plain(x), x)]
    with torch.no_grad():
        seen = [frozen.encoder(view) for _, view in pairs]
    imitations = [plain_imitation(f, t, frozen.head, config) for (f, _), t in zip(pairs, seen, strict=True)]
    z = F.normalize(plain_task.projector(features), dim=1)
    similarity = (z @ z.T / task.temperature).fill_diagonal_(-torch.inf)
    nt_xent = F.cross_entropy(similarity, torch.arange(12).roll(6))
    expected = sum(imitations) / 3 + 0.4 * nt_xent
    assert loss == pytest.approx(float(expected.detach()), rel=1e-4)

    weights = {**dict(plain.named_parameters()), **dict(plain_task.named_parameters())}
    moved = {**dict(student.named_parameters()), **dict(task.named_parameters())}
    for name, gradient in zip(weights, torch.autograd.grad(expected, list(weights.values())), strict=True):
        nesterov = weights[name] - 0.1 * 1.9 * gradient
        torch.testing.assert_close(moved[name], nesterov.detach(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("mixed", [0.0, 0.5])
def test_one_step_of_the_supervised_stage_is_cross_entropy_on_crops_a_share_of_them_mixed(tiny, mixed):
    labels = torch.arange(8) % 3
    images = ImageSet(images=noise(8).images, labels=labels, class_names=("a", "b", "c"), name="noise")
    classifier, config = tiny.classifier(), Supervised(epochs=1, batch_size=8, crop=(0.3, 0.9), augmix=mixed)
    plain = copy.deepcopy(classifier).train()
    (loss,) = pretrain_supervised(classifier, images, config, RUN)

    order = torch.randperm(8, generator=runtime.generator(CPU, 3, "epoch", 0))
    generator = runtime.generator(CPU, 3, "step", 0)
    x = ViewSampler(Views(crop=(0.3, 0.9))).geometric(images.images[order] / 255, generator)
    if mixed:
        chosen = torch.rand(8, 1, 1, 1, generator=generator) < mixed
        assert 0 < chosen.sum() < 8
        x = torch.where(chosen, augmix(x, generator), x)
    assert loss == pytest.approx(float(F.cross_entropy(plain(x), labels[order]).detach()), rel=1e-5)


def test_a_supervised_stage_without_what_is_new_is_the_one_that_older_versions_knew():
    """Checkpoints are found by this digest, which is of before there were `augmix` and `joint_epochs`."""
    assert digest(Supervised(epochs=60)) == digest(Supervised(epochs=60, augmix=0, joint_epochs=0))
    assert digest(Supervised(epochs=60, joint_epochs=24).alone()) == digest(Supervised(epochs=60))
    assert digest(Supervised(epochs=60, joint_epochs=24).beside_task()) == digest(Supervised(epochs=24))
    assert digest(Supervised(epochs=60)) == "dde196a2da59f6a842212ff596f80fe8bc39e564e455a916f87144d74d5fca90"
    assert digest(Supervised(epochs=60)) != digest(Supervised(epochs=60, augmix=1))


def test_a_student_of_another_architecture_starts_as_itself(tiny):
    checkpoint, images = tiny.checkpoint(), noise(8)
    teacher = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(images.images[0].numel(), 12)), nn.Linear(12, 3))
    before = copy.deepcopy(checkpoint.encoder.state_dict())
    for other in (teacher, tiny.checkpoint(channels=3).classifier):  # of other layers; with other channels
        with pytest.raises(ConfigError, match="both encoders have one architecture, and these differ"):
            align(checkpoint.encoder, checkpoint.task, other, images, Align(epochs=1, batch_size=8), RUN)
    assert all(torch.equal(value, before[name]) for name, value in checkpoint.encoder.state_dict().items())
    own = Align(epochs=1, batch_size=8, start="self-supervised")
    assert math.isfinite(align(checkpoint.encoder, checkpoint.task, teacher, images, own, RUN)[-1])


def test_alignment_leaves_the_teacher_as_it_is_and_looks_at_no_label(tiny):
    checkpoint, teacher, images = tiny.checkpoint(), tiny.classifier(seed=8).train(), noise(24)
    before = copy.deepcopy(teacher.state_dict())
    config = Align(epochs=2, batch_size=8)
    labelled = ImageSet(images=images.images, labels=torch.arange(24) % 3, class_names=("a", "b", "c"), name="noise")
    students = [copy.deepcopy(checkpoint.encoder) for _ in range(2)]
    for student, seen in zip(students, (images, labelled), strict=True):
        align(student, copy.deepcopy(checkpoint.task), teacher, seen, config, RUN)
    for one, other in zip(*(student.state_dict().values() for student in students), strict=True):
        assert torch.equal(one, other)
    assert teacher.training and teacher.encoder.norm1.training
    assert all(p.requires_grad and p.grad is None for p in teacher.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())


def test_supervised_pretraining_needs_labels(tiny):
    with pytest.raises(DataError, match="supervised pretraining needs labels, and noise has none"):
        pretrain_supervised(tiny.classifier(), noise(4), None, RUN)


@pytest.mark.parametrize("channels", [1, 3])
def test_pixel_statistics_are_those_of_all_pixels(channels):
    images = noise(7, channels)
    mean, std = pixel_statistics(images)
    pixels = images.images.double().transpose(0, 1).flatten(1) / 255
    torch.testing.assert_close(mean, pixels.mean(dim=1).float())
    torch.testing.assert_close(std, pixels.std(dim=1, correction=0).float())


def test_feature_statistics_are_mean_and_covariance(tiny):
    encoder, images = tiny.encoder(), noise(40)
    found = feature_statistics(encoder, images, RUN)
    with torch.no_grad():
        features = encoder.eval()(images.images / 255).double()
    torch.testing.assert_close(found["mean"], features.mean(dim=0).float())
    torch.testing.assert_close(found["covariance"], features.T.cov().float(), rtol=1e-3, atol=1e-5)


def test_refitted_averages_are_those_of_eval_mode(tiny):
    """A network of one's own may have dropout, which would change what its norms see."""
    found = []
    for share in (0.0, 0.9):
        encoder = tiny.encoder()
        encoder.conv1.register_forward_hook(lambda conv, _, x, share=share: F.dropout(x, share, conv.training))
        refit_batch_norm(encoder.train(), noise(40), RUN)
        found.append(encoder.norm1.running_mean)
    assert torch.equal(*found)


@pytest.mark.parametrize("count", [40, 501])
def test_refitted_averages_weigh_every_image_alike(tiny, count):
    """501 images are two batches: of nearly one size, not of 500 and of one."""
    encoder, images = tiny.encoder(), noise(count)
    refit_batch_norm(encoder, images, RUN)
    with torch.no_grad():
        first = encoder.conv1(encoder.normalize(images.images / 255))
    torch.testing.assert_close(encoder.norm1.running_mean, first.mean(dim=(0, 2, 3)), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(encoder.norm1.running_var, first.var(dim=(0, 2, 3)), rtol=1e-2, atol=1e-4)
    assert not encoder.training and encoder.norm1.momentum == 0.1
