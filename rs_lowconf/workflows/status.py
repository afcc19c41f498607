"""Where the loop of search, review and update stands."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rs_lowconf.gan.model import draws_masks
from rs_lowconf.places import model_path, newest_update
from rs_lowconf.review.rounds import round_reports
from rs_lowconf.review.store import STORE, ReviewStore, SentPackage
from rs_lowconf.runs import header_holds
from rs_lowconf.search.head import MIN_REVIEWS
from rs_lowconf.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Pending:
    """A package with samples that nobody decided on."""

    samples: int
    """How many these are."""
    folder: Path


@dataclass(frozen=True, kw_only=True)
class LoopStatus:
    """What is trained, generated, reviewed and updated."""

    missing: tuple[str, ...]
    """Stages of training that a search needs and that are not done, in their order."""
    rounds: Mapping[int, Mapping[str, Any]]
    """What `round_reports` says of each round."""
    updates: int
    """Of the gate; the current round is the one after so many."""
    searched: bool
    """Whether there is a package of the current round."""
    pending: Pending | None
    """The newest package of the current round that is not reviewed to its end."""
    fitted: bool
    """Whether the gate is one of gate.recipe=frozen, which learns without data."""
    few: bool
    """Whether the current round has too few reviews for an update."""
    free_name: str
    """Of the next search, that no search with a package has."""
    fresh_seed: int
    """That no search of the current round has had: it would find the same again."""
    elsewhere: tuple[Path, ...]
    """Where this run has no packages: the runs beside it that have some."""


def loop_status(settings: Settings) -> LoopStatus:
    """Return where the loop of a run stands."""
    store = ReviewStore(settings.run.dir / STORE)
    rounds, updates = round_reports(store), newest_update(settings)
    current = [package for package in store.packages() if package.round == updates + 1]
    # A fitted gate learns from rejects alone and holds what that takes.
    fitted = header_holds(model_path(settings, "calibration"), "fitted")
    needed = ("rejected",) if fitted else ("rejected", "accepted")
    report = rounds.get(updates + 1)
    name = f"round-{updates + 1}" if updates else "generate"
    return LoopStatus(
        missing=_missing_models(settings),
        rounds=rounds,
        updates=updates,
        searched=bool(current),
        pending=_pending(settings, store, current),
        fitted=fitted,
        few=report is None or min(report[kind]["count"] for kind in needed) < MIN_REVIEWS,
        free_name=_free_name(settings, name),
        fresh_seed=_fresh_seed(settings, current),
        elsewhere=() if store.packages() else _runs_beside(settings),
    )


def _runs_beside(settings: Settings) -> tuple[Path, ...]:
    return tuple(path.parent for path in sorted(settings.run.dir.parent.glob(f"*/{STORE}")))


def _missing_models(settings: Settings) -> tuple[str, ...]:
    """Return the stages of training that a search needs and that are not done, in their order."""
    models = {"target": "target", "extractor": "extractor", "gan": "gan", "gate": "calibration"}
    if settings.target.kind not in ("embedded", "trained"):
        del models["target"]
    if _draws_masks(settings):
        # The gate's critic says which tiles look alike.
        del models["extractor"]
    return tuple(stage for stage, name in models.items() if not model_path(settings, name).exists())


def _draws_masks(settings: Settings) -> bool:
    """Return whether tiles have masks, by the data or else by the generator."""
    path = model_path(settings, "gan")
    return settings.data.masked or (path.is_file() and draws_masks(path))


def _pending(
    settings: Settings, store: ReviewStore, packages: Sequence[SentPackage]
) -> Pending | None:
    """Return the newest package at hand with samples that nobody decided on."""
    opinions = store.opinions()
    answered = {one.sample_id for one in opinions}
    settled = {one.sample_id for one in opinions if one.settles}
    for package in reversed(packages):
        folder = settings.run.dir / package.folder
        known = settled if package.settles else answered
        number = sum(one.sample_id not in known for one in store.samples(package.package_id))
        if number and folder.exists():
            return Pending(samples=number, folder=folder)
    return None


def _free_name(settings: Settings, name: str) -> str:
    """Return a name of a search that wrote no package: an interrupted one may go on."""
    number, free = 1, name
    while (settings.run.dir / free / "review").exists():
        number += 1
        free = f"{name}-{number}"
    return free


def _fresh_seed(settings: Settings, packages: Sequence[SentPackage]) -> int:
    """Return a seed that no search of this round has had: it would find the same again."""
    seeds = [settings.run.seed]
    for package in packages:
        path = (settings.run.dir / package.folder).parent / "settings.yaml"
        if path.is_file():
            seeds.append(yaml.safe_load(path.read_text(encoding="utf-8"))["run"]["seed"])
    return max(seeds) + 1
