"""Every encoder of the table goes the whole way: statistics, checkpoints, the methods' contract, and a recipe."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from crosstask import checkpoint, runtime
from crosstask.bench import records
from crosstask.config import Auxiliary
from crosstask.data.images import ImageSet
from crosstask.errors import AdapterError, ConfigError, UnknownName
from crosstask.methods import METHODS, PTBN, SAR, Tent, make_adapter
from crosstask.methods.batchnorm import has_batch_norm
from crosstask.nets.encoders import ENCODERS, make_encoder
from crosstask.nets.split import Classifier, split
from crosstask.nets.twin import Twin
from crosstask.tasks import JOINT_TASKS, make_joint_task, make_task
from crosstask.testing import check_adapter
from crosstask.train.loop import Run
from crosstask.train.statistics import feature_statistics, fisher_information, refit_batch_norm
from test_pipeline import crosstask, recipe_of_stripes

RUN = Run(seed=3, device=torch.device("cpu"), precision="float32")
WITHOUT_BATCH_NORM = ("resnet18-narrow-gn", "vit-lite-narrow", "convnext-narrow")
SMALL = ("resnet-small", "resnet18-narrow", *WITHOUT_BATCH_NORM)
SHAPE = (3, 16, 16)


def classifier(tiny, name: str, channels: int = 3) -> Classifier:
    encoder = tiny.shaken(make_encoder(name, channels), seed=0)
    return Classifier(encoder, tiny.shaken(nn.Linear(encoder.feature_dim, 5), seed=1))


def aligned(tiny, name: str, channels: int = 3) -> checkpoint.Checkpoint:
    model, config = classifier(tiny, name, channels), tiny.task_config
    return checkpoint.Checkpoint(
        kind="aligned",
        encoder_name=name,
        encoder=model.encoder,
        head=model.head,
        task=tiny.shaken(make_task(config, model.encoder.feature_dim), seed=2),
        task_config=config,
        image_shape=(channels, 16, 16),
        class_names=tuple("abcde"),
    )


def noise(count: int) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    return ImageSet(images=torch.randint(0, 256, (count, *SHAPE), generator=generator, dtype=torch.uint8), name="noise")


def test_the_small_encoders_are_all_here():
    assert {*SMALL, "resnet18", "resnet50"} == {*ENCODERS}
    assert [name for name in SMALL if not has_batch_norm(make_encoder(name, 1))] == [*WITHOUT_BATCH_NORM]


@pytest.mark.parametrize(
    "method", ["source", pytest.param("tent", marks=pytest.mark.slow), pytest.param("cta", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("name", WITHOUT_BATCH_NORM)
def test_methods_keep_the_contract_on_every_encoder(tiny, name, method):
    given = aligned(tiny, name)
    caller = nn.ModuleList([given.encoder, given.head, given.task]).to(memory_format=torch.channels_last)
    x = tiny.images(4, 3, size=16).contiguous(memory_format=torch.channels_last)
    few = {"steps": 2} if METHODS[method].defaults.get("steps") else {}
    check_adapter(lambda: make_adapter(method, given, **few), x, model=caller)


@pytest.mark.parametrize("name", WITHOUT_BATCH_NORM)
def test_what_tent_moves_are_scales_and_shifts_of_all_norms_and_nothing_else(tiny, name):
    model = classifier(tiny, name)
    norms = {n for n, layer in model.named_modules() if isinstance(layer, nn.LayerNorm | nn.GroupNorm)}
    adapter = Tent(model)
    adapter(tiny.images(4, 3, size=16))
    assert {*adapter.adapted_names} == {f"{n}.{own}" for n in norms for own in ("weight", "bias")}
    assert len(norms) >= 12 and not any("scale" in n or "patches" in n for n in adapter.adapted_names)


@pytest.mark.parametrize("name", SMALL)
def test_sar_leaves_a_fourth_stage_alone_where_there_is_one(tiny, name):
    moving, every = (
        set(SAR(classifier(tiny, name), skip=skip).adapted_names) for skip in (METHODS["sar"].defaults["skip"], "")
    )
    assert {n.split(".")[2] for n in every - moving if n.startswith("encoder.stages.")} == (
        {"3"} if "resnet18" in name else set()
    )
    assert moving == {n for n in every if not n.startswith("encoder.stages.3.")}


@pytest.mark.parametrize("name", SMALL)
def test_the_source_says_of_itself_what_methods_ask(tiny, name):
    model, images = classifier(tiny, name), noise(24)
    found = feature_statistics(model.encoder, images, RUN)
    assert found["mean"].shape == (128,) and found["covariance"].shape == (128, 128)
    fisher = fisher_information(model, images, RUN)
    assert {n.removeprefix("fisher.") for n in fisher} == {*Tent(model).adapted_names}
    assert all(values.isfinite().all() and values.min() >= 0 for values in fisher.values())


@pytest.mark.parametrize("name", WITHOUT_BATCH_NORM)
def test_without_batch_norm_there_is_nothing_to_refit(tiny, name):
    encoder = classifier(tiny, name).encoder.train()
    encoder.register_forward_pre_hook(lambda *_: pytest.fail("no image need be looked at"))
    before = {n: tensor.clone() for n, tensor in encoder.state_dict().items()}
    refit_batch_norm(encoder, noise(8), RUN)
    assert not encoder.training and all(torch.equal(before[n], tensor) for n, tensor in encoder.state_dict().items())


@pytest.mark.parametrize("name", SMALL)
def test_every_encoder_goes_through_a_checkpoint(tiny, name, tmp_path):
    given, x = aligned(tiny, name), tiny.images(4, 3, size=16)
    runtime.place(given.encoder, RUN.device)
    found = checkpoint.load(checkpoint.save(given, tmp_path / "aligned") and tmp_path / "aligned")
    assert type(found.encoder) is type(given.encoder)
    with torch.no_grad():
        torch.testing.assert_close(found.classifier(x), given.classifier.eval()(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SMALL)
def test_a_classifier_on_every_encoder_splits(tiny, name):
    model, x = classifier(tiny, name), tiny.images(2, 3, size=16)
    found = split(nn.Sequential(model.encoder, nn.Sequential(nn.Dropout(0.5), model.head)), x)
    assert isinstance(found.head, nn.Linear) and found.encoder.eval()(x).shape == (2, 128)


@pytest.mark.parametrize("kind", JOINT_TASKS)
@pytest.mark.parametrize("name", WITHOUT_BATCH_NORM)
def test_tasks_on_maps_fit_every_encoder_as_they_are(tiny, name, kind):
    model = classifier(tiny, name)
    if kind == "rec-ttt":
        twin = Twin(model.encoder, classifier(tiny, name).encoder)
        model = Classifier(twin, tiny.shaken(nn.Linear(twin.feature_dim, 5), seed=1))
    config = Auxiliary(name=kind)
    task = tiny.shaken(make_joint_task(config, model.encoder, SHAPE), seed=2)
    x, generator = tiny.images(4, 3, size=16), torch.Generator().manual_seed(0)
    features, loss = task.joint(model.encoder, x, generator)
    assert features.shape == (4, model.encoder.feature_dim) and loss.isfinite()
    given = dataclasses.replace(
        aligned(tiny, name), kind=kind, encoder=model.encoder, head=model.head, task=task, task_config=config
    )
    adapter = make_adapter(kind, given, steps=1)
    assert adapter(x).isfinite().all()
    last = len(make_encoder(name, 3).stages) - 1
    assert adapter.adapted_names and not any(f"encoder.stages.{last}." in n for n in adapter.adapted_names)


def test_the_branch_of_ttt_is_a_copy_of_all_that_follows_in_every_encoder(tiny):
    for name in SMALL:
        encoder = tiny.shaken(make_encoder(name, 3), seed=0).eval()
        branch = make_joint_task(Auxiliary(name="ttt", arguments={"layers": "stages.1"}), encoder, SHAPE).branch.eval()
        x = tiny.images(2, 3, size=16)
        maps = encoder.stages[:2](encoder.stem(encoder.normalize(x)))
        torch.testing.assert_close(branch[:-1](maps), encoder(x), rtol=1e-4, atol=1e-5)


def test_a_layer_without_maps_is_an_error_that_names_those_with_maps():
    encoder = make_encoder("vit-lite-narrow", 3).train()
    with pytest.raises(
        ConfigError,
        match=r"'stages\.0\.0\.mlp' gives \[B, 16, 128\]; .*: normalize, patches, stages, stages\.0, stages\.1, ",
    ):
        make_joint_task(Auxiliary(name="clust3", arguments={"layers": "stages.0.0.mlp"}), encoder, SHAPE)
    with pytest.raises(UnknownName, match=r"unknown module to tap 'layer3'.*stages\.2\.1\.attention"):
        make_joint_task(Auxiliary(name="clust3", arguments={"layers": "layer3"}), encoder, SHAPE)
    assert all(module.training for module in encoder.modules())
    deep = nn.Sequential(nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3))), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert not any(module._forward_hooks for module in encoder.modules())
    with pytest.raises(ConfigError, match=r"tap another: 0, 0\.0, 1$"):
        make_joint_task(Auxiliary(name="clust3", arguments={"layers": "2"}), deep, SHAPE)


@pytest.mark.parametrize("name", WITHOUT_BATCH_NORM)
def test_ptbn_refuses_a_network_without_batch_norm(tiny, name):
    with pytest.raises(AdapterError, match=r"PTBN needs batch-norm layers and found only .*; use `source` instead"):
        PTBN(classifier(tiny, name))


# From a recipe.


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recipe_of_stripes(tmp_path_factory.mktemp("recipe"))


def test_a_column_that_needs_batch_norm_is_refused_before_any_training(recipe: Path, tmp_path: Path) -> None:
    for command in ("run", "pretrain"):
        done = crosstask(command, recipe, "--out", tmp_path / "no", "--set=encoder=vit-lite-narrow", check=False)
        assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert (
            "column 'ptbn': ptbn needs batch-norm layers, and the encoder vit-lite-narrow has none; take" in done.stderr
        )
        assert not (tmp_path / "no").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", WITHOUT_BATCH_NORM)
def test_a_recipe_runs_the_whole_way_on_every_encoder(recipe: Path, tmp_path: Path, name: str) -> None:
    text = recipe.read_text().replace('[bench.columns.ptbn]\nmethod = "ptbn"\n', "")
    (tmp_path / "own.toml").write_text(text)
    fast = ["--set=bench.seeds=[0]", "--set=supervised.epochs=8", "--set=align.epochs=12"]
    crosstask("run", tmp_path / "own.toml", "--out", tmp_path / "run", f"--set=encoder={name}", *fast)
    found = records.read(tmp_path / "run" / "records.jsonl")
    assert {record.label for record in found} == {"source", "tent-online", "cta"} and len(found) == 9
    clean = {record.label: record.accuracy for record in found if record.corruption == "clean"}
    assert clean["source"] > 0.6 and clean["cta"] > 0.6, "three classes: chance is a third"
    assert checkpoint.read_about(tmp_path / "run" / "checkpoints" / "aligned")["encoder"] == name
    supervised, ptbn = tmp_path / "run" / "checkpoints" / "supervised", 'bench.columns.ptbn={method="ptbn"}'
    arguments = ("--out", tmp_path / "again", f"--supervised={supervised}", "--set", ptbn)
    done = crosstask("bench", tmp_path / "own.toml", *arguments, f"--aligned={supervised.parent}/aligned", check=False)
    assert done.returncode == 2 and f"needs batch-norm layers, and the encoder {name} has none" in done.stderr
    assert not (tmp_path / "again" / "records.jsonl").exists()
