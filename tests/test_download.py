"""Where data sets are looked for, how they are fetched, and that a file in the cache is whole, right or not there."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from crosstask.data.download import KNOWN, KnownData, Report, cache_dir, data_table, fashion_mnist, progress
from crosstask.data.download.checksums import Checksum
from crosstask.data.download.dataset import OfficialFile
from crosstask.errors import DataError, DownloadError, StorageError


def idx(values: bytes, *shape: int) -> bytes:
    return bytes((0, 0, 8, len(shape))) + struct.pack(f">{len(shape)}I", *shape) + values


def fake_files() -> dict[str, bytes]:
    noise = random.Random(0).randbytes
    return {
        "train-images-idx3-ubyte": idx(noise(40 * 64 * 64), 40, 64, 64),
        "train-labels-idx1-ubyte": idx(bytes(range(10)) * 4, 40),
        "t10k-images-idx3-ubyte": idx(noise(10 * 64 * 64), 10, 64, 64),
        "t10k-labels-idx1-ubyte": idx(bytes(range(10)), 10),
    }


FILES = fake_files()
GZIPPED = {f"{name}.gz": gzip.compress(content, 1, mtime=0) for name, content in FILES.items()}
HASHES = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
FIRST = "train-images-idx3-ubyte"


def tiny_fashion_mnist(url: str) -> KnownData:
    """Return the row of the table with tiny files to expect, whose official address is `url`."""
    checksums = {name: Checksum("SHA-256", value, unpacked=True) for name, value in HASHES.items()}
    files = tuple(OfficialFile(f"{name}.gz", f"{url}{name}.gz", checksum) for name, checksum in checksums.items())
    return replace(KNOWN["fashion-mnist"], files=files)


def ensure_fashion_mnist(
    data_dir: Path | None = None, report: Report | None = None, mirror: Path | str | None = None
) -> Path:
    return KNOWN["fashion-mnist"].ensure(data_dir, report, mirror=mirror)


@pytest.fixture(autouse=True)
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with an empty cache, no apt-get, no answer at the official address, and tiny files to expect."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("CROSSTASK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("CROSSTASK_DATA", raising=False)
    monkeypatch.delenv("CROSSTASK_MIRROR", raising=False)
    monkeypatch.setitem(KNOWN, "fashion-mnist", tiny_fashion_mnist("http://127.0.0.1:9/"))


def put_files(folder: Path, *, packed: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (GZIPPED if packed else FILES).items():
        (folder / name).write_bytes(content)
    return folder


def holds_all(folder: Path) -> bool:
    return all((folder / name).read_bytes() == content for name, content in FILES.items())


# --- the folders looked in -------------------------------------------------------------------------------------


def test_cache_dir_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/h")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    monkeypatch.setenv("CROSSTASK_CACHE", "~/own")
    assert cache_dir() == Path("/h/own")
    monkeypatch.delenv("CROSSTASK_CACHE")
    assert cache_dir() == Path("/x/crosstask")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path("/h/.cache/crosstask")


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("subfolder", ["", "fashion-mnist"])
@pytest.mark.parametrize("by_environment", [True, False])
def test_named_folder_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool, subfolder: str, by_environment: bool
) -> None:
    put_files(tmp_path / "cache" / "fashion-mnist")
    folder = put_files(tmp_path / "mine" / subfolder, packed=packed)
    if by_environment:
        monkeypatch.setenv("CROSSTASK_DATA", str(tmp_path / "mine"))
        assert ensure_fashion_mnist() == folder
    else:
        assert ensure_fashion_mnist(tmp_path / "mine") == folder


def test_cache_is_used_and_a_named_folder_without_the_files_is_reported(tmp_path: Path) -> None:
    cached = put_files(tmp_path / "cache" / "fashion-mnist", packed=False)
    said: list[str] = []
    assert ensure_fashion_mnist(tmp_path / "elsewhere", said.append) == cached
    assert said == [f"no fashion-mnist in {tmp_path / 'elsewhere'}; looking further"]


def test_named_folder_with_a_part_of_the_files(tmp_path: Path) -> None:
    folder = put_files(tmp_path / "mine")
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DownloadError, match=r"mine holds a part .* t10k-labels-idx1-ubyte.gz is missing"):
        ensure_fashion_mnist(folder)


def test_named_folder_with_a_wrong_file_leaves_it_alone(tmp_path: Path) -> None:
    folder = put_files(tmp_path / "mine", packed=False)
    (folder / FIRST).write_bytes(b"other")
    got = hashlib.sha256(b"other").hexdigest()
    with pytest.raises(DownloadError, match=f"wrong checksum, expected SHA-256 {HASHES[FIRST]}, got {got}"):
        ensure_fashion_mnist(folder)
    assert (folder / FIRST).read_bytes() == b"other"


def test_named_folder_with_a_truncated_file(tmp_path: Path) -> None:
    folder = put_files(tmp_path / "mine")
    (folder / f"{FIRST}.gz").write_bytes(GZIPPED[f"{FIRST}.gz"][:1000])
    with pytest.raises(DownloadError, match=rf"cannot read .*{FIRST}\.gz: .*truncated or damaged"):
        ensure_fashion_mnist(folder)


def test_nothing_answers(tmp_path: Path) -> None:
    with pytest.raises(DownloadError) as caught:
        ensure_fashion_mnist(tmp_path / "elsewhere")
    message = str(caught.value)
    for part in (
        "elsewhere: nothing of it is there",
        "cache",
        "apt-get is not on PATH",
        "http://127.0.0.1:9/",
        "refused",
    ):
        assert part in message
    assert all(name in message for name in GZIPPED)
    assert (
        "--data-dir" in message and "CROSSTASK_DATA" in message and str(tmp_path / "cache" / "fashion-mnist") in message
    )


def test_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CROSSTASK_CACHE", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="not a folder"):
        ensure_fashion_mnist()


def test_folder_that_may_not_be_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_file", refuse)
    monkeypatch.setattr(Path, "glob", refuse)
    for known in KNOWN.values():
        with pytest.raises(DataError, match=r"cannot look into .*closed.*: permission denied"):
            known.ensure(tmp_path / "closed", fetch=True)
    assert not any(row.cached for row in data_table())


def test_table_tells_what_is_in_the_cache(tmp_path: Path) -> None:
    assert not any(row.cached for row in data_table())
    folder = put_files(tmp_path / "cache" / "fashion-mnist")
    assert [row.name for row in data_table() if row.cached] == ["fashion-mnist"]
    (folder / f"{FIRST}.gz").rename(folder / f"{FIRST}.gz.part")
    assert not any(row.cached for row in data_table())
    assert all(row.what and row.size and row.how for row in data_table())


def test_listing_needs_neither_torch_nor_numpy() -> None:
    code = "import sys, crosstask.data.download; sys.exit(bool({'torch', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- Debian's package ------------------------------------------------------------------------------------------


def put_tool(tmp_path: Path, name: str, script: str) -> None:
    path = tmp_path / "bin" / name
    path.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
    path.chmod(0o755)


def put_package(tmp_path: Path, files: dict[str, bytes]) -> Path:
    """Build a package as Debian does and a `dpkg-deb` to unpack it."""
    tool = shutil.which("dpkg-deb", path="/usr/bin:/bin")
    if tool is None:
        pytest.skip("no dpkg-deb on this machine")
    content = tmp_path / "content"
    (content / "DEBIAN").mkdir(parents=True)
    (content / "DEBIAN" / "control").write_text(
        "Package: dataset-fashion-mnist\nVersion: 1\nArchitecture: all\nMaintainer: nobody <a@b.c>\nDescription: test\n"
    )
    (content / fashion_mnist.DEBIAN_FOLDER).mkdir(parents=True)
    for name, data in files.items():
        (content / fashion_mnist.DEBIAN_FOLDER / name).write_bytes(data)
    package = tmp_path / "dataset-fashion-mnist_1_all.deb"
    command = [tool, "-Znone", "-b", str(content), str(package)]
    subprocess.run(command, check=True, capture_output=True, env={"PATH": "/usr/bin:/bin"})
    put_tool(tmp_path, "dpkg-deb", f'exec {tool} "$@"')
    return package


def test_debian_package(tmp_path: Path) -> None:
    put_tool(tmp_path, "apt-get", f"echo noise; echo noise >&2; cp {put_package(tmp_path, GZIPPED)} .")
    folder = ensure_fashion_mnist()
    assert folder == tmp_path / "cache" / "fashion-mnist"
    assert holds_all(folder)


def test_debian_package_with_lists_of_its_own(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    package = put_package(tmp_path, GZIPPED)
    log = tmp_path / "log"
    script = f"""echo "$@" >> {log}
