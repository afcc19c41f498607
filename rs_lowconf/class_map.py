"""Which classes of a target and of data mean the same: `target.class_map`.

A target may name fewer classes than the generator and the data, or more. Everything keeps the words
of whoever named it: conditions, labels, masks, review forms, answers and releases those of the
data, predictions those of the target. Only here they are compared, by the common name that the map
gives to each, many to one. Names that the map lacks stand for themselves, so an empty map compares
as `vocabulary.join` does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rs_lowconf.errors import DataError, RsLowconfError, SettingsError
from rs_lowconf.vocabulary import Joined, Vocabulary, class_name, join, some_of, vocabulary

_SETTING = "target.class_map"


@dataclass(frozen=True, kw_only=True)
class ClassMap:
    """Common names of classes.

    Example:
        >>> water = ClassMap.of({"River": "water", "SeaLake": "water"})
        >>> water.same("River", "water"), water.same("Forest", "water")
        (True, False)
        >>> water.places("SeaLake", ("built", "water"))
        (1,)
    """

    names: Mapping[str, str] = field(default_factory=dict)
    """The common name of a class of the target or of the data; both in the form of
    `vocabulary.class_name`. A name that is mapped to itself is a class of its own."""

    @classmethod
    def of(cls, given: Mapping[str, str]) -> "ClassMap":
        """Return a map with its names normalised.

        Raises:
            SettingsError: a name is unknown or mapped twice, or a common name is mapped on, or is
                nearly the same as another.
        """
        names: dict[str, str] = {}
        for left, right in given.items():
            name, common = class_name(left), class_name(right)
            if name is None or common is None:
                raise SettingsError(
                    f"{left!r} is mapped to {right!r}, and one of them stands for unknown",
                    expected="names of classes",
                )
            if name in names:
                raise SettingsError(f"{name} is mapped twice", expected="one common name per class")
            names[name] = common
        for name, common in names.items():
            further = names.get(common, common)
            if further != common:
                raise SettingsError(
                    f"{name} is mapped to {common}, and {common} to {further}",
                    expected="one step from each class to its common name",
                    remedy=f"map both to {further}",
                )
        vocabulary("the common names", names.values(), class_map=names, error=SettingsError)
        return cls(names=names)

    @property
    def text(self) -> str:
        """Return the common names, each with the names that it stands for; empty without a map."""
        members: dict[str, list[str]] = {}
        for name, common in self.names.items():
            members.setdefault(common, []).append(name)
        return "; ".join(f"{common}: {', '.join(names)}" for common, names in members.items())

    def common(self, name: str) -> str:
        """Return the common name of a class."""
        return self.names.get(name, name)

    def commons(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return the common names of classes, each once, in the order of the first of each."""
        return tuple(dict.fromkeys(map(self.common, names)))

    def same(self, label: str | None, predicted: str | None) -> bool:
        """Return whether a class of the data and one of the target mean the same."""
        left, right = (None if one is None else self.common(one) for one in (label, predicted))
        return left == right

    def places(self, label: str, classes: Sequence[str]) -> tuple[int, ...]:
        """Return the positions of the target's classes that mean a class of the data.

        Args:
            label: class of the data.
            classes: of the target, in the order of its outputs.

        Returns:
            Several where the target names more classes than the data; none where it has no such
            class.
        """
        return tuple(i for i, name in enumerate(classes) if self.same(label, name))

    def in_words_of_data(
        self, names: Sequence[str], target_classes: Sequence[str]
    ) -> tuple[str, ...]:
        """Return the classes that reviewers choose among in place of the target's.

        Args:
            names: classes of the target, or their common names.
            target_classes: all of the target, which are no names of the data.

        Returns:
            For each name the classes of the data that the map gives it, or else its common name;
            then the other classes of the data in the map.
        """
        ours = {name: to for name, to in self.names.items() if name not in target_classes}
        found: dict[str, None] = {}
        for common in map(self.common, names):
            found |= dict.fromkeys([name for name, to in ours.items() if to == common] or [common])
        return tuple(found | dict.fromkeys(ours))

    def check(self, target: Vocabulary) -> None:
        """Check that the common names are among those of a target.

        Args:
            target: all its classes.

        Raises:
            SettingsError: a class is mapped to a name that no class of the target has.
        """
        known = self.commons(target.names)
        wrong = [name for name, to in self.names.items() if to != name and to not in known]
        if wrong:
            raise SettingsError(
                f"{_SETTING} maps {wrong[0]} to {self.names[wrong[0]]}, which {target.origin} "
                "does not name",
                expected=f"one of {some_of(known)}",
                remedy="correct it, or map classes of the target to it, too",
            )

    def meet(
        self,
        data: Vocabulary,
        target: Vocabulary,
        *,
        error: type[RsLowconfError] = DataError,
    ) -> Joined:
        """Compare the classes of data with those of a target, by their common names.

        Args:
            data: classes of a generator, labels, masks or a release; of labels, those that occur.
            target: classes of the target, or those of its predictions that occur.
            error: class of the error of names that are nearly the same.

        Raises:
            error: see `vocabulary.join`.
            SettingsError: there is a map, and it says nothing about a class of the data that the
                target does not name.
        """
        if not self.names:
            return join(data, target, error=error)
        ours, theirs = (
            vocabulary(side.origin, side.names, class_map=self.names, error=error)
            for side in (data, target)
        )
        said = {*self.names, *self.names.values(), *theirs.names}
        homeless = [name for name in data.names if name not in said]
        if homeless:
            raise SettingsError(
                f"{_SETTING} lacks {some_of(homeless)} of {data.origin}, and {target.origin} does "
                "not name it either",
                expected=f"a common name for every class of {data.origin}",
                remedy=f"map it to one of {some_of(theirs.names)}, or to itself where the target "
                "has no such class",
            )
        return join(ours, theirs, class_map=self.names, error=error)

    def meet_all(
        self, data: Sequence[Vocabulary], target: Vocabulary, *, error: type[RsLowconfError]
    ) -> Joined:
        """Compare all classes that there are with a target, so that the map may have no others.

        Args:
            data: all classes of the generator, then those of data beside it.
            target: all classes of the target.
            error: class of the error of names that are nearly the same.

        Raises:
            error: see `vocabulary.join`.
            SettingsError: see `check` and `meet`; or the map has a name that nobody has.
        """
        known = {name for side in (*data, target) for name in side.names}
        strange = [name for name in self.names if name not in known]
        if strange:
            origins = ", ".join(side.origin for side in (target, *data))
            raise SettingsError(
                f"{_SETTING} maps {some_of(strange)}, which none of {origins} names",
                expected=f"some of {some_of(data[0].names)}",
                remedy="correct it, or leave it out",
            )
        self.check(target)
        found = self.meet(data[0], target, error=error)
        if self.names:  # reviewers may choose among those of the others, too
            for further in data[1:]:
                self.meet(further, target, error=error)
        return found


PLAIN = ClassMap()
"""No map: classes of one name mean the same."""
