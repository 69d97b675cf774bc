"""Corrupted benchmarks, opened: which corruptions and severities are there; pixels are read one cell at a time.

The layouts are those of CIFAR-10-C and Tiny-ImageNet-C (Hendrycks and Dietterich, https://arxiv.org/abs/1903.12261).
"""

from __future__ import annotations

import json
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crosstask.data.sources import corrupted_arrays, corrupted_folders
from crosstask.data.sources.arrays import Arrays
from crosstask.errors import DataError, UnknownName

_MANIFEST, _FORMAT = "corrupted.json", 1
_OFFICIAL_SEVERITIES = (1, 2, 3, 4, 5)


@dataclass(frozen=True, kw_only=True)
class CorruptedSet:
    """One set of images under several corruptions, each at several severities."""

    path: Path
    """The folder or archive."""
    cells: corrupted_arrays.ArrayCells | corrupted_folders.FolderCells = field(repr=False)
    """What reads one corruption at one severity."""
    sizes: dict[str, int] = field(default_factory=dict, repr=False)
    """File or folder below `path` -> bytes in it, as `corrupted.json` says."""
    made: dict[str, Any] = field(default_factory=dict, repr=False)
    """Fingerprint of the images, table and seed, as `corrupted.json` says; empty where there is none."""

    @property
    def corruptions(self) -> tuple[str, ...]:
        """The names found, sorted."""
        return self.cells.corruptions

    @property
    def severities(self) -> tuple[int, ...]:
        """Those stored, ascending."""
        return self.cells.severities

    @property
    def class_names(self) -> tuple[str, ...]:
        """Label -> name."""
        return self.cells.class_names

    def read(self, corruption: str, severity: int) -> Arrays:
        """Read the images of one corruption at one severity; no others are touched.

        Raises:
            UnknownName: no such corruption is there.
            DataError: the severity is not stored, or what is stored is damaged.
        """
        if corruption not in self.corruptions:
            raise UnknownName("corruption", corruption, self.corruptions)
        if severity not in self.severities:
            stored = ", ".join(map(str, self.severities))
            raise DataError(f"{self.path}: expected a severity that is stored ({stored}), got {severity!r}")
        try:
            for name in self.sizes.keys() & {f"{corruption}.npy", f"{corruption}/{severity}", "labels.npy"}:
                self._check_size(name)
            return self.cells.read(corruption, severity)
        except (OSError, tarfile.TarError) as error:
            raise _unreadable(self.path, error) from error

    def _check_size(self, name: str) -> None:
        got, expected = _bytes(self.path / name), self.sizes[name]
        if got != expected:
            raise DataError(
                f"{self.path / name} is damaged: expected {expected:,} bytes, as {_MANIFEST} says, got {got:,}. "
                "Run `crosstask corrupt` again, which makes it anew"
            )


def looks_corrupted(path: Path) -> bool:
    """Tell whether a path is a `.tar`, or a folder in one of the layouts or with `corrupted.json`."""
    if path.is_dir():
        marked = any((path / name).is_file() for name in (_MANIFEST, "labels.npy"))
        return marked or corrupted_folders.are_below(path)
    return path.suffix.lower() == ".tar"


def open_corrupted(path: Path, name: str | None = None) -> CorruptedSet:
    """Open a corrupted benchmark: official, or written by `crosstask corrupt`.

    CIFAR-10-C's layout is a folder, or the official uncompressed `.tar`, of `<corruption>.npy`, uint8 [S * N, H, W, C]
    or [S * N, H, W], the S severities one after the other, and `labels.npy` [S * N]. Tiny-ImageNet-C's is
    `<corruption>/<severity>/<class>/*.JPEG`; its images are NOT Tiny ImageNet's validation images but crops of
    ImageNet's. Where `corrupted.json` lies beside, severities and class names come from it.

    Args:
        name: what the set is called, if not as its path; tells CIFAR's class names.

    Raises:
        DataError: the path is missing, in neither layout, or damaged.
    """
    if not path.exists():
        raise DataError(
            f"{path} does not exist: expected a folder of corrupted copies, or an uncompressed .tar of them"
        )
    try:
        said = _manifest(path)
        severities, classes = tuple(said.get("severities", _OFFICIAL_SEVERITIES)), tuple(said.get("class_names", ()))
        called = name or path.absolute().name
        cells = corrupted_arrays.find(path, called, severities, classes, is_ours=bool(said)) or corrupted_folders.find(
            path, classes
        )
    except (OSError, tarfile.TarError) as error:
        raise _unreadable(path, error) from error
    if cells is None:
        raise DataError(
            f"{path} holds no corrupted copies: expected <corruption>.npy with labels.npy, or "
            "<corruption>/<severity>/<class>/*.JPEG. Name the folder that holds them"
        )
    sizes = {file: entry["bytes"] for file, entry in said.get("files", {}).items()}
    told: dict[str, Any] = {key: said.get(key) for key in ("fingerprint", "table", "seed")}
    return CorruptedSet(path=path, cells=cells, sizes=sizes, made={} if None in told.values() else told)


def _manifest(folder: Path) -> dict[str, Any]:
    """Return what `corrupted.json` in a folder says, empty where there is none."""
    path = folder / _MANIFEST
    if not path.is_file():
        return {}
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        whole = said["format"] == _FORMAT and all(isinstance(number, int) for number in said["severities"])
        whole = whole and all(isinstance(entry["bytes"], int) for entry in said["files"].values())
        whole = whole and all(isinstance(name, str) for name in said["class_names"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"cannot read {path}: {error!r}. It is damaged; run `crosstask corrupt` again") from error
    if not whole or not said["severities"]:
        raise DataError(f"{path}: expected format {_FORMAT} of `crosstask corrupt`, got something else. Make it again")
    return said


def _bytes(path: Path) -> int:
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size if path.is_file() else 0


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"cannot read {path}: {error}. It is closed to you, truncated or damaged; fetch it again")
