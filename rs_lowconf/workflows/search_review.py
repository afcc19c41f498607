"""The package of a search for reviewers: which tiles they are shown, and in which order."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch

from rs_lowconf.errors import AnswerError
from rs_lowconf.models import HeldOut, held_out
from rs_lowconf.review.ids import package_id
from rs_lowconf.review.publish import publish
from rs_lowconf.review.store import STORE, ReviewStore
from rs_lowconf.search.archive import most_diverse
from rs_lowconf.seeds import seed_of
from rs_lowconf.workflows.export import Export, Shown, kept_by
from rs_lowconf.workflows.records import LeftOut, Work
from rs_lowconf.workflows.search import SearchLog


def choose_shown(export: Export, search: SearchLog) -> Work[list[Shown]]:
    """Return what reviewers are shown, most informative first; yield what cannot be shown.

    Each next sample differs most from those before it, so whoever stops early has seen the
    whole variety; the order tells nothing of origin or model. A blind package has real tiles
    and tiles that the gate rejected among the found ones.
    """
    settings, journal = export.settings.review, search.journal
    found = [one for one in search.trajectories if one.found is not None]
    rejected = [one for one in search.trajectories if one.audit is not None]
    blind = settings.mode == "blind"
    dice = np.random.default_rng(
        seed_of(export.settings.run.seed, "review", "shown", export.models.round)
    )
    reals = (yield from real_tiles(export)) if blind else []
    shares = {
        "real": settings.real_share if reals else 0.0,
        "audit": settings.audit_share if blind and rejected else 0.0,
    }
    own = 1 - sum(shares.values())
    features = torch.stack([kept_by(one, "found").features for one in found])
    most = max(1, int(settings.max_samples * own))
    chosen = [found[i] for i in most_diverse(features, most)]
    shown = [export.shown(one, journal.tile(one.seed_id), "found") for one in chosen]
    # So many that the shares come true, as far as there are tiles.
    counts = {name: round(len(chosen) * share / own) for name, share in shares.items()}
    for i in dice.permutation(len(rejected))[: counts["audit"]]:
        one = rejected[int(i)]
        shown.append(export.shown(one, journal.tile(one.seed_id, "audit"), "audit"))
    shuffled = [reals[i] for i in dice.permutation(len(reals))]
    shown += yield from _shown_reals(export, shuffled, counts["real"])
    order = most_diverse(torch.stack([one.features for one in shown]), len(shown))
    return [shown[i] for i in order]


def publish_shown(export: Export, shown: Sequence[Shown]) -> None:
    """Write review/, whole or not at all, after the store knows of it.

    It comes last: where it exists, everything else of the search does.

    Args:
        export: of the search.
        shown: what reviewers are shown, in this order.
    """
    settings, models = export.settings, export.models
    condition = models.generator.condition
    known = condition.tile_classes
    if export.beside and not condition.pixelwise:
        known += export.beside.classes
    publish(
        ReviewStore(settings.run.dir / STORE),
        export.folder / "review",
        [one.sample for one in shown],
        package_id=package_id(settings.run.seed, "package", models.round, export.folder.name),
        label=settings.review.mode,
        round=models.round,
        classes=tuple(dict.fromkeys(known)),
        target_classes=models.target.classes,
        attribution=models.generator.attribution,
        provenance={name: str(value) for name, value in models.fingerprint.items()},
        pixel_classes=condition.pixel_classes,
    )


def _shown_reals(
    export: Export, reals: Sequence[tuple[HeldOut, int]], count: int
) -> Work[list[Shown]]:
    """Return the first real tiles that the target has an answer to."""
    left_out, found = Counter[str](), list[Shown]()
    for held, index in reals:
        if len(found) == count:
            break
        try:
            found.append(export.real(held, index))
        except AnswerError as error:
            left_out[f"without an answer: {error.reason}"] += 1
    what = "real tiles for the review package"
    yield LeftOut(what=what, reasons=left_out, total=len(found) + left_out.total())
    return found


def real_tiles(export: Export) -> Work[list[tuple[HeldOut, int]]]:
    """Return the real tiles that no model was trained on, of the generator's conditions."""
    if export.models.real is None:
        return []
    found, left_out = [], Counter[str]()
    for held in held_out(export.settings, export.models):
        for index, label in enumerate(held.source.labels.tolist()):
            name = held.source.classes[label]
            if name in held.condition.names:
                found.append((held, index))
            else:
                left_out[f"of {name}, which the generator lacks"] += 1
    total = len(found) + left_out.total()
    yield LeftOut(what="held-out tiles", reasons=left_out, total=total)
    return found
