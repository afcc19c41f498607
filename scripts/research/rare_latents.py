#!/usr/bin/env python3
"""Does `rslow estimate rare` agree with plain random latents at one in a thousand?

Usage: scripts/research/rare_latents.py OUT [--condition Residential] [--latents 20000]
           [--set key=value ...]

Asks the embedded models and needs no data. A pilot of other populations finds the confidence
below which one latent in a thousand is; then populations of the settings' size, and random latents
one by one, tell the probability of that, and of disagreement. Each finished piece is a JSON file in
OUT; an interrupted run goes on where it stopped.
"""

import argparse
from math import log, log1p
from pathlib import Path
from typing import Any

import numpy as np
from pieces import piece

from rs_lowconf.determinism import make_deterministic
from rs_lowconf.estimate.ladder import Rung, counted, rung_of
from rs_lowconf.estimate.rare import RareEvent, SubsetRules, rare_event
from rs_lowconf.runs import write_json
from rs_lowconf.search.reading import log_odds
from rs_lowconf.seeds import seed_of
from rs_lowconf.settings import load
from rs_lowconf.workflows.latents import Law, load_law

CHUNK = 2_000
AIM = 1e-3
LADDER = tuple(0.95 - 0.025 * step for step in range(31))
"""Confidences that the pilot chooses from, all above 1/10."""


def pilot(law: Law, condition: str, rules: SubsetRules) -> dict[str, Any]:
    """Choose the threshold nearest to one in a thousand, on populations that nothing else sees."""
    odds = [log(one) - log1p(-one) for one in LADDER]
    found = rare_event(law.confidence(condition), law.dimensions, odds, 1_000, rules)
    value = np.maximum(found.value, 1e-12)
    place = int(np.abs(np.log(value / AIM)).argmin())
    return {"threshold": LADDER[place], "value": float(value[place])}


def brute_force(law: Law, condition: str, level: float, first: int) -> dict[str, Any]:
    """Count random latents below the level and of another class."""
    dice = np.random.default_rng(seed_of(0, "rare latents", first))
    said = law.answers(dice.standard_normal((CHUNK, law.dimensions)), condition)
    other = said.argmax(1) != law.target.classes.index(condition)
    return {
        "n": CHUNK,
        "confidence": int((log_odds(said).double() < level).sum()),
        "disagreement": int(other.sum()),
    }


def populations(law: Law, condition: str, level: float, rules: SubsetRules) -> dict[str, Any]:
    """Ask populations for both events."""
    found = {"confidence": rare_event(law.confidence(condition), law.dimensions, [level], 0, rules)}
    margin = law.disagreement(condition)
    if margin is not None:
        found["disagreement"] = rare_event(margin, law.dimensions, [0.0], 1, rules)
    return {event: own.to_json() for event, own in found.items()}


def line(event: str, ours: Rung, evaluations: int, plain: Rung) -> str:
    """Return a row of the table."""

    def told(rung: Rung) -> str:
        return f"{rung.value or 0:.3g} ({rung.interval.low:.2g} .. {rung.interval.high:.2g})"

    ratio = f"{ours.value / plain.value:.2f}" if ours.value and plain.value else "none"
    return (
        f"| {event} | {told(ours)} | {evaluations:,} | {told(plain)} | {plain.found} of "
        f"{plain.of:,} | {ratio} |"
    )


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--condition", default="Residential")
    # 20 of them at P = 1e-3: a standard error of 22 %.
    parser.add_argument("--latents", type=int, default=20_000, help="of brute force")
    parser.add_argument("--set", action="append", default=["run.device=cpu"], help="a setting")
    words = parser.parse_args()
    make_deterministic()
    settings = load(None, words.set)
    own, condition = settings.estimate.rare, words.condition
    law = load_law(settings, trust_code=False)
    rules = SubsetRules(
        replicates=own.replicates,
        particles=own.particles,
        survivors=own.survivors,
        max_levels=own.max_levels,
    )
    known = piece(words.out / "pilot.json", lambda: pilot(law, condition, rules))
    threshold = known["threshold"]
    level = log(threshold) - log1p(-threshold)
    ours = piece(words.out / "populations.json", lambda: populations(law, condition, level, rules))
    chunks = [
        piece(
            words.out / f"brute-{first:07d}.json",
            lambda first=first: brute_force(law, condition, level, first),  # type: ignore[misc]
        )
        for first in range(0, words.latents, CHUNK)
    ]
    n = sum(chunk["n"] for chunk in chunks)
    lines = [
        f"{condition}; {rules.replicates} populations of {rules.particles}, 95 % intervals.",
        "",
        "| event | populations | tiles | random latents | counted | ratio |",
        "|---|---|---|---|---|---|",
    ]
    report: dict[str, Any] = {"condition": condition, "threshold": threshold}
    for event, name in (
        ("confidence", f"confidence < {threshold:.3f}"),
        ("disagreement", "disagreement"),
    ):
        found = RareEvent.from_json(ours[event])
        told = rung_of(found, 0)
        plain = counted(np.arange(n) < sum(chunk[event] for chunk in chunks))
        lines.append(line(name, told, found.evaluations, plain))
        report[event] = {"populations": told.to_json(), "random_latents": plain.to_json()}
    write_json(words.out / "report.json", report)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
