"""A data set known by name: the forms it may lie in, where it is looked for, and the routes by which it is fetched.

It is looked for in the folders the user names, then in the cache; then it is fetched from a mirror, by a route of its
own, or from its official addresses. A fetched file must have the checksum stated here, and enters the cache in one
step, as does what is extracted from it: what is in the cache is whole or not there.
"""

from __future__ import annotations

import functools
import os
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from crosstask.data.download.archives import extract
from crosstask.data.download.checksums import Checksum, content, remember
from crosstask.data.download.fetch import fetch_file
from crosstask.data.download.places import (
    Report,
    cache_dir,
    holds,
    may_be_looked_into,
    named_folders,
    one_at_a_time,
    set_aside,
)
from crosstask.errors import DataError, DownloadError
from crosstask.files import folder_written_whole, storage_errors, sweep, written_whole

_EXTRACTED = "extracted"
"""Below a data set's folder in the cache: what its archive holds."""

FIRST_USE_BYTES = 250_000_000
"""Data sets of at most this size are fetched on first use; larger ones only by `crosstask data get`."""


@dataclass(frozen=True)
class OfficialFile:
    """A file of a data set as it lies at its official address; a mirror has it under the same name."""

    name: str
    url: str | None
    """None: it has no address of its own, only the route of its data set."""
    checksum: Checksum

    @property
    def unpacked_name(self) -> str:
        """What it is called in the cache: its name, without `.gz` where the unpacked content is what counts."""
        return self.name.removesuffix(".gz") if self.checksum.unpacked else self.name

    def find(self, folder: Path) -> Path | None:
        """Return where the file lies in `folder`, unpacked or as fetched, or None.

        Raises:
            DataError: the folder may not be looked into.
        """
        with may_be_looked_into(folder):
            paths = (folder / self.unpacked_name, folder / self.name)
            return next((path for path in paths if path.is_file()), None)


@dataclass(frozen=True)
class Form:
    """Another form than its official files that a data set may lie in. Looking for it checks only that it is there."""

    patterns: tuple[str, ...]
    """Each must match something in the folder."""
    subfolder: str = ""
    """Below the folder that is looked into, which may also be this one itself."""

    def find(self, folder: Path) -> Path | None:
        """Return the folder of this form, below `folder` or `folder` itself where it is so called, or None.

        Raises:
            DataError: the folder may not be looked into.
        """
        paths = [folder / self.subfolder, *([folder] if folder.absolute().name == self.subfolder else [])]
        return next((path for path in paths if holds(path, self.patterns)), None)

    def __str__(self) -> str:
        return f"{self.subfolder}/" if self.subfolder else " with ".join(self.patterns)


