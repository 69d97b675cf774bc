"""A checkpoint comes back bit for bit, or says in one message what is wrong with it and what to do."""

from __future__ import annotations

import dataclasses
import json
import os
import pickletools
from pathlib import Path

import pytest
import torch
from torch import nn

from crosstask import checkpoint as checkpoints
from crosstask import runtime
from crosstask.checkpoint import ABOUT, FORMAT, WEIGHTS, load, save
from crosstask.errors import CheckpointError, StorageError
from crosstask.methods import make_adapter
from crosstask.nets.encoders import make_encoder
from crosstask.tasks import SimCLR, make_task
from crosstask.views import ViewSampler


@pytest.fixture
def small(tiny):
    """Return an aligned checkpoint of a named architecture, with everything a checkpoint can hold."""
    encoder = tiny.shaken(make_encoder("resnet-small", 1), seed=0)
    return checkpoints.Checkpoint(
        kind="aligned",
        encoder_name="resnet-small",
        encoder=encoder.to(memory_format=torch.channels_last),
        head=tiny.shaken(nn.Linear(128, 3), seed=1),
        task=tiny.shaken(make_task(tiny.task_config, 128), seed=2),
        task_config=tiny.task_config,
        image_shape=(1, 12, 12),
        class_names=("ant", "bee", "cât"),
        statistics={"mean": torch.randn(128), "covariance": torch.randn(128, 128)},
        settings={"seed": 3, "align": {"epochs": 0.1}},
        metrics={"clean_accuracy": 0.5},
        parents={"supervised": "0" * 64},
    )


def rewrite(folder, **changes):
    """Change keys of a saved `config.json`; None takes a key away."""
    about = json.loads((folder / ABOUT).read_text()) | changes
    (folder / ABOUT).write_text(json.dumps({key: value for key, value in about.items() if value is not None}))


def same_weights(left, right) -> bool:
    one, other = left.state_dict(), right.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_everything_comes_back_bit_for_bit(small, tiny, tmp_path):
    saved = save(small, tmp_path / "a" / "b")
    found = load(tmp_path / "a" / "b")
    for name in ("encoder", "head", "task"):
        assert same_weights(getattr(found, name), getattr(small, name))
    assert all(torch.equal(found.statistics[name], small.statistics[name]) for name in ("mean", "covariance"))
    plain = ("kind", "encoder_name", "task_config", "image_shape", "class_names", "settings", "metrics", "parents")
    assert all(getattr(found, name) == getattr(small, name) for name in plain)
    assert found.weights_hash == saved.weights_hash and len(saved.weights_hash) == 64 and not small.weights_hash
    x = tiny.images(channels=1)
    for method, arguments in (("source", {}), ("cta", {"steps": 2})):
        assert torch.equal(make_adapter(method, found, **arguments)(x), make_adapter(method, small, **arguments)(x))
    assert not found.encoder.training and not found.head.training


def test_half_the_bytes_keep_matrices_rounded_and_all_else_exactly(small, tmp_path):
    whole, half = tmp_path / "whole", tmp_path / "half"
    save(small, whole)
    save(small, half, weights="bfloat16")
    found = load(half)
    for part in ("encoder", "head", "task"):
        kept, exact = getattr(found, part).state_dict(), getattr(small, part).state_dict()
        for name, tensor in exact.items():
            assert kept[name].dtype == tensor.dtype
            assert torch.equal(kept[name], tensor.bfloat16().float() if tensor.ndim > 1 else tensor)
    assert all(torch.equal(found.statistics[name], small.statistics[name]) for name in ("mean", "covariance"))
    assert (half / WEIGHTS).stat().st_size < 0.6 * (whole / WEIGHTS).stat().st_size
    again = save(found, tmp_path / "again", weights="bfloat16")
    assert again.weights_hash == found.weights_hash, "rounded once, it is not rounded further"


