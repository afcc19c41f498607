"""The values and protocols that stages share. Reflectance everywhere: float32, nominally 0..1.

Shape letters, here and in every annotation: b batch, c band, h height, w width, k class of
the target, d latent, f feature.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from rs_lowconf.bands import COMPOSITES, BandSpec
from rs_lowconf.errors import DataError
from rs_lowconf.extras import missing
from rs_lowconf.grid import Grid

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

Augmentation = Callable[[Float[Tensor, "b c h w"], int], Float[Tensor, "b c h w"]]
"""Augments a batch of reflectance with the random choices of a seed; differentiable."""

MaskAugmentation = Callable[
    [Float[Tensor, "b c h w"], Int[Tensor, "b h w"], int],
    tuple[Float[Tensor, "b c h w"], Int[Tensor, "b h w"]],
]
"""Augments reflectance and masks together: pixels keep their classes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TileBatch:
    """Tiles of one size with their names."""

    image: Float[Tensor, "b c h w"]
    """Reflectance; bright cloud and snow exceed 1."""

    bands: BandSpec
    """Bands of the channel axis of `image`, in order."""

    ids: tuple[str, ...]
    """One stable name per tile, unique within its data set."""

    classes: tuple[str, ...]
    """The class list that `label` indexes."""

    label: Int[Tensor, " b"] | None = None
    """Class index of each tile; None if the tiles are unlabelled."""

    mask: Int[Tensor, "b h w"] | None = None
    """Class index of each pixel, or `UNKNOWN`; None without masks. `classes` are then those of
    pixels."""

    grids: tuple[Grid | None, ...] | None = None
    """Where each tile lies; None for a tile (or all) without georeference."""

    def __post_init__(self) -> None:
        """Check that all parts describe the same tiles."""
        n, c = self.image.shape[:2]
        if c != len(self.bands):
            raise DataError(
                f"tiles have {c} channels", expected=f"{len(self.bands)} ({self.bands.names})"
            )
        for name, part in (("ids", self.ids), ("label", self.label), ("grids", self.grids)):
            if part is not None and len(part) != n:
                raise DataError(f"{len(part)} {name} for {n} tiles")
        if self.mask is not None and self.mask.shape != (n, *self.image.shape[2:]):
            raise DataError(
                f"masks of shape {tuple(self.mask.shape)} for tiles of {tuple(self.image.shape)}"
            )

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self.ids)

    def numpy(self) -> NDArray[np.float32]:
        """Return reflectance as an array b c h w."""
        array: NDArray[np.float32] = self.image.cpu().numpy()
        return array

    def names(self) -> tuple[str, ...]:
        """Return the class of each tile; empty where there are no labels."""
        return () if self.label is None else tuple(self.classes[i] for i in self.label.tolist())

    def to_xarray(self) -> "xr.DataArray":
        """Return reflectance with named dimensions: tile, band, y, x.

        Raises:
            MissingPackageError: xarray is not installed.
        """
        try:
            import xarray as xr
        except ModuleNotFoundError as error:
            raise missing("xarray", "notebook") or error from error

        coords: dict[str, Any] = {"tile": list(self.ids), "band": list(self.bands.names)}
        if self.label is not None:
            coords["label"] = ("tile", list(self.names()))
        return xr.DataArray(
            self.numpy(), dims=("tile", "band", "y", "x"), coords=coords, name="reflectance"
        )

    def plot(self, composite: str = "true_colour", *, columns: int = 8) -> "Figure":
        """Return a figure of the tiles, all with one stretch. Needs matplotlib.

        Args:
            composite: a name of `rs_lowconf.bands.COMPOSITES`.
            columns: tiles side by side.

        Raises:
            DataError: the tiles lack a band of the composite, or there is no such composite.
        """
        from matplotlib.figure import Figure

        if composite not in COMPOSITES:
            raise DataError(
                f"there is no composite {composite}", expected=f"one of {', '.join(COMPOSITES)}"
            )
        shown = COMPOSITES[composite]
        channels = list(self.bands.index_of(shown.bands))
        pictures = (self.image[:, channels] / shown.white).clamp(0, 1).permute(0, 2, 3, 1).cpu()
        rows = -(-len(self) // columns)
        figure = Figure(figsize=(1.4 * columns, 1.75 * rows), layout="constrained")
        for number, picture in enumerate(pictures):
            axes = figure.add_subplot(rows, columns, number + 1)
            axes.imshow(picture.numpy(), interpolation="nearest")
            # The name shows which tiles are synthetic.
            words = [*self.names()[number : number + 1], self.ids[number]]
            axes.set_title("\n".join(words), fontsize=7)
            axes.axis("off")
        return figure


@runtime_checkable
class TileSource(Protocol):
    """One split of a labelled data set, read by index; it may be larger than memory."""

    bands: BandSpec
    classes: tuple[str, ...]
    ids: tuple[str, ...]
    labels: Int[Tensor, " n"]
    """Class index of every tile, on the CPU."""

    def __len__(self) -> int:
        """Return the number of tiles."""
        ...

    def batch(self, indices: Sequence[int]) -> TileBatch:
        """Return the tiles at `indices`, on the CPU."""
        ...


@runtime_checkable
class MaskSource(Protocol):
    """One split of tiles with masks, read by index; it may be larger than memory."""

    bands: BandSpec
    classes: tuple[str, ...]
    """Classes of pixels; a mask contains their indices, or `UNKNOWN`."""
    ids: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of tiles."""
        ...

    def batch(self, indices: Sequence[int]) -> TileBatch:
        """Return the tiles at `indices` with their masks, on the CPU; without labels."""
        ...


@runtime_checkable
class TileGenerator(Protocol):
    """A class-conditional generator of tiles: a deterministic function of its arguments."""

    bands: BandSpec
    classes: tuple[str, ...]
    tile_size: int
    latent_parts: tuple[int, ...]
    """Lengths of the latent's independent parts, in order; each is a standard normal."""

    def __call__(
        self, z: Float[Tensor, "b d"], label: Int[Tensor, " b"]
    ) -> Float[Tensor, "b c h w"]:
        """Return reflectance for latents drawn from a standard normal and class indices."""
        ...


@runtime_checkable
class TargetModel(Protocol):
    """The model under test, which reads `bands` in this order."""

    bands: BandSpec
    classes: tuple[str, ...]
    differentiable: bool
    pixelwise: bool
    """Whether it predicts a class per pixel (segmentation) instead of per tile."""

    def predict(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k *pixels"]:
        """Return log-probabilities over `classes` for reflectance in the order of `bands`.

        One distribution per tile, or per pixel (`b k h w`) if `pixelwise`.

        Logarithms, because the difference of the two largest is the logit margin, which
        does not saturate where the probability rounds to 1. Gradients flow back to `image`
        when `differentiable`.
        """
        ...


@runtime_checkable
class Critic(Protocol):
    """Rates the realism of tiles for the gate."""

    bands: BandSpec
    classes: tuple[str, ...]

    def realism(
        self, image: Float[Tensor, "b c h w"], label: Int[Tensor, " b"]
    ) -> Float[Tensor, " b"]:
        """Return a realism logit, higher for more real, given the conditioned class."""
        ...

    def features(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f"]:
        """Return its features of tiles, from which reviews can be learned."""
        ...


@runtime_checkable
class MaskJudge(Critic, Protocol):
    """A critic of tiles whose conditions are masks."""

    def agreement(
        self, image: Float[Tensor, "b c h w"], label: Int[Tensor, " b"]
    ) -> Float[Tensor, " b"]:
        """Return the share of known pixels that show the class of the mask."""
        ...


@runtime_checkable
class FeatureExtractor(Protocol):
    """A fixed map from tiles to a feature space in which distance means dissimilarity."""

    bands: BandSpec

    def features(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f"]:
        """Return one feature vector per tile."""
        ...
