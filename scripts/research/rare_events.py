#!/usr/bin/env python3
"""Are the probability and the samples of a search right? Beside plain random latents.

Usage: scripts/research/rare_events.py OUT [--runs 100] [--samples 1000]
           [--set section.key=value ...]

Searches the embedded models and needs no data. Two experiments:

A. *Probability.* P(low confidence), at a tau where it is near 1e-3, from random latents and
   from many independent runs of splitting: are its estimates right on average, do its
   intervals cover, what does it cost?
B. *Same distribution.* In mode `sample` the gradient path and splitting both draw from the
   prior given low confidence: do their shares of (condition, predicted class) agree, with each
   other and with random latents of low confidence?

Gate and archive take no part: they come after what is compared and would hide differences.
Conditions and both tau come from a pilot of other latents. Each finished piece is a JSON file
or a journal in OUT; an interrupted run goes on where it stopped.
"""

import argparse
import copy
import math
import time
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pieces import piece

from rs_lowconf.determinism import make_deterministic
from rs_lowconf.models import Method, Models, load_models
from rs_lowconf.runs import write_json, write_text
from rs_lowconf.search.gate import single_stage
from rs_lowconf.search.journal import Journal
from rs_lowconf.search.loop import Trajectory, skipped
from rs_lowconf.search.prior import draw_latent
from rs_lowconf.search.splitting import probability
from rs_lowconf.settings import SearchSettings, load
from rs_lowconf.shares import share_of
from rs_lowconf.workflows.search import Stream, search_of

CHUNK = 2_000
RESAMPLES = 2_000
OPEN = single_stage(
    parts={"open": lambda image, label: torch.zeros(len(image))},
    reference=torch.zeros(99, 1),
    false_rejection=0.01,
)
"""Lets everything through."""

Counts = NDArray[np.float64]
Search = Callable[[Mapping[int, Trajectory], Container[int]], Iterator[Trajectory]]


@dataclass(frozen=True, kw_only=True)
class Words:
    """What the command line says."""

    out: Path
    conditions: int
    pilot: int
    share_a: float
    share_b: float
    latents: int
    runs: int
    samples: int
    set: tuple[str, ...]


