"""What reviewers taught: a linear head on the critic's features that tells rejects from accepts.

A critic learned to tell generated tiles from real ones; people mind some differences and not
others. A few dozen of their decisions are too few to train a network, and enough for a line
through features that are there already.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from rs_lowconf.errors import ReviewError

MIN_REVIEWS = 10
"""Accepts and rejects, of each, below which nothing can be learned and cross-validated."""

_FOLDS = 5
_STRENGTHS = np.logspace(-5, 0, 6)
"""Inverse penalties to choose from: strong ones, as there are more features than reviews."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ReviewHead:
    """The linear function: higher for what reviewers would accept."""

    weight: Float[Tensor, " f"]
    bias: Float[Tensor, ""]

    def part(
        self, features: Callable[[Float[Tensor, "b c h w"]], Float[Tensor, "b f"]]
    ) -> Callable[[Float[Tensor, "b c h w"], Int[Tensor, " b"]], Float[Tensor, " b"]]:
        """Return the head as a part of the gate, on these features."""
        return lambda image, label: features(image).cpu() @ self.weight + self.bias


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedHead:
    """A head and how well its like tell reviews that they have not seen."""

    head: ReviewHead
    auc: float
    """Area under the ROC curve, cross-validated, the choice of the penalty included."""
    accepted: int
    rejected: int


def fit_head(features: Float[Tensor, "n f"], accepted: Bool[Tensor, " n"], seed: int) -> FittedHead:
    """Fit by logistic regression; both answers weigh the same, however rare one is.

    Args:
        features: the critic's, a row a reviewed tile.
        accepted: what the reviewers said of it.
        seed: of the folds.

    Raises:
        ReviewError: too few accepts or rejects.
    """
    yes, no = int(accepted.sum()), int((~accepted).sum())
    if min(yes, no) < MIN_REVIEWS:
        raise ReviewError(
            f"{yes} accepted and {no} rejected samples",
            expected=f"at least {MIN_REVIEWS} of each to learn from",
            remedy="review more samples, and import them",
        )
    x, y = features.double().numpy(), accepted.numpy()
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed % 2**32)
    choice = GridSearchCV(
        make_pipeline(
            StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1_000)
        ),
        {"logisticregression__C": _STRENGTHS},
        cv=folds,
        scoring="roc_auc",
    )
    told = cross_val_predict(choice, x, y, cv=folds, method="decision_function")
    line = choice.fit(x, y).best_estimator_
    scaler, regression = line[0], line[-1]
    weight = regression.coef_[0] / scaler.scale_
    bias = regression.intercept_[0] - scaler.mean_ @ weight
    return FittedHead(
        head=ReviewHead(
            weight=torch.from_numpy(weight).float(), bias=torch.tensor(bias, dtype=torch.float32)
        ),
        auc=float(roc_auc_score(y, told)),
        accepted=yes,
        rejected=no,
    )
