"""The other data sets known by name: the forms each may lie in, mirrors, sizes, extraction, and sheets of frost."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from crosstask.data.download import KNOWN, KnownData, checksums, frost_folder, frost_photographs, progress
from crosstask.data.download.checksums import Checksum
from crosstask.data.download.dataset import FIRST_USE_BYTES, OfficialFile
from crosstask.errors import DownloadError, StorageError

OFFICIAL = {file.name: file for known in KNOWN.values() for file in known.files}


@pytest.fixture(autouse=True)
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with an empty cache and no answer at any official address."""
    monkeypatch.setenv("CROSSTASK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("CROSSTASK_DATA", raising=False)
    monkeypatch.delenv("CROSSTASK_MIRROR", raising=False)


def tiny(name: str, contents: dict[str, bytes] | None = None) -> KnownData:
    """Return a row of the table that expects tiny files and has no answer at its official address."""
    contents = contents or {file.name: file.name.encode() for file in KNOWN[name].files}
    files = (
        OfficialFile(file, f"http://127.0.0.1:9/{file}", Checksum("MD5", hashlib.md5(content).hexdigest()))
        for file, content in contents.items()
    )
    return replace(KNOWN[name], files=tuple(files))


def put_files(folder: Path, known: KnownData) -> Path:
    """Put the tiny files of a data set into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in known.files:
        (folder / file.name).write_bytes(file.name.encode())
    return folder


def put_empty(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# --- the table -------------------------------------------------------------------------------------------------


def test_rows_say_what_kind_they_are_and_which_splits_they_have() -> None:
    kinds = {name: known.kind for name, known in KNOWN.items()}
    assert {name for name, kind in kinds.items() if kind == "corrupted"} == {
        "cifar10-c", "cifar100-c", "tiny-imagenet-c",
    }  # fmt: skip
    assert {name for name, kind in kinds.items() if kind == "textures"} == {"frost"}
    assert all(known.name == name for name, known in KNOWN.items())
    assert {known.splits for known in KNOWN.values() if known.kind == "corrupted"} == {("test",)}
    assert KNOWN["cifar10.1"].splits == KNOWN["cifar10.1-v4"].splits == ("test",)
    assert KNOWN["cifar100"].splits == KNOWN["tiny-imagenet"].splits == ("train", "test")


@pytest.mark.parametrize(
    ("file", "url", "checksum"),
    [
        (
            "cifar-10-python.tar.gz",
            "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
            Checksum("MD5", "c58f30108f718f92721af3b95e74349a"),
        ),
        (
            "cifar-100-python.tar.gz",
            "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
            Checksum("MD5", "eb9058c3a382ffc7106e4002c42a8d85"),
        ),
        (
            "tiny-imagenet-200.zip",
            "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
            Checksum("MD5", "90528d7ca1a48142e341f4ef8d21d0de"),
        ),
        (
            "cifar10.1_v6_labels.npy",
            "https://raw.githubusercontent.com/modestyachts/CIFAR-10.1/master/datasets/cifar10.1_v6_labels.npy",
            Checksum("git blob", "e713b09cecf2ecd933970001909fcdec7c907ab0"),
        ),
        (
            "CIFAR-10-C.tar",
            "https://zenodo.org/records/2535967/files/CIFAR-10-C.tar?download=1",
            Checksum("MD5", "56bf5dcef84df0e2308c6dcbcbbd8499"),
        ),
        ("frost5.jpg", None, Checksum("MD5", "50984ae2c871b7df2c28f1d71ca460a0")),
    ],
    ids=["cifar10", "cifar100", "tiny-imagenet", "cifar10.1", "cifar10-c", "frost"],
)
def test_official_files(file: str, url: str | None, checksum: Checksum) -> None:
    assert OFFICIAL[file] == OfficialFile(file, url, checksum)


def test_checksums_are_of_the_right_length() -> None:
    digits = {"MD5": 32, "SHA-256": 64, "git blob": 40}
    assert {len(file.checksum.value) - digits[file.checksum.kind] for file in OFFICIAL.values()} == {0}
    assert len({file.checksum.value for file in OFFICIAL.values()}) == len(OFFICIAL)


def test_git_blob_checksum_is_what_git_says(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"what is up, doc?")
    blob = Checksum("git blob", "bd9dbf5aae1a3862dd1526723246b20206e5fc37")  # from "Pro Git", chapter 10
    assert blob.mismatch(tmp_path / "file", print) is None


# --- the forms ---------------------------------------------------------------------------------------------------

BATCHES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta")
SHARDS = ("train-00000-of-00001.parquet", "test-00000-of-00001.parquet")
TINY = ("wnids.txt", "val/val_annotations.txt")
FORMS = {
    "cifar10 extracted": ("cifar10", "cifar-10-batches-py", BATCHES),
    "cifar10 from the hub": ("cifar10", "plain_text", SHARDS),
    "cifar10 shards": ("cifar10", "", SHARDS),
    "cifar100 extracted": ("cifar100", "cifar-100-python", ("train", "test", "meta")),
    "cifar100 from the hub": ("cifar100", "cifar100", SHARDS),
    "tiny-imagenet extracted": ("tiny-imagenet", "tiny-imagenet-200", TINY),
    "cifar10-c extracted": ("cifar10-c", "CIFAR-10-C", ("labels.npy",)),
    "cifar100-c extracted": ("cifar100-c", "CIFAR-100-C", ("labels.npy",)),
    "tiny-imagenet-c extracted": ("tiny-imagenet-c", "Tiny-ImageNet-C", ("fog/1/n01443537/1.JPEG",)),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms(tmp_path: Path, form: str) -> None:
    name, subfolder, files = FORMS[form]
    known = tiny(name)
    folders = [tmp_path / "cache" / name, tmp_path / "mine" / name, tmp_path / "mine"]
    for folder in folders:
        found = put_empty(folder / subfolder, *files)
        assert known.ensure(tmp_path / "mine") == found
        assert known.is_cached
    assert known.ensure(found) == found


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "tiny-imagenet", "cifar10-c", "cifar100-c"])
def test_archive_is_the_data_set_where_the_user_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    known = tiny(name)
    folder = put_files(tmp_path / "mine" / name, known)
    assert known.ensure(tmp_path / "mine") == folder / known.files[0].name
    monkeypatch.setenv("CROSSTASK_DATA", str(folder))
    assert known.ensure(tmp_path / "elsewhere") == folder / known.files[0].name
    assert not (tmp_path / "cache" / name).exists()


def test_half_extracted_archive_is_no_form(tmp_path: Path) -> None:
    put_empty(tmp_path / "mine" / "cifar-10-batches-py", *BATCHES[:3], *BATCHES[5:])
    with pytest.raises(DownloadError, match="cifar10 could not be obtained"):
        tiny("cifar10").ensure(tmp_path / "mine")


def test_one_benchmark_is_not_taken_for_another(tmp_path: Path) -> None:
    folder = put_empty(tmp_path / "CIFAR-10-C", "labels.npy")
    for named in (folder, tmp_path):
        with pytest.raises(DownloadError, match="cifar100-c is not here"):
            KNOWN["cifar100-c"].ensure(named)


def test_the_images_of_two_arrays_stand_for_both(tmp_path: Path) -> None:
    known = tiny("cifar10.1")
    folder = put_files(tmp_path / "mine", known)
    assert known.ensure(folder) == folder / "cifar10.1_v6_data.npy"
    (folder / "cifar10.1_v6_labels.npy").unlink()
    with pytest.raises(DownloadError, match=r"holds a part of cifar10\.1: cifar10\.1_v6_labels\.npy is missing"):
        known.ensure(folder)


def test_wrong_archive_of_the_user_is_named_and_left_alone(tmp_path: Path) -> None:
    archive = put_empty(tmp_path / "mine", "CIFAR-10-C.tar") / "CIFAR-10-C.tar"
    expected, got = OFFICIAL["CIFAR-10-C.tar"].checksum.value, hashlib.md5(b"").hexdigest()
    with pytest.raises(DownloadError, match=f"CIFAR-10-C.tar: wrong checksum, expected MD5 {expected}, got {got}"):
        KNOWN["cifar10-c"].ensure(tmp_path / "mine", fetch=True)
    assert names_in(tmp_path / "mine") == {archive.name}


def test_checksum_is_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checksums, "_LONG_BYTES", 0)
    known, said = tiny("cifar10"), []
    folder = put_files(tmp_path / "mine", known)
    archive = folder / known.files[0].name
    for _ in range(2):
        known.ensure(folder, said.append)
    assert said == [f"computing the checksum of {archive} (once)"]
    archive.write_bytes(b"changed")
    with pytest.raises(DownloadError, match="wrong checksum"):
        known.ensure(folder, said.append)


def test_a_remembered_file_in_a_folder_that_was_closed_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, stat = tiny("cifar10"), os.stat
    folder, closed = put_files(tmp_path / "mine", known), put_files(tmp_path / "closed", known)
    known.ensure(closed)

    def refused(path: object, *arguments: object, **options: object) -> os.stat_result:
        if str(path).startswith(str(closed)):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return stat(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", refused)
    assert known.ensure(folder) == folder / known.files[0].name
    remembered = (tmp_path / "cache" / "checksums.json").read_text()
    assert str(folder) in remembered and str(closed) not in remembered


# --- mirrors and sizes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in KNOWN if name not in ("fashion-mnist", "tiny-imagenet-c")])
@pytest.mark.parametrize("by_environment", [True, False])
def test_mirror_that_is_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, by_environment: bool
) -> None:
    known = tiny(name)
    mirror = put_files(tmp_path / "mirror of all", known)
    if by_environment:
        monkeypatch.setenv("CROSSTASK_MIRROR", str(mirror))
    found = known.ensure(mirror=None if by_environment else mirror, fetch=True)
    assert found == tmp_path / "cache" / name / known.entry
    assert names_in(tmp_path / "cache" / name) == {".lock", *(file.name for file in known.files)}
    assert names_in(mirror) == {file.name for file in known.files}
    assert known.ensure() == found


@pytest.mark.parametrize(
    ("mirror", "reason"),
    [
        ("http://127.0.0.1:9", "http://127.0.0.1:9/cifar-10-python.tar.gz: .*refused"),
        ("/nowhere", "file:///nowhere/cifar-10-python.tar.gz: .*No such file"),
        ("gopher://127.0.0.1", "gopher://127.0.0.1/cifar-10-python.tar.gz: .*unknown url type"),
    ],
    ids=["silent", "no folder", "no such protocol"],
)
def test_mirror_that_does_not_answer(mirror: str, reason: str) -> None:
    with pytest.raises(DownloadError, match=f"cifar10 could not be obtained(?s:.*){reason}") as caught:
        tiny("cifar10").ensure(mirror=mirror)
    for part in ("put cifar-10-python.tar.gz, or cifar-10-batches-py/", "--data-dir", "CROSSTASK_MIRROR"):
        assert part in str(caught.value)
    assert not KNOWN["cifar10"].is_cached


@pytest.mark.parametrize("name", ["cifar10-c", "cifar100-c", "tiny-imagenet-c", "frost"])
def test_large_sets_are_fetched_only_when_asked_for(tmp_path: Path, name: str) -> None:
    known = tiny(name)
    mirror = put_files(tmp_path / "mirror", known)
    with pytest.raises(
        DownloadError, match=rf"{known.size} are fetched only when asked for: crosstask data get {name}"
    ):
        known.ensure(tmp_path / "mine", mirror=mirror)
    assert not (tmp_path / "cache").exists()
    assert known.how == f"crosstask data get {name}"


def test_small_sets_are_fetched_on_first_use() -> None:
    small = [known for known in KNOWN.values() if known.on_first_use]
    assert all(known.kind == "images" and known.size_bytes <= FIRST_USE_BYTES for known in small)
    assert [known.name for known in small] == [known.name for known in KNOWN.values() if known.kind == "images"]


# --- extraction --------------------------------------------------------------------------------------------------

PICTURES = {f"Tiny-ImageNet-C/fog/{severity}/n01443537/1.JPEG": b"picture" * severity for severity in range(1, 6)}


def tar_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def tiny_c(folder: Path, archive: bytes) -> KnownData:
    """Put an archive into `folder` and return the row of the table that expects it."""
    folder.mkdir(parents=True)
    (folder / "Tiny-ImageNet-C.tar").write_bytes(archive)
    return tiny("tiny-imagenet-c", {"Tiny-ImageNet-C.tar": archive})


@pytest.mark.parametrize("top", ["Tiny-ImageNet-C/", ""])
def test_archive_of_many_files_is_fetched_and_extracted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, top: str
) -> None:
    monkeypatch.setattr(progress, "EVERY_S", 0)
    pictures = {name.replace("Tiny-ImageNet-C/", top): content for name, content in PICTURES.items()}
    known, said = tiny_c(tmp_path / "mirror", tar_of(pictures)), []
    found = known.ensure(report=said.append, mirror=tmp_path / "mirror", fetch=True)
    assert found == tmp_path / "cache" / "tiny-imagenet-c" / "extracted" / top
    assert all((found / name.removeprefix(top)).read_bytes() == content for name, content in pictures.items())
    assert names_in(tmp_path / "cache" / "tiny-imagenet-c") == {".lock", "extracted"}
    assert any(line.startswith("extracting Tiny-ImageNet-C.tar: ") and line.endswith(" s left") for line in said)
    assert known.is_cached and known.ensure() == found


def test_archive_of_the_user_is_extracted_into_the_cache_and_stays(tmp_path: Path) -> None:
    known, said = tiny_c(tmp_path / "mine", tar_of(PICTURES)), []
    found = known.ensure(tmp_path / "mine")
    assert found == tmp_path / "cache" / "tiny-imagenet-c" / "extracted" / "Tiny-ImageNet-C"
    assert names_in(tmp_path / "mine") == {"Tiny-ImageNet-C.tar"}
    assert known.ensure(tmp_path / "mine", said.append) == found
    assert said == []


def link(kind: bytes, target: str) -> bytes:
    buffer = io.BytesIO(tar_of(PICTURES)[:-1024])
    with tarfile.open(fileobj=buffer, mode="a") as tar:
        member = tarfile.TarInfo("Tiny-ImageNet-C/link")
        member.type, member.linkname = kind, target
        tar.addfile(member)
    return buffer.getvalue()


UNSAFE = {
    "outside": (tar_of({**PICTURES, "Tiny-ImageNet-C/../../outside": b"x"}), "outside the destination"),
    "symbolic link": (link(tarfile.SYMTYPE, "/etc"), "'Tiny-ImageNet-C/link' is neither a file nor a folder"),
    "hard link": (link(tarfile.LNKTYPE, "fog"), "'Tiny-ImageNet-C/link' is neither a file nor a folder"),
    "device": (link(tarfile.CHRTYPE, ""), "'Tiny-ImageNet-C/link' is neither a file nor a folder"),
    "no archive": (b"not a tar archive at all" * 100, "cannot extract .*Tiny-ImageNet-C.tar"),
    "other content": (tar_of({"README": b"x"}), r"expected Tiny-ImageNet-C/ or .* in it, got neither"),
}


@pytest.mark.parametrize("case", UNSAFE)
def test_unsafe_or_strange_archive_is_refused(tmp_path: Path, case: str) -> None:
    archive, reason = UNSAFE[case]
    known = tiny_c(tmp_path / "mine", archive)
    with pytest.raises(DownloadError, match=reason):
        known.ensure(tmp_path / "mine")
    assert names_in(tmp_path / "cache" / "tiny-imagenet-c") == {".lock"}
    assert names_in(tmp_path) == {"mine", "cache"}


def test_disk_that_fills_up_while_extracting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = tiny_c(tmp_path / "mine", tar_of(PICTURES))
    make_file = tarfile.TarFile.makefile

    def fill_up(tar: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
        make_file(tar, member, path)
        if "/3/" in member.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tarfile.TarFile, "makefile", fill_up)
    with pytest.raises(StorageError, match="the disk is full; free some space and run the same command again"):
        known.ensure(tmp_path / "mine")
    assert names_in(tmp_path / "cache" / "tiny-imagenet-c") == {".lock"}
    monkeypatch.undo()
    monkeypatch.setenv("CROSSTASK_CACHE", str(tmp_path / "cache"))
    assert known.ensure(tmp_path / "mine").name == "Tiny-ImageNet-C"


CHILD = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_download_sets as sets
from crosstask.data.download import archives
extract_member = archives._extract_member
def slowly(*arguments):
    extract_member(*arguments)
    time.sleep(float(sys.argv[3]))
archives._extract_member = slowly
folder = Path(sys.argv[2])
known = sets.tiny("tiny-imagenet-c", {"Tiny-ImageNet-C.tar": (folder / "Tiny-ImageNet-C.tar").read_bytes()})
known.ensure(mirror=folder, fetch=True)
"""


def start_child(mirror: Path, pause_s: float) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", CHILD, str(Path(__file__).parent), str(mirror), str(pause_s)])


@pytest.mark.slow
def test_killed_extraction_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    known, cache = tiny_c(tmp_path / "mirror", tar_of(PICTURES)), tmp_path / "cache" / "tiny-imagenet-c"
    with start_child(tmp_path / "mirror", pause_s=30) as child:
        deadline = time.monotonic() + 20
        while not list(cache.glob(".*.tmp/**/*.JPEG")) and time.monotonic() < deadline:
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
    (left,) = cache.glob(".extracted.*.tmp")
    assert names_in(cache) == {".lock", "Tiny-ImageNet-C.tar", left.name}
    found = known.ensure()
    assert len(list(found.rglob("*.JPEG"))) == len(PICTURES)
    assert names_in(cache) == {".lock", "extracted"}


@pytest.mark.slow
def test_two_processes_extract_once(tmp_path: Path) -> None:
    tiny_c(tmp_path / "mirror", tar_of(PICTURES))
    children = [start_child(tmp_path / "mirror", pause_s=0.05) for _ in range(2)]
    assert [child.wait(30) for child in children] == [0, 0]
    assert names_in(tmp_path / "cache" / "tiny-imagenet-c") == {".lock", "extracted"}


# --- frost -------------------------------------------------------------------------------------------------------


def put_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Have a program in pip's place; it is called with the folder to download into as `$dest`."""
    python = tmp_path / "python"
    finds_dest = 'for word in "$@"; do [ "$last" = --dest ] && dest=$word; last=$word; done'
    python.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/called\n{finds_dest}\n{script}\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))


