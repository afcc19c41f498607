"""How well generated tiles match their masks, and their spectra match real ones."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rs_lowconf.errors import ModelError
from rs_lowconf.gan.condition import masks_of
from rs_lowconf.gan.figures import sample
from rs_lowconf.gan.mask_networks import MaskGenerator, mask_layers
from rs_lowconf.gan.masks import ALL_TILES, alike
from rs_lowconf.gan.measure import Estimate, Measurement
from rs_lowconf.gan.quality import matched_sets
from rs_lowconf.gan.spectra import limits_of, tile_spectra
from rs_lowconf.gan.spectral_quality import spectral_figures
from rs_lowconf.gan.tiles import DrawnTiles
from rs_lowconf.masks import UNKNOWN
from rs_lowconf.seeds import seed_of
from rs_lowconf.types import MaskSource, TargetModel, TileSource
from rs_lowconf.vocabulary import class_list, join

_BATCH = 32
_RESAMPLES = 1_000


@torch.no_grad()
def mask_fidelity(
    generator: MaskGenerator,
    real: MaskSource,
    segmenter: TargetModel,
    *,
    seed: int,
    device: torch.device,
) -> list[Measurement]:
    """Return, class by class, how well a segmenter recovers the masks from tiles drawn for them.

    The intersection over union of its answers with the masks, over all tiles, on generated
    tiles; as the floor, on the real tiles of the same masks; and the ratio of both, with
    paired bootstrap intervals over tiles. At a ratio of 1 classes are as distinct as in real tiles,
    above 1 more distinct.

    Args:
        generator: trained.
        real: tiles with masks, with the generator's bands and classes, that neither the generator
            nor the segmenter learned from.
        segmenter: a model that predicts a class per pixel and took no part in the training.
        seed: of latents and resamples.
        device: where the segmenter is.

    Raises:
        ModelError: the segmenter predicts one class per tile.
        DataError: it reads bands that the tiles lack, has none of their classes, or has a class
            name that is nearly equal to theirs; or there are no masks.
    """
    if not segmenter.pixelwise:
        raise ModelError(
            "the segmenter predicts one class per tile",
            expected="a target that predicts one class per pixel",
        )
    names = real.classes
    meeting = join(
        class_list("the segmenter", segmenter.classes), class_list("the masks", names)
    ).meeting()
    # Classes that the tiles do not have count as none of theirs.
    known = meeting.right.names
    index = torch.tensor([known.index(n) if n in known else UNKNOWN for n in meeting.left.names])
    channels = list(generator.bands.index_of(segmenter.bands.names))
    counts = []
    for part in _parts(len(real)):
        tiles = real.batch(part)
        mask = masks_of(tiles)
        drawn = sample(generator, mask, seed_of(seed, "fidelity", part[0]))
        predictions = [
            index[segmenter.predict(image[:, channels].to(device)).argmax(1).cpu()]
            for image in (drawn, tiles.image)
        ]
        counts.append(
            torch.stack([overlaps(predicted, mask, len(names)) for predicted in predictions])
        )
    generated, wanted = torch.cat(counts, dim=1)  # n 2 k each
    found = []
    for i, name in enumerate(names):
        if known[i] in meeting.both:
            found += _fidelity(name, generated[:, :, i], wanted[:, :, i], seed)
        else:
            found.append(
                Measurement(name=f"IoU of {name}", note="left out: the segmenter lacks the class")
            )
    return found


def overlaps(
    predicted: Int[Tensor, "b h w"], mask: Int[Tensor, "b h w"], classes: int
) -> Float[Tensor, "b 2 k"]:
    """Return the known pixels in intersection and union of two masks, per tile and class."""
    known = (mask != UNKNOWN)[:, None]
    a, b = (mask_layers(labels, classes)[:, :classes] * known for labels in (predicted, mask))
    both = (a * b).sum((2, 3))
    return torch.stack([both, a.sum((2, 3)) + b.sum((2, 3)) - both], dim=1)


def _fidelity(
    name: str, generated: Float[Tensor, "n 2"], real: Float[Tensor, "n 2"], seed: int
) -> list[Measurement]:
    n = len(real)
    rng = torch.Generator().manual_seed(seed_of(seed, "fidelity", name))
    # The first row is the original tiles, the others are resamples of them.
    rows = torch.cat([torch.arange(n)[None], torch.randint(n, (_RESAMPLES, n), generator=rng)])
    ours, theirs = (values.double()[rows].sum(1) for values in (generated, real))  # r 2
    if ours[:, 1].min() == 0 or theirs[:, 1].min() == 0:
        return [
            Measurement(name=f"IoU of {name}", note="left out: too few tiles contain the class")
        ]
    measured, floor = (values[:, 0] / values[:, 1] for values in (ours, theirs))
    fidelity = Measurement(
        name=f"mask fidelity of {name}",
        measured=_interval(measured / floor, n) if floor.min() > 0 else None,
        better="like the floor",
        note="IoU on generated tiles over IoU on real tiles, paired over tiles; 1: as on real tiles"
        if floor.min() > 0
        else "left out: the segmenter does not find the class in real tiles",
    )
    return [
        Measurement(
            name=f"IoU of {name}",
            measured=_interval(measured, n),
            floor=_interval(floor, n),
            better="like the floor",
            note="of the segmenter's predictions with the masks; the floor is on real tiles",
        ),
        fidelity,
    ]


def _interval(values: Float[Tensor, " r"], n: int) -> Estimate:
    """Return the first value with the 95 % interval of the others."""
    low, high = torch.quantile(values[1:], torch.tensor([0.025, 0.975], dtype=values.dtype))
    return Estimate(value=float(values[0]), low=float(low), high=float(high), n=n)


def mask_spectral_figures(
    generator: MaskGenerator, train: MaskSource, test: MaskSource, seed: int
) -> tuple[list[Measurement], dict[str, Any]]:
    """Return the spectral part of the quality table, all tiles as one class.

    Tiles are drawn for the masks of the training tiles, so that class shares do not matter; the
    floor is the same for these real tiles.
    """
    masks = [masks_of(train.batch(part)) for part in _parts(len(train))]
    image = torch.cat(
        [sample(generator, m, seed_of(seed, "spectra", i)) for i, m in enumerate(masks)]
    )
    drawn = DrawnTiles(
        image,
        torch.zeros(len(image), dtype=torch.long),
        bands=train.bands,
        classes=ALL_TILES,
        name="generated",
    )
    sources: dict[str, TileSource] = {
        "generated": drawn,
        "train": alike(train),
        "test": alike(test),
    }
    limits = limits_of(sources["train"])
    spectra = {
        name: tile_spectra(tiles, limits, seed_of(seed, name)) for name, tiles in sources.items()
    }
    # No spectral figure reads features, so band means replace them.
    features = {name: measured.mean.float() for name, measured in spectra.items()}
    return spectral_figures(
        matched_sets(features, spectra, bands=train.bands, classes=ALL_TILES, seed=seed)
    )


def _parts(count: int) -> list[range]:
    return [range(first, min(first + _BATCH, count)) for first in range(0, count, _BATCH)]
