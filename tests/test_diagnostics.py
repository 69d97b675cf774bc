"""The look inside the models: every figure against an independent one, the file, the page and the command."""

from __future__ import annotations

import copy
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from crosstask import checkpoint as checkpoints
from crosstask import cli, pipeline, report, runtime
from crosstask.bench import diagnosis
from crosstask.bench.diagnosis import Diagnosis, Gradients, Layer
from crosstask.bench.diagnostics import Subject, diagnose, gradient_cosines, linear_cka, measure_gradients
from crosstask.bench.diagnostics.drift import distances, follow, moments, moved, turned
from crosstask.bench.diagnostics.features import features
from crosstask.bench.diagnostics.picture import coordinates, explained, principal_axes
from crosstask.bench.diagnostics.similarity import linear_cka_without
from crosstask.bench.records import Record
from crosstask.checkpoint import Checkpoint
from crosstask.config import Bench, Diagnose, Task, load_recipe, validate
from crosstask.data.images import ImageSet, with_copies
from crosstask.data.streams import draw_stream
from crosstask.data.writer import Copies, write_copies
from crosstask.errors import ConfigError, DataError
from crosstask.methods import make_adapter
from crosstask.nets.encoders import make_encoder
from crosstask.nets.split import Classifier
from crosstask.pipeline import tuned
from crosstask.pipeline.diagnosis import _adaptation, _tuned
from crosstask.report import diagnosis as shown
from crosstask.report.summary import summarise
from crosstask.tasks import make_task
from test_report import fake_records, write_run

CPU = torch.device("cpu")
KINDS = ("supervised", "self-supervised", "aligned", "joint")


def images(name: str = "test", count: int = 40, seed: int = 0) -> ImageSet:
    generator = torch.Generator().manual_seed(seed)
    return ImageSet(
        images=torch.randint(0, 256, (count, 1, 16, 16), generator=generator, dtype=torch.uint8),
        labels=torch.arange(count) % 5,
        class_names=tuple(f"class {index}" for index in range(5)),
        name=name,
    )


@pytest.fixture(scope="module")
def family(tiny) -> dict[str, Checkpoint]:
    """Checkpoints that were never trained; all encoders differ."""
    made = {}
    for place, kind in enumerate(KINDS):
        plain = tiny.checkpoint(kind=kind)
        encoder = tiny.encoder(seed=20 + place)
        made[kind] = replace(plain, encoder=encoder, image_shape=(1, 16, 16), weights_hash=f"hash of {kind}")
    made["supervised"] = replace(made["supervised"], task=None, task_config=None)
    made["self-supervised"] = replace(made["self-supervised"], head=None)
    return made


def subject(family: dict[str, Checkpoint], **changes: Any) -> Subject:
    values: dict[str, Any] = {
        "checkpoints": family,
        "source": images("train", seed=1),
        "target": images(),
        "corruption": "contrast",
        "severity": 5,
        "batch_size": 8,
        "seed": 3,
        "adaptation": {"steps": 2, "learning_rate": 0.1},
        "settings": Diagnose(batches=3, adapted=2, steps=(0, 1, 4), points=12),
        "device": CPU,
        "precision": "float32",
        "command": "crosstask diagnose tiny",
    }
    return Subject(**(values | changes))


@pytest.fixture(scope="module")
def found(family) -> Diagnosis:
    return diagnose(subject(family))


# Gradients


def cosine(first: list[Tensor], second: list[Tensor]) -> float:
    a, b = (np.concatenate([part.detach().double().numpy().ravel() for part in parts]) for parts in (first, second))
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_cosines_are_those_of_an_independent_computation(tiny) -> None:
    """In train mode, with plain backward passes, on copies; layers are put together by hand."""
    model, task = tiny.classifier(seed=5), tiny.checkpoint().task
    stream = draw_stream(images(), "fog", 4, count=24, batch_size=12, seed=9)
    before = copy.deepcopy(model.state_dict())
    whole, layers = measure_gradients(model, task, stream, CPU, lambda: None)
    assert set(layers) == {"conv1", "norm1", "conv2", "norm2"}
    for place, pixels in enumerate(stream.batches()):
        x, y = pixels / 255, stream.labels[12 * place :][:12]
        gradients: list[dict[str, Tensor]] = []
        for kind in ("task", "labels"):
            twin = copy.deepcopy(model).train()
            generator = runtime.generator(CPU, 9, "gradients", "fog", place)
            loss = task(twin.encoder, x, generator) if kind == "task" else F.cross_entropy(twin(x), y)
            loss.backward()
            gradients.append({name: p.grad for name, p in twin.encoder.named_parameters()})
        assert whole[place] == pytest.approx(cosine(*(list(g.values()) for g in gradients)), abs=1e-5)
        for layer, values in layers.items():
            parts = [[g[name] for name in g if name.startswith(layer)] for g in gradients]
            assert values[place] == pytest.approx(cosine(*parts), abs=1e-5)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items()), "it was touched"


