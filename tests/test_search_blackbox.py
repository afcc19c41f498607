"""Search without the target's gradients: what is read of an answer, splitting, the student."""

import math
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor

from rs_lowconf.asking import CountedTarget
from rs_lowconf.bands import BandSpec
from rs_lowconf.errors import SettingsError
from rs_lowconf.models import method_of
from rs_lowconf.search.evaluate import Evaluator
from rs_lowconf.search.gate import single_stage
from rs_lowconf.search.journal import Journal
from rs_lowconf.search.loop import Outcome, SearchRules, Trajectory, search
from rs_lowconf.search.prior import PriorShell, draw_latent
from rs_lowconf.search.reading import Reading, log_odds
from rs_lowconf.search.splitting import Langevin, SplittingRules, probability, split
from rs_lowconf.search.student import Student, TeachingRules, load_student, teach
from rs_lowconf.settings import SearchSettings
from rs_lowconf.subset_simulation import Latents
from tests.test_search_loop import BANDS, GATE, FakeGenerator, band_means

CPU = torch.device("cpu")
CLASSES = ("a", "b")


class ShiftedTail:
    """Below 0.6 where the first latent, read back from the brightness of B02, is beyond beta.

    A classic limit state: P(low confidence given the condition) is the normal tail of beta.
    """

    bands = BANDS.select(("B02",))
    classes: tuple[str, ...] = ("no", "yes", "perhaps")
    differentiable = False
    pixelwise = False

    def __init__(self, betas: tuple[float, ...]) -> None:
        self._betas = torch.tensor(betas)

    def predict(self, image: Tensor) -> Tensor:
        mean = image.mean((1, 2, 3))
        label = (mean > 1.0).long()  # the second class is drawn one unit brighter
        first = torch.atanh(((mean - label - 0.3) / 0.1).clamp(-0.999999, 0.999999))
        # At beta the three share as 3 : 1 : 1; beyond it no class ever has 0.6 again.
        logit = 2 * (self._betas[label] - first) + math.log(3)
        rest = torch.zeros_like(logit)
        return torch.log_softmax(torch.stack([logit, rest, rest], 1), 1)


class FlatGenerator(FakeGenerator):
    """Tiles without texture, whose brightness in B02 is the first latent; ten times real."""

    def __call__(self, z: Tensor, label: Tensor) -> Tensor:
        level = 0.3 + 0.1 * torch.tanh(z[:, :4]) + label[:, None]
        return level[:, :, None, None].expand(-1, -1, 2, 2)


def limit_evaluator(*betas: float) -> Evaluator:
    """Join them; the gate lets everything through that is bright in B08."""
    return Evaluator(
        FlatGenerator(),
        ShiftedTail(betas),
        single_stage(
            {"critic": lambda i, y: i.sum((1, 2, 3)) * 0 - 97},
            GATE.stages[0].reference - 100,
            GATE.false_rejection,
        ),
        penalties=[],
        reading=Reading(),
        features=band_means,
        target_channels=(0,),
        micro_batch=32,
        device=CPU,
    )


def rules(**changed: object) -> SplittingRules:
    values: dict[str, object] = {
        "tau": 0.6,
        "labels": (0, 1),
        "run_seed": 1,
        "stream": "search",
        "particles": 32,
        "moves": 3,
        "final_moves": 0,
        "max_levels": 30,
    }
    return SplittingRules(**(values | changed))  # type: ignore[arg-type]  # a test's short hand


