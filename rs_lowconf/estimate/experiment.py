"""The paper's open experiment: does it pay to label what a target is unsure of?

On a pool whose labels are all known, every design is replayed at several budgets, and so are
labels of generated tiles. What comes out is how many labels of a uniform draw each saves, whether
its intervals cover, how it stands a blind spot, and whether `plan` foresaw it.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from rs_lowconf.errors import DataError, SettingsError
from rs_lowconf.estimate.anticipate import MethodName
from rs_lowconf.estimate.draws import Pool
from rs_lowconf.estimate.plan import FEWEST, plan
from rs_lowconf.estimate.prepare import Prepared
from rs_lowconf.estimate.replay import replay, replay_naive, with_blind_spot
from rs_lowconf.estimate.scores import Scores
from rs_lowconf.seeds import seed_of

METHODS: tuple[MethodName, ...] = (
    "uniform",
    "olofsson",
    "strat",
    "is",
    "lure",
    "asi",
    "adaptive",
    "ppi",
)
SAMPLED: tuple[MethodName, ...] = ("strat", "is", "lure", "asi", "adaptive")
"""Those that go where errors are expected, which a blind spot can hurt."""
RAW = "as the models say"
"""The error predictor that no label has seen."""
_SOUND = {
    "generated": "an error predictor learned from generated tiles",
    "retrieved": "drawing real neighbours of generated failures with higher chances",
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One cell of the experiment."""

    predictor: str
    method: MethodName
    labels: int
    blind: float
    """Share of the errors hidden where none is expected."""

    @property
    def name(self) -> str:
        """Return its name among the others."""
        return f"{self.predictor} {self.method} {self.labels} {self.blind:g}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Grounds:
    """What is replayed."""

    prepared: Prepared
    error: Bool[np.ndarray, " n"]
    """Whether the target errs on each unit of the pool."""
    raw: Float64[np.ndarray, " n"]
    """The mean doubt of the models, which no label has seen."""
    defensive: float
    seed: int
    repetitions: int


