"""Every random choice has a seed derived from the run seed and the thing's own name."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager


def seed_of(run_seed: int, *names: str | int) -> int:
    """Return a 63-bit seed for the thing called `names` in the run `run_seed`.

    Python's own `hash` of text differs from process to process, so SHA-256 is used. The
    names are length-prefixed: ("a", "bc") and ("ab", "c") give different seeds.
    """
    digest = hashlib.sha256(str(int(run_seed)).encode())
    for name in names:
        text = str(name).encode()
        digest.update(len(text).to_bytes(8, "big") + text)
    return int.from_bytes(digest.digest()[:8], "big") >> 1


@contextmanager
def forked_rng(seed: int) -> Iterator[None]:
    """Seed the global random state of torch inside the block and restore it after.

    For libraries that know only global state: kornia's augmentations and the
    initialisation of torch layers. Everything else takes its own generator.
    """
    import torch

    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield
