"""Distances between real tiles of a class, as the measure for "two tiles show the same".

Measured once on training tiles, so that an inversion needs no data. There are two distances,
neither of which an inversion minimises: of pixels, and of an extractor's features. A tile is as
near as a quantile of real pairs only if it is so by both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rs_lowconf.errors import DataError, ModelError
from rs_lowconf.runs import read_checkpoint, write_checkpoint
from rs_lowconf.search.calibration import Features
from rs_lowconf.seeds import seed_of
from rs_lowconf.vocabulary import class_list

KIND = "distances of real tiles"
STEPS = 100
"""Quantiles are kept at multiples of 1 / STEPS."""

_PAIRS = 2_000
"""Most pairs of a class: the 5 % quantile is then known to half a per cent."""
_BATCH = 32


@dataclass(frozen=True, kw_only=True, eq=False)
class RealDistances:
    """Quantiles of the distances between two real tiles of a class."""

    classes: tuple[str, ...]
    spread: Float[Tensor, " c"]
    """Standard deviation of each band over the pixels of all tiles."""
    quantiles: Float[Tensor, "k q 2"]
    """For each class, at 0, 1 / STEPS .. 1, of pixels and of features."""
    models: Mapping[str, str]
    """Checksums of the models that they belong to, by name."""

    def bound(self, label: Int[Tensor, " b"], quantile: float) -> Float[Tensor, "b 2"]:
        """Return a quantile of the distances of pixels and features, interpolated."""
        place = quantile * STEPS
        low = min(int(place), STEPS - 1)
        between = torch.lerp(
            self.quantiles[:, low], self.quantiles[:, low + 1], torch.tensor(place - low)
        )
        return between[label]

    def between(
        self,
        image: Float[Tensor, "b c h w"],
        features: Float[Tensor, "b f"],
        other: Float[Tensor, "b c h w"],
        other_features: Float[Tensor, "b f"],
    ) -> Float[Tensor, "b 2"]:
        """Return the distances of pixels and of features between tiles, differentiable.

        Of pixels: the root mean square over pixels and bands of the difference in reflectance
        over the band's spread.
        """
        spread = self.spread.to(image)[:, None, None]
        pixels = ((image - other) / spread).square().mean((1, 2, 3)).clamp_min(1e-12).sqrt()
        apart = (features - other_features).square().sum(1).clamp_min(1e-12).sqrt()
        return torch.stack([pixels, apart], dim=1)

    def save(self, path: Path) -> None:
        """Write to a file."""
        header = {"classes": list(self.classes), "models": dict(self.models)}
        write_checkpoint(path, KIND, {"spread": self.spread, "quantiles": self.quantiles}, header)


def load_distances(path: Path, models: Mapping[str, str]) -> RealDistances:
    """Read what `RealDistances.save` wrote.

    Args:
        path: the file.
        models: checksums of the models in use.

    Raises:
        ModelError: the file is missing, damaged or of another kind, or belongs to other models.
    """
    tensors, header = read_checkpoint(path, KIND)
    if header["models"] != dict(models):
        raise ModelError(
            f"{path} belongs to a different generator, extractor or critic",
            command="train encoder",
        )
    return RealDistances(
        classes=class_list(f"{path}", header["classes"], error=ModelError).names,
        spread=tensors["spread"],
        quantiles=tensors["quantiles"],
        models=models,
    )


@torch.no_grad()
def measure_distances(  # noqa: PLR0917 - tiles, their classes, the measure, chance: as they are used
    image: Float[Tensor, "n c h w"],
    label: Int[Tensor, " n"],
    classes: Sequence[str],
    features: Features,
    seed: int,
    models: Mapping[str, str],
) -> RealDistances:
    """Measure pairs of different tiles of the same class, random ones where there are many.

    A class with fewer than two tiles has no pairs: it gets the smallest quantiles of the others.

    Args:
        image: reflectance of training tiles in the generator's bands.
        label: the class of each.
        classes: that `label` indexes.
        features: of the extractor.
        seed: of the choice of pairs.
        models: checksums that identify the measurement.

    Raises:
        DataError: no class has two tiles.
    """
    spread = image.transpose(0, 1).flatten(1).std(1).clamp_min(1e-6)
    known = torch.cat([features(part).cpu() for part in torch.split(image, _BATCH)])
    found = RealDistances(
        classes=tuple(classes), spread=spread, quantiles=torch.empty(0, 0, 2), models=models
    )
    rows = torch.full((len(classes), STEPS + 1, 2), torch.inf)
    for index, name in enumerate(classes):
        members = torch.nonzero(label == index)[:, 0]
        if len(members) < 2:
            continue
        pairs = _pairs(members, seed_of(seed, "distances", name))
        apart = torch.cat(
            [
                found.between(image[a], known[a], image[b], known[b])
                for a, b in (part.T for part in torch.split(pairs, _BATCH))
            ]
        )
        rows[index] = apart.quantile(torch.linspace(0, 1, STEPS + 1), dim=0)
    if rows.isinf().all():
        raise DataError("no class has two training tiles, so their distances cannot be measured")
    rows = rows.where(rows.isfinite(), rows.amin(0))
    return RealDistances(classes=tuple(classes), spread=spread, quantiles=rows, models=models)


def _pairs(members: Int[Tensor, " m"], seed: int) -> Int[Tensor, "p 2"]:
    """Return all pairs of tiles, or a random choice of them."""
    count = len(members)
    if count * (count - 1) // 2 <= _PAIRS:
        return torch.combinations(members)
    rng = torch.Generator().manual_seed(seed)
    first = torch.randint(count, (_PAIRS,), generator=rng)
    step = torch.randint(1, count, (_PAIRS,), generator=rng)
    return torch.stack([members[first], members[(first + step) % count]], dim=1)
