"""Fashion-MNIST: its classes, its files, and the route through Debian's package."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from crosstask.data.download.checksums import Checksum
from crosstask.data.download.commands import run
from crosstask.data.download.dataset import KnownData, OfficialFile
from crosstask.data.download.places import Report, may_be_looked_into
from crosstask.errors import DownloadError
from crosstask.files import written_whole

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
"""File name without `.gz` -> SHA-256 of the decompressed content (every mirror compresses in its own way)."""

FILES = tuple(
    OfficialFile(f"{name}.gz", f"{_URL}{name}.gz", Checksum("SHA-256", value, unpacked=True))
    for name, value in SHA256.items()
)
"""The four files in MNIST's layout; their checksums are those of the unpacked content."""

DEBIAN_PACKAGE = "dataset-fashion-mnist"
DEBIAN_FOLDER = "usr/share/datasets/fashion-mnist"
APT_TIMEOUT_S = 180.0


def find_idx(folder: Path, name: str) -> Path | None:
    """Return the file `name` or `name.gz` in `folder`, or None.

    Raises:
        DataError: the folder may not be looked into.
    """
    with may_be_looked_into(folder):
        return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def from_debian(data: KnownData, report: Report) -> None:
    """Take the missing files from Debian's package, downloaded and unpacked without root.

    Raises:
        DownloadError: there is no apt-get here, it fails, or the package holds other files.
    """
    route = f"Debian's package {DEBIAN_PACKAGE}"
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise DownloadError(f"{route}: {tool} is not on PATH")
    report(f"fetching {route} ({data.size})")
    with tempfile.TemporaryDirectory(prefix="crosstask-") as scratch:
        folder = Path(scratch)
        try:
            package = _apt_download(folder)
            run(["dpkg-deb", "-x", str(package), str(folder / "unpacked")], folder, APT_TIMEOUT_S)
        except DownloadError as error:
            raise DownloadError(f"{route}: {error}") from error
        for file in data.missing(report):
            path = file.find(folder / "unpacked" / DEBIAN_FOLDER)
            if path is None:
                raise DownloadError(f"{route}: it holds no {DEBIAN_FOLDER}/{file.name}")
            with written_whole(data.part(file)) as temporary:
                shutil.copyfile(path, temporary)
            data.store(file, report)


def _apt_download(folder: Path) -> Path:
    """Download the package into `folder`; where the machine's package lists do not know it, with lists of our own."""
    download = ["download", DEBIAN_PACKAGE]
    patience = ["-o", "Acquire::http::Timeout=20", "-o", "Acquire::Retries=1"]
    try:
        run(["apt-get", *patience, *download], folder, APT_TIMEOUT_S)
    except DownloadError:
        for own_folder in ("lists", "cache/archives"):
            (folder / own_folder / "partial").mkdir(parents=True)
        lists = [f"Dir::State::Lists={folder / 'lists'}", f"Dir::Cache={folder / 'cache'}", "Debug::NoLocking=1"]
        own = [part for option in lists for part in ("-o", option)]
        run(["apt-get", *patience, *own, "update"], folder, APT_TIMEOUT_S)
        run(["apt-get", *patience, *own, *download], folder, APT_TIMEOUT_S)
    packages = sorted(folder.glob("*.deb"))
    if not packages:
        raise DownloadError("apt-get download left no .deb file")
    return packages[0]
