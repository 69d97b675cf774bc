"""The photographs of frost that the official corruption generator lays over images, taken from a package on PyPI."""

from __future__ import annotations

import sys
import tempfile
import zipfile
import zlib
from pathlib import Path

from crosstask.data.download.checksums import Checksum
from crosstask.data.download.commands import run
from crosstask.data.download.dataset import KnownData, OfficialFile
from crosstask.data.download.places import Report
from crosstask.errors import DownloadError
from crosstask.files import written_whole

_MD5 = {
    "frost1.png": "6ead634ace1f366d77e87078b465863c",
    "frost2.png": "98f0d2b1d74a048d3bc9c7ecfd886939",
    "frost3.png": "b3ed8eb147824261888e730f916c0d8b",
    "frost4.jpg": "d70b9d6aa0b1fe7bd8133b113787e078",
    "frost5.jpg": "50984ae2c871b7df2c28f1d71ca460a0",
}

FILES = tuple(OfficialFile(name, None, Checksum("MD5", value)) for name, value in _MD5.items())
"""The five photographs the generator draws from; a sixth lies beside them and is never drawn."""

PACKAGE = "imagecorruptions-imaug==1.1.5"
WHEEL_FOLDER = "imagecorruptions/frost"
PIP_TIMEOUT_S = 300.0


def from_wheel(data: KnownData, report: Report) -> None:
    """Take the missing photographs from a wheel that pip downloads from the user's package index; nothing is installed.

    Raises:
        DownloadError: there is no pip here, it fails, or the wheel is damaged or holds other files.
    """
    route = f"the package {PACKAGE}"
    report(f"fetching {route} by pip ({data.size})")
    with tempfile.TemporaryDirectory(prefix="crosstask-") as scratch:
        options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--quiet"]
        try:
            command = [sys.executable, "-m", "pip", "download", *options, "--dest", scratch, PACKAGE]
            run(command, Path(scratch), PIP_TIMEOUT_S)
        except DownloadError as error:
            raise DownloadError(f"{route}: {error}") from error
        wheel = next(Path(scratch).glob("*.whl"), None)
        if wheel is None:
            raise DownloadError(f"{route}: pip left no .whl file")
        _unpack(wheel, data, report)


def _unpack(wheel: Path, data: KnownData, report: Report) -> None:
    """Store the missing photographs from a wheel."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            for file in data.missing(report):
                content = archive.read(f"{WHEEL_FOLDER}/{file.name}")
                with written_whole(data.part(file)) as temporary:
                    temporary.write_bytes(content)
                data.store(file, report)
    except (KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DownloadError(f"{wheel.name}: {error}") from error
