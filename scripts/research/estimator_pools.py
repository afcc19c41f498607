#!/usr/bin/env python3
"""How much do designs save, and do intervals cover? Pools of real classifiers, replayed.

Usage: scripts/research/estimator_pools.py OUT [--size 100000] [--repetitions 1000]
           [--budgets 300 1000]

Needs no data and no network. Nine pools: three scikit-learn classifiers, each on a made problem
of 13 bands and six classes whose overlap is set so that it errs at about 9, 1 and 0.1 %. Each
problem is a seeded mixture of heavy-tailed clouds, three a class, so that classifiers are also
wrong where they are sure. Three surrogates, the other two classifiers and a small
network, learn from other samples than the target. Three error predictors score each pool:

* `confidence`: 1 - the largest probability, recalibrated on 5,000 labels;
* `surrogates`: a logistic curve over it and the surrogates' doubt, from the same labels;
* `unvalidated`: the mean doubt of target and surrogates as it is, for the adaptive design, whose
  waves learn from the doubt of the target and that of the surrogates.

5,000 other labels tell what `plan` predicts. Then every design is replayed, also with a share of
the errors hidden where none is expected. A JSON file a cell in OUT, and a summary of all in
OUT/summary.json; an interrupted run goes on where it stopped.
"""

import argparse
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pieces import piece
from scipy.stats import binom
from sklearn.ensemble import ExtraTreesClassifier, HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from rs_lowconf.estimate.design import MethodName
from rs_lowconf.estimate.draws import Pool
from rs_lowconf.estimate.experiment import SAMPLED
from rs_lowconf.estimate.methods import METHODS
from rs_lowconf.estimate.plan import Validation, plan
from rs_lowconf.estimate.predictors import (
    chosen,
    fit_predictor,
    log_odds,
    one_minus_largest,
    recalibrated,
    surrogate_doubt,
)
from rs_lowconf.estimate.replay import replay, replay_naive, with_blind_spot
from rs_lowconf.runs import finite, write_json
from rs_lowconf.seeds import seed_of

Numbers = NDArray[np.float64]
Kind = Literal["logistic", "boosting", "trees"]

RATES = (0.09, 0.01, 0.001)
KINDS: tuple[Kind, ...] = ("boosting", "trees", "logistic")
CLASSES, BANDS, CLOUDS = 6, 13, 3
TRAINING = 4_000
VALIDATION = 10_000
"""Labels: half fit error predictors, half tell what to expect."""
HALVINGS = 9
DEFENSIVE, CERTIFYING = 0.3, 0.5
BLIND = (0.1, 0.3, 1.0)


@dataclass(frozen=True, kw_only=True)
class Words:
    """What the command line says."""

    out: Path
    size: int
    repetitions: int
    betting: int
    budgets: list[int]
    pools: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """Clouds of the classes; they draw apart as the separation grows."""

    centre: Numbers
    mixing: Numbers
    prior: Numbers

    def sample(self, n: int, separation: float, seed: int) -> tuple[Numbers, NDArray[np.int64]]:
        """Return band values and classes of `n` tiles."""
        dice = np.random.default_rng(seed)
        label = dice.choice(CLASSES, n, p=self.prior)
        cloud = dice.integers(CLOUDS, size=n)
        tail = np.sqrt(5 / dice.chisquare(5, n))[:, None]
        noise = np.einsum("nb,nbc->nc", dice.standard_normal((n, BANDS)), self.mixing[label, cloud])
        return separation * self.centre[label, cloud] + tail * noise, label


def problem(seed: int) -> Problem:
    """Return the problem of a seed."""
    dice = np.random.default_rng(seed)
    centre = dice.standard_normal((CLASSES, CLOUDS, BANDS))
    mixing = np.eye(BANDS) + 0.4 * dice.standard_normal((CLASSES, CLOUDS, BANDS, BANDS))
    return Problem(centre=centre, mixing=mixing, prior=dice.dirichlet(np.full(CLASSES, 5.0)))


def classifier(kind: str, seed: int) -> Any:
    """Return an untrained classifier."""
    match kind:
        case "logistic":
            return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1_000))
        case "boosting":
            return HistGradientBoostingClassifier(max_iter=60, random_state=seed % 2**31)
        case "trees":
            return ExtraTreesClassifier(
                200, min_samples_leaf=2, random_state=seed % 2**31, n_jobs=1
            )
        case _:
            network = MLPClassifier((64,), early_stopping=True, random_state=seed % 2**31)
            return make_pipeline(StandardScaler(), network)


def fitted(kind: str, own: Problem, separation: float, seed: int) -> Any:
    """Return a classifier trained on a sample of its own."""
    x, y = own.sample(TRAINING, separation, seed_of(seed, "training"))
    return classifier(kind, seed).fit(x, y)


