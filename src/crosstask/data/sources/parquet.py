"""Parquet files in the Hugging Face hub's layout."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crosstask.data.sources.arrays import ALL_SPLIT_NAMES, SPLIT_NAMES, Arrays, is_hidden, numbered_classes
from crosstask.data.sources.decoding import BLOCK, decode
from crosstask.errors import DataError


def prefixes_of(folder: Path) -> dict[Path, str]:
    """Return the sorted parquet files in a folder, each with what its name begins with, which may be a split's name."""
    found = sorted(path for path in folder.glob("*.parquet") if not is_hidden(path))
    return {path: re.split(r"[-.]", path.name)[0] for path in found}


def shards(folder: Path, split: str | None) -> list[Path]:
    """Return the sorted parquet files of a split, all of the number their names promise."""
    prefix_of = prefixes_of(folder)
    shards, prefixes = list(prefix_of), list(prefix_of.values())
    if split is None:
        if len(ALL_SPLIT_NAMES & set(prefixes)) > 1:
            raise DataError(f"{folder} is divided into {', '.join(sorted(set(prefixes)))}: say which split is wanted")
    else:
        prefix = next((name for name in SPLIT_NAMES[split] if name in prefixes), None)
        if prefix is None:
            raise DataError(f"{folder} holds no {split}-*.parquet for the split {split!r}: it holds {shards[0].name}")
        shards = [path for path, own in prefix_of.items() if own == prefix]
    for path in shards:
        promised, found = re.search(r"-of-(\d+)\.parquet$", path.name), prefixes.count(prefix_of[path])
        if promised and int(promised[1]) != found:
            raise DataError(f"{folder}: {path.name} is one of {int(promised[1])} shards, {found} found. Add the rest")
    return shards


def read_parquet(paths: list[Path], labels: bool = True) -> Arrays:
    """Read parquet files in the Hugging Face hub's layout.

    The column `img` or `image` is a struct {bytes, path} of encoded images; `label` (or `fine_label`) is optional, its
    class names stand in the schema's metadata under `huggingface`.

    Raises:
        DataError: pyarrow is not installed, a file is damaged, or its columns are others.
    """
    shards = [_open_shard(path) for path in paths]
    if len({shard.layout for shard in shards}) > 1:
        raise DataError(
            f"{paths[0].parent}: the shards differ in columns or class names; they belong to different sets"
        )
    count = sum(shard.rows for shard in shards)
    if count == 0:
        raise DataError(f"{paths[0]} holds no images: its table has no rows")
    images = decode((row for shard in shards for row in shard.encoded()), count)
    _, label_column, class_names = shards[0].layout
    names = {name: None for shard in shards for name in shard.names() if name}
    items = tuple(names) if len(names) == count else None  # names that are missing or come twice tell nothing
    if label_column is None or not labels:
        return Arrays(images, items=items)
    numbers = np.concatenate([shard.labels(label_column) for shard in shards])
    return Arrays(images, numbers, class_names or numbered_classes(numbers), items)


@dataclass(frozen=True)
class _Shard:
    """One open parquet file."""

    path: Path
    file: Any
    """A pyarrow ParquetFile."""
    layout: tuple[str, str | None, tuple[str, ...]]
    """(image column, label column or None, class names or empty)."""

    @property
    def rows(self) -> int:
        return self.file.metadata.num_rows

    def encoded(self) -> Iterator[tuple[str, bytes]]:
        """Yield (name for messages, encoded image) row by row."""
        for row, encoded in enumerate(self._values(f"{self.layout[0]}.bytes")):
            if encoded is None:
                raise DataError(f"{self.path}: row {row} has no image bytes: expected encoded images, not links")
            yield f"{self.path}, row {row}", encoded

    def names(self) -> Iterator[str | None]:
        """Yield the file name each image had, or None."""
        image_type = self.file.schema_arrow.field(self.layout[0]).type
        has_path = "path" in {field.name for field in image_type.fields}
        return self._values(f"{self.layout[0]}.path") if has_path else iter([None] * self.rows)

    def labels(self, column: str) -> np.ndarray:
        """Return the labels, int64 [rows]."""
        values = list(self._values(column))
        if wrong := [row for row, value in enumerate(values) if not isinstance(value, int)]:
            raise DataError(
                f"{self.path}: row {wrong[0]} has the label {values[wrong[0]]!r}: expected a class number. "
                f"To use the images unlabelled, drop the column {column!r}"
            )
        return np.array(values, np.int64)

    def _values(self, column: str) -> Iterator[Any]:
        """Yield a column, or one leaf of a struct column, value by value, a batch in memory at a time."""
        from pyarrow import ArrowException

        try:
            for batch in self.file.iter_batches(batch_size=BLOCK, columns=[column]):
                values = batch.column(0)
                yield from (values.flatten()[0] if "." in column else values).to_pylist()
        except (OSError, ArrowException) as error:
            raise _damaged(self.path, error) from error


def _damaged(path: Path, error: Exception) -> DataError:
    said = " ".join(str(error).split()).rstrip(".")
    return DataError(f"cannot read {path}: {said}. The parquet file is damaged; fetch it again")


def _open_shard(path: Path) -> _Shard:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise DataError(f"reading {path} needs pyarrow: pip install 'crosstask[parquet]'") from error
    try:
        file = ParquetFile(path)
    except (OSError, ArrowException) as error:
        raise _damaged(path, error) from error
    return _Shard(path, file, _columns(file.schema_arrow, path))


def _columns(schema: Any, path: Path) -> tuple[str, str | None, tuple[str, ...]]:
    """Return `_Shard.layout` of a parquet file."""
    image = next((name for name in ("img", "image") if name in schema.names), None)
    if image is None or "bytes" not in {field.name for field in getattr(schema.field(image).type, "fields", [])}:
        raise DataError(
            f"{path}: expected a column 'img' or 'image' of structs {{bytes, path}}, got the columns "
            f"{', '.join(f'{field.name} ({field.type})' for field in schema)}"
        )
    label = next((name for name in ("label", "fine_label") if name in schema.names), None)
    try:
        metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        names = metadata.get("info", {}).get("features", {}).get(label, {}).get("names", [])
    except (ValueError, AttributeError) as error:
        raise DataError(f"{path}: the schema's metadata 'huggingface' is not the hub's JSON: {error}") from error
    return image, label, tuple(names)
