"""Every settings key can be found, with what it means."""

import json
from typing import Any

import pytest

from rs_lowconf import reference
from rs_lowconf.settings import Settings, did_you_mean, keys_of, kinds_of, load, sections_of
from tests.conftest import Run
from tests.make_settings import needed
from tests.stories import tells, type_printed


def test_every_key_is_explained_once_for_each_kind() -> None:
    """All keys that may be set are there, with a text and what they may be."""
    sections = reference.sections()
    keys = [
        (entry.key, kind)
        for section in sections
        for entry in section.entries
        for kind in section.kinds or [""]
        if "[]" not in entry.key
    ]
    assert keys == [*dict.fromkeys(keys)]
    assert {key for key, _ in keys} == {*keys_of(Settings)}
    assert len({key for key, _ in keys}) > 200
    entries = [entry for section in sections for entry in section.entries]
    assert [entry.key for entry in entries if not entry.text] == []
    assert [entry.key for entry in entries if not entry.values or "anything" in entry.values] == []
    assert all(section.text for section in sections)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_defaults_are_yaml_that_is_read_as_they_are(name: str) -> None:
    """Each default, given as `--set KEY=DEFAULT`, changes nothing, whatever the kind."""
    for section in sections_of(Settings.model_fields[name].annotation):
        for kind in kinds_of(section) or ("",):
            words = needed(section, name, kind)
            defaults = [
                f"{entry.key}={entry.default}"
                for own in reference.sections(name)
                if not own.kinds or kind in own.kinds
                for entry in own.entries
                if "[]" not in entry.key and entry.key != f"{name}.kind"
                if entry.default not in ("null", "none, it must be set")
            ]
            assert load(None, [*words, *defaults]) == load(None, words)


def test_the_schema_knows_every_key() -> None:
    """An editor that has it offers the keys with their explanations."""
    schema = json.loads(reference.json_schema())

    def sections(part: dict[str, Any]) -> list[dict[str, Any]]:
        refs = [own["$ref"] for own in (part, *part.get("oneOf", ())) if "$ref" in own]
        inside = [schema["$defs"][ref.rpartition("/")[2]] for ref in refs]
        return [own for own in inside if "properties" in own]

    def keys(part: dict[str, Any], name: str) -> set[str]:
        found = set()
        for field, about in part["properties"].items():
            key = f"{name}.{field}" if name else field
            inside = sections(about)
            for section in inside:
                found |= keys(section, key)
            if not inside:
                assert about["description"], key
                found.add(key)
        return found

    assert keys(schema, "") == set(keys_of(Settings))


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("serach.count", "did you mean search.count?"),
        ("count", "did you mean search.count or variants.count?"),
        ("data.rooot", "did you mean data.root?"),
        ("nonsense", ""),
    ],
)
def test_unknown_keys_have_a_suggestion(wrong: str, right: str) -> None:
    """A misspelt key, one without its section, and one that is like none."""
    assert did_you_mean(wrong, keys_of(Settings)) == right


@tells("settings/reading.py:load:settings")
def test_who_misspells_a_key_finds_it(rslow: Run) -> None:
    """The error names the nearest key and the command that lists them."""
    ran = rslow("generate", "-s", "search.cuont=3")
    assert ran.code == 3
    assert "search.cuont is unknown (did you mean search.count?)" in ran.err
    assert "search.count = 64" in type_printed(ran, "settings").out


def test_a_section_a_key_and_a_schema_are_printed(rslow: Run) -> None:
    """Alone, and nothing else; an unknown section is refused."""
    section = rslow("settings", "search.splitting").out
    assert section.startswith("search.splitting: ")
    assert "search.splitting.moves = 3   (whole number, above 0)" in section
    assert "search.tau" not in section
    key = rslow("settings", "search.tau").out
    assert "search.tau = 0.5" in key
    assert "search.count" not in key
    assert json.loads(rslow("settings", "--schema").out)["title"] == "Settings"
    ran = rslow("settings", "serach")
    assert (ran.code, "did you mean search?" in ran.err) == (3, True)
