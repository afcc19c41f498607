"""Labels in waves: each wave is drawn by what the labels before it said of the errors."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool

from rs_lowconf.errors import SettingsError
from rs_lowconf.estimate.designs import DEFENSIVE, replaced
from rs_lowconf.estimate.draws import Draw, Pool, check_labels, check_request
from rs_lowconf.estimate.predictors import fit_predictor, log_odds
from rs_lowconf.seeds import seed_of

WAVES = 5


@dataclass(frozen=True, kw_only=True, eq=False)
class Wave:
    """A draw that has been labelled."""

    draw: Draw
    error: Bool[np.ndarray, " _"]
    """Whether the target errs on each drawn unit."""

    def __post_init__(self) -> None:
        """Check that there is a label for each drawn unit.

        Raises:
            DataError: more or fewer labels than drawn.
        """
        check_labels(self.draw, self.error)


def wave_sizes(labels: int, waves: int = WAVES) -> list[int]:
    """Return how many labels each wave gets: few to the first, and later ones more and more.

    Sizes are as 1 : 3 : 4 : 5 : ..; each wave has two labels at least.

    Raises:
        SettingsError: fewer labels than two a wave.
    """
    if labels < 2 * waves:
        raise SettingsError(f"{labels} labels in {waves} waves", expected="two a wave at least")
    parts = [1, *range(3, waves + 2)]
    sizes = [2 + (labels - 2 * waves) * part // sum(parts) for part in parts]
    for one in range(waves - (labels - sum(sizes)), waves):
        sizes[one] += 1
    return sizes


def next_wave(
    pool: Pool, before: Sequence[Wave], labels: int, seed: int, defensive: float = DEFENSIVE
) -> Draw:
    """Return the next wave: with replacement, by what the labels so far say of the errors.

    Args:
        pool: what to draw from; its g need not be calibrated.
        before: earlier waves with their labels, in order; the result is a function of them,
            so that a loop of drawing and labelling can be interrupted anywhere.
        labels: of this wave.
        seed: of the whole design.
        defensive: share of the labels drawn uniformly.

    Raises:
        SettingsError: see `check_request`.
    """
    check_request(len(pool), labels, defensive)
    g, control = pool.g, np.zeros(len(pool))
    if before:
        index = np.concatenate([wave.draw.index for wave in before])
        error = np.concatenate([wave.error for wave in before])
        features = log_odds(pool.g)[:, None] if pool.features is None else pool.features
        g = control = fit_predictor(features[index], error, pool.g[index])(features)
    design = replaced(g, labels, defensive, wave=len(before))
    draw = design.draw(seed_of(seed, "wave", len(before)))
    return replace(
        draw,
        # Not the largest that this g allows: what a bet may lose has to be known before all waves.
        largest_ratio=1 / defensive,
        control=control[draw.index],
        control_mean=np.array([control.mean()]),
    )


def joined(waves: Sequence[Wave]) -> tuple[Draw, Bool[np.ndarray, " m"]]:
    """Return all waves as one draw, and its labels.

    Raises:
        SettingsError: no waves, or waves that are missing or out of order.
    """
    numbers = [int(wave.draw.batch[0]) for wave in waves if wave.draw.batch is not None]
    if not waves or numbers != list(range(len(waves))):
        raise SettingsError(f"waves {numbers} of an adaptive draw", expected="0, 1, 2, ..")
    draws = [wave.draw for wave in waves]
    draw = Draw(
        design="adaptive",
        population=draws[0].population,
        index=np.concatenate([one.index for one in draws]),
        chance=np.concatenate([one.chance for one in draws]),
        largest_ratio=max(one.largest_ratio for one in draws),
        # Of the first alone: a bet on its labels may not know what came after.
        expected_ratio=draws[0].expected_ratio,
        batch=np.concatenate([one.batch for one in draws if one.batch is not None]),
        control=np.concatenate([one.control for one in draws if one.control is not None]),
        control_mean=np.concatenate(
            [one.control_mean for one in draws if one.control_mean is not None]
        ),
    )
    return draw, np.concatenate([wave.error for wave in waves])
