"""The layout is the method: imports go one way, reading records needs no torch, and every public name is explained."""

from __future__ import annotations

import ast
import graphlib
import importlib
import inspect
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import crosstask

PACKAGE = Path(crosstask.__file__).parent

# A file imports from rooms above its own and from its own, never from below. A new room takes its place here.
ROOMS = (
    "errors", "files", "recipes", "presets", "config", "runtime", "distributed", "data", "nets", "views", "augmix",
    "losses", "tasks", "train", "checkpoint", "methods", "bench", "report", "executors", "pipeline", "adapt", "testing",
    "console", "cli", "__main__",
)  # fmt: skip

FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    """Return `crosstask.methods.cta` for `methods/cta.py`, and `crosstask.methods` for `methods/__init__.py`."""
    parts = ("crosstask", *path.with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def imports(path: Path) -> set[str]:
    """Return the modules of this package that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: write imports from `crosstask` on, not relative ones"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name for name in inner if name in MODULES} or {node.module}
    return {name for name in found if name.split(".")[0] == "crosstask"}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "crosstask"


@pytest.mark.parametrize("path", [path for path in FILES if path.parts != ("__init__.py",)], ids=str)
def test_imports_go_one_way(path):
    own = room(module_name(path))
    assert own in ROOMS, f"{path} is in no room; say in tests/test_architecture.py where the data flow has it"
    for name in imports(path):
        above = ROOMS[: ROOMS.index(own) + 1]
        assert room(name) in above or name == "crosstask", f"{path} imports {name}, which stands below it"


def test_every_room_is_there():
    assert {room(name) for name in MODULES} - {"crosstask"} == set(ROOMS)


def test_no_import_goes_in_a_circle():
    graphlib.TopologicalSorter({name: imports(path) - {name} for name, path in MODULES.items()}).prepare()


def test_imports_are_seen():
    """Guard the guard: if `imports` went blind, the tests above would pass."""
    assert {"crosstask.checkpoint", "crosstask.methods.cta"} <= imports(Path("methods/__init__.py"))
    assert "crosstask.losses" in imports(Path("methods/tent.py"))


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60)


def loaded(code: str) -> set[str]:
    """Return the names of the top-level packages that are loaded after `code` ran in a fresh interpreter."""
    done = python(f"import sys\n{code}\nprint('\\n' + ' '.join({{name.split('.')[0] for name in sys.modules}}))")
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_records_and_report_need_no_torch():
    names = ["crosstask.bench.records", *(name for name in MODULES if room(name) == "report")]
    assert len(names) > 3 and "torch" not in loaded(f"import {', '.join(names)}")


def test_the_front_door_is_light():
    assert not {"torch", "numpy", "matplotlib"} & loaded("import crosstask")


def test_help_needs_no_torch():
    code = """
from crosstask.cli import main
sys.argv = ["crosstask", "--help"]
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
"""
    assert not {"torch", "matplotlib"} & loaded(code)


def test_every_name_at_the_front_door_opens():
    assert crosstask.__all__
    for name in crosstask.__all__:
        assert getattr(crosstask, name).__module__.startswith("crosstask."), name
    assert set(crosstask.__all__) <= set(dir(crosstask))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = crosstask.nonsense


def public_names(module):
    """Yield the public functions and classes a module defines, and the public methods of those classes."""
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isclass(value):
            yield name, value
            for inner, method in vars(value).items():
                if not inner.startswith("_") and (inspect.isfunction(method) or isinstance(method, property)):
                    yield f"{name}.{inner}", getattr(value, inner)
        elif inspect.isfunction(value):
            yield name, value


def test_every_public_name_is_explained():
    """A method may inherit its words from the class it overrides."""
    missing = []
    for info in pkgutil.walk_packages([str(PACKAGE)], "crosstask."):
        if info.name.endswith("__main__"):
            continue
        module = importlib.import_module(info.name)
        if not info.ispkg and not (module.__doc__ or "").strip():
            missing.append(info.name)
        missing += [f"{info.name}.{name}" for name, value in public_names(module) if not inspect.getdoc(value)]
    assert not missing