def put_wheel(tmp_path: Path, contents: dict[str, bytes]) -> Path:
    wheel = tmp_path / "imagecorruptions_imaug-1.1.5-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in contents.items():
            archive.writestr(f"imagecorruptions/frost/{name}", content)
    return wheel


def frost_by_pip() -> KnownData:
    known = tiny("frost")
    return replace(known, files=tuple(replace(file, url=None) for file in known.files))


CONTENTS = {file.name: file.name.encode() for file in frost_photographs.FILES}


def test_photographs_come_from_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KNOWN, "frost", frost_by_pip())
    wheel = put_wheel(tmp_path, {**CONTENTS, "frost6.jpg": b"never drawn"})
    put_pip(tmp_path, monkeypatch, f'echo noise; cp {wheel} "$dest"')
    assert frost_folder() is None
    folder = KNOWN["frost"].ensure(fetch=True)
    assert folder == tmp_path / "cache" / "frost" == frost_folder()
    assert names_in(folder) == {".lock", *CONTENTS}
    called = (tmp_path / "called").read_text()
    assert called.startswith("-m pip download --no-deps ")
    assert "--disable-pip-version-check" in called and called.endswith(" imagecorruptions-imaug==1.1.5\n")


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'ERROR: no matching distribution' >&2; exit 1", "python failed: ERROR: no matching distribution"),
        ("exec sleep 20", "python did not finish within 0 s"),
        ("true", "pip left no .whl file"),
        ('echo junk > "$dest/a.whl"', "a.whl: File is not a zip file"),
    ],
    ids=["refused", "slow", "nothing", "junk"],
)
def test_pip_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, reason: str) -> None:
    monkeypatch.setattr(frost_photographs, "PIP_TIMEOUT_S", 0.3)
    put_pip(tmp_path, monkeypatch, script)
    with pytest.raises(DownloadError, match=f"(?s)frost could not be obtained.*{reason}.*put frost1.png, .*--data-dir"):
        frost_by_pip().ensure(fetch=True)


