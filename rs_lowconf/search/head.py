"""A linear head learned from reviews, which separates rejected from accepted tiles.

A critic learned to distinguish generated tiles from real ones; people mind some differences and not
others. A few dozen of their decisions are too few to train a network, but enough for a linear
classifier on existing features: the critic's, or texture, that is, the power of each band by
frequency, which a critic's mean features hardly contain. The decisions determine which of them is
used.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_predict
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from torch import Tensor

from rs_lowconf.errors import ReviewError
from rs_lowconf.measures import radial_power

MIN_REVIEWS = 10
"""Fewest accepted and fewest rejected samples to learn from and cross-validate with."""

_FOLDS = 5
_CHOOSING_FOLDS = 3
_BATCH = 32
_STRENGTHS = np.logspace(-1, 2, 4)
"""Choices for the inverse penalty."""
_MIXTURES = ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0))
"""Choices for the weights of the critic's features and of texture."""
_OCTAVES = (1, 2, 4, 8, 16)
"""Lower ends of the octaves of frequency, in cycles per tile; the last one is open."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ReviewHead:
    """The linear function: higher for what reviewers would accept."""

    weight: Float[Tensor, " f"]
    bias: Float[Tensor, ""]

    def part(
        self, features: Callable[[Float[Tensor, "b c h w"]], Float[Tensor, "b f"]]
    ) -> Callable[[Float[Tensor, "b c h w"], Int[Tensor, " b"]], Float[Tensor, " b"]]:
        """Return the head as a part of the gate.

        Args:
            features: the critic's.
        """

        def score(
            image: Float[Tensor, "b c h w"],
            label: Int[Tensor, " b"],  # noqa: ARG001  # what people mind, they mind in any class
        ) -> Float[Tensor, " b"]:
            texture = texture_of(image)
            critics, textures = self.weight.to(image).tensor_split([-texture.shape[1]])
            by_texture = texture @ textures + self.bias.to(image)
            # The most expensive part of a step, skipped where only texture counts.
            return by_texture + features(image) @ critics if critics.any() else by_texture

        return score


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedHead:
    """A head and its cross-validated accuracy on unseen reviews."""

    head: ReviewHead
    auc: float
    """Area under the ROC curve, cross-validated, including the choice of the penalty."""
    accepted: int
    rejected: int


def texture_of(image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b t"]:
    """Return the logarithm of each band's mean power in octaves of frequency."""
    power = radial_power(image)  # b c r
    ends = [low - 1 for low in _OCTAVES if low <= power.shape[2]]
    octaves = [part.mean(2) for part in power.tensor_split(ends[1:], dim=2)]
    # Digital numbers are rounded, so power below their noise is meaningless.
    return torch.stack(octaves, 2).clamp_min(1e-12).log().flatten(1).float()


@torch.no_grad()
def fit_head(
    image: Float[Tensor, "n c h w"],
    features: Callable[[Float[Tensor, "b c h w"]], Float[Tensor, "b f"]],
    accepted: Bool[Tensor, " n"],
    seed: int,
) -> FittedHead:
    """Fit by logistic regression; accepted and rejected tiles weigh the same, however rare.

    Whether the critic's features, texture or both count, and how strong the penalty is, is
    chosen by cross-validation.

    Args:
        image: reviewed tiles as they are stored, in the critic's bands.
        features: the critic's.
        accepted: the reviewers' decision on each.
        seed: of the folds.

    Raises:
        ReviewError: too few accepts or rejects.
    """
    yes, no = int(accepted.sum()), int((~accepted).sum())
    if min(yes, no) < MIN_REVIEWS:
        raise ReviewError(
            f"{yes} accepted and {no} rejected samples",
            expected=f"at least {MIN_REVIEWS} of each to learn from",
            remedy="review more samples and import the reviews",
        )
    parts = torch.split(image, _BATCH)
    blocks = [
        torch.cat([features(part).cpu() for part in parts]),
        torch.cat([texture_of(part) for part in parts]),
    ]
    sizes = [block.shape[1] for block in blocks]
    x, y = torch.cat(blocks, dim=1).double().numpy(), accepted.numpy()
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed % 2**32)
    choice = GridSearchCV(
        Pipeline(
            [
                ("standardise", StandardScaler()),
                ("mix", FunctionTransformer(_weigh)),
                ("line", LogisticRegression(class_weight="balanced", max_iter=1_000)),
            ]
        ),
        {
            "mix__kw_args": [{"factor": _mixture(sizes, weights)} for weights in _MIXTURES],
            "line__C": _STRENGTHS,
        },
        # Fewer folds than in the outer loop: an update spends most of its time on these fits.
        cv=StratifiedKFold(_CHOOSING_FOLDS, shuffle=True, random_state=seed % 2**32),
        scoring="roc_auc",
    )
    predicted = cross_val_predict(choice, x, y, cv=folds, method="decision_function")
    best = choice.fit(x, y).best_estimator_
    scaler, mix, regression = best[0], best[1].kw_args["factor"], best[2]
    weight = regression.coef_[0] * mix / scaler.scale_
    bias = regression.intercept_[0] - scaler.mean_ @ weight
    return FittedHead(
        head=ReviewHead(
            weight=torch.from_numpy(weight).float(), bias=torch.tensor(bias, dtype=torch.float32)
        ),
        auc=float(roc_auc_score(y, predicted)),
        accepted=yes,
        rejected=no,
    )


def _mixture(sizes: Sequence[int], weights: Sequence[float]) -> Float[np.ndarray, " s"]:
    """Return the factor of each column: blocks count by their weights, not by their sizes."""
    pairs = zip(sizes, weights, strict=True)
    return np.concatenate([np.full(size, weight / size**0.5) for size, weight in pairs])


def _weigh(
    seen: Float[np.ndarray, "n s"], factor: Float[np.ndarray, " s"]
) -> Float[np.ndarray, "n s"]:
    weighed: Float[np.ndarray, "n s"] = seen * factor
    return weighed
