"""The critics of a generator that learns from several sources of tiles."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rs_lowconf.bands import COMPOSITES, BandSpec, composites_of
from rs_lowconf.errors import DataError
from rs_lowconf.gan.feature_critic import FeatureHeads, FeatureMixer, TextureCritic
from rs_lowconf.gan.frozen import STAGES, frozen_network
from rs_lowconf.gan.networks import Discriminator
from rs_lowconf.gan.rendering import Rendering
from rs_lowconf.gan.spectral import SpectralBasis
from rs_lowconf.settings import FrozenSettings, GanSettings

WHOLE_FROM = 2_000
"""Number of tiles from which a source's native critic sees whole tiles; with fewer it would
memorise them, so it sees a few pixels at a time."""
_MEASURED = 256
"""Tiles on which mixed features are scaled."""


@dataclass(frozen=True, kw_only=True)
class SourceShape:
    """The shape of a source for which its critics are built."""

    name: str
    rendering: Rendering
    tiles: int
    """Training tiles."""

    @property
    def bands(self) -> BandSpec:
        """Return the bands of the source."""
        return self.rendering.bands

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        return {
            "name": self.name,
            "tiles": self.tiles,
            "bands": self.bands.to_json(),
            "eight_bits": self.rendering.eight_bits,
            "chroma": self.rendering.chroma,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "SourceShape":
        """Return what `to_json` described."""
        rendering = Rendering(
            bands=BandSpec.from_json(values["bands"]),
            eight_bits=values["eight_bits"],
            chroma=values["chroma"],
        )
        return cls(name=values["name"], rendering=rendering, tiles=values["tiles"])


@dataclass(frozen=True, kw_only=True, eq=False)
class SourceCritic:
    """One critic of one source: its input and its network."""

    name: str
    """Unique among the critics of a training."""
    source: int
    """Index of its source."""
    bands: BandSpec
    """Of its source."""
    network: FeatureHeads | TextureCritic | Discriminator
    """From its input and labels to logits."""
    mixer: FeatureMixer | None
    """Computes its input; None for a native critic, which sees whitened reflectance."""
    gamma: float
    """Weight of R1 and R2 on its input."""
    weight: float
    """In the generator's loss."""
    turn: tuple[int, int]
    """(k, n): it is used in every n-th step, from the k-th on."""

    def see(
        self, image: Float[Tensor, "b c h w"], dither: Float[Tensor, "b c h w"]
    ) -> tuple[Tensor, ...]:
        """Return its input.

        Args:
            image: reflectance in the bands of its source, rendered like its source.
            dither: uniform noise in -0.5 .. 0.5 digital numbers. Files hold whole numbers and
                generated tiles do not, so noise of one step is added to both.
        """
        if isinstance(self.network, FeatureHeads):
            assert self.mixer is not None  # noqa: S101  # heads judge mixed features
            scales: tuple[Tensor, ...] = self.mixer(image + dither / self.bands.scale)
            return scales
        return (self.network.components(image, dither),)

    def judge(
        self, seen: tuple[Tensor, ...], label: Int[Tensor, "b *pixels"]
    ) -> Float[Tensor, "b s"]:
        """Return its logits, one or more per tile; critics on features also take masks."""
        if self.mixer is not None:
            logits: Tensor = self.network(seen, label)
            return logits
        logit: Tensor = self.network(seen[0], label)
        return logit[:, None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Critics:
    """All critics of a training, with their shared mixers."""

    shapes: tuple[SourceShape, ...]
    mixers: dict[str, FeatureMixer]
    """By composite."""
    critics: tuple[SourceCritic, ...]
    """The first is the one on the features of most tiles."""

    def modules(self) -> dict[str, nn.Module]:
        """Return the modules with weights, by name."""
        return modules_of(self.critics, self.mixers)


def modules_of(
    critics: Sequence[SourceCritic], mixers: Mapping[str, FeatureMixer]
) -> dict[str, nn.Module]:
    """Return the modules of critics with weights, by name."""
    return {
        **{critic.name: critic.network for critic in critics},
        **{f"mixer {name}": mixer for name, mixer in mixers.items()},
    }


def build_critics(
    settings: GanSettings,
    shapes: Sequence[SourceShape],
    bases: Sequence[SpectralBasis],
    *,
    classes: tuple[str, ...],
    tile_size: int,
    device: torch.device,
) -> Critics:
    """Build the critics of some sources, with weights from torch's global random state.

    Every composite is seen in the tiles of the source that has most of them; every source has a
    native critic. Critics of the source with most tiles judge every step, the others less often,
    with proportionally larger weight.

    Args:
        settings: of the networks.
        shapes: of the sources.
        bases: the spectral basis of each source.
        classes: of all sources.
        tile_size: in pixels.
        device: where to compute.

    Raises:
        DataError: no source has the bands of a composite.
    """
    mixers, on_features = feature_critics(
        settings, shapes, conditions=len(classes), group=settings.group, device=device
    )
    main = on_features[0].source
    critics = list(on_features)
    for k, (shape, basis) in enumerate(zip(shapes, bases, strict=True)):
        shared: dict[str, Any] = {"bands": shape.bands, "classes": classes, "basis": basis}
        native: Discriminator | TextureCritic = (
            TextureCritic(2 * settings.critic_width, **shared)
            if shape.tiles < WHOLE_FROM
            else Discriminator(settings.critic_width, tile_size=tile_size, **shared)
        ).to(device)
        critics.append(
            SourceCritic(
                name=f"{shape.name} native",
                source=k,
                bands=shape.bands,
                network=native,
                mixer=None,
                # The penalty sums over channels, so gamma is scaled from 3 bands to theirs.
                gamma=settings.gamma * 3 / len(shape.bands),
                weight=1.0 if k == main else 2.0,
                turn=(0, 1 if k == main else 2),
            )
        )
    return Critics(
        shapes=tuple(shapes),
        mixers=mixers,
        critics=tuple(sorted(critics, key=lambda c: (c.turn[1], c.source != main))),
    )


def feature_critics(
    settings: FrozenSettings,
    shapes: Sequence[SourceShape],
    *,
    conditions: int,
    group: int = 1,
    device: torch.device,
) -> tuple[dict[str, FeatureMixer], list[SourceCritic]]:
    """Build the critics on frozen features, those of the source with most tiles first.

    Every composite is seen in the tiles of the source that has most of them.

    Args:
        settings: of the networks.
        shapes: of the sources.
        conditions: classes of tiles, or of pixels and one more for those of unknown class.
        group: see `FeatureHeads`.
        device: where to compute.

    Returns:
        the mixers by composite, and the critics.

    Raises:
        DataError: no source has the bands of a composite.
    """
    owner = owners(shapes)
    if not owner:
        raise DataError(
            "no source of tiles has the bands of a composite, such as B04, B03 and B02",
            remedy="add a source that has them, or set the recipe of the generator to native",
        )
    network = frozen_network(settings.features).to(device)
    main = max(owner.values(), key=lambda k: shapes[k].tiles)
    rest = [name for name, source in owner.items() if source != main]
    mixers, critics = {}, []
    for name, k in owner.items():
        composite = COMPOSITES[name]
        mixers[name] = FeatureMixer(
            network,
            source=k,
            channels=shapes[k].bands.index_of(composite.bands),
            white=composite.network_white,
            side=settings.feature_side,
        ).to(device)
        critics.append(
            SourceCritic(
                name=f"{shapes[k].name} {name}",
                source=k,
                bands=shapes[k].bands,
                network=FeatureHeads(conditions, len(STAGES), group=group).to(device),
                mixer=mixers[name],
                gamma=settings.feature_gamma,
                weight=2.0 if name in rest else 1.0,
                turn=(2 * rest.index(name), 2 * len(rest)) if name in rest else (0, 1),
            )
        )
    return mixers, sorted(critics, key=lambda critic: critic.source != main)


def scale_features(
    mixers: Mapping[str, FeatureMixer], tiles: Sequence[Float[Tensor, "_ _ h w"]]
) -> None:
    """Scale mixed features to unit deviation on real tiles, some of each source."""
    for mixer in mixers.values():
        device = next(mixer.parameters()).device
        mixer.measure(tiles[mixer.source][:_MEASURED].to(device))


def owners(shapes: Sequence[SourceShape]) -> dict[str, int]:
    """Return, for every composite that a source has the bands of, the source with most tiles."""
    found = {}
    for name, composite in COMPOSITES.items():
        having = [k for k, shape in enumerate(shapes) if composite in composites_of(shape.bands)]
        if having:
            found[name] = max(having, key=lambda k: shapes[k].tiles)
    return found


class SourcesCritic:
    """A `Critic` in the generator's bands: all critics of its training together.

    Tiles are rendered for each source first, as they were in training.
    """

    def __init__(
        self,
        critics: Critics,
        *,
        bands: BandSpec,
        classes: tuple[str, ...],
        slope: Float[Tensor, ""],
        offset: Float[Tensor, " k"],
    ) -> None:
        """Keep trained critics and the calibration of `critic.fit_realism`.

        Args:
            critics: trained; they are frozen.
            bands: the generator's.
            classes: the generator's.
            slope: of the calibrated realism.
            offset: one per class.
        """
        self.bands = bands
        self.classes = classes
        self.slope = slope
        self.offset = offset
        self.critics = critics
        for module in critics.modules().values():
            module.eval().requires_grad_(requires_grad=False)

    def realism(
        self, image: Float[Tensor, "b c h w"], label: Int[Tensor, " b"]
    ) -> Float[Tensor, " b"]:
        """Return the calibrated realism logit, higher for more real."""
        logit = self.logit(image, label)
        return self.slope.to(logit) * (logit - self.offset.to(logit)[label])

    def logit(
        self, image: Float[Tensor, "b c h w"], label: Int[Tensor, " b"]
    ) -> Float[Tensor, " b"]:
        """Return the sum of all critics' logits; it has an arbitrary constant per class."""
        shown = [shape.rendering(image, self.bands) for shape in self.critics.shapes]
        logits = []
        for critic in self.critics.critics:
            tiles = shown[critic.source]
            seen = critic.see(tiles, torch.zeros_like(tiles))
            logits.append(critic.judge(seen, label).sum(1))
        return torch.stack(logits).sum(0)

    def features(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f"]:
        """Return mean and deviation of the mixed features of all composites."""
        parts = []
        for scales in self.scales(image):
            for features in scales:
                flat = features.flatten(2)
                parts += [flat.mean(2), (flat.var(2, correction=0) + 1e-6).sqrt()]
        return torch.cat(parts, dim=1)

    def scales(self, image: Float[Tensor, "b c h w"]) -> list[tuple[Tensor, ...]]:
        """Return the mixed features of four scales, of each composite."""
        return [
            mixer(self.critics.shapes[mixer.source].rendering(image, self.bands))
            for mixer in self.critics.mixers.values()
        ]
