"""Every settings key can be found, with what it means."""

import json
import re

import pytest

from rs_lowconf import reference
from rs_lowconf.settings import Settings, did_you_mean, keys_of, load
from tests.conftest import Run
from tests.stories import tells, type_printed


def test_every_key_is_explained_once() -> None:
    """All keys that may be set are there, with a text and what they may be."""
    entries = [entry for own in reference.sections() for entry in own.entries]
    keys = [entry.key for entry in entries if "[]" not in entry.key]
    assert keys == [*dict.fromkeys(keys)]
    assert sorted(keys) == sorted(keys_of(Settings))
    assert len(keys) > 200
    assert [entry.key for entry in entries if not entry.text] == []
    assert [entry.key for entry in entries if not entry.values or "anything" in entry.values] == []
    assert all(own.text for own in reference.sections())


def test_defaults_are_yaml_that_is_read_as_they_are() -> None:
    """Each default, given as `--set KEY=DEFAULT`, changes nothing."""
    entries = [entry for own in reference.sections() for entry in own.entries]
    overrides = [f"{entry.key}={entry.default}" for entry in entries if entry.default != "null"]
    assert load(None, overrides) == load(None)


def test_the_schema_knows_every_key() -> None:
    """An editor that has it offers the keys with their explanations."""
    schema = json.loads(reference.json_schema())

    def keys(part: dict[str, object], name: str) -> set[str]:
        found = set()
        for field, about in part["properties"].items():  # type: ignore[attr-defined]
            key = f"{name}.{field}" if name else field
            inner = re.search(
                r"#/\$defs/(\w+)\"", json.dumps({k: about[k] for k in about if k == "$ref"})
            )
            section = schema["$defs"][inner.group(1)] if inner else {}
            if "properties" in section:
                found |= keys(section, key)
            else:
                assert name == "" or about["description"], key
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


@tells("settings.py:load:settings")
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
