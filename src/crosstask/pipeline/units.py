"""The cells of a grid as work for whoever measures them: in units of a stream, and from plain values alone."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from crosstask import config
from crosstask.bench.cells import Cell, Grid, cells, work
from crosstask.bench.grid import Meter
from crosstask.bench.records import Record
from crosstask.checkpoint import load
from crosstask.config import Data, Recipe
from crosstask.data.images import is_known
from crosstask.errors import CheckpointError, ConfigError, DataError
from crosstask.pipeline.experiment import target_images

_SHARES = 2
"""Units a worker gets at least, if there are cells enough: at the end none waits long for the last."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """A cell by the first of its keys, and by its name in words."""

    key: str
    name: str

    def __str__(self) -> str:
        return self.name


def units(todo: Iterable[Cell], workers: int) -> list[list[Item]]:
    """Divide cells into units, the longest first: each the cells of one stream, or a share of them.

    A stream is drawn once a unit, and the frozen model sees it once, so whole streams cost least; they are divided
    where workers would be left with nothing to do.
    """
    streams = [list(group) for _, group in itertools.groupby(todo, key=lambda cell: cell.stream)]
    total = sum(work(cell) for stream in streams for cell in stream)
    most = total if workers == 1 else total / (_SHARES * workers)
    shares = [share for stream in streams for share in _shares(stream, most)]
    shares.sort(key=lambda share: -sum(map(work, share)))
    return [[Item(key=cell.keys[0], name=name(cell)) for cell in share] for share in shares]


def name(cell: Cell) -> str:
    """Return what a person calls a cell."""
    where = cell.corruptions[0] if len(cell.corruptions) == 1 else cell.protocol.shift
    return f"{cell.label} {where} seed {cell.seed}"


def _shares(stream: list[Cell], most: float) -> list[list[Cell]]:
    """Divide cells, in their order, into shares of no more work than `most`, or of one cell."""
    shares: list[list[Cell]] = []
    for cell in stream:
        if shares and sum(map(work, shares[-1])) + work(cell) <= most:
            shares[-1].append(cell)
        else:
            shares.append([cell])
    return shares


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A grid as plain values, from which any process opens it anew.

    Attributes:
        recipe: whose images and whose bench, with what was chosen for its columns.
        folders: where the checkpoints lie, by kind.
        device, precision, command, chosen: see `Grid`.
        threads: torch's, in the process that opens it.
    """

    recipe: Recipe
    folders: dict[str, Path]
    device: str
    precision: str
    command: str
    chosen: dict[str, Literal["held-out", "clean"]]
    threads: int

    def open(self) -> Grid:
        """Load images and checkpoints."""
        torch.set_num_threads(self.threads)
        return Grid(
            bench=self.recipe.bench,
            images=target_images(self.recipe),
            checkpoints={kind: load(folder) for kind, folder in self.folders.items()},
            device=torch.device(self.device),
            precision=self.precision,
            command=self.command,
            chosen=self.chosen,
        )


def plan(grid: Grid, recipe: Recipe, threads: int) -> Plan:
    """Return the plan of a grid, whose images are the recipe's.

    Raises:
        CheckpointError: a checkpoint was not loaded from a folder.
        ConfigError: the device is one certain GPU of several, and workers see the one each is given.
    """
    if grid.device.index is not None:
        raise ConfigError(
            f"workers see one GPU each, so device = '{grid.device}' means nothing to them: take device = 'cuda', and "
            "say in CUDA_VISIBLE_DEVICES which they may use"
        )
    folders = {kind: checkpoint.folder for kind, checkpoint in grid.checkpoints.items()}
    for kind, folder in folders.items():
        if folder is None:
            raise CheckpointError(f"workers load the {kind} checkpoint from a folder: save it, and load it from there")
    return Plan(
        recipe=dataclasses.replace(_with_whole_paths(recipe), bench=grid.bench),
        folders={kind: folder for kind, folder in folders.items() if folder is not None},
        device=str(grid.device),
        precision=grid.precision,
        command=grid.command,
        chosen=dict(grid.chosen),
        threads=threads,
    )


def _with_whole_paths(recipe: Recipe) -> Recipe:
    """Return the recipe with paths that mean the same from any working folder."""

    data = recipe.data
    found = {"name": data.name, "test": data.test, "corrupted": data.corrupted, "folder": data.folder}
    paths = {key: Path(spec) for key, spec in found.items() if spec and not is_known(spec)}
    whole = {key: str(path.expanduser().absolute()) for key, path in paths.items()}
    return dataclasses.replace(recipe, data=config.validate(Data, config.to_dict(data) | whole, "data"))


@dataclass
class Measuring:
    """Measures the cell that an item names; opens the grid with the first item, wherever it has been sent.

    Attributes:
        open: returns the grid; whatever is sent must be picklable, as a plan's `open` is.
    """

    open: Callable[[], Grid]
    _cells: dict[str, Cell] = field(default_factory=dict, init=False)

    def __call__(self, item: Item) -> tuple[tuple[Record, ...], dict[str, Any] | None]:
        """Return the records of a cell, and its example where the report shows one.

        Raises:
            DataError: here are other images, copies, sheets of frost or shifts than where the item comes from.
        """
        if not self._cells:
            grid = self.open()
            self._meter = Meter(grid)
            self._cells = {cell.keys[0]: cell for cell in cells(grid)}
        if item.key not in self._cells:
            raise DataError(
                f"a worker found other images, copies, frost or shifts than the process that asked for {item}: give "
                "all machines the same files and the same version of crosstask"
            )
        measured = self._meter(self._cells[item.key])
        return measured.records, measured.example
