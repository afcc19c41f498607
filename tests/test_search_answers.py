"""A target that has no answer to some tiles: the search goes on, and says how many and why."""

import math
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from scipy.stats import norm
from torch import Tensor

from rs_lowconf.asking import CountedTarget, Unanswered, ask
from rs_lowconf.errors import AnswerError, ModelError
from rs_lowconf.search.evaluate import Evaluator
from rs_lowconf.search.journal import Journal
from rs_lowconf.search.loop import Outcome, Trajectory, search
from rs_lowconf.search.prior import draw_latent
from rs_lowconf.search.report import NoAnswer, low_confidence_share, summarise
from rs_lowconf.search.splitting import probability, split
from rs_lowconf.search.student import load_student, teach
from tests import test_search_blackbox as blackbox
from tests.test_search_loop import CPU, SHELL, FakeTarget, make_evaluator, rules, run, same

NAN = "the target returns NaN or infinity"


class Moody(FakeTarget):
    """Has no answer where the mean of B04 is above a bound, nor, if asked to, to stored tiles."""

    def __init__(self, bound: float = math.inf, *, stored: bool = False) -> None:
        super().__init__()
        self._bound, self._stored = bound, stored
        self.refused = 0

    def predict(self, image: Tensor) -> Tensor:
        # The search asks about stored tiles one by one.
        bad = (image[:, 0].mean((1, 2)) > self._bound) | (self._stored and len(image) == 1)
        if bad.any():
            tiles = torch.nonzero(bad)[:, 0].tolist()
            self.refused += len(tiles)
            raise AnswerError(f"{NAN} in {len(tiles)} tiles", tiles=tiles, reason=NAN)
        return super().predict(image)


def moody(bound: float = math.inf, *, stored: bool = False) -> Evaluator:
    evaluator = make_evaluator()
    evaluator.target = CountedTarget(Moody(bound, stored=stored))
    return evaluator


def test_a_tile_without_an_answer_ends_its_trajectory_and_no_other() -> None:
    """All others are bit for bit what they are with a target that answers everything."""
    some = run(60, moody(0.36))
    ended = [one for one in some if one.outcome is Outcome.UNANSWERED]
    assert 5 < len(ended) < 40
    assert sum(one.found is not None for one in some) > 10
    assert all(one.unanswered == {NAN: 1} and one.found is None for one in ended)
    for one, whole in zip(some, run(60), strict=True):
        if one.outcome is Outcome.UNANSWERED:
            assert one.steps <= whole.steps
        else:
            assert same(one, whole)
            assert not one.unanswered


@pytest.mark.parametrize("slots", [1, 3, 32])
def test_what_has_no_answer_does_not_depend_on_slots(slots: int) -> None:
    """The same trajectories end, after the same step, in any company."""
    assert all(
        same(a, b) and a.unanswered == b.unanswered
        for a, b in zip(run(20, moody(0.36)), run(20, moody(0.36), slots=slots), strict=True)
    )


def test_evaluations_without_an_answer_are_counted_once() -> None:
    """Neither padding nor asking again without the bad tiles is an evaluation."""
    evaluator = moody(0.36)
    some = list(islice(search(evaluator, SHELL, rules(slots=1)), 20))
    assert any(one.unanswered for one in some)
    assert evaluator.target.evaluations == sum(one.evaluations for one in some)


def test_gradients_stay_finite_and_those_of_other_tiles_are_theirs() -> None:
    """No confidence, no gradient and no low log-odds where there is no answer."""
    z = torch.stack([draw_latent(1, "search", seed, 16) for seed in range(12)])
    label = torch.arange(12) % 2
    scores, whole = (one.score(z, label, gradient=True) for one in (moody(0.33), make_evaluator()))
    bad = sorted(scores.unanswered)
    assert 1 < len(bad) < 11
    assert sorted([*bad, *scores.answered]) == list(range(12))
    assert scores.gradient is not None
    assert whole.gradient is not None
    assert not scores.gradient[bad].any()
    assert (scores.confidence[bad] == 1).all()
    assert torch.isposinf(scores.log_odds[bad]).all()
    assert torch.equal(scores.gradient[scores.answered], whole.gradient[scores.answered])
    assert torch.equal(scores.confidence[scores.answered], whole.confidence[scores.answered])


def test_a_stored_tile_without_an_answer_is_not_found() -> None:
    """Random latents end so; a descent goes on, and counts each tile that it showed."""
    still = run(200, moody(stored=True), mode="random", slots=64)
    plain = run(200, mode="random", slots=64)
    ended = [one.outcome is Outcome.UNANSWERED for one in still]
    assert any(ended)
    assert ended == [one.confidence < 0.6 for one in plain]
    share = low_confidence_share(still, 0.6)["low_confidence"]
    assert (share["count"], share["n"]) == (0, 200 - sum(ended))
    moved = run(20, moody(stored=True))
    assert not any(one.found for one in moved)
    assert {one.outcome for one in moved} <= {Outcome.AGED, Outcome.DIVERGED}
    assert max(one.unanswered.get(NAN, 0) for one in moved) > 1


