"""What all sections of settings have in common."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, field_validator

from rs_lowconf.class_map import ClassMap
from rs_lowconf.errors import RsLowconfError
from rs_lowconf.vocabulary import class_list, class_name, vocabulary

Device = Literal["auto", "cpu", "cuda"]

WORKER = "RSLOW_WORKER"
"""The environment variable with the number of a process among the workers of its machine, from 0
on, by which they take turns at its GPUs."""


def _listed(names: tuple[str, ...]) -> tuple[str, ...]:
    try:
        return class_list("the classes", names).names
    except RsLowconfError as error:
        raise ValueError(str(error)) from error


def _masked(named: dict[int, str | None]) -> dict[int, str | None]:
    try:
        vocabulary("the masks", named.values())
    except RsLowconfError as error:
        raise ValueError(str(error)) from error
    return {value: class_name(name) for value, name in named.items()}


def _mapped(names: dict[str, str]) -> dict[str, str]:
    try:
        return {**ClassMap.of(names).names}
    except RsLowconfError as error:
        raise ValueError(str(error)) from error


ClassNames = Annotated[tuple[str, ...], AfterValidator(_listed)]
"""In the form in which all names of classes are compared, each once."""
CommonNames = Annotated[dict[str, str], AfterValidator(_mapped)]
"""Common names of classes by name, see `class_map.ClassMap`."""
MaskClasses = Annotated[dict[int, str | None], AfterValidator(_masked)]


class Section(BaseModel):
    """A frozen group of settings that forbids unknown keys; in paths, ~ is the home folder."""

    # Built on first use: commands that read no settings answer sooner.
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    @field_validator("*", mode="after")
    @classmethod
    def _expanded(cls, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(cls._expanded(part) for part in value)
        if isinstance(value, dict):
            return {name: cls._expanded(part) for name, part in value.items()}
        try:
            return value.expanduser() if isinstance(value, Path) else value
        except RuntimeError as error:
            raise ValueError(f"{value}: there is no such user, write the whole path") from error
