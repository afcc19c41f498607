"""Seeds derived from names, and the fork of torch's global random state."""

import subprocess
import sys

import torch
from hypothesis import given
from hypothesis import strategies as st

from rs_lowconf.seeds import forked_rng, seed_of

names = st.lists(st.text(max_size=5), max_size=4)


def test_known_value() -> None:
    """A seed is the same in every process and release: results depend on it."""
    assert seed_of(0, "gan", "step", 7) == 1251887740450343881
    program = "from rs_lowconf.seeds import seed_of; print(seed_of(0, 'gan', 'step', 7))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert int(result.stdout) == seed_of(0, "gan", "step", 7)


@given(st.integers(0, 2**70), names)
def test_fits_torch(run: int, parts: list[str]) -> None:
    """Every seed is one that torch takes, and text and number of the same digits agree."""
    seed = seed_of(run, *parts)
    assert 0 <= seed < 2**63
    torch.Generator().manual_seed(seed)
    assert seed_of(run, "x", 3) == seed_of(run, "x", "3")


@given(names, names)
def test_names_do_not_run_together(one: list[str], other: list[str]) -> None:
    """Different lists of names give different seeds, even when their letters join to the same."""
    assert (seed_of(1, *one) == seed_of(1, *other)) == (one == other)
    assert seed_of(1, "a", "bc") != seed_of(1, "ab", "c") != seed_of(1, "abc")


def test_run_seeds_differ() -> None:
    """The run seed matters, and 10,000 candidates of one run have 10,000 seeds."""
    seeds = {seed_of(run, "z", index) for run in range(2) for index in range(5_000)}
    assert len(seeds) == 10_000


def test_forked_rng_restores_the_global_state() -> None:
    """Inside the block the seed rules, outside nothing changes, also when the block fails."""
    before = torch.get_rng_state()
    with forked_rng(5):
        one = torch.rand(3)
    try:
        with forked_rng(5):
            other = torch.rand(3)
            raise ValueError
    except ValueError:
        pass
    assert torch.equal(one, other)
    assert torch.equal(one, torch.rand(3, generator=torch.Generator().manual_seed(5)))
    assert torch.equal(torch.get_rng_state(), before)
