"""Vocabularies: one form per name, whatever the origin; near-misses refused, the rest listed."""

import unicodedata
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rs_lowconf.errors import DataError, ModelError, RsLowconfError
from rs_lowconf.vocabulary import (
    Joined,
    _slip,
    class_list,
    class_name,
    join,
    require,
    text_of,
    vocabulary,
)

_NAMES = ["Forest", "Gebäude", "AnnualCrop", "7", "River", "Sea lake", "Öde", "12", "Bare", "<50 %"]
law = settings(deadline=None, max_examples=80)
names = st.lists(st.sampled_from(_NAMES), unique=True, max_size=8)
written = st.text("aB0.1+- ?\t\ufeff\u0308\u00a0\u00e4\u03c2", max_size=6)
anything = st.one_of(st.none(), written, st.integers(), st.floats(), st.booleans())


def outcome(left: Sequence[object], right: Sequence[object]) -> Joined | str:
    """Return how two lists meet, or why they do not."""
    try:
        return join(vocabulary("one", left), vocabulary("the other", right)).meeting()
    except DataError as error:
        return str(error)


@law
@given(anything)
def test_a_name_is_brought_into_its_form_once(value: object) -> None:
    """Naming what is named already changes nothing."""
    name = class_name(value)
    assert class_name(name) == name


@law
@given(st.sampled_from(_NAMES), st.sampled_from(["", " ", "\t", "\u00a0", "\ufeff", "\u200b"]))
def test_blanks_and_composition_do_not_count(name: str, around: str) -> None:
    """However a tool pads or composes a name, it is the same; bytes are UTF-8."""
    for form in ("NFC", "NFD"):
        written = f"{around}{unicodedata.normalize(form, name)}{around}"
        assert class_name(written) == class_name(written.encode()) == name


@law
@given(st.integers(-(2**52), 2**52))
def test_a_whole_number_is_the_same_however_a_library_holds_it(number: int) -> None:
    """Integers, floats beside an empty row, and either as text are one name."""
    said = {number, float(number), np.int64(number), np.float64(number), str(number)}
    assert {class_name(one) for one in said} == {str(number)}
    assert class_name(str(float(number))) == str(number) or "e" in str(float(number))
    assert text_of(float(number)) == str(number)


@pytest.mark.parametrize("value", [None, float("nan"), np.float32("nan"), "", "  ", "?", " ? "])
def test_nothing_and_a_question_mark_are_unknown(value: object) -> None:
    """What says nothing is no class."""
    assert class_name(value) is None
    assert vocabulary("a list", [value, "Bare"]).names == ("Bare",)


@law
@given(names, names)
def test_meeting_does_not_depend_on_side_or_order(left: list[str], right: list[str]) -> None:
    """Joined sets are those of sets, and the same from both sides and in any order."""
    there, back = outcome(left, right), outcome(right[::-1], left[::-1])
    if isinstance(there, str) or isinstance(back, str):
        assert left
        assert right
        assert not set(left) & set(right)
        assert type(there) is type(back)
        return
    assert set(there.both) == set(back.both) == set(left) & set(right)
    assert set(there.left_only) == set(back.right_only) == set(left) - set(right)
    assert set(there.right_only) == set(back.left_only) == set(right) - set(left)
    assert set(there.either) == set(left) | set(right)
    for name in {*there.left_only, *there.right_only}:
        assert name in there.remark
    assert bool(there.remark) == (set(left) != set(right))


@pytest.mark.parametrize(
    ("ours", "theirs", "difference"),
    [
        ("forest", "Forest", "case"),
        ("Annual Crop", "AnnualCrop", "blanks or punctuation"),
        ("Annual_Crop", "Annual-Crop", "blanks or punctuation"),
        ("For\u200best", "Forest", "blanks or punctuation"),
        ("Gebaude", "Gebäude", "accents or ligatures"),
        ("\ufb01eld", "field", "accents or ligatures"),
        ("annual crop", "AnnualCrop", "case, punctuation or accents"),
        ("01", "1", "how the number is written"),
        ("+1", "1", "how the number is written"),
        ("Forst", "Forest", "one letter"),
        ("Residental area", "Residential area", "one letter"),
        ("Pastrue", "Pasture", "one letter"),
    ],
)
def test_a_near_miss_is_refused_with_the_pair(ours: str, theirs: str, difference: str) -> None:
    """Either guess would give wrong figures, so both names, their origins and why are named."""
    for pair in ((ours, theirs), (theirs, ours)):
        found = outcome([pair[0], "Water"], [pair[1], "Water"])
        assert isinstance(found, str)
        for part in (
            *map(repr, pair),
            "in one and",
            "in the other",
            f"differ only in {difference}",
        ):
            assert part in found
        assert "rename one of them" in found


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("Class10", "Class11"),
        ("Crop 1", "Crop 2"),
        ("1", "-1"),
        ("<50 %", ">50 %"),
        ("Gain+", "Gain<"),
        ("Peach", "Beach"),
        ("Urban", "Built-up"),
        ("1", "2"),
        ("森林", "森"),
    ],
)
def test_other_classes_are_not_taken_for_misspelt_ones(ours: str, theirs: str) -> None:
    """Numbers, signs and short words tell classes apart; they are listed."""
    found = outcome([ours, "Water"], [theirs, "Water"])
    assert isinstance(found, Joined)
    assert (found.left_only, found.right_only) == ((ours,), (theirs,))
    assert found.remark == f"Classes: only one name {ours}; only the other name {theirs}."


