"""Protocols in words: what every column met, and how each one starts, learns and forgets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from crosstask.presets import PRESETS
from crosstask.report.summary import Column, Summary

_RESETS = {
    "batch": "back to its source state before every batch (episodic)",
    "corruption": "keeps what it learned within a corruption, back to its source state before the next (online)",
    "never": "keeps what it learned throughout (continual)",
}

_PREDICTIONS = {
    "after": "after the updates on the batch",
    "before": "before the updates on the batch, so that they help later batches alone",
}

_CHOICES = {
    "held-out": "steps and learning rate chosen under held-out corruptions of source images",
    "clean": "steps and learning rate chosen on clean source images",
}

_FROST = {"photographs": "the official photographs", "procedural": "computed sheets, not the official photographs"}


def facts(summary: Summary) -> Iterator[tuple[str, str]]:
    """Yield what all columns share, a name and a sentence each."""
    shared = summary.protocol
    if shared["preset"]:
        preset = PRESETS.get(shared["preset"])
        yield "protocol", shared["preset"] + (f": {preset.about}" if preset else "")
    yield "stream", shift(shared)
    yield "classes", _classes(shared)
    yield "batches", f"{_count(shared['batch_size'], 'image')} at once"
    yield "pace", pace(shared)
    predictions = {column.protocol["predict"] for column in summary.columns if column.steps}
    if len(predictions) == 1:
        yield "prediction", _PREDICTIONS[predictions.pop()]
    yield "corruptions", _corruptions(shared)
    yield "precision", shared["precision"]
    yield "labels", "No method sees a label: test labels decide nothing, only the scorer holds them."


def shift(protocol: Mapping[str, Any]) -> str:
    """Say how the corruption goes over the stream, and how many images there are."""
    images, names = _count(protocol["n"], "test image"), len(protocol["sequence"])
    if protocol["shift"] == "constant":
        return f"For each seed and corruption every method sees the same {images}, in the same order."
    if protocol["shift"] == "mixed":
        return f"One stream a seed of {names} corruptions mixed, {images} under each; every method sees the same."
    order = "in an order drawn by the seed" if protocol["shuffled"] else "in the order of the table"
    rounds = f", {protocol['rounds']} rounds of them" if protocol["rounds"] > 1 else ""
    climb = ", the severity of each climbs step by step and falls again" if protocol["shift"] == "gradual" else ""
    return (
        f"One stream a seed of {names} corruptions, one after the other, {order}{rounds}{climb}; the same {images} "
        "under each. Every method sees the same, and nothing tells where the corruption changes."
    )


def pace(protocol: Mapping[str, Any]) -> str:
    """Say whether the stream waits for a method."""
    if not protocol["rate"]:
        return "The stream waits for the method."
    return (
        f"The stream does not wait: a batch comes every {_count(1 / protocol['rate'], 'forward pass', 'es')}, and what "
        "comes while a method is still learning is predicted by the model as it was last adapted."
    )


def _corruptions(protocol: Mapping[str, Any]) -> str:
    if protocol["copies"]:
        return f"The corrupted images are those of {protocol['copies']}, as they are stored; a seed draws which ones."
    frost = f" Frost is cut from {_FROST.get(protocol['frost'], protocol['frost'])}." if protocol["frost"] else ""
    return f"The severities are those of {protocol['table']}.{frost}"


def policy(column: Column) -> str:
    """Say where one column starts, how it learns and when it forgets."""
    start = _start(column.method, column.protocol.get("model", "supervised"))
    if not column.steps:
        return f"{start}does not learn"
    told = [f"{start}{_count(column.steps, 'update')} per batch", reset(column)]
    if column.protocol["predict"] == "before":
        told.append(f"predicts {_PREDICTIONS['before']}")
    if column.protocol.get("chosen") in _CHOICES:
        told.append(_CHOICES[column.protocol["chosen"]])
    return "; ".join(told)


def reset(column: Column) -> str:
    """Say when a column returns to its source state."""
    return _RESETS.get(column.protocol["reset"], f"reset policy {column.protocol['reset']!r}")


def _classes(protocol: Mapping[str, Any]) -> str:
    if protocol["stream"] == "iid":
        return "in random order"
    if protocol["delta"] is None:
        return f"in the order {protocol['stream']!r}"
    slots = _count(protocol["slots"], "time slot") if protocol["slots"] else "a time slot for each class, 100 at most"
    return f"in clumps: spread over {slots}, by a Dirichlet distribution of concentration {protocol['delta']:g}"


def _start(method: str, model: str) -> str:
    """Say on which model a method stands where that is not the one made for it."""
    if model in ("aligned" if method == "cta" else "supervised", method):
        return ""
    return "" if method in ("ttt++", "ttac") and model == "joint" else f"on the {model} model: "


def _count(number: float, what: str, plural: str = "s") -> str:
    return f"{number:,.10g} {what}{plural if number != 1 else ''}"
