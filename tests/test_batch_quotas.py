"""Quotas of classes and regions; the oracle is a loop that looks at all that was taken before."""

from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from rs_lowconf.batch.quotas import ELSEWHERE, regions_of, within_quotas
from rs_lowconf.errors import DataError

limits = st.none() | st.integers(1, 4)
# Quarters of degrees, whose cells are the same however they are computed.
tiles = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.integers(-720, 720).map(lambda quarters: quarters / 4),
        st.integers(-360, 360).map(lambda quarters: quarters / 4),
    ),
    max_size=40,
)


def chosen(own: list[tuple[str, float, float]], **quotas: Any) -> list[int]:
    """Return the indices that the function under test takes."""
    return within_quotas(
        [name for name, _, _ in own],
        np.array([x for _, x, _ in own]),
        np.array([y for _, _, y in own]),
        **quotas,
    )


@given(tiles, limits, limits, st.sampled_from([0.5, 30.0, 200.0]))
def test_each_is_taken_unless_its_class_or_region_is_full(
    own: list[tuple[str, float, float]],
    per_class: int | None,
    per_region: int | None,
    degrees: float,
) -> None:
    """Tile by tile, what is taken is what a loop over all taken before says."""
    found = chosen(own, per_class=per_class, per_region=per_region, regions=degrees)
    for index, (name, x, y) in enumerate(own):
        before = [own[i] for i in found if i < index]
        alike = sum(other == name for other, _, _ in before)
        near = sum(
            (a // degrees, b // degrees) == (x // degrees, y // degrees) for _, a, b in before
        )
        full = (per_class is not None and alike >= per_class) or (
            per_region is not None and near >= per_region
        )
        assert (index in found) == (not full)
    assert found == sorted(found)


@given(tiles, limits, limits, st.integers(0, 40))
def test_what_comes_later_changes_nothing(
    own: list[tuple[str, float, float]], per_class: int | None, per_region: int | None, some: int
) -> None:
    """The first tiles alone give the first of what all give."""
    quotas = {"per_class": per_class, "per_region": per_region, "regions": 30.0}
    whole = chosen(own, **quotas)
    assert chosen(own[:some], **quotas) == [i for i in whole if i < some]


@pytest.fixture
def regions(tmp_path: Path) -> Path:
    """Return a file, in metres, of two regions that overlap and one without a name."""
    boxes = [shapely.box(10, 40, 12, 42), shapely.box(11, 40, 13, 42), shapely.box(0, 0, 1, 1)]
    frame = geopandas.GeoDataFrame({"name": ["west", "east", None]}, geometry=boxes, crs=4326)
    frame.to_crs("EPSG:3857").to_file(tmp_path / "regions.gpkg")
    return tmp_path / "regions.gpkg"


def test_regions_of_a_file(regions: Path) -> None:
    """A place is in the first region that holds it, and elsewhere where none does."""
    lon = np.array([10.5, 11.5, 12.5, 20.0, 0.5])
    lat = np.array([41.0, 41.0, 41.0, 41.0, 0.5])
    assert regions_of(lon, lat, regions) == ["west", "west", "east", ELSEWHERE, ELSEWHERE]
    own = [("a", float(x), float(y)) for x, y in zip(lon, lat, strict=True)]
    assert chosen(own, per_class=None, per_region=1, regions=regions) == [0, 2, 3]


@pytest.mark.parametrize("fault", ["missing", "damaged", "unnamed", "shapeless", "nowhere"])
def test_files_that_are_no_regions(tmp_path: Path, fault: str) -> None:
    """What cannot be used is refused with what was expected."""
    path = tmp_path / "regions.shp"
    frame = geopandas.GeoDataFrame({"name": ["a"]}, geometry=[shapely.box(0, 0, 1, 1)], crs=4326)
    if fault == "damaged":
        path.write_bytes(b"no shapes")
    if fault == "unnamed":
        frame.rename(columns={"name": "title"}).to_file(path)
    if fault == "shapeless":
        path = tmp_path / "regions.csv"
        path.write_text("name\na\n")
    if fault == "nowhere":
        frame.to_file(path)
        path.with_suffix(".prj").unlink()
    with pytest.raises(DataError, match="expected a vector file of polygons"):
        regions_of(np.zeros(1), np.zeros(1), path)