@pytest.mark.parametrize("sign", [1, -1])
def test_identical_losses_agree_and_opposite_ones_oppose(sign: int, tiny) -> None:
    encoder, x = tiny.encoder(), tiny.images()
    loss = encoder(x).square().sum()
    whole, layers = gradient_cosines(encoder, loss, 3 * sign * loss)
    assert [whole, *layers.values()] == pytest.approx([sign] * 5, abs=1e-6)


def test_a_layer_that_a_loss_does_not_reach_has_no_cosine(tiny) -> None:
    encoder, x = tiny.encoder(), tiny.images()
    whole, layers = gradient_cosines(encoder, encoder(x).sum(), encoder.norm2.bias.sum())
    assert np.isfinite([whole, layers["norm2"]]).all()
    assert np.isnan([layers[name] for name in ("conv1", "norm1", "conv2")]).all()


def test_a_parameter_of_the_encoder_itself_is_a_layer() -> None:
    class Shift(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift, self.inner = nn.Parameter(torch.ones(3)), nn.Linear(3, 3)

    encoder = Shift()
    loss = (encoder.inner(encoder.shift)).square().sum()
    assert set(gradient_cosines(encoder, loss, loss)[1]) == {"shift", "inner"}


def test_a_model_without_a_gradient_is_refused(tiny) -> None:
    model, task = tiny.classifier(), tiny.checkpoint().task
    nn.init.zeros_(model.head.weight)
    stream = draw_stream(images(), "clean", 5, count=8, batch_size=8, seed=0)
    with pytest.raises(DataError, match=r"no finite gradient other than zero: self-supervised .*; train this model"):
        measure_gradients(model, task, stream, CPU, lambda: None)


# Likeness


def random_features(count: int, width: int, seed: int) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def cka_by_kernels(first: Tensor, second: Tensor) -> float:
    """HSIC of two linear kernels, normalised (Kornblith et al. 2019, eq. 3 and 4)."""
    centring = np.eye(len(first)) - 1 / len(first)
    k, m = (features.numpy() @ features.numpy().T for features in (first, second))
    hsic = lambda a, b: np.trace(a @ centring @ b @ centring)  # noqa: E731
    return float(hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m)))


@pytest.mark.parametrize("seed", range(5))
def test_cka_is_that_of_the_kernels(seed: int) -> None:
    first, noise = random_features(40, 7, seed) + 3, random_features(40, 4, 100 + seed)
    second = first[:, :4] + 0.1 * seed * noise
    assert linear_cka(first, second) == pytest.approx(cka_by_kernels(first, second), abs=1e-9)
    assert linear_cka(first, second) == pytest.approx(linear_cka(second, first), abs=1e-12)


def test_cka_is_one_for_rotated_scaled_and_shifted_copies_and_low_for_strangers() -> None:
    x = random_features(200, 6, 0)
    rotation = torch.linalg.qr(random_features(6, 6, 1)).Q
    assert linear_cka(x, 5 * x @ rotation + 2) == pytest.approx(1, abs=1e-12)
    assert linear_cka(x, x * torch.tensor([9.0, 1, 1, 1, 1, 1])) < 0.9, "a stretch of one direction counts"
    assert linear_cka(x, random_features(200, 6, 2)) < 0.1
    assert linear_cka(x, torch.ones(200, 3)) == 0


def test_one_batch_is_left_out_at_a_time() -> None:
    x, y = random_features(12, 3, 0), random_features(12, 5, 1)
    rows = [[4, 5, 6, 7, 8, 9, 10, 11], [0, 1, 2, 3, 8, 9, 10, 11], [0, 1, 2, 3, 4, 5, 6, 7]]
    assert linear_cka_without(x, y, 4) == pytest.approx([linear_cka(x[r], y[r]) for r in rows])