class TestReading:
    """A target's answer becomes one confidence a tile."""

    def test_a_tile_is_read_as_it_is(self) -> None:
        """The largest probability, and its log-odds where it rounds to 1."""
        said = torch.log_softmax(torch.tensor([[30.0, 0.0, -1.0], [0.2, 0.1, 0.0]]), 1)
        answer = Reading()(said, torch.tensor([0, 0]))
        assert torch.equal(answer.log_probability, said)
        assert torch.equal(answer.confidence, said.amax(1).exp())
        assert float(answer.confidence[0]) == 1.0
        assert float(answer.log_odds[0]) == pytest.approx(30 - math.log1p(math.exp(-1)), rel=1e-5)

    @pytest.mark.parametrize("share", [0.01, 0.2, 0.55, 1.0])
    def test_pixels_are_read_where_the_target_is_least_certain(self, share: float) -> None:
        """The mean of the smallest largest probabilities, as numpy sorts them."""
        dice = torch.Generator().manual_seed(3)
        said = torch.log_softmax(4 * torch.randn(5, 3, 6, 7, generator=dice), 1)
        answer = Reading(share=share)(said, torch.zeros(5, dtype=torch.long))
        largest = np.sort(said.exp().numpy().max(1).reshape(5, -1), axis=1)
        expected = largest[:, : math.ceil(share * 42)].mean(1)
        np.testing.assert_allclose(answer.confidence, expected, rtol=1e-5)
        np.testing.assert_allclose(
            answer.log_odds, np.log(expected / (1 - expected)), rtol=1e-4, atol=1e-4
        )
        np.testing.assert_allclose(answer.log_probability.exp(), said.exp().mean((2, 3)), rtol=1e-5)

    def test_a_region_leaves_other_pixels_out(self) -> None:
        """Unsure pixels outside do not count; an empty region counts as the whole tile."""
        said = torch.full((3, 2, 4, 4), 0.5).log()
        sure = torch.tensor([0.99, 0.01]).log()
        said[:, :, :2] = sure[:, None, None]
        regions = torch.zeros(2, 4, 4, dtype=torch.bool)
        regions[0, :2] = True
        answer = Reading(share=1.0, regions=regions)(said, torch.tensor([0, 1, 0]))
        torch.testing.assert_close(answer.confidence, torch.tensor([0.99, 0.745, 0.99]))

    def test_gradients_reach_the_least_certain_pixels_only(self) -> None:
        """Sure pixels are left alone, also where everything is sure."""
        logit = torch.tensor([[[[50.0, 60.0, 0.5, 40.0]]]]).expand(1, 2, 1, 4).clone()
        logit[:, 1] = 0
        logit.requires_grad_()
        answer = Reading(share=0.25)(torch.log_softmax(logit, 1), torch.tensor([0]))
        answer.log_odds.sum().backward()  # type: ignore[no-untyped-call]
        assert logit.grad is not None
        assert torch.isfinite(logit.grad).all()
        assert torch.nonzero(logit.grad[0, 0, 0]).tolist() == [[2]]

    def test_log_odds_do_not_saturate(self) -> None:
        """For every number of classes they are log p - log(1 - p), in double precision."""
        logit = torch.randn(50, 7, dtype=torch.float64) * 3
        p = torch.softmax(logit, 1).amax(1)
        torch.testing.assert_close(log_odds(torch.log_softmax(logit, 1)), (p / (1 - p)).log())


