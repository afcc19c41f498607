"""Bands by name: spelling, order, selection."""

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rs_lowconf.bands import (
    EUROSAT_ORDER,
    NEAR_INFRARED,
    RESOLUTION_M,
    SHORT_WAVE_INFRARED,
    TRUE_COLOUR,
    WAVELENGTH_NM,
    BandSpec,
    canonical_name,
)
from rs_lowconf.errors import DataError

band_orders = st.permutations(EUROSAT_ORDER).flatmap(
    lambda names: st.integers(1, 13).map(lambda count: tuple(names[:count]))
)


def spellings(name: str) -> list[str]:
    """Spell a band as pretrained weights, ESA, GDAL users and file descriptions do."""
    core = name[1:].lstrip("0")
    return [
        name,
        name.lower(),
        f"B{core}",
        f"b{core.lower()}",
        f"B0{core}",
        f" {name} (10 m)",
        f"B{core}, reflectance",
    ]


@given(st.sampled_from(EUROSAT_ORDER), st.integers(0, 6))
def test_every_spelling_means_the_same_band(name: str, which: int) -> None:
    """However a band is spelled, its name becomes the canonical one, and stays it."""
    spelled = spellings(name)[which]
    assert canonical_name(spelled) == name
    assert canonical_name(canonical_name(spelled)) == name


@given(st.text(max_size=8))
def test_any_text_is_a_band_or_a_clear_error(text: str) -> None:
    """Arbitrary text is one of the 13 bands or a `DataError`, never something else."""
    with suppress(DataError):
        assert canonical_name(text) in RESOLUTION_M


@pytest.mark.parametrize(
    "text", ["", "B", "B00", "B13", "B8B", "B2b", "B123", "red", "Band 4", "8"]
)
def test_near_misses_are_refused(text: str) -> None:
    """Texts that only resemble a band are no band."""
    with pytest.raises(DataError):
        canonical_name(text)


def test_tables_speak_of_the_same_bands() -> None:
    """Resolutions, wavelengths, EuroSAT's order and the composites know the same 13 bands."""
    assert set(RESOLUTION_M) == set(WAVELENGTH_NM) == set(EUROSAT_ORDER)
    assert {*TRUE_COLOUR, *NEAR_INFRARED, *SHORT_WAVE_INFRARED} <= set(RESOLUTION_M)
    # ESA's order, which RESOLUTION_M keeps, is that of wavelength but for the three 60 m bands.
    own = [WAVELENGTH_NM[name] for name in RESOLUTION_M]
    assert own == sorted(own)
    assert len(EUROSAT_ORDER) == len(set(EUROSAT_ORDER)) == 13
    assert EUROSAT_ORDER[-1] == "B8A"


@given(band_orders, st.randoms())
def test_index_of_reorders_like_a_dictionary(names: tuple[str, ...], dice: object) -> None:
    """Picking `index_of(wanted)` from an array gives what looking up each band by name gives."""
    spec = BandSpec(names=names, level="L1C")
    values = np.arange(len(names)) * 10
    table = dict(zip(names, values, strict=True))
    wanted = list(names)
    dice.shuffle(wanted)  # type: ignore[attr-defined]  # hypothesis does not export its Random
    assert [values[i] for i in spec.index_of(wanted)] == [table[name] for name in wanted]
    assert spec.select(wanted).names == tuple(wanted)
    assert spec.select(wanted).select(names) == spec


@given(band_orders, st.sampled_from(["L1C", "L2A"]), st.floats(1, 1e5), st.floats(-2000, 2000))
def test_json_round_trip(names: tuple[str, ...], level: str, scale: float, offset: float) -> None:
    """What `to_json` writes, `from_json` reads back unchanged."""
    spec = BandSpec(names=names, level=level, scale=scale, dn_offset=offset)  # type: ignore[arg-type]  # drawn from both
    assert BandSpec.from_json(spec.to_json()) == spec


def test_missing_bands_are_named() -> None:
    """Asking for a band that is not there says which it is and which there are."""
    spec = BandSpec(names=("B02", "B03"), level="L2A")
    with pytest.raises(DataError, match=r"B10.*B02, B03"):
        spec.index_of(["B2", "B10"])


@pytest.mark.parametrize(
    "change",
    [
        {"names": ()},
        {"names": ("B02", "B2")},
        {"names": ("B8A", "B08a")},
        {"scale": 0.0},
        {"scale": float("nan")},
    ],
)
def test_contradictions_are_refused(change: dict[str, object]) -> None:
    """A description of bands is checked when it is made."""
    with pytest.raises(DataError):
        BandSpec(**{"names": ("B02",), "level": "L1C", **change})  # type: ignore[arg-type]  # wrong on purpose