# Drift


def test_measures_of_drift() -> None:
    before = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    assert turned(before, before) == moved(before, before) == 0
    assert turned(before, before.flip(1)) == pytest.approx(1)
    assert turned(before, -before) == pytest.approx(2)
    assert (turned(before, 3 * before), moved(before, 3 * before)) == pytest.approx((0, 2), abs=1e-9)
    mean = torch.tensor([3.0, 4.0])
    assert distances(torch.tensor([[3.0, 4.0], [6.0, 8.0], [0.0, 0.0]]), mean, 2) == pytest.approx([0.5, 1])


def test_features_are_followed_from_the_source_batch_by_batch(tiny) -> None:
    """Against an adapter that is called for just so many updates, freshly made for each batch."""
    made = tiny.checkpoint()
    arguments = {"learning_rate": 0.1, "seed": 4}
    stream = draw_stream(images(), "contrast", 5, count=24, batch_size=8, seed=0)
    way = follow(make_adapter("cta", made, **arguments), stream, 2, (3, 0, 1), CPU, "float32", lambda: None)
    assert sorted(way.features) == [0, 1, 3]
    for steps, followed in way.features.items():
        assert len(followed) == 16, "the third batch is not asked for"
        for place, pixels in enumerate(list(stream.batches())[:2]):
            adapter = make_adapter("cta", made, steps=steps, **arguments)
            logits = adapter(pixels / 255)
            with torch.no_grad():
                alone = adapter.model.encoder(pixels / 255)
            rows = slice(8 * place, 8 * place + 8)
            assert torch.allclose(followed[rows], alone, atol=1e-6)
            assert torch.equal(way.right[steps][rows], logits.argmax(dim=1) == stream.labels[rows])
    start, *later = moments(way, made.statistics["mean"], 8)
    assert start.steps == 0 and start.turned == start.moved == [0, 0]
    assert all(value > 0 for moment in later for value in (*moment.turned, *moment.moved))
    change = (way.features[3] - way.features[0])[8:16].norm() / way.features[0][8:16].norm()
    assert later[-1].moved[1] == pytest.approx(change.item(), abs=1e-5)


# The picture


def test_principal_axes_are_those_of_a_singular_value_decomposition() -> None:
    x = random_features(50, 6, 0) * torch.tensor([1.0, 5, 2, 0.5, 3, 1]) + 7
    basis = principal_axes(x)
    centred = (x - x.mean(dim=0)).numpy()
    _, lengths, axes = np.linalg.svd(centred, full_matrices=False)
    assert np.abs(np.sum(axes[:2] * basis.axes.T.numpy(), axis=1)) == pytest.approx([1, 1])
    assert explained(x, basis) == pytest.approx((lengths**2 / np.sum(lengths**2))[:2], abs=1e-4)
    points = coordinates(x, torch.arange(50), basis)
    assert [label for *_, label in points] == list(range(50))
    assert np.array(points)[:, :2] == pytest.approx(centred @ basis.axes.numpy(), rel=1e-3, abs=1e-3)
    assert principal_axes(-x).axes.flatten().tolist() == pytest.approx(basis.axes.flatten().tolist()), (
        "a mirrored space has the same axes"
    )


def test_panels_share_the_basis_of_the_supervised_encoder(found: Diagnosis, family) -> None:
    reference, unaligned, aligned, adapted = found.picture
    assert [(p.model, p.images, p.steps, p.basis) for p in found.picture] == [
        ("supervised", "clean", 0, "supervised"),
        ("self-supervised", "corrupted", 0, "own"),
        ("aligned", "corrupted", 0, "supervised"),
        ("aligned", "corrupted", 2, "supervised"),
    ]
    clean, contrast = (subject(family).stream(images(), name) for name in ("clean", "contrast"))
    base = features(family["supervised"].encoder, clean, CPU).double().numpy()
    axes = np.linalg.svd(base - base.mean(axis=0))[2][:2]
    drawn = np.array(reference.points)[:, :2]
    axes *= np.sign(np.sum(drawn * ((base - base.mean(axis=0)) @ axes.T)[:12], axis=0))[:, None]
    moved_to = features(family["aligned"].encoder, contrast, CPU).double().numpy()
    for panel, expected in ((reference, base), (aligned, moved_to)):
        assert np.array(panel.points)[:, :2] == pytest.approx(((expected - base.mean(axis=0)) @ axes.T)[:12], abs=1e-3)
        assert [label for *_, label in panel.points] == clean.labels[:12].tolist()
    assert adapted.points != aligned.points
    assert np.abs(np.mean(np.array(unaligned.points)[:, :2])) < 10 and len(unaligned.points) == 12


