"""Every settings key with its type, default and explanation, read from the settings themselves."""

import ast
import inspect
import json
import math
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args

import yaml
from pydantic import BaseModel, TypeAdapter

from rs_lowconf import settings
from rs_lowconf.errors import SettingsError


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
        # A key instead of a section: only that key.
        section = name.rpartition(".")[0]
        for parent in found:
            if parent.name == section and any(entry.key == name for entry in parent.entries):
                kept = tuple(entry for entry in parent.entries if entry.key == name)
                return [SectionEntry(name=parent.name, text=parent.text, entries=kept)]
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
        parts.append(f"{section.name}: {section.text}")
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
    texts = _docstrings()
    for name, part in {"Settings": schema, **schema.get("$defs", {})}.items():
        for field, about in part.get("properties", {}).items():
            text = _text_of(getattr(settings, name), field, texts)
            if text:
                about["description"] = text
    return json.dumps(schema, indent=2) + "\n"


def _sections(model: type[BaseModel], name: str) -> Iterator[SectionEntry]:
    schema = model.model_json_schema()
    if "$ref" in schema:  # of a section that contains others of its kind
        schema = {**schema["$defs"][schema["$ref"].rpartition("/")[2]], "$defs": schema["$defs"]}
    texts, entries = _docstrings(), []
    inner: list[tuple[type[BaseModel], str]] = []
    for field, info in model.model_fields.items():
        key = f"{name}.{field}" if name else field
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            inner.append((kind, key))
            continue
        parts = [model_inside for model_inside in get_args(kind) if inspect.isclass(model_inside)]
        # A section inside one of its kind is explained already.
        inner += [
            (model_inside, f"{key}[]")
            for model_inside in parts
            if issubclass(model_inside, BaseModel) and model_inside is not model
        ]
        default = info.get_default(call_default_factory=True)
        entries.append(
            Entry(
                key=key,
                values=_words(schema["properties"][field], schema),
                default=_yaml(default),
                text=_text_of(model, field, texts),
            )
        )
    if name:
        first = inspect.getdoc(model) or ""
        yield SectionEntry(name=name, text=" ".join(first.split()), entries=tuple(entries))
    for kind, key in inner:
        yield from _sections(kind, key)


@cache
def _docstrings() -> dict[tuple[str, str], str]:
    """Return the docstring of every attribute in the settings' source, by class and name."""
    found = {}
    tree = ast.parse(inspect.getsource(settings))
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


def _text_of(model: type[BaseModel], field: str, texts: dict[tuple[str, str], str]) -> str:
    """Return the explanation of a field, which may be inherited."""
    for base in model.__mro__:
        if (base.__name__, field) in texts:
            return texts[base.__name__, field]
    return ""


def _yaml(value: Any) -> str:
    """Return a default in YAML on one line."""
    plain = TypeAdapter(Any).dump_python(value, mode="json")
    text: str = yaml.safe_dump(plain, default_flow_style=True, width=math.inf)
    return text.removesuffix("...\n").strip()


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