@dataclass(frozen=True, kw_only=True)
class KnownData:
    """A data set that can be asked for by name."""

    name: str
    what: str
    """One line for people."""
    size_bytes: int
    """What is to be fetched."""
    files: tuple[OfficialFile, ...]
    entry: str = ""
    """What stands for the set when it is read: one of the files, or the folder itself."""
    forms: tuple[Form, ...] = ()
    """Looked for before the files."""
    is_read_extracted: bool = False
    """Whether its one file is a tar archive that is extracted, into one of the forms, before it is read."""
    splits: tuple[str, ...] = ("train", "test")
    """The splits it has."""
    classes: int | None = None
    """How many classes its images must have where they are read; None: any number."""
    shape: tuple[int, int, int] | None = None
    """(C, H, W) its images must have where they are read; None: any."""
    kind: Literal["images", "corrupted", "textures"] = "images"
    """`load_images` reads images, `load_corrupted` corrupted ones; textures are no data set to classify."""
    route: Callable[[KnownData, Report], None] | None = field(default=None, repr=False)
    """Bring the missing files into the cache by another way than HTTP, or raise DownloadError."""

    @property
    def size(self) -> str:
        """Bytes to fetch, for people."""
        return f"{self.size_bytes / 1e9:.1f} GB" if self.size_bytes >= 1e9 else f"{self.size_bytes / 1e6:.0f} MB"

    @property
    def on_first_use(self) -> bool:
        """Whether it is fetched without being asked for."""
        return self.kind != "textures" and self.size_bytes <= FIRST_USE_BYTES

    @property
    def how(self) -> str:
        """How to get it."""
        return f"{'fetched by itself on first use, or: ' if self.on_first_use else ''}crosstask data get {self.name}"

    def ensure(
        self,
        data_dir: Path | str | None = None,
        report: Report | None = None,
        *,
        mirror: Path | str | None = None,
        fetch: bool = False,
    ) -> Path:
        """Return the file or folder that holds the data set, checked, fetching and extracting it if need be.

        Safe when several processes ask at once; an interrupted download is taken up where it stopped.

        Args:
            data_dir: a folder to look into first; $CROSSTASK_DATA names another. Each is also looked into below a
                subfolder of the data set's name.
            report: called with one line of text for each step; `print` will do.
            mirror: a base address, or a folder, that has the files under their names; $CROSSTASK_MIRROR if None.
            fetch: fetch it whatever its size, as `crosstask data get` does.

        Raises:
            DownloadError: a file in a folder the user named is missing or wrong, every route failed, or the data set
                is too large to be fetched without being asked for.
            DataError: a folder may not be looked into.
            StorageError: the cache cannot be written.
        """
        report = report or _silent
        found = self._find(data_dir, report)
        if found is None:
            if not (fetch or self.on_first_use):
                raise DownloadError(self._not_by_itself(data_dir))
            found = self._fetch(data_dir, mirror or os.environ.get("CROSSTASK_MIRROR"), report)
        return self._extract(found, report) if self.is_read_extracted and not found.is_dir() else found

    @property
    def folder(self) -> Path:
        """Its folder in the cache, which may not be there."""
        return cache_dir() / self.name

    @property
    def is_cached(self) -> bool:
        """Whether the cache holds it, told by file names alone."""
        try:
            return self._form_in_cache() is not None or all(file.find(self.folder) for file in self.files)
        except DataError:  # a cache that may not be looked into holds nothing for this user
            return False

    def lies_in(self, folder: Path) -> bool:
        """Tell whether `folder` holds all of the files, checked. Nothing is moved and nothing raised."""
        try:
            paths = [file.find(folder) for file in self.files]
            return all(
                path is not None and file.checksum.mismatch(path, _silent) is None
                for file, path in zip(self.files, paths, strict=True)
            )
        except (DataError, FileNotFoundError):  # it may not be looked into, or is being taken away
            return False

    def missing(self, report: Report) -> list[OfficialFile]:
        """Return the files that are not in the cache; a damaged one is set aside and counts as missing."""
        return [file for file in self.files if not self._is_stored(file, report)]

    def _is_stored(self, file: OfficialFile, report: Report) -> bool:
        path = file.find(self.folder)
        try:
            if path is not None and (wrong := file.checksum.mismatch(path, report)):
                report(f"{wrong}; kept as {set_aside(path)}")
                path = file.find(self.folder)
        except FileNotFoundError:  # another process has just moved it
            return False
        return path is not None

    def part(self, file: OfficialFile) -> Path:
        """Return where a route puts the bytes of a file until they are checked."""
        return self.folder / f"{file.name}.part"

    def store(self, file: OfficialFile, report: Report) -> None:
        """Check the fetched `part` of a file and give it its name, unpacked where the unpacked content is what counts.

        Raises:
            DownloadError: its content is wrong; it is kept as `<its name>.bad`.
        """
        part, target = self.part(file), self.folder / file.unpacked_name
        if wrong := file.checksum.mismatch(part, report):
            raise DownloadError(f"{wrong}. The bad file is kept as {set_aside(part)}")
        if file.checksum.unpacked:
            with written_whole(target) as temporary:
                temporary.write_bytes(content(part))
            part.unlink()
            return
        with storage_errors(target):
            part.replace(target)
        remember(target, file.checksum, file.checksum.value)

    # --- looking -------------------------------------------------------------------------------------------------

    def _find(self, data_dir: Path | str | None, report: Report) -> Path | None:
        """Return what stands for the set in a named folder or in the cache, checked, or None. Nothing is fetched."""
        for folders in named_folders(data_dir, self.name):
            for folder in folders:
                if found := self._form_in(folder) or self._files_in(folder, report):
                    return found
            report(f"no {self.name} in {folders[0]}; looking further")
        return self._find_in_cache(report)

    def _find_in_cache(self, report: Report) -> Path | None:
        if found := self._form_in_cache():
            return found
        return None if self.missing(report) else self.folder / self.entry

    def _form_in_cache(self) -> Path | None:
        return self._form_in(self.folder) or self._form_in(self.folder / _EXTRACTED)

    def _form_in(self, folder: Path) -> Path | None:
        return next((found for form in self.forms if (found := form.find(folder))), None)

    def _files_in(self, folder: Path, report: Report) -> Path | None:
        """Return what stands for the set in a folder the user named. The files are the user's: they are never moved."""
        found = {file: file.find(folder) for file in self.files}
        if not any(found.values()):
            return None
        for file, path in found.items():
            if path is None:
                raise DownloadError(
                    f"{folder} holds a part of {self.name}: {file.name} is missing. Add it, or name another folder"
                )
            if wrong := file.checksum.mismatch(path, report):
                raise DownloadError(f"{wrong}. Replace the file, or name another folder")
        return folder / self.entry

    # --- fetching ------------------------------------------------------------------------------------------------

    def _fetch(self, data_dir: Path | str | None, mirror: Path | str | None, report: Report) -> Path:
        """Bring every missing file into the cache, by one route after the other, and return what stands for the set."""
        failures = [f"{folders[0]}: nothing of it is there" for folders in named_folders(data_dir, self.name)]
        with one_at_a_time(self.folder, self.name, report):
            sweep(self.folder)
            if found := self._find_in_cache(report):  # another process was faster
                return found
            missing = self.missing(report)
            failures.append(f"the cache {self.folder}: {len(missing)} of {len(self.files)} files missing or damaged")
            for route in self._routes(mirror):
                try:
                    route(report)
                except DownloadError as error:
                    failures.append(str(error))
                    report(f"one way failed: {error}")
                if not self.missing(report):
                    return self.folder / self.entry
        raise DownloadError(self._nothing_answered(failures))

    def _extract(self, archive: Path, report: Report) -> Path:
        """Return the folder of what `archive` holds, extracted into the cache; an archive in the cache is then removed.

        Raises:
            DownloadError: the archive holds something unsafe, or none of the forms.
        """
        target = self.folder / _EXTRACTED
        with one_at_a_time(self.folder, self.name, report):
            sweep(self.folder)
            if found := self._form_in_cache():
                return found
            report(f"extracting {archive} into {target} (once)")
            with folder_written_whole(target) as temporary:
                extract(archive, temporary, report)
                found = self._form_in(temporary)
                if found is None:
                    raise DownloadError(f"{archive}: expected {' or '.join(map(str, self.forms))} in it, got neither")
            if archive.parent == self.folder:
                archive.unlink()
        return target / found.relative_to(temporary)

    def _routes(self, mirror: Path | str | None) -> list[Callable[[Report], None]]:
        """Return the ways to fetch it, in the order they are tried."""
        routes: list[Callable[[Report], None]] = []
        if mirror:
            routes.append(functools.partial(self._by_http, _address(mirror)))
        if self.route is not None:
            routes.append(functools.partial(self.route, self))
        if all(file.url for file in self.files):
            routes.append(functools.partial(self._by_http, None))
        return routes

    def _by_http(self, base: str | None, report: Report) -> None:
        """Fetch the missing files from below a mirror's address, or from their official ones."""
        for file in self.missing(report):
            url = file.url if base is None else f"{base}{urllib.parse.quote(file.name)}"
            assert url is not None, "`_routes` asks for official addresses only where there are some"
            report(f"fetching {url}")
            is_taken_up = self.part(file).exists()
            fetch_file(url, self.part(file), report)
            try:
                self.store(file, report)
            except DownloadError as error:
                if not is_taken_up:
                    raise
                report(f"what an earlier attempt left does not fit ({error}); fetching the file anew")
                fetch_file(url, self.part(file), report)
                self.store(file, report)

    def _not_by_itself(self, data_dir: Path | str | None) -> str:
        looked = [*(str(folder) for each in named_folders(data_dir, self.name) for folder in each), str(self.folder)]
        return (
            f"{self.name} is not here, and its {self.size} are fetched only when asked for: "
            f"crosstask data get {self.name}. Looked into {', '.join(looked)}. {self._by_hand()}"
        )

    def _nothing_answered(self, failures: list[str]) -> str:
        tried = "\n".join(f"  - {failure}" for failure in failures)
        return f"{self.name} could not be obtained. Tried:\n{tried}\n{self._by_hand()}"

    def _by_hand(self) -> str:
        files = ", ".join(file.name for file in self.files)
        unpacked = " (or the same files unpacked)" if self.files[0].checksum.unpacked else ""
        forms = "".join(f", or {form}" for form in self.forms)
        return (
            f"To bring it yourself, put {files}{unpacked}{forms} into one folder and name that folder with "
            f"--data-dir or the environment variable CROSSTASK_DATA, or put it into {self.folder}. A mirror that has "
            "the files under these names can be named with the environment variable CROSSTASK_MIRROR"
        )


def _address(mirror: Path | str) -> str:
    """Return the base address of a mirror, which may be a folder of this machine."""
    base = str(mirror) if "://" in str(mirror) else Path(mirror).expanduser().resolve().as_uri()
    return f"{base.rstrip('/')}/"


def _silent(_: str) -> None:
    """Report nothing."""
