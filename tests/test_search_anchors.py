"""Inversion of real tiles and the search around them, against brute force and known latents."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch import Tensor

from rs_lowconf.errors import DataError, ModelError
from rs_lowconf.search.anchors import Anchors, AroundAnchors
from rs_lowconf.search.distances import RealDistances, load_distances, measure_distances
from rs_lowconf.search.invert import Inverter
from rs_lowconf.search.loop import Trajectory, search
from rs_lowconf.search.prior import PriorShell
from rs_lowconf.settings import InversionSettings
from rs_lowconf.stored import reflectance_of
from rs_lowconf.types import TileGenerator
from tests.test_search_loop import (
    CPU,
    FakeGenerator,
    FakeTarget,
    band_means,
    make_evaluator,
    rules,
)

SHELL = PriorShell((6, 10), 0.01)
GENERATOR = FakeGenerator()


def latents(count: int, seed: int = 0) -> Tensor:
    return SHELL.project(torch.randn(count, 16, generator=torch.Generator().manual_seed(seed)))


def unlike(image: Tensor, other: Tensor) -> Tensor:
    return (image - other).abs().mean((1, 2, 3))


def inverter(truth: Tensor, steps: int, micro_batch: int = 4) -> Inverter:
    """Return one whose encoder knows the band means of tiles, and little of their latents."""

    def encode(image: Tensor) -> Tensor:
        level = (image.mean((2, 3)) - 0.3).div(0.1).clamp(-0.9, 0.9).atanh()
        return SHELL.project(torch.cat([0.7 * level, 0.1 + 0 * truth[: len(image), 4:]], dim=1))

    return Inverter(
        generator=GENERATOR,
        encode=encode,
        unlike=unlike,
        shell=SHELL,
        settings=InversionSettings(steps=steps, learning_rate=0.05),
        micro_batch=micro_batch,
        device=CPU,
    )


def test_refinement_comes_nearer_than_the_encoder_and_stays_in_the_shell() -> None:
    """Tiles that the generator drew are redrawn better with every step, within the prior."""
    z, label = latents(6), torch.tensor([0, 1, 0, 1, 0, 1])
    image = GENERATOR(z, label)
    errors = []
    for steps in (0, 20, 60):
        found = inverter(z, steps)(image, label)
        errors.append(unlike(found.image, image))
        torch.testing.assert_close(SHELL.project(found.z), found.z)
        torch.testing.assert_close(found.image, GENERATOR(found.z, label), atol=1e-4, rtol=0)
    assert (errors[2] <= errors[1] + 1e-4).all()
    assert errors[2].mean() < errors[0].mean() / 2


def test_a_tile_is_inverted_the_same_in_any_company() -> None:
    """Alone, in a batch and at another place: not a bit differs."""
    z, label = latents(5), torch.tensor([0, 1, 1, 0, 1])
    image = GENERATOR(z, label)
    invert = inverter(z, 20)
    together = invert(image, label)
    for i in range(5):
        alone = invert(image[i : i + 1], label[i : i + 1])
        assert torch.equal(alone.z[0], together.z[i])
        assert torch.equal(alone.image[0], together.image[i])


def test_an_unknown_condition_is_found() -> None:
    """Where the label is missing, the condition is taken that redraws the tile best."""
    z, label = latents(8), torch.tensor([0, 1] * 4)

    class Apart(FakeGenerator):
        def __call__(self, z: Tensor, label: Tensor) -> Tensor:
            return super().__call__(z, label) + 0.3 * label[:, None, None, None]

    own = Apart()
    image = own(z, label)
    invert = Inverter(
        generator=own,
        encode=lambda image: z[:4] if len(image) == 4 else z,
        unlike=unlike,
        shell=SHELL,
        settings=InversionSettings(steps=0),
        micro_batch=4,
        device=CPU,
    )
    found = invert(image, torch.tensor([-1, -1, 0, -1, -1, 1, -1, -1]))
    assert found.label.tolist() == [0, 1, 0, 1, 0, 1, 0, 1]


def measured(image: Tensor, label: Tensor) -> RealDistances:
    return measure_distances(image, label, ("a", "b", "c"), band_means, 0, {"gan": "1"})


def test_distances_are_quantiles_over_all_pairs() -> None:
    """Brute force in NumPy; a class without a pair gets the smallest of the others."""
    image = GENERATOR(latents(20), torch.zeros(20, dtype=torch.long))
    label = torch.tensor([0] * 12 + [1] * 7 + [2])
    found = measured(image, label)
    pixels = image.numpy().astype(np.float64)
    spread = pixels.transpose(1, 0, 2, 3).reshape(4, -1).std(1, ddof=1)
    for own in (0, 1):
        members = np.flatnonzero(label.numpy() == own)
        apart = np.array(
            [
                (
                    np.sqrt((((pixels[a] - pixels[b]) / spread[:, None, None]) ** 2).mean()),
                    np.linalg.norm(pixels[a].mean((1, 2)) - pixels[b].mean((1, 2))),
                )
                for a in members
                for b in members
                if a < b
            ]
        )
        for quantile in (0.05, 0.333, 1.0):
            bound = found.bound(torch.tensor([own]), quantile)[0].numpy()
            if quantile * 100 == round(quantile * 100):
                expected = np.quantile(apart, quantile, axis=0)
            else:
                low, high = (np.quantile(apart, q, axis=0) for q in (0.33, 0.34))
                expected = low + 0.3 * (high - low)
            np.testing.assert_allclose(bound, expected, rtol=1e-3)
    both = found.bound(torch.tensor([0, 1]), 0.05)
    torch.testing.assert_close(found.bound(torch.tensor([2]), 0.05)[0], both.amin(0))


def test_without_a_pair_nothing_is_measured() -> None:
    """A clear line where no class has two tiles."""
    image = GENERATOR(latents(3), torch.zeros(3, dtype=torch.long))
    with pytest.raises(DataError, match="no class has two training tiles"):
        measured(image, torch.tensor([0, 1, 2]))


def test_distances_are_read_back_for_their_own_models_only(tmp_path: Path) -> None:
    """A round trip; another generator is refused."""
    found = measured(GENERATOR(latents(9), torch.zeros(9, dtype=torch.long)), torch.arange(9) % 3)
    path = tmp_path / "distances.safetensors"
    found.save(path)
    again = load_distances(path, {"gan": "1"})
    assert again.classes == found.classes
    assert torch.equal(again.quantiles, found.quantiles)
    assert torch.equal(again.spread, found.spread)
    with pytest.raises(ModelError, match="train encoder"):
        load_distances(path, {"gan": "2"})


def anchors(count: int, budget: float) -> tuple[Anchors, RealDistances]:
    z, label = latents(count, 5), torch.arange(count) % 2
    image = GENERATOR(z, label)
    known = measured(GENERATOR(latents(30, 7), torch.arange(30) % 2), torch.arange(30) % 3)
    own = Anchors(
        names=tuple(f"tile {i}" for i in range(count)),
        image=image,
        features=band_means(image),
        z=z,
        label=label,
        budget=known.bound(label, budget),
    )
    return own, known


def test_starts_are_the_anchors_own_and_keep_the_prior() -> None:
    """The first attempt starts at the anchor; others as the prior would, in any company."""
    own, _ = anchors(4, 0.3)
    start = own.start(SHELL, reach=0.5, run_seed=1)
    torch.testing.assert_close(torch.stack([start(i) for i in range(4)]), own.z)
    alone = Anchors(
        names=own.names[2:3], image=own.image[2:3], features=own.features[2:3], z=own.z[2:3],
        label=own.label[2:3], budget=own.budget[2:3],
    ).start(SHELL, reach=0.5, run_seed=1)  # fmt: skip
    assert torch.equal(alone(3), start(3 * 4 + 2))
    wide = PriorShell((6, 10), 1e-6)
    crowd = Anchors(
        names=tuple(map(str, range(400))),
        image=own.image[:1].expand(400, -1, -1, -1),
        features=own.features[:1].expand(400, -1),
        z=torch.randn(400, 16, generator=torch.Generator().manual_seed(3)),
        label=own.label[:1].expand(400),
        budget=own.budget[:1].expand(400, -1),
    )
    many = crowd.start(wide, reach=0.5, run_seed=2)
    drawn = torch.stack([many(400 + i) for i in range(400)])
    assert kstest(drawn.flatten().numpy(), "norm").pvalue > 0.01


def around(own: Anchors, known: RealDistances, attempts: int, slots: int = 8) -> list[Trajectory]:
    evaluator = make_evaluator()
    near = own.nearness(known, band_means)
    return list(
        search(
            own.around(evaluator, near, 3.0),
            SHELL,
            rules(tau=0.7, slots=slots, labels=tuple(range(len(own.names))), stream="variants"),
            start=own.start(SHELL, reach=0.3, run_seed=3),
            seeds=attempts * len(own.names),
        )
    )


def test_variants_are_unsure_and_within_the_budget_of_their_own_anchor() -> None:
    """Judged from the stored numbers; a wider budget finds more, and the search comes to an end."""
    counts = []
    for budget in (0.1, 0.9):
        own, known = anchors(10, budget)
        ended = around(own, known, 4)
        assert [one.seed_id for one in ended] == list(range(40))
        found = [one for one in ended if one.found is not None]
        counts.append(len(found))
        for one in found:
            assert one.found is not None
            assert one.found.tile is not None
            image = reflectance_of(one.found.tile.pixels)[None]
            i = one.label
            apart = known.between(
                image, band_means(image), own.image[i : i + 1], own.features[i : i + 1]
            )[0]
            assert (apart <= own.budget[i]).all()
            assert float(FakeTarget().predict(image[:, [2, 0]]).max().exp()) < 0.7
    assert 0 < counts[0] < counts[1]


def test_a_variant_is_the_same_in_any_company() -> None:
    """Searched among ten anchors or alone, and with other slots: the same tiles."""
    own, known = anchors(10, 0.9)
    together = around(own, known, 3)
    for i in (0, 7):
        alone = Anchors(
            names=own.names[i : i + 1],
            image=own.image[i : i + 1],
            features=own.features[i : i + 1],
            z=own.z[i : i + 1],
            label=own.label[i : i + 1],
            budget=own.budget[i : i + 1],
        )
        for mine, its in zip(around(alone, known, 3, slots=2), together[i::10], strict=True):
            assert (mine.outcome, mine.evaluations) == (its.outcome, its.evaluations)
            assert mine.confidence == its.confidence


def test_around_anchors_is_a_generator() -> None:
    """It obeys the protocol, and an anchor's condition draws its tile."""
    own, _ = anchors(4, 0.3)
    generator = AroundAnchors(GENERATOR, own.label, own.names)
    assert isinstance(generator, TileGenerator)
    torch.testing.assert_close(generator(own.z, torch.arange(4)), own.image)
