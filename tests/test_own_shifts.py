"""A function registered by name is usable wherever a built-in corruption is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from crosstask import config
from crosstask.bench.cells import check
from crosstask.data.corruptions import available, corrupt, own
from crosstask.data.corruptions.own import code_hash, register, register_from
from crosstask.data.images import ImageSet
from crosstask.data.streams import draw_stream
from crosstask.errors import ConfigError, DataError, UnknownName

EXAMPLE = Path(__file__).parents[1] / "examples" / "own_shift.py"


@pytest.fixture(autouse=True)
def nothing_stays_registered():
    before = dict(own.REGISTERED)
    yield
    own.REGISTERED.clear()
    own.REGISTERED.update(before)


def speckled(images, severity, random):
    return (images + 3 * severity * random.normal(images.shape[1:])).clamp(0, 255).to(torch.uint8)


def images(count: int = 6) -> ImageSet:
    pixels = torch.randint(0, 256, (count, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return ImageSet(images=pixels, labels=torch.arange(count) % 2, class_names=("a", "b"), name="few")


def test_a_registered_shift_stands_where_built_in_ones_do():
    register("speckled", speckled)
    assert available()[-1] == "speckled"
    some = images().images
    shifted = corrupt(some, "speckled", 3, seed=1)
    assert not torch.equal(shifted, some)
    assert torch.equal(corrupt(some[4:], "speckled", 3, seed=1, indices=torch.tensor([4, 5])), shifted[4:])
    assert not torch.equal(corrupt(some, "speckled", 3, seed=2), shifted)
    stream = draw_stream(images(), "speckled", 3, count=6, batch_size=2, seed=1)
    assert torch.equal(torch.cat(list(stream.batches())), shifted[stream.indices])


def test_a_shift_cannot_change_the_images_it_is_given():
    def erase(given, severity, random):
        return given.zero_()

    register("erase", erase)
    some = images().images
    assert corrupt(some, "erase", 1, seed=0).sum() == 0
    assert some.sum() > 0


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda x: x.float(), r"must return uint8 \[6, 3, 16, 16\], as it was given, and returned torch.float32"),
        (lambda x: x[:, :1], r"returned torch.uint8 \[6, 1, 16, 16\]"),
        (lambda x: None, "returned NoneType"),
    ],
    ids=["floats", "shape", "nothing"],
)
def test_what_a_shift_returns_is_checked(returned, message):
    register("odd", lambda given, severity, random: returned(given))
    with pytest.raises(DataError, match=message):
        corrupt(images().images, "odd", 1, seed=0)


@pytest.mark.parametrize("name", ["fog", "clean", "spatter", "labels", "", "../dusk", "dusk.old", "a b", "dusk\n"])
def test_names_that_are_taken_or_no_files_are_refused(name):
    with pytest.raises(ConfigError, match="is taken or no name of a file: choose another"):
        register(name, speckled)


def test_what_is_no_function_is_refused():
    with pytest.raises(ConfigError, match=r"no function \(images, severity, random\): got int"):
        register("three", 3)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("dusk.py", "expected FILE.py:FUNCTION or MODULE:FUNCTION, got 'dusk.py'"),
        ("nowhere/dusk.py:dusk", "cannot be loaded: FileNotFoundError"),
        ("no_such_module:dusk", "cannot be loaded: ModuleNotFoundError"),
        (f"{EXAMPLE}:dawn", "has no function 'dawn'"),
    ],
    ids=["no-function", "no-file", "no-module", "other-function"],
)
def test_a_wrong_reference_is_explained(reference, message):
    with pytest.raises(ConfigError, match=f"the shift 'dusk': .*{message}"):
        register_from("dusk", reference)


def test_a_file_that_fails_is_named(tmp_path):
    (tmp_path / "broken.py").write_text("1 / 0")
    with pytest.raises(ConfigError, match=r"broken.py cannot be loaded: ZeroDivisionError: division by zero"):
        register_from("broken", f"{tmp_path / 'broken.py'}:shift")


def test_a_recipe_brings_its_shift_along(tmp_path):
    text = (Path(config.__file__).parent / "recipes" / "fashion-mnist.toml").read_text(encoding="utf-8")
    (tmp_path / "dusk.py").write_text(EXAMPLE.read_text(encoding="utf-8"), encoding="utf-8")
    recipe_file = tmp_path / "mine.toml"
    recipe_file.write_text(text, encoding="utf-8")
    overrides = ['bench.shifts={dusk = "dusk.py:dusk"}', 'bench.corruptions=["fog", "dusk"]', "bench.images=4"]
    recipe = config.load_recipe(str(recipe_file), overrides)
    assert recipe.bench.shifts == {"dusk": f"{(tmp_path / 'dusk.py').resolve()}:dusk"}
    check(recipe.bench, images())
    assert "dusk" in available()
    with pytest.raises(UnknownName, match="unknown corruption 'dusky'; did you mean 'dusk'"):
        check(config.load_recipe(str(recipe_file), [*overrides, 'bench.corruptions=["dusky"]']).bench, images())


def test_the_code_tells_two_functions_of_one_name_apart(tmp_path):
    assert code_hash("fog") is None
    hashes = []
    for severity in (1, 2):
        file = tmp_path / f"shift{severity}.py"
        file.write_text(f"def shift(images, severity, random):\n    return images // {severity}\n")
        register_from("shift", f"{file}:shift")
        hashes.append(code_hash("shift"))
    assert len({*hashes}) == 2


SHIFTS = """
from __future__ import annotations
from dataclasses import dataclass
from functools import partial

LEVEL = 2

@dataclass
class Dim:
    level: int = LEVEL
    def __call__(self, images, severity, random):
        return helper(images)

def helper(images):
    return images // LEVEL

def shift(images, severity, random):
    return helper(images)

def scaled(images, severity, random, by):
    return images // by

made, part = Dim(), partial(scaled, by=LEVEL)
"""


@pytest.mark.parametrize("attribute", ["shift", "made", "part"])
def test_what_a_shift_uses_of_its_file_is_of_its_code_as_it_was_registered(tmp_path, attribute):
    file = tmp_path / "shifts.py"
    file.write_text(SHIFTS)
    register_from("one", f"{file}:{attribute}")
    before = code_hash("one")
    assert torch.equal(corrupt(images().images, "one", 1, seed=0), images().images // 2)
    file.write_text(SHIFTS.replace("LEVEL = 2", "LEVEL = 3  # more"))
    assert code_hash("one") == before, "what is registered has not changed"
    register_from("one", f"{file}:{attribute}")
    assert torch.equal(corrupt(images().images, "one", 1, seed=0), images().images // 3)
    assert code_hash("one") != before
    file.write_text(SHIFTS)
    register_from("again", f"{file}:{attribute}")
    assert code_hash("again") == before, "and it is the same wherever the code is the same"


def test_what_has_no_source_goes_by_its_name():
    hashes = []
    for name in ("dusk", "dawn"):
        made = {}
        exec(f"def {name}(images, severity, random): return images", made)
        register(name, made[name])
        hashes.append(code_hash(name))
    assert len({*hashes}) == 2


def test_the_example_runs(tmp_path):
    np.save(tmp_path / "images.npy", images().images.permute(0, 2, 3, 1).numpy())
    command = [sys.executable, str(EXAMPLE), "images.npy"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    levels = [int(level) for level in done.stdout.split(":")[1].split()]
    assert levels == sorted(levels, reverse=True)
    assert levels[0] > 1.5 * levels[-1]
    assert (tmp_path / "dusk.png").stat().st_size > 0
