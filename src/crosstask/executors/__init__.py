"""Who measures the cells of a grid: this process, processes beside it, a Ray cluster, or Slurm.

An executor knows nothing of grids. It has a crew of workers call `task(item)` for the items of `units`, and gives back
each result with its item as it comes. How it does so never changes a number.
"""

from __future__ import annotations

import importlib.util
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from crosstask.errors import ConfigError, UnknownName
from crosstask.executors import inline, processes, ray, slurm
from crosstask.executors.crew import Crew

EXECUTORS = {"inline": inline.crew, "processes": processes.crew, "ray": ray.crew, "slurm": slurm.crew}
"""By name, what opens a crew: (workers or None, a folder for its own files, whether workers need a GPU) -> a crew."""

_EXTRAS = {"ray": "ray", "slurm": "submitit"}


@dataclass(frozen=True, kw_only=True)
class Executor:
    """An executor by its name, and how many workers it has at once; None: as many as there are processors, or
    GPUs where they are needed.

    Raises:
        UnknownName: there is no such executor.
        ConfigError: its extra is not installed, or it has no use for `workers`.
    """

    name: str = "inline"
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.name not in EXECUTORS:
            raise UnknownName("executor", self.name, EXECUTORS)
        if self.name == "inline" and self.workers is not None:
            others = ", ".join(name for name in EXECUTORS if name != "inline")
            raise ConfigError(f"inline measures in this process alone; for {self.workers} workers take one of {others}")
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"expected at least one worker, got {self.workers}")
        package = _EXTRAS.get(self.name)
        if package and importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"the executor {self.name} needs {package}, which is not installed: "
                f"pip install 'crosstask[{self.name}]'"
            )

    def crew(self, folder: Path, *, gpu: bool = False) -> AbstractContextManager[Crew]:
        """Open a crew, in a `with` block; behind the block no worker is left.

        Args:
            folder: a place for files of the executor's own, which it takes away if all goes well.
            gpu: whether each worker needs a GPU.
        """
        return EXECUTORS[self.name](self.workers, folder, gpu)


__all__ = ["EXECUTORS", "Crew", "Executor"]
