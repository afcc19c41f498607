"""What `rslow train gate` does for gate.recipe=frozen: fits parts and measures what they drop."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rs_lowconf.cli.gate_kinds import Draw, kinds_of
from rs_lowconf.cli.progress import progress
from rs_lowconf.cli.train_sources import open_sources
from rs_lowconf.gan.frozen import FrozenName
from rs_lowconf.gan.gate_views import FrozenView, ViewSpec
from rs_lowconf.gan.pyramid import ClassGenerator
from rs_lowconf.gan.source_critics import owners
from rs_lowconf.gan.train_sources import TrainingSource
from rs_lowconf.models import check_same, views_of
from rs_lowconf.search.evaluate import EXPORT_SCALE, stored_numbers
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
from rs_lowconf.settings import GanSettings, Settings

PIXELS = "spectra and texture"
"""The view that is no composite."""
_NETWORKS: tuple[FrozenName, ...] = ("efficientnet_lite1", "efficientnet_lite0")
"""Networks that the gate may see through: the first that the generator's critics do not."""
_FIRST_SHARE = 0.4
"""Share of the permitted false rejection that the tiles with all bands get, where further sources
have composites of their own."""
_BATCH = 32


def fit_gate(
    settings: Settings, generator: ClassGenerator, recipe: GanSettings, device: torch.device
) -> FittedGate:
    """Fit the gate's parts on real and other tiles, and measure what they drop.

    Args:
        settings: of the run.
        generator: finished.
        recipe: by which it was trained.
        device: where to compute.

    Raises:
        DataError: tiles cannot be used, or too few are held out.
        ModelError: a generator does not fit, or a network's weights are not installed.
    """
    train, val = open_sources(settings, "train"), open_sources(settings, "val")
    check_same(generator.bands, generator.classes, train[0].tiles, setting="data.classes")
    seed = seed_of(settings.run.seed, "gate")
    specs = _specs(settings, recipe, train)
    chosen = [_some(len(own.tiles), settings.gate.most_real, seed) for own in train]
    used = [k for k in specs if specs[k]]
    for k in used:
        # Cross-fitting makes held-out tiles of them all.
        permitted = settings.search.false_rejection * _share(k, used)
        require_enough(len(chosen[k]) + len(val[k].tiles), permitted)
    kinds = kinds_of(settings, generator, (train[0], chosen[0]), val[0], seed=seed)
    total = sum(len(chosen[k]) + len(val[k].tiles) for k in used)
    total += sum(own.fitted + own.measured for own in kinds.values()) + len(val[0].tiles)
    with progress("looking at tiles for the gate", total) as bar:
        done = 0

        def count(tiles: int) -> None:
            nonlocal done
            done += tiles
            bar.update(done)

        real = [
            RealTiles(
                name=train[k].name,
                share=_share(k, used),
                train=_seen_real(specs[k], train[k], chosen[k], device, count),
                train_labels=train[k].tiles.labels[chosen[k]],
                val=_seen_real(specs[k], val[k], range(len(val[k].tiles)), device, count),
                val_labels=val[k].tiles.labels,
                origin=k == 0,
            )
            # Cheapest and sharpest first: what it drops is shown to no other.
            for k in sorted(used, reverse=True)
        ]
        every = {name: spec for own in specs.values() for name, spec in own.items()}
        views = views_of(every, generator.bands, device)
        fitted, measured = {}, {}
        for name, own in kinds.items():
            seen = _seen(views, own.draw, own.fitted + own.measured, count)
            if own.fitted:
                part = {view: features[: own.fitted] for view, features in seen.items()}
                fitted[name] = Kind(seen=part, labels=own.labels[: own.fitted], origin=own.origin)
            if own.measured:
                part = {view: features[own.fitted :] for view, features in seen.items()}
                measured[name] = Kind(seen=part, labels=own.labels[own.fitted :])
        rendered = Kind(
            seen=_seen(
                {name: views[name] for own in real[:-1] for name in own.train},
                lambda rows: val[0].tiles.batch(rows).image,
                len(val[0].tiles),
                count,
            ),
            labels=val[0].tiles.labels,
        )
    stages = _stages(settings, real, fitted, seed)
    return FittedGate(
        stages=stages,
        views=every,
        power=_power(
            settings, (real, stages), (fitted, measured), rendered, train[0].tiles.classes
        ),
        stored=_stored(real[0], stages[0], fitted),
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
    settings: Settings, recipe: GanSettings, sources: Sequence[TrainingSource]
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


def _some(count: int, most: int, seed: int) -> list[int]:
    """Return up to `most` random numbers below `count`, in order."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randperm(count, generator=rng)[:most].sort().values.tolist()


def _seen_real(
    specs: Mapping[str, dict[str, Any] | None],
    source: TrainingSource,
    rows: Sequence[int],
    device: torch.device,
    count: Callable[[int], None],
) -> Seen:
    """Return real tiles of a source as its views show them."""
    views: dict[str, Features] = {}
    for name, view in views_of(specs, source.tiles.bands, device).items():
        views[name] = view.of_real if isinstance(view, FrozenView) else view
    chosen = list(rows)
    return _seen(
        views,
        lambda some: source.tiles.batch([chosen[i] for i in some]).image,
        len(chosen),
        count,
        # Pictures are bytes already; other tiles are rounded as a search stores what it finds.
        stored=not source.rendering.eight_bits,
    )


def _seen(
    views: Mapping[str, Features],
    draw: Draw,
    number: int,
    count: Callable[[int], None],
    *,
    stored: bool = True,
) -> Seen:
    """Return the features of the first tiles that `draw` gives.

    Args:
        views: by name.
        draw: gives tiles.
        number: of tiles.
        count: is called with the number of tiles after every batch.
        stored: whether to round tiles as a search stores them, which is how its gate sees them.
    """
    parts: dict[str, list[Tensor]] = {name: [] for name in views}
    for start in range(0, number, _BATCH):
        image = draw(range(start, min(number, start + _BATCH)))
        if stored:
            image = stored_numbers(image).float() / EXPORT_SCALE
        for name, view in views.items():
            parts[name].append(view(image))
        count(len(image))
    return {name: torch.cat(own) for name, own in parts.items() if own}


def _stored(real: RealTiles, stage: FittedStage, kinds: Mapping[str, Kind]) -> StoredFeatures:
    """Return the features from which `rslow update` fits what reviewers rejected."""
    view = stage.parts[0].view
    own = real.val[view]
    if stage.folds is not None:
        own = torch.cat([real.train[view], own])
    return store_features(view, own, torch.cat([kind.seen[view] for kind in kinds.values()]))


def _power(
    settings: Settings,
    real: tuple[Sequence[RealTiles], tuple[FittedStage, ...]],
    kinds: tuple[Mapping[str, Kind], Mapping[str, Kind]],
    rendered: Kind,
    classes: Sequence[str],
) -> dict[str, Any]:
    """Return what the gate drops of every kind, and what of real tiles, as JSON values."""
    (tiles, stages), (fitted, measured) = real, kinds
    permitted = settings.search.false_rejection
    seed = seed_of(settings.run.seed, "gate")
    figures: dict[str, Any] = {}
    with progress("measuring what the gate drops", len(measured)) as bar:
        for number, (name, kind) in enumerate(measured.items(), start=1):
            figures[name] = {"fitted": name in fitted, **dropped(stages, kind, permitted)}
            rest = {other: own for other, own in fitted.items() if other != name}
            if name in fitted and rest and settings.gate.leave_out:
                without = _stages(settings, tiles, rest, seed)
                figures[name]["left_out_of_the_fit"] = dropped(without, kind, permitted)
            bar.update(number)
    report: dict[str, Any] = {
        "at_false_rejection": permitted,
        "kinds": figures,
        "real_tiles_by_class": {
            own.name: false_rejection_by_class(
                own,
                own_tiles.val_labels
                if own.folds is None
                else torch.cat([own_tiles.train_labels, own_tiles.val_labels]),
                classes,
                permitted,
            )
            for own_tiles, own in zip(tiles, stages, strict=True)
        },
    }
    if rendered.seen:
        # A fault in the settings of the pictures would make every tile look generated.
        report["real_tiles_shown_as_pictures"] = dropped(stages[:-1], rendered, permitted)
    return report
