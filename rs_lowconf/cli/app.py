"""The program `rslow`: its commands, how errors end it, and its log.

Nothing here imports torch: `--help` has to answer at once.
"""

import logging
import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from rs_lowconf.cli import hints
from rs_lowconf.determinism import make_deterministic
from rs_lowconf.errors import RsLowconfError
from rs_lowconf.extras import missing
from rs_lowconf.settings import Settings, load
from rs_lowconf.version import __version__

INTERRUPTED = 130

EXIT_CODES = """Exit codes: 0 done, 1 a bug of ours (with traceback), 2 wrong command line,
3 settings, 4 data, 5 model, 6 review package, 7 no result within budget, or a batch job that cannot
go on, 8 output cannot be written, 9 a package is not installed, 130 interrupted."""

#: Typer carries its own copy of click from some version on; its errors are reached from here.
_ClickException: Any = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="rslow",
    help=f"Find the Sentinel-2 tiles that a model is unsure of.\n\n{EXIT_CODES}",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

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
    # GDAL warns of odd tags in files that it reads well, once a file and reading.
    logging.getLogger("rasterio._env").setLevel(logging.INFO if verbose else logging.ERROR)


def load_settings(config: Path | None, overrides: list[str] | None) -> Settings:
    """Read the settings and tell torch's libraries what they read when torch is imported.

    The commands import it after this.
    """
    hints.remember(config, overrides or ())
    settings = load(config, overrides or ())
    hints.remember_settings(settings)
    make_deterministic(settings.run.threads)
    return settings


def _with_home(word: str) -> str:
    """Return a word of the command line with the home folder for ~, also in `--out=~/x`.

    Shells do this for words that begin with ~ and are not in quotes only. The settings do it for
    `--set`.
    """
    option, path = re.fullmatch(r"(-\w|--[\w-]+=)?(.*)", word, re.DOTALL).groups("")  # type: ignore[union-attr]  # anything matches
    return option + os.path.expanduser(path)  # noqa: PTH111 - most words are no paths


def main() -> None:
    """Run the command line and end the process with the documented exit code."""
    from rs_lowconf.cli import (  # noqa: F401
        batch,
        batch_generate,
        catalog,
        data,
        estimate,
        estimate_experiment,
        estimate_generated,
        estimate_pixels,
        estimate_rare,
        evaluate,
        generate,
        loop,
        quickstart,
        review,
        testset,
        train,
        train_encoder,
        update,
    )

    hints.forget()
    try:
        code = app([_with_home(word) for word in sys.argv[1:]], standalone_mode=False)
    except RsLowconfError as error:
        print(f"rslow: {hints.error_line(error)}", file=sys.stderr)
        code = error.exit_code
    except ModuleNotFoundError as error:
        command = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
        lacking = missing(error.name or "", command)
        if lacking is None:
            raise
        print(f"rslow: {lacking}", file=sys.stderr)
        code = lacking.exit_code
    except _ClickException as error:
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    if code == INTERRUPTED:  # some versions of Typer turn Ctrl-C into this code themselves
        print("rslow: interrupted; the same command goes on from what is saved.", file=sys.stderr)
    sys.exit(code)
