"""Makes results reproducible on one machine. Imports no torch, as it has to run before torch."""

import os

#: Environment variable, set before the first matrix product of a process: otherwise the last bits
#: #: of a row depend on its memory address, and a sample would depend on its position in the batch.
_MATRIX_MODE = ("MKL_CBWR", "AUTO,STRICT")


def make_deterministic(threads: int | None = None) -> None:
    """Make the matrix library's results independent of memory addresses.

    A mode that the environment already sets is kept. Results still depend on the kind of
    processor and on the number of threads.

    Args:
        threads: for torch's libraries, where torch is not imported yet; their own choice when
            missing.
    """
    os.environ.setdefault(*_MATRIX_MODE)
    if threads:
        os.environ["OMP_NUM_THREADS"] = str(threads)
