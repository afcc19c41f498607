"""Labels in waves: each wave is drawn by what the labels before it said of the errors.

A wave has the column `control`, how probably the unit of each label errs by what the waves before
said (0 in the first, before which nobody said anything), and the constant `control_mean`, the mean
of the same over the pool. Waves that are joined have the column `batch` too, which wave each label
is of, and a `control_mean` of each wave.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float64, Int

from rs_lowconf.errors import SettingsError
from rs_lowconf.estimate.allocation import ratio_of_cells
from rs_lowconf.estimate.anticipate import Cells, Expected
from rs_lowconf.estimate.design import Design, Drawer
from rs_lowconf.estimate.designs.importance import with_replacement
from rs_lowconf.estimate.draws import DEFENSIVE, Draw, Pool, Wave, check_request
from rs_lowconf.estimate.estimators import Estimate
from rs_lowconf.estimate.predictors import fit_predictor, log_odds
from rs_lowconf.seeds import seed_of

WAVES = 5


class Adaptive(Design):
    """Waves of `importance`, by g that the labels so far have corrected."""

    name = "adaptive"
    words = "waves that learn from the labels before them"
    repeats = True

    def sizes(self, labels: int) -> list[int]:
        """Return how many labels each wave gets: few to the first, and later ones more and more.

        Sizes are as 1 : 3 : 4 : 5 : 6; each wave has two labels at least.

        Raises:
            SettingsError: fewer labels than two per wave.
        """
        if labels < 2 * WAVES:
            raise SettingsError(f"{labels} labels in {WAVES} waves", expected="two a wave at least")
        parts = [1, *range(3, WAVES + 2)]
        sizes = [2 + (labels - 2 * WAVES) * part // sum(parts) for part in parts]
        for wave in range(WAVES - (labels - sum(sizes)), WAVES):
            sizes[wave] += 1
        return sizes

    def prepare(self, pool: Pool, labels: int, defensive: float = DEFENSIVE) -> Drawer:
        """Return what draws the first wave."""
        return self.next_wave(pool, (), labels, defensive)

    def next_wave(
        self, pool: Pool, before: Sequence[Wave], labels: int, defensive: float
    ) -> Drawer:
        """Return what draws a wave with replacement, by what the labels so far say of the errors.

        A draw is a function of these labels and of the seed of the whole design, so that a loop of
        drawing and labelling can be interrupted anywhere.
        """
        size = self.sizes(labels)[len(before)]
        check_request(len(pool), size, defensive)
        g, control = pool.g, np.zeros(len(pool))
        if before:
            index = np.concatenate([wave.draw.index for wave in before])
            error = np.concatenate([wave.error for wave in before])
            features = log_odds(pool.g)[:, None] if pool.features is None else pool.features
            g = control = fit_predictor(features[index], error, pool.g[index])(features)
        draw_of = with_replacement(self.name, g, size, defensive)

        def draw(seed: int) -> Draw:
            wave = draw_of(seed_of(seed, "wave", len(before)))
            return replace(
                wave,
                # The largest of any g: what a bet may lose has to be known before all waves.
                largest_ratio=1 / defensive,
                columns={"control": control[wave.index]},
                constants={"control_mean": np.array([control.mean()])},
            )

        return draw

    def joined(self, waves: Sequence[Draw]) -> Draw:
        """Return all waves as one draw.

        Raises:
            SettingsError: a wave is missing or out of order.
        """
        sizes = [len(wave) for wave in waves]
        if sizes != self.sizes(sum(sizes)):
            raise SettingsError(f"waves of {sizes} labels", expected="all waves in order")
        return replace(
            # Its expected ratio is that of all: a bet on its labels may not know what came after.
            waves[0],
            index=np.concatenate([wave.index for wave in waves]),
            chance=np.concatenate([wave.chance for wave in waves]),
            columns={
                "batch": np.repeat(np.arange(len(sizes)), sizes),
                "control": np.concatenate([wave.columns["control"] for wave in waves]),
            },
            constants={
                "control_mean": np.concatenate([wave.constants["control_mean"] for wave in waves])
            },
        )

    def estimate(self, draw: Draw, error: Bool[np.ndarray, " m"], pool: Pool) -> Estimate:
        """Return the mean of the waves' estimates, later ones weighing more a label.

        A wave's estimate is what the waves before it expect of the pool, and what that misses, as
        Hansen and Hurwitz weigh it: the mean of g + (y - g) / (N q), which is right on average
        whatever g is (Hadad et al., "Confidence intervals for policy evaluation in adaptive
        experiments", PNAS 2021, their doubly robust score). Its variance is its own sample
        variance.
        """
        batch = draw.columns["batch"]
        n = np.bincount(batch)
        missed = draw.columns["control"] / (draw.population * draw.chance)
        term = self.terms(draw, error).value - missed + draw.constants["control_mean"][batch]
        share = wave_shares(n)
        mean = np.bincount(batch, weights=term) / n
        within = np.bincount(batch, weights=(term - mean[batch]) ** 2) / np.maximum(n - 1, 1)
        each = share / n
        return Estimate(
            value=float(share @ mean),
            variance=float((share**2 * within / n).sum()),
            weight=each[batch] / (draw.population * draw.chance),
            wrong=error,
            largest_weight=draw.largest_ratio * float(each.max()),
            corrects=True,
        )

    def share(self, draw: Draw, member: Bool[np.ndarray, " m"], pool: Pool) -> Estimate:
        """Return a share that the waves said nothing of, so that nothing is corrected."""
        nothing = replace(
            draw,
            columns={**draw.columns, "control": np.zeros(len(draw))},
            constants={"control_mean": np.zeros_like(draw.constants["control_mean"])},
        )
        return self.estimate(nothing, member, pool)

    def expect(self, cells: Cells, labels: int, defensive: float) -> Expected:
        """Return the variance if the first wave knows g, and later ones what labels fit to it.

        They subtract what the fitted curve expects.
        """
        share, p, curve = cells.share, cells.p, _learned(cells)
        first = ratio_of_cells(share, cells.g, defensive)
        later = ratio_of_cells(share, curve, defensive)
        missed = p * (1 - curve) ** 2 + (1 - p) * curve**2
        sizes, rate = np.array(self.sizes(labels)), cells.rate
        each = wave_shares(sizes) ** 2 / sizes
        rest = float(each[1:].sum())
        variance = each[0] * (float(share @ (p * first)) - rate**2)
        variance += rest * (float(share @ (missed * later)) - (rate - share @ curve) ** 2)
        squares = each[0] * float(share @ (p * first)) + rest * float(share @ (p * later))
        return Expected.of(
            cells,
            variance,
            error_squares=max(variance, squares),
            largest_weight=max(first.max(), later.max()) * (wave_shares(sizes) / sizes).max(),
        )


def wave_shares(labels: Int[np.ndarray, " b"]) -> Float64[np.ndarray, " b"]:
    """Return what each wave counts for: n_b ((b + 1) / (b + 2))^2, b = 0, 1, .., over their sum.

    They are fixed before anyone labels, which keeps the estimate right on average, and favour
    waves that learned from others (Hadad et al. 2021, section 2).
    """
    place = np.arange(len(labels))
    share = labels * ((place + 1) / (place + 2)) ** 2
    normal: Float64[np.ndarray, " b"] = share / share.sum()
    return normal


def _learned(cells: Cells) -> Float64[np.ndarray, " z"]:
    """Return the logistic curve over log-odds of g that many labels would come to."""
    # scikit-learn takes a second to load.
    from sklearn.linear_model import LogisticRegression

    odds, p = log_odds(cells.g)[:, None], cells.p
    weight = np.concatenate([cells.share * p, cells.share * (1 - p)])
    if not 0 < cells.rate < 1:
        return p
    fit = LogisticRegression(C=1e6, max_iter=1_000, solver="newton-cholesky")
    fit.fit(np.concatenate([odds, odds]), np.repeat([1, 0], len(p)), sample_weight=weight)
    learned: Float64[np.ndarray, " z"] = fit.predict_proba(odds)[:, 1]
    return learned


DESIGN = Adaptive()
