"""Example images for the report: before and after corruption, with what the frozen and the adapted model say."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from crosstask import runtime
from crosstask.data.streams import Stream
from crosstask.files import write_text


def pick(stream: Stream, frozen: Tensor, adapted: Tensor, names: tuple[str, ...]) -> dict[str, Any]:
    """Describe a random image of the stream on which the two models disagree; any image if they never do.

    Args:
        frozen, adapted: logits [N, K] in the stream's order.
        names: of the classes; one that has none goes by its number.
    """
    differ = (frozen.argmax(dim=1) != adapted.argmax(dim=1)).nonzero().flatten()
    candidates = differ if len(differ) else torch.arange(len(frozen))
    index = int(candidates[runtime.derive_seed("example", stream.corruption, stream.seed) % len(candidates)])
    labels, origin = stream.labels, stream.indices[index]
    return {
        "corruption": stream.corruption,
        "severity": stream.severity,
        "truth": "" if labels is None else _name(stream.target.class_names, labels[index]),
        "clean_png": _png(stream.target.images[origin]),
        "corrupted_png": _png(stream.pixels(torch.tensor([index]))[0]),
        "frozen": _opinion(frozen[index], names),
        "adapted": _opinion(adapted[index], names),
    }


def kept(path: Path) -> dict[str, dict[str, Any]]:
    """Return the examples in the file at `path` by the keys of their cells; none if it is torn or not there."""
    try:
        return {example["key"]: example for example in json.loads(path.read_text(encoding="utf-8"))["examples"]}
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return {}


def prune(path: Path, wanted: Collection[str]) -> dict[str, dict[str, Any]]:
    """Drop the examples in the file at `path` of cells that are not `wanted`; return the rest."""
    found = kept(path)
    rest = {key: example for key, example in found.items() if key in wanted}
    if rest != found:
        keep(path, rest)
    return rest


def keep(path: Path, examples: Mapping[str, dict[str, Any]]) -> None:
    """Write examples, by the keys of their cells, to the file at `path`."""
    lines = [{"key": key, **example} for key, example in examples.items()]
    write_text(path, json.dumps({"examples": lines}, indent=1))


def _opinion(logits: Tensor, names: tuple[str, ...]) -> dict[str, Any]:
    confidence, index = logits.softmax(dim=0).max(dim=0)
    return {"name": _name(names, index), "confidence": round(float(confidence), 4)}


def _name(names: tuple[str, ...], index: Tensor) -> str:
    return names[int(index)] if int(index) < len(names) else str(int(index))


def _png(image: Tensor) -> str:
    pixels = image.permute(1, 2, 0).squeeze(2) if image.shape[0] == 1 else image.permute(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(pixels.contiguous().numpy()).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
