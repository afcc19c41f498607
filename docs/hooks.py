"""Adds to the site what is generated: commands, settings, Python API, notebook, files elsewhere.

A page in `pages/` holds a line `<!-- generated: NAME -->` where one of `GENERATED` goes.
"""

import ast
import base64
import inspect
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import typer.main
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pygments.formatters import HtmlFormatter

import rs_lowconf
from rs_lowconf.cli.app import app
from rs_lowconf.reference import sections
from rs_lowconf.settings.renamed import COMMANDS, KEYS, VALUES

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs" / "notebook.ipynb"
COPIED = {
    "changelog.md": "CHANGELOG.md",
    "reference/MODEL_CARD.md": "rs_lowconf/embedded/MODEL_CARD.md",
    "reference/QUALITY.md": "rs_lowconf/embedded/QUALITY.md",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie elsewhere in the repository, and the notebook."""
    for page, source in COPIED.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    style = HtmlFormatter().get_style_defs(".highlight")
    files.append(File.generated(config, "highlight.css", content=style))
    for name, content in notebook_files(json.loads(NOTEBOOK.read_text(encoding="utf-8"))):
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Put generated parts in the place of their marks."""
    return re.sub(r"<!-- generated: (\w+) -->", lambda mark: GENERATED[mark[1]](), markdown)


def commands() -> str:
    """Return every command with its help, arguments and options."""
    parts = []
    for name, command in walk(typer.main.get_command(app), "rslow"):
        level = "##" if name.count(" ") < 2 else "###"
        parts += [f"{level} {name}", inspect.cleandoc(command.help or "")]
        rows = [row(param) for param in command.params if "--help" not in param.opts]
        if rows:
            parts.append(table(("argument or option", "default", "what it does"), rows))
    return "\n\n".join(parts)


def walk(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield a command and those below it, with the words that call them."""
    yield name, command
    inner = getattr(command, "commands", {})
    # Commands of the program itself come before its groups.
    for word in sorted(inner, key=lambda word: (hasattr(inner[word], "commands"), word)):
        yield from walk(inner[word], f"{name} {word}")


def row(param: Any) -> tuple[str, str, str]:
    """Return the cells of an argument or option: name, default, help."""
    names = ", ".join([*param.opts, *param.secondary_opts])
    if param.param_type_name == "argument":
        names = param.metavar or str(param.name).upper()
    default = "" if param.default in (None, False, ()) else f"`{param.default}`"
    return f"`{names}`", "required" if param.required else default, plain(param.help or "")


def settings() -> str:
    """Return every settings key with its values, default and explanation, by section."""
    parts = []
    for section in sections():
        rows = [
            (f"`{entry.key}`", f"`{entry.default}`", plain(entry.values), plain(entry.text))
            for entry in section.entries
        ]
        header = ("key", "default", "values", "what it is")
        parts += [f"## {section.title}", plain(section.text), table(header, rows)]
    return "\n\n".join(parts)


def renamed() -> str:
    """Return the former names of keys, values and commands with the new ones."""
    values = [
        (f"{key}={old}", f"{key}={new}")
        for key, names in VALUES.items()
        for old, new in names.items()
    ]
    commands = [(f"rslow {old}", f"rslow {new}") for old, new in COMMANDS.items()]
    rows = [(f"`{old}`", f"`{new}`") for old, new in (*KEYS.items(), *values, *commands)]
    return table(("old name", "new name"), rows)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plain(text: str) -> str:
    """Return text whose signs mean nothing to Markdown, apart from `code`."""
    return text.replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")


def python() -> str:
    """Return the public names, which mkdocstrings explains from their docstrings."""
    parts = []
    for name in rs_lowconf.__all__:
        if name.endswith("Settings"):  # their keys have a page of their own
            parts.append(f"::: rs_lowconf.{name}\n    options:\n      members: false")
        elif name != "__version__":
            parts.append(f"::: rs_lowconf.{name}")
    return "\n\n".join(parts)


def configurations() -> str:
    """Return the settings files that come with the repository."""
    parts = []
    for path in sorted((ROOT / "configs").glob("*.yaml")):
        parts += [f"## {path.name}", f"```yaml\n{path.read_text(encoding='utf-8')}```"]
    return "\n\n".join(parts)


def protocol() -> str:
    """Return what a program has to do to be a target."""
    text = (ROOT / "rs_lowconf/target/serve.py").read_text(encoding="utf-8")
    about = ast.get_docstring(ast.parse(text))
    return f"```text\n{about}\n```"


def notebook_files(notebook: dict[str, Any]) -> Iterator[tuple[str, str | bytes]]:
    """Yield the notebook as a page, and its pictures."""
    parts = []
    for number, one in enumerate(notebook["cells"]):
        source = "".join(one["source"])
        if one["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in one["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                picture = f"images/notebook-{number}.png"
                parts.append(f"![Output of the cell above]({picture})")
                yield picture, base64.b64decode("".join(data["image/png"]))
            else:
                text = "".join(output.get("text", data.get("text/plain", "")))
                parts.append(f"```text\n{text.rstrip()}\n```")
    yield "notebook.md", "\n\n".join(parts) + "\n"


GENERATED = {
    one.__name__: one for one in (commands, settings, renamed, python, configurations, protocol)
}
