"""YAML without its traps: a value that two readers of YAML read differently is refused.

YAML 1.1, which PyYAML reads, takes `010` for 8, `NO` for false, `12:30` for 750 and `2024-01-31`
for a date; YAML 1.2 does not. Of two equal keys the last one counts, and the first is lost. Each
of these is refused with its line and with what to write instead.
"""

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


@dataclass(frozen=True, kw_only=True)
class Document:
    """What a YAML text says, and where."""

    value: Any
    """Dictionaries, lists, text, numbers, booleans and None."""

    lines: dict[tuple[str, ...], int]
    """The line of each value, from 1 on, by the keys and list positions that lead to it."""


def read(text: str, where: str) -> Document:
    """Return what a text says.

    Args:
        text: one YAML document.
        where: what to call the text in a message.

    Raises:
        SettingsError: it is no YAML, a key is given twice, or a value is ambiguous.
    """
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return Document(value=None, lines={})
        lines = dict(_checked(node, (), where, set()))
        return Document(value=loader.construct_document(node), lines=lines)
    except yaml.YAMLError as error:
        raise SettingsError(f"{where} is no YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise SettingsError(
            f"{where} is nested too deeply", expected="sections of settings"
        ) from error
    except (ValueError, TypeError, OverflowError) as error:
        # Tags such as !!int before a value that is none.
        raise SettingsError(
            f"{where} holds a value that does not fit its tag ({' '.join(str(error).split())})",
            remedy="leave the tag out",
        ) from error


def _checked(
    node: yaml.Node, path: tuple[str, ...], where: str, above: set[int]
) -> Iterator[tuple[tuple[str, ...], int]]:
    """Refuse what is ambiguous in a node, and yield the lines of its values."""
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
                    f"{where} line {at}: {key.value!r} is given a second time, first in line "
                    f"{first[name]}",
                    expected="each key once",
                    remedy="join the two",
                )
            first[name] = at
        yield from _checked(value, (*path, str(key.value)), where, above)
        yield (*path, str(key.value)), at


def _check_scalar(node: yaml.ScalarNode, place: str) -> None:
    """Refuse a word that versions of YAML read differently; `1e3` is a number, as in YAML 1.2."""
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
