"""A tile to judge with what is known of it, and the same as tags of its file."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Float32, UInt8, UInt16

from rs_lowconf.bands import BandSpec
from rs_lowconf.errors import ReviewError
from rs_lowconf.grid import Grid
from rs_lowconf.masks import UNKNOWN

_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")


@dataclass(frozen=True, kw_only=True, eq=False)
class TileMasks:
    """The mask to judge, and what the model under test makes of the tile."""

    mask: UInt8[np.ndarray, "h w"]
    """Index of each pixel's class among those of masks, or `UNKNOWN`: what a tile was generated
    for, which is true by construction; of a real tile its own mask, or the model's."""

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


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the model under test says of a tile."""

    class_name: str
    """The class that it finds most likely; not shown where a sample has masks."""

    second: str
    """The class that it finds second most likely; not shown where a sample has masks."""

    confidence: float
    """The probability of `class_name`, 0..1; with masks the mean over pixels of the largest."""

    def __post_init__(self) -> None:
        """Check once; after that the value is trusted."""
        if not 0 <= self.confidence <= 1:
            raise ReviewError(
                f"a prediction has the confidence {self.confidence}", expected="a probability"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Generated:
    """A generated tile to judge; or a real tile hidden among them, shown as they are."""

    sample_id: str
    """Names its files and finds its decision again: letters, digits, - and _, at most 40."""

    origin: Literal["found", "audit", "real"]
    """`found` passed the gate, `audit` was rejected by it, `real` is a hidden observation."""

    pixels: UInt16[np.ndarray, "c h w"]
    """Reflectance x 10000, at least 1 (see `stored.stored_numbers`)."""

    bands: BandSpec
    """What the channels of `pixels` hold."""

    condition: str
    """The class that the generator was asked for: the suggestion to confirm or correct. With
    `masks` the name of the mask instead, such as the id of the real tile that it is from."""

    prediction: Prediction

    realism: float
    """The critic's realism logit, higher for more real."""

    gate_score: float
    """The gate's joint score, the worst of its standardised parts, higher for more real."""

    tile: str
    """Its GeoTIFF with all that is known of it, relative to the folder of the review store."""

    sha256: str | None = None
    """Checksum of that file when it was first published; None takes that of the file as it is."""

    masks: TileMasks | None = None
    """The classes of its pixels; None for a tile that has one class."""

    neighbour: RealNeighbour | None = None
    """The real tile shown beside it; None shows it alone."""

    anchored: bool = False
    """Whether it was generated around the real tile beside it, in whose grid it then lies."""

    provenance: Mapping[str, str] = field(default_factory=dict)
    """Where it comes from; each entry becomes a tag RSLOW_<KEY> of a confirm package."""

    @property
    def grid(self) -> Grid | None:
        """Return where it lies; None shows no place."""
        return self.neighbour.grid if self.anchored and self.neighbour is not None else None

    def __post_init__(self) -> None:
        """Check once; after that the value is trusted."""
        _check_tile(self)
        beside = self.neighbour
        if beside is not None and beside.pixels.shape != self.pixels.shape:
            raise ReviewError(
                f"neighbour {beside.tile_id} of sample {self.sample_id} has shape "
                f"{beside.pixels.shape}",
                expected=f"the sample's {self.pixels.shape}",
            )
        if self.anchored and self.grid is None:
            raise ReviewError(
                f"sample {self.sample_id} lies where no real tile beside it lies",
                expected="an anchor with a place",
            )
        masks = [] if self.masks is None else [self.masks.mask]
        if beside is not None and beside.mask is not None:
            masks.append(beside.mask)
        for mask in masks:
            if mask.shape != self.pixels.shape[1:]:
                raise _wrong_shape(self.sample_id, mask, self.pixels)
        if not (self.condition and math.isfinite(self.realism)):
            raise ReviewError(
                f"sample {self.sample_id} has the condition {self.condition!r} and realism "
                f"{self.realism}",
                expected="a name and a finite number",
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Observed:
    """A real tile that is shown as one.

    The question is its class, or that of one of its pixels, or whether a mask of it is right.
    """

    sample_id: str
    """As of a generated tile."""

    pixels: UInt16[np.ndarray, "c h w"]
    """Reflectance x 10000, at least 1: of the tile, or of the surroundings of `pixel`."""

    bands: BandSpec
    """What the channels of `pixels` hold."""

    label: str | None
    """The class that its data set gives it, which is suggested; None when there is none. With
    `masks` instead whose mask it is."""

    prediction: Prediction | None
    """None when no model was asked."""

    grid: Grid | None
    """Where `pixels` lie; None when their file has no georeference."""

    tile: str
    """Id of the tile in the catalog, because its pixels stay where they are."""

    pixel: tuple[int, int] | None = None
    """Row and column in the tile of the pixel whose class is asked for, which the preview frames:
    it is in the middle of `pixels`, whose sides are odd. None asks for the class of the tile."""

    sha256: str | None = None
    """Checksum of the tile's digital numbers as the catalog has it; None takes that of `pixels`."""

    masks: TileMasks | None = None
    """The mask that is judged; None where a class is asked for."""

    provenance: Mapping[str, str] = field(default_factory=dict)
    """As of a generated tile."""

    def __post_init__(self) -> None:
        """Check once; after that the value is trusted."""
        _check_tile(self)
        if self.masks is not None and self.masks.mask.shape != self.pixels.shape[1:]:
            raise _wrong_shape(self.sample_id, self.masks.mask, self.pixels)
        if self.pixel is not None and not all(side % 2 for side in self.pixels.shape[1:]):
            raise ReviewError(
                f"sample {self.sample_id} asks for the pixel in the middle of {self.pixels.shape}",
                expected="odd sides",
            )


ReviewSample = Generated | Observed
"""What a reviewer judges."""


def neighbour_of(sample: ReviewSample) -> RealNeighbour | None:
    """Return the real tile that is shown beside a sample; observed ones are shown alone."""
    return sample.neighbour if isinstance(sample, Generated) else None


def masks_of(sample: ReviewSample) -> TileMasks | None:
    """Return the classes of a sample's pixels; None where the question is one class."""
    return sample.masks


def suggestion_of(sample: ReviewSample) -> str | None:
    """Return the class to confirm, or what the mask is called; None where there is none."""
    return sample.condition if isinstance(sample, Generated) else sample.label


def sample_tags(sample: ReviewSample) -> dict[str, str]:
    """Return what is known of a sample as tags of its tile."""
    suggestion, prediction = suggestion_of(sample), sample.prediction
    tags = {f"RSLOW_{key.upper()}": value for key, value in sample.provenance.items()}
    tags["RSLOW_SAMPLE_ID"] = sample.sample_id
    if suggestion is not None:
        key = "RSLOW_MASK" if masks_of(sample) is not None else "RSLOW_CLASS"
        tags["RSLOW_CONDITION" if isinstance(sample, Generated) else key] = suggestion
    if prediction is not None:
        if masks_of(sample) is None:  # means over pixels tell nothing
            tags["RSLOW_PREDICTED"] = prediction.class_name
            tags["RSLOW_SECOND"] = prediction.second
        tags["RSLOW_CONFIDENCE"] = f"{prediction.confidence:.6f}"
    if isinstance(sample, Generated):
        tags["RSLOW_REALISM"] = f"{sample.realism:.6f}"
        if sample.neighbour is not None:
            key = "RSLOW_ANCHOR" if sample.anchored else "RSLOW_NEAREST_REAL"
            tags[key] = sample.neighbour.tile_id
    return tags


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
    given = sum(masks_of(sample) is not None for sample in samples)
    if given != (len(samples) if pixel_classes else 0):
        raise ReviewError(
            f"{given} of {len(samples)} samples have masks, and there are "
            f"{len(pixel_classes)} classes of pixels",
            expected="masks for every sample and their classes, or neither",
        )
    if len(pixel_classes) > UNKNOWN or len(target_classes) > UNKNOWN:
        raise ReviewError(f"masks of more than {UNKNOWN} classes cannot be written")
    for sample in samples:
        masks, neighbour = masks_of(sample), neighbour_of(sample)
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


def _wrong_shape(
    name: str, mask: UInt8[np.ndarray, "h w"], pixels: UInt16[np.ndarray, "c v u"]
) -> ReviewError:
    return ReviewError(
        f"a mask of sample {name} has shape {mask.shape}", expected=f"the tile's {pixels.shape[1:]}"
    )


def _check_tile(sample: ReviewSample) -> None:
    if not _SAFE_ID.fullmatch(sample.sample_id):
        raise ReviewError(
            f"sample id {sample.sample_id!r} cannot name a file",
            expected="at most 40 letters, digits, - and _, not starting with - or _",
        )
    if len(sample.pixels) != len(sample.bands):
        raise ReviewError(
            f"sample {sample.sample_id} has {len(sample.pixels)} channels",
            expected=f"{len(sample.bands)} ({', '.join(sample.bands.names)})",
        )
