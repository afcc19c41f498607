"""The search: what it accepts, in which order, at what cost, and after an interruption."""

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binom, chi, ks_2samp
from torch import Tensor

from rs_lowconf.asking import CountedTarget
from rs_lowconf.bands import BandSpec
from rs_lowconf.errors import SettingsError
from rs_lowconf.search.evaluate import Evaluator, Penalty
from rs_lowconf.search.gate import single_stage
from rs_lowconf.search.journal import Journal
from rs_lowconf.search.loop import (
    Budget,
    Outcome,
    SearchEnd,
    SearchRules,
    Tile,
    Trajectory,
    search,
)
from rs_lowconf.search.prior import PriorShell, draw_latent
from rs_lowconf.search.reading import Reading
from rs_lowconf.search.report import (
    Comparison,
    Cost,
    compare,
    low_confidence_share,
    summarise,
    write_plots,
)
from rs_lowconf.search.splitting import SplittingRules, split
from rs_lowconf.stored import stored_numbers
from rs_lowconf.types import TargetModel, TileGenerator

CPU = torch.device("cpu")
BANDS = BandSpec(names=("B02", "B03", "B04", "B08"), level="L1C")


class FakeGenerator:
    """Band means are a smooth function of the first latents; the class shifts them."""

    bands = BANDS
    classes: tuple[str, ...] = ("a", "b")
    tile_size = 16
    latent_parts: tuple[int, ...] = (6, 10)

    def __call__(self, z: Tensor, label: Tensor) -> Tensor:
        level = 0.3 + 0.1 * torch.tanh(z[:, :4]) + 0.02 * label[:, None]
        texture = 0.01 * torch.sin(
            torch.arange(256.0).view(1, 1, 16, 16) * (1 + z[:, 4, None, None, None])
        )
        return level[:, :, None, None] + texture


class FakeTarget:
    """Softmax of scaled band means: two bands decide between two classes."""

    bands = BANDS.select(("B04", "B02"))
    classes: tuple[str, ...] = ("x", "y")
    differentiable = True
    pixelwise = False

    def __init__(self, sharpness: float = 60.0) -> None:
        self._sharpness = sharpness

    def predict(self, image: Tensor) -> Tensor:
        logit = self._sharpness * (image.mean((2, 3)) - 0.3)
        return torch.log_softmax(logit, dim=1)


def brightness(image: Tensor, label: Tensor) -> Tensor:
    """Return the gate's only part here, and the energy's penalty, so that a floor is enough."""
    return 10 * image[:, 3].mean((1, 2)) + 0 * label


def band_means(image: Tensor) -> Tensor:
    return image.mean((2, 3))


#: 19 reals of which one is rejected: below 2.6, or as far above as no tile is.
GATE = single_stage(
    parts={"critic": brightness},
    reference=torch.cat([torch.tensor([2.6]), torch.linspace(3.0, 4.5, 19)])[:, None],
    false_rejection=0.06,
)


def make_evaluator(floor: float = 2.6, micro_batch: int = 4, **target: float) -> Evaluator:
    return Evaluator(
        FakeGenerator(),
        FakeTarget(**target),
        GATE,
        reading=Reading(),
        penalties=[Penalty(part=brightness, floor=floor, spread=1.0, weight=1.0)],
        features=band_means,
        target_channels=(2, 0),
        micro_batch=micro_batch,
        device=CPU,
    )


def rules(**changed: object) -> SearchRules:
    values: dict[str, object] = {
        "mode": "yield",
        "tau": 0.6,
        "max_age": 25,
        "slots": 8,
        "learning_rate": 0.1,
        "labels": (0, 1),
        "run_seed": 3,
        "stream": "search",
    }
    return SearchRules(**{**values, **changed})  # type: ignore[arg-type]


SHELL = PriorShell((6, 10), 0.01)


def run(count: int, evaluator: Evaluator | None = None, **changed: object) -> list[Trajectory]:
    return list(islice(search(evaluator or make_evaluator(), SHELL, rules(**changed)), count))


def tile_of(one: Trajectory) -> Tile:
    assert one.found is not None
    assert one.found.tile is not None
    return one.found.tile


