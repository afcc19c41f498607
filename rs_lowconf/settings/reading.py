"""Reads settings from YAML and overrides, and says what is wrong with them."""

import difflib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from rs_lowconf import strict_yaml
from rs_lowconf.errors import SettingsError, in_words
from rs_lowconf.settings.data import DataSettings
from rs_lowconf.settings.renamed import VALUES, renamed
from rs_lowconf.settings.target import TargetSettings
from rs_lowconf.settings.tree import Settings

S = TypeVar("S", bound=BaseModel)

_MOST_KINDS = 4
"""Kinds that a message lists for a key that another kind does not have."""
_MOST_SUGGESTED = 3
"""Keys that a message suggests for the same last word."""


def load(path: Path | None, overrides: Sequence[str] = ()) -> Settings:
    """Read a YAML file and apply `section.key=value` overrides, whose values are YAML too.

    An override of `data.kind` or `target.kind` leaves out what the file sets for another kind.

    Raises:
        SettingsError: the file is missing or no YAML, a key is unknown or given twice, a value
            is ambiguous or does not fit.
    """
    tree: Any = {}
    lines: dict[tuple[str, ...], int] = {}
    if path is not None:
        path = path.expanduser()
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise SettingsError(
                f"cannot read settings {path}: {error.strerror}", remedy="give a YAML file"
            ) from error
        except UnicodeDecodeError as error:
            raise SettingsError(
                f"{path} is no YAML: {error}", expected="text encoded as UTF-8"
            ) from error
        document = strict_yaml.read(text, str(path))
        tree, lines = document.value or {}, document.lines
    if not isinstance(tree, dict):
        raise SettingsError(
            f"{path} holds a {type(tree).__name__}", expected="sections of settings"
        )
    overridden = [_apply(tree, override) for override in overrides]
    for keys in overridden:
        lines = {where: line for where, line in lines.items() if where[: len(keys)] != keys}
        # A section that an override gives as a whole holds nothing of the file.
        if keys[1:] == ("kind",) and keys[:1] not in overridden:
            given = {other[1] for other in overridden if other[0] == keys[0]}
            _fit_to_kind(tree[keys[0]], keys[0], given)
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        raise SettingsError(
            _describe(error, Settings, f"{path}", lines),
            command="settings",
        ) from error


def checked(section: type[S], values: Mapping[str, Any]) -> S:
    """Return a section of settings with these values.

    Args:
        section: class of the section.
        values: by key; defaults are taken for what is missing.

    Raises:
        SettingsError: a key is unknown, or a value does not fit.
    """
    try:
        return section.model_validate(dict(values))
    except ValidationError as error:
        raise SettingsError(_describe(error, section, "", {})) from error


def data_settings(values: Mapping[str, Any]) -> DataSettings:
    """Return the settings of tiles with these values, as in the section `data` of a YAML file.

    Raises:
        SettingsError: a key is unknown, or a value does not fit.
    """
    return checked(Settings, {"data": dict(values)}).data


def target_settings(values: Mapping[str, Any]) -> TargetSettings:
    """Return the settings of a target with these values, as in `target` of a YAML file.

    Raises:
        SettingsError: a key is unknown, or a value does not fit.
    """
    return checked(Settings, {"target": dict(values)}).target


def _apply(tree: dict[str, Any], override: str) -> tuple[str, ...]:
    """Put the value of an override into the tree and return the keys that lead to it."""
    name, equals, text = override.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        raise SettingsError(f"override {override!r}", expected="section.key=value")
    for key in keys[:-1]:
        branch = tree.setdefault(key, {})
        if not isinstance(branch, dict):
            raise SettingsError(f"override {override!r}: {key} is a value", expected="a section")
        tree = branch
    tree[keys[-1]] = strict_yaml.read(text, f"override {override!r}").value
    return tuple(keys)


def sections_of(annotation: Any) -> tuple[type[BaseModel], ...]:
    """Return the classes of a section, several where it is of several kinds; none of a value.

    Args:
        annotation: of a field, such as `DataSettings`.
    """
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    union = get_origin(annotation) in (Union, UnionType)
    parts = get_args(annotation) if union else (annotation,)
    are_sections = all(isinstance(part, type) and issubclass(part, BaseModel) for part in parts)
    return parts if are_sections else ()


def sections_in(annotation: Any) -> tuple[type[BaseModel], ...]:
    """Return the classes of a section, or of those in a list; none of a value.

    Args:
        annotation: of a field.
    """
    listed = get_origin(annotation) is tuple
    return sections_of(get_args(annotation)[0] if listed else annotation)


def kinds_of(section: type[BaseModel]) -> tuple[str, ...]:
    """Return the kinds that a class of settings is for; none where there are no kinds."""
    kind = section.model_fields.get("kind")
    return () if kind is None else get_args(kind.annotation)


def _fit_to_kind(tree: dict[str, Any], name: str, kept: Collection[str]) -> None:
    """Leave out what a file sets for another kind of a section than an override names.

    Args:
        tree: of the section.
        name: of the section.
        kept: keys that overrides name, too, which are refused where they do not fit.
    """
    field = Settings.model_fields.get(name)
    for section in sections_of(field.annotation) if field else ():
        if tree["kind"] in kinds_of(section):
            for key in {*tree} - {*section.model_fields} - {*kept}:
                del tree[key]


