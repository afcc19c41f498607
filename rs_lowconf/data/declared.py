"""What the data state about their digital numbers, and which statement counts.

Settings take precedence. Without a setting, items, files and product names have to agree.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal, get_args

from rs_lowconf.bands import PRODUCT_SCALE, Level
from rs_lowconf.data.products import ProductName, offset_from, product_in
from rs_lowconf.errors import DataError
from rs_lowconf.settings import OwnRasters, Rasters

Quantity = Literal["level", "scale", "dn_offset"]

_DEFAULTS: dict[Quantity, float | str] = {"level": "L1C", "scale": PRODUCT_SCALE, "dn_offset": 0.0}
_WORDS: dict[Quantity, str] = {"level": "level", "scale": "scale", "dn_offset": "offset"}


class ContradictionError(DataError):
    """The data contradict themselves about their digital numbers, and no setting decides."""

    def __init__(self, found: str, *, expected: str = "one value", remedy: str) -> None:
        """Keep the parts of the message, for errors that name the file."""
        self.found, self.expected, self.remedy = found, expected, remedy
        super().__init__(found, expected=expected, remedy=remedy)


@dataclass(frozen=True, kw_only=True)
class Statement:
    """One statement of the data about their digital numbers."""

    quantity: Quantity
    value: float | str
    """A level, digital numbers per unit of reflectance, or the offset to add to them."""
    by: str
    """The field, tag or name that states it."""


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """What digital numbers mean, and the source of this."""

    level: Level
    scale: float
    dn_offset: float
    why: str
    """Such as `level L2A (s2:product_type), scale 10000 (default), offset 0 (data.dn_offset)`."""


def meaning_of(settings: Rasters, statements: Iterable[Statement]) -> Meaning:
    """Return the meaning that counts: of the settings, else of the data, else the defaults.

    Raises:
        ContradictionError: the data contradict themselves, and no setting decides.
    """
    known = list(statements)
    values: dict[Quantity, float | str] = {}
    words = []
    for quantity in get_args(Quantity):
        # EuroSAT's level is known.
        setting = getattr(settings, quantity, None)
        found = {
            statement.value: statement
            for statement in reversed(known)
            if statement.quantity == quantity
        }
        if setting is not None:
            against = " and ".join(
                f"{_text(statement.value)} by {statement.by}"
                for statement in found.values()
                if statement.value != setting
            )
            value, by = setting, f"data.{quantity}" + (f", against {against}" if against else "")
        elif len(found) > 1:
            values_by = [
                f"{_text(statement.value)} ({statement.by})" for statement in found.values()
            ]
            raise ContradictionError(
                f"has {_WORDS[quantity]} {' and '.join(values_by)}",
                remedy=f"set data.{quantity} to the right one",
            )
        elif found:
            ((value, statement),) = found.items()
            by = statement.by
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
    """Yield what the name of a product states."""
    if product is None:
        return
    by = f"product name, {product.words}"
    yield Statement(quantity="level", value=product.level, by=by)
    if product.dn_offset is not None:
        yield Statement(quantity="dn_offset", value=product.dn_offset, by=by)


def by_name(
    settings: OwnRasters,
    path: PurePath,
    said: Sequence[Statement],
    tags: Sequence[Statement],
    *,
    whole: bool,
) -> Iterator[Statement]:
    """Yield what the name of a file's product states in addition to other sources.

    Args:
        settings: of the data.
        path: of the file.
        said: statements of the source that names the file, which knows later processing better.
        tags: statements of the file itself.
        whole: whether the file holds whole numbers, as products do.

    Raises:
        ContradictionError: names contradict each other, or the offset belongs to numbers that have
            been rescaled since.
    """
    try:
        statements = list(named(product_in(path)))
    except DataError as error:
        if settings.level is not None and settings.dn_offset is not None:
            return
        raise ContradictionError(
            "lies in the folder of another product, or has two product names",
            expected="one level and one baseline",
            remedy="set data.level and data.dn_offset to the right values",
        ) from error
    known = {statement.quantity: statement.value for statement in (*tags, *said)}
    better = {statement.quantity for statement in said}
    scale = float(settings.scale or known.get("scale", PRODUCT_SCALE))
    for statement in statements:
        if statement.quantity in better:
            continue
        if statement.quantity == "level" or not (statement.value and "dn_offset" in known):
            changed = statement.value and statement.quantity == "dn_offset"
            if changed and settings.dn_offset is None and not (whole and scale == PRODUCT_SCALE):
                raise ContradictionError(
                    f"contains {'whole' if whole else 'fractional'} numbers of scale {scale:g}",
                    expected=f"the whole numbers of scale {PRODUCT_SCALE:g} of its "
                    f"{statement.by}, which take an offset of {statement.value:g}",
                    remedy="set data.dn_offset: 0 if the offset has been removed from these "
                    "numbers",
                )
            yield statement
        else:
            # The tags give an offset at their scale, whatever the settings say.
            unit = float(known.get("scale", scale))
            value = round(float(statement.value) * unit / PRODUCT_SCALE, 6)
            yield Statement(quantity="dn_offset", value=value, by=statement.by)


def by_file(
    settings: Rasters, tags: Mapping[str, str], scales: Sequence[tuple[float, float]]
) -> Iterator[Statement]:
    """Yield what a file states in its tags.

    Args:
        settings: of the data.
        tags: metadata; only the tags that GDAL copies from products count.
        scales: the different pairs of factor and addend of its bands.

    Raises:
        ContradictionError: its bands differ, or the factor does not convert to reflectance.
    """
    level = re.fullmatch(r"L(?:evel-)?(1C|2A)p?", tags.get("PROCESSING_LEVEL", ""), re.IGNORECASE)
    if level:
        yield Statement(quantity="level", value=f"L{level[1].upper()}", by="tag PROCESSING_LEVEL")
    baseline = re.fullmatch(r"(\d\d)\.(\d\d)", tags.get("PROCESSING_BASELINE", ""))
    offset = offset_from((int(baseline[1]), int(baseline[2]))) if baseline else None
    if len(scales) > 1 and (settings.scale is None or settings.dn_offset is None):
        raise ContradictionError(
            f"has bands with {len(scales)} scales and offsets in its tags",
            remedy="set data.scale and data.dn_offset, or data.bands to bands with the same tags",
        )
    factor, addend = scales[0] if len(scales) == 1 else (1.0, 0.0)
    by = "scale and offset tags"
    if not 0 < factor <= 1:
        if settings.scale is not None and settings.dn_offset is not None:
            return
        raise ContradictionError(
            f"has the scale tag {factor:g}",
            expected="reflectance per digital number, such as 0.0001",
            remedy="set data.scale and data.dn_offset, or correct the tag",
        )
    if factor != 1:
        yield Statement(quantity="scale", value=round(1 / factor, 6), by=by)
        yield Statement(quantity="dn_offset", value=round(addend / factor, 6) + 0.0, by=by)
    elif addend:
        # With a scale of 1 the offset may be in digital numbers: reflectance is below 1.
        unit = 1.0 if abs(addend) >= 1 else settings.scale or PRODUCT_SCALE
        yield Statement(quantity="dn_offset", value=round(addend * unit, 6), by=by)
    elif offset is not None:
        yield Statement(quantity="dn_offset", value=offset, by="tag PROCESSING_BASELINE")


def _text(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"