case "$*" in
  *Dir::State::Lists=*update*) touch fetched ;;
  *Dir::State::Lists=*download*) test -e fetched && cp {package} . ;;
  *) echo 'E: Unable to locate package' >&2; exit 100 ;;
esac"""
    put_tool(tmp_path, "apt-get", script)
    assert holds_all(ensure_fashion_mnist())
    first, update, again = log.read_text().splitlines()
    assert "Lists" not in first
    assert update.endswith("update") and again.endswith("download dataset-fashion-mnist")
    assert "Debug::NoLocking=1" in update and "Dir::Cache=" in update
    assert capfd.readouterr() == ("", "")


def test_debian_package_with_other_content(tmp_path: Path) -> None:
    package = put_package(tmp_path, {**GZIPPED, f"{FIRST}.gz": gzip.compress(b"other")})
    put_tool(tmp_path, "apt-get", f"cp {package} .")
    with pytest.raises(DownloadError) as caught:
        ensure_fashion_mnist()
    assert HASHES[FIRST] in str(caught.value) and hashlib.sha256(b"other").hexdigest() in str(caught.value)
    folder = tmp_path / "cache" / "fashion-mnist"
    assert gzip.decompress((folder / f"{FIRST}.gz.bad").read_bytes()) == b"other"
    assert not (folder / FIRST).exists()


def test_debian_package_without_the_files(tmp_path: Path) -> None:
    put_tool(tmp_path, "apt-get", f"cp {put_package(tmp_path, {})} .")
    with pytest.raises(DownloadError, match=f"it holds no usr/share/datasets/fashion-mnist/{FIRST}.gz"):
        ensure_fashion_mnist()


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'W: old lists' >&2; echo 'E: no such package' >&2; exit 100", "apt-get failed: E: no such package"),
        ("exit 3", "apt-get failed: exit code 3"),
        ("exec sleep 20", "apt-get did not finish within 0 s"),
        ("true", "apt-get download left no .deb file"),
    ],
)
def test_apt_get_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, reason: str) -> None:
    monkeypatch.setattr(fashion_mnist, "APT_TIMEOUT_S", 0.3)
    put_tool(tmp_path, "apt-get", script)
    put_tool(tmp_path, "dpkg-deb", "true")
    with pytest.raises(DownloadError, match=reason):
        ensure_fashion_mnist()


# --- the official address --------------------------------------------------------------------------------------


class Server:
    """The official address, on this machine. It knows Range, and misbehaves when told to."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = dict(GZIPPED)
        self.requests: list[tuple[str, str | None]] = []
        self.knows_range = True
        self.cut_after: int | None = None
        """Bytes after which an answer breaks off, or None."""
        self.stall: threading.Event | None = None
        """When set, an answer stops halfway until the event comes."""
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/"

    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        name, asked = handler.path.strip("/"), handler.headers["Range"]
        self.requests.append((name, asked))
        if name not in self.files:
            return handler.send_error(404, "Not Found")
        content = self.files[name]
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.knows_range else 0
        if asked and self.knows_range and start >= len(content):
            return handler.send_error(416)
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if content.startswith(b"<"):
            handler.send_header("Content-Type", "text/html; charset=utf-8")
        handler.send_header("Content-Length", str(len(content) - start))
        handler.end_headers()
        rest = content[start:]
        if self.cut_after is not None:
            rest = rest[: self.cut_after]
        if self.stall is not None:
            handler.wfile.write(rest[: len(rest) // 2])
            handler.wfile.flush()
            self.stall.wait(10)
            return None
        handler.wfile.write(rest)
        return None

    def fetched(self, name: str) -> list[str | None]:
        return [asked for requested, asked in self.requests if requested == f"{name}.gz"]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server()
    monkeypatch.setitem(KNOWN, "fashion-mnist", tiny_fashion_mnist(server.url))
    with server.http:
        thread = threading.Thread(target=lambda: server.http.serve_forever(poll_interval=0.01))
        thread.start()
        yield server
        if server.stall is not None:
            server.stall.set()
        server.http.shutdown()
        thread.join()


def test_official_address(tmp_path: Path, server: Server) -> None:
    said: list[str] = []
    folder = ensure_fashion_mnist(report=said.append)
    assert folder == tmp_path / "cache" / "fashion-mnist"
    assert holds_all(folder)
    assert {path.name for path in folder.iterdir()} == {*FILES, ".lock"}
    assert any("apt-get is not on PATH" in line for line in said)
    ensure_fashion_mnist()
    assert len(server.requests) == 4


def test_only_what_is_missing_is_fetched(tmp_path: Path, server: Server) -> None:
    put_files(tmp_path / "cache" / "fashion-mnist", packed=False)
    (tmp_path / "cache" / "fashion-mnist" / FIRST).unlink()
    assert holds_all(ensure_fashion_mnist())
    assert server.requests == [(f"{FIRST}.gz", None)]


def test_damaged_file_in_the_cache_is_set_aside_and_fetched_again(tmp_path: Path, server: Server) -> None:
    folder = put_files(tmp_path / "cache" / "fashion-mnist", packed=False)
    (folder / FIRST).write_bytes(b"damaged")
    assert holds_all(ensure_fashion_mnist())
    assert (folder / f"{FIRST}.bad").read_bytes() == b"damaged"


@pytest.mark.parametrize("knows_range", [True, False])
def test_left_over_part_is_taken_up(tmp_path: Path, server: Server, knows_range: bool) -> None:
    server.knows_range = knows_range
    folder = tmp_path / "cache" / "fashion-mnist"
    folder.mkdir(parents=True)
    (folder / f"{FIRST}.gz.part").write_bytes(GZIPPED[f"{FIRST}.gz"][:5000])
    assert holds_all(ensure_fashion_mnist())
    assert server.fetched(FIRST) == ["bytes=5000-"]


def test_part_that_was_complete_already(tmp_path: Path, server: Server) -> None:
    folder = tmp_path / "cache" / "fashion-mnist"
    folder.mkdir(parents=True)
    (folder / f"{FIRST}.gz.part").write_bytes(GZIPPED[f"{FIRST}.gz"])
    assert holds_all(ensure_fashion_mnist())


def test_broken_connection_is_taken_up_while_bytes_come(server: Server) -> None:
    server.cut_after = 70_000
    said: list[str] = []
    assert holds_all(ensure_fashion_mnist(report=said.append))
    assert server.fetched(FIRST) == [None, "bytes=70000-", "bytes=140000-"]
    assert any("the connection broke" in line for line in said)


def test_connection_that_brings_nothing_is_given_up(tmp_path: Path, server: Server) -> None:
    server.cut_after = 0
    with pytest.raises(DownloadError, match=r"only 0 of [\d,]+ bytes came"):
        ensure_fashion_mnist()
    assert not (tmp_path / "cache" / "fashion-mnist" / FIRST).exists()


def test_wrong_content_is_named_and_set_aside(tmp_path: Path, server: Server) -> None:
    server.files[f"{FIRST}.gz"] = gzip.compress(b"other")
    with pytest.raises(DownloadError) as caught:
        ensure_fashion_mnist()
    folder = tmp_path / "cache" / "fashion-mnist"
    bad = folder / f"{FIRST}.gz.bad"
    for part in (HASHES[FIRST], hashlib.sha256(b"other").hexdigest(), str(bad)):
        assert part in str(caught.value)
    assert gzip.decompress(bad.read_bytes()) == b"other"
    assert {path.name for path in folder.iterdir()} == {bad.name, ".lock"}


def test_page_instead_of_the_file(tmp_path: Path, server: Server) -> None:
    server.files[f"{FIRST}.gz"] = b"<html>Please log in</html>"
    folder = tmp_path / "cache" / "fashion-mnist"
    folder.mkdir(parents=True)
    (folder / f"{FIRST}.gz.part").write_bytes(b"12345")
    with pytest.raises(DownloadError, match="answered with an HTML page"):
        ensure_fashion_mnist()
    assert (folder / f"{FIRST}.gz.part").read_bytes() == b"12345"  # a page does not cost the bytes already here


def test_wrong_part_of_an_earlier_attempt_is_fetched_anew(tmp_path: Path, server: Server) -> None:
    folder = tmp_path / "cache" / "fashion-mnist"
    folder.mkdir(parents=True)
    (folder / f"{FIRST}.gz.part").write_bytes(b"x" * 5000)
    said: list[str] = []
    assert holds_all(ensure_fashion_mnist(report=said.append))
    assert server.fetched(FIRST) == ["bytes=5000-", None]
    assert any("what an earlier attempt left does not fit" in line for line in said)


@pytest.mark.parametrize("by_environment", [True, False])
def test_mirror_comes_before_the_official_address(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, by_environment: bool
) -> None:
    monkeypatch.setitem(KNOWN, "fashion-mnist", tiny_fashion_mnist("http://127.0.0.1:9/"))
    address = server.url.removesuffix("/")
    if by_environment:
        monkeypatch.setenv("CROSSTASK_MIRROR", address)
    assert holds_all(ensure_fashion_mnist(mirror=None if by_environment else address))
    assert [name for name, _ in server.requests] == list(GZIPPED)


def test_mirror_with_other_content_is_named_and_the_official_address_is_asked(tmp_path: Path, server: Server) -> None:
    mirror = put_files(tmp_path / "mirror")
    (mirror / f"{FIRST}.gz").write_bytes(gzip.compress(b"other"))
    said: list[str] = []
    assert holds_all(ensure_fashion_mnist(report=said.append, mirror=mirror))
    assert len(server.requests) == 4
    assert any(line.startswith("one way failed") and "wrong checksum" in line for line in said)
    assert gzip.decompress((mirror / f"{FIRST}.gz").read_bytes()) == b"other"


def test_disk_without_room_is_told_before_anything_is_written(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(StorageError, match=r"0\.2 MB are needed and 0\.0 MB are free; free some space"):
        ensure_fashion_mnist()
    assert [path.name for path in (tmp_path / "cache" / "fashion-mnist").iterdir()] == [".lock"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this machine")
def test_disk_that_fills_up_on_the_way(tmp_path: Path, server: Server) -> None:
    folder = tmp_path / "cache" / "fashion-mnist"
    folder.mkdir(parents=True)
    (folder / f"{FIRST}.gz.part").symlink_to("/dev/full")
    with pytest.raises(StorageError, match=rf"cannot write .*{FIRST}\.gz\.part: the disk is full; free some space"):
        ensure_fashion_mnist()
    assert not KNOWN["fashion-mnist"].is_cached


def test_address_without_the_file(server: Server) -> None:
    del server.files[f"{FIRST}.gz"]
    with pytest.raises(DownloadError, match="the server answered 404 Not Found"):
        ensure_fashion_mnist()


def test_progress_is_reported(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY_S", 0)
    said: list[str] = []
    ensure_fashion_mnist(report=said.append)
    assert any(line.startswith(f"{FIRST}.gz: ") and line.endswith(" s left") for line in said)


CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
from test_download import tiny_fashion_mnist
tiny_fashion_mnist(sys.argv[2]).ensure()
"""


def start_child(server: Server) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", CHILD, str(Path(__file__).parent), server.url], env=dict(os.environ))


def test_killed_download_leaves_nothing_that_looks_finished_and_resumes(tmp_path: Path, server: Server) -> None:
    server.stall = threading.Event()
    part = tmp_path / "cache" / "fashion-mnist" / f"{FIRST}.gz.part"
    with start_child(server) as child:
        deadline = time.monotonic() + 20
        while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
    left = part.stat().st_size
    assert 0 < left < len(GZIPPED[part.name.removesuffix(".part")])
    assert {path.name for path in part.parent.iterdir()} == {part.name, ".lock"}
    assert not KNOWN["fashion-mnist"].is_cached
    server.stall.set()
    server.stall = None
    assert holds_all(ensure_fashion_mnist())
    assert server.fetched(FIRST) == [None, f"bytes={left}-"]


def test_two_processes_at_once(tmp_path: Path, server: Server) -> None:
    children = [start_child(server) for _ in range(2)]
    assert [child.wait(20) for child in children] == [0, 0]
    assert holds_all(tmp_path / "cache" / "fashion-mnist")
    assert len(server.requests) == 4
