"""What makes results repeat on one machine. Loads no torch: it has to come before torch does."""

import os

#: For the environment, before the first matrix product of a process: otherwise a row of it has
#: other last bits when it starts at another address, and a sample would depend on its place in
#: the batch.
_MATRIX_MODE = ("MKL_CBWR", "AUTO,STRICT")


def make_deterministic(threads: int | None = None) -> None:
    """Ask the matrix library for results that do not depend on addresses.

    A mode that the environment asks for already is kept. Results still depend on the kind of
    processor and on the number of threads.

    Args:
        threads: for torch's libraries, where torch is not imported yet; their own choice when
            missing.
    """
    os.environ.setdefault(*_MATRIX_MODE)
    if threads:
        os.environ["OMP_NUM_THREADS"] = str(threads)
