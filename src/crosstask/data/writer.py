"""Corrupted copies of an image set on the disk, in the layouts of the official benchmarks.

OUT/<corruption>.npy and labels.npy, as CIFAR-10-C has it, or OUT/<corruption>/<severity>/<class>/<image>.JPEG, as
Tiny-ImageNet-C and ImageNet-C have it; and corrupted.json, which says what was done and what each file must hold.
`data.sources.corrupted` reads both.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from crosstask.data.corruptions import available, check_images, corrupt
from crosstask.data.corruptions.frost_sheets import texture
from crosstask.data.corruptions.own import code_hash
from crosstask.data.images import ImageSet
from crosstask.data.severities import TABLES
from crosstask.errors import DataError, UnknownName
from crosstask.files import folder_written_whole, sha256, storage_errors, sweep, write_text, written_whole

MANIFEST = "corrupted.json"
FORMAT = 1
JPEG: dict[str, Any] = {"format": "JPEG", "quality": 85, "optimize": True}
"""How the official class folders were written, after the corruption."""

_AT_ONCE = 2000
"""Images held in memory at a time."""

Progress = Callable[[int, int, str], None]
"""(images done, images in all, what is being made)."""


@dataclass(frozen=True, kw_only=True)
class Copies:
    """Which corrupted copies are wanted.

    Attributes:
        images: the clean ones; labels are written where there are any.
        corruptions: names of `data.corruptions.available()`.
        severities: each from 1 to 5, ascending.
        table: a name of `severities.TABLES`.
        seed: chooses the random numbers.
        device: where the corruptions are computed.
    """

    images: ImageSet
    corruptions: tuple[str, ...]
    severities: tuple[int, ...] = (1, 2, 3, 4, 5)
    table: str = "cifar"
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __post_init__(self) -> None:
        check_images(self.images.images[:1])
        for name in self.corruptions:
            if name not in available():
                raise UnknownName("corruption", name, available())
        if self.table not in TABLES:
            raise UnknownName("severity table", self.table, TABLES)
        if not self.severities or list(self.severities) != sorted(set(self.severities) & {1, 2, 3, 4, 5}):
            raise DataError(f"expected severities from 1 to 5, each once and in order, got {list(self.severities)}")
        if self.layout == "tiny-imagenet-c":
            _check_folder_names(self.images.class_names)

    @property
    def layout(self) -> Literal["cifar-c", "tiny-imagenet-c"]:
        """`cifar-c`: one array a corruption; `tiny-imagenet-c`: class folders, which need labels."""
        return "cifar-c" if self.table == "cifar" or self.images.labels is None else "tiny-imagenet-c"

    def settings(self) -> dict[str, Any]:
        """Return what must be the same for two runs to write into one folder."""
        return {
            "format": FORMAT,
            "layout": self.layout,
            "name": self.images.name,
            "fingerprint": self.images.fingerprint,
            "images": len(self.images),
            "class_names": list(self.images.class_names),
            "severities": list(self.severities),
            "table": self.table,
            "seed": self.seed,
        }

    def made_by(self, corruption: str) -> dict[str, str]:
        """Return what else decides the pixels of one corruption: the sheets of frost, or a registered function."""
        if corruption == "frost":
            return {"frost": texture()}
        code = code_hash(corruption)
        return {"code": code} if code else {}

    def pixels(self, corruption: str, severity: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (first row, uint8 [n, H, W, C]) of the corrupted images, a part at a time."""
        for start in range(0, len(self.images), _AT_ONCE):
            part = self.images.images[start : start + _AT_ONCE].to(self.device)
            indices = torch.arange(start, start + len(part), device=self.device)
            made = corrupt(part, corruption, severity, seed=self.seed, indices=indices, table=self.table)
            yield start, made.permute(0, 2, 3, 1).cpu().numpy()


def _check_folder_names(class_names: Sequence[str]) -> None:
    """Check that every class can have a folder of its name, and of its own."""
    wrong = [name for name in class_names if name in ("", ".", "..") or "/" in name or "\0" in name]
    wrong += [name for name, count in Counter(class_names).items() if count > 1]
    if wrong:
        raise DataError(
            f"the class name {wrong[0]!r} cannot be that of a folder of its own: expected names that differ, without "
            "slashes. Rename the class"
        )


