"""The latent prior: standard normal, drawn by seed, and the shell that holds its mass."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import chi
from torch import Tensor

from rs_lowconf.seeds import seed_of


def draw_latent(run_seed: int, stream: str, seed_id: int, dim: int) -> Float[Tensor, " d"]:
    """Return the latent called `seed_id`: the same alone, in any batch, after a resume."""
    rng = torch.Generator().manual_seed(seed_of(run_seed, "search", stream, seed_id))
    return torch.randn(dim, generator=rng)


class PriorShell:
    """In high dimensions a standard normal concentrates in a thin shell; a search must stay in it.

    A search that shortens or lengthens its latents finds tiles that the generator would never draw.
    Each independent part of the latent has a separate shell: the central `1 - tail` of the chi
    distribution of its norm.
    """

    def __init__(self, parts: Sequence[int], tail: float) -> None:
        """Build for the lengths of the latent's parts and the mass left outside."""
        self._parts = list(parts)
        sizes = np.asarray(self._parts)
        self.low: list[float] = chi.ppf(tail / 2, sizes).tolist()
        self.high: list[float] = chi.isf(tail / 2, sizes).tolist()

    def project(self, z: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """Return the nearest latents inside the shell."""
        inside = []
        for part, low, high in zip(
            torch.split(z, self._parts, dim=1), self.low, self.high, strict=True
        ):
            norm = part.norm(dim=1, keepdim=True)
            inside.append(part * (norm.clamp(low, high) / norm.clamp_min(1e-12)))
        return torch.cat(inside, dim=1)