def test_saved_twice_it_has_the_same_bits(small, tmp_path):
    first, second = save(small, tmp_path / "first"), save(load(save_at(small, tmp_path)), tmp_path / "second")
    assert first.weights_hash == second.weights_hash
    assert (tmp_path / "first" / WEIGHTS).read_bytes() == (tmp_path / "second" / WEIGHTS).read_bytes()


def save_at(checkpoint, folder, name="model"):
    """Save a checkpoint and return its folder."""
    save(checkpoint, folder / name)
    return folder / name


def test_a_folder_holds_two_files_and_no_pickle(small, tmp_path):
    folder = save_at(small, tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == [ABOUT, WEIGHTS] == ["config.json", "model.safetensors"]
    weights = (folder / WEIGHTS).read_bytes()
    assert weights[8:9] == b"{" and not weights.startswith(b"PK")
    with pytest.raises(ValueError):
        list(pickletools.genops(weights))
    about = json.loads((folder / ABOUT).read_text())
    assert about["format"] == FORMAT and about["environment"]["torch"] and about["feature_dim"] == 128


def test_a_self_supervised_checkpoint_has_no_classifier(small, tmp_path):
    folder = save_at(dataclasses.replace(small, kind="self-supervised", head=None, class_names=()), tmp_path)
    found = load(folder)
    assert found.head is None and same_weights(found.task, small.task)
    with pytest.raises(CheckpointError, match="a self-supervised checkpoint has no classifier; align it first"):
        _ = found.classifier


def test_a_head_without_bias_comes_back(small, tmp_path):
    found = load(save_at(dataclasses.replace(small, head=nn.Linear(128, 3, bias=False)), tmp_path))
    assert found.head.bias is None


def flip_a_bit(folder):
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (folder / WEIGHTS).write_bytes(content)


def truncate(folder):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:1000])


def not_safetensors(folder):
    (folder / WEIGHTS).write_bytes(b"no weights")
    rewrite(folder, weights_sha256=checkpoints.sha256(folder / WEIGHTS))


def cut_the_json(folder):
    (folder / ABOUT).write_text((folder / ABOUT).read_text()[:200])


DAMAGE = {
    "a flipped bit": (
        flip_a_bit,
        r"model.safetensors is damaged or was replaced: expected SHA-256 \w{64}, found \w{64}",
    ),
    "cut weights": (truncate, "model.safetensors is damaged or was replaced"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), "damaged or was replaced: .* found no file"),
    "other weights": (not_safetensors, "is not a safetensors file"),
    "no config": (
        lambda folder: (folder / ABOUT).unlink(),
        "is no checkpoint: expected a folder with model.safetensors",
    ),
    "a cut config": (cut_the_json, "config.json is not whole JSON"),
    "a config of bytes": (lambda folder: (folder / ABOUT).write_bytes(b"\xff\xfe"), "config.json is not whole JSON"),
    "a list": (lambda folder: (folder / ABOUT).write_text("[1]"), r"has format \[1\]; this version reads format 1"),
    "a newer format": (lambda folder: rewrite(folder, format=99), "has format 99; this version reads format 1. Update"),
    "no format": (lambda folder: rewrite(folder, format=None), "has format None; this version reads format 1"),
    "a wrong width": (lambda folder: rewrite(folder, feature_dim=-3), "feature_dim: .*greater than or equal to 1"),
    "an image of nothing": (lambda folder: rewrite(folder, image_shape=[1, 0, 12]), "image_shape.1: .*greater than"),
    "too few names": (lambda folder: rewrite(folder, class_names=["ant"]), "names 1 classes and has 3"),
    "a missing key": (
        lambda folder: rewrite(folder, image_shape=None),
        r"config.json has 1 mistake\(s\):\n  image_shape: is",
    ),
    "wrong types": (
        lambda folder: rewrite(folder, classes="ten", encoder=["x"], feature_dim=1.5),
        "(?s)3 mistake.*encoder: .*valid string.*feature_dim: .*integer.*classes: .*integer",
    ),
    "another encoder": (lambda folder: rewrite(folder, encoder="resnet18"), "the encoder in .* another architecture"),
    "other channels": (
        lambda folder: rewrite(folder, image_shape=[3, 12, 12]),
        r"3 tensor\(s\) differ, the first is conv.weight \(expected \(32, 3, 3, 3\), found \(32, 1, 3, 3\)\)",
    ),
    "other classes": (
        lambda folder: rewrite(folder, classes=4, class_names=list("abcd")),
        r"the head in .*\(expected \(4,\), found \(3,\)\)",
    ),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_named(small, tmp_path, damage, message):
    folder = save_at(small, tmp_path)
    damage(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(folder)
    assert str(folder) in str(caught.value)


def test_a_place_without_a_checkpoint_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="nowhere is no checkpoint"):
        load(tmp_path / "nowhere")