# The whole


def test_a_diagnosis_has_all_that_is_claimed(found: Diagnosis) -> None:
    learners = [kind for kind in KINDS if kind != "supervised"]
    assert [(g.model, g.images) for g in found.gradients] == [(k, i) for k in learners for i in ("source", "corrupted")]
    assert [(s.model, s.images) for s in found.similarities] == [
        (k, i) for k in learners for i in ("clean", "corrupted")
    ]
    assert [(d.model, [m.steps for m in d.moments]) for d in found.drifts] == [
        (kind, [0, 1, 2, 4]) for kind in ("aligned", "joint")
    ]
    assert (found.labels, found.batch_norm, found.n) == ("diagnosis", "batch", 24)
    assert found.checkpoints == {kind: f"hash of {kind}" for kind in KINDS}


def test_the_same_seed_gives_the_same_numbers_and_another_one_others(found: Diagnosis, family) -> None:
    assert diagnose(subject(family)) == found
    other = diagnose(subject(family, seed=4))
    assert other.gradients != found.gradients and other.key != found.key


def test_stored_copies_are_looked_at_and_named(found: Diagnosis, family, tmp_path: Path) -> None:
    write_copies(Copies(images=images(), corruptions=("contrast",), severities=(5,), seed=3), tmp_path / "c")
    stored = diagnose(subject(family, target=with_copies(images(), tmp_path / "c")))
    assert (found.copies, stored.copies) == (None, "c (crosstask corrupt, seed 3)") and stored.key != found.key
    assert stored.gradients == found.gradients and stored.drifts == found.drifts and stored.picture == found.picture
    assert (
        "contrast at severity 5 in c (crosstask corrupt, seed 3),"
        in shown.view(stored, summarise(fake_records())).scope
    )


def test_labels_choose_nothing(found: Diagnosis, family) -> None:
    """With other labels, the cosines and accuracies alone are others."""
    target = images()
    other = diagnose(subject(family, target=replace(target, labels=target.labels.roll(1))))
    source, corrupted = found.gradients[::2], found.gradients[1::2]
    assert other.gradients[::2] == source and other.gradients[1::2] != corrupted
    assert other.similarities == found.similarities
    for mine, theirs in zip(found.drifts, other.drifts, strict=True):
        assert [(m.turned, m.moved, m.from_source) for m in mine.moments] == [
            (m.turned, m.moved, m.from_source) for m in theirs.moments
        ]
    assert [[p[:2] for p in panel.points] for panel in other.picture] == [
        [p[:2] for p in panel.points] for panel in found.picture
    ]


def test_without_a_joint_model_the_rest_is_measured(family) -> None:
    less = {kind: family[kind] for kind in KINDS[:3]}
    made = diagnose(subject(less))
    assert {g.model for g in made.gradients} == {"self-supervised", "aligned"}
    assert [drift.model for drift in made.drifts] == ["aligned"]


def test_progress_ends_at_its_total(family) -> None:
    told: list[tuple[int, int]] = []
    diagnose(subject(family), lambda done, total, note: told.append((done, total)))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert len({total for _, total in told}) == 1 and told[-1][0] == told[-1][1]


