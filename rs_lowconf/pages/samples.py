"""Samples as a page shows them, and groups of samples that fail alike, with a name for each."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt16
from PIL import Image
from sklearn.cluster import KMeans

from rs_lowconf.bands import PRODUCT_SCALE, TRUE_COLOUR, WAVELENGTH_NM, BandSpec
from rs_lowconf.class_map import PLAIN, ClassMap
from rs_lowconf.pages.pictures import composites, sheet, webp
from rs_lowconf.review.panels import panels_of
from rs_lowconf.review.samples import Generated

_RIM = 4
"""Pixels at the edge of a tile."""
_LARGE = 12
"""Samples from which a group is looked at for parts."""
_PART = 6
"""Samples of a part, on average at least."""
_MOST_PARTS = 4
_APART = 0.8
"""Deviations from which a trait is worth a name."""
_CLEAR = 3.0
"""Deviations from which no further ones make a trait clearer."""

#: What a tile has more and less of than others; the most specific first, as those that follow may
#: be due to it.
_TRAITS: Mapping[str, tuple[str, str]] = {
    "rim": ("bright rim", "dark rim"),
    "vegetation": ("green", "little vegetation"),
    "redness": ("reddish", "bluish"),
    "roughness": ("rough", "smooth"),
    "brightness": ("bright", "dark"),
    "contrast": ("much contrast", "little contrast"),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Card:
    """One sample."""

    name: str
    condition: str
    """The class it was generated for, or the name of its mask."""
    predicted: str
    """Empty where the target predicts a class per pixel."""
    second: str
    confidence: float
    gate_score: float
    """The gate's joint score, higher for more real."""
    picture: str
    """WebP as base64: its composites and maps side by side, below them those of the real tile that
    is most like it, if there is one."""
    size: tuple[int, int]
    """Width and height of the picture in pixels."""
    spectrum: tuple[tuple[int, float], ...]
    """Wavelength in nanometres and mean reflectance of each band, by wavelength."""
    real_spectrum: tuple[tuple[int, float], ...]
    """The same of the real tile; empty without one."""
    neighbour: str
    """Name and class of the real tile; empty without one."""
    features: Float[np.ndarray, " f"]
    traits: Mapping[str, float]
    real_traits: Mapping[str, float] | None
    class_map: ClassMap = PLAIN
    """Which predictions mean the condition."""

    @property
    def confusion(self) -> str:
        """Return what the target makes of it."""
        if not self.predicted:
            return "unsure pixels"
        if self.class_map.same(self.condition, self.predicted):
            return f"{self.condition} barely recognised"
        return f"{self.condition} taken for {self.predicted}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """Samples that fail alike."""

    name: str
    """What the target does, and what the tiles have in common."""
    cards: tuple[Card, ...]


def card_of(
    sample: Generated,
    features: Float[np.ndarray, " f"],
    pixel_classes: Sequence[str],
    target_classes: Sequence[str],
    class_map: ClassMap = PLAIN,
) -> Card:
    """Return a sample as a page shows it.

    Args:
        sample: with its prediction and the real tile beside it.
        features: of the space in which distance means dissimilarity.
        pixel_classes: of masks; empty where tiles have a class.
        target_classes: of the model under test.
        class_map: which of its classes mean which condition.
    """
    beside, bands = sample.neighbour, sample.bands
    rows = [composites(sample.pixels, bands)]
    if sample.masks is not None:
        known = {
            "mask": sample.masks.mask,
            "predicted": sample.masks.predicted,
            "confidence": sample.masks.confidence,
        }
        for panel in panels_of("confirm", pixel_classes, target_classes):
            values = known[panel.kind]
            if values is not None:
                rows[0].append(panel.paint(values))
    if beside is not None:
        rows.append(composites(beside.pixels, bands))
    shown = sheet(rows)
    known_class = f" ({beside.class_name})" if beside is not None and beside.class_name else ""
    return Card(
        name=sample.sample_id,
        condition=sample.condition,
        predicted="" if sample.masks is not None else sample.prediction.class_name,
        second="" if sample.masks is not None else sample.prediction.second,
        confidence=sample.prediction.confidence,
        gate_score=sample.gate_score,
        picture=webp(Image.fromarray(shown)),
        size=(shown.shape[1], shown.shape[0]),
        spectrum=_spectrum(sample.pixels, bands),
        real_spectrum=() if beside is None else _spectrum(beside.pixels, bands),
        neighbour="" if beside is None else f"{beside.tile_id}{known_class}",
        features=np.asarray(features, dtype=np.float64),
        traits=traits_of(sample.pixels, bands),
        real_traits=None if beside is None else traits_of(beside.pixels, bands),
        class_map=class_map,
    )


def groups_of(cards: Sequence[Card], seed: int = 0) -> list[Group]:
    """Return groups of samples that fail alike, the largest first.

    Samples with the same condition and prediction are one group; where there are many, parts that
    look alike are told apart if a trait tells them apart.

    Args:
        cards: all samples.
        seed: of the search for parts.
    """
    confused: dict[str, list[Card]] = defaultdict(list)
    for card in cards:
        confused[card.confusion].append(card)
    found = []
    for name, own in confused.items():
        parts: dict[str, list[Card]] = defaultdict(list)
        for some, others in _parts(own, seed):
            parts[_trait(some, others)].extend(some)
        found += [
            Group(name=f"{name}, {trait}" if trait else name, cards=tuple(some))
            for trait, some in parts.items()
        ]
    return sorted(found, key=lambda group: (-len(group.cards), group.name))


def traits_of(pixels: UInt16[np.ndarray, "c h w"], bands: BandSpec) -> dict[str, float]:
    """Return numbers that say how a tile looks, those that its bands allow."""
    reflectance = pixels.astype(np.float64) / PRODUCT_SCALE
    shown: list[str] = [name for name in TRUE_COLOUR if name in bands.names]
    light = reflectance[list(bands.index_of(shown or bands.names[:1]))].mean(0)
    steps = np.abs(np.diff(light, axis=0)).mean() + np.abs(np.diff(light, axis=1)).mean()
    inner = light[_RIM:-_RIM, _RIM:-_RIM]
    around = (light.sum() - inner.sum()) / (light.size - inner.size)
    traits = {
        "brightness": light.mean(),
        "contrast": light.std(),
        "roughness": steps / (light.std() + 1e-4),
        "rim": (around - inner.mean()) / (light.std() + 1e-4),
    }
    if {"B04", "B08"} <= set(bands.names):
        red, near = (reflectance[bands.index_of((name,))[0]] for name in ("B04", "B08"))
        traits["vegetation"] = ((near - red) / (near + red).clip(1e-4)).mean()
    if set(TRUE_COLOUR) <= set(bands.names):
        red, _, blue = (reflectance[bands.index_of((name,))[0]].mean() for name in TRUE_COLOUR)
        traits["redness"] = red / max(red + blue, 1e-4)
    return {name: float(value) for name, value in traits.items()}


def places_of(cards: Sequence[Card]) -> Float[np.ndarray, "n 2"]:
    """Return places on a map in which samples that look alike are near each other, in 0 .. 1.

    The first two principal components of the features, each scaled to unit deviation.
    """
    if len(cards) < 3:
        return np.full((len(cards), 2), 0.5)
    scaled = _scaled(cards)
    left, sizes, _ = np.linalg.svd(scaled, full_matrices=False)
    place = left[:, :2] * sizes[:2]
    place = np.pad(place, ((0, 0), (0, 2 - place.shape[1])))
    low, high = place.min(0), place.max(0)
    result: Float[np.ndarray, "n 2"] = (place - low) / (high - low).clip(1e-9)
    return result


def _scaled(cards: Sequence[Card]) -> Float[np.ndarray, "n f"]:
    features = np.stack([card.features for card in cards])
    scaled: Float[np.ndarray, "n f"] = (features - features.mean(0)) / features.std(0).clip(1e-9)
    return scaled


def _parts(own: Sequence[Card], seed: int) -> list[tuple[list[Card], list[Card]]]:
    """Return parts of a group that look alike, each with the samples that it is compared with."""
    if len(own) < _LARGE:
        return [([*own], [])]
    scaled = _scaled(own)
    many = min(_MOST_PARTS, len(own) // _PART, len(np.unique(scaled, axis=0)))
    label = KMeans(many, n_init=4, random_state=seed).fit_predict(scaled)
    return [
        (
            [card for card, own_label in zip(own, label, strict=True) if own_label == part],
            [card for card, own_label in zip(own, label, strict=True) if own_label != part],
        )
        for part in range(many)
        if (label == part).any()
    ]


def _trait(some: Sequence[Card], others: Sequence[Card]) -> str:
    """Return what samples have in common that others, and their real tiles, have not."""
    real = [card.real_traits for card in some if card.real_traits is not None]
    beside = [card.traits for card in others]
    ours = [card.traits for card in some]
    compared = [theirs for theirs in (beside, real) if len(theirs) > 2]
    if len(some) < 3 or not compared:
        return ""
    apart = {}
    for name in ours[0]:
        distances = [_distance(ours, theirs, name) for theirs in compared]
        if len({distance > 0 for distance in distances}) == 1:
            apart[name] = min(distances, key=abs)
    furthest = max((abs(distance) for distance in apart.values()), default=0.0)
    for name, (more, less) in _TRAITS.items():
        if name in apart and abs(apart[name]) >= max(_APART, furthest / 2):
            return more if apart[name] > 0 else less
    return ""


def _distance(
    ours: Sequence[Mapping[str, float]], theirs: Sequence[Mapping[str, float]], name: str
) -> float:
    """Return how far means of a trait are apart, in deviations, at most `_CLEAR`."""
    own, other = (np.array([traits[name] for traits in tiles]) for tiles in (ours, theirs))
    spread = float(np.sqrt((own.var() + other.var()) / 2))
    distance = float(own.mean() - other.mean()) / max(spread, 1e-9)
    return max(-_CLEAR, min(_CLEAR, distance))


def _spectrum(
    pixels: UInt16[np.ndarray, "c h w"], bands: BandSpec
) -> tuple[tuple[int, float], ...]:
    mean = pixels.reshape(len(pixels), -1).mean(1) / PRODUCT_SCALE
    known = [
        (WAVELENGTH_NM[name], float(value))
        for name, value in zip(bands.names, mean, strict=True)
        if name in WAVELENGTH_NM
    ]
    return tuple(sorted(known))
