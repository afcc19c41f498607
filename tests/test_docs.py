"""README and docs: the site builds, its reference is complete, and what it shows runs."""

import json
import os
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import typer.main

import rs_lowconf as rl
from rs_lowconf import reference
from rs_lowconf.cli.app import app
from rs_lowconf.settings import Settings, keys_of
from tests.fiftyone_stand_in import fiftyone

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "pages"
TEXTS = [ROOT / "README.md", *sorted(PAGES.rglob("*.md"))]
SECTIONS = frozenset(section.name for section in reference.sections())


class Text(HTMLParser):
    """The text of a page, and the anchors that links may lead to."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.anchors = "", set[str]()
        self.feed(html)

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_starttag(self, _: str, attrs: list[tuple[str, str | None]]) -> None:
        self.anchors.update(value for name, value in attrs if name == "id" and value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `scripts/test` builds it: a link that leads nowhere would end it."""
    folder = tmp_path_factory.mktemp("site")
    config = ("--config-file", "docs/mkdocs.yml", "--site-dir", str(folder))
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", *config]
    ran = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return folder


def page(site: Path, name: str) -> Text:
    """Return a page of the reference."""
    return Text((site / "reference" / f"{name}.html").read_text(encoding="utf-8"))


def commands() -> dict[str, Any]:
    """Return every command by the words that call it."""
    found = {}

    def walk(command: Any, name: str) -> None:
        found[name] = command
        for word, inner in getattr(command, "commands", {}).items():
            walk(inner, f"{name} {word}")

    walk(typer.main.get_command(app), "rslow")
    return found


def test_every_command_and_option_is_in_the_reference(site: Path) -> None:
    """With its help and the help of its options."""
    shown = page(site, "commands")
    text = " ".join(shown.text.split())
    assert len(commands()) > 40
    for name, command in commands().items():
        assert name.replace(" ", "-") in shown.anchors
        assert " ".join(command.help.split("\n")[0].replace("`", "").split()) in text
        for param in command.params:
            assert not param.help or " ".join(param.help.split()) in text, (name, param.opts)


def test_every_settings_key_is_in_the_reference(site: Path) -> None:
    """With its default, by the same source as `rslow settings`."""
    shown = page(site, "settings")
    keys = [entry.key for section in reference.sections() for entry in section.entries]
    assert set(keys_of(Settings)) - SECTIONS <= set(keys)
    assert len(keys) > 200
    for key in keys:
        assert key in shown.text
    assert shown.anchors >= {re.sub(r"[.\[\]]", "", section) for section in SECTIONS}


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    """Under the name by which it is imported, with its example as code."""
    anchors = page(site, "python").anchors
    for name in set(rl.__all__) - {"__version__"}:
        assert f"rs_lowconf.{name}" in anchors
    assert "rs_lowconf.Generator.sample" in anchors
    html = (site / "reference" / "python.html").read_text(encoding="utf-8")
    assert "Example:" not in html  # griffe would have taken it for a sentence


def test_every_command_has_a_place_in_a_guide() -> None:
    """Not in the generated reference alone."""
    text = " ".join(path.read_text(encoding="utf-8") for path in TEXTS)
    for name, command in commands().items():
        assert hasattr(command, "commands") or name in text, name


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
def test_the_python_of_a_page_runs(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Block by block, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "fiftyone", fiftyone())
    blocks = re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S)
    names: dict[str, Any] = {"__name__": path.stem}
    for block in blocks:
        exec(compile(block, str(path), "exec"), names)  # noqa: S102 - our own text
    if path.stem == "README":
        assert len(names["reviews"].answers) == len(names["result"]) == 4
        assert (tmp_path / "review" / "review" / "review.qgz").exists()


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
def test_commands_and_settings_of_a_page_exist(path: Path) -> None:
    """Every command in a block has its options, and every key in the text is one."""
    text = path.read_text(encoding="utf-8")
    known = commands()
    keys = set(keys_of(Settings)) | SECTIONS
    keys |= {entry.key for section in reference.sections() for entry in section.entries}
    for line in re.findall(r"^rslow ((?:.*\\\n)*.*)", text, re.M):
        words = shlex.split(line, comments=True)
        name = max(
            (f"rslow {' '.join(words[:count])}".strip() for count in range(3)),
            key=lambda words: (words in known, len(words)),
        )
        assert not hasattr(known[name], "commands"), f"{name} is no command"
        options = {option for param in known[name].params for option in param.opts} | {"--help"}
        assert {word for word in words if word.startswith("-")} <= options, line
        assert {word.partition("=")[0] for word in words if re.match(r"\w+\.\w+=", word)} <= keys
    for first, rest in re.findall(r"`([a-z_]+)((?:\.[a-z_]+)+)(?:[:=][^`]*)?`", text):
        suffix = rest.rpartition(".")[2]
        if first in SECTIONS and suffix not in {"html", "json", "parquet", "qgs", "qgz", "gpkg"}:
            assert first + rest in keys, f"{first}{rest} is no setting"


def test_readme_is_short_and_its_links_lead_to_files() -> None:
    """At most 200 lines; CITATION.cff, which it names, is of this version."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 200
    assert f"version: {rl.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    """From its first cell to its last, and shows as many pictures as the one that is kept."""
    kept = json.loads((ROOT / "docs" / "notebook.ipynb").read_text(encoding="utf-8"))
    cells = [cell | ({"outputs": []} if "outputs" in cell else {}) for cell in kept["cells"]]
    fresh = tmp_path / "fresh.ipynb"
    fresh.write_text(json.dumps(kept | {"cells": cells}), encoding="utf-8")
    # In a process of its own, which talks to the kernel: sockets are refused in this one.
    words = ["-c", "from nbclient.cli import main; main()", "--startup_timeout=600"]
    ran = subprocess.run(
        [sys.executable, *words, "--timeout=600", "--inplace", fresh.name],
        cwd=tmp_path,
        env=os.environ | {"JUPYTER_RUNTIME_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr

    def pictures(notebook: dict[str, Any]) -> list[int]:
        outputs = [cell.get("outputs", []) for cell in notebook["cells"]]
        return [sum("image/png" in own.get("data", {}) for own in cell) for cell in outputs]

    assert pictures(json.loads(fresh.read_text(encoding="utf-8"))) == pictures(kept)
    assert sum(pictures(kept)) == 3