UNFIT: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "too few images": ({"batch_size": 14}, ConfigError, r"3 batches of 14 images .* has 40; lower diagnose.batches"),
    "too many to adapt to": ({"settings": Diagnose(batches=3, adapted=4)}, ConfigError, "lower diagnose.adapted"),
    "no labels": ({"target": images().unlabelled()}, DataError, "needs labelled images, and test has no labels"),
    "nothing corrupted": ({"corruption": "clean"}, ConfigError, "name a corruption"),
    "no such argument": ({"adaptation": {"step": 2}}, ConfigError, "did you mean 'steps'"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_what_cannot_be_measured_is_refused_at_once(case: str, family) -> None:
    changes, error, message = UNFIT[case]
    with pytest.raises(error, match=message):
        subject(family, **changes)


# The file


def test_the_file_holds_all_of_it(found: Diagnosis, tmp_path: Path) -> None:
    path = tmp_path / "diagnostics.json"
    assert diagnosis.read(path) is None
    diagnosis.write(path, found)
    assert diagnosis.read(path) == found
    assert json.loads(path.read_text())["labels"] == "diagnosis"


def changed(path: str, value: object) -> Callable[[dict[str, Any]], object]:
    def change(plain: dict[str, Any]) -> None:
        *way, last = path.split(".")
        for step in way:
            plain = plain[int(step)] if isinstance(plain, list) else plain[step]
        if isinstance(plain, list):
            plain[int(last)] = value
        else:
            plain[last] = value

    return change


DAMAGE = {
    "another format": (changed("format", 2), "has format 2, and this crosstask reads up to 1; upgrade it"),
    "a cosine beyond 1": (changed("gradients.0.whole.0", 1.5), "gradients.0.whole.0: "),
    "not a number": (changed("drifts.0.moments.1.moved.0", float("nan")), "finite"),
    "a batch too few": (changed("similarities.1.without", [0.5]), "expected 3 values, one a batch"),
    "an adapted batch too many": (changed("drifts.0.moments.1.turned", [0.5] * 3), "expected 2 values, one a batch"),
    "an unknown class": (changed("picture.0.points.0", [0.0, 0.0, 5]), "classes of all points below 5"),
    "an unknown field": (changed("mood", "good"), "mood: "),
    "labels that chose": (changed("labels", "tuning"), "labels: "),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_foreign_file_gets_one_message(case: str, found: Diagnosis, tmp_path: Path) -> None:
    change, message = DAMAGE[case]
    path = tmp_path / "diagnostics.json"
    diagnosis.write(path, found)
    plain = json.loads(path.read_text())
    change(plain)
    path.write_text(json.dumps(plain))
    with pytest.raises(DataError) as refused:
        diagnosis.read(path)
    assert message in str(refused.value) and str(path) in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"[1]", b"\xff", b"null", None])
def test_a_truncated_file_gets_one_message(content: bytes | None, found: Diagnosis, tmp_path: Path) -> None:
    path = tmp_path / "diagnostics.json"
    diagnosis.write(path, found)
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    with pytest.raises(DataError, match=r"remove the file and run `crosstask diagnose RECIPE` again"):
        diagnosis.read(path)


# The page


def pulling(model: str, *cosines: float) -> Gradients:
    values = list(cosines)
    return Gradients(model=model, images="source", whole=values, layers=[Layer(name="conv", cosines=values)])


def test_words_follow_the_interval(found: Diagnosis) -> None:
    gradients = [
        pulling("aligned", 0.1, 0.11, 0.12),
        pulling("joint", -0.3, -0.31, -0.32),
        pulling("self-supervised", -0.1, 0.0, 0.11),
    ]
    (sentence,) = shown.view(replace(found, gradients=gradients), summarise(few_records())).gradients
    assert sentence == (
        "On source images the two losses pull the same way in the aligned encoder (+0.110 ±0.025); they pull against "
        "each other, which is interference, in the joint encoder (\N{MINUS SIGN}0.310 ±0.025); they show no common "
        "direction in the unaligned encoder (+0.003 ±0.261)."
    )


def test_the_table_fits_the_terminal(found: Diagnosis, capsys: pytest.CaptureFixture[str]) -> None:
    Console(width=80).print(shown.table(found))
    said = " ".join(capsys.readouterr().out.split())
    assert all(name in said for name in ("unaligned", "aligned", "joint", "3 batches", "of 4")) and "…" not in said


def test_the_jackknife_of_a_mean_is_its_interval() -> None:
    values = [0.2, 0.5, 0.4, 0.9]
    without = [np.mean([v for other, v in enumerate(values) if other != place]) for place in range(4)]
    half = 3.1824 * np.std(values, ddof=1) / 2
    assert shown.jackknife(0.5, without).half == pytest.approx(half)


def few_records() -> list[Record]:
    return [record for record in fake_records(("source", "cta"), (0,)) if record.corruption in ("clean", "fog")]


def page_of(folder: Path, found: Diagnosis | None) -> str:
    write_run(folder, few_records())
    if found is not None:
        diagnosis.write(folder / "diagnostics.json", found)
    return report.write(folder).read_text(encoding="utf-8")


