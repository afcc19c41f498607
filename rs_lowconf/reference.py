"""Every settings key with its type, default and explanation, read from the settings themselves."""

import ast
import inspect
import json
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from types import ModuleType
from typing import Any

from pydantic import BaseModel, TypeAdapter

from rs_lowconf import settings, strict_yaml
from rs_lowconf.errors import SettingsError, in_words

_Classes = tuple[type[BaseModel], ...]
"""The classes of a section, one for each of its kinds."""
_KINDS = {
    "data": "The tiles to learn from and to be measured on; each kind has keys of its own.",
    "more": "Further tiles that the generator learns from; each kind has keys of its own.",
    "target": "The model under test; each kind has keys of its own.",
}
"""What the sections of several kinds are."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One settings key."""

    key: str
    """Key with its sections, such as `search.splitting.particles`."""
    values: str
    """Permitted values, as text."""
    default: str
    """Default as YAML."""
    text: str
    """Explanation, with the unit."""


@dataclass(frozen=True, kw_only=True)
class SectionEntry:
    """A section with its keys, without those of sections inside it."""

    name: str
    text: str
    entries: tuple[Entry, ...]
    kinds: tuple[str, ...] = ()
    """The kinds of the section that have these keys; all of them when empty."""

    @property
    def title(self) -> str:
        """Return the name, with the kinds where only some have these keys."""
        return f"{self.name}, kind {in_words(self.kinds)}" if self.kinds else self.name


def sections(name: str | None = None) -> list[SectionEntry]:
    """Return a section and those inside it; all sections without a name.

    Args:
        name: such as `search` or `search.splitting`.

    Raises:
        SettingsError: there is no such section.
    """
    found = list(_sections(settings.Settings, ""))
    if name is None:
        return found
    inside = [each for each in found if each.name == name or each.name.startswith(f"{name}.")]
    if not inside:
        # A key instead of a section: only that key, with each of its meanings.
        keys = [
            replace(section, entries=tuple(own for own in section.entries if own.key == name))
            for section in found
        ]
        meanings = [section for section in keys if section.entries]
        if meanings:
            return meanings
        known = [*(each.name for each in found), *settings.keys_of(settings.Settings)]
        near = settings.did_you_mean(name, known)
        raise SettingsError(
            f"there is no section {name}",
            expected=f"one of {', '.join(each.name for each in found if '.' not in each.name)}",
            remedy=near,
        )
    return inside


def as_text(found: list[SectionEntry], width: int = 88) -> str:
    """Return sections for a terminal: key, default and values, explanation."""
    parts = []
    for section in found:
        parts.append(f"{section.title}: {section.text}")
        for entry in section.entries:
            parts.append(f"\n  {entry.key} = {entry.default}   ({entry.values})")
            parts.append(
                textwrap.fill(entry.text, width, initial_indent=" " * 6, subsequent_indent=" " * 6)
            )
        parts.append("")
    return "\n".join(parts).rstrip() + "\n"


def json_schema() -> str:
    """Return a JSON schema of the settings with their explanations, for editors."""
    schema = settings.Settings.model_json_schema()
    for name, part in {"Settings": schema, **schema.get("$defs", {})}.items():
        for field, about in part.get("properties", {}).items():
            text = _text_of(getattr(settings, name), field)
            if text:
                about["description"] = text
    return json.dumps(schema, indent=2) + "\n"


def _sections(model: type[BaseModel], name: str) -> Iterator[SectionEntry]:
    """Yield a section and those inside it."""
    entries, inner = _entries(model, name)
    if name:
        yield SectionEntry(name=name, text=_about(model), entries=tuple(entries))
    for kinds, key in inner:
        if len(kinds) > 1:
            yield from _by_kind(kinds, key)
        else:
            yield from _sections(kinds[0], key)


