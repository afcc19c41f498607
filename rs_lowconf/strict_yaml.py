"""YAML without its traps: a value that two YAML parsers read differently is an error.

YAML 1.1, which PyYAML reads, takes `010` for 8, `NO` for false, `12:30` for 750 and `2024-01-31`
for a date; YAML 1.2 does not. Of two equal keys the last counts, and the first is lost. Each of
these is an error that gives the line and what to write instead.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from rs_lowconf.errors import SettingsError

_TAG = "tag:yaml.org,2002:"
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9_]+|0o[0-7]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL_FLOAT = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


class _Dumper(yaml.SafeDumper):
    """Puts text in quotes that YAML 1.2 reads as a number, too."""


_Dumper.add_implicit_resolver(
    f"{_TAG}float",
    re.compile(f"(?:{_FLOAT.pattern}|{_LEADING_ZERO.pattern})$"),
    list("-+.0123456789"),
)


@dataclass(frozen=True, kw_only=True)
class Document:
    """The content of a YAML text, with line numbers."""

    value: Any
    """Dictionaries, lists, text, numbers, booleans and None."""

    lines: dict[tuple[str, ...], int]
    """The line of each value, from 1 on, by the keys and list positions that lead to it."""


def write(value: Any, *, flow: bool = False) -> str:
    """Return plain values as YAML that `read` reads as they are.

    Args:
        value: dictionaries, lists, text, numbers, booleans and None.
        flow: whether it is all on one line, in brackets.
    """
    text: str = yaml.dump(
        value,
        Dumper=_Dumper,
        sort_keys=False,
        default_flow_style=flow,
        width=math.inf if flow else 80,
    )
    return text.removesuffix("...\n") if flow else text


def read(text: str, where: str) -> Document:
    """Return the content of a text.

    Args:
        text: one YAML document.
        where: name of the text in messages.

    Raises:
        SettingsError: it is not YAML, a key is given twice, or a value is ambiguous.
    """
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return Document(value=None, lines={})
        lines = dict(_checked(node, (), where, set()))
        return Document(value=loader.construct_document(node), lines=lines)
    except yaml.YAMLError as error:
        raise SettingsError(f"{where} is not YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise SettingsError(
            f"{where} is nested too deeply", expected="sections of settings"
        ) from error
    except (ValueError, TypeError, OverflowError) as error:
        # Tags such as !!int before a value of another type.
        raise SettingsError(
            f"{where} contains a value that does not fit its tag ({' '.join(str(error).split())})",
            remedy="remove the tag",
        ) from error


def _checked(
    node: yaml.Node, path: tuple[str, ...], where: str, above: set[int]
) -> Iterator[tuple[tuple[str, ...], int]]:
    """Reject ambiguous values in a node, and yield the lines of its values."""
    line = node.start_mark.line + 1
    if id(node) in above:
        raise SettingsError(f"{where} line {line}: a value that contains itself")
    yield path, line
    if isinstance(node, yaml.ScalarNode):
        _check_scalar(node, f"{where} line {line}")
        return
    above = {*above, id(node)}
    if isinstance(node, yaml.SequenceNode):
        for index, part in enumerate(node.value):
            yield from _checked(part, (*path, str(index)), where, above)
        return
    first: dict[tuple[str, Any], int] = {}
    for key, value in node.value:
        at = key.start_mark.line + 1
        for _ in _checked(key, path, where, above):
            pass  # the line of a key is that of its value
        if isinstance(key, yaml.ScalarNode):
            name = (key.tag, key.value)
            if name in first:
                raise SettingsError(
                    f"{where} line {at}: {key.value!r} is given twice, first in line {first[name]}",
                    expected="each key once",
                    remedy="merge the two",
                )
            first[name] = at
        yield from _checked(value, (*path, str(key.value)), where, above)
        yield (*path, str(key.value)), at


def _check_scalar(node: yaml.ScalarNode, place: str) -> None:
    """Reject a word that YAML versions read differently; `1e3` is a number, as in YAML 1.2."""
    if node.style is not None:
        return  # in quotes
    word, kind = node.value, node.tag.removeprefix(_TAG)
    if _LEADING_ZERO.fullmatch(word) and kind in ("int", "str"):
        _ambiguous(place, word, "a number or text", "the number without leading zeros")
    if kind == "bool" and word.lower() not in ("true", "false"):
        meaning = "true" if word.lower() in ("yes", "on", "y") else "false"
        _ambiguous(place, word, f"{meaning} or text", meaning)
    if kind == "timestamp":
        _ambiguous(place, word, "a date or text", "")
    if kind == "int" and not _INTEGER.fullmatch(word):
        _ambiguous(place, word, f"{yaml.safe_load(word)} or text", f"{yaml.safe_load(word)}")
    if kind == "float" and not (_FLOAT.fullmatch(word) or _SPECIAL_FLOAT.fullmatch(word)):
        _ambiguous(place, word, f"{yaml.safe_load(word)} or text", f"{yaml.safe_load(word)}")
    if kind == "value":
        _ambiguous(place, word, "a default or text", "")
    if kind == "str" and _FLOAT.fullmatch(word):
        node.tag = f"{_TAG}float"


def _ambiguous(place: str, word: str, meanings: str, plain: str) -> None:
    raise SettingsError(
        f"{place}: {word} without quotes is {meanings}, depending on the version of YAML",
        remedy=f"write {plain}, or '{word}' in quotes for text" if plain else f"write '{word}'",
    )
