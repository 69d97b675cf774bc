"""Names, numbers and sentences that all reports share. Plain text only: each report escapes it for its own format."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from crosstask.report.summary import Column, Estimate, Row, Summary

NOTHING = "\N{EN DASH}"
"""Stands where nothing was measured."""

UNDECIDED = "no difference shown"
"""Is said of a difference whose interval holds zero."""

MARK = "\N{DEGREE SIGN}"
"""Says the same in a table."""

_WIDE = 8
"""Columns beyond which a table has a row a method."""

_NAMES = {
    "source": "Source", "ptbn": "PTBN", "tent": "TENT", "eata": "EATA", "eta": "ETA", "sar": "SAR", "shot": "SHOT",
    "t3a": "T3A", "lame": "LAME", "memo": "MEMO", "cotta": "CoTTA", "rotta": "RoTTA", "deyo": "DeYO", "roid": "ROID",
    "ttt": "TTT", "ttt++": "TTT++", "tttflow": "TTTFlow", "clust3": "ClusT3", "nc-ttt": "NC-TTT", "rec-ttt": "ReC-TTT",
    "ttac": "TTAC", "cta": "CTA",
}  # fmt: skip

_METHODS = {
    "source": "the frozen supervised model",
    "ptbn": "normalises with the statistics of the test batch",
    "tent": "minimises the entropy of its own predictions",
    "eata": "minimises the entropy of sure and unlike predictions, near the source's weights",
    "sar": "minimises the entropy of sure predictions where its minimum is flat",
    "shot": "makes predictions sure and classes diverse under the frozen head",
    "t3a": "replaces the last layer by templates of the surest features",
    "lame": "makes neighbours in feature space agree; learns nothing",
    "memo": "minimises the entropy of the mean prediction over views, image by image",
    "cotta": "learns from an averaged teacher and restores some weights",
    "rotta": "learns from a balanced memory, with slowly moving batch norm",
    "deyo": "minimises the entropy of predictions that a shuffle of patches changes",
    "roid": "weighted likelihood ratios, consistency, and a pull to the source",
    "ttt": "predicts rotations of the test images",
    "ttt++": "SimCLR, with moments of features drawn to the source's",
    "tttflow": "makes early maps likely under a flow of the source's",
    "clust3": "clusters positions of early maps surely and evenly",
    "nc-ttt": "makes early maps look little noised to a discriminator",
    "rec-ttt": "two encoders reconstruct the maps of a frozen teacher",
    "ttac": "draws Gaussians of the classes' features to the source's",
    "cta": "ours: the frozen classifier on an aligned self-supervised encoder that learns from the test batch",
}


def display(label: str) -> str:
    """Return a label as readers know it."""
    return _NAMES.get(label, label)


def method(name: str) -> str:
    """Return what a method does, in a few words, or an empty string for one that is not known here."""
    return _METHODS.get(name, "")


def percent(share: float) -> str:
    """Return a share in 0..1 as per cent with one decimal, without a sign: `83.0`."""
    return f"{100 * share:.1f}"


def points(difference: float) -> str:
    """Return a difference of shares as signed percentage points: `+20.9`."""
    return f"{100 * difference:+.1f}".replace("-0.0", "+0.0").replace("-", "\N{MINUS SIGN}")


def figure(value: float) -> str:
    """Return a positive number with about three significant digits and without exponents."""
    digits = next((digits for limit, digits in ((100, 0), (10, 1), (1, 2)) if value >= limit), 3)
    return f"{value:,.{digits}f}"


def spread(estimate: Estimate) -> str:
    """Return the half-width of an interval of shares as per cent, `±0.4`, or an empty string."""
    return "" if estimate.half is None else f"±{percent(estimate.half)}"


def with_spread(text: str, estimate: Estimate) -> str:
    """Return `text` followed by the estimate's half-width, if it has one."""
    return f"{text} {spread(estimate)}".rstrip()


def mark(difference: Estimate) -> str:
    """Return the sign for a difference whose interval holds zero, or an empty string."""
    return MARK if difference.holds_zero else ""


def row_name(summary: Summary, row: Row) -> str:
    """Return a row's corruption in words; its severity only where there are several."""
    name = row.corruption.replace("_", " ")
    return name if len(_severities(summary)) < 2 or row == summary.clean else f"{name} {row.severity}"


def table(summary: Summary) -> Iterator[tuple[str, Sequence[Estimate | None]]]:
    """Yield the table of accuracies line by line: a name, and one entry a column; first clean images, last the mean."""
    for row in all_rows(summary):
        yield row_name(summary, row), [column.cells.get(row) for column in summary.columns]
    if len(summary.rows) > 1:
        yield "mean", [column.mean for column in summary.columns]


def is_wide(summary: Summary) -> bool:
    """Say whether there are so many methods that each gets a row of the table instead of a column."""
    return len(summary.columns) > _WIDE


