"""The program `rslow`: its commands, its exit codes, and its log.

Nothing here imports torch, so that `--help` is fast.
"""

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from rs_lowconf.cli import hints
from rs_lowconf.determinism import make_deterministic
from rs_lowconf.settings import Settings, load
from rs_lowconf.version import __version__

EXIT_CODES = """Exit codes: 0 success, 1 internal error (with traceback), 2 invalid command line,
3 settings, 4 data, 5 model, 6 review package, 7 no result within budget, or a batch job that cannot
continue, 8 output cannot be written, 9 a package is not installed, 130 interrupted."""

app = typer.Typer(
    name="rslow",
    help=f"Find the Sentinel-2 tiles that a model is unsure of.\n\n{EXIT_CODES}",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="markdown",  # paragraphs are wrapped to the width of the terminal
)

hints.know(app)

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="Settings file (YAML); see configs/.", show_default="none"),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", help="Override one setting: section.key=value. Repeatable."),
]
TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust-code",
        help="Load targets that run foreign code (pickle, TorchScript).",
        callback=hints.remember_trust,
    ),
]


def _version(wanted: bool | None) -> None:
    if wanted:
        print(f"rslow {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
    version: Annotated[  # noqa: ARG001
        bool | None,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = None,
) -> None:
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(
        level=level, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    # GDAL warns of unusual tags in valid files, once per file and read.
    logging.getLogger("rasterio._env").setLevel(logging.INFO if verbose else logging.ERROR)


def load_settings(config: Path | None, overrides: list[str] | None) -> Settings:
    """Read the settings and set the environment variables that torch's libraries read on import.

    The commands import torch after this.
    """
    hints.remember(config, overrides or ())
    settings = load(config, overrides or ())
    hints.remember_settings(settings)
    make_deterministic(settings.run.threads)
    return settings
