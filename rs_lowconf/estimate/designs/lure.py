"""One after another without replacement, by error probability: LURE.

Farquhar et al., "On statistical bias in active learning", ICLR 2021; used for testing by Kossen
et al., "Active testing", ICML 2021.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Bool

from rs_lowconf.estimate.allocation import LEAST, expected_ratio, mixed, ratio_of_cells
from rs_lowconf.estimate.anticipate import Cells, Expected
from rs_lowconf.estimate.design import Design, Drawer, Terms
from rs_lowconf.estimate.draws import DEFENSIVE, Draw, Pool, check_request, rng_of
from rs_lowconf.estimate.estimators import Estimate

_STEPS = 16
"""Steps of a sequential draw that stand for all."""


class Lure(Design):
    """The chances of `importance`, without replacement.

    `Draw.chance` is the probability to come next among the units that were left.
    """

    name = "lure"
    words = "one after another without replacement, by error probability (LURE)"

    def prepare(self, pool: Pool, labels: int, defensive: float = DEFENSIVE) -> Drawer:
        """Return the first to arrive of a race of exponential clocks.

        That is successive sampling (Efraimidis and Spirakis, "Weighted random sampling with a
        reservoir", 2006): the next to arrive is drawn in proportion to the chances of those
        that are still on their way.
        """
        check_request(len(pool), labels, defensive, LEAST)
        chance = mixed(np.sqrt(pool.g), defensive)
        ratio = expected_ratio(pool.g, chance)

        def draw(seed: int) -> Draw:
            arrival = rng_of(seed, self.name).exponential(size=len(chance)) / chance
            first = np.argpartition(arrival, labels - 1)[:labels]
            index = first[np.argsort(arrival[first])]
            gone = np.concatenate([[0.0], np.cumsum(chance[index])[:-1]])
            return Draw(
                design=self.name,
                population=len(chance),
                index=index,
                chance=np.minimum(chance[index] / (1 - gone), 1.0),
                largest_ratio=float(1 / (len(chance) * chance.min())),
                expected_ratio=ratio,
            )

        return draw

    def estimate(self, draw: Draw, error: Bool[np.ndarray, " m"], pool: Pool) -> Estimate:
        """Return R_LURE, with the variance of its martingale.

        Farquhar et al. 2021, equation 4; Kossen et al. 2021, equation 3: the mean of v_m y_m with
        v_m = 1 + (N - M) / (N - m) (1 / ((N - m + 1) q_m) - 1). It is the mean of the `terms` with
        weights C_m = N (N - M) / ((N - m) (N - m + 1)), whose differences from the error rate do
        not correlate; so their squares sum to the variance.
        """
        n, many = draw.population, len(draw)
        step = np.arange(1, many + 1)
        # The last of a pool that is labelled whole has 0 / 0 for what the others leave it: 1.
        with np.errstate(divide="ignore", invalid="ignore"):
            weight = 1 + (n - many) / (n - step) * (1 / ((n - step + 1) * draw.chance) - 1)
            combine = n * (n - many) / ((n - step) * (n - step + 1))
        weight[step == n] = 1.0
        combine[step == n] = n
        value = float((weight * error).mean())
        missed = self.terms(draw, error).value - value
        squares = float(((combine / many) ** 2 * missed**2).sum())
        ratio = 1 + (draw.largest_ratio - 1) * n / (n - many + 1)
        return Estimate(
            value=value,
            variance=squares * many / max(many - 1, 1),
            weight=weight / many,
            wrong=error,
            largest_weight=ratio / many,
        )

    def expect(self, cells: Cells, labels: int, defensive: float) -> Expected:
        """Return the variance of LURE: the mean over steps of that of its martingale.

        After m drawings a unit of chance q is still there with probability exp(-c q), where c
        makes m of them gone (Rosen, "Asymptotic theory for successive sampling", Annals of
        Mathematical Statistics 1972, section 3).
        """
        n, ratio = cells.size.sum(), ratio_of_cells(cells.share, cells.g, defensive)
        chance = 1 / (n * ratio)
        clock = np.concatenate([[0.0], np.geomspace(1e-3, 1e3, 60)]) * labels
        gone = -np.expm1(-clock[:, None] * chance) @ cells.size
        step = (np.arange(_STEPS) + 0.5) / _STEPS * labels
        there = cells.size * np.exp(-np.interp(step, gone, clock)[:, None] * chance)
        spread = (there @ chance) * (there @ (cells.p / chance)) - (there @ cells.p) ** 2
        combine = n * (n - labels) / (n - step) ** 2
        variance = (combine**2 * spread).mean() / n**2 / labels
        return Expected.of(
            cells,
            variance,
            error_squares=cells.share @ (cells.p * ratio) / labels,
            largest_weight=ratio.max() / labels,
        )

    def terms(self, draw: Draw, error: Bool[np.ndarray, " m"]) -> Terms:
        """Return y / (N q) and the errors found before, each with its 1 / N.

        The mean given the labels before is the error rate (Farquhar et al. 2021, section 3).
        """
        terms = super().terms(draw, error)
        return replace(terms, value=terms.value + (np.cumsum(error) - error) / draw.population)


DESIGN = Lure()