class TestSplitting:
    """Populations arrive at low confidence and say how probable it is."""

    def test_what_is_found_is_of_low_confidence_as_stored(self) -> None:
        """Each accepted tile, scored alone from its numbers, is below tau."""
        evaluator = limit_evaluator(2.0, 2.5)
        target = ShiftedTail((2.0, 2.5))
        found = 0
        for one in islice(split(evaluator, rules()), 128):
            if one.found is not None and one.found.tile is not None:
                image = torch.from_numpy(one.found.tile.pixels.numpy().astype(np.float32)) / 10_000
                assert float(target.predict(image[None, :1]).max().exp()) < 0.6
                found += 1
        assert found > 40

    def test_every_evaluation_is_counted_once(self) -> None:
        """The trajectories of whole populations add up to what the target counted."""
        evaluator = limit_evaluator(2.0, 2.5)
        some = list(islice(split(evaluator, rules()), 64))
        # The fifth population starts when its first trajectory is asked for, not before.
        assert sum(one.evaluations for one in some) == evaluator.target.evaluations

    @pytest.mark.usefixtures("unchecked")
    @pytest.mark.slow
    def test_the_probability_agrees_with_the_exact_one_and_its_interval_covers(self) -> None:
        """P = 1e-3: mean of 40 runs within 3 errors; 95 % intervals cover in 34 at least."""
        betas = (2.9, 3.2)
        exact = float(norm.sf(betas).mean())
        assert 5e-4 < exact < 2e-3
        values, covered = [], 0
        for seed in range(40):
            stream = split(limit_evaluator(*betas), rules(run_seed=seed))
            result = probability(list(islice(stream, 2 * 2 * 32 * 2)), 32, CLASSES)
            values.append(result["value"])
            low, high = result["interval_95"]
            covered += low <= exact <= high
        assert abs(np.mean(values) - exact) < 3 * np.std(values) / 40**0.5
        assert covered >= 34  # 33 or fewer of 40: once in 200 times at 95 %

    @pytest.mark.usefixtures("unchecked")
    def test_after_final_moves_what_is_found_follows_the_prior_given_the_level_set(self) -> None:
        """The first latent beyond beta is a truncated normal: mean and share of its upper half."""
        evaluator = limit_evaluator(1.5, 1.5)
        some = islice(split(evaluator, rules(final_moves=20)), 32 * 60)
        z = [
            float(one.found.tile.z[0])
            for one in some
            if one.found is not None and one.found.tile is not None
        ]
        expected = norm.pdf(1.5) / norm.sf(1.5)
        assert np.mean(z) == pytest.approx(expected, abs=0.06)

    def test_results_do_not_depend_on_where_a_run_was_interrupted(self, tmp_path: Path) -> None:
        """A journal cut in the middle of a population ends with the same trajectories."""
        whole = list(islice(split(limit_evaluator(2.0, 2.5), rules()), 96))
        journal = Journal(tmp_path, {"x": 1})
        for one in whole[:45]:
            journal.write(one, 0.0)
        past = Journal(tmp_path, {"x": 1}).read()
        again = list(islice(split(limit_evaluator(2.0, 2.5), rules(), past.trajectories), 96))
        for first, second in zip(whole, again, strict=True):
            plain = [
                (one.seed_id, one.outcome, one.evaluations, one.confidence)
                for one in (first, second)
            ]
            assert plain[0] == plain[1]
            assert (first.found is None) == (second.found is None)

    def test_what_is_low_from_the_start_are_its_random_latents(self) -> None:
        """Without a level, a population is the latents of its seeds, and their share."""
        some = list(islice(split(limit_evaluator(-0.5, -0.5), rules()), 64))
        for population in (some[:32], some[32:]):
            found = [one for one in population if one.found is not None]
            assert {one.evaluations for one in found} == {2}  # as drawn, and as stored
            assert {one.population_probability for one in population} == {len(found) / 32}
            for one in found:
                assert one.found is not None
                assert one.found.tile is not None
                drawn = draw_latent(1, "search", one.seed_id, len(one.found.tile.z))
                assert torch.equal(one.found.tile.z, drawn)

    def test_closed_conditions_are_skipped_once_they_were_replicated(self) -> None:
        """With one replicate asked for, the second population of a closed condition is skipped."""
        stream = split(limit_evaluator(2.0, 2.0), rules(replicates=1), closed={1})
        outcomes = [Counter(o.outcome for o in islice(stream, 32)) for _ in range(4)]
        skipped = [Outcome.SKIPPED in counts for counts in outcomes]
        assert skipped == [False, False, False, True]

    def test_what_cannot_be_reached_is_given_up(self) -> None:
        """A tail of 1e-30 ends after the set levels, with nothing found and P = 0."""
        some = list(islice(split(limit_evaluator(12.0, 12.0), rules(max_levels=6)), 32))
        assert {one.outcome for one in some} == {Outcome.AGED}
        result = probability(some, 32, CLASSES)
        assert result["value"] == 0.0
        assert result["interval_95"] is None

    def test_a_target_that_answers_the_same_to_all_ends_the_population(self) -> None:
        """Without differences there is no level to climb down to, and no endless loop."""
        evaluator = limit_evaluator(math.inf, math.inf)
        some = list(islice(split(evaluator, rules()), 32))
        assert {one.outcome for one in some} == {Outcome.AGED}
        assert evaluator.target.evaluations == 32

    def test_a_target_that_is_wholly_sure_has_answered(self) -> None:
        """Infinite log-odds of a confidence of 1 are not taken for a missing answer."""

        class Sure(ShiftedTail):
            def predict(self, image: Tensor) -> Tensor:
                return torch.tensor([1.0, 0.0, 0.0]).log().expand(len(image), 3)

        evaluator = limit_evaluator(0.0)
        evaluator.target = CountedTarget(Sure((0.0,)))
        some = list(islice(split(evaluator, rules()), 32))
        assert {one.outcome for one in some} == {Outcome.AGED}
        assert {one.confidence for one in some} == {1.0}

    def test_the_drift_is_corrected_by_the_ratio_of_both_ways(self) -> None:
        """Steps to and fro, by the normal densities of scipy: their log ratio is the walk's."""
        rng = np.random.default_rng(4)
        z, slopes = rng.standard_normal((2, 6, 7)), rng.standard_normal((2, 6, 7))
        slopes[0, 1] = np.nan  # a gradient that is not finite: no drift
        here, there = (
            Latents(z=own, value=np.zeros(6), extras=kept(slope))
            for own, slope in zip(z, slopes, strict=True)
        )
        walk, step = Langevin(0.7), 0.6
        still = np.zeros_like(z[0])

        def way(begin: Latents, end: Latents) -> np.ndarray:
            mean = walk.propose(begin, still, step)
            density = norm.logpdf(begin.z) + norm.logpdf(end.z, mean, step)
            return np.asarray(density.sum(1))

        assert np.allclose(walk.propose(here, still + 1, step)[1], 0.8 * z[0, 1] + 0.6)
        assert np.allclose(way(there, here) - way(here, there), walk.log_ratio(here, there, step))


