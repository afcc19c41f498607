"""Names of classes from several origins: how each is written, and whether they mean the same.

Labels, predictions, surrogates, conditions, folders, masks, settings and reviews all name classes,
and a comparison as raw text would find `Bare ` and `Bare` different and count every such tile as an
error. So each name is normalised where it is read (`class_name`), and names of two origins are
compared only here (`join`, `require`):

* * the same name: surrounding blanks, Unicode composition and the `.0` of a whole number are
ignored; * * unknown: an empty name, and `?`, which this package writes for unclear classes;
* nearly the same name, such as `forest` and `Forest`: an error, because only people know whether
they mean one class, and either guess could give wrong figures; * a name that only one origin has:
listed, because a rare class may well be missing.

A map from names to names merges classes, many to one, and resolves nearly equal names: a name that
it maps to itself is a separate class.
"""

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from numbers import Integral, Real

from rs_lowconf.errors import DataError, RsLowconfError

UNCLEAR = "?"
"""Entry for an unclear class in tables and forms."""

_WHOLE = re.compile(r"([+-]?\d+)\.0*")
_WORD = 6
"""Word length from which a single differing letter counts as a typo: `Forst`, but not `peach` and
`beach`."""
_LISTED = 12

Renames = Mapping[str, str]
"""Common names of classes by name, both normalised; see `class_map.ClassMap`."""


def text_of(value: object) -> str | None:
    """Return a cell of a table as text, None where it is empty.

    Libraries turn whole numbers into 1.0 if another row is empty; here they become whole again.

    Raises:
        DataError: the cell contains bytes that are not UTF-8.
    """
    if value is None:
        return None
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise DataError(f"{value!r} is not UTF-8 text") from error
    if isinstance(value, Real) and not isinstance(value, Integral):
        number = float(value)
        if math.isnan(number):
            return None
        return str(int(number)) if number.is_integer() else str(value)
    return str(value)


def class_name(value: object, class_map: Renames | None = None) -> str | None:
    """Return the normalised name of a class; None for unknown.

    Args:
        value: a cell of a table, the name of a folder, a setting.
        class_map: new names by name, both normalised.

    Example:
        >>> class_name(" Bare "), class_name(1.0), class_name("1.0"), class_name("?")
        ('Bare', '1', '1', None)
    """
    name = _compared(text_of(value) or "")
    return name if class_map is None or name is None else class_map.get(name, name)


