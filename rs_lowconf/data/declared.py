"""What data say of their own numbers, and which of it counts.

Settings have the last word. Without one, what items, files and names of products say has to agree.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from rs_lowconf.bands import Level
from rs_lowconf.data.products import PRODUCT_SCALE, ProductName
from rs_lowconf.errors import DataError
from rs_lowconf.settings import DataSettings

Quantity = Literal["level", "scale", "dn_offset"]

_DEFAULTS: dict[Quantity, float | str] = {"level": "L1C", "scale": PRODUCT_SCALE, "dn_offset": 0.0}
_WORDS: dict[Quantity, str] = {"level": "level", "scale": "scale", "dn_offset": "offset"}


class ContradictionError(DataError):
    """Data that say two things of their numbers, and no setting that decides."""

    def __init__(self, found: str, *, remedy: str) -> None:
        """Keep the parts of the line, for errors that name the file."""
        self.found, self.remedy = found, remedy
        super().__init__(found, expected="one value", remedy=remedy)


@dataclass(frozen=True, kw_only=True)
class Statement:
    """One thing that data say of their numbers."""

    quantity: Quantity
    value: float | str
    """A level, digital numbers per unit of reflectance, or what is to be added to them."""
    by: str
    """Which field, tag or name says so."""


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """What digital numbers mean, and who says so."""

    level: Level
    scale: float
    dn_offset: float
    why: str
    """Such as `level L2A (s2:product_type), scale 10000 (default), offset 0 (data.dn_offset)`."""


def meaning_of(settings: DataSettings, statements: Iterable[Statement]) -> Meaning:
    """Return what counts: the settings, else what the data say, else the defaults.

    Raises:
        ContradictionError: the data contradict themselves, and no setting decides.
    """
    said = list(statements)
    values: dict[Quantity, float | str] = {}
    words = []
    for quantity in get_args(Quantity):
        own = getattr(settings, quantity)
        found = {one.value: one for one in reversed(said) if one.quantity == quantity}
        if own is not None:
            value, by = own, f"data.{quantity}"
        elif len(found) > 1:
            values_by = [f"{_text(one.value)} ({one.by})" for one in found.values()]
            raise ContradictionError(
                f"has {_WORDS[quantity]} {' and '.join(values_by)}",
                remedy=f"set data.{quantity} to the right one",
            )
        elif found:
            ((value, one),) = found.items()
            by = one.by
        else:
            value, by = _DEFAULTS[quantity], "default"
        values[quantity] = value
        words.append(f"{_WORDS[quantity]} {_text(value)} ({by})")
    level: Level = values["level"]  # type: ignore[assignment]  # settings and statements check it
    return Meaning(
        level=level,
        scale=float(values["scale"]),
        dn_offset=float(values["dn_offset"]),
        why=", ".join(words),
    )


def named(product: ProductName | None) -> Iterable[Statement]:
    """Yield what the name of a product says."""
    if product is None:
        return
    yield Statement(quantity="level", value=product.level, by=product.text)
    if product.dn_offset is not None:
        yield Statement(quantity="dn_offset", value=product.dn_offset, by=product.text)


def _text(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"