def same(first: Trajectory, second: Trajectory) -> bool:
    plain = all(
        getattr(first, name) == getattr(second, name)
        for name in (
            "seed_id",
            "label",
            "outcome",
            "steps",
            "evaluations",
            "flips",
            "gate_rejections",
            "confidence",
        )
    )
    if first.found is None or second.found is None:
        return plain and first.found is second.found
    return (
        plain
        and torch.equal(tile_of(first).pixels, tile_of(second).pixels)
        and torch.equal(tile_of(first).z, tile_of(second).z)
        and torch.equal(first.found.features, second.found.features)
        and first.found.parts == second.found.parts
        and first.found.p_value == second.found.p_value
    )


def test_the_fakes_obey_the_protocols() -> None:
    """What the loop is tested with is what it is run with."""
    assert isinstance(FakeGenerator(), TileGenerator)
    assert isinstance(FakeTarget(), TargetModel)


def test_what_is_found_is_unsure_and_real_when_scored_from_the_stored_tile() -> None:
    """Every found tile, scored alone from its 16-bit numbers, passes both conditions."""
    found = [(tile_of(one), one.found) for one in run(60) if one.found is not None]
    assert len(found) > 20
    target = FakeTarget()
    for tile, known in found:
        image = (tile.pixels.numpy().astype(np.float32) / 10_000)[None]
        stored = torch.from_numpy(image)
        assert float(target.predict(stored[:, [2, 0]]).max().exp()) < 0.6
        again = GATE.score(stored, torch.tensor([0]))
        assert bool(again.passes)
        assert float(again.p_value) == known.p_value
        assert float(again.parts["critic"]) == known.parts["critic"]
        torch.testing.assert_close(known.features, stored.mean((2, 3))[0])
        assert tile.pixels.int().min() >= 1


def test_the_search_needs_far_fewer_evaluations_than_random_latents() -> None:
    """Gradients pay: at least three times fewer evaluations a found tile on a sharp target."""

    def cost(trajectories: list[Trajectory]) -> float:
        found = sum(one.found is not None for one in trajectories)
        return sum(one.evaluations for one in trajectories) / found

    moved = run(60, make_evaluator(sharpness=300.0))
    still = run(3000, make_evaluator(sharpness=300.0), mode="random", slots=64)
    assert cost(still) > 3 * cost(moved)


