"""Write docs/methods.md anew from the table of methods and its docstrings. `make docs` runs it; a test compares."""

from __future__ import annotations

import re
from pathlib import Path

from crosstask.methods import METHODS, Method

PAGE = Path(__file__).resolve().parents[1] / "docs" / "methods.md"
INTRODUCTION = """# Methods

Made by `make docs` from the table in `src/crosstask/methods/__init__.py` and the docstrings: do not edit it here.
`crosstask methods NAME` says the same, with every argument and its default.

F and B are forward and backward passes of one batch through the network, with T updates a batch; the numbers are of the
order of what a method does, and what a run measures stands in its report.

*Training*: the source model was made for the method (`crosstask pretrain RECIPE --only KIND`). *Adaptation*: any
classifier will do; EATA also takes Fisher values, which a supervised checkpoint holds.
"""


def page() -> str:
    """Return the whole page."""
    header = ["method", "family", "checkpoint", "what moves", "cost", "paper"]
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    anchors = _anchors()
    for name, method in METHODS.items():
        cells = [f"[{name}](#{anchors[name]})", method.family, method.needs, method.moves, method.cost, method.paper]
        lines.append("| " + " | ".join(cells) + " |")
    sections = [_section(name, method) for name, method in METHODS.items()]
    return "\n".join([INTRODUCTION, *lines, "", *sections])


def _section(name: str, method: Method) -> str:
    """Return a method's heading and what its docstring says before the arguments."""
    told = method.explanation.partition("\nArgs:")[0].strip()
    return f"## {name}\n\n{told}\n\nArguments: {_arguments(method)}\n"


def _arguments(method: Method) -> str:
    return ", ".join(f"`{name}={value!r}`" for name, value in method.defaults.items()) or "none"


def _anchors() -> dict[str, str]:
    """Return the anchors that GitHub gives the headings: without signs, and numbered where they repeat."""
    plain = {name: re.sub(r"[^a-z0-9-]", "", name) for name in METHODS}
    seen: list[str] = []
    anchors = {}
    for name, anchor in plain.items():
        anchors[name] = f"{anchor}-{seen.count(anchor)}" if anchor in seen else anchor
        seen.append(anchor)
    return anchors


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
