"""Tiles that are not real, by kind, which the gate is fitted on and measured with.

Kinds stay apart: each weighs the same in the fit, and what the gate drops is measured for each on
tiles that nothing was fitted on.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rs_lowconf.errors import ModelError
from rs_lowconf.gan.figures import sample
from rs_lowconf.gan.model import GanModel, load_model
from rs_lowconf.gan.negatives import phase_scrambled, shuffled_blocks
from rs_lowconf.gan.tiles import fit_gaussian
from rs_lowconf.gan.train_sources import TrainingSource
from rs_lowconf.review.geotiff import read_tile
from rs_lowconf.review.rounds import judged_samples
from rs_lowconf.review.store import STORE, ReviewStore
from rs_lowconf.seeds import seed_of
from rs_lowconf.settings import Settings
from rs_lowconf.stored import reflectance_of

log = logging.getLogger(__name__)

GENERATOR, GAUSSIAN, SCRAMBLED, SHUFFLED, FOUND, REJECTED = (
    "this generator",
    "band statistics without texture",
    "phase-scrambled real tiles",
    "real tiles with shuffled blocks",
    "found tiles of earlier searches",
    "rejected tiles of reviews",
)
_FEWEST = 10
"""Found or rejected tiles below which they are no kind."""
_HALVED_FROM = 100
"""Such tiles from which half of them are measured and not fitted on."""

Draw = Callable[[Sequence[int]], Float[Tensor, "b c h w"]]
"""Tiles by number, in the generator's bands."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawn:
    """Tiles of one kind that are not real."""

    draw: Draw
    fitted: int
    """How many of them the parts are fitted on: the first ones."""
    measured: int
    """On how many the power is measured: the next ones."""
    labels: Int[Tensor, " n"]
    """Class that each of all these is meant to show, as the generator counts them."""
    origin: Int[Tensor, " m"] | None = None
    """See `Kind`; of those that are fitted on."""


def kinds_of(
    settings: Settings,
    gan: GanModel,
    train: tuple[TrainingSource, Sequence[int]],
    val: TrainingSource,
    *,
    seed: int,
) -> dict[str, Drawn]:
    """Return what is not real, by kind.

    Args:
        settings: of the run; those of the kinds are in `gate`.
        gan: that the gate is for.
        train: the source with all bands, and the tiles of it that the gate is fitted on.
        val: its held-out tiles.
        seed: of all draws.

    Raises:
        ModelError: another generator lacks bands or classes of this one.
    """
    own = settings.gate
    source, rows = train[0].tiles, list(train[1])
    kinds = {GENERATOR: _drawn(gan, gan, own.tiles, own.tiles, seed)}
    for paths, fitted in ((own.generators, own.tiles), (own.held_out, 0)):
        for path in paths:
            other = load_model(path, torch.device("cpu"))
            name = _name_of(path, kinds)
            kinds[name] = _drawn(other, gan, fitted, own.tiles, seed_of(seed, name))
    gaussian = fit_gaussian(source)
    labels = torch.arange(2 * own.tiles) % len(source.classes)
    statistics = gaussian.draw  # one call per batch, so that they need not lie in memory
    kinds[GAUSSIAN] = Drawn(
        draw=lambda some: statistics(
            labels[list(some)], gan.network.tile_size, seed_of(seed, GAUSSIAN, some[0])
        ),
        fitted=own.tiles,
        measured=own.tiles,
        labels=labels,
    )
    rng = torch.Generator().manual_seed(seed_of(seed, SCRAMBLED))
    origin = torch.randint(len(rows), (own.tiles,), generator=rng)
    held_out = torch.randint(len(val.tiles), (own.tiles,), generator=rng)

    def scrambled(some: Sequence[int]) -> Float[Tensor, "b c h w"]:
        """Return changed training tiles, and behind them changed held-out ones."""
        image = [
            source.batch([rows[int(origin[i])]]).image
            if i < own.tiles
            else val.tiles.batch([int(held_out[i - own.tiles])]).image
            for i in some
        ]
        return phase_scrambled(torch.cat(image), seed_of(seed, SCRAMBLED, some[0]))

    kinds[SCRAMBLED] = Drawn(
        draw=scrambled,
        fitted=own.tiles,
        measured=own.tiles,
        labels=torch.cat([source.labels[rows][origin], val.tiles.labels[held_out]]),
        origin=origin,
    )
    kinds[SHUFFLED] = Drawn(
        draw=lambda some: shuffled_blocks(
            val.tiles.batch(held_out[list(some)].tolist()).image, seed_of(seed, SHUFFLED, some[0])
        ),
        fitted=0,
        measured=own.tiles,
        labels=val.tiles.labels[held_out],
    )
    for name, files in _files(settings).items():
        tiles, shown = _read(files, gan)
        if len(tiles) >= _FEWEST:
            half = len(tiles) // 2 if len(tiles) >= _HALVED_FROM else 0
            kinds[name] = Drawn(
                draw=partial(_of_these, tiles),
                fitted=len(tiles) - half,
                measured=half,
                labels=shown,
            )
    return kinds