def test_an_architecture_given_by_hand_must_fit(small, tmp_path):
    folder = save_at(small, tmp_path)
    with pytest.raises(CheckpointError, match=r"the encoder in .* has another architecture"):
        load(folder, encoder=make_encoder("resnet-small", 3))
    with pytest.raises(CheckpointError, match=r"the head in .* \(expected none, found \(3,\)\)"):
        load(folder, head=nn.Linear(128, 3, bias=False))


class OwnTask(SimCLR):
    """A task of the user's, unknown to the table."""

    def __init__(self):
        super().__init__(12, temperature=0.5, sampler=ViewSampler(), hidden=7, out=5)


def test_an_encoder_head_and_task_of_ones_own_are_passed_in(tiny, tmp_path):
    head = nn.Sequential(nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 3))
    own = dataclasses.replace(tiny.checkpoint(), head=head, task=OwnTask(), task_config=None)
    folder = save_at(own, tmp_path)
    parts = {}
    empty_head = nn.Sequential(nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 3))
    for name, part in (("encoder", tiny.encoder(seed=5)), ("head", empty_head), ("task", OwnTask())):
        with pytest.raises(
            CheckpointError, match=rf"the {name} in .* is your own; pass it: load\(folder, {name}=...\)"
        ):
            load(folder, **parts)
        parts[name] = part
    found = load(folder, **parts)
    assert found.encoder is parts["encoder"] and found.encoder_name == "custom"
    assert all(same_weights(getattr(found, name), getattr(own, name)) for name in parts)


def test_an_encoder_without_a_stated_width_is_fine_under_a_linear_head(tiny, tmp_path):
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = tiny.encoder()

        def forward(self, x):
            return self.inner(x)

    own = dataclasses.replace(tiny.checkpoint(), encoder=Bare())
    found = load(save_at(own, tmp_path), encoder=Bare())
    assert same_weights(found.head, own.head) and same_weights(found.task, own.task)
    known = dataclasses.replace(own, head=None, statistics={"mean": torch.zeros(12)})
    assert same_weights(load(save_at(known, tmp_path), encoder=Bare()).task, own.task)
    with pytest.raises(CheckpointError, match=r"set encoder\.feature_dim before saving"):
        save(dataclasses.replace(own, head=None, statistics={}), tmp_path / "unknown")
    assert not (tmp_path / "unknown").exists()


def test_a_save_that_fails_leaves_the_old_checkpoint(small, tmp_path, monkeypatch):
    folder = save_at(small, tmp_path)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail_in_the_middle(tensors, path):
        path.write_bytes(b"half of it")
        raise RuntimeError("killed")

    monkeypatch.setattr(runtime, "save_tensors", fail_in_the_middle)
    with pytest.raises(RuntimeError, match="killed"):
        save(dataclasses.replace(small, metrics={}), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"], "nothing is left lying about"
    assert load(folder).metrics == {"clean_accuracy": 0.5}


def test_a_save_replaces_the_old_checkpoint_as_a_whole(small, tmp_path):
    folder = save_at(small, tmp_path)
    rewrite(folder, format=99)
    save(dataclasses.replace(small, metrics={"clean_accuracy": 0.75}), folder)
    assert load(folder).metrics == {"clean_accuracy": 0.75}
    assert sorted(path.name for path in folder.iterdir()) == [ABOUT, WEIGHTS]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_saved_checkpoint_may_be_read_by_whom_the_umask_lets(small, tmp_path):
    before = os.umask(0o027)
    try:
        folder = save_at(small, tmp_path)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o640}


