"""Serves a model from a separate environment, which needs numpy and Python 3.7 or newer.

    python serve.py module:function

serves a function that takes a float32 array b c h w and returns scores: b k, or b k h w for
every pixel. As a target of rslow:

    target:
      kind: process
      command: [/environments/old/bin/python, "package:rs_lowconf/target/serve.py", "mine:predict"]

Any program, in any language, can serve a model by this protocol on standard input and output:

1. It writes the line {"protocol": 1} when it is ready.
2. For every batch it reads one line, {"shape": [b, c, h, w]}, and b c h w float32 numbers
   (little-endian, the last axis runs fastest), and writes its answer in the same form: one
   line, {"shape": [b, k]}, and b k numbers.
3. It exits when its standard input ends.

Nothing else may be written to standard output. Standard error may be used freely; its end is shown
when the program fails.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

PROTOCOL = 1


def serve(predict: Callable[[np.ndarray], Any]) -> None:
    """Answer batches until standard input ends."""
    answers = os.fdopen(os.dup(1), "wb")
    # From here on all output of the model, also from C, goes to standard error.
    os.dup2(2, 1)
    _write_line(answers, {"protocol": PROTOCOL})
    while True:
        line = sys.stdin.buffer.readline()
        if not line:
            return
        shape = json.loads(line)["shape"]
        numbers = sys.stdin.buffer.read(4 * int(np.prod(shape)))
        # A copy, because arrays over bytes are read-only.
        tiles = np.frombuffer(numbers, "<f4").reshape(shape).copy()
        scores = np.asarray(predict(tiles), "<f4")
        _write_line(answers, {"shape": list(scores.shape)})
        answers.write(scores.tobytes())
        answers.flush()


def _write_line(file: BinaryIO, value: dict[str, Any]) -> None:
    file.write(json.dumps(value).encode() + b"\n")
    file.flush()


def main() -> None:
    """Serve the `module:function` named on the command line; it may be in the current folder."""
    module, _, function = sys.argv[1].partition(":")
    # Python put the folder of this file here, whose modules would shadow the model's.
    sys.path[0] = os.getcwd()  # noqa: PTH109 - sys.path holds text
    serve(getattr(importlib.import_module(module), function))


if __name__ == "__main__":
    main()