def headings(summary: Summary) -> list[str]:
    """Return what the columns of `by_method` are: the means after and before the updates, the gain, the corruptions."""
    return ["mean", "before updates", "over Source", *(row_name(summary, row) for row in all_rows(summary))]


def by_method(summary: Summary) -> Iterator[tuple[Column, Sequence[Estimate | None]]]:
    """Yield the table of accuracies method by method, with the entries that `headings` names."""
    for column in summary.columns:
        before = column.before if column.steps else None
        yield column, [column.mean, before, column.gain, *(column.cells.get(row) for row in all_rows(summary))]


GAIN = 2
"""The place of the gain, a difference, among the entries of `by_method`."""


def entry(place: int, estimate: Estimate) -> str:
    """Return the number of an entry of `by_method`."""
    return points(estimate.mean) if place == GAIN else percent(estimate.mean)


def all_rows(summary: Summary) -> list[Row]:
    """Return the rows that were measured, clean images first."""
    return [*([summary.clean] if summary.clean else []), *summary.rows]


def best(estimates: Sequence[Estimate | None]) -> set[int]:
    """Return the places of the highest mean as it is printed; several on a tie, none where there is nothing to beat."""
    shown = {place: percent(estimate.mean) for place, estimate in enumerate(estimates) if estimate}
    top = max(map(float, shown.values()), default=0.0)
    return {place for place, text in shown.items() if float(text) == top} if len(shown) > 1 else set()


def headline(summary: Summary) -> str:
    """Return the outcome in one sentence: frozen against adapted."""
    source, adapted = (column and column.mean for column in (summary.source, summary.adapted))
    by = f" by {display(summary.adapted.label)}" if summary.adapted and summary.adapted.method != "cta" else ""
    if source and adapted and summary.adapted and summary.adapted.gain:
        gain = summary.adapted.gain
        doubt = f", {UNDECIDED}" if gain.holds_zero else ""
        return (
            f"Frozen {percent(source.mean)} % -> adapted{by} {percent(adapted.mean)} % "
            f"({points(gain.mean)} points{doubt}) without a label"
        )
    if source and adapted:
        return "The frozen and the adapted model have no seed in common yet"
    if adapted:
        return f"Adapted{by} {percent(adapted.mean)} % without a label; the frozen model is not measured"
    if source and summary.adapted:
        name = display(summary.adapted.label)
        return f"Frozen {percent(source.mean)} %; {name} is not measured on every corruption yet"
    if source:
        return f"Frozen {percent(source.mean)} %; no adapted model is measured"
    return "No model is measured on every corruption yet"


def leads(summary: Summary) -> str:
    """Say how far the adapted column is ahead of each other one that is not the source, or an empty string.

    Of many it names the best, other forms of the same method left aside.
    """
    others = [column for column in summary.columns if column.lead and column is not summary.source]
    if is_wide(summary) and summary.adapted:
        peers = [column for column in others if column.mean and column.method != summary.adapted.method]
        others = sorted(peers, key=lambda column: column.mean.mean if column.mean else 0)[-1:]
    ahead = {display(column.label): column.lead for column in others if column.lead}
    if not summary.adapted or not ahead:
        return ""
    named = [f"minus {name} {with_spread(points(lead.mean), lead)}" for name, lead in ahead.items()]
    doubtful = [name for name, lead in ahead.items() if lead.holds_zero]
    doubt = f" ({UNDECIDED} from {', '.join(doubtful)})" if doubtful else ""
    return f"{display(summary.adapted.label)} {', '.join(named)} points{doubt}."


def before(summary: Summary) -> str:
    """Say what the adapted column owes to its updates and what to all that comes before them, or an empty string."""
    column = summary.adapted
    if not column or not column.before or not column.added:
        return ""
    updates = "its update adds" if column.steps == 1 else f"its {column.steps} updates add"
    start = "Before any update" if column.protocol["reset"] == "batch" else "Before each batch's own updates"
    stands = f"{display(column.label)} stands at {percent(column.before.mean)} %"
    doubt = f" ({UNDECIDED})" if column.added.holds_zero else ""
    return f"{start} {stands}; {updates} {with_spread(points(column.added.mean), column.added)} points{doubt}."


def scope(summary: Summary) -> str:
    """Return what the means are over: `mean over 9 corruptions at severity 5`."""
    if not summary.rows:
        return "on clean images"
    names = list(dict.fromkeys(row.corruption for row in summary.rows))
    over = names[0].replace("_", " ") if len(names) == 1 else f"mean over {len(names)} corruptions"
    severities = _severities(summary)
    return f"{over} at severit{'y' if len(severities) == 1 else 'ies'} {', '.join(map(str, severities))}"


