"""Seeds: every random choice derives its seed from the run seed and a name."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager


def seed_of(run_seed: int, *names: str | int) -> int:
    """Return a 63-bit seed for the object `names` in the run `run_seed`.

    Python's `hash` of text differs from process to process, so SHA-256 is used. The
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

    For libraries that only use global state: kornia's augmentations and the initialisation of torch
    layers. Everything else takes a generator as argument.
    """
    import torch

    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield
