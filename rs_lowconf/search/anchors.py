"""Search around real tiles: hard variants that are close enough to their anchor to represent it."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rs_lowconf.search.calibration import Features
from rs_lowconf.search.distances import RealDistances
from rs_lowconf.search.evaluate import Evaluator, Penalty
from rs_lowconf.search.gate import GatePart
from rs_lowconf.search.prior import PriorShell
from rs_lowconf.seeds import seed_of
from rs_lowconf.types import TileGenerator

_SPREAD = 0.05
"""Scale of the penalty beyond the distance budget, in budgets."""


class AroundAnchors:
    """A `TileGenerator` whose conditions are anchors, each with a condition of another generator.

    So a search need not know about anchors: it searches conditions, and finds several per
    condition.
    """

    def __init__(
        self, generator: TileGenerator, label: Int[Tensor, " n"], names: tuple[str, ...]
    ) -> None:
        """Draw tiles of the anchors' conditions.

        Args:
            generator: draws them.
            label: the condition of each anchor.
            names: of the anchors.
        """
        self.bands = generator.bands
        self.classes = names
        self.tile_size = generator.tile_size
        self.latent_parts = generator.latent_parts
        self._generator = generator
        self._label = label

    def __call__(
        self, z: Float[Tensor, "b d"], label: Int[Tensor, " b"]
    ) -> Float[Tensor, "b c h w"]:
        """Return reflectance for latents and indices of anchors."""
        return self._generator(z, self._label.to(label.device)[label])


@dataclass(frozen=True, kw_only=True, eq=False)
class Anchors:
    """Real tiles that were inverted, and how far a variant may be from them."""

    names: tuple[str, ...]
    image: Float[Tensor, "n c h w"]
    """Reflectance of the real tiles in the generator's bands."""
    features: Float[Tensor, "n f"]
    z: Float[Tensor, "n d"]
    """Their latents."""
    label: Int[Tensor, " n"]
    """Their conditions."""
    budget: Float[Tensor, "n 2"]
    """Largest distance of a variant, in pixels and in features."""

    def distance(
        self, distances: RealDistances, features: Features
    ) -> Callable[[Float[Tensor, "b c h w"], Int[Tensor, " b"]], Float[Tensor, "b 2"]]:
        """Return the distances of tiles from their anchors, given tiles and anchors' indices."""

        def apart(
            image: Float[Tensor, "b c h w"], label: Int[Tensor, " b"]
        ) -> Float[Tensor, "b 2"]:
            anchor = label.cpu()
            return distances.between(
                image,
                features(image),
                self.image[anchor].to(image),
                self.features[anchor].to(image),
            )

        return apart

    def nearness(self, distances: RealDistances, features: Features) -> GatePart:
        """Return minus the larger distance in budgets: at least -1 within the budget."""
        apart = self.distance(distances, features)

        def near(image: Float[Tensor, "b c h w"], label: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
            return -(apart(image, label) / self.budget[label.cpu()].to(image)).amax(1)

        return near

    def start(
        self, shell: PriorShell, *, reach: float, run_seed: int
    ) -> Callable[[int], Float[Tensor, " d"]]:
        """Return the start of each seed of a search: first at each anchor, then around them.

        The steps away from an anchor keep the prior (preconditioned Crank-Nicolson), and do not
        depend on the other anchors of the search.

        Args:
            shell: of the prior.
            reach: share of fresh noise, 0..1.
            run_seed: of the job.
        """

        def draw(seed_id: int) -> Float[Tensor, " d"]:
            attempt, anchor = divmod(seed_id, len(self.names))
            z = self.z[anchor]
            if attempt == 0:
                return shell.project(z[None])[0]
            rng = torch.Generator().manual_seed(
                seed_of(run_seed, "variant", self.names[anchor], attempt)
            )
            noise = torch.randn(len(z), generator=rng)
            return shell.project((math.sqrt(1 - reach**2) * z + reach * noise)[None])[0]

        return draw

    def around(self, evaluator: Evaluator, nearness: GatePart, weight: float) -> Evaluator:
        """Return an evaluator of latents around the anchors, by their index.

        Args:
            evaluator: of the conditions that the anchors have.
            nearness: see `nearness`; a tile beyond the budget does not pass.
            weight: of a penalty in the energy, before the budget is spent.
        """
        label = self.label

        def of_condition(part: GatePart) -> GatePart:
            return lambda image, anchor: part(image, label.to(anchor.device)[anchor])

        penalty = Penalty(part=nearness, floor=-1 + _SPREAD, spread=_SPREAD, weight=weight)
        return evaluator.around(
            AroundAnchors(evaluator.generator, label, self.names),
            gate=replace(
                evaluator.gate.changed(lambda name, part: of_condition(part)), conditions=label
            ),
            penalties=[
                *(replace(term, part=of_condition(term.part)) for term in evaluator.penalties),
                penalty,
            ],
            limit=lambda image, anchor: nearness(image, anchor) >= -1,
        )