def _of_these(tiles: Float[Tensor, "n c h w"], some: Sequence[int]) -> Float[Tensor, "b c h w"]:
    return tiles[list(some)]


def _drawn(drawing: GanModel, gan: GanModel, fitted: int, measured: int, seed: int) -> Drawn:
    """Return tiles of a generator, of its own masks or of the classes of another one.

    Args:
        drawing: what draws them.
        gan: in whose bands and classes.
        fitted: see `Drawn`.
        measured: likewise.
        seed: of the latents.

    Raises:
        ModelError: it lacks some of the bands or classes.
    """
    theirs, ours = drawing.network, gan.network
    if drawing.condition.pixelwise != gan.condition.pixelwise:
        raise ModelError(
            "a generator of gate.generators or gate.held_out draws tiles of "
            + ("given masks" if drawing.condition.pixelwise else "classes"),
            expected="tiles of " + ("given masks" if gan.condition.pixelwise else "classes"),
        )
    lacking = [
        *sorted(set(ours.bands.names) - set(theirs.bands.names)),
        *sorted(set(ours.classes) - set(theirs.classes)),
    ]
    if lacking or theirs.tile_size != ours.tile_size:
        raise ModelError(
            f"a generator of gate.generators or gate.held_out lacks {', '.join(lacking)}"
            if lacking
            else f"a generator of the gate's settings draws tiles of {theirs.tile_size} pixels",
            expected="the bands, classes and tile size of the generator that the gate is for",
        )
    channels = list(theirs.bands.index_of(ours.bands.names))
    masks = drawing.condition.masks
    if masks is None:
        conditions = torch.tensor([theirs.classes.index(name) for name in ours.classes])
        labels = torch.arange(fitted + measured) % len(conditions)
    else:
        conditions = masks.long()
        labels = torch.zeros(fitted + measured, dtype=torch.long)

    def draw(some: Sequence[int]) -> Float[Tensor, "b c h w"]:
        chosen = conditions[torch.tensor(list(some)) % len(conditions)]
        return sample(theirs, chosen, seed_of(seed, "tiles", some[0]))[:, channels]

    return Drawn(draw=draw, fitted=fitted, measured=measured, labels=labels)


def _name_of(path: Path, taken: Mapping[str, Drawn]) -> str:
    """Return a short name for the generator of a checkpoint: that of its run, where it lies so."""
    run = path.absolute().parent.parent.name if path.name == "gan.safetensors" else path.stem
    return f"generator of {run}" if f"generator of {run}" not in taken else f"generator {path}"


def _files(settings: Settings) -> dict[str, list[Path]]:
    """Return the stored tiles of this run that are not real, by kind."""
    run = settings.run.dir
    rejected = set()
    if (run / STORE).is_file():
        store = ReviewStore(run / STORE)
        for judged in judged_samples(store, store.opinions()).values():
            for one in judged:
                if one.sent.origin != "real" and one.verdict.decision == "reject":
                    rejected.add(run / one.sent.tile)
    searches = [table.parent for table in run.glob("*/samples.parquet")]
    found = {path for folder in searches for path in folder.glob("tiles/*.tif")}
    return {
        FOUND: sorted(found - rejected),
        REJECTED: sorted(path for path in rejected if path.is_file()),
    }


def _read(
    paths: Sequence[Path], gan: GanModel
) -> tuple[Float[Tensor, "n c h w"], Int[Tensor, " n"]]:
    """Return stored tiles of the generator's bands and conditions; the log counts the others."""
    names, bands = gan.condition.names, gan.network.bands.names
    tiles = [read_tile(path) for path in paths]
    fitting = [
        tile for tile in tiles if tile.names == bands and tile.tags.get("RSLOW_CONDITION") in names
    ]
    if len(fitting) < len(tiles):
        log.warning(
            "left out: %d stored tiles of other bands or classes", len(tiles) - len(fitting)
        )
    stored = [reflectance_of(tile.pixels) for tile in fitting]
    # Tiles of given masks are all of one class.
    labels = [
        0 if gan.condition.pixelwise else names.index(tile.tags["RSLOW_CONDITION"])
        for tile in fitting
    ]
    blank = torch.empty(0, len(bands), 0, 0)
    return torch.stack(stored) if stored else blank, torch.tensor(labels, dtype=torch.long)