def test_a_letter_counts_only_where_both_names_stand_alone() -> None:
    """Where one origin knows both names, they are two classes."""
    assert isinstance(outcome(["Soil type A", "Wetland"], ["Wetland", "Soil type A"]), Joined)
    assert isinstance(outcome(["Pasture", "Pastures"], ["Pasture"]), Joined)
    assert isinstance(outcome(["Pastures", "Water"], ["Pasture", "Water"]), str)


def test_one_list_with_two_spellings_is_refused() -> None:
    """Half of the rows written otherwise would be a class of their own."""
    with pytest.raises(DataError, match="'Forest' and 'forest' in the labels differ only in case;"):
        vocabulary("the labels", ["Forest", "forest"])


def test_vocabularies_without_a_common_class_are_refused() -> None:
    """Names against numbers of outputs would be 100 % errors."""
    found = outcome(["Forest", "River"], [0, 1])
    assert isinstance(found, str)
    assert "one name Forest, River, and the other 0, 1: no class in common" in found
    assert isinstance(outcome([], ["Forest"]), Joined)


def test_a_map_merges_classes_and_settles_near_misses() -> None:
    """Many names become one; a name that is mapped to itself is a class of its own."""
    merged = {"Residential": "Urban", "Industrial": "Urban"}
    left = vocabulary("one", ["Residential", "Industrial ", "Water"], class_map=merged)
    assert left.names == ("Urban", "Water")
    assert join(left, vocabulary("two", ["Urban", "Water"]), class_map=merged).remark == ""
    own = {"Pastures": "Pastures"}
    both = vocabulary("one", ["Pastures", "Water"]), vocabulary("two", ["Pasture", "Water"])
    assert join(*both, class_map=own).left_only == ("Pastures",)
    with pytest.raises(DataError):
        join(*both)


@law
@given(names.filter(bool), names.filter(bool))
def test_required_names_have_their_positions(wanted: list[str], known: list[str]) -> None:
    """Every wanted name is found where it stands, or named as unknown."""
    ours, theirs = vocabulary("the settings", wanted), vocabulary("the model", known)
    unknown = set(wanted) - set(known)
    if not unknown:
        places = require(ours, theirs, remedy="correct it")
        assert [known[place] for place in places] == wanted
        return
    with pytest.raises(ModelError) as refused:
        require(ours, theirs, remedy="correct it", error=ModelError)
    assert all(name in str(refused.value) for name in unknown)
    assert str(refused.value).endswith("; correct it.")


def test_a_list_of_outputs_keeps_its_positions() -> None:
    """Unknown, repeated and nearly equal names are refused, because a position would be lost."""
    assert class_list("the outputs", [0.0, "1.0", " Bare"]).names == ("0", "1", "Bare")
    for values in (["Bare", "Bare "], ["Bare", "?"], ["Bare", ""], ["Bare", "bare"]):
        with pytest.raises(RsLowconfError):
            class_list("the outputs", values)


def test_bytes_of_another_encoding_are_refused() -> None:
    """A name in Latin-1 is one line, not a class called after its bytes."""
    with pytest.raises(DataError, match="is not UTF-8 text"):
        class_name("Müll".encode("latin-1"))


@law
@given(st.text("abcdef", min_size=6, max_size=8), st.text("abcdef", min_size=6, max_size=8))
def test_slips_are_those_of_an_edit_distance(a: str, b: str) -> None:
    """A slip is an optimal string alignment distance of 1, computed here by its recurrence."""
    assume(a != b)
    far = np.add.outer(np.arange(len(a) + 1), np.arange(len(b) + 1))
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            ways = [far[i - 1, j] + 1, far[i, j - 1] + 1]
            ways.append(far[i - 1, j - 1] + (a[i - 1] != b[j - 1]))
            if i > 1 and j > 1 and a[i - 2 : i] == b[j - 2 : j][::-1]:
                ways.append(far[i - 2, j - 2] + 1)
            far[i, j] = min(ways)
    assert _slip(a, b) == _slip(b, a) == (far[-1, -1] == 1)


@law
@given(st.text("abcdef", min_size=6, max_size=9), st.data())
def test_every_slip_of_the_keyboard_is_found(word: str, data: st.DataObject) -> None:
    """A letter left out, doubled, wrong or swapped is noticed wherever it stands."""
    place = data.draw(st.integers(0, len(word) - 2))
    slips = [
        word[:place] + word[place + 1 :],
        word[:place] + word[place] + word[place:],
        word[:place] + "x" + word[place + 1 :],
        word[:place] + word[place + 1] + word[place] + word[place + 2 :],
    ]
    assert all(_slip(word, slip) for slip in slips if slip != word)