def test_populations_never_move_to_a_tile_without_an_answer() -> None:
    """Such tiles count as not of low confidence: the probability is that of both together."""
    evaluator = blackbox.limit_evaluator(1.5, 1.5)

    class Silent(blackbox.ShiftedTail):
        """Has no answer beyond 2.5 standard deviations, which is of low confidence."""

        def predict(self, image: Tensor) -> Tensor:
            mean = image.mean((1, 2, 3))
            first = torch.atanh((mean - (mean > 1.0).long() - 0.3) / 0.1)
            if (first > 2.5).any():
                tiles = torch.nonzero(first > 2.5)[:, 0].tolist()
                raise AnswerError(NAN, tiles=tiles)
            return super().predict(image)

    evaluator.target = CountedTarget(Silent((1.5, 1.5)))
    particles = blackbox.rules().particles
    some = list(islice(split(evaluator, blackbox.rules(audit=True)), 40 * particles))
    found = [one for one in some if one.found is not None]
    assert len(found) > 40
    assert sum(sum(one.unanswered.values()) for one in some) > 10
    for one in found:
        assert one.found is not None
        assert one.found.tile is not None
        assert float(one.found.tile.z[0]) < 2.55
    told = probability(some, particles, ("a", "b"))
    low, high = told["interval_95"]
    due = float(norm.cdf(2.5) - norm.cdf(1.5))
    assert low * 0.9 < due < high * 1.1


def test_how_far_a_student_is_is_told_after_each_batch() -> None:
    """So the time left can be told early: not after a round of hundreds of evaluations."""
    evaluator = blackbox.student_evaluator()
    teaching = replace(blackbox.TEACHING, first=64, rounds=1, each=16, steps=2)
    done = [lessons.evaluations for _, lessons in teach(evaluator, SHELL, teaching, CPU)]
    assert len({*done[: done.index(64)]}) >= 3
    assert done == sorted(done)
    assert done[-1] == 80


def test_a_student_learns_from_answers_alone(tmp_path: Path) -> None:
    """Its weights are finite, and it knows how many tiles had no answer, also once read again."""
    evaluator = blackbox.student_evaluator()
    evaluator.target = target = CountedTarget(Moody(0.36))
    teaching = replace(blackbox.TEACHING, first=64, rounds=1, each=16, steps=20)
    *_, (student, lessons) = teach(evaluator, SHELL, teaching, CPU)
    assert 5 < sum(lessons.unanswered.values()) < 60
    assert lessons.evaluations == target.evaluations == 80
    assert all(torch.isfinite(value).all() for value in student.state_dict().values())
    student.save(tmp_path / "student.safetensors", lessons)
    assert load_student(tmp_path / "student.safetensors", CPU)[1] == lessons


def test_a_whole_step_without_an_answer_ends_the_search() -> None:
    """One line with the reason; the few tiles of a small step may all have none."""
    with pytest.raises(ModelError, match=r"any of the 8 tiles of a step: .*NaN or infinity \(8\)"):
        run(1, moody(-1.0))
    assert [one.outcome for one in run(6, moody(-1.0), slots=3)] == [Outcome.UNANSWERED] * 6


def test_most_tiles_without_an_answer_end_the_search() -> None:
    """More than half of the trajectories or of the tiles, once there are enough of them."""
    trajectories, tiles, few = Unanswered(), Unanswered(), Unanswered()
    for _ in range(8):
        trajectories.add(10, {}, ended=False)
        trajectories.add(10, {NAN: 1}, ended=True)
    with pytest.raises(ModelError, match=r"9 of 170 tiles, which ended 9 of 17 .*NaN"):
        trajectories.add(10, {NAN: 1}, ended=True)
    for _ in range(15):
        tiles.add(10, {NAN: 6}, ended=False)
    with pytest.raises(ModelError, match="96 of 160 tiles, which ended 0 of 16"):
        tiles.add(10, {NAN: 6}, ended=False)
    for _ in range(15):
        few.add(1, {NAN: 1}, ended=True)
    few.add(0, {}, ended=False)  # skipped, because there is enough of its condition


def test_reasons_are_counted_in_journal_and_report(tmp_path: Path) -> None:
    """What is read again is what was written, and the report sums it up."""
    some = run(40, moody(0.36))
    journal = Journal(tmp_path, {})
    for one in some:
        journal.write(one, 1.0)
    again: list[Trajectory] = list(Journal(tmp_path, {}).read().trajectories.values())
    for trajectories in (some, again):
        report = summarise(trajectories, 1.0, ("a", "b"))
        count = report.outcomes["no answer"]
        assert report.unanswered == NoAnswer(tiles=count, by_reason={NAN: count})
        assert sum(report.outcomes.values()) == 40


def test_tiles_are_asked_about_again_in_batches_of_the_same_size() -> None:
    """Bad tiles that a target names one after the other are all left out; no more are asked."""
    sizes = Counter[int]()

    def predict(image: Tensor) -> Tensor:
        sizes[len(image)] += 1
        bad = torch.nonzero(image.flatten(1)[:, 0] < 0)[:, 0].tolist()
        if bad:
            raise AnswerError(NAN, tiles=bad[:1])
        return image.flatten(1)

    image = torch.tensor([-1.0, 2.0, -3.0, 4.0, -1.0, -1.0])[:, None, None, None]
    asked = ask(predict, image, 4)
    assert asked.rows == [1, 3]
    assert asked.log_probability is not None
    assert asked.log_probability[:2, 0].tolist() == [2.0, 4.0]
    assert sorted(asked.without) == [0, 2]
    assert sizes == {6: 3}
    nothing = ask(predict, -image.abs(), 4)
    assert (nothing.rows, nothing.log_probability) == ([], None)


def test_an_error_that_names_no_tile_is_not_of_a_tile() -> None:
    """Nobody knows which tiles to leave out, so the error goes on."""

    def predict(image: Tensor) -> Tensor:
        raise AnswerError(f"{NAN} in one of {len(image)}")

    with pytest.raises(AnswerError):
        ask(predict, torch.zeros(2, 1, 1, 1), 2)