def write_copies(copies: Copies, out: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Write the corrupted copies below `out`, and return the manifest. What is there already is not made again.

    Every file (of class folders: every severity's folder) appears whole or not at all.

    Raises:
        DataError: `out` holds copies of other images or settings, or other files.
        StorageError: the disk refuses.
    """
    manifest = _opened(copies, out)
    each = len(copies.images) * (1 if copies.layout == "tiny-imagenet-c" else len(copies.severities))
    units = _units(copies)
    todo = [unit for unit in units if not _is_whole(out, manifest, *unit, copies)]
    done = each * (len(units) - len(todo))
    for path, corruption, severities in todo:

        def tell(more: int, before: int = done, name: str = corruption) -> None:
            if progress:
                progress(before + more, each * len(units), name)

        write = _write_array if copies.layout == "cifar-c" else _write_folder
        entry = write(copies, out / path, corruption, severities, tell)
        manifest["files"][path] = entry | copies.made_by(corruption)
        _keep(out, manifest)
        done += each
    if progress and not todo:
        progress(done, done, "found whole")
    return manifest


def _units(copies: Copies) -> list[tuple[str, str, tuple[int, ...]]]:
    """Return (path below the folder, corruption, severities) of everything that is written in one piece."""
    if copies.layout == "cifar-c":
        return [(f"{name}.npy", name, copies.severities) for name in copies.corruptions]
    return [(f"{name}/{severity}", name, (severity,)) for name in copies.corruptions for severity in copies.severities]


def _opened(copies: Copies, out: Path) -> dict[str, Any]:
    """Return the manifest of a new folder, or of one that the same settings began."""
    settings = copies.settings()
    path = out / MANIFEST
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        sweep(out)
        for folder in out.iterdir():
            if folder.is_dir():
                sweep(folder)
    if not path.exists():
        if others := sorted(entry.name for entry in out.iterdir() if not entry.name.startswith(".")):
            raise DataError(
                f"{out} holds other files ({', '.join(others[:3])}) and no {MANIFEST}: choose an empty or a new folder"
            )
        manifest = settings | {"files": {}}
        _keep(out, manifest)
    else:
        manifest = _manifest(path)
        changed = [name for name, value in settings.items() if manifest.get(name) != value]
        if changed:
            told = "; ".join(
                f"{name}: {_short(manifest.get(name))} there, {_short(settings[name])} now" for name in changed
            )
            raise DataError(f"{out} holds corrupted copies with other settings ({told}): choose another folder")
    if copies.layout == "cifar-c" and copies.images.labels is not None:
        _write_labels(copies, out, manifest)
    return manifest


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}. Remove the folder, or choose another") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise DataError(f"{path} is not what `crosstask corrupt` writes. Choose another folder")
    return manifest


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _keep(out: Path, manifest: dict[str, Any]) -> None:
    write_text(out / MANIFEST, json.dumps(manifest, indent=1) + "\n")


def _is_whole(
    out: Path, manifest: dict[str, Any], path: str, corruption: str, severities: tuple[int, ...], copies: Copies
) -> bool:
    """Tell whether a unit was written, by the same means, and still has its size."""
    entry = manifest["files"].get(path)
    if not isinstance(entry, dict) or not (out / path).exists():
        return False
    same_means = all(entry.get(key) == value for key, value in copies.made_by(corruption).items())
    return same_means and entry.get("bytes") == _bytes(out / path)


def _bytes(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _write_labels(copies: Copies, out: Path, manifest: dict[str, Any]) -> None:
    assert copies.images.labels is not None, "the caller looks"
    labels = copies.images.labels.cpu().numpy()
    small = labels.astype(np.uint8 if len(copies.images.class_names) <= 256 else np.int64)
    with written_whole(out / "labels.npy") as temporary, temporary.open("wb") as file:
        np.save(file, np.tile(small, len(copies.severities)))
    manifest["files"]["labels.npy"] = _entry(out / "labels.npy")


def _entry(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def _write_array(
    copies: Copies, path: Path, corruption: str, severities: Sequence[int], tell: Callable[[int], None]
) -> dict[str, Any]:
    """Write uint8 [severities * N, H, W, C], severity by severity; gray images as [severities * N, H, W]."""
    count, channels, height, width = copies.images.images.shape
    shape = (count * len(severities), height, width) + ((channels,) if channels > 1 else ())
    with written_whole(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for block, severity in enumerate(severities):
            for start, pixels in copies.pixels(corruption, severity):
                file.write(np.ascontiguousarray(pixels).data)
                tell(block * count + start + len(pixels))
    return _entry(path)


def _write_folder(
    copies: Copies, path: Path, corruption: str, severities: Sequence[int], tell: Callable[[int], None]
) -> dict[str, Any]:
    """Write one severity as `<class>/<image>.JPEG`."""
    (severity,) = severities
    names = _file_names(copies.images)
    with folder_written_whole(path) as temporary, ThreadPoolExecutor() as pool:
        for folder in {PurePosixPath(name).parent for name in names}:
            (temporary / folder).mkdir(parents=True)
        for start, pixels in copies.pixels(corruption, severity):
            targets = [temporary / name for name in names[start : start + len(pixels)]]
            list(pool.map(_save_jpeg, pixels, targets))
            tell(start + len(pixels))
        listing = "\n".join(f"{sha256(temporary / name)}  {name}" for name in sorted(names))
        size = _bytes(temporary)
    return {"bytes": size, "sha256": hashlib.sha256(listing.encode()).hexdigest()}


def _save_jpeg(pixels: np.ndarray, path: Path) -> None:
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    image.save(path, **JPEG)


def _file_names(images: ImageSet) -> list[str]:
    """Return `<class>/<image>.JPEG` for each image: under its own name where those differ, else under its number."""
    labels: Tensor | None = images.labels
    assert labels is not None, "class folders are the layout of labelled images"
    stems = [PurePosixPath(item).stem for item in images.items or ()]
    if max(Counter(stems).values(), default=2) > 1:
        stems = [f"{number:05d}" for number in range(len(images))]
    return [f"{images.class_names[label]}/{stem}.JPEG" for label, stem in zip(labels.tolist(), stems, strict=True)]
