"""A tile to judge with what is known of it, and the same as tags of its file."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32, UInt8, UInt16

from rs_lowconf.bands import BandSpec
from rs_lowconf.errors import ReviewError
from rs_lowconf.grid import Grid
from rs_lowconf.masks import UNKNOWN

_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")


@dataclass(frozen=True, kw_only=True, eq=False)
class TileMasks:
    """The mask that a tile was generated for, and what the model under test makes of the tile."""

    mask: UInt8[np.ndarray, "h w"]
    """Index of each pixel's class among those of masks, or `UNKNOWN`: true by construction."""

    predicted: UInt8[np.ndarray, "h w"] | None = None
    """Index of each pixel's class among the model's; None where a blind package is copied."""

    confidence: Float32[np.ndarray, "h w"] | None = None
    """The model's largest probability for each pixel, 0..1; None where `predicted` is."""

    def __post_init__(self) -> None:
        """Check once; after that the value is trusted."""
        if (self.predicted is None) != (self.confidence is None):
            raise ReviewError("a predicted mask without confidence, or the other way round")
        for part in (self.predicted, self.confidence):
            if part is not None and part.shape != self.mask.shape:
                raise ReviewError(
                    f"masks of one tile have the shapes {self.mask.shape} and {part.shape}"
                )
        if (
            self.confidence is not None
            and not ((self.confidence >= 0) & (self.confidence <= 1)).all()
        ):
            raise ReviewError(
                f"confidence is from {self.confidence.min()} to {self.confidence.max()}",
                expected="a probability for every pixel",
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class RealNeighbour:
    """The real tile that resembles a sample most, shown beside it."""

    tile_id: str
    """Its name in its data set."""

    pixels: UInt16[np.ndarray, "c h w"]
    """Reflectance x 10000, bands and size as the sample's."""

    class_name: str
    """Its class in its data set; empty when it has masks instead."""

    mask: UInt8[np.ndarray, "h w"] | None = None
    """Its own mask, or None. A blind package does not show it: that a sample has the mask of a
    real tile would tell that it is generated."""

    grid: Grid | None = None
    """Where it lies; None when its file has no georeference."""

    distance: float
    """Distance to the sample in the feature space that chose it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ReviewSample:
    """A tile to judge, with what is known of it."""

    sample_id: str
    """Names its files and finds its decision again: letters, digits, - and _, at most 40."""

    pixels: UInt16[np.ndarray, "c h w"]
    """Reflectance x 10000, at least 1 (see `geotiff.to_digital_numbers`)."""

    bands: BandSpec
    """What the channels of `pixels` hold."""

    condition: str
    """The class that the generator was asked for: the suggestion to confirm or correct. With
    `masks` the name of the mask instead, such as the id of the real tile that it is from. Of an
    observed tile the class in its data set; empty when it has none."""

    predicted: str
    """The class that the model under test finds most likely; not told of with `masks`."""

    second: str
    """The class that it finds second most likely; not told of with `masks`."""

    confidence: float
    """The probability that it gives to `predicted`; with `masks` a mean over pixels."""

    realism: float | None
    """The critic's realism logit, higher for more real; None for an observed tile that no critic
    judged."""

    observed: bool = False
    """Whether it is shown as what it is, a real tile: then the question is its class, not its
    realism. False also for a real tile that is hidden among generated ones."""

    marked: bool = False
    """Whether the question is the class of the pixel in its middle alone, which the preview
    frames; its sides are odd then."""

    masks: TileMasks | None = None
    """The classes of its pixels; None for a tile that has one class."""

    neighbour: RealNeighbour | None = None
    """The real tile shown beside it; None shows it alone."""

    grid: Grid | None = None
    """Where it lies: an observed tile, or one that was generated around the real tile beside it,
    its anchor, whose own grid it has. None shows no place."""

    provenance: Mapping[str, str] = field(default_factory=dict)
    """Where it comes from; each entry becomes a tag RSLOW_<KEY> of a confirm package."""

    def __post_init__(self) -> None:
        """Check once; after that the value is trusted."""
        if not _SAFE_ID.fullmatch(self.sample_id):
            raise ReviewError(
                f"sample id {self.sample_id!r} cannot name a file",
                expected="at most 40 letters, digits, - and _, not starting with - or _",
            )
        if self.marked and not (self.observed and all(n % 2 for n in self.pixels.shape[1:])):
            raise ReviewError(
                f"sample {self.sample_id} asks for the pixel in its middle",
                expected="an observed tile with odd sides",
            )
        if len(self.pixels) != len(self.bands):
            raise ReviewError(
                f"sample {self.sample_id} has {len(self.pixels)} channels",
                expected=f"{len(self.bands)} ({', '.join(self.bands.names)})",
            )
        if self.neighbour is not None and self.neighbour.pixels.shape != self.pixels.shape:
            raise ReviewError(
                f"neighbour {self.neighbour.tile_id} of sample {self.sample_id} has shape "
                f"{self.neighbour.pixels.shape}",
                expected=f"the sample's {self.pixels.shape}",
            )
        anchored = self.neighbour is not None and self.neighbour.grid == self.grid
        if not (self.grid is None or self.observed or anchored):
            raise ReviewError(
                f"sample {self.sample_id} has a place of its own",
                expected="that of the real tile beside it, or none",
            )
        shapes = [] if self.masks is None else [self.masks.mask.shape]
        if self.neighbour is not None and self.neighbour.mask is not None:
            shapes.append(self.neighbour.mask.shape)
        for shape in shapes:
            if shape != self.pixels.shape[1:]:
                raise ReviewError(
                    f"a mask of sample {self.sample_id} has shape {shape}",
                    expected=f"the tile's {self.pixels.shape[1:]}",
                )
        if not self.observed and (self.realism is None or not self.condition):
            raise ReviewError(
                f"sample {self.sample_id} has no realism or condition",
                expected="both for a generated tile",
            )
        if not (0 <= self.confidence <= 1 and math.isfinite(self.realism or 0)):
            raise ReviewError(
                f"sample {self.sample_id} has confidence {self.confidence} and realism "
                f"{self.realism}",
                expected="a probability and a finite number",
            )


def sample_tags(sample: ReviewSample) -> dict[str, str]:
    """Return what is known of a sample as tags of its tile."""
    neighbour = sample.neighbour
    asked = "RSLOW_CLASS" if sample.observed else "RSLOW_CONDITION"
    beside = "RSLOW_NEAREST_REAL" if sample.grid is None else "RSLOW_ANCHOR"
    return {
        **{f"RSLOW_{key.upper()}": value for key, value in sample.provenance.items()},
        "RSLOW_SAMPLE_ID": sample.sample_id,
        **({asked: sample.condition} if sample.condition else {}),
        # Of a tile with masks, means over pixels tell nothing.
        **(
            {"RSLOW_PREDICTED": sample.predicted, "RSLOW_SECOND": sample.second}
            if sample.masks is None
            else {}
        ),
        "RSLOW_CONFIDENCE": f"{sample.confidence:.6f}",
        **({} if sample.realism is None else {"RSLOW_REALISM": f"{sample.realism:.6f}"}),
        **({} if neighbour is None else {beside: neighbour.tile_id}),
        "RSLOW_LEVEL": sample.bands.level,
    }


def neighbour_tags(neighbour: RealNeighbour) -> dict[str, str]:
    """Return what is known of a real tile as tags of its file."""
    return {
        "RSLOW_TILE_ID": neighbour.tile_id,
        "RSLOW_CLASS": neighbour.class_name,
        "RSLOW_DISTANCE": f"{neighbour.distance:.6f}",
    }


def check_masks(
    samples: Sequence[ReviewSample],
    pixel_classes: Sequence[str],
    target_classes: Sequence[str],
    *,
    blind: bool,
) -> None:
    """Check that all samples have masks of these classes; without pixel classes, that none has.

    Raises:
        ReviewError: one of them does not.
    """
    given = sum(sample.masks is not None for sample in samples)
    if given != (len(samples) if pixel_classes else 0):
        raise ReviewError(
            f"{given} of {len(samples)} samples have masks, and there are "
            f"{len(pixel_classes)} classes of pixels",
            expected="masks for every sample and their classes, or neither",
        )
    if len(pixel_classes) > UNKNOWN or len(target_classes) > UNKNOWN:
        raise ReviewError(f"masks of more than {UNKNOWN} classes cannot be written")
    for sample in samples:
        masks, neighbour = sample.masks, sample.neighbour
        if masks is None:
            continue
        if masks.predicted is None and not blind:
            raise ReviewError(
                f"sample {sample.sample_id} has no predicted mask",
                expected="one, unless the review is blind",
            )
        known = [masks.mask]
        if neighbour is not None and neighbour.mask is not None:
            known.append(neighbour.mask)
        for mask, classes in (
            *((mask[mask != UNKNOWN], pixel_classes) for mask in known),
            *(() if masks.predicted is None else ((masks.predicted, target_classes),)),
        ):
            if (mask >= len(classes)).any():
                raise ReviewError(
                    f"a mask of sample {sample.sample_id} holds the class {mask.max()}",
                    expected=f"0 to {len(classes) - 1} ({', '.join(classes)})",
                )