def kept(slopes: np.ndarray) -> np.ndarray:
    """Return what a search keeps with latents, of which a drift reads the slope."""
    extras = np.empty(len(slopes), dtype=object)
    extras[:] = [SimpleNamespace(slope=slope) for slope in slopes]
    return extras


class Pedant:
    """The fake target of the gradient search, without its gradients."""

    classes: tuple[str, ...] = ("x", "y")
    differentiable = False
    pixelwise = False

    def __init__(self) -> None:
        self.bands = BandSpec(names=("B04", "B02"), level="L1C")

    def predict(self, image: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.log_softmax(100 * (image.mean((2, 3)) - 0.3), dim=1)


def student_evaluator() -> Evaluator:
    return Evaluator(
        FakeGenerator(),
        Pedant(),
        GATE,
        penalties=[],
        reading=Reading(),
        features=band_means,
        target_channels=(2, 0),
        micro_batch=16,
        device=CPU,
    )


TEACHING = TeachingRules(
    tau=0.6,
    labels=(0, 1),
    run_seed=1,
    stream="search",
    first=256,
    rounds=2,
    each=64,
    learning_rate=0.1,
    max_age=25,
    steps=200,
)
SHELL = PriorShell((6, 10), 0.01)


def taught() -> Student:
    return list(teach(student_evaluator(), SHELL, TEACHING, CPU))[-1][0]


class TestStudent:
    """A student's gradients lead to what the target is unsure of."""

    @pytest.mark.slow
    @pytest.mark.usefixtures("unchecked")
    def test_it_learns_and_leads(self, tmp_path: Path) -> None:
        """Found tiles are the target's own; few questions a find; the file round-trips."""
        evaluator = student_evaluator()
        *_, (student, lessons) = teach(evaluator, SHELL, TEACHING, CPU)
        assert lessons.evaluations == evaluator.target.evaluations == 256 + 2 * 64
        student.save(tmp_path / "student.safetensors", lessons)
        again, known = load_student(tmp_path / "student.safetensors", CPU)
        assert known == lessons
        own = SearchRules(
            mode="yield",
            tau=0.6,
            max_age=25,
            slots=8,
            learning_rate=0.1,
            labels=(0, 1),
            run_seed=1,
            stream="search",
        )
        before = evaluator.target.evaluations
        some = list(islice(search(evaluator.guided_by(again), SHELL, own), 60))
        found = [one for one in some if one.found is not None]
        still: list[Trajectory] = list(
            islice(search(evaluator, SHELL, replace(own, mode="random", stream="r")), 2000)
        )
        asked = sum(one.evaluations for one in some)
        assert asked <= evaluator.target.evaluations - before
        random = sum(one.evaluations for one in still) / sum(o.found is not None for o in still)
        assert len(found) > 20
        assert asked / len(found) < random / 3
        for one in found:
            assert one.found is not None
            assert one.found.confidence < 0.6

    @pytest.mark.slow
    def test_it_is_the_same_each_time(self) -> None:
        """What a student knows follows from the run seed."""
        first, second = taught(), taught()
        for a, b in zip(first.parameters(), second.parameters(), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("method", "mode", "differentiable", "expected"),
    [
        ("auto", "yield", True, "gradient"),
        ("auto", "sample", True, "gradient"),
        ("auto", "yield", False, "student"),
        ("auto", "sample", False, "splitting"),
        ("splitting", "yield", True, "splitting"),
        ("student", "yield", True, "student"),
        ("gradient", "yield", False, "no gradients"),
        ("student", "sample", False, "an estimate"),
    ],
)
def test_the_method_follows_settings_and_target(
    method: str, mode: str, differentiable: bool, expected: str
) -> None:
    """What the target cannot do is refused; `auto` chooses what it can."""
    settings = SearchSettings.model_validate({"method": method, "mode": mode})
    if " " in expected:
        with pytest.raises(SettingsError, match=expected):
            method_of(settings, differentiable=differentiable)
    else:
        assert method_of(settings, differentiable=differentiable) == expected
