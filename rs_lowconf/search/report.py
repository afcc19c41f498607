"""Cost and yield of a search, compared with random latents under the same gate."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from rs_lowconf.class_map import PLAIN, ClassMap
from rs_lowconf.measures import vendi_score
from rs_lowconf.percents import percent
from rs_lowconf.plot_style import GENERATED, REAL, panels
from rs_lowconf.runs import save_figures
from rs_lowconf.search.loop import Outcome, Trajectory
from rs_lowconf.shares import share_of

_RESAMPLES = 2_000
_HITS = (Outcome.FOUND, Outcome.COPY, Outcome.DUPLICATE, Outcome.FULL)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Cost of an accepted sample."""

    value: float | None
    """None if no sample was accepted."""
    interval_95: tuple[float, float | None] | None
    """Bootstrap interval over trajectories; the upper end is None if some resamples accept none."""


@dataclass(frozen=True, kw_only=True)
class Yield:
    """Samples of one condition."""

    accepted: int
    tried: int
    """Seeds that were searched."""


@dataclass(frozen=True, kw_only=True)
class Rounding:
    """How many low-confidence tiles kept low confidence after rounding to digital numbers."""

    kept: int
    lost: int
    share: float | None
    """Share of those kept; None if there were none."""


@dataclass(frozen=True, kw_only=True)
class NoAnswer:
    """Evaluations without a valid answer of the target."""

    tiles: int
    by_reason: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Counts, costs and yields of a search or of random latents."""

    trajectories: int
    """Seeds that were searched."""
    outcomes: dict[str, int]
    """How many seeds ended in each way, skipped seeds included."""
    accepted: int
    accepted_by_condition: dict[str, Yield]
    evaluations: int
    """Evaluations of the target, including those to train a student."""
    seconds: float
    evaluations_per_accepted: Cost
    seconds_per_accepted: float | None
    still_valid_after_rounding: Rounding
    rejected_by_gate: int
    """Stored tiles of low confidence that the gate dropped."""
    passed_gate: int
    """Stored tiles of low confidence that passed the gate."""
    dropped_by_part: dict[str, int]
    """How many tiles each part of the gate dropped."""
    unanswered: NoAnswer
    vendi_score: float | None
    """Effective number of different accepted tiles; None if there are none."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How many times cheaper an accepted sample is than with random latents.

    None if random latents found nothing to compare with.
    """

    evaluations_per_accepted: float | None
    seconds_per_accepted: float | None


def summarise(
    trajectories: Sequence[Trajectory], seconds: float, classes: Sequence[str], taught: int = 0
) -> Summary:
    """Return counts, costs and yields.

    Args:
        trajectories: in seed order.
        seconds: wall time of the search.
        classes: names of the conditions.
        taught: evaluations to train a student, shared by all accepted samples.
    """
    searched = [one for one in trajectories if one.outcome is not Outcome.SKIPPED]
    accepted = [one for one in trajectories if one.found is not None]
    tiles = [one.found for one in trajectories if one.found is not None]
    lost = sum(one.flips for one in trajectories)
    rejected = sum(one.gate_rejections for one in trajectories)
    passed = sum(one.outcome in _HITS for one in trajectories)
    # Every stored tile of low confidence was accepted, a duplicate, or rejected by the gate.
    kept = passed + rejected
    by_class = Counter(classes[one.label] for one in accepted)
    tried = Counter(classes[one.label] for one in searched)
    dropped = sum((Counter(one.dropped_by) for one in trajectories), Counter[str]())
    return Summary(
        trajectories=len(searched),
        outcomes=dict(Counter(one.outcome.value for one in trajectories)),
        accepted=len(accepted),
        accepted_by_condition={
            name: Yield(accepted=by_class[name], tried=tried[name]) for name in tried
        },
        evaluations=taught + sum(one.evaluations for one in trajectories),
        seconds=round(seconds, 2),
        evaluations_per_accepted=_cost(trajectories, taught),
        seconds_per_accepted=seconds / len(accepted) if accepted else None,
        still_valid_after_rounding=Rounding(
            kept=kept, lost=lost, share=kept / (kept + lost) if kept + lost else None
        ),
        rejected_by_gate=rejected,
        passed_gate=passed,
        dropped_by_part=dict(dropped),
        unanswered=no_answers(trajectories),
        vendi_score=vendi_score(torch.stack([one.features for one in tiles])) if tiles else None,
    )


def gate_lines(gate: Mapping[str, Any]) -> list[str]:
    """Return the cost of a gate and what it drops, one line per kind of tile that is not real.

    Args:
        gate: result of `Gate.describe`.
    """
    lines = [
        f"The gate rejects at most {percent(gate['joint_false_rejection_at_most'], 1)} of real "
        f"tiles on average ({', '.join(gate['parts'])})."
    ]
    kinds = gate["power"].get("kinds", {})
    if not kinds:
        lines.append("The share of generated tiles that it drops was not measured.")
    for name, share in kinds.items():
        line = f"It drops {_percent(share)} of {name}"
        if "left_out_of_the_fit" in share:
            line += f"; {_percent(share['left_out_of_the_fit'])} if they are left out of its fit"
        lines.append(line + ("." if share["fitted"] else ", a kind that was not used in its fit."))
    measured_at = gate["power"].get("at_false_rejection")
    if measured_at is not None and abs(measured_at - gate["false_rejection"]) > 1e-6:
        lines.append(f"These shares were measured with search.false_rejection={measured_at:g}.")
    if gate["power"].get("before_reviews"):
        lines.append("These shares were measured before the gate learned from reviews.")
    return lines


def _percent(share: Mapping[str, Any]) -> str:
    low, high = share["interval_95"]
    value, ends = percent(share["value"], 1), f"{percent(low, 1)} .. {percent(high, 1)}"
    return f"{value} ({ends}, n = {share['n']:,})"


def no_answers(trajectories: Sequence[Trajectory]) -> NoAnswer:
    """Return how many evaluations gave no answer, in total and by reason."""
    reasons = Counter[str]()
    for one in trajectories:
        reasons.update(one.unanswered)
    return NoAnswer(tiles=reasons.total(), by_reason=dict(reasons))


def low_confidence_share(baseline: Sequence[Trajectory], tau: float) -> dict[str, Any]:
    """Return the shares of random latents below tau, and of those that are accepted as well.

    Each share is under the generator's prior at equal class shares; with its 95 %
    Clopper-Pearson interval. Latents of conditions with enough tiles count for the first only if
    they were evaluated; those without an answer of the target count for neither.
    """
    looked = _answered(baseline)
    low = [one.confidence < tau for one in looked]
    real = [one.gate_rejections == 0 for one in looked if one.confidence < tau and not one.flips]
    return {
        "low_confidence": share_of(sum(low), len(low)),
        "of_these_pass_gate": share_of(sum(real), len(real)),
    }


def compare(search: Summary, baseline: Summary) -> Comparison:
    """Return how many times cheaper an accepted sample is than with random latents."""

    def times(ours: float | None, theirs: float | None) -> float | None:
        return theirs / ours if ours and theirs else None

    return Comparison(
        evaluations_per_accepted=times(
            search.evaluations_per_accepted.value, baseline.evaluations_per_accepted.value
        ),
        seconds_per_accepted=times(search.seconds_per_accepted, baseline.seconds_per_accepted),
    )


def write_plots(
    folder: Path,
    search: Sequence[Trajectory],
    baseline: Sequence[Trajectory],
    *,
    tau: float,
    classes: Sequence[str],
    target_classes: Sequence[str],
    class_map: ClassMap = PLAIN,
) -> list[Path]:
    """Write the yield curve, the confidences and condition against prediction as PNG.

    Where the target has class names of its own, the predictions that are right are framed.
    """
    figures = {
        "yield": _yield_figure(search, baseline),
        "confusion": _confusion(search, classes, target_classes, class_map),
    }
    if baseline:
        figures["confidence"] = _confidence_figure(search, baseline, tau)
    return save_figures(folder, figures)


def _answered(trajectories: Sequence[Trajectory]) -> list[Trajectory]:
    return [one for one in trajectories if one.steps and one.outcome is not Outcome.UNANSWERED]


def _cost(trajectories: Sequence[Trajectory], taught: int) -> Cost:
    """Return evaluations per accepted sample with a bootstrap interval over trajectories."""
    spent = np.array([one.evaluations for one in trajectories], dtype=float)
    found = np.array([one.found is not None for one in trajectories], dtype=float)
    if not found.sum():
        return Cost(value=None, interval_95=None)
    rng = np.random.default_rng(0)
    weight = rng.multinomial(
        len(spent), np.full(len(spent), 1 / len(spent)), size=_RESAMPLES
    ).astype(float)
    with np.errstate(divide="ignore"):
        ratio = (weight @ spent + taught) / (weight @ found)
    # No interpolation: resamples without a find have infinite cost.
    low, high = np.quantile(ratio, [0.025, 0.975], method="inverted_cdf")
    return Cost(
        value=float((spent.sum() + taught) / found.sum()),
        interval_95=(float(low), float(high) if np.isfinite(high) else None),
    )


def _yield_figure(search: Sequence[Trajectory], baseline: Sequence[Trajectory]) -> Figure:
    figure, (axes,) = panels(7.0, 4.2)
    for name, trajectories, colour in (
        ("latent search", search, REAL),
        ("random latents, same gate", baseline, GENERATED),
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
    return figure


def _confidence_figure(
    search: Sequence[Trajectory], baseline: Sequence[Trajectory], tau: float
) -> Figure:
    figure, (axes,) = panels(7.0, 4.2)
    bins = np.linspace(0, 1, 41).tolist()
    random = [one.confidence for one in _answered(baseline)]
    found = [one.found.confidence for one in search if one.found]
    for name, values, colour in (
        (f"random latents (n = {len(random):,})", random, GENERATED),
        (f"exported samples, as stored (n = {len(found):,})", found, REAL),
    ):
        weights = np.full(len(values), 1 / max(len(values), 1))
        axes.hist(values, bins=bins, weights=weights, alpha=0.6, color=colour, label=name)
    axes.axvline(tau, color="black", lw=1, ls=":", label=f"tau = {tau:g}")
    axes.set_xlabel("confidence of the target (largest probability)")
    axes.set_ylabel("share of tiles")
    axes.legend(loc="upper left", frameon=False)
    return figure


def _confusion(
    search: Sequence[Trajectory],
    classes: Sequence[str],
    target_classes: Sequence[str],
    class_map: ClassMap,
) -> Figure:
    counts = np.zeros((len(classes), len(target_classes)), dtype=int)
    for one in search:
        if one.found is not None:
            counts[one.label, int(one.found.log_probability.argmax())] += 1
    side = 2.2 + 0.42 * max(counts.shape)
    figure, (axes,) = panels(side + 1, side, box=True)
    axes.imshow(counts, cmap="Greens")
    axes.set_xticks(range(len(target_classes)), target_classes, rotation=60, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set_xlabel("predicted by the target")
    axes.set_ylabel("condition of the generator")
    for row, column in zip(*np.nonzero(counts), strict=True):
        number = int(counts[row, column])
        colour = "white" if number > counts.max() / 2 else "black"
        axes.text(int(column), int(row), str(number), ha="center", va="center", color=colour)
    title = "Exported hard samples"
    if class_map.names:  # otherwise the names tell which are right
        title += " (framed: right)"
        for row, name in enumerate(classes):
            for column in class_map.places(name, target_classes):
                place = (column - 0.43, row - 0.43)
                axes.add_patch(Rectangle(place, 0.86, 0.86, fill=False, edgecolor="black"))
    axes.set_title(title)
    return figure