def split_validation(scores: Scores, wanted: int, seed: int) -> tuple[Scores, Scores]:
    """Return the pool and the validation units, drawn from it uniformly and taken out of it.

    Args:
        scores: of the whole pool.
        wanted: validation units; a fifth of the pool at most.
        seed: of the draw.

    Raises:
        DataError: fewer than 250 labelled units.
    """
    if len(scores) < 5 * 50:
        raise DataError(
            f"{len(scores)} labelled units in {scores.path}",
            expected="250 at least: a fifth of them validates",
        )
    dice = np.random.default_rng(seed_of(seed, "experiment", "validation"))
    taken = np.zeros(len(scores), dtype=bool)
    taken[dice.permutation(len(scores))[: min(wanted, len(scores) // 5)]] = True
    return scores.take(~taken), scores.take(taken)


def budgets_of(shares: Sequence[float], population: int, classes: int) -> tuple[int, ...]:
    """Return numbers of labels, rising: shares of the pool, but enough for every design.

    Raises:
        SettingsError: the pool is too small for any.
    """
    least = max(FEWEST, 2 * classes)
    found = sorted({max(least, round(share * population)) for share in shares})
    if found[-1] >= population:
        raise SettingsError(f"{found[-1]} labels of a pool of {population}", expected="fewer")
    return tuple(found)


def cases_of(
    prepared: Prepared, budgets: Sequence[int], blind: Sequence[float], *, ppi: bool
) -> list[Case]:
    """Return what is to be replayed.

    All designs by the chosen error predictor; `strat` by the others; `adaptive` by one that no
    label has seen; and blind spots at the middle budget.
    """
    assert prepared.choice is not None  # noqa: S101 -- an experiment has validation labels
    chosen = prepared.choice.name
    middle = budgets[len(budgets) // 2]
    cells: list[tuple[str, MethodName, float, Sequence[int]]] = [
        *((chosen, method, 0.0, budgets) for method in METHODS if ppi or method != "ppi"),
        *((other, "strat", 0.0, budgets) for other in prepared.predictors if other != chosen),
        (RAW, "strat", 0.0, budgets),
        (RAW, "adaptive", 0.0, budgets),
        *((chosen, method, share, (middle,)) for share in blind for method in SAMPLED),
    ]
    return [
        Case(predictor=predictor, method=method, labels=labels, blind=share)
        for predictor, method, share, own in cells
        for labels in own
    ]


def replay_case(grounds: Grounds, case: Case) -> dict[str, Any]:
    """Return the cell of a case as JSON values; a function of the case alone."""
    own = grounds.prepared
    pool = _by(grounds, case.predictor)
    error = grounds.error
    if case.blind:
        error = with_blind_spot(error, own.pool.g, case.blind, grounds.seed)
    cells = replay(
        pool,
        error,
        methods=(case.method,),
        budgets=(case.labels,),
        repetitions=grounds.repetitions,
        seed=seed_of(grounds.seed, "experiment", case.predictor, str(case.blind)),
        defensive=grounds.defensive,
        betting_repetitions=grounds.repetitions,
    )
    return next(cells).as_dict() | {"predictor": case.predictor, "blind": case.blind}


def foreseen(grounds: Grounds, budgets: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Yield what `plan` expects of each error predictor and design, before any of these labels."""
    own = grounds.prepared
    validation = own.validation
    assert validation is not None  # noqa: S101 -- an experiment has validation labels
    for labels in budgets:
        told = plan(
            own.pool,
            labels,
            seed=grounds.seed,
            validation=validation,
            methods=METHODS,
            shares=(grounds.defensive,),
        )
        for one in told.prospects:
            yield {
                "method": one.method,
                "labels": labels,
                "saving": one.saving,
                "saving_range": one.saving_range,
                "ceiling": told.ceiling,
                "ceiling_range": told.ceiling_range,
            }


def taken_literally(grounds: Grounds, labels: int) -> dict[str, Any]:
    """Return what errors among the least confident units, as they are, would say."""
    one = replay_naive(Pool(g=grounds.raw), grounds.error, labels)
    return {
        "labels": labels,
        "said": one.said,
        "times_too_high": one.times_too_high,
        "missed": one.missed,
    }


def key_of(grounds: Grounds, case: Case) -> str:
    """Return what tells a cell from that of another case, pool or predictor."""
    pool = _by(grounds, case.predictor)
    numbers = (grounds.seed, grounds.repetitions, grounds.defensive, case)
    digest = hashlib.sha256(repr(numbers).encode())
    for part in (pool.g, pool.predicted, pool.features, grounds.error, grounds.prepared.pool.g):
        digest.update(b"none" if part is None else part.tobytes())
    return digest.hexdigest()[:24]


def _by(grounds: Grounds, predictor: str) -> Pool:
    own = grounds.prepared
    if predictor == RAW:
        return replace(own.pool, g=grounds.raw)
    # Waves learn from the chosen g alone, so that cells do not depend on other models by chance.
    return replace(own.pool, g=own.predictors[predictor], features=None)


def answer(report: Mapping[str, Any]) -> list[str]:
    """Return the paper's question, answered in words by what was measured."""
    rate, largest = report["error_rate"], max(report["budgets"])
    chosen = report["predictor"]["name"]
    said = [
        "The question: do labels spent where the target is unsure tell its error rate "
        f"({_share(rate)} of this pool) sooner than labels of random units?"
    ]
    naive = next(one for one in report["naive"] if one["labels"] == largest)
    said.append(
        f"Taken literally, no. The {largest:,} least confident units err "
        f"{naive['times_too_high']:.1f} times as often as the pool, at any number of labels, and "
        f"errors found over the pool miss {naive['missed']:.0%} of them."
    )
    by_name = {
        one["method"]: one
        for one in report["cells"]
        if one["predictor"] == chosen and one["labels"] == largest and not one["blind"]
    }
    best = max((by_name[name] for name in SAMPLED), key=lambda one: one["saving"])
    said.append(
        f"Weighed by known chances, {'yes' if best['saving'] > 1 else 'not here'}: with "
        f"{largest:,} labels {best['method']} has the error of {_with_error(best)} times as many "
        f"uniform ones, and strat of {_with_error(by_name['strat'])} times. No sampling by this "
        f"score could save more than {report['ceiling']:.1f} times."
    )
    for one in report["generated"]:
        if one["labels"] == largest and one["times"] is not None:
            said.append(
                f"Labels of {one['source']}: they err {one['times']:.2f} times as often as real "
                f"units. As an estimate, {largest:,} of them are worth "
                f"{one['saving'] * one['labels']:,.0f} uniform labels of real units, and no number "
                f"of them is worth more than {_worth(one, report['units']):,.0f}."
            )
    plain = _strat(report, "confidence", largest)
    for name, what in _SOUND.items():
        own = _strat(report, name, largest)
        if own is not None and plain is not None:
            said.append(
                f"Used soundly, {what} saves {_with_error(own)} times, confidence alone "
                f"{_with_error(plain)} times: generated data {_verdict(own, plain)}."
            )
    said.append(f"Validation labels chose the error predictor {chosen}.")
    stress = [one for one in report["cells"] if one["blind"] == 1.0]
    if stress:
        worst = min(stress, key=lambda one: one["saving"])
        said.append(
            "If all errors hid where none is expected, "
            f"{worst['method']} would still have the error of {worst['saving']:.2f} times its "
            "labels drawn uniformly: the price of looking in the wrong place."
        )
    return said


def _strat(report: Mapping[str, Any], predictor: str, labels: int) -> Mapping[str, Any] | None:
    """Return the cell of `strat` by an error predictor; None where that was not replayed."""
    for one in report["cells"]:
        known = (one["predictor"], one["method"], one["labels"], one["blind"])
        if known == (predictor, "strat", labels, 0.0):
            own: Mapping[str, Any] = one
            return own
    return None


def _verdict(own: Mapping[str, Any], plain: Mapping[str, Any]) -> str:
    """Return in words whether a saving differs from another by more than two standard errors."""
    gain = own["saving"] - plain["saving"]
    noise = 2 * float(np.hypot(own["saving_error"], plain["saving_error"]))
    if abs(gain) <= noise:
        return "make no difference that so many draws can tell"
    return "help to sample this pool" if gain > 0 else "make sampling this pool worse"


def _with_error(cell: Mapping[str, Any]) -> str:
    return f"{cell['saving']:.2f} ± {cell['saving_error']:.2f}"


def _worth(cell: Mapping[str, Any], units: int) -> float:
    """Return how many uniform labels have the error that the generated rate's bias alone is."""
    rate, bias = cell["rate"], cell["generated_rate"] - cell["rate"]
    return float(units) if bias == 0 else min(float(units), rate * (1 - rate) / bias**2)


def _share(value: float) -> str:
    return f"{100 * value:.3g} %"
