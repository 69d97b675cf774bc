"""The self-supervised tasks that CTA takes: each by its formula, under the adapter contract, and the whole way."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crosstask import checkpoint as checkpoints
from crosstask import pipeline, runtime
from crosstask.checkpoint import Checkpoint
from crosstask.config import Align, SelfSupervised, Supervised, Task, Views, load_recipe, to_dict, validate
from crosstask.data.images import ImageSet, load_images
from crosstask.errors import ConfigError, UnknownName
from crosstask.methods import make_adapter
from crosstask.methods.cta import CTA
from crosstask.tasks import TASKS, SelfSupervisedTask, check_task, make_task
from crosstask.testing import check_adapter
from crosstask.train import loop
from crosstask.train.align import align
from crosstask.train.joint import pretrain_with_views
from crosstask.train.loop import Run
from crosstask.train.pretrain import pretrain_self_supervised
from crosstask.views import two_views
from test_losses import barlow_twins_by_hand, byol_by_hand, nt_xent_by_hand, vicreg_by_hand
from test_methods import CPU, textures
from test_pipeline import RECIPE, stripes

WIDTHS = {"hidden": 16, "out": 8}
CONFIGS = {name: Task(name=name, views=Views(blur=0.5), **({} if name == "rotation" else WIDTHS)) for name in TASKS}
RUN = Run(seed=3, device=CPU, precision="float32")
NEW = [name for name in TASKS if name != "simclr"]


def seeded(*parts: object) -> torch.Generator:
    return runtime.generator(CPU, *parts)


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def plain_head(head: nn.Sequential, x: Tensor) -> Tensor:
    """Return what a projector in train mode makes of features, from its weights."""
    for layer in head:
        if isinstance(layer, nn.Linear):
            x = x @ layer.weight.T + (0 if layer.bias is None else layer.bias)
        elif isinstance(layer, nn.BatchNorm1d):
            x = (x - x.mean(0)) / (x.var(0, correction=0) + layer.eps).sqrt() * layer.weight + layer.bias
        else:
            x = x.clamp(min=0)
    return x


def plain_loss(name: str, task: SelfSupervisedTask, encoder: nn.Module, views: Tensor, slow: nn.Module) -> float:
    """Return a task's loss from its formula; `slow` is BYOL's target network."""
    features = encoder(views)
    if name == "rotation":
        log_p = (features @ task.classifier.weight.T + task.classifier.bias).log_softmax(dim=1)
        count = len(views) // 4
        return -sum(float(log_p[turns * count + image, turns]) for turns in range(4) for image in range(count)) / (
            4 * count
        )
    z = plain_head(task.projector, features)
    if name == "simclr":
        return nt_xent_by_hand(z, 0.2)
    if name == "vicreg":
        return vicreg_by_hand(z, 25, 25, 1)
    if name == "barlow-twins":
        return 0.024 * barlow_twins_by_hand(z, 0.005)
    return byol_by_hand(plain_head(task.predictor, z), plain_head(task.projector, slow(views)))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", TASKS)
@torch.no_grad()
def test_the_loss_is_its_formula(tiny, name, channels):
    task = tiny.shaken(make_task(CONFIGS[name], 12), seed=2)
    encoder, slow, x = tiny.encoder(channels), tiny.encoder(channels, seed=3), tiny.images(5, channels)
    task.begin(slow)
    views = task.views(x, seeded("views"))
    expected = plain_loss(name, task, encoder, views, slow)
    if name == "byol":
        task.keep = 1.0
    assert float(task(encoder, x, seeded("views"))) == pytest.approx(expected, rel=1e-3)
    assert float(task.loss(encoder(views), views, encoder)) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("name", TASKS)
def test_the_teacher_sees_the_same_crops_in_their_own_colours(tiny, name):
    task, x = make_task(CONFIGS[name], 12), tiny.images(5, 3)
    views, plain = task.view_pairs(x, seeded(0))
    assert torch.equal(views, task.views(x, seeded(0))) and views.shape == plain.shape and len(views) % 5 == 0
    assert not torch.equal(views, plain)
    if name == "rotation":
        crops = task.sampler.geometric(x, seeded(0))
        for turns, turned in enumerate(plain.split(5)):
            assert np.array_equal(turned.numpy(), np.rot90(crops.numpy(), turns, axes=(2, 3)))
    else:
        torch.testing.assert_close(plain, task.sampler.geometric(torch.cat([x, x]), seeded(0)))
        assert torch.equal(views, two_views(x, task.sampler, seeded(0)))


def test_quarter_turns_need_square_images():
    with pytest.raises(ConfigError, match="quarter turns need square images, got 8 x 12 pixels"):
        make_task(CONFIGS["rotation"], 12).views(torch.rand(2, 1, 8, 12), seeded(0))


def parameters(*modules: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for module in modules for p in module.parameters()]


def test_the_target_of_byol_is_a_moving_average_in_train_mode_alone(tiny):
    config = Task(name="byol", arguments={"keep": 0.7}, **WIDTHS)
    task, encoder, x = tiny.shaken(make_task(config, 12), seed=2), tiny.encoder(), tiny.images(5)
    with pytest.raises(ConfigError, match=r"BYOL has no target network yet: .* its begin\(encoder\)"):
        task(encoder, x, seeded(0))
    task.begin(encoder)
    expected = parameters(encoder, task.projector)
    learned = [p for module in (encoder, task) for p in module.parameters()]
    optimiser = torch.optim.SGD(learned, lr=0.5)
    for step in range(3):
        online = parameters(encoder, task.projector)
        expected = [0.7 * slow + 0.3 * fast for slow, fast in zip(expected, online, strict=True)]
        task(encoder, x, seeded(step)).backward()
        target = list(task.target.buffers())[: len(expected)]
        for slow, value in zip(expected, target, strict=True):
            torch.testing.assert_close(value, slow)
        optimiser.step()
        optimiser.zero_grad()
    assert not any(torch.equal(*pair) for pair in zip(target, parameters(encoder, task.projector), strict=True))

    assert not any("target" in name for name, _ in task.named_parameters())
    kept = copy.deepcopy(task.state_dict())
    task.begin(tiny.encoder(seed=9))
    task.eval()(encoder.eval(), x, seeded(4)).backward()
    assert same(task.state_dict(), kept) and any(name.startswith("target") for name in kept)


@pytest.mark.parametrize("policy", ["batch", "source", "mixed", "prior", "ema", "robust"])
def test_at_test_time_the_target_of_byol_keeps_its_weights(tiny, policy):
    checkpoint, x = tiny.checkpoint(task_config=CONFIGS["byol"]), tiny.images()
    before = copy.deepcopy(checkpoint.task.state_dict())
    adapter = CTA(checkpoint.classifier, checkpoint.task, steps=3, batch_norm=policy)
    source = copy.deepcopy(adapter.task.state_dict())
    adapter(x)
    weights = len(parameters(checkpoint.encoder, checkpoint.task.projector))
    for index in range(weights):
        assert torch.equal(adapter.task.target.get_buffer(f"value{index}"), before[f"target.value{index}"])
    if policy in ("batch", "source", "mixed", "prior"):
        assert same(adapter.task.state_dict(), source)
    adapter.reset()
    assert same(adapter.task.state_dict(), source) and same(checkpoint.task.state_dict(), before)


def test_the_target_of_byol_normalises_as_the_encoder_does_where_a_layer_drops_its_averages(tiny):
    class OwnNorm(nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            return F.relu(super().forward(x))

    model, x = tiny.classifier(), tiny.images()
    model.encoder.norm1 = tiny.shaken(OwnNorm(8), seed=6)
    task = tiny.shaken(make_task(CONFIGS["byol"], 12), seed=2)
    task.begin(model.encoder)
    adapter = CTA(model, task, batch_norm="batch")
    assert adapter.model.encoder.norm1.running_mean is None
    online = nn.Sequential(adapter.model.encoder, adapter.task.projector)
    with torch.no_grad():
        expected = plain_head(task.projector, model.encoder.train()(x))
    torch.testing.assert_close(adapter.task.target(online, x), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("name", NEW)
def test_cta_keeps_the_contract_with_each_task(tiny, name, norm):
    checkpoint = tiny.checkpoint(3, norm, task_config=CONFIGS[name])
    task, before = checkpoint.task, copy.deepcopy(checkpoint.task.state_dict())
    model = checkpoint.classifier
    check_adapter(lambda: CTA(model, task, steps=2, learning_rate=1e-3), tiny.images(4, 3), model=model)
    assert same(task.state_dict(), before) and task.training


@pytest.mark.parametrize("policy", ["batch", "source"])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", TASKS)
@pytest.mark.filterwarnings("error::crosstask.methods.state.RefusedUpdate")
def test_one_or_two_images_are_enough_to_adapt(tiny, name, batch, policy):
    checkpoint = tiny.checkpoint(task_config=CONFIGS[name])
    adapter = CTA(checkpoint.classifier, checkpoint.task, steps=3, learning_rate=1e-3, batch_norm=policy)
    assert adapter(tiny.images(batch)).isfinite().all() and not adapter.descent.refused


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.filterwarnings("ignore:CTA without a task")
def test_cta_keeps_the_contract_without_a_task(tiny, norm):
    model = tiny.classifier(3, norm)
    check_adapter(lambda: CTA(model, steps=2, learning_rate=1e-3), tiny.images(4, 3), model=model)


def test_cta_without_a_task_warns_where_there_is_no_batch_norm(tiny):
    with pytest.warns(UserWarning, match=r"gained nothing by it or were harmed; align the encoder first"):
        CTA(tiny.classifier(3, "group"))
    CTA(tiny.classifier(3, "batch"))  # warnings are errors here


def test_simclr_without_a_projector_is_kept_in_a_checkpoint_as_such(tiny, tmp_path):
    made = tiny.checkpoint(task_config=Task(hidden=0, views=Views(crop=(0.5, 1.0))))
    assert not list(made.task.parameters())
    checkpoints.save(made, tmp_path / "aligned")
    found = checkpoints.load(tmp_path / "aligned", encoder=tiny.encoder(seed=9), head=tiny.classifier().head)
    bare = dataclasses.replace(made, kind="supervised", task=None, task_config=None)
    kept, loaded, alone = (make_adapter("cta", each, steps=2)(tiny.images(4)) for each in (made, found, bare))
    assert torch.equal(kept, alone)
    torch.testing.assert_close(kept, loaded)


def noise(count: int, channels: int) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, channels, 12, 12), generator=generator, dtype=torch.uint8)
    return ImageSet(images=images, name="noise")


def trained(tiny, name: str, channels: int = 1, run: Run = RUN) -> tuple[nn.Module, SelfSupervisedTask, nn.Module]:
    """Pretrain and align a tiny encoder; return it with its task and the classifier that it is aligned with."""
    encoder, teacher, images = tiny.encoder(channels, seed=4), tiny.classifier(channels, seed=5), noise(24, channels)
    runtime.place(encoder, CPU)
    task = tiny.shaken(make_task(CONFIGS[name], 12), seed=6)
    pretrain_self_supervised(encoder, task, images, SelfSupervised(epochs=4, batch_size=8, learning_rate=1e-3), run)
    align(encoder, task, teacher, images, Align(epochs=2, batch_size=8, learning_rate=1e-3), RUN)
    return encoder, task, teacher


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", TASKS)
def test_what_is_pretrained_aligned_and_saved_adapts_alike_when_loaded(tiny, tmp_path, name, channels):
    encoder, task, teacher = trained(tiny, name, channels)
    made = Checkpoint(
        kind="aligned",
        encoder_name="custom",
        encoder=encoder,
        head=teacher.head,
        task=task,
        task_config=CONFIGS[name],
        image_shape=(channels, 12, 12),
    )
    checkpoints.save(made, tmp_path / "aligned")
    found = checkpoints.load(tmp_path / "aligned", encoder=tiny.encoder(channels, seed=9))
    assert found.task_config == CONFIGS[name] and type(found.task) is TASKS[name] and not found.task.training
    assert same(found.task.state_dict(), task.state_dict())
    x = tiny.images(4, channels)
    answers = [make_adapter("cta", each, steps=3, learning_rate=1e-3)(x) for each in (made, found)]
    assert torch.equal(*answers) and not torch.equal(answers[0], made.classifier.eval()(x))
    by_hand = make_task(CONFIGS[name], 12)
    loaded = checkpoints.load(tmp_path / "aligned", encoder=tiny.encoder(channels), task=by_hand)
    assert same(loaded.task.state_dict(), task.state_dict())


class Killed(BaseException):
    """Stands for `kill -9`: nothing catches it."""


@pytest.mark.parametrize("name", TASKS)
def test_a_killed_pretraining_taken_up_again_ends_in_the_same_bits(tiny, tmp_path, monkeypatch, name):
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=itertools.count(0.0, 2.0).__next__))
    monkeypatch.setattr(loop, "_SAVING_SHARE", math.inf)
    how = SelfSupervised(epochs=20, batch_size=8, learning_rate=1e-3)

    def train(**changes) -> dict[str, Tensor]:
        encoder, task = tiny.encoder(seed=4), tiny.shaken(make_task(CONFIGS[name], 12), seed=6)
        pretrain_self_supervised(
            encoder, task, noise(24, 1), how, Run(seed=3, device=CPU, precision="float32", **changes)
        )
        return nn.ModuleList([encoder, task]).state_dict()

    def kill(done: int, total: int, loss: float) -> None:
        if done == 50:
            raise Killed

    kept = {"state": tmp_path / "state", "key": "a"}
    with pytest.raises(Killed):
        train(progress=kill, **kept)
    steps: list[int] = []
    again = train(progress=lambda done, total, loss: steps.append(done), **kept)
    assert steps[0] == 50 and same(again, train())


def under_a_sky(images: ImageSet) -> ImageSet:
    """Brighten images towards the top, so that they have an upright."""
    sky = torch.linspace(1, 0, images.images.shape[2]).view(1, 1, -1, 1)
    return ImageSet(images=(images.images * 0.5 + 127 * sky).to(torch.uint8), name="under a sky")


@pytest.mark.parametrize("name", TASKS)
def test_the_loss_falls_in_training(tiny, name):
    images = under_a_sky(textures(128, seed=0))
    encoder, task = tiny.encoder(seed=4), tiny.shaken(make_task(CONFIGS[name], 12), seed=6)
    how = SelfSupervised(epochs=25, batch_size=32, learning_rate=0.01)
    history = pretrain_self_supervised(encoder, task, images, how, RUN)
    assert history[-1] < (1.0 if name == "rotation" else 0.9 * history[0])


@pytest.mark.parametrize("name", NEW)
def test_a_task_may_be_trained_beside_the_classifier(tiny, name):
    task, model = make_task(CONFIGS[name], 12), tiny.classifier(classes=4)
    how = Supervised(epochs=2, batch_size=32, learning_rate=1e-3)
    (loss,) = pretrain_with_views(model, task, textures(64, seed=0), how, RUN)
    assert math.isfinite(loss)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    stripes(folder / "train.npz", 64, 0)
    text = RECIPE.format(train=folder / "train.npz", test=folder / "train.npz").replace("hidden = 16\nout = 8\n", "")
    path = folder / "tasks.toml"
    path.write_text(text.replace("epochs = 4", "epochs = 1").replace("epochs = 3", "epochs = 1"))
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("vicreg", [f"task.arguments.{key}" for key in ("invariance=1.0", "variance=1.0", "covariance=0.04")]),
        ("barlow-twins", ["task.arguments.scale=0.1"]),
        ("byol", ["task.arguments.keep=0.9", "task.hidden=24"]),
        ("rotation", []),
    ],
)
def test_a_recipe_names_its_task(recipe, tmp_path, name, settings):
    read = load_recipe(str(recipe), [f"task.name={name}", *settings])
    experiment = pipeline.Experiment(recipe=read, folder=tmp_path / "run", command="test")
    images = load_images(read.data.name)
    teacher, student = (
        stage(experiment, images) for stage in (pipeline.supervised_stage, pipeline.self_supervised_stage)
    )
    aligned = pipeline.align_stage(experiment, images, teacher, student)
    assert aligned.task_config == read.task and type(aligned.task) is TASKS[name]
    again = load_recipe(str(tmp_path / "run" / "config.toml"))
    assert again.task == read.task
    adapter = make_adapter("cta", checkpoints.load(tmp_path / "run" / "checkpoints" / "aligned"), steps=2)
    assert adapter(images.images[:8] / 255).isfinite().all()
    if name == "byol":
        joint = pipeline.joint_stage(experiment, "joint", images, teacher)
        assert make_adapter("ttac", joint)(images.images[:8] / 255).isfinite().all()


def test_ttt_plus_plus_beside_another_task_is_refused_before_anything_is_trained(recipe, tmp_path):
    read = load_recipe(str(recipe), ["task.name=vicreg", 'bench.columns.other={method="ttt++", reset="corruption"}'])
    experiment = pipeline.Experiment(recipe=read, folder=tmp_path / "run", command="test")
    with pytest.raises(ConfigError, match="needs the task 'simclr', and the recipe has 'vicreg'; take the column"):
        pipeline.pretrain_stages(experiment, load_images(read.data.name))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"name": "byl"}, UnknownName, "unknown self-supervised task 'byl'; did you mean 'byol'?"),
        (
            {"name": "vicreg", "arguments": {"varianc": 1.0}},
            ConfigError,
            "varianc: unknown key; did you mean 'variance'?",
        ),
        ({"name": "byol", "arguments": {"keep": 1.5}}, ConfigError, "keep: input should be less than or equal to 1"),
        ({"name": "byol", "arguments": {"keep": "0.9"}}, ConfigError, "keep: input should be a valid number"),
        (
            {"name": "barlow-twins", "temperature": 0.5},
            ConfigError,
            "temperature: unknown key. Known here: off_diagonal",
        ),
        ({"name": "vicreg", "hidden": 0}, ConfigError, "hidden: input should be greater than or equal to 1"),
        ({"name": "rotation", "hidden": 64}, ConfigError, "hidden: unknown key. Known here: none"),
        ({"name": "vicreg", "arguments": {"out": 64}}, ConfigError, "has out among its arguments; it is a setting of"),
    ],
)
def test_mistakes_are_named(recipe, tmp_path, settings, error, message):
    config = validate(Task, settings, "task")
    for check in (check_task, lambda config: make_task(config, 12)):
        with pytest.raises(error) as told:
            check(config)
        assert message in str(told.value)
    overrides = [f"task.{key}={value}" for key, value in settings.items() if key != "arguments"]
    overrides += [f"task.arguments.{key}={value!r}" for key, value in settings.get("arguments", {}).items()]
    with pytest.raises(error):
        pipeline.Experiment(recipe=load_recipe(str(recipe), overrides), folder=tmp_path, command="test")


def test_settings_from_before_there_were_arguments_are_written_as_they_were():
    """Else every checkpoint made since would be trained anew: the digest of its settings would be another."""
    plain = to_dict(Task())
    assert list(plain) == ["name", "temperature", "hidden", "out", "views"]
    assert validate(Task, plain, "task") == Task()
    assert to_dict(Task(name="byol", arguments={"keep": 0.9}))["arguments"] == {"keep": 0.9}
