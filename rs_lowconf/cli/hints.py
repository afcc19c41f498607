"""Next commands: every command that `rslow` prints comes from here.

A printed command can be run as printed: it has the `--config` and the `--set` that the user gave,
quoted for a shell, and is at the end of its line.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rs_lowconf.errors import RsLowconfError
from rs_lowconf.settings import Settings

#: Kinds of targets that are never loaded without --trust-code.
_FOREIGN = ("callable", "export", "process", "python", "sklearn", "torchscript")

#: Commands that load the target only if it predicts a class per pixel.
_FOR_MASKS = ("batch review", "batch suspects", "estimate draw")

#: Kinds of data that only catalogs are built from.
_FOR_CATALOGS = ("none", "images", "geopackage", "stac")


@dataclass(kw_only=True)
class _Given:
    """Options of the command that is running, as the user typed them."""

    config: Path | None = None
    overrides: tuple[str, ...] = ()
    trust_code: bool = False
    settings: Settings | None = None


_given = _Given()

_apps: list[Any] = []
"""The app whose commands are suggested."""


def know(app: Any) -> None:
    """Keep the Typer app whose commands are suggested."""
    _apps[:] = [app]


def forget() -> None:
    """Forget the options of an earlier command of this process."""
    global _given  # noqa: PLW0603 -- what is typed at a program's start is the program's
    _given = _Given()


def remember(config: Path | None, overrides: Sequence[str]) -> None:
    """Keep the --config and the --set of this command for what it prints."""
    _given.config, _given.overrides = config, tuple(overrides)


def settings_given() -> bool:
    """Return whether the user gave --config or --set."""
    return _given.config is not None or bool(_given.overrides)


def remember_settings(settings: Settings) -> None:
    """Keep the settings, which decide what commands may be suggested."""
    _given.settings = settings


def remember_trust(value: bool) -> bool:
    """Keep whether foreign code is trusted, and return that."""
    _given.trust_code = value
    return value


def hint(lead: str, command: str, *words: object, set_: Sequence[str] = ()) -> None:
    """Print the command to type next.

    Args:
        lead: what comes before it in the line, such as `Next`.
        command: its name, such as `train gate`.
        words: its arguments and options except --config and --set.
        set_: settings to add; they replace those of the user.
    """
    print(f"{lead}: {command_line(command, *words, set_=set_)}")


def error_line(error: RsLowconfError) -> str:
    """Return an error as printed, with the complete command that fixes it."""
    if not error.command:
        return str(error)
    if _refused(error.command):
        return f"{error.said}."
    return f"{error.said}; run {command_line(error.command)}"


def command_line(command: str, *words: object, set_: Sequence[str] = ()) -> str:
    """Return a command as it can be typed in a shell; see `hint`."""
    name = shlex.split(command)
    takes = _options_of(name)
    parts = [*name, *map(str, words)]
    if "--config" in takes:
        if _given.config is not None:
            parts += ["--config", str(_given.config)]
        new = {setting.partition("=")[0].strip() for setting in set_}
        kept = [
            setting for setting in _given.overrides if setting.partition("=")[0].strip() not in new
        ]
        parts += [part for setting in (*kept, *set_) for part in ("--set", setting)]
    foreign = _given.settings is not None and _given.settings.target.kind in _FOREIGN
    foreign = foreign and " ".join(name[:2]) not in _FOR_MASKS
    if "--trust-code" in takes and (_given.trust_code or foreign):
        parts.append("--trust-code")
    return f"rslow {shlex.join(parts)}"


def _refused(command: str) -> bool:
    """Return whether a command that fixes an error does not apply to these settings."""
    settings = _given.settings
    return command == "data check" and settings is not None and settings.data.kind in _FOR_CATALOGS


def _options_of(name: Sequence[str]) -> set[str]:
    """Return the options that a command takes."""
    import typer

    command: Any = typer.main.get_command(_apps[0])
    for word in name:
        if not hasattr(command, "commands") or word not in command.commands:
            break
        command = command.commands[word]
    return {option for parameter in command.params for option in parameter.opts}
