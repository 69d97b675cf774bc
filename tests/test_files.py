"""Files are whole or not there, and what a killed process left is cleared away, but never a living one's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from crosstask import files
from crosstask.errors import StorageError


def left_by(pid: int, path: Path, kind: str = "tmp") -> Path:
    """Return the name of a temporary of that process beside `path`."""
    return path.with_name(files.own_name(path, kind).replace(f"-{os.getpid()}.", f"-{pid}."))


def test_a_place_is_tried_without_leaving_a_trace(tmp_path: Path) -> None:
    files.check_writable(tmp_path / "new" / "folder" / "a.csv")
    (tmp_path / "file").write_text("")
    for wrong in (tmp_path, tmp_path / "file" / "a.csv", Path("/proc/a.csv")):
        with pytest.raises(StorageError, match=f"cannot write {wrong}"):
            files.check_writable(wrong)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.fixture
def dead() -> int:
    """Return the number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    files.write_text(tmp_path / "a", "old")
    with pytest.raises(ZeroDivisionError), files.written_whole(tmp_path / "a") as temporary:
        temporary.write_text("half of the n")
        raise ZeroDivisionError
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "old"}


def test_a_refusal_of_the_disk_names_the_place_and_the_fix(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot write .*file/a: a .*choose another place"):
        files.write_text(tmp_path / "file" / "a", "text")


def test_what_dead_processes_left_is_swept_away(tmp_path: Path, dead: int) -> None:
    left_by(dead, tmp_path / "model.safetensors").write_text("half")
    left_by(dead, tmp_path / "aligned").mkdir()
    (left_by(dead, tmp_path / "aligned") / "config.json").write_text("half")
    files.sweep(tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_living_processes_and_others_have_stays(tmp_path: Path) -> None:
    names = {left_by(os.getppid(), tmp_path / "a").name, ".a.another-host-1.tmp", ".hidden", "a.tmp"}
    for name in names:
        (tmp_path / name).write_text("")
    files.sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == names


def test_a_folder_killed_between_its_two_renames_comes_back(tmp_path: Path, dead: int) -> None:
    left_by(dead, tmp_path / "aligned", "old").mkdir()
    files.sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["aligned"]
    left_by(dead, tmp_path / "aligned", "old").mkdir()
    files.sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["aligned"], "the new one is whole: the old one goes"
