"""Tiles as sources: generated ones, a baseline without texture, and views of other sources."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from rs_lowconf.bands import BandSpec
from rs_lowconf.measures import SYMMETRIES, turn
from rs_lowconf.seeds import seed_of
from rs_lowconf.types import TileBatch, TileSource

_BATCH = 64

Change = Callable[[Float[Tensor, "b c h w"]], Float[Tensor, "b c h w"]]


def rounded(image: Float[Tensor, "b c h w"], bands: BandSpec) -> Float[Tensor, "b c h w"]:
    """Return reflectance rounded to the digital numbers of a file."""
    return bands.reflectance(bands.numbers(image).round())


class _HeldTiles(ABC):
    """A `TileSource` in memory; subclasses define the stored values and their reflectance."""

    def __init__(
        self, labels: Int[Tensor, " n"], *, bands: BandSpec, classes: tuple[str, ...], name: str
    ) -> None:
        self.labels = labels
        self.bands = bands
        self.classes = classes
        self.ids = tuple(f"{name}-{i}" for i in range(len(labels)))

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self.ids)

    def batch(self, indices: Sequence[int]) -> TileBatch:
        """Return the tiles at `indices` as reflectance."""
        chosen = list(indices)
        return TileBatch(
            image=self._reflectance(chosen),
            bands=self.bands,
            ids=tuple(self.ids[i] for i in chosen),
            classes=self.classes,
            label=self.labels[chosen],
        )

    @abstractmethod
    def _reflectance(self, chosen: list[int]) -> Float[Tensor, "b c h w"]: ...


class DrawnTiles(_HeldTiles):
    """Random tiles of given classes; a `TileSource` in memory."""

    def __init__(
        self,
        image: Float[Tensor, "n c h w"],
        labels: Int[Tensor, " n"],
        *,
        bands: BandSpec,
        classes: tuple[str, ...],
        name: str,
    ) -> None:
        """Round to the digital numbers of a file, like real tiles.

        Args:
            image: reflectance.
            labels: class of every tile.
            bands: of the channel axis.
            classes: the class list.
            name: prefix of the tiles' ids.
        """
        super().__init__(labels, bands=bands, classes=classes, name=name)
        self._image = rounded(image, bands)

    def _reflectance(self, chosen: list[int]) -> Float[Tensor, "b c h w"]:
        return self._image[chosen]


class PictureTiles(_HeldTiles):
    """Pictures as a `TileSource` in memory, as bytes: a quarter of the size of reflectance."""

    def __init__(
        self,
        pictures: UInt8[np.ndarray, "n h w c"],
        labels: Int[Tensor, " n"],
        *,
        bands: BandSpec,
        classes: tuple[str, ...],
        name: str,
    ) -> None:
        """Keep pictures.

        Args:
            pictures: bytes as a file stores them.
            labels: class of every picture.
            bands: of the channels; scale and offset turn bytes into reflectance.
            classes: the class list.
            name: prefix of the pictures' ids.
        """
        super().__init__(labels, bands=bands, classes=classes, name=name)
        self._pictures = pictures

    def _reflectance(self, chosen: list[int]) -> Float[Tensor, "b c h w"]:
        numbers = torch.from_numpy(self._pictures[chosen].astype(np.float32))
        return self.bands.reflectance(numbers.permute(0, 3, 1, 2))


class ChangedTiles:
    """A view of another source: every batch goes through a function on reading."""

    def __init__(self, source: TileSource, change: Change) -> None:
        """Show the tiles of `source` through `change`, which keeps their number and bands."""
        self.bands = source.bands
        self.classes = source.classes
        self.ids = source.ids
        self.labels = source.labels
        self._source = source
        self._change = change

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self._source)

    def batch(self, indices: Sequence[int]) -> TileBatch:
        """Return the changed tiles, without their location."""
        tiles = self._source.batch(indices)
        return replace(tiles, image=self._change(tiles.image), grids=None)


class SomeTiles:
    """A view of some tiles of another source."""

    def __init__(self, source: TileSource, chosen: Int[Tensor, " n"]) -> None:
        """Show the tiles at `chosen` only, in that order."""
        self.bands = source.bands
        self.classes = source.classes
        self.ids = tuple(source.ids[i] for i in chosen.tolist())
        self.labels = source.labels[chosen]
        self._source = source
        self._chosen = chosen

    def __len__(self) -> int:
        """Return the number of tiles shown."""
        return len(self._chosen)

    def batch(self, indices: Sequence[int]) -> TileBatch:
        """Return the tiles at `indices` of those shown."""
        return self._source.batch(self._chosen[list(indices)].tolist())


def some_rows(count: int, most: int, seed: int) -> Int[Tensor, " n"]:
    """Return up to `most` random numbers below `count`, in order."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randperm(count, generator=rng)[:most].sort().values


