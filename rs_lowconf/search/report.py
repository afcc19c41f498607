"""What a search cost and found, beside what random latents cost under the same gate."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.stats import binomtest

from rs_lowconf.runs import replacing
from rs_lowconf.search.loop import Trajectory

_RESAMPLES = 2_000


def summarise(
    trajectories: Sequence[Trajectory], seconds: float, classes: Sequence[str]
) -> dict[str, Any]:
    """Return counts, costs and yields as JSON values.

    Args:
        trajectories: in seed order.
        seconds: wall time of the search.
        classes: names of the conditions.
    """
    evaluations = sum(one.evaluations for one in trajectories)
    accepted = [one for one in trajectories if one.found is not None]
    flips = sum(one.flips for one in trajectories)
    by_class = Counter(classes[one.label] for one in accepted)
    tried = Counter(classes[one.label] for one in trajectories)
    return {
        "trajectories": len(trajectories),
        "outcomes": dict(Counter(one.outcome.value for one in trajectories)),
        "accepted": len(accepted),
        "accepted_by_condition": {
            name: {"accepted": by_class[name], "tried": tried[name]} for name in tried
        },
        "evaluations": evaluations,
        "seconds": round(seconds, 2),
        "evaluations_per_accepted": _cost(trajectories),
        "seconds_per_accepted": seconds / len(accepted) if accepted else None,
        "still_valid_after_rounding": {
            "kept": len(accepted),
            "lost": flips,
            "share": len(accepted) / (len(accepted) + flips) if accepted or flips else None,
        },
    }


def low_confidence_share(
    baseline: Sequence[Trajectory], tau: float, threshold: float
) -> dict[str, Any]:
    """Return the shares of random latents below tau, and below it behind the gate.

    Each share is under the generator's prior at equal class shares; with its 95 %
    Clopper-Pearson interval.
    """
    low = [one.confidence < tau for one in baseline]
    both = [one.confidence < tau and one.realism >= threshold for one in baseline]
    passed = [one.realism >= threshold for one in baseline]
    return {
        "low_confidence": _share(low),
        "pass_gate": _share(passed),
        "low_confidence_and_pass_gate": _share(both),
    }


def compare(search: dict[str, Any], baseline: dict[str, Any]) -> dict[str, Any]:
    """Return how many times less an accepted sample cost than with random latents.

    None where random latents found nothing to compare with.
    """
    ratios: dict[str, Any] = {}
    for name in ("evaluations_per_accepted", "seconds_per_accepted"):
        ours, theirs = search[name], baseline[name]
        if name == "evaluations_per_accepted":
            ours, theirs = ours["value"], theirs["value"]
        ratios[name] = theirs / ours if ours and theirs else None
    return ratios


def write_plots(
    folder: Path,
    search: Sequence[Trajectory],
    baseline: Sequence[Trajectory],
    *,
    tau: float,
    classes: Sequence[str],
    target_classes: Sequence[str],
) -> list[Path]:
    """Write the yield curve, the confidences and condition against prediction as PNG."""
    figures = {
        "yield": _yield_figure(search, baseline),
        "confusion": _confusion(search, classes, target_classes),
    }
    if baseline:
        figures["confidence"] = _confidence_figure(search, baseline, tau)
    written = []
    for name, figure in figures.items():
        path = folder / f"{name}.png"
        FigureCanvasAgg(figure)
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png", dpi=120)
        written.append(path)
    return written


def _cost(trajectories: Sequence[Trajectory]) -> dict[str, Any]:
    """Return evaluations per accepted sample with a bootstrap interval over trajectories."""
    spent = np.array([one.evaluations for one in trajectories], dtype=float)
    found = np.array([one.found is not None for one in trajectories], dtype=float)
    if not found.sum():
        return {"value": None, "interval_95": None}
    dice = np.random.default_rng(0)
    weight = dice.multinomial(
        len(spent), np.full(len(spent), 1 / len(spent)), size=_RESAMPLES
    ).astype(float)
    with np.errstate(divide="ignore"):
        ratio = (weight @ spent) / (weight @ found)
    low, high = np.quantile(ratio, [0.025, 0.975])
    return {
        "value": float(spent.sum() / found.sum()),
        "interval_95": [float(low), float(high) if np.isfinite(high) else None],
    }


def _share(flags: Sequence[bool]) -> dict[str, Any]:
    if not flags:
        return {"value": None, "interval_95": None, "n": 0}
    test = binomtest(sum(flags), len(flags))
    interval = test.proportion_ci(method="exact")
    return {
        "value": sum(flags) / len(flags),
        "interval_95": [float(interval.low), float(interval.high)],
        "n": len(flags),
    }


def _yield_figure(search: Sequence[Trajectory], baseline: Sequence[Trajectory]) -> Figure:
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for name, trajectories, colour in (
        ("latent search", search, "#0b6e4f"),
        ("random latents, same gate", baseline, "#b23a48"),
    ):
        if trajectories:
            spent = np.cumsum([one.evaluations for one in trajectories])
            found = np.cumsum([one.found is not None for one in trajectories])
            axes.step(
                spent,
                found,
                where="post",
                label=f"{name}: {found[-1]} of {spent[-1]:,}",
                color=colour,
                lw=2,
            )
    axes.set_xlabel("evaluations of the target")
    axes.set_ylabel("accepted hard samples")
    axes.set_title("Hard samples found")
    axes.legend(loc="best", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _confidence_figure(
    search: Sequence[Trajectory], baseline: Sequence[Trajectory], tau: float
) -> Figure:
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    bins = np.linspace(0, 1, 41).tolist()
    random = [one.confidence for one in baseline]
    found = [float(one.found.log_probability.max().exp()) for one in search if one.found]
    for name, values, colour in (
        (f"random latents (n = {len(random):,})", random, "#b23a48"),
        (f"exported samples, as stored (n = {len(found):,})", found, "#0b6e4f"),
    ):
        weights = np.full(len(values), 1 / max(len(values), 1))
        axes.hist(values, bins=bins, weights=weights, alpha=0.6, color=colour, label=name)
    axes.axvline(tau, color="black", lw=1, ls=":", label=f"tau = {tau:g}")
    axes.set_xlabel("confidence of the target (largest probability)")
    axes.set_ylabel("share of tiles")
    axes.legend(loc="upper left", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _confusion(
    search: Sequence[Trajectory], classes: Sequence[str], target_classes: Sequence[str]
) -> Figure:
    counts = np.zeros((len(classes), len(target_classes)), dtype=int)
    for one in search:
        if one.found is not None:
            counts[one.label, int(one.found.log_probability.argmax())] += 1
    side = 2.2 + 0.42 * max(counts.shape)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(counts, cmap="Greens")
    axes.set_xticks(range(len(target_classes)), target_classes, rotation=60, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set_xlabel("predicted by the target")
    axes.set_ylabel("condition of the generator")
    for row, column in zip(*np.nonzero(counts), strict=True):
        number = int(counts[row, column])
        colour = "white" if number > counts.max() / 2 else "black"
        axes.text(column, row, str(number), ha="center", va="center", color=colour)
    axes.set_title("Exported hard samples")
    return figure