def test_the_gradient_of_the_energy_is_that_of_central_differences() -> None:
    """Log-odds of the target plus softplus of what the penalty misses, recomputed in float64."""
    evaluator = make_evaluator(floor=3.2)
    z = torch.stack([draw_latent(1, "search", seed, 16) for seed in range(3)])
    label = torch.tensor([0, 1, 1])
    gradient = evaluator.score(z, label, gradient=True).gradient
    assert gradient is not None

    def energy(latent: Tensor) -> Tensor:
        image = FakeGenerator()(latent, label)
        probability = FakeTarget().predict(image[:, [2, 0]]).max(dim=1).values.exp()
        missing = 3.2 - brightness(image, label)
        return (probability / (1 - probability)).log() + missing.exp().log1p()

    step = 1e-5
    for index in range(6):
        ahead, behind = z.double(), z.double()
        ahead[:, index] += step
        behind[:, index] -= step
        slope = (energy(ahead) - energy(behind)) / (2 * step)
        torch.testing.assert_close(gradient[:, index].double(), slope, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("slots", [1, 3, 32])
@pytest.mark.parametrize("mode", ["yield", "random"])
def test_results_do_not_depend_on_the_number_of_slots(slots: int, mode: str) -> None:
    """The same seeds give the same trajectories, bit for bit, in the same order."""
    reference = run(30, mode=mode)
    again = run(30, mode=mode, slots=slots)
    assert any(one.found is not None for one in reference)
    assert all(same(a, b) for a, b in zip(reference, again, strict=True))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("drift", [0.0, 0.5])
def test_sampling_follows_the_prior_given_low_confidence(drift: float) -> None:
    """Splitting, with gradients or without, draws as plain rejection from the prior does.

    First hits of a descent are no such draw: they lie where it came from.
    """
    evaluator = make_evaluator(floor=-100.0, micro_batch=64, sharpness=15.0)
    evaluator.gate = single_stage(
        parts={"critic": lambda image, label: torch.zeros(len(image))},
        reference=torch.zeros(99, 1),
        false_rejection=0.01,
    )
    accepted = torch.randn(400_000, 16, generator=torch.Generator().manual_seed(5))
    gap = 15 * 0.1 * (torch.tanh(accepted[:, 2]) - torch.tanh(accepted[:, 0]))
    accepted = accepted[torch.sigmoid(gap.abs()) < 0.6]

    def distances(stream: Iterator[Trajectory], count: int) -> list[float]:
        """Return the p-values of two-sample tests on the latents that decide."""
        found = [tile_of(one).z for one in islice(stream, count) if one.found is not None]
        assert len(found) > 300
        z = torch.stack(found)
        ours = (z[:, 0], z[:, 2], z[:, 2] - z[:, 0])
        theirs = (accepted[:, 0], accepted[:, 2], accepted[:, 2] - accepted[:, 0])
        return [
            float(ks_2samp(a.numpy(), b.numpy()).pvalue) for a, b in zip(ours, theirs, strict=True)
        ]

    populations = SplittingRules(
        tau=0.6, labels=(0, 1), run_seed=3, stream="search", particles=64, moves=3,
        final_moves=20, max_levels=20, drift=drift,
    )  # fmt: skip
    assert min(distances(split(evaluator, populations), 64 * 10)) > 1e-3
    descent = search(evaluator, SHELL, rules(slots=64, learning_rate=0.02))
    assert min(distances(descent, 500)) < 1e-3


def test_closed_conditions_are_skipped() -> None:
    """No seed of a condition that has enough is started; the order stays whole."""
    stream = search(make_evaluator(), SHELL, rules(), closed={1})
    ran = list(islice(stream, 20))
    assert [one.seed_id for one in ran] == list(range(20))
    assert all((one.outcome is Outcome.SKIPPED) == (one.label == 1) for one in ran)
    assert sum(one.evaluations for one in ran if one.label == 1) == 0


def test_evaluations_are_counted_exactly() -> None:
    """The trajectories' evaluations are those that the target counted, padding excluded."""
    evaluator = make_evaluator(micro_batch=5)
    stream = search(evaluator, SHELL, rules(slots=1))
    spent = sum(one.evaluations for one in islice(stream, 20))
    assert evaluator.target.evaluations == spent


@pytest.mark.usefixtures("unchecked")
def test_random_latents_follow_the_prior() -> None:
    """The baseline evaluates each latent once and projects none: P agrees with plain sampling."""
    still = run(2000, mode="random", slots=64)
    assert all(one.steps == 1 for one in still)
    low = sum(one.confidence < 0.6 for one in still)
    z = torch.randn(200_000, 16, generator=torch.Generator().manual_seed(0))
    gap = 60 * 0.1 * (torch.tanh(z[:, 2]) - torch.tanh(z[:, 0]))
    probability = float((torch.sigmoid(gap.abs()) < 0.6).float().mean())
    assert binom.cdf(low, 2000, probability) > 1e-4
    assert binom.sf(low, 2000, probability) > 1e-4


def test_latents_stay_in_the_prior_shell() -> None:
    """No found latent is shorter or longer than the prior's own, part by part."""
    for one in run(60, tau=0.52):
        if one.found is not None:
            for part, low, high in zip(
                torch.split(tile_of(one).z, [6, 10]), SHELL.low, SHELL.high, strict=True
            ):
                assert low * 0.999 <= float(part.norm()) <= high * 1.001


def test_the_shell_holds_its_share_of_the_prior() -> None:
    """1 - tail of standard normal vectors lie inside and are not moved."""
    shell = PriorShell((50,), 0.1)
    z = torch.randn(4000, 50, generator=torch.Generator().manual_seed(0))
    kept = int(((shell.project(z) - z).abs().amax(1) < 1e-5).sum())
    assert binom.cdf(kept, 4000, 0.9) > 1e-4
    assert binom.sf(kept, 4000, 0.9) > 1e-4
    assert shell.high[0] == pytest.approx(math.sqrt(float((chi(50).ppf(0.95)) ** 2)))


def test_a_latent_is_the_same_alone_and_in_any_run() -> None:
    """Seeds name latents; streams are independent."""
    assert torch.equal(draw_latent(1, "search", 7, 16), draw_latent(1, "search", 7, 16))
    assert not torch.equal(draw_latent(1, "search", 7, 16), draw_latent(1, "baseline", 7, 16))
    assert not torch.equal(draw_latent(1, "search", 7, 16), draw_latent(2, "search", 7, 16))


def test_conditions_take_turns() -> None:
    """Seed i searches the i-th of the wanted classes, round and round."""
    assert [one.label for one in run(6, labels=(1, 0, 1))] == [1, 0, 1, 1, 0, 1]


def test_a_gradient_that_is_no_number_ends_the_trajectory() -> None:
    """Divergence is an outcome, not an endless loop or a crash."""

    class Broken(FakeTarget):
        def predict(self, image: Tensor) -> Tensor:
            return torch.log_softmax(image.mean((2, 3)) * 100, 1) * (image.sum() * 0 / 0 + 1)

    evaluator = make_evaluator()
    evaluator.target = CountedTarget(Broken())
    assert run(3, evaluator)[0].outcome is Outcome.DIVERGED


def test_micro_batches_pad_without_effect() -> None:
    """Scores of 1 to 9 latents in micro-batches of 4 are those of each alone."""
    evaluator = make_evaluator()
    z, label = torch.randn(9, 16), torch.arange(9) % 2
    together = evaluator.score(z, label, gradient=True)
    assert together.gradient is not None
    for row in range(9):
        alone = evaluator.score(z[row : row + 1], label[row : row + 1], gradient=True)
        assert alone.gradient is not None
        assert torch.equal(alone.log_odds[0], together.log_odds[row])
        assert torch.equal(alone.gradient[0], together.gradient[row])


def test_stored_numbers_round_and_never_are_nodata() -> None:
    """Reflectance x 10,000, rounded, between 1 and 65,535."""
    image = torch.tensor([-0.2, 0.0, 0.12345, 0.12346, 1.5, 9.0]).view(1, 6, 1, 1)
    assert stored_numbers(image).flatten().tolist() == [1, 1, 1234, 1235, 15000, 65535]


class TestBudget:
    """Why a search stops."""

    @staticmethod
    def spend(*, count: int = 10**9, evaluations: int = 10**9) -> tuple[SearchEnd | None, int]:
        budget = Budget(count=count, evaluations=evaluations, minutes=1e9, seconds=0.0)
        end, number = None, 0
        for one in islice(search(make_evaluator(), SHELL, rules()), 200):
            number += 1
            end = budget.spend(one)
            if end is not None:
                break
        return end, number

    def test_count(self) -> None:
        """The wanted number of samples ends it, exactly."""
        assert self.spend(count=5)[0] is SearchEnd.COUNT

    def test_evaluations(self) -> None:
        """The budget of evaluations ends it."""
        assert self.spend(evaluations=30)[0] is SearchEnd.EVALUATIONS

    def test_minutes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Time spent before an interruption counts, and only what is left is left."""
        for seconds, late in ((30.0, False), (59.0, False), (60.0, True), (61.0, True)):
            monkeypatch.setattr("rs_lowconf.search.loop.monotonic", lambda: 1_000.0)
            budget = Budget(count=1, evaluations=1, minutes=1.0, seconds=seconds)
            assert budget.late == late
            monkeypatch.setattr("rs_lowconf.search.loop.monotonic", lambda: 1_030.5)
            assert budget.late == (seconds >= 30.0)


class TestJournal:
    """Interrupted searches go on."""

    @staticmethod
    def stream(journal: Journal) -> Iterator[Trajectory]:
        past = journal.read()
        for one in search(make_evaluator(), SHELL, rules(), past.trajectories):
            if one.seed_id not in past.trajectories:
                journal.write(one, 1.5 * one.seed_id)
            if one.found is None:
                yield one
            else:
                yield replace(one, found=replace(one.found, tile=journal.tile(one.seed_id)))

    def test_an_interrupted_search_equals_the_unbroken_one(self, tmp_path: Path) -> None:
        """13 trajectories, a new process, and the rest: the same as in one go."""
        list(islice(self.stream(Journal(tmp_path, {"a": 1})), 13))
        again = list(islice(self.stream(Journal(tmp_path, {"a": 1})), 30))
        assert all(same(a, b) for a, b in zip(run(30), again, strict=True))

    def test_a_torn_line_and_a_lost_tile_are_searched_again(self, tmp_path: Path) -> None:
        """What a crash left half-written does not count."""
        list(islice(self.stream(Journal(tmp_path, {})), 13))
        lines = tmp_path / "journal.jsonl"
        lines.write_text(lines.read_text()[:-20])
        sorted((tmp_path / "found").iterdir())[-1].write_bytes(b"torn")
        again = list(islice(self.stream(Journal(tmp_path, {})), 30))
        assert all(same(a, b) for a, b in zip(run(30), again, strict=True))
        assert len(lines.read_text().splitlines()) == 30

    def test_another_search_is_refused(self, tmp_path: Path) -> None:
        """Two searches with different models never share a journal."""
        Journal(tmp_path, {"GAN file": "1", "tau": 0.5})
        with pytest.raises(SettingsError, match="GAN file"):
            Journal(tmp_path, {"GAN file": "2", "tau": 0.5})

    def test_time_spent_is_remembered(self, tmp_path: Path) -> None:
        """The clock goes on from the last line."""
        list(islice(self.stream(Journal(tmp_path, {})), 5))
        assert Journal(tmp_path, {}).read().seconds == 1.5 * 4


class TestReport:
    """The figures that a user reads."""

    def test_sums_and_ratios(self) -> None:
        """Counts add up, and the ratio to random latents is that of the costs."""
        ours, theirs = run(40), run(400, mode="random", slots=64)
        search_part = summarise(ours, 10.0, ("a", "b"))
        baseline = summarise(theirs, 20.0, ("a", "b"))
        assert search_part.evaluations == sum(one.evaluations for one in ours)
        assert sum(search_part.outcomes.values()) == 40
        cost, theirs_cost = search_part.evaluations_per_accepted, baseline.evaluations_per_accepted
        assert cost.interval_95 is not None
        assert cost.value is not None
        assert theirs_cost.value is not None
        low, high = cost.interval_95
        assert low <= cost.value <= (high or math.inf)
        ratio = compare(search_part, baseline).evaluations_per_accepted
        assert ratio == theirs_cost.value / cost.value

    def test_nothing_found_is_said_without_a_number(self) -> None:
        """No division by zero, no invented cost."""
        empty = summarise(run(10, tau=1e-6), 1.0, ("a", "b"))
        assert empty.evaluations_per_accepted == Cost(value=None, interval_95=None)
        assert compare(empty, empty) == Comparison(
            evaluations_per_accepted=None, seconds_per_accepted=None
        )

    def test_the_share_of_low_confidence_has_an_exact_interval(self) -> None:
        """Clopper-Pearson, as scipy computes it, around the raw share."""
        theirs = run(300, mode="random", slots=64)
        share = low_confidence_share(theirs, 0.6)
        value = sum(one.confidence < 0.6 for one in theirs) / 300
        assert share["low_confidence"]["value"] == value
        low, high = share["low_confidence"]["interval_95"]
        k = round(300 * value)
        assert binom.sf(k - 1, 300, low) == pytest.approx(0.025, rel=1e-4)
        assert binom.cdf(k, 300, high) == pytest.approx(0.025, rel=1e-4)
        passed = sum(one.found is not None for one in theirs)
        assert share["of_these_pass_gate"]["value"] == pytest.approx(
            passed / (passed + sum(one.gate_rejections for one in theirs))
        )

    def test_plots_are_written(self, tmp_path: Path) -> None:
        """Three plots with a baseline, two without."""
        ours, theirs = run(40), run(60, mode="random")
        for baseline, names in (
            (theirs, {"yield.png", "confusion.png", "confidence.png"}),
            ([], {"yield.png", "confusion.png"}),
        ):
            folder = tmp_path / str(len(names))
            write_plots(
                folder, ours, baseline, tau=0.6, classes=("a", "b"), target_classes=("x", "y")
            )
            assert {path.name for path in folder.iterdir()} == names
