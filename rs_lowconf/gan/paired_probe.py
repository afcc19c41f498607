"""The probe of tiles with masks: real tiles against generated ones of the same masks."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rs_lowconf.bands import composites_of
from rs_lowconf.gan.condition import masks_of
from rs_lowconf.gan.figures import sample
from rs_lowconf.gan.frozen import frozen_network
from rs_lowconf.gan.mask_networks import MaskGenerator
from rs_lowconf.gan.measure import Measurement
from rs_lowconf.gan.pictures import CompositeView
from rs_lowconf.gan.probe import probe_features
from rs_lowconf.gan.source_quality import (
    NETWORK,
    Looks,
    Probed,
    probe_kind,
    probe_measurements,
)
from rs_lowconf.gan.tiles import rounded, some_rows
from rs_lowconf.seeds import seed_of
from rs_lowconf.types import MaskSource

_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class PairedProbe:
    """The probe's results in one composite; None where there are too few tiles."""

    title: str
    """Of the composite."""
    generated: Probed | None
    """Of generated tiles and the real tiles of their masks."""
    floor: Probed | None
    """Of training tiles in the place of generated ones."""

    def measurements(self) -> list[Measurement]:
        """Return the lines of the report."""
        kind = f"{self.title}, same masks"
        return probe_measurements((kind,), {kind: self.generated}, self.floor, {})

    def to_json(self) -> dict[str, Any]:
        """Return plain values for the report."""
        parts = {"generated": self.generated, "floor": self.floor}
        return {name: None if part is None else part.to_json() for name, part in parts.items()}


@torch.no_grad()
def probe_masks(
    generator: MaskGenerator,
    train: MaskSource,
    test: MaskSource,
    *,
    most: int,
    seed: int,
    device: torch.device,
) -> list[PairedProbe]:
    """Return the probe's results in each composite that the bands allow; there may be none.

    Args:
        generator: trained.
        train: its training tiles, in the generator's bands and classes.
        test: real tiles that it did not learn from, with the masks that tiles are drawn of.
        most: tiles of a side; random ones, if there are more.
        seed: of tiles, latents, folds and resamples.
        device: where to compute.
    """
    bands = generator.bands
    views = {
        composite.name.replace("_", " "): CompositeView(composite=composite)
        for composite in composites_of(bands)
    }
    network = frozen_network(NETWORK).to(device)
    chosen = some_rows(len(test), most, seed_of(seed, "probe", "test"))

    def drawn() -> Iterator[Tensor]:
        for number, part in enumerate(torch.split(chosen, _BATCH)):
            mask = masks_of(test.batch(part.tolist()))
            yield rounded(sample(generator, mask, seed_of(seed, "probe", number)), bands)

    def looks(batches: Iterable[Float[Tensor, "b c h w"]]) -> dict[str, Looks]:
        parts: dict[str, list[Tensor]] = {title: [] for title in views}
        for image in batches:
            for title, view in views.items():
                parts[title].append(probe_features(network, view.real(image, bands)))
        features = {title: torch.cat(own) for title, own in parts.items()}
        # One class: a mask holds several.
        return {
            title: Looks(features=own, labels=torch.zeros(len(own), dtype=torch.long))
            for title, own in features.items()
        }

    others = some_rows(len(train), most, seed_of(seed, "probe", "train"))
    real, fake, known = looks(_tiles(test, chosen)), looks(drawn()), looks(_tiles(train, others))

    def against(title: str, other: dict[str, Looks]) -> Probed | None:
        return probe_kind(real[title], other[title], (title,), per_class=None, seed=seed)

    return [
        PairedProbe(title=title, generated=against(title, fake), floor=against(title, known))
        for title in views
    ]


def _tiles(source: MaskSource, chosen: Int[Tensor, " n"]) -> Iterator[Float[Tensor, "b c h w"]]:
    for part in torch.split(chosen, _BATCH):
        yield source.batch(part.tolist()).image