def sample(summary: Summary) -> str:
    """Return how much was measured: `3 seeds, 256 images a cell`."""
    seeds = len(summary.seeds)
    return f"{seeds} seed{'s' * (seeds > 1)}, {summary.n:,} image{'s' * (summary.n > 1)} a cell"


def interval(summary: Summary) -> str:
    """Say what ± means in the table of accuracies."""
    estimates = [estimate for column in summary.columns for estimate in (*column.cells.values(), column.mean)]
    kinds = {estimate.over for estimate in estimates if estimate}
    names = {
        "seeds": "Student's t over seeds",
        "images": "Wilson's, over the images of a single seed",
    }
    return f"± 95 % interval ({'; '.join(names[kind] for kind in sorted(kinds, reverse=True))})"


def pairing(summary: Summary) -> str:
    """Say how means and the differences between methods are taken, and what their intervals are over."""
    means = "Means are taken over corruptions within each seed first"
    differences = [e for column in summary.columns for e in (column.gain, column.lead, *column.row_gains.values()) if e]
    if not differences:
        return f"{means}."
    kinds = {each.over for each in differences if each.half is not None}
    names = {"seeds": "by seed (Student's t)", "images": "image by image (1.96 standard errors)"}
    ways = " or ".join(names[kind] for kind in sorted(kinds, reverse=True))
    if not ways:
        return f"{means}; differences between methods are paired by seed, and with one seed they have no interval."
    doubt = f" {MARK} {UNDECIDED}: the interval holds zero." if any(each.holds_zero for each in differences) else ""
    return f"{means}; differences between methods are paired {ways}.{doubt}"


def caption(summary: Summary) -> str:
    """Say what the numbers of the table are."""
    severities = _severities(summary)
    where = f", severity {', '.join(map(str, severities))}" if severities else ""
    return f"Accuracy in % on {summary.dataset}{where}: mean {interval(summary)}; {sample(summary)}. {seed(summary)}"


def below(summary: Summary) -> str:
    """Return what stands below a table: its caption, what a mark in it means, and which columns lack cells."""
    marks = doubt(summary) if is_wide(summary) else ""
    return " ".join([caption(summary) + marks, *incomplete(summary)])


def doubt(summary: Summary) -> str:
    """Say what the mark at a gain of `by_method` means, or an empty string if there is none."""
    gains = [column.gain for column in summary.columns if column.gain]
    return f" {MARK} {UNDECIDED}: the interval holds zero." if any(gain.holds_zero for gain in gains) else ""


def seed(summary: Summary) -> str:
    """Say what varies between seeds and what does not."""
    trained = max(len(column.checkpoints) for column in summary.columns)
    models = "one trained model" if trained == 1 else f"{trained} trained models"
    drawn = "their order" if summary.protocol["copies"] else "the corruption"
    return f"A seed draws the images, {drawn} and the views; each column stands on {models}."


def below_source(summary: Summary) -> list[str]:
    """Say for each column where it does worse than the frozen model; at last, where that may be chance."""
    shown, doubtful = [], []
    for column in summary.columns:
        losses = {name: gain for name, gain in _gains(summary, column).items() if gain.mean <= -0.0005}
        sure = [f"{n} ({with_spread(points(gain.mean), gain)})" for n, gain in losses.items() if not gain.holds_zero]
        unsure = [name for name, gain in losses.items() if gain.holds_zero]
        if sure:
            shown.append(f"{display(column.label)} falls below Source on {_few(sure)}.")
        if unsure:
            doubtful.append(f"{display(column.label)} on {_few(unsure)}")
    return [*shown, *([f"Lower, but {UNDECIDED}: {'; '.join(doubtful)}."] if doubtful else [])]


def _gains(summary: Summary, column: Column) -> dict[str, Estimate]:
    """Return a column's gains over the frozen model by the names of their rows, lowest first; the mean is `average`."""
    gains = {
        "clean images" if row == summary.clean else row_name(summary, row): gain
        for row, gain in sorted(column.row_gains.items(), key=lambda each: each[1].mean)
    }
    return {"average": column.gain} | gains if summary.rows and column.gain else gains


def _few(names: Sequence[str], most: int = 6) -> str:
    """Return names in a row, of many the first and how many more there are."""
    more = [f"and {len(names) - most} more"] if len(names) > most + 1 else []
    return ", ".join([*(names[:most] if more else names), *more])


def incomplete(summary: Summary) -> list[str]:
    """Say which columns lack cells, so that no one compares their means unawares."""
    sentences = []
    for column in summary.columns:
        names = [name.replace("_", " ") for name in summary.gaps.get(column.label, ())]
        mean = "its mean is over the seeds that are complete" if column.mean else "it has no mean yet"
        if names:
            sentences.append(f"{display(column.label)} lacks cells of {', '.join(names)}: {mean}.")
    return sentences


def _severities(summary: Summary) -> list[int]:
    return sorted({row.severity for row in summary.rows})
