"""Archives that are read extracted."""

from __future__ import annotations

import tarfile
from pathlib import Path

from crosstask.data.download.places import Report
from crosstask.data.download.progress import Progress
from crosstask.errors import DownloadError


def extract(archive: Path, folder: Path, report: Report) -> None:
    """Extract a tar archive into `folder`; the archive stays.

    Args:
        archive: an uncompressed `.tar` of files and folders.
        folder: an empty folder.
        report: called with one line of text every few seconds.

    Raises:
        DownloadError: the archive is damaged, or a member is a link or a device, or would land outside of `folder`.
        OSError: the disk refuses.
    """
    progress = Progress(f"extracting {archive.name}", archive.stat().st_size, 0, report)
    try:
        with tarfile.open(archive, "r:") as tar:
            while member := tar.next():
                _extract_member(tar, member, folder)
                progress.at(tar.offset)
                tar.members.clear()  # type: ignore[attr-defined]  # else a million of them are kept in memory
    except tarfile.TarError as error:
        raise DownloadError(f"cannot extract {archive}: {error}. Nothing was kept of it; fetch it again") from error


def _extract_member(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    if not (member.isfile() or member.isdir()):
        raise tarfile.ExtractError(f"{member.name!r} is neither a file nor a folder")
    tar.extract(member, folder, set_attrs=False, filter="data")
