"""Parts of the gate: the critic's logit, likeness to real tiles, and plausible spectra."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from rs_lowconf.search.head import texture_of
from rs_lowconf.search.neighbours import nearest
from rs_lowconf.seeds import seed_of
from rs_lowconf.types import TileSource

_PIXELS = 200_000
_KEPT_VARIANCE = 0.99


class Likeness:
    """Closeness of a tile to its nearest real training tile, in any orientation.

    The score is minus the logarithm of the distance: low is unlike any real tile, very high is a
    copy.
    """

    def __init__(
        self,
        features: Callable[[Float[Tensor, "b c h w"]], Float[Tensor, "b f"]],
        bank: Float[Tensor, "n f"],
    ) -> None:
        """Compare with the features of training tiles.

        Args:
            features: of tiles whose channels are in the order of the gate's bands.
            bank: features of the training tiles in all orientations, one row each.
        """
        self._features = features
        self._bank = bank

    def __call__(
        self,
        image: Float[Tensor, "b c h w"],
        label: Int[Tensor, " b"],  # noqa: ARG002  # a tile between two classes is no fake
    ) -> Float[Tensor, " b"]:
        """Return minus the logarithm of the distance."""
        distance = nearest(self._features(image).cpu(), self._bank)[1]
        return -distance.clamp_min(1e-9).log()


class Spectra:
    """How well pixels follow the relations between bands of real pixels.

    Principal components beyond 99 % of the variance are nearly 0 in real tiles; the
    score is minus the logarithm of a tile's mean energy there, in real standard deviations.
    """

    def __init__(self, matrix: Float[Tensor, "r c"], centre: Float[Tensor, " c"]) -> None:
        """Keep the result of `fit_spectra`: the small components, scaled, and the mean pixel."""
        self.matrix = matrix
        self.centre = centre

    def __call__(
        self,
        image: Float[Tensor, "b c h w"],
        label: Int[Tensor, " b"],  # noqa: ARG002  # the relations hold for every class
    ) -> Float[Tensor, " b"]:
        """Return minus the logarithm of the mean energy."""
        centred = image - self.centre.to(image)[:, None, None]
        rest = F.conv2d(centred, self.matrix.to(image)[:, :, None, None])
        return -rest.square().mean((1, 2, 3)).clamp_min(1e-9).log()


def pixel_features(image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f"]:
    """Return statistics of spectra and fine texture, which three-band composites do not show.

    Of each band the mean, the logarithm of the deviation, and that of the power in octaves of
    frequency (which mean network features hardly contain); of each pair of bands the
    correlation.
    """
    pixels = image.double().flatten(2)
    mean = pixels.mean(2)
    pixels = pixels - mean[:, :, None]
    covariance = pixels @ pixels.mT / pixels.shape[2]
    # Below a tenth of a digital number there is only rounding noise.
    deviation = covariance.diagonal(dim1=1, dim2=2).clamp_min(1e-10).sqrt()
    correlation = covariance / (deviation[:, :, None] * deviation[:, None])
    first, second = torch.triu_indices(image.shape[1], image.shape[1], 1)
    statistics = [mean, deviation.log(), correlation[:, first, second]]
    return torch.cat([torch.cat(statistics, 1).float(), texture_of(image)], 1)


def fit_spectra(source: TileSource, channels: tuple[int, ...], seed: int) -> Spectra:
    """Fit to the pixels of training tiles.

    Args:
        source: real tiles.
        channels: the source's channels in the order that tiles will have.
        seed: of the choice of pixels.
    """
    rng = torch.Generator().manual_seed(seed_of(seed, "search", "spectra"))
    tiles = torch.randperm(len(source), generator=rng)[:1000].tolist()
    image = source.batch(tiles).image[:, list(channels)]
    pixels = image.permute(0, 2, 3, 1).flatten(0, 2).double()
    chosen = torch.randint(len(pixels), (min(_PIXELS, len(pixels)),), generator=rng)
    pixels = pixels[chosen]
    values, vectors = torch.linalg.eigh(torch.cov(pixels.T).reshape(len(channels), -1))
    # Ascending: components are small as long as their cumulative variance is.
    small = values.cumsum(0) <= (1 - _KEPT_VARIANCE) * values.sum()
    small[0] = True
    scale = values[small].clamp_min(1e-12).sqrt()
    return Spectra((vectors[:, small] / scale).T.float(), pixels.mean(0).float())
