"""Training on several sources of tiles, with critics on frozen features and native critics.

One generator draws all bands; its tiles are rendered like each source, and every source has
separate critics. Layout is learned from the many tiles with three bands, spectra from the few with
all bands.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rs_lowconf.gan.critic import fit_logit
from rs_lowconf.gan.pairing import critic_pairing, due_critics, generator_pairing, inputs_of
from rs_lowconf.gan.pyramid import PyramidGenerator, settle
from rs_lowconf.gan.rendering import Rendering
from rs_lowconf.gan.source_critics import (
    Critics,
    SourcesCritic,
    SourceShape,
    build_critics,
    scale_features,
)
from rs_lowconf.gan.spectral import spectral_basis
from rs_lowconf.gan.steps import (
    SavedTraining,
    follow,
    improve,
    optimiser,
    set_learning_rate,
    some_tiles,
)
from rs_lowconf.gan.train import AugmentationsAt, BalancedDraw, StepRecord
from rs_lowconf.seeds import forked_rng, seed_of
from rs_lowconf.settings import GanSettings
from rs_lowconf.types import TileSource

SETTLING = 64
"""Batches from which the average's normalisation statistics are measured."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingSource:
    """Training tiles, and how they store reflectance."""

    name: str
    """Short and unique among the sources of a training."""
    tiles: TileSource
    """Its classes are those of the generator, in the same order."""
    rendering: Rendering
    """In the bands of `tiles`."""

    @property
    def shape(self) -> SourceShape:
        """Return the shape for which critics are built."""
        return SourceShape(name=self.name, rendering=self.rendering, tiles=len(self.tiles))


class SourcesTraining(SavedTraining):
    """Networks, weight average and optimisers between steps; see `train.GanTraining`."""

    kind = "gan"
    """Kind of the files that it writes."""

    def __init__(
        self,
        settings: GanSettings,
        sources: Sequence[TrainingSource],
        *,
        augment_at: AugmentationsAt,
        strength: float,
        seed: int,
        device: torch.device,
    ) -> None:
        """Start from scratch.

        Args:
            settings: of networks and training.
            sources: of training tiles; the first has all bands that the generator draws.
            augment_at: see `train.GanTraining`.
            strength: the probability of each augmentation.
            seed: the run's.
            device: where to compute.

        Raises:
            DataError: a source lacks a class, or no source has a composite for the frozen features.
        """
        self.settings = settings
        self.sources = tuple(sources)
        self.seed = seed
        self.images = 0
        self._device = device
        self._real, self._fake = augment_at(strength)
        self._strength = strength
        first = sources[0].tiles
        self._draws = [BalancedDraw(source.tiles, source.name) for source in sources]
        with forked_rng(seed_of(seed, "gan", "weights")):
            basis = spectral_basis(some_tiles(first, seed), first.bands, settings.whitening)
            self.generator = PyramidGenerator(
                settings,
                bands=first.bands,
                classes=first.classes,
                tile_size=first.batch([0]).image.shape[-1],
                basis=basis,
            ).to(device)
            tiles = [some_tiles(source.tiles, seed) for source in sources]
            self.all_critics: Critics = build_critics(
                settings,
                [source.shape for source in sources],
                [
                    spectral_basis(image, source.tiles.bands, settings.whitening)
                    for image, source in zip(tiles, sources, strict=True)
                ],
                classes=first.classes,
                tile_size=self.generator.tile_size,
                device=device,
            )
            scale_features(self.all_critics.mixers, tiles)
        self.critics = self.all_critics.critics
        self.average = copy.deepcopy(self.generator).requires_grad_(requires_grad=False)
        self._optimisers = {
            "generator": optimiser(self.generator, settings),
            **{c.name: optimiser(c.network, settings) for c in self.critics},
        }

    def step(self) -> StepRecord:
        """Show one batch of every source to its critics, then improve the generator."""
        settings, number = self.settings, self.images // self.settings.batch_size
        set_learning_rate(self._optimisers.values(), settings, self.images)
        rng = torch.Generator().manual_seed(seed_of(self.seed, "gan", "step", number))
        groups = (settings.batch_size // settings.group,)
        label = torch.randint(len(self.generator.classes), groups, generator=rng)
        label = label.repeat_interleave(settings.group)
        z = torch.randn(settings.batch_size, self.generator.latent_dim, generator=rng)
        fake = self.generator(z.to(self._device), label.to(self._device))
        due = due_critics(self.critics, number)
        shown = {
            k: self._shown(k, label, fake, number, rng) for k in sorted({c.source for c in due})
        }
        label = label.to(self._device)
        seen = inputs_of(due, shown, rng)
        paired = critic_pairing(due, seen, label, settings, self.images)
        improve([self._optimisers[c.name] for c in due], paired.total)

        generator_loss = generator_pairing(due, seen, label, paired)
        improve([self._optimisers["generator"]], generator_loss)
        for critic in due:
            critic.network.requires_grad_(requires_grad=True)

        self.images += settings.batch_size
        follow(self.average, self.generator, settings, self.images)
        losses = {name: loss.item() for name, loss in paired.losses.items()}
        real, drawn = paired.logits[due[0].name]
        return StepRecord(
            images=self.images,
            critic_loss=losses[due[0].name],
            generator_loss=generator_loss.item(),
            logit_real=real.mean().item(),
            logit_fake=drawn.mean().item(),
            penalty=paired.penalty,
            strength=self._strength,
            losses=losses,
        )

    def settled(self) -> PyramidGenerator:
        """Return the weight average, ready to draw."""
        settle(
            self.average,
            batches=SETTLING,
            batch_size=self.settings.batch_size,
            seed=seed_of(self.seed, "gan", "settle"),
        )
        return self.average.eval()

    def modules(self) -> dict[str, nn.Module]:
        """Return the modules with weights, by name."""
        return {
            "generator": self.generator,
            "average": self.average,
            **self.all_critics.modules(),
        }

    def _shown(
        self,
        k: int,
        label: Int[Tensor, " b"],
        fake: Float[Tensor, "b c h w"],
        number: int,
        rng: torch.Generator,
    ) -> tuple[Float[Tensor, "b k h w"], Float[Tensor, "b k h w"]]:
        """Return real tiles of a source and generated ones rendered like it, augmented."""
        source = self.sources[k]
        real = source.tiles.batch(self._draws[k].of(label, rng)).image.to(self._device)
        rendered = source.rendering(fake, self.generator.bands)
        seeds = [
            seed_of(self.seed, "gan", "augment", source.name, kind, number)
            for kind in ("real", "fake")
        ]
        return self._real(real, seeds[0]), self._fake(rendered, seeds[1])


def realism_of(training: SourcesTraining) -> SourcesCritic:
    """Return a copy of the critics with their logit calibrated on the first source's tiles."""
    critics = copy.deepcopy(training.all_critics)
    generator = training.average
    one = torch.ones((), device=next(generator.parameters()).device)
    shape: dict[str, Any] = {"bands": generator.bands, "classes": generator.classes}
    plain = SourcesCritic(critics, slope=one, offset=one.expand(len(generator.classes)), **shape)
    slope, offset = fit_logit(plain.logit, generator, training.sources[0].tiles, training.seed)
    return SourcesCritic(critics, slope=slope.to(one), offset=offset.to(one), **shape)
