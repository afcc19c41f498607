"""Fitted parts of the gate: held-out real tiles are no novelty to them, and fakes are dropped."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from rs_lowconf.errors import DataError
from rs_lowconf.search.calibration import Calibration, load_calibration
from rs_lowconf.search.fitted import (
    FOLDS,
    FittedGate,
    FittedStage,
    Kind,
    RealTiles,
    dropped,
    false_rejection_by_class,
    fit_linear,
    fit_stage,
    folds_of,
    judged,
    out_of_fold,
    store_features,
)
from rs_lowconf.search.gate import Stage
from rs_lowconf.search.parts import Spectra

FEATURES = 6


def tiles(count: int, seed: int, shift: float = 0.0) -> Tensor:
    """Return skewed features, of which two tell fakes by their shift."""
    values = torch.randn(count, FEATURES, generator=torch.Generator().manual_seed(seed)).sinh()
    values[:, :2] += shift
    return values


def real_tiles(train: int, val: int, seed: int, share: float = 1.0) -> RealTiles:
    both = tiles(train + val, seed)
    labels = torch.arange(train + val) % 3
    return RealTiles(
        name="tiles",
        share=share,
        train={"view": both[:train]},
        train_labels=labels[:train],
        val={"view": both[train:]},
        val_labels=labels[train:],
    )


def kind_of(features: Tensor) -> Kind:
    return Kind(seen={"view": features}, labels=torch.arange(len(features)) % 3)


def fakes(count: int, seed: int, shift: float = 2.0) -> dict[str, Kind]:
    return {"fakes": kind_of(tiles(count, seed, shift))}


@pytest.mark.parametrize(("train", "val", "crossed"), [(40, 19, True), (60, 160, False)])
def test_real_tiles_are_rejected_at_the_promised_rate(train: int, val: int, crossed: bool) -> None:
    """Over many fits fresh reals fall as often as the rank says, cross-fitted or held out."""
    rejected, total, rank = 0, 0, 0.0
    for number in range(40):
        stage = fit_stage(
            real_tiles(train, val, number), fakes(30, 10_000 + number), false_rejection=0.05, seed=1
        )
        assert (stage.folds is not None) == crossed
        fresh = kind_of(tiles(250, 20_000 + number))
        rejected += dropped((stage,), fresh, 0.05)["count"]
        total += 250
        n = len(stage.reference)
        rank = np.floor(0.05 * (n + 1) + 1e-9) / (n + 1)
    # Calibrations differ, so the mean over 40 of them has a deviation of half a percent.
    assert rejected / total == pytest.approx(rank, abs=0.016)


def test_fakes_fall_and_what_is_real_does_not() -> None:
    """What the features tell is dropped; a "kind" of the real distribution is not."""
    real = real_tiles(200, 200, 0)
    stage = fit_stage(real, fakes(200, 1, 6.0), false_rejection=0.05, seed=0)
    power = dropped((stage,), kind_of(tiles(400, 2, 6.0)), 0.05)
    assert power["value"] > 0.9
    assert power["by_part"] == {"view": power["count"]}
    same = fit_stage(real, fakes(200, 3, 0.0), false_rejection=0.05, seed=0)
    nothing = dropped((same,), kind_of(tiles(400, 4)), 0.05)
    assert nothing["value"] == pytest.approx(0.05, abs=0.04)


def test_stages_hold_their_bound_together() -> None:
    """Two stages that share the permitted rejection reject no more than it, in all."""
    rejected = 0
    for number in range(30):
        parts = []
        for k, share in enumerate((0.6, 0.4)):
            real = real_tiles(60, 140, 100 * number + k, share)
            parts.append(fit_stage(real, fakes(40, 7_000 + number), false_rejection=0.1, seed=k))
        scores = judged(tuple(parts), kind_of(tiles(200, 50_000 + number)), 0.1)
        rejected += int((~scores.passes).sum())
        # The joint p-value says the same as the stages do.
        assert torch.equal(scores.passes, scores.p_value > 0.1 * (1 + 1e-6))
    assert rejected / 6_000 < 0.1 + 0.015


def test_cross_conformal_p_values_are_those_of_a_loop() -> None:
    """A tile is compared with the held-out tiles of each fold by the scores of that fold."""
    rng = np.random.default_rng(0)
    reference, folds = rng.normal(size=(23, 2)), np.arange(23) % 3
    scores = rng.normal(size=(5, 2, 3))
    stage = Stage(
        parts={"a": lambda image, label: image, "b": lambda image, label: image},
        reference=torch.from_numpy(reference).float(),
        false_rejection=0.1,
        folds=torch.from_numpy(folds),
    )
    told = stage.p_value(torch.from_numpy(scores).float())
    for row in range(5):
        below = 1
        for fold in range(3):
            together = np.vstack([reference[folds == fold], scores[row, :, fold]])
            centre = np.median(together, axis=0)
            spread = 1.4826 * np.median(np.abs(together - centre), axis=0)
            joint = ((together - centre) / spread).min(axis=1)
            below += int((joint[:-1] <= joint[-1]).sum())
        assert float(told[row]) == pytest.approx(below / 24)


def test_what_was_made_of_a_tile_shares_its_fold() -> None:
    """A fake that was made of a tile does not teach the score by which that tile is judged."""
    real, folds = tiles(50, 0), torch.arange(50) % FOLDS
    origin = torch.arange(50)
    first = fit_linear(real, {"made": tiles(50, 1, 2.0)}, folds, {"made": origin})
    changed = tiles(50, 1, 2.0)
    changed[folds == 3] += 40
    second = fit_linear(real, {"made": changed}, folds, {"made": origin})
    torch.testing.assert_close(first.weight[3], second.weight[3])
    assert not torch.allclose(first.weight[2], second.weight[2])
    score = out_of_fold(first, real, folds)
    torch.testing.assert_close(score[3], real[3] @ first.weight[3] + first.bias[3])


def test_every_class_is_in_every_fold() -> None:
    """Folds have the same size and the same classes, within one tile."""
    labels = torch.arange(70) % 4
    folds = folds_of(labels, 0)
    assert torch.bincount(folds).tolist() == [14] * FOLDS
    for k in range(4):
        counts = torch.bincount(folds[labels == k], minlength=FOLDS)
        assert int(counts.max() - counts.min()) <= 1


def test_too_few_tiles_for_a_share_are_refused_in_one_line() -> None:
    """Twenty tiles bound 5 % and no share of it."""
    stage = fit_stage(real_tiles(10, 10, 0, 0.4), fakes(20, 1), false_rejection=0.05, seed=0)
    with pytest.raises(DataError, match=r"20 held-out .* 2\.0 %; expected at least 49"):
        judged((stage,), kind_of(tiles(3, 4)), 0.05)


def test_each_class_has_its_own_threshold_where_there_are_enough_tiles() -> None:
    """A class whose real tiles look less real pays no more than the others, in fresh tiles too."""

    def shifted(count: int, seed: int) -> Tensor:
        """Return tiles of three classes in turn, of which the last lies near the fakes."""
        features = tiles(count, seed)
        features[2::3, :2] += 2
        return features

    rejected, together = torch.zeros(3), 0.0
    for number in range(8):
        both = shifted(900, number)
        labels = torch.arange(450) % 3
        real = RealTiles(
            name="tiles",
            share=1.0,
            train={"view": both[:450]},
            train_labels=labels,
            val={"view": both[450:]},
            val_labels=labels,
        )
        stage = fit_stage(real, fakes(200, 100 + number, 4.0), false_rejection=0.05, seed=0)
        assert stage.labels is not None
        fresh = kind_of(shifted(900, 1_000 + number))
        drops = ~judged((stage,), fresh, 0.05).passes
        rejected += torch.stack([drops[k::3].float().mean() for k in range(3)]) / 8
        without = replace(stage, labels=None)
        pooled = ~judged((without,), fresh, 0.05).passes
        together += float(pooled[2::3].float().mean()) / 8
    assert together > 0.08
    assert float(rejected.max()) < 0.07
    assert float(rejected.min()) > 0.03


def test_classes_are_counted_apart() -> None:
    """The rejected real tiles of all classes together are as many as the rank allows."""
    real = real_tiles(60, 240, 0)
    stage = fit_stage(real, fakes(60, 1), false_rejection=0.05, seed=0)
    told = false_rejection_by_class(stage, real.val_labels, ("a", "b", "c"), 0.05)
    # Each class has a threshold of its own: 4 of its 80 tiles and a judged one.
    assert [own["count"] for own in told.values()] == [4, 4, 4]
    assert [own["n"] for own in told.values()] == [80] * 3


@pytest.mark.parametrize("val", [15, 200])
def test_a_gate_is_the_same_when_it_is_read_again(tmp_path: Path, val: int) -> None:
    """Scores, thresholds, figures and stored features come back; the file is small."""
    real = real_tiles(60, val, 0)
    stage = fit_stage(real, fakes(60, 1), false_rejection=0.05, seed=0)
    own = torch.cat([real.train["view"], real.val["view"]]) if val == 15 else real.val["view"]
    fitted = FittedGate(
        stages=(stage,),
        views={"view": None},
        power={"kinds": {"fakes": {"fitted": True}}},
        stored=store_features("view", own, tiles(60, 1, 2.0), most=3),
    )
    calibration = Calibration(
        bank=torch.zeros(8, 4, 2),
        spectra=Spectra(torch.eye(2), torch.zeros(2)),
        reference=torch.zeros(5, 3),
        energy=torch.zeros(5),
        models={"gan": "x"},
        fitted=fitted,
    )
    calibration.save(tmp_path / "calibration.safetensors")
    again = load_calibration(tmp_path / "calibration.safetensors", {"gan": "x"}).fitted
    assert again is not None
    seen = kind_of(tiles(40, 9, 1.0))
    before, after = (judged(one.stages, seen, 0.05) for one in (fitted, again))
    assert torch.equal(before.p_value, after.p_value)
    assert again.power == fitted.power
    assert torch.equal(again.stored.real, fitted.stored.real)
    assert torch.equal(again.stored.of(own), fitted.stored.of(own))
    assert isinstance(again.stages[0], FittedStage)