def test_a_checkpoint_of_format_1_loads(tiny):
    """A folder made by version 0.1.0: it must load, and answer so, for ever."""
    found = load(Path(__file__).parent / "data" / "checkpoint-format-1", encoder=tiny.encoder(seed=5))
    with torch.no_grad():
        features = found.encoder(torch.linspace(0, 1, 288).view(2, 1, 12, 12))
        logits, projections = found.head(features), found.task.projector(features)
    expected = torch.tensor([[-2.7788, 1.5054, 2.7954], [-3.0853, 1.3853, 2.4708]])
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-3)
    expected = torch.tensor([[1.8880, -0.4737, 2.3552], [1.6503, -0.4010, 2.7171]])
    torch.testing.assert_close(projections[:, :3], expected, rtol=0, atol=1e-3)
    assert (found.kind, found.class_names, found.image_shape) == ("aligned", ("ant", "bee", "cat"), (1, 12, 12))
    views = dataclasses.replace(tiny.task_config.views, crop=(0.2, 1.0))  # the default of its time
    assert found.task_config == dataclasses.replace(tiny.task_config, views=views)
    assert found.settings["align"] == {"epochs": 1.0}
    assert torch.equal(found.statistics["covariance"], torch.eye(12)) and len(found.parents["supervised"]) == 64


def test_nothing_but_a_checkpoint_is_replaced(small, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("years of work")
    (tmp_path / "file.py").write_text("code")
    for name in ("precious", "file.py"):
        with pytest.raises(StorageError, match=f"{name}: something else stands there; name another folder"):
            save(small, tmp_path / name)
    assert (tmp_path / "precious" / "thesis.txt").read_text() == "years of work"
    assert (tmp_path / "file.py").read_text() == "code"
    (tmp_path / "empty").mkdir()
    save(small, str(tmp_path / "empty"))


@pytest.mark.parametrize(
    ("beside", "config"),
    [
        ({"README.md": "years of work"}, None),
        ({".git/HEAD": "ref: refs/heads/main"}, None),
        ({"model.safetensors/thesis.txt": "years of work"}, None),
        ({}, '{"architectures": ["BertModel"]}'),
        ({}, '["format", "weights_sha256"]'),
        ({}, "{"),
    ],
)
def test_a_folder_with_a_config_is_replaced_only_if_it_is_a_checkpoint_alone(small, tmp_path, beside, config):
    folder = save_at(small, tmp_path)
    if config:
        (folder / ABOUT).write_text(config)
    for name, content in beside.items():
        if name.startswith(WEIGHTS):
            (folder / WEIGHTS).unlink()
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(StorageError, match="model: something else stands there; name another folder"):
        save(small, folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_saving_leaves_the_callers_modules_alone(small, tmp_path):
    before = {name: tensor.clone() for name, tensor in small.encoder.state_dict().items()}
    small.encoder.train()
    save(small, tmp_path / "model")
    assert small.encoder.training and small.encoder.conv.weight.requires_grad
    assert all(torch.equal(tensor, before[name]) for name, tensor in small.encoder.state_dict().items())


def test_adapters_keep_away_from_the_checkpoint_they_come_from(small, tiny, tmp_path):
    found = load(save_at(small, tmp_path))
    adapter = make_adapter("cta", found, steps=1)
    adapter(tiny.images(channels=1))
    assert same_weights(found.encoder, small.encoder) and not same_weights(adapter.model.encoder, small.encoder)