@lru_cache(maxsize=10_000)  # a column of a million rows has few names
def _compared(text: str) -> str | None:
    name = _stripped(unicodedata.normalize("NFC", text))
    whole = _WHOLE.fullmatch(name)
    name = whole[1] if whole else name
    return None if name in ("", UNCLEAR) else name


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The class names of one origin."""

    origin: str
    """Their origin, as text that follows a name: `the labels of val.csv`."""
    names: tuple[str, ...]
    """In the form of `class_name`, each once."""


def vocabulary(
    origin: str,
    values: Iterable[object],
    *,
    class_map: Renames | None = None,
    error: type[RsLowconfError] = DataError,
) -> Vocabulary:
    """Return the names among values in the order of their first occurrence, without unknown ones.

    Raises:
        error: two of them are nearly the same.
    """
    names = dict.fromkeys(class_name(value, class_map) for value in values)
    found = Vocabulary(origin=origin, names=tuple(name for name in names if name is not None))
    _refuse(_alike(found, found), class_map, error)
    return found


def class_list(
    origin: str, values: Sequence[object], *, error: type[RsLowconfError] = DataError
) -> Vocabulary:
    """Return a list of classes whose order matters, such as that of outputs.

    Raises:
        error: a name is unknown, occurs twice, or is nearly the same as another.
    """
    names = [class_name(value) for value in values]
    for value, name in zip(values, names, strict=True):
        if name is None or names.count(name) > 1:
            why = "which stands for unknown" if name is None else "more than once"
            raise error(f"{origin} list {value!r}, {why}", expected="a distinct name per class")
    return vocabulary(origin, names, error=error)


@dataclass(frozen=True, kw_only=True)
class Joined:
    """Two vocabularies, none of whose names are nearly the same."""

    left: Vocabulary
    right: Vocabulary

    @property
    def both(self) -> tuple[str, ...]:
        """Return the names that both have."""
        return tuple(name for name in self.left.names if name in self.right.names)

    @property
    def either(self) -> tuple[str, ...]:
        """Return all names, those of the left first."""
        return tuple(dict.fromkeys((*self.left.names, *self.right.names)))

    @property
    def left_only(self) -> tuple[str, ...]:
        """Return the names that the right lacks."""
        return tuple(name for name in self.left.names if name not in self.right.names)

    @property
    def right_only(self) -> tuple[str, ...]:
        """Return the names that the left lacks."""
        return tuple(name for name in self.right.names if name not in self.left.names)

    def meeting(self, error: type[RsLowconfError] = DataError) -> "Joined":
        """Return the same after checking that they have a class in common.

        Raises:
            error: both have classes, but none in common.
        """
        left, right = self.left, self.right
        if left.names and right.names and not self.both:
            raise error(
                f"{left.origin} name {some_of(left.names)}, and {right.origin} "
                f"{some_of(right.names)}: no class in common",
                expected="the same names for the same classes",
                remedy="use the same names in both",
            )
        return self

    @property
    def remark(self) -> str:
        """Return the names on one side only, as a sentence; empty if there are none."""
        sides = ((self.left.origin, self.left_only), (self.right.origin, self.right_only))
        sides_only = [f"only {origin} name {some_of(names)}" for origin, names in sides if names]
        return f"Classes: {'; '.join(sides_only)}." if sides_only else ""


def join(
    left: Vocabulary,
    right: Vocabulary,
    *,
    class_map: Renames | None = None,
    error: type[RsLowconfError] = DataError,
) -> Joined:
    """Compare two vocabularies.

    Args:
        left: of one origin.
        right: of another.
        class_map: that both were made with; its names are not compared.
        error: class of the error.

    Raises:
        error: a name of one is nearly a name of the other: it differs in case, in blanks or
            punctuation, in accents, in how a number is written, or, if neither occurs on the other
            side, in one letter.

    Example:
        >>> ours = vocabulary("the labels", ["Bare ", "Urban"])
        >>> theirs = vocabulary("the predictions", ["Bare", "Water"])
        >>> join(ours, theirs).remark
        'Classes: only the labels name Urban; only the predictions name Water.'
    """
    found = Joined(left=left, right=right)
    pairs = _alike(left, right) or [
        (a, left.origin, b, right.origin, "one letter")
        for a in found.left_only
        for b in found.right_only
        if _slip(a, b)
    ]
    _refuse(pairs, class_map, error)
    return found


def require(
    wanted: Vocabulary,
    known: Vocabulary,
    *,
    remedy: str,
    error: type[RsLowconfError] = DataError,
    class_map: Renames | None = None,
) -> tuple[int, ...]:
    """Return the position in `known` of each name in `wanted`.

    Raises:
        error: see `join`; or a name is unknown there.
    """
    _refuse(_alike(wanted, known), class_map, error)
    unknown = [name for name in wanted.names if name not in known.names]
    if unknown:
        near = [(a, b) for a in unknown for b in known.names if _slip(a, b)]
        hint = f" (like {near[0][1]!r} but for one letter)" if near else ""
        are = "is" if len(unknown) == 1 else "are"
        raise error(
            f"{wanted.origin}: {some_of(unknown)}{hint} {are} unknown to {known.origin}",
            expected=f"some of {some_of(known.names)}",
            remedy=remedy,
        )
    return tuple(known.names.index(name) for name in wanted.names)


Pair = tuple[str, str, str, str, str]
"""A name and its origin, another one and its origin, and their difference."""


def _alike(left: Vocabulary, right: Vocabulary) -> list[Pair]:
    """Return the pairs of different names that are spelled nearly the same."""
    theirs: dict[object, list[str]] = {}
    for name in right.names:
        theirs.setdefault(_folded(name), []).append(name)
    return [
        (a, left.origin, b, right.origin, _difference(a, b))
        for a in left.names
        for b in theirs.get(_folded(a), ())
        # Within one list each pair comes twice.
        if a != b and (left is not right or a < b)
    ]


def _refuse(pairs: Sequence[Pair], class_map: Renames | None, error: type[RsLowconfError]) -> None:
    settled = class_map or {}
    pairs = [pair for pair in pairs if pair[0] not in settled and pair[2] not in settled]
    if pairs:
        a, origin, b, other, difference = pairs[0]
        where = f"{a!r} in {origin} and {b!r} in {other}"
        if origin == other:
            where = f"{a!r} and {b!r} in {origin}"
        more = f", and {len(pairs) - 1} more" if len(pairs) > 1 else ""
        raise error(
            f"{where} differ only in {difference}{more}",
            expected="one spelling per class",
            remedy="rename one of them, so that they are the same or clearly different",
        )


def _folded(name: str) -> object:
    """Return a key that nearly equal names share."""
    number = _number(name)
    return _plain(_joined(name)).casefold() if number is None else number


def _difference(a: str, b: str) -> str:
    if _number(a) is not None:
        return "how the number is written"
    one_way = {
        "blanks or punctuation": _joined,
        "accents or ligatures": _plain,
        "case": str.casefold,
    }
    return next(
        (what for what, fold in one_way.items() if fold(a) == fold(b)),
        "case, punctuation or accents",
    )


def _number(name: str) -> Decimal | None:
    try:
        number = Decimal(name)
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def _plain(name: str) -> str:
    """Return a name without accents and ligatures."""
    parts = unicodedata.normalize("NFKD", name)
    return "".join(part for part in parts if not unicodedata.combining(part))


def _joined(name: str) -> str:
    """Return a name without blanks, punctuation and invisible characters; keep signs such as <."""
    return "".join(part for part in name if unicodedata.category(part)[0] not in "PZC")


def _stripped(name: str) -> str:
    """Return a name without surrounding blanks and invisible characters such as a BOM."""
    visible = [i for i, part in enumerate(name) if unicodedata.category(part)[0] not in "ZC"]
    return name[visible[0] : visible[-1] + 1] if visible else ""


def _slip(a: str, b: str) -> bool:
    """Return whether words differ by one missing, extra, wrong or swapped letter.

    Numbers of classes, as in `Class10` and `Class11`, do not count as typos.
    """
    words: list[list[str]] = [re.findall(r"[^\W_]+", _plain(name).casefold()) for name in (a, b)]
    if len(words[0]) != len(words[1]):
        return False
    differing = [pair for pair in zip(words[0], words[1], strict=True) if pair[0] != pair[1]]
    if len(differing) != 1:
        return False
    one, other = differing[0]
    if max(len(one), len(other)) < _WORD or any(part.isdigit() for part in one + other):
        return False
    i = next((i for i, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), -1)
    i = min(len(one), len(other)) if i < 0 else i
    wrong, missing = one[i + 1 :] == other[i + 1 :], one[i:] == other[i + 1 :]
    swapped = one[i : i + 2] == other[i : i + 2][::-1] and one[i + 2 :] == other[i + 2 :]
    return wrong or missing or one[i + 1 :] == other[i:] or swapped


def some_of(names: Sequence[str]) -> str:
    """Return names as text; of many the first, and how many more there are."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
