"""Percentages are written in one style in all that users read: "50 %"."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "rs_lowconf"
FAULT = re.compile(r"[0-9}]%(?!\()")
"""A number, or a value in braces, without a space; `%(` begins a template of Python."""
SOURCES = sorted(PACKAGE.rglob("*.py"))
TEXTS = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs" / "pages").rglob("*.md")),
    *sorted(PACKAGE.rglob("*.md")),
]


def faults_of(source: str) -> list[str]:
    """Return the texts of a module that write a percentage otherwise."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FormattedValue) and node.format_spec is not None:
            spec = ast.unparse(node.format_spec)
            if re.search(r"\d%", spec):
                found.append(ast.unparse(node))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found += [node.value] if FAULT.search(node.value) else []
    return found


@pytest.mark.parametrize(
    ("source", "faults"),
    [
        ("f'{share:.1%} of {n}'", 1),
        ("'95% of all'", 1),
        ("'{:.0%}'.format(share)", 1),
        ("f'{percent(share, 1)} of {n}', '95 % of all', '%d' % n", 0),
    ],
)
def test_faults_are_found(source: str, faults: int) -> None:
    """Texts, formats of values and templates."""
    assert (len(faults_of(source)) > 0) == (faults > 0)


def test_code_writes_percentages_in_one_style() -> None:
    """Every text of the package, whoever shows it."""
    wrong = {
        path.relative_to(ROOT).as_posix(): faults
        for path in SOURCES
        if path.name != "percents.py" and (faults := faults_of(path.read_text(encoding="utf-8")))
    }
    assert wrong == {}


def test_documents_write_percentages_in_one_style() -> None:
    """Outside of code."""
    wrong = {}
    for path in TEXTS:
        prose = re.sub(
            r"```.*?```|`[^`\n]*`", "", path.read_text(encoding="utf-8"), flags=re.DOTALL
        )
        if found := re.findall(r".*[0-9]%.*", prose):
            wrong[path.relative_to(ROOT).as_posix()] = found
    assert wrong == {}


def test_templates_write_percentages_in_one_style() -> None:
    """Pages apart from their style sheets, whose lengths are percentages."""
    for path in sorted(PACKAGE.rglob("*.html")):
        text = re.sub(r"<style>.*?</style>", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert not re.search(r"[0-9}]%(?!\})", text), path.name