def test_the_page_shows_the_look_inside_where_there_is_one(found: Diagnosis, tmp_path: Path) -> None:
    (tmp_path / "with").mkdir(), (tmp_path / "without").mkdir()
    page = page_of(tmp_path / "with", found)
    assert "Inside the models" in page and "Labels of these images were used for these figures alone" in page
    assert page.count('<div role="img" aria-label="Supervised, clean') == 1
    assert not {"#010101", "#010200"} & set(page.split('"')), "a sentinel colour is left"
    ids = [part.split('"')[0] for part in page.split(' id="')[1:]]
    assert len(ids) == len(set(ids)), "two drawings share an id"
    assert "other models than these figures" in page, "the invented records stand on other weights"
    assert "Inside the models" not in page_of(tmp_path / "without", None)


def test_the_page_says_nothing_is_stale_where_nothing_is(found: Diagnosis, tmp_path: Path) -> None:
    same = replace(found, checkpoints=dict.fromkeys(KINDS, "9f2c" * 16))
    assert "other models than these figures" not in page_of(tmp_path, same)


@pytest.mark.parametrize("case", ["many classes", "no update", "one layer", "no gradients"])
def test_the_page_stands_whatever_is_there(case: str, found: Diagnosis, tmp_path: Path) -> None:
    unusual = {
        "many classes": replace(found, class_names=[f"class {index}" for index in range(100)]),
        "no update": replace(found, drifts=[replace(d, moments=d.moments[:1]) for d in found.drifts]),
        "one layer": replace(found, gradients=[replace(g, layers=g.layers[:1]) for g in found.gradients]),
        "no gradients": replace(found, gradients=[], drifts=[]),
    }[case]
    page = page_of(tmp_path, unusual)
    section = page[page.index('id="diagnosis"') :]
    assert "nan" not in section.lower().split("<svg")[0] and "None" not in section
    assert case != "many classes" or "small and gray: 90 more classes" in section


def test_the_adaptation_looked_at_is_one_in_which_each_batch_stands_alone():
    columns = {
        "kept": {"method": "cta", "arguments": {"memory": 64, "steps": 1}},
        "online": {"method": "cta", "arguments": {"steps": 1, "first_steps": 20, "keep": 0.9}},
    }
    assert _adaptation(validate(Bench, {"corruptions": ["fog"], "columns": columns}, "it")) == {"steps": 1, "keep": 0.9}
    del columns["online"]
    assert _adaptation(validate(Bench, {"corruptions": ["fog"], "columns": columns}, "it")) == {"steps": 20}