def at_most(source: TileSource, per_class: int, seed: int) -> SomeTiles:
    """Return up to `per_class` random tiles of every class, in the order of the source."""
    rng = torch.Generator().manual_seed(seed_of(seed, "some"))
    chosen = []
    for k in range(len(source.classes)):
        members = torch.nonzero(source.labels == k)[:, 0]
        chosen.append(members[torch.randperm(len(members), generator=rng)[:per_class]])
    return SomeTiles(source, torch.cat(chosen).sort().values)


def standardise(image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Return tiles with mean 0 and deviation 1 in every band; a constant band becomes 0.

    Colour is removed; covariance of the bands and texture remain.
    """
    spread, mean = torch.std_mean(image, dim=(2, 3), correction=0, keepdim=True)
    return (image - mean) / spread.clamp_min(1e-6)


def decorrelate(image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Return tiles whose bands are standardised and uncorrelated within the tile.

    All first and second moments of the pixels are removed, so only texture is left. The root is the
    symmetric (ZCA) one, so that channel i still represents band i.
    """
    pixels = image.double().flatten(2)
    pixels = pixels - pixels.mean(2, keepdim=True)
    variance, direction = torch.linalg.eigh(pixels @ pixels.mT / pixels.shape[2])
    gain = variance.clamp_min(1e-12).rsqrt()  # below a hundredth of a digital number is noise
    whitened: Tensor = (direction * gain[:, None, :]) @ direction.mT @ pixels
    return whitened.view_as(image).to(image)


def all_turns(source: TileSource) -> list[ChangedTiles]:
    """Return the eight views of a source through the symmetries of the square."""
    return [ChangedTiles(source, partial(turn, symmetry=s)) for s in range(SYMMETRIES)]


@dataclass(frozen=True, kw_only=True, eq=False)
class GaussianTiles:
    """A generator that only reproduces a class's band statistics, without texture.

    A classifier can learn only colour from its tiles; a GAN has to add to that.
    """

    mean: Float[Tensor, "k c"]
    """Mean of the tiles' band means, per class."""
    between: Float[Tensor, "k c c"]
    """Covariance of the tiles' band means, per class."""
    within: Float[Tensor, "k c c"]
    """Mean over tiles of the covariance of a tile's pixels, per class."""

    def draw(self, label: Int[Tensor, " n"], tile_size: int, seed: int) -> Float[Tensor, "n c h w"]:
        """Return tiles whose means are Gaussian and whose pixels are white around them."""
        rng = torch.Generator().manual_seed(seed_of(seed, "gaussian"))
        between, within = _root(self.between), _root(self.within)
        bands = self.mean.shape[1]
        offset = torch.randn(len(label), bands, generator=rng, dtype=torch.float64)
        centre = self.mean[label] + torch.einsum("bij,bj->bi", between[label], offset)
        parts = []
        for classes_of_part, middle in zip(
            torch.split(label, _BATCH), torch.split(centre, _BATCH), strict=True
        ):
            shape = (len(classes_of_part), bands, tile_size, tile_size)
            noise = torch.randn(shape, generator=rng).flatten(2)
            pixels = within[classes_of_part].float() @ noise + middle.float()[:, :, None]
            parts.append(pixels.view(shape))
        return torch.cat(parts)


def fit_gaussian(source: TileSource) -> GaussianTiles:
    """Measure the statistics of each class; every class has at least one tile."""
    mean, between, within = [], [], []
    for k in range(len(source.classes)):
        members = torch.nonzero(source.labels == k)[:, 0]
        centres, covariances = [], []
        for part in torch.split(members, _BATCH):
            pixels = source.batch(part.tolist()).image.double().flatten(2)  # b c hw
            centre = pixels.mean(2)
            pixels = pixels - centre[:, :, None]
            centres.append(centre)
            covariances.append(pixels @ pixels.mT / pixels.shape[2])
        centre = torch.cat(centres)
        mean.append(centre.mean(0))
        spread = centre - mean[-1]
        between.append(spread.T @ spread / max(len(members) - 1, 1))
        within.append(torch.cat(covariances).mean(0))
    return GaussianTiles(
        mean=torch.stack(mean), between=torch.stack(between), within=torch.stack(within)
    )


def _root(covariance: Float[Tensor, "k c c"]) -> Float[Tensor, "k c c"]:
    """Return a matrix R with R R^T the covariance, which may be singular."""
    variance, direction = torch.linalg.eigh(covariance)
    root: Tensor = direction * variance.clamp_min(0).sqrt()[:, None, :]
    return root
