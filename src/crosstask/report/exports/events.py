"""Event files for TensorBoard: a run a label, its accuracy over updates and over the stream, its figures, its cost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from crosstask.errors import ConfigError
from crosstask.files import folder_written_whole
from crosstask.report.summary import Column, Row, Summary


def write_events(summary: Summary, folder: Path) -> None:
    """Write a folder of event files, in place of an older one.

    Raises:
        ConfigError: TensorBoard is not installed.
        StorageError: the disk refuses.
    """
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary as Values
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ImportError as error:
        raise ConfigError(f"event files need TensorBoard ({error}): pip install 'crosstask[tensorboard]'") from error
    with folder_written_whole(folder) as temporary:
        for column in summary.columns:
            writer = EventFileWriter(str(temporary / quote(column.label, safe=" +")))
            for name, step, value in _scalars(column):
                values = Values(value=[Values.Value(tag=name, simple_value=value)])
                writer.add_event(Event(wall_time=0, step=step, summary=values))
            writer.close()


def _scalars(column: Column) -> Iterator[tuple[str, int, float]]:
    """Yield tags, steps and values; shares are in 0..1."""
    for step, mean in column.curve.items():
        yield "accuracy over updates/mean", step, mean.mean
    for row, curve in column.row_curves.items():
        for step, share in curve.items():
            yield f"accuracy over updates/{_name(row)}", step, share
    for row, parts in column.over_stream.items():
        for part, share in enumerate(parts):
            yield f"accuracy over the stream/{_name(row)}", part, share
    for row, cell in column.cells.items():
        yield f"accuracy/{_name(row)}", column.steps, cell.mean
    for name, figure in column.figures.items():
        yield f"figures/{name}", column.steps, figure.mean
    yield "cost/images per second", column.steps, column.cost.images_per_second
    yield "cost/peak memory in MB", column.steps, column.cost.peak_memory_mb


def _name(row: Row) -> str:
    return f"{row.corruption}-{row.severity}" if row.severity else row.corruption
