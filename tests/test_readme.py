"""The README says only what the records say, and names only what is there."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from crosstask.methods import METHODS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_tables_are_those_of_the_committed_records() -> None:
    spec = importlib.util.spec_from_file_location("tables", ROOT / "tools" / "tables.py")
    assert spec and spec.loader
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    assert "| **mean** |" in README
    assert tables.STREAMS in README
    assert tables.with_streams(tables.with_tables(README)) == README, "run `make tables`"


def test_the_page_of_methods_is_that_of_the_docstrings() -> None:
    spec = importlib.util.spec_from_file_location("methods_page", ROOT / "tools" / "methods.py")
    assert spec and spec.loader
    methods = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(methods)
    assert methods.PAGE.read_text(encoding="utf-8") == methods.page(), "run `make docs`"
    assert all(f"\n## {name}\n" in methods.page() for name in METHODS)


def test_every_file_of_the_package_is_in_the_tree_and_back() -> None:
    (tree,) = re.findall(r"```\n(src/crosstask/.*?)```", README, re.DOTALL)
    named = set(re.findall(r"\b(\w+\.py)\b", tree))
    package = ROOT / "src" / "crosstask"
    there = {path.name for path in package.rglob("*.py") if not path.name.startswith("__")}
    rooms = ("bench", "report", "report/summary", "report/plots", "report/exports", "data/corruptions", "data/sources",
             "data/download", "executors", "pipeline")  # fmt: skip
    inner = {path.name for room in rooms for path in (package / room).glob("*.py")}
    assert named <= there
    assert there - named <= inner, "a file is missing from the README's tree"


def test_links_to_files_lead_somewhere() -> None:
    headings = {"#" + title.lower().replace(" ", "-") for title in re.findall(r"^#+ (.+)$", README, re.MULTILINE)}
    for target in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert target in headings or (ROOT / target).exists(), target