# The command


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of untrained models, with its recipe and images beside it."""
    folder = tmp_path_factory.mktemp("diagnose")
    for name, seed in (("train", 1), ("test", 0)):
        made = images(name, seed=seed)
        np.savez(folder / f"{name}.npz", images=made.images[:, 0].numpy(), labels=made.labels.numpy())
    (folder / "tiny.toml").write_text(
        f'name = "tiny"\n[data]\nname = "{folder}/train.npz"\ntest = "{folder}/test.npz"\n[supervised]\nepochs = 1\n'
        "[self_supervised]\nepochs = 1\n[align]\nepochs = 1\n[diagnose]\nbatches = 2\nadapted = 2\nsteps = [0, 2]\n"
        '[bench]\ncorruptions = ["clean", "contrast"]\nbatch_size = 16\ncolumns.source.method = "source"\n'
        'columns.cta = { method = "cta", arguments = { steps = 1 } }\n'
    )
    parents: dict[str, str] = {}
    for kind in ("supervised", "self-supervised", "aligned"):
        torch.manual_seed(len(parents))
        config = Task(hidden=8, out=8)
        encoder = make_encoder("resnet-small", 1)
        saved = checkpoints.save(
            Checkpoint(
                kind=kind,
                encoder_name="resnet-small",
                encoder=encoder,
                head=None if kind == "self-supervised" else nn.Linear(128, 5),
                task=None if kind == "supervised" else make_task(config, 128),
                task_config=None if kind == "supervised" else config,
                image_shape=(1, 16, 16),
                class_names=tuple("01234"),
                statistics={"mean": torch.ones(128)},
                parents=dict(parents) if kind == "aligned" else {},
            ),
            folder / "run" / "checkpoints" / kind,
        )
        parents[kind] = saved.weights_hash
    return folder


def command(*arguments: object, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["crosstask", *map(str, arguments)])
    monkeypatch.setattr("warnings.showwarning", lambda *_, **__: None)
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_the_command_looks_once_and_then_finds_what_it_saw(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("diagnose", run_folder / "tiny.toml", "--out", run_folder / "run")
    assert command(*arguments, monkeypatch=monkeypatch) == 0
    made = diagnosis.read(run_folder / "run" / "diagnostics.json")
    assert made and made.corruption == "contrast" and made.adaptation == {"steps": 1}
    assert made.checkpoints["aligned"] == checkpoints.load(run_folder / "run" / "checkpoints" / "aligned").weights_hash
    said = capsys.readouterr()
    assert "unaligned" in said.out and "looked inside 3 models" in said.err
    assert command(*arguments, monkeypatch=monkeypatch) == 0
    assert "found in" in capsys.readouterr().err
    assert command(*arguments, "--set", "diagnose.corruption=fog", monkeypatch=monkeypatch) == 0
    again = diagnosis.read(run_folder / "run" / "diagnostics.json")
    assert again and again.corruption == "fog"


def test_what_was_chosen_is_what_is_looked_at_unless_it_was_chosen_for_something_else(
    run_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(run_folder / "run", tmp_path / "run")
    recipe = load_recipe(str(run_folder / "tiny.toml"), ["tune.steps=[1, 3]"])
    experiment = pipeline.Experiment(recipe=recipe, folder=tmp_path / "run", command="test")
    assert _tuned(experiment) == recipe.bench
    family = {kind: checkpoints.load(experiment.path(kind)) for kind in pipeline.needed(recipe)}
    best = tuned.Scored(steps=3, learning_rate=0.02, accuracy=0.5, interval=(0.4, 0.6))
    made = tuned.Tuned(
        key=tuned.key_of(recipe, family), criterion="held-out", dataset="it", corruptions=("fog",), severity=5,
        images=9, seeds=(0,), candidates=2, columns={"cta": tuned.Choice(chosen=best, lost=0)},
    )  # fmt: skip
    tuned.write(made, tmp_path / "run" / "tuned.toml")
    assert _adaptation(_tuned(experiment)) == {"steps": 3, "learning_rate": 0.02}
    tuned.write(replace(made, key="another"), tmp_path / "run" / "tuned.toml")
    with pytest.raises(ConfigError, match="made with other settings or checkpoints"):
        _tuned(experiment)
    plain = replace(experiment, recipe=replace(recipe, tune=None))
    assert _tuned(plain) == recipe.bench


MISTAKES = {
    "no models": (("--out", "{folder}/nowhere"), "is no checkpoint"),
    "too many batches": (("--set", "diagnose.batches=9"), "lower diagnose.batches"),
    "an unknown corruption": (("--set", "diagnose.corruption=fogg"), "did you mean 'fog'"),
    "an unknown setting": (("--set", "diagnose.batch=2"), "did you mean 'batches'"),
    "clean images alone": (("--set", 'bench.corruptions=["clean"]'), "diagnose.corruption=fog"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_gets_one_message_and_exit_code_2(
    case: str, run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    more, message = MISTAKES[case]
    out = () if "--out" in more else ("--out", run_folder / "run")
    filled = [part.format(folder=run_folder) for part in more]
    assert command("diagnose", run_folder / "tiny.toml", *out, *filled, monkeypatch=monkeypatch) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")


def test_strangers_are_refused(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run_folder / "run", tmp_path / "run")
    place = tmp_path / "run" / "checkpoints" / "self-supervised"
    other = checkpoints.load(place)
    with torch.no_grad():
        other.encoder.conv.weight.add_(1)
    checkpoints.save(other, place)
    assert command("diagnose", run_folder / "tiny.toml", "--out", tmp_path / "run", monkeypatch=monkeypatch) == 2
    assert "was not made from this self-supervised one" in capsys.readouterr().err.replace("\n", " ")


def test_a_classifier_is_the_encoder_under_its_head(family) -> None:
    made = subject(family)
    assert isinstance(made.classifier("aligned"), Classifier)
    assert made.classifier("self-supervised").head is family["supervised"].head
    assert made.classifier("joint").head is family["joint"].head
