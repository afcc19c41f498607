"""Names of samples and packages: they tell nothing of class, order or origin.

Each is derived from the run's seed and what it names, so the same work has the same names when it
is done again, and answers find the samples that they are of.
"""

from collections.abc import Iterable
from typing import Literal

from rs_lowconf.seeds import seed_of


def sample_id(run_seed: int, *names: str | int, letter: Literal["s", "v"] = "s") -> str:
    """Return the id of the sample that `names` tell from all others of the run.

    Args:
        run_seed: of the run.
        names: what it is, then which.
        letter: to begin with: `v` for variants of real tiles, whose files lie in one folder.
    """
    return f"{letter}{seed_of(run_seed, *names) % 16**10:010x}"


def sample_ids(run_seed: int, observed: Iterable[str]) -> list[str]:
    """Return the ids of real tiles or pixels, the same in every package of a run.

    Args:
        run_seed: of the run.
        observed: ids in the catalog, or of pixels as `rslow estimate pixels` writes them.
    """
    return [sample_id(run_seed, "catalog", name) for name in observed]


def package_id(run_seed: int, *names: str | int) -> str:
    """Return the id of the package that `names` tell from all others of the run."""
    return f"{seed_of(run_seed, *names):016x}"
