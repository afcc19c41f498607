"""A gate of gate.recipe=frozen: its parts are fitted, and what they drop is measured."""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rs_lowconf.gan.frozen import FrozenName
from rs_lowconf.gan.gate_views import FrozenView, ViewSpec
from rs_lowconf.gan.model import GanModel
from rs_lowconf.gan.source_critics import owners
from rs_lowconf.gan.tiles import some_rows
from rs_lowconf.gan.train_sources import TrainingSource
from rs_lowconf.models import views_of
from rs_lowconf.search.calibration import AGREEMENT_SHARE
from rs_lowconf.search.fitted import (
    Features,
    FittedGate,
    FittedStage,
    Kind,
    RealTiles,
    Seen,
    StoredFeatures,
    dropped,
    false_rejection_by_class,
    fit_stage,
    store_features,
)
from rs_lowconf.search.gate import require_enough
from rs_lowconf.seeds import seed_of
from rs_lowconf.settings import FrozenSettings, Settings
from rs_lowconf.stored import as_stored
from rs_lowconf.workflows.gate_kinds import Draw, Drawn, kinds_of
from rs_lowconf.workflows.records import Step, Work, counted

PIXELS = "spectra and texture"
"""The view that is no composite."""
_NETWORKS: tuple[FrozenName, ...] = ("efficientnet_lite1", "efficientnet_lite0")
"""Networks that the gate may see through: the first that the generator's critics do not."""
_FIRST_SHARE = 0.4
"""Share of the permitted false rejection that the tiles with all bands get, where further sources
have composites of their own."""
_BATCH = 32