def keys_of(section: type[BaseModel], name: str = "") -> list[str]:
    """Return every key below a section that may be set, with its sections, each once.

    Args:
        section: class of the section.
        name: of the section, before the keys.
    """
    found: dict[str, None] = {}
    for field, info in section.model_fields.items():
        key = f"{name}.{field}" if name else field
        inside = sections_of(info.annotation)
        keys = [below for part in inside for below in keys_of(part, key)] if inside else [key]
        found |= dict.fromkeys(keys)
    return list(found)


def did_you_mean(wrong: str, known: Sequence[str]) -> str:
    """Return the suggestion for a name that is unknown; empty where nothing is near it.

    A key in another section is suggested, too: `search.count` for `count`.

    Example:
        >>> did_you_mean("serach.tau", ["search.tau", "search.count"])
        'did you mean search.tau?'
    """
    near = difflib.get_close_matches(wrong, known, n=1, cutoff=0.75)
    if not near:
        same = [key for key in known if key.rpartition(".")[2] == wrong.rpartition(".")[2]]
        near = same if len(same) <= _MOST_SUGGESTED else []
    return f"did you mean {' or '.join(near)}?" if near else ""


def _describe(
    error: ValidationError,
    section: type[BaseModel],
    file: str,
    lines: Mapping[tuple[str, ...], int],
) -> str:
    """Return what is wrong with which settings, and in which line of the file."""
    problems: list[str] = []
    missing: dict[str, list[str]] = {}
    idle: dict[str, list[tuple[str, list[str]]]] = {}
    for problem in error.errors():
        keys, kinds, kind = _place(problem["loc"], section)
        plain = ".".join(keys)
        name = f"setting {plain}" if keys else "the settings"
        if keys in lines:
            name = f"{file} line {lines[keys]}: {name}"
        kind_key = ".".join([*keys[:-1], "kind"])
        match problem["type"]:
            case "extra_forbidden" if new := renamed(plain):
                problems.append(f"{name} is called {new} now")
            case "extra_forbidden" if others := [k for k, has in kinds.items() if keys[-1] in has]:
                idle.setdefault(f"{kind_key}={kind}", []).append((name, others))
            case "extra_forbidden":
                near = did_you_mean(plain, keys_of(section))
                problems.append(f"{name} is unknown" + (f" ({near})" if near else ""))
            case "missing" if kind:
                line = f"{file} line {lines[keys[:-1]]}: " if keys[:-1] in lines else ""
                missing.setdefault(f"{line}{kind_key}={kind}", []).append(plain)
            case "missing":
                problems.append(f"{name} is missing")
            case "union_tag_not_found":
                problems.append(f"{name}.kind is missing, expected one of {', '.join(kinds)}")
            case "union_tag_invalid":
                wrong = str(problem["ctx"]["tag"])
                near = did_you_mean(wrong, list(kinds))
                problems.append(
                    f"{name}.kind is {wrong}, expected one of {', '.join(kinds)}"
                    + (f" ({near})" if near else "")
                )
            case "literal_error" if given := VALUES.get(plain, {}).get(str(problem["input"])):
                problems.append(f"{name}: {problem['input']} is called {given} now")
            case "string_type":
                problems.append(f"{name} is {problem['input']!r}, write text in quotes")
            case _:
                problems.append(f"{name}: {problem['msg'].removeprefix('Value error, ')}")
    problems += [f"{kind} needs {', '.join(keys)}" for kind, keys in missing.items()]
    problems += [_without_effect(kind, given) for kind, given in idle.items()]
    return ", ".join(problems)


def _without_effect(kind: str, given: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Return what is wrong with keys that a section of this kind does not have.

    Args:
        kind: such as `data.kind=none`.
        given: each key in words, with the kinds that have it.
    """
    key = kind.partition("=")[0]
    if len(given) > 1:
        line = given[0][0].partition("setting ")[0]
        names = in_words([name.rpartition(" ")[2] for name, _ in given], "and")
        return (
            f"{line}settings {names} have no effect with {kind}, remove them or set another {key}"
        )
    ((name, others),) = given
    few = f"{key}={in_words(others)}" if len(others) <= _MOST_KINDS else f"another {key}"
    return f"{name} has no effect with {kind}, remove it or set {few}"


def _place(
    loc: tuple[int | str, ...], section: type[BaseModel]
) -> tuple[tuple[str, ...], dict[str, Collection[str]], str]:
    """Return where a problem is.

    Args:
        loc: pydantic's, which names the kind of a section after the section.
        section: in which.

    Returns:
        The keys that lead there, the keys of each kind of the innermost section of several kinds,
        and the kind which that section is; empty where there is none.
    """
    keys: list[str] = []
    inside: tuple[type[BaseModel], ...] = (section,)
    kinds: dict[str, Collection[str]] = {}
    kind = ""
    for part in loc:
        chosen = tuple(own for own in inside if part in kinds_of(own))
        if chosen and len(inside) > 1:
            inside, kind = chosen, str(part)
            continue
        keys.append(str(part))
        if isinstance(part, str):
            fields = [own.model_fields[part] for own in inside if part in own.model_fields]
            if fields:
                kind = "" if sections_of(fields[0].annotation) else kind
                inside = sections_in(fields[0].annotation)
                if len(inside) > 1:
                    kinds = {one: own.model_fields for own in inside for one in kinds_of(own)}
    return tuple(keys), kinds, kind