def separation_for(kind: Kind, own: Problem, rate: float, seed: int) -> float:
    """Return how far apart the clouds lie for the classifier to err at about this rate."""
    low, high = np.log(0.2), np.log(30.0)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        target = fitted(kind, own, float(np.exp(middle)), seed)
        x, y = own.sample(20_000, float(np.exp(middle)), seed_of(seed, "pilot"))
        low, high = (middle, high) if (target.predict(x) != y).mean() > rate else (low, middle)
    return float(np.exp((low + high) / 2))


def make_pool(path: Path, kind: Kind, rate: float, size: int) -> dict[str, Any]:
    """Write what the models say of the pool's and the validation's tiles, and who is wrong."""
    seed = seed_of(0, "pool", kind, str(rate))
    own = problem(seed)
    separation = separation_for(kind, own, rate, seed)
    target = fitted(kind, own, separation, seed)
    others = [*(one for one in KINDS if one != kind), "perceptron"]
    surrogates = [fitted(one, own, separation, seed_of(seed, one)) for one in others]
    parts: dict[str, Any] = {}
    for part, n in (("pool", size), ("validation", VALIDATION)):
        x, y = own.sample(n, separation, seed_of(seed, part))
        said = target.predict_proba(x)
        predicted = said.argmax(1)
        given = [one.predict_proba(x) for one in surrogates]
        parts |= {
            f"{part}_predicted": predicted,
            f"{part}_error": predicted != y,
            f"{part}_confidence": one_minus_largest(said),
            f"{part}_surrogates": surrogate_doubt(predicted, given),
            f"{part}_unvalidated": surrogate_doubt(predicted, [said, *given]),
        }
    np.savez_compressed(path, **parts)
    return {
        "kind": kind,
        "wanted": rate,
        "separation": separation,
        "surrogates": others,
        "rate": float(parts["pool_error"].mean()),
        "validation_errors": int(parts["validation_error"].sum()),
    }


def predictors(parts: dict[str, Any]) -> dict[str, tuple[Numbers, Numbers]]:
    """Return g of the pool, and of the validation units that no predictor learned from."""
    half = VALIDATION // 2
    error = parts["validation_error"][:half]

    def both(name: str) -> Numbers:
        own: Numbers = np.concatenate([parts[f"validation_{name}"], parts[f"pool_{name}"]])
        return own

    confidence = recalibrated(both("confidence"), np.arange(half), error)
    features = np.stack([log_odds(both(name)) for name in ("confidence", "surrogates")], axis=1)
    fit = fit_predictor(features[:half], error, confidence[:half])
    scores = {
        "confidence": confidence,
        "surrogates": fit(features),
        "unvalidated": both("unvalidated"),
    }
    return {name: (g[VALIDATION:], g[half:VALIDATION]) for name, g in scores.items()}