def confidences(
    models: Models, stream: str, seeds: range, labels: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return label, confidence and its log-odds of random latents, whose conditions take turns."""
    dim = sum(models.evaluator.generator.latent_parts)
    z = torch.stack([draw_latent(0, stream, seed, dim) for seed in seeds])
    label = torch.tensor([labels[seed % len(labels)] for seed in seeds])
    scores = models.evaluator.score(z, label, gradient=False)
    return label, scores.confidence, scores.log_odds


def pilot(models: Models, words: Words) -> dict[str, Any]:
    """Choose conditions and both tau, on latents that nothing else sees.

    Those conditions that are most often of low confidence: where it is a matter of one in a
    million, no number of random latents that anyone waits for would tell.
    """
    every = range(len(models.generator.net.classes))
    label, confidence, _ = confidences(models, "survey", range(200 * len(every)), every)
    low = [int(((label == own) & (confidence < 0.5)).sum()) for own in every]
    chosen = sorted(sorted(every, key=lambda own: -low[own])[: words.conditions])
    _, confidence, _ = confidences(models, "pilot", range(words.pilot * len(chosen)), chosen)
    return {
        "below_0.5_of_200": {models.generator.net.classes[own]: low[own] for own in every},
        "labels": chosen,
        "tau_a": float(confidence.quantile(words.share_a)),
        "tau_b": float(confidence.quantile(words.share_b)),
    }


def brute_force(models: Models, tau: float, labels: Sequence[int], first: int) -> dict[str, Any]:
    """Count random latents of low confidence, by the search's comparison and by splitting's."""
    seeds = range(first, first + CHUNK)
    label, confidence, odds = confidences(models, "brute force", seeds, labels)
    low = confidence < tau
    return {
        "n": CHUNK,
        "low": int(low.sum()),
        "low_by_log_odds": int((odds < math.log(tau) - math.log1p(-tau)).sum()),
        "by_condition": [int((low & (label == own)).sum()) for own in labels],
    }


def searching(
    models: Models,
    words: Words,
    *,
    tau: float,
    labels: Sequence[int],
    method: Method,
    mode: Literal["yield", "sample", "random"],
    seed: int,
) -> tuple[Search, SearchSettings]:
    """Return the product's own search, and its settings."""
    drawn = "sample" if mode == "random" else mode
    settings = load(None, (*words.set, f"run.seed={seed}", f"search.mode={drawn}"))
    own = replace(models, tau=tau, labels=tuple(labels), method=method)
    stream: Stream = "baseline" if mode == "random" else "search"
    return search_of(settings, own, stream, own.evaluator), settings.search


def splitting_run(
    models: Models, words: Words, tau: float, labels: Sequence[int], seed: int
) -> dict[str, Any]:
    """Run the populations of one search of default size."""
    start, own = searching(
        models, words, tau=tau, labels=labels, method="splitting", mode="yield", seed=seed
    )
    size = own.splitting.particles
    whole = list(islice(start({}, ()), own.splitting.replicates * len(labels) * size))
    return {
        "populations": [[one.label, one.population_probability] for one in whole[::size]],
        "evaluations": sum(one.evaluations for one in whole),
    }


def estimate(runs: Sequence[dict[str, Any]], classes: Sequence[str]) -> dict[str, Any]:
    """Return the product's estimate from the populations of several runs."""
    told = (one for run in runs for one in run["populations"])
    ends = [
        replace(skipped(number, label), population_probability=value)
        for number, (label, value) in enumerate(told)
    ]
    return probability(ends, 1, classes)


def judge_runs(
    runs: Sequence[dict[str, Any]], brute: dict[str, Any], joined: int, classes: Sequence[str]
) -> dict[str, Any]:
    """Compare estimates and intervals with brute force, `joined` runs taken as one.

    Brute force is uncertain too. So coverage is also averaged over what its count leaves
    possible for the true P: Beta(k + 1/2, n - k + 1/2), after Jeffreys.
    """
    groups = [runs[i : i + joined] for i in range(0, len(runs) - joined + 1, joined)]
    told = [estimate(group, classes) for group in groups]
    values = np.array([one["value"] for one in told])
    sure = [one["interval_95"] for one in told if one["interval_95"] is not None]
    low, high = np.array(sure).reshape(-1, 2).T
    n, k = brute["n"], brute["low"]
    truth = np.random.default_rng(0).beta(k + 0.5, n - k + 0.5, RESAMPLES)
    covered = ((low <= truth[:, None]) & (truth[:, None] <= high)).mean(1)
    p = k / n
    spent = np.mean([sum(run["evaluations"] for run in group) for group in groups])
    spread = float(values.std(ddof=1) / values.mean())
    width = float(np.median((high - low) / values[[o["interval_95"] is not None for o in told]]))
    return {
        "runs": len(groups),
        "populations_a_condition": len(groups[0][0]["populations"]) * joined // brute["conditions"],
        "mean_over_brute_force": float(values.mean() / p),
        "error_of_that": math.hypot(spread / math.sqrt(len(groups)), math.sqrt((1 - p) / k))
        * float(values.mean() / p),
        "without_interval": len(told) - len(sure),
        "covers_brute_force": share_of(int(((low <= p) & (p <= high)).sum()), len(sure)),
        "covers_truth_on_average": float(covered.mean()),
        "covers_truth_range_95": np.quantile(covered, [0.025, 0.975]).tolist(),
        "relative_deviation": spread,
        "median_relative_width": width,
        "evaluations": float(spent),
        # Of normal intervals: width = 2 x 1.96 sqrt((1 - p) / (p n)).
        "brute_force_for_that_width": (2 * 1.96 / width) ** 2 * (1 - p) / p,
        "brute_force_for_that_deviation": (1 - p) / p / spread**2,
    }


def experiment_a(models: Models, words: Words, known: dict[str, Any]) -> dict[str, Any]:
    """Probability: brute force, then runs of splitting."""
    folder, labels, tau = words.out / "a", known["labels"], known["tau_a"]
    chunks = [
        piece(
            folder / f"brute-{first:07d}.json",
            lambda first=first: brute_force(models, tau, labels, first),  # type: ignore[misc]
        )
        for first in range(0, words.latents, CHUNK)
    ]
    runs = [
        piece(
            folder / f"run-{seed:03d}.json",
            lambda seed=seed: splitting_run(models, words, tau, labels, seed),  # type: ignore[misc]
        )
        for seed in range(words.runs)
    ]
    brute = {
        **{name: sum(c[name] for c in chunks) for name in ("n", "low", "low_by_log_odds")},
        "by_condition": np.sum([chunk["by_condition"] for chunk in chunks], axis=0).tolist(),
        "conditions": len(labels),
    }
    return {
        "tau": tau,
        "brute_force": {**brute, **share_of(brute["low"], brute["n"])},
        "splitting": [
            judge_runs(runs, brute, joined, models.generator.net.classes)
            for joined in (1, 2, 5)
            if len(runs) >= 2 * joined
        ],
    }


def draw(models: Models, words: Words, known: dict[str, Any], path: str) -> dict[str, Any]:
    """Draw samples by the product's own search until each condition has its share.

    Populations are taken whole: the latents of one are related.
    """
    labels, tau = known["labels"], known["tau_b"]
    start, own = searching(
        models,
        words,
        tau=tau,
        labels=labels,
        method="splitting" if path == "splitting" else "gradient",
        mode="random" if path == "random" else "sample",
        seed=0,
    )
    size = 1 if path == "random" else own.splitting.particles
    journal = Journal(words.out / "b" / path, {"tau": tau, "search": own.model_dump(mode="json")})
    past = journal.read()
    begin = time.monotonic() - past.seconds
    samples: list[tuple[int, int, int]] = []
    counts: Counter[int] = Counter()
    outcomes: Counter[str] = Counter()
    closed: set[int] = set()
    evaluations = 0
    for one in start(past.trajectories, closed):
        if one.seed_id not in past.trajectories:
            journal.write(one, time.monotonic() - begin)
        evaluations += one.evaluations
        outcomes[one.outcome.value] += 1
        if one.found is not None:
            predicted = int(one.found.log_probability.argmax())
            samples.append((one.label, predicted, one.seed_id // size))
            counts[one.label] += 1
            if len(samples) % 100 == 0:
                print(f"{path}: {len(samples)} samples", flush=True)
        if (one.seed_id + 1) % size == 0:
            closed.update(own for own in labels if counts[own] * len(labels) >= words.samples)
            if len(closed) == len(labels):
                break
    return {
        "samples": samples,
        "outcomes": dict(outcomes),
        "evaluations": evaluations,
        "seconds": time.monotonic() - begin,
    }


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawn:
    """Samples of one path as counts, a row a group of related ones, apart for each condition."""

    groups: list[Counts]
    """For each condition, of shape (groups, predicted classes)."""

    @property
    def related(self) -> bool:
        """Return whether groups hold more than one sample."""
        return any(bool((own.sum(1) > 1).any()) for own in self.groups)

    def again(self, dice: np.random.Generator) -> list[Counts]:
        """Return counts of a bootstrap resample of groups."""
        return [own[dice.integers(len(own), size=len(own))].sum(0) for own in self.groups]

    def counts(self) -> list[Counts]:
        """Return the counts of each condition."""
        return [own.sum(0) for own in self.groups]


def tabulate(drawn: dict[str, Any], labels: Sequence[int], classes: int) -> Drawn:
    """Return the samples as counts."""
    tables = []
    for label in labels:
        own = [(predicted, group) for at, predicted, group in drawn["samples"] if at == label]
        numbers = {group: row for row, group in enumerate(dict.fromkeys(g for _, g in own))}
        table = np.zeros((len(numbers), classes))
        for predicted, group in own:
            table[numbers[group], predicted] += 1
        tables.append(table)
    return Drawn(groups=tables)


def variation(first: Sequence[Counts], second: Sequence[Counts]) -> float:
    """Return the total variation of (condition, predicted class), conditions weighing the same."""
    each = [np.abs(a / a.sum() - b / b.sum()).sum() / 2 for a, b in zip(first, second, strict=True)]
    return float(np.mean(each))


def compare(first: Drawn, second: Drawn) -> dict[str, Any]:
    """Return the total variation of two paths, its interval, and what chance alone gives.

    Chance: resamples of whole groups of one path against as many independent draws from its
    own shares as the other has samples; of two paths, the one whose samples are related is
    resampled, so that its larger noise counts.
    """
    dice = np.random.default_rng(0)
    if second.related:
        first, second = second, first
    found = variation(first.counts(), second.counts())
    moved = [variation(first.again(dice), second.again(dice)) for _ in range(RESAMPLES)]
    sizes = [int(own.sum()) for own in second.counts()]
    floor = np.array(
        [
            variation(
                first.again(dice),
                [
                    dice.multinomial(n, own / own.sum()).astype(float)
                    for n, own in zip(sizes, first.counts(), strict=True)
                ],
            )
            for _ in range(RESAMPLES)
        ]
    )
    return {
        "total_variation": found,
        "bootstrap_95": np.quantile(moved, [0.025, 0.975]).tolist(),
        "floor_mean": float(floor.mean()),
        "floor_95": float(np.quantile(floor, 0.95)),
        "share_of_floor_above": float((floor >= found).mean()),
        "by_condition": [
            variation([a], [b]) for a, b in zip(first.counts(), second.counts(), strict=True)
        ],
    }


def experiment_b(models: Models, words: Words, known: dict[str, Any]) -> dict[str, Any]:
    """Same distribution: both paths and, as an oracle, random latents of low confidence."""
    paths = ("random", "splitting", "gradient")
    drawn = {
        name: piece(
            words.out / "b" / f"{name}-{words.samples}.json",
            lambda name=name: draw(models, words, known, name),  # type: ignore[misc]
        )
        for name in paths
    }
    tables = {
        name: tabulate(drawn[name], known["labels"], len(models.target.classes)) for name in paths
    }
    pairs = (("gradient", "splitting"), ("gradient", "random"), ("splitting", "random"))
    return {
        "tau": known["tau_b"],
        "paths": {
            name: {
                **{key: drawn[name][key] for key in ("outcomes", "evaluations", "seconds")},
                "samples": len(drawn[name]["samples"]),
                "shares": [(own / own.sum()).tolist() for own in tables[name].counts()],
            }
            for name in paths
        },
        "pairs": {f"{a} and {b}": compare(tables[a], tables[b]) for a, b in pairs},
    }


def table(report: dict[str, Any]) -> str:
    """Return all figures as Markdown."""
    a, b, about = report["a"], report["b"], report["pilot"]
    brute, names = a["brute_force"], report["conditions"]
    lines = [
        "Below 0.5, of 200 random latents of each condition (pilot): "
        + ", ".join(f"{name} {low}" for name, low in about["below_0.5_of_200"].items())
        + f". Most often: {', '.join(names)}; only these are searched here.",
        "",
        f"## Probability (tau = {a['tau']:.4f})",
        "",
        f"{brute['low']} of {brute['n']:,} random latents: {brute['value']:.3g} "
        f"({brute['interval_95'][0]:.3g} .. {brute['interval_95'][1]:.3g}, Clopper-Pearson), by "
        f"condition {', '.join(map(str, brute['by_condition']))}; {brute['low_by_log_odds']} by "
        "the comparison of log-odds that splitting makes.",
        "",
        "| populations a condition | runs | mean / brute force | covers brute force | covers the "
        "truth | median relative width | evaluations | brute force for that width | ... for that "
        "scatter |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for own in a["splitting"]:
        covers, truth = own["covers_brute_force"], own["covers_truth_range_95"]
        lines.append(
            f"| {own['populations_a_condition']} | {own['runs']} "
            f"| {own['mean_over_brute_force']:.3f} +- {own['error_of_that']:.3f} "
            f"| {covers['value']:.0%} ({covers['interval_95'][0]:.0%} .. "
            f"{covers['interval_95'][1]:.0%}) | {own['covers_truth_on_average']:.0%} "
            f"({truth[0]:.0%} .. {truth[1]:.0%}) | {own['median_relative_width']:.2f} "
            f"| {own['evaluations']:,.0f} | {own['brute_force_for_that_width']:,.0f} "
            f"| {own['brute_force_for_that_deviation']:,.0f} |"
        )
    lines += [
        "",
        f"## Same distribution (tau = {b['tau']:.4f})",
        "",
        "| path | samples | evaluations a sample | seconds a sample |",
        "|---|---|---|---|",
    ]
    for name, own in b["paths"].items():
        lines.append(
            f"| {name} | {own['samples']} | {own['evaluations'] / own['samples']:.1f} "
            f"| {own['seconds'] / own['samples']:.2f} |"
        )
    lines += [
        "",
        f"| pair | total variation (bootstrap) | by condition ({', '.join(names)}) | chance: mean "
        "(95 % quantile) | chance of as much |",
        "|---|---|---|---|---|",
    ]
    for name, own in b["pairs"].items():
        low, high = own["bootstrap_95"]
        lines.append(
            f"| {name} | {own['total_variation']:.3f} ({low:.3f} .. {high:.3f}) "
            f"| {', '.join(f'{value:.3f}' for value in own['by_condition'])} "
            f"| {own['floor_mean']:.3f} ({own['floor_95']:.3f}) "
            f"| {own['share_of_floor_above']:.3f} |"
        )
    lines += ["", "| condition | path | " + " | ".join(report["predicted"]) + " |"]
    lines.append("|---" * (len(report["predicted"]) + 2) + "|")
    for row, name in enumerate(names):
        for path, own in b["paths"].items():
            shares = " | ".join(f"{value:.3f}" for value in own["shares"][row])
            lines.append(f"| {name} | {path} | {shares} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run both experiments and write report.json and report.md."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--conditions", type=int, default=2)
    parser.add_argument("--pilot", type=int, default=2_000, help="latents of each of these")
    parser.add_argument("--share-a", type=float, default=0.001, help="of the pilot below tau, A")
    parser.add_argument("--share-b", type=float, default=0.03, help="of the pilot below tau, B")
    # 120 of them at P = 1e-3: a standard error of 9 %.
    parser.add_argument("--latents", type=int, default=120_000, help="of brute force")
    parser.add_argument("--runs", type=int, default=100, help="of splitting")
    parser.add_argument("--samples", type=int, default=1_000, help="of each path")
    parser.add_argument("--set", action="append", default=["run.device=cpu"], help="a setting")
    values = vars(parser.parse_args())
    words = Words(**{**values, "set": tuple(values["set"])})
    make_deterministic()
    loaded = load_models(load(None, words.set), trust_code=False)
    evaluator = copy.copy(loaded.evaluator)
    evaluator.gate = OPEN
    models = replace(loaded, evaluator=evaluator)
    known = piece(words.out / "pilot.json", lambda: pilot(models, words))
    report = {
        "pilot": known,
        "conditions": [models.generator.net.classes[own] for own in known["labels"]],
        "predicted": list(models.target.classes),
        "a": experiment_a(models, words, known),
        "b": experiment_b(models, words, known),
    }
    write_json(words.out / "report.json", report)
    write_text(words.out / "report.md", table(report))
    print((words.out / "report.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