@pytest.mark.parametrize("damage", ["other", "missing"])
def test_wheel_with_other_photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    contents = {name: b"other" if name == "frost3.png" else content for name, content in CONTENTS.items()}
    if damage == "missing":
        del contents["frost3.png"]
    put_pip(tmp_path, monkeypatch, f'cp {put_wheel(tmp_path, contents)} "$dest"')
    reason = {"other": r"frost3\.png.*wrong checksum, expected MD5 .*, got ", "missing": r"no item named .*frost3\.png"}
    with pytest.raises(DownloadError, match=reason[damage]):
        frost_by_pip().ensure(fetch=True)
    assert not frost_by_pip().is_cached


def test_frost_folder_never_fetches_moves_or_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = tiny("frost")
    monkeypatch.setitem(KNOWN, "frost", known)
    assert frost_folder() is None
    cached = put_files(tmp_path / "cache" / "frost", known)
    assert frost_folder() == cached
    own = put_files(tmp_path / "mine" / "frost", known)
    monkeypatch.setenv("CROSSTASK_DATA", str(tmp_path / "mine"))
    assert frost_folder() == own
    (own / "frost2.png").write_bytes(b"changed")
    assert frost_folder() == cached
    (cached / "frost2.png").write_bytes(b"changed")
    assert frost_folder() is None
    assert names_in(own) == names_in(cached) == set(CONTENTS)


def test_frost_folder_reads_no_photograph_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = tiny("frost")
    monkeypatch.setitem(KNOWN, "frost", known)
    put_files(tmp_path / "cache" / "frost", known)
    frost_folder()
    monkeypatch.setattr(Checksum, "of", lambda *_: pytest.fail("computed again"))
    assert frost_folder() == tmp_path / "cache" / "frost"
