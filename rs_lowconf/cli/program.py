"""The program: all commands, and the exit code that a command ends with."""

import os
import re
import sys
from collections.abc import Sequence
from typing import Any

import typer

from rs_lowconf.cli import (  # noqa: F401 - importing a command adds it to the app
    batch,
    batch_generate,
    catalog,
    data,
    estimate,
    estimate_rare,
    estimate_tables,
    evaluate,
    generate,
    hints,
    quickstart,
    review,
    settings_keys,
    status,
    testset,
    train,
    update,
)
from rs_lowconf.cli.app import app
from rs_lowconf.errors import RsLowconfError, SettingsError
from rs_lowconf.extras import missing
from rs_lowconf.settings.renamed import COMMANDS

INTERRUPTED = 130

#: Typer carries its own copy of click from some version on; its errors are reached from here.
_ClickException: Any = typer.BadParameter.__mro__[2]


def _with_home(word: str) -> str:
    """Return a word of the command line with the home folder for ~, also in `--out=~/x`.

    Shells do this for words that begin with ~ and are not in quotes only. The settings do it for
    `--set`.
    """
    option, path = re.fullmatch(r"(-\w|--[\w-]+=)?(.*)", word, re.DOTALL).groups("")  # type: ignore[union-attr]  # anything matches
    return option + os.path.expanduser(path)  # noqa: PTH111 - most words are no paths


def _refuse_renamed(words: Sequence[str]) -> None:
    """Refuse a command by its former name.

    Raises:
        SettingsError: it is called differently now.
    """
    for old, new in COMMANDS.items():
        if list(words[: len(old.split())]) == old.split():
            raise SettingsError(f"rslow {old} is called rslow {new} now")


def main() -> None:
    """Run the command line and end the process with the documented exit code."""
    hints.forget()
    try:
        _refuse_renamed(sys.argv[1:])
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
        print("rslow: interrupted; run the same command again to resume.", file=sys.stderr)
    sys.exit(code)
