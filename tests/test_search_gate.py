"""The gate: a joint, distribution-free bound on rejected real tiles, and what it looks at."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from torch import Tensor

from rs_lowconf.bands import BandSpec
from rs_lowconf.errors import DataError
from rs_lowconf.measures import SYMMETRIES, turn
from rs_lowconf.search.gate import Gate, Stage, scores_one_by_one
from rs_lowconf.search.parts import Likeness, fit_spectra
from tests.fakes import FakeSource

CPU = torch.device("cpu")
BANDS = BandSpec(names=("B02", "B03", "B04", "B08"), level="L1C")


def gate_of(reference: Tensor, false_rejection: float = 0.05) -> Stage:
    parts = {str(i): (lambda image, label: image) for i in range(reference.shape[1])}
    return Stage(parts=parts, reference=reference, false_rejection=false_rejection)


@pytest.mark.parametrize("dependent", [False, True])
def test_real_tiles_are_rejected_at_the_joint_rate(dependent: bool) -> None:
    """Over many calibrations 2 of 59 fresh reals fall, though five parts look at each."""
    dice = torch.Generator().manual_seed(0)
    rejected, total = 0, 0
    for _ in range(400):
        # Skewed, heavy-tailed, on different scales, dependent or not.
        scores = torch.randn(158, 5, generator=dice)
        if dependent:
            scores = scores + 2 * torch.randn(158, 1, generator=dice)
        scores = torch.stack(
            [s * a for s, a in zip(scores.sinh().T, (1, 5, 0.1, 30, 2), strict=True)], 1
        )
        gate = gate_of(scores[:58])
        rejected += int((~gate.passes(gate.p_value(scores[58:]))).sum())
        total += 100
    assert rejected / total == pytest.approx(2 / 59, abs=0.004)


def test_p_values_are_those_of_a_loop() -> None:
    """The joint score is the worst of the parts, standardised with the judged tile included."""
    dice = np.random.default_rng(1)
    reference, judged = dice.normal(size=(31, 3)), dice.normal(size=(7, 3)) * 2
    told = gate_of(torch.from_numpy(reference).float()).p_value(torch.from_numpy(judged).float())
    for row, own in enumerate(judged):
        together = np.vstack([reference, own])
        centre = np.median(together, axis=0)
        spread = 1.4826 * np.median(np.abs(together - centre), axis=0)
        joint = ((together - centre) / spread).min(axis=1)
        assert float(told[row]) == pytest.approx((joint <= joint[-1]).mean())


def test_one_bad_part_is_enough() -> None:
    """A tile that is superb in two parts and absurd in the third is dropped."""
    gate = gate_of(torch.randn(58, 3, generator=torch.Generator().manual_seed(0)))
    assert not bool(gate.passes(gate.p_value(torch.tensor([[5.0, 5.0, -50.0]]))))
    assert bool(gate.passes(gate.p_value(torch.tensor([[0.0, 0.0, 0.0]]))))


def test_classes_are_matched_by_name(caplog: pytest.LogCaptureFixture) -> None:
    """Tiles enter with the gate's index of their class; unknown classes stay out, counted."""
    seen: list[int] = []

    def part(image: Tensor, label: Tensor) -> Tensor:
        seen.extend(label.tolist())
        return image.mean((1, 2, 3))

    scores = scores_one_by_one(
        {"part": part},
        FakeSource(BANDS, ("b", "volcano", "a"), 20),
        channels=(3,),
        classes=("a", "b"),
        device=CPU,
    )
    assert len(scores) == 40
    assert seen == [1, 0] * 20
    assert "left out: 20 held-out tiles of volcano" in caplog.text


def test_too_few_tiles_are_refused() -> None:
    """18 tiles cannot bound a false rejection of 5 %; 19 are needed."""
    with pytest.raises(DataError, match="at least 19"):
        gate_of(torch.zeros(18, 1))


def test_it_says_what_it_cannot_guarantee() -> None:
    """The chance of a much worse calibration agrees with simulation."""
    uniform = np.random.default_rng(0).random((20_000, 58))
    worse = float((np.sort(uniform, axis=1)[:, 1] > 0.10).mean())
    told = Gate(stages=(gate_of(torch.zeros(58, 1)),)).describe()
    (stage,) = told["stages"]
    chance = stage["chance_that_more_than_10_percent_are_rejected"]
    assert chance == pytest.approx(worse, abs=0.005)
    assert told["joint_false_rejection_at_most"] == pytest.approx(2 / 59)
    assert "was not measured" in told["note"]


def test_likeness_knows_a_turned_copy() -> None:
    """A mirrored training tile is as near as the tile itself; distances are those of scipy."""

    def corner(image: Tensor) -> Tensor:
        return image[:, :, :2, :3].flatten(1)

    train = torch.rand(6, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    all_turned = [turn(train, symmetry) for symmetry in range(SYMMETRIES)]
    part = Likeness(corner, corner(torch.cat(all_turned)))
    label = torch.zeros(1, dtype=torch.long)
    copy = train[3:4].rot90(3, (2, 3)).flip(3)
    assert float(part(copy, label)) > 15
    other = torch.rand(1, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    turned = [corner(one).numpy() for one in all_turned]
    nearest = min(cdist(corner(other).numpy(), one).min() for one in turned)
    assert float(part(other, label)) == pytest.approx(-np.log(nearest), rel=1e-4)


def test_spectra_that_break_the_bands_relation_are_noticed() -> None:
    """Bands that always are multiples of each other no longer are: the score falls."""
    source = FakeSource(BANDS, ("a", "b"), 20, noise=0.001)
    part = fit_spectra(source, (0, 1, 2, 3), seed=0)
    # Class b only: class a is grey, so that its bands can be swapped.
    image = source.batch(range(1, 20, 2)).image
    label = torch.ones(10, dtype=torch.long)
    swapped = image[:, [2, 3, 0, 1]]
    assert float(part(image, label).min()) > float(part(swapped, label).max())


def test_spectra_of_a_single_band() -> None:
    """One band has no relation to break; it still is compared with real values."""
    bands = BandSpec(names=("B08",), level="L1C")
    source = FakeSource(bands, ("a", "b"), 10)
    part = fit_spectra(source, (0,), seed=0)
    image = source.batch(range(4)).image
    label = torch.zeros(4, dtype=torch.long)
    assert float(part(image, label).min()) > float(part(image + 5, label).max())