def expectations(
    parts: dict[str, Any], scores: dict[str, tuple[Numbers, Numbers]], words: Words
) -> dict[str, Any]:
    """Return what `plan` tells of each predictor and number of labels, and which is chosen."""
    error = parts["validation_error"][VALIDATION // 2 :]
    told: dict[str, Any] = {}
    for name, (g, own) in scores.items():
        pool = Pool(g=g, predicted=parts["pool_predicted"])
        for labels in words.budgets:
            said = plan(
                pool,
                labels,
                seed=1,
                validation=Validation(g=own, error=error),
                methods=tuple(METHODS),
                shares=(DEFENSIVE,),
            )
            told[f"{name}-{labels}"] = finite(asdict(said))
    candidates = {name: own for name, (_, own) in scores.items()}
    told["chosen"] = asdict(chosen(candidates, error)) if error.any() else None
    return told


def replayed(
    parts: dict[str, Any],
    g: Numbers,
    words: Words,
    *,
    features: Numbers | None,
    method: MethodName,
    labels: int,
    blind: float,
    defensive: float,
) -> dict[str, Any]:
    """Return one cell, a share of whose errors is hidden where none is expected."""
    error = parts["pool_error"]
    if blind:
        error = with_blind_spot(error, g, blind, 0)
    cells = replay(
        Pool(g=g, predicted=parts["pool_predicted"], features=features),
        error,
        methods=(method,),
        budgets=(labels,),
        repetitions=words.repetitions,
        seed=seed_of(0, "blind", str(blind)),
        defensive=defensive,
        betting_repetitions=words.betting,
    )
    return finite(asdict(next(cells)))  # type: ignore[no-any-return]  # a dict stays one


def biased_figures(parts: dict[str, Any], labels: int) -> dict[str, Any]:
    """Return what the paper's own way would have said."""
    return asdict(replay_naive(Pool(g=parts["pool_confidence"]), parts["pool_error"], labels))


def cases() -> list[tuple[str, MethodName, float, float]]:
    """Return predictor, method, hidden share of the errors and defensive share of all cells."""
    plain = [
        (name, method)
        for name in ("confidence", "surrogates")
        for method in METHODS
        if method != "adaptive"
    ]
    adaptive: list[tuple[str, MethodName]] = [
        (name, "adaptive") for name in ("confidence", "unvalidated")
    ]
    return [
        *((*case, 0.0, DEFENSIVE) for case in (*plain, *adaptive)),
        *(("confidence", method, blind, DEFENSIVE) for method in SAMPLED for blind in BLIND),
        *(("confidence", method, 1.0, CERTIFYING) for method in SAMPLED),
    ]


def summary(cells: list[dict[str, Any]], told: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return savings beside what was predicted, and the worst coverage of each interval."""
    savings = []
    for cell in cells:
        if cell["blind"]:
            continue
        said = told[cell["pool"]][f"{cell['predictor']}-{cell['labels']}"]
        predicted = next(one for one in said["prospects"] if one["method"] == cell["method"])
        savings.append(
            {name: cell[name] for name in ("pool", "predictor", "method", "labels", "saving")}
            | {"predicted": predicted["saving"], "ceiling": said["ceiling"]}
        )
    return {"savings": savings, "coverage": coverage(cells)}


def coverage(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Return for each interval its worst and mean coverage, and the cells that fall short.

    Short is what the binomial law says of one cell among all of them, by Holm's rule at 5 %.
    """
    by_method: dict[str, list[tuple[float, float, str]]] = {}
    for cell in cells:
        name = "-".join(str(cell[part]) for part in ("pool", "predictor", "method", "labels"))
        for own in cell["coverage"]:
            chance = float(binom.cdf(own["covered"], own["repetitions"], 0.95))
            share = own["covered"] / own["repetitions"]
            label = f"{name}-blind{cell['blind']}-defensive{cell['defensive']}"
            by_method.setdefault(own["method"], []).append((chance, share, label))
    result = {}
    for method, found in by_method.items():
        short = []
        for place, (chance, share, label) in enumerate(sorted(found)):
            if chance > 0.05 / (len(found) - place):
                break
            short.append({"cell": label, "coverage": share})
        shares = [share for _, share, _ in found]
        result[method] = {
            "cells": len(found),
            "worst": min(shares),
            "mean": float(np.mean(shares)),
            "below_93": sum(share < 0.93 for share in shares),
            "significantly_below_95": short,
        }
    return result


def main(words: Words) -> None:
    """Make the pools, tell what to expect, replay, sum up."""
    settings = finite(asdict(words) | {"out": str(words.out)})
    if piece(words.out / "words.json", lambda: settings) != settings:
        raise SystemExit(f"{words.out} holds a run by other words: take another folder")
    cells, told = [], {}
    for kind, rate in list(product(KINDS, RATES))[: words.pools]:
        name = f"{kind}-{rate}"
        path = words.out / f"{name}.npz"

        # The JSON file comes last, so a pool that was written by halves is made again.
        about = piece(words.out / f"{name}.json", partial(make_pool, path, kind, rate, words.size))
        parts = dict(np.load(path))
        scores = predictors(parts)
        doubts = np.stack(
            [log_odds(parts[f"pool_{own}"]) for own in ("confidence", "surrogates")], axis=1
        )
        print(f"{name}: {100 * about['rate']:.3f} % errors", flush=True)
        told[name] = piece(
            words.out / f"{name}-plan.json", partial(expectations, parts, scores, words)
        )
        for labels in words.budgets:
            piece(words.out / f"{name}-naive-{labels}.json", partial(biased_figures, parts, labels))
            for predictor, method, blind, defensive in cases():
                hidden = f"blind{blind}"
                if defensive != DEFENSIVE:
                    hidden += f"-defensive{defensive}"
                cell = piece(
                    words.out / f"{name}-{predictor}-{method}-{labels}-{hidden}.json",
                    partial(
                        replayed,
                        parts,
                        scores[predictor][0],
                        words,
                        features=doubts if predictor == "unvalidated" else None,
                        method=method,
                        labels=labels,
                        blind=blind,
                        defensive=defensive,
                    ),
                )
                cells.append(cell | {"pool": name, "predictor": predictor, "blind": blind})
    write_json(words.out / "summary.json", summary(cells, told))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", type=int, default=100_000, help="tiles of a pool")
    parser.add_argument("--repetitions", type=int, default=1_000, help="draws of a cell")
    parser.add_argument(
        "--betting", type=int, default=1_000, help="of these with betting's interval"
    )
    parser.add_argument("--budgets", type=int, nargs="+", default=[300, 1_000])
    parser.add_argument("--pools", type=int, default=9, help="how many of the nine pools")
    main(Words(**vars(parser.parse_args())))