def fit_gate(
    settings: Settings,
    gan: GanModel,
    sources: tuple[Sequence[TrainingSource], Sequence[TrainingSource]],
    device: torch.device,
) -> Work[FittedGate]:
    """Fit the gate's parts on real and other tiles, and measure what they drop.

    Args:
        settings: of the run.
        gan: finished.
        sources: training and held-out tiles, those with the generator's bands first; tiles with
            masks are of one class.
        device: where to compute.

    Raises:
        DataError: tiles cannot be used, or too few are held out.
        ModelError: a generator does not fit, or a network's weights are not installed.
    """
    (train, val), bands = sources, gan.network.bands
    seed = seed_of(settings.run.seed, "gate")
    specs = _specs(settings, gan.recipe, train)
    share = 1 - AGREEMENT_SHARE if gan.condition.pixelwise else 1.0
    most = settings.gate.most_real
    chosen = [some_rows(len(source.tiles), most, seed).tolist() for source in train]
    used = [k for k in specs if specs[k]]
    for k in used:
        # Cross-fitting makes held-out tiles of them all.
        permitted = settings.search.false_rejection * share * _share(k, used)
        require_enough(len(chosen[k]) + len(val[k].tiles), permitted)
    kinds = kinds_of(settings, gan, (train[0], chosen[0]), val[0], seed=seed)
    total = sum(len(chosen[k]) + len(val[k].tiles) for k in used)
    total += sum(kind.fitted + kind.measured for kind in kinds.values()) + len(val[0].tiles)
    every = {name: spec for views in specs.values() for name, spec in views.items()}
    views = views_of(every, bands, device)
    seen = yield from counted(
        _look(specs, sources, chosen, kinds, views, device, share=share),
        "looking at tiles for the gate",
        total,
    )
    stages = _stages(settings, seen.real, seen.fitted, seed)
    power = yield from _power(settings, seen, stages, train[0].tiles.classes)
    return FittedGate(
        stages=stages,
        views=every,
        power=power,
        stored=_stored(seen.real[0], stages[0], seen.fitted),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Looked:
    """What the gate's views show of all tiles."""

    real: list[RealTiles]
    """By source; cheapest and sharpest first: what that drops is shown to no other."""
    fitted: dict[str, Kind]
    """Tiles that are not real and that the parts are fitted on, by kind."""
    measured: dict[str, Kind]
    """Others, by kind, which show what the gate drops."""
    rendered: Kind
    """Held-out tiles with all bands, shown as the pictures of the other sources."""


def _look(  # noqa: PLR0917 - views, tiles, place: the order of the work
    specs: Mapping[int, Mapping[str, dict[str, Any] | None]],
    sources: tuple[Sequence[TrainingSource], Sequence[TrainingSource]],
    chosen: Sequence[Sequence[int]],
    kinds: Mapping[str, Drawn],
    views: Mapping[str, Features],
    device: torch.device,
    *,
    share: float,
) -> Generator[int, None, _Looked]:
    """Look at all tiles; yield the number of tiles after every batch.

    Args:
        specs: of the views of each source.
        sources: training and held-out tiles.
        chosen: rows of the training tiles.
        kinds: tiles that are not real.
        views: all of them, for tiles in the generator's bands.
        device: where to compute.
        share: of the permitted false rejection, for all sources together.
    """
    (train, val), used = sources, [k for k in specs if specs[k]]
    real = []
    for k in sorted(used, reverse=True):
        learned = yield from _seen_real(specs[k], train[k], chosen[k], device)
        held_out = yield from _seen_real(specs[k], val[k], range(len(val[k].tiles)), device)
        real.append(
            RealTiles(
                name=train[k].name,
                share=share * _share(k, used),
                train=learned,
                train_labels=train[k].tiles.labels[chosen[k]],
                val=held_out,
                val_labels=val[k].tiles.labels,
                origin=k == 0,
            )
        )
    fitted, measured = {}, {}
    for name, kind in kinds.items():
        seen = yield from _seen(views, kind.draw, kind.fitted + kind.measured)
        if kind.fitted:
            part = {view: features[: kind.fitted] for view, features in seen.items()}
            labels = kind.labels[: kind.fitted]
            fitted[name] = Kind(seen=part, labels=labels, origin=kind.origin)
        if kind.measured:
            part = {view: features[kind.fitted :] for view, features in seen.items()}
            measured[name] = Kind(seen=part, labels=kind.labels[kind.fitted :])
    rendered = yield from _seen(
        {name: views[name] for tiles in real[:-1] for name in tiles.train},
        lambda rows: val[0].tiles.batch(rows).image,
        len(val[0].tiles),
    )
    return _Looked(
        real=real,
        fitted=fitted,
        measured=measured,
        rendered=Kind(seen=rendered, labels=val[0].tiles.labels),
    )


def _stages(
    settings: Settings, real: Sequence[RealTiles], kinds: Mapping[str, Kind], seed: int
) -> tuple[FittedStage, ...]:
    permitted = settings.search.false_rejection
    return tuple(fit_stage(own, kinds, false_rejection=permitted, seed=seed) for own in real)


def _share(k: int, used: Sequence[int]) -> float:
    """Return the share of the permitted false rejection for a source."""
    if len(used) == 1:
        return 1.0
    return _FIRST_SHARE if k == 0 else (1 - _FIRST_SHARE) / (len(used) - 1)


def _specs(
    settings: Settings, recipe: FrozenSettings, sources: Sequence[TrainingSource]
) -> dict[int, dict[str, dict[str, Any] | None]]:
    """Return what views show the tiles of each source, by name; None for the view of pixels.

    Every composite is calibrated on the source that has most tiles of its bands.
    """
    critics = recipe.features if recipe.recipe == "frozen" else None
    network = next(name for name in _NETWORKS if name != critics)
    specs: dict[int, dict[str, dict[str, Any] | None]] = {k: {} for k in range(len(sources))}
    for name, k in owners([own.shape for own in sources]).items():
        spec = ViewSpec(
            composite=name,
            picture=sources[k].rendering if sources[k].rendering.eight_bits else None,
            network=network,
            side=settings.gate.side,
        )
        specs[k][name.replace("_", " ")] = spec.to_json()
    specs[0][PIXELS] = None
    return specs


def _seen_real(
    specs: Mapping[str, dict[str, Any] | None],
    source: TrainingSource,
    rows: Sequence[int],
    device: torch.device,
) -> Generator[int, None, Seen]:
    """Return real tiles of a source as its views show them; yield as `_seen` does."""
    views: dict[str, Features] = {}
    for name, view in views_of(specs, source.tiles.bands, device).items():
        views[name] = view.of_real if isinstance(view, FrozenView) else view
    chosen = list(rows)
    return _seen(
        views,
        lambda some: source.tiles.batch([chosen[i] for i in some]).image,
        len(chosen),
        # Pictures are bytes already; other tiles are rounded as a search stores what it finds.
        stored=not source.rendering.eight_bits,
    )


def _seen(
    views: Mapping[str, Features],
    draw: Draw,
    number: int,
    *,
    stored: bool = True,
) -> Generator[int, None, Seen]:
    """Return the features of the first tiles that `draw` gives; yield the number in every batch.

    Args:
        views: by name.
        draw: gives tiles.
        number: of tiles.
        stored: whether to round tiles as a search stores them, which is how its gate sees them.
    """
    parts: dict[str, list[Tensor]] = {name: [] for name in views}
    for start in range(0, number, _BATCH):
        image = draw(range(start, min(number, start + _BATCH)))
        if stored:
            image = as_stored(image)
        for name, view in views.items():
            parts[name].append(view(image))
        yield len(image)
    return {name: torch.cat(own) for name, own in parts.items() if own}


def _stored(real: RealTiles, stage: FittedStage, kinds: Mapping[str, Kind]) -> StoredFeatures:
    """Return the features from which `rslow update` fits what reviewers rejected."""
    view = stage.parts[0].view
    own = real.val[view]
    if stage.folds is not None:
        own = torch.cat([real.train[view], own])
    return store_features(view, own, torch.cat([kind.seen[view] for kind in kinds.values()]))


def _power(
    settings: Settings, seen: _Looked, stages: tuple[FittedStage, ...], classes: Sequence[str]
) -> Work[dict[str, Any]]:
    """Return what the gate drops of every kind, and what of real tiles, as JSON values."""
    permitted = settings.search.false_rejection
    seed = seed_of(settings.run.seed, "gate")
    figures: dict[str, Any] = {}
    for number, (name, kind) in enumerate(seen.measured.items(), start=1):
        fitted = name in seen.fitted
        figures[name] = {"fitted": fitted, **dropped(stages, kind, permitted)}
        rest = {other: others for other, others in seen.fitted.items() if other != name}
        if fitted and rest and settings.gate.leave_out:
            without = _stages(settings, seen.real, rest, seed)
            figures[name]["left_out_of_the_fit"] = dropped(without, kind, permitted)
        title = "measuring what the gate drops"
        yield Step(title=title, done=number, total=len(seen.measured))
    report: dict[str, Any] = {
        "at_false_rejection": permitted,
        "kinds": figures,
        "real_tiles_by_class": {
            stage.name: false_rejection_by_class(
                stage,
                tiles.val_labels
                if stage.folds is None
                else torch.cat([tiles.train_labels, tiles.val_labels]),
                classes,
                permitted,
            )
            for tiles, stage in zip(seen.real, stages, strict=True)
        },
    }
    if seen.rendered.seen:
        # A fault in the settings of the pictures would make every tile look generated.
        report["real_tiles_shown_as_pictures"] = dropped(stages[:-1], seen.rendered, permitted)
    return report
