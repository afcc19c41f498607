"""Stories: what a user does next is what `rslow` printed, typed as it was printed.

A story is a test that declares by `tells` which hints it prints and types. A hint is named by the
place that makes it, `FILE:FUNCTION:COMMAND`; `places` finds them all in the source. COMMAND is `*`
where the place composes it.
"""

import ast
import functools
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from rs_lowconf import errors
from rs_lowconf.cli import hints
from tests.conftest import Ran, run_program

ROOT = Path(__file__).parent.parent / "rs_lowconf"
_PRINTED = re.compile(r"(?:: |; run )(rslow .+)$", re.MULTILINE)


@dataclass
class _Record:
    """What a story has printed and typed."""

    places: dict[str, str] = field(default_factory=dict)
    """The place of each printed command, by the command."""
    typed: set[str] = field(default_factory=set)


_records: list[_Record] = []


def tells(*expected: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Declare the hints that a test prints and types; it fails for any more or less."""

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def story(*args: Any, **values: Any) -> None:
            with _recording() as record:
                test(*args, **values)
            assert record.typed == set(expected), record.typed ^ set(expected)

        return story

    return decorate


def type_printed(ran: Ran, command: str, code: int = 0) -> Ran:
    """Type the command that was printed, exactly as it was printed, and return how it ended.

    Args:
        ran: what printed it.
        command: its beginning, after `rslow`.
        code: with which it shall end.
    """
    lines = printed(ran)
    (line,) = [one for one in dict.fromkeys(lines) if one.startswith(f"rslow {command}")] or [""]
    assert line, (command, lines)
    record = _records[-1]
    record.typed.add(record.places[line])
    again = run_program(*shlex.split(line)[1:])
    assert again.code == code, again
    return again


def printed(ran: Ran) -> list[str]:
    """Return the commands that were printed to be typed."""
    return _PRINTED.findall(ran.out + ran.err)


@functools.cache
def places() -> dict[str, tuple[str, range]]:
    """Return the places in the source that make a hint or an error with a command.

    Each with its file and its lines. The second of one function with the same command ends
    with `#2`.
    """
    found: dict[str, tuple[str, range]] = {}
    for path in sorted(ROOT.rglob("*.py")):
        file = path.relative_to(ROOT).as_posix()
        text = path.read_text(encoding="utf-8")
        finder = _Finder()
        if "hint(" in text or "command=" in text:
            finder.visit(ast.parse(text))
        for name, lines in finder.found:
            number = sum(one.partition("#")[0] == f"{file}:{name}" for one in found)
            found[f"{file}:{name}" + (f"#{number + 1}" if number else "")] = file, lines
    return found


class _Finder(ast.NodeVisitor):
    """Finds calls of `hint` and of errors with a command."""

    def __init__(self) -> None:
        self.found = list[tuple[str, range]]()
        self._functions = ["<module>"]

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._functions.append(node.name)
        self.generic_visit(node)
        self._functions.pop()

    def visit_Call(self, node: ast.Call) -> None:
        if getattr(node.func, "id", None) == "hint":
            self._add(node, node.args[1])
        # Whatever takes a `command` is an error, or passes it on to one.
        for keyword in node.keywords:
            if keyword.arg == "command":
                self._add(node, keyword.value)
        self.generic_visit(node)

    def _add(self, call: ast.Call, command: ast.expr) -> None:
        text = str(command.value) if isinstance(command, ast.Constant) else "*"
        lines = range(call.lineno, (call.end_lineno or call.lineno) + 1)
        self.found.append((f"{self._functions[-1]}:{text}", lines))


@contextmanager
def _recording() -> Iterator[_Record]:
    """Note the place of each command that is printed inside the block."""
    record = _Record()
    made: dict[int, tuple[errors.RsLowconfError, str | None]] = {}
    line_of, error_line = hints.command_line, hints.error_line
    start = errors.RsLowconfError.__init__

    def initialise(self: errors.RsLowconfError, *args: Any, **values: Any) -> None:
        made[id(self)] = self, _place(sys._getframe(1))
        start(self, *args, **values)

    def with_place(command: str, *words: object, **values: Any) -> str:
        line = line_of(command, *words, **values)
        caller = sys._getframe(1)
        if caller.f_code.co_name == "hint" and caller.f_back is not None:
            place = _place(caller.f_back)
            assert place is not None
            record.places[line] = place
        return line

    def with_error(error: errors.RsLowconfError) -> str:
        line = error_line(error)
        place = made[id(error)][1]
        if place is not None:
            record.places[line.partition("; run ")[2]] = place
        return line

    _records.append(record)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(errors.RsLowconfError, "__init__", initialise)
        patch.setattr(hints, "command_line", with_place)
        patch.setattr(hints, "error_line", with_error)
        try:
            yield record
        finally:
            _records.pop()


def _place(frame: FrameType | None) -> str | None:
    """Return the place that a frame is at, None where it is none."""
    # The tests' checks of types stand between a function and its caller.
    while frame is not None and not Path(frame.f_code.co_filename).is_relative_to(ROOT):
        frame = frame.f_back
    if frame is None:
        return None
    path = Path(frame.f_code.co_filename)
    file = path.relative_to(ROOT).as_posix()
    here = [
        name for name, (own, lines) in places().items() if own == file and frame.f_lineno in lines
    ]
    return here[0] if here else None