def _by_kind(models: Sequence[type[BaseModel]], name: str) -> Iterator[SectionEntry]:
    """Yield a section of several kinds: what all of them have, then what only some have."""
    kinds: dict[Entry, tuple[str, ...]] = {}
    inner: dict[str, _Classes] = {}
    for model in models:
        entries, inside = _entries(model, name)
        inner |= {key: classes for classes, key in inside}
        for entry in entries:
            if entry.key != f"{name}.kind":
                kinds[entry] = kinds.get(entry, ()) + settings.kinds_of(model)
    every = tuple(kind for model in models for kind in settings.kinds_of(model))
    words = {kind: _text_of(model, "kind") for model in models for kind in settings.kinds_of(model)}
    kind = Entry(
        key=f"{name}.kind",
        values=" | ".join(every),
        default=str(models[0].model_fields["kind"].get_default() or "none, it must be set"),
        text=" ".join(dict.fromkeys(words.values())),
    )
    common = [entry for entry, some in kinds.items() if some == every]
    about = _KINDS[name.rpartition(".")[2].removesuffix("[]")]
    yield SectionEntry(name=name, text=about, entries=(kind, *common))
    for group in dict.fromkeys(some for some in kinds.values() if some != every):
        entries = [entry for entry, some in kinds.items() if some == group]
        owners = [model for model in models if {*settings.kinds_of(model)} & {*group}]
        about = _about(owners[0]) if len(owners) == 1 else "Keys that only these kinds have."
        yield SectionEntry(name=name, text=about, entries=tuple(entries), kinds=group)
    for key, classes in inner.items():
        yield from _by_kind(classes, key)


def _entries(model: type[BaseModel], name: str) -> tuple[list[Entry], list[tuple[_Classes, str]]]:
    """Return the keys of a section, and the sections inside it with their keys."""
    schema = model.model_json_schema()
    entries: list[Entry] = []
    inner: list[tuple[_Classes, str]] = []
    for field, info in model.model_fields.items():
        key = f"{name}.{field}" if name else field
        section = settings.sections_of(info.annotation)
        if section:
            inner.append((section, key))
            continue
        if inside := settings.sections_in(info.annotation):
            inner.append((inside, f"{key}[]"))
        default = info.get_default(call_default_factory=True, validated_data={})
        entries.append(
            Entry(
                key=key,
                values=_words(schema["properties"][field], schema),
                default="none, it must be set" if info.is_required() else _yaml(default),
                text=_text_of(model, field),
            )
        )
    return entries, inner


def _about(model: type[BaseModel]) -> str:
    return " ".join((inspect.getdoc(model) or "").split())


@cache
def _docstrings(module: ModuleType) -> dict[tuple[str, str], str]:
    """Return the docstring of every attribute in a module's source, by class and name."""
    found = {}
    tree = ast.parse(inspect.getsource(module))
    for node in tree.body:
        if not isinstance(node, ast.ClassDef):
            continue
        for field, after in zip(node.body, node.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
            ):
                found[node.name, field.target.id] = " ".join(str(after.value.value).split())
    return found


def _text_of(model: type[BaseModel], field: str) -> str:
    """Return the explanation of a field, which may be inherited."""
    for ancestor in model.__mro__:
        module = sys.modules[ancestor.__module__]
        if module.__name__.startswith(settings.__name__):
            text = _docstrings(module).get((ancestor.__name__, field))
            if text:
                return text
    return ""


def _yaml(value: Any) -> str:
    """Return a default in YAML on one line."""
    plain = TypeAdapter(Any).dump_python(value, mode="json")
    return strict_yaml.write(plain, flow=True).strip()


_BOUNDS = {
    "exclusiveMinimum": "above",
    "minimum": "at least",
    "exclusiveMaximum": "below",
    "maximum": "at most",
    "multipleOf": "a multiple of",
}
_TYPES = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "true or false",
    "null": "null",
    "object": "names and values",
}


def _words(part: dict[str, Any], whole: dict[str, Any]) -> str:
    """Return what a part of a JSON schema permits, as text."""
    match part:
        case {"$ref": str(name)}:
            target = whole["$defs"][name.rpartition("/")[2]]
            words = "section" if "properties" in target else _words(target, whole)
        case {"anyOf": [*choices]}:
            words = " or ".join(dict.fromkeys(_words(choice, whole) for choice in choices))
        case {"oneOf": _}:
            words = "sections of several kinds"
        case {"enum": [*choices]}:
            words = " | ".join(map(str, choices))
        case {"const": value}:
            words = str(value)
        case {"type": "array"}:
            items = part.get("items") or (part.get("prefixItems") or [{}])[0]
            words = f"list of {_words(items, whole)}"
        case {"format": "path"}:
            words = "path"
        case _:
            bounds = [f"{word} {part[name]:g}" for name, word in _BOUNDS.items() if name in part]
            words = ", ".join([_TYPES.get(part.get("type", ""), "anything"), *bounds])
    return words
