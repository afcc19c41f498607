"""STACs as sources of catalogs. Oracles are rasterio and the reflectance that was drawn."""

import json
import re
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pystac
import pytest
import rasterio
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry
from stac_geoparquet.arrow import parse_stac_items_to_arrow, to_parquet

from rs_lowconf.data.catalog.items import location
from rs_lowconf.data.catalog.reading import read_row, reflectance
from rs_lowconf.data.catalog.rows import CatalogRow, from_table
from rs_lowconf.data.catalog.scan import Account, rows_of
from rs_lowconf.data.catalog.sources import list_images
from rs_lowconf.data.catalog.table import Catalog
from rs_lowconf.data.left_out import LeftOut
from rs_lowconf.errors import DataError
from rs_lowconf.settings import StacData, checked
from tests.conftest import Run
from tests.make_scenes import corner, write
from tests.make_stac import (
    DATE,
    L1C,
    L2A,
    PLACE,
    Drawn,
    copernicus,
    earth_search,
    earth_search_l1c,
    planetary_computer,
    reflectance_of,
    write_root,
)

Draw = Callable[[Path], Drawn]

PUBLIC: dict[str, tuple[Draw, str]] = {
    "earth-search": (earth_search, "L2A"),
    "earth-search-not-applied": (lambda folder: earth_search(folder, applied=False), "L2A"),
    "earth-search-old": (
        lambda folder: earth_search(folder, baseline="02.09", applied=False),
        "L2A",
    ),
    "earth-search-c1": (lambda folder: earth_search(folder, applied=None), "L2A"),
    "earth-search-l1c": (earth_search_l1c, "L1C"),
    "planetary-computer": (planetary_computer, "L2A"),
    "planetary-computer-old": (lambda folder: planetary_computer(folder, baseline="02.12"), "L2A"),
    "copernicus-l2a": (copernicus, "L2A"),
    "copernicus-l1c": (lambda folder: copernicus(folder, level="L1C"), "L1C"),
}


def built(path: Path, **settings: Any) -> tuple[list[CatalogRow], Account]:
    """Return the rows of a STAC, and what was used and left out."""
    own = checked(StacData, {"root": path, "tile_size": 32, **settings})
    account = Account(left_out=LeftOut(skip_bad=own.skip_bad))
    rows = [
        row
        for image in list_images(own, account.left_out)
        for row in rows_of(image, own, "c", account)
    ]
    return rows, account


def by_hand(drawn: Drawn, row: CatalogRow, names: tuple[str, ...]) -> NDArray[np.float64]:
    """Return the reflectance in a tile as a person reads it from the files with rasterio."""
    top, left, height, width = row.window
    bands = []
    for name in names:
        with rasterio.open(drawn.files[name]) as file:
            numbers = file.read(1).astype(float)
            times = round(file.transform.a / 10)
        whole = numbers.repeat(times, 0).repeat(times, 1)
        bands.append(whole[top : top + height, left : left + width])
    return (np.stack(bands) - drawn.added) / 10_000


@pytest.mark.parametrize("name", PUBLIC)
def test_public_stacs(name: str, tmp_path: Path, rslow: Run) -> None:
    """Copies of public items make a catalog whose reflectance is rasterio's, without a setting."""
    draw, level = PUBLIC[name]
    drawn = draw(tmp_path)
    write_root(tmp_path, [drawn.path])
    ran = rslow(
        "catalog", "build", "-s", "data.kind=stac", "-s", f"data.root={tmp_path}/collection.json",
        "-s", "data.tile_size=32", "-s", f"catalog.path={tmp_path}/c.parquet",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    rows = [row for table in Catalog(tmp_path / "c.parquet").tables() for row in from_table(table)]
    names = L2A if level == "L2A" else L1C
    assert len(rows) == 9
    collection = json.loads(drawn.path.read_text())["collection"]
    assert {row.collection for row in rows} == {collection}
    assert all(row.tile_id.startswith(f"{collection}/") for row in rows)
    assert f"9 tiles of {collection}: " in ran.out
    for row in rows:
        assert set(row.bands.names) == set(names)
        assert row.bands.level == level
        assert row.taken == datetime.fromisoformat(DATE)
        found = reflectance(row, read_row(row), row.bands.select(names)).numpy()
        np.testing.assert_allclose(found, by_hand(drawn, row, names), atol=1e-6)
    # Both agree with what was drawn, so the offset is the right one.
    drawn_blue = reflectance_of("B02")
    for row in rows:
        top, left, _, _ = row.window
        found = reflectance(row, read_row(row), row.bands.select(("B02",))).numpy()[0]
        np.testing.assert_allclose(found, drawn_blue[top : top + 32, left : left + 32], atol=1e-6)
    # Everything that the item holds is a band or is named as left out.
    assets = json.loads(drawn.path.read_text())["assets"]
    told = ran.told
    counted = sum(int(n) for n in re.findall(r"left out: (\d+) assets?:", told))
    assert counted == len(assets) - len(names)
    assert f"1 image with level {level} (" in told
    assert f"offset {-drawn.added} (" in told


def test_many_items_and_an_item_collection(tmp_path: Path) -> None:
    """Items of three STACs in one collection, or in one FeatureCollection, give the same tiles."""
    draws = {"a": earth_search, "b": planetary_computer, "c": copernicus}
    for name in draws:
        (tmp_path / name).mkdir()
    drawn = [draw(tmp_path / name) for name, draw in draws.items()]
    linked, _ = built(write_root(tmp_path, [own.path for own in drawn]))
    assert len(linked) == 27
    features = []
    for own in drawn:
        item = json.loads(own.path.read_text())
        for asset in item["assets"].values():
            if asset["href"].startswith("./"):
                asset["href"] = str(own.path.parent / asset["href"])
        features.append(item)
    whole = {"type": "FeatureCollection", "features": features}
    (tmp_path / "items.json").write_text(json.dumps(whole))
    listed, account = built(tmp_path / "items.json")
    assert listed == linked
    assert sum(account.meanings.values()) == 3
    # The same items as a table that stac-geoparquet writes.
    table = parse_stac_items_to_arrow(features)
    to_parquet(table, tmp_path / "items.parquet")
    assert built(tmp_path / "items.parquet")[0] == linked


def test_an_item_alone_and_nested_catalogs(tmp_path: Path) -> None:
    """An item is a STAC of one, and pystac's tree of catalogs leads to it, too."""
    drawn = earth_search(tmp_path)
    alone, _ = built(drawn.path)
    assert len(alone) == 9
    root = pystac.Catalog(id="root", description="root")
    child = pystac.Catalog(id="child", description="child")
    root.add_child(child)
    item = pystac.Item.from_dict(json.loads(drawn.path.read_text()))
    item.clear_links()
    for asset in item.assets.values():
        if asset.href.startswith("./"):
            asset.href = str(tmp_path / asset.href)
    child.add_item(item)
    root.normalize_and_save(str(tmp_path / "tree"), pystac.CatalogType.SELF_CONTAINED)
    nested, _ = built(tmp_path / "tree" / "catalog.json")
    assert nested == alone


def changed(values: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """Return JSON with other values; None takes a key away."""
    own = {**values}
    for name, value in change.items():
        if value is None:
            own.pop(name)
        elif isinstance(value, dict) and isinstance(own.get(name), dict):
            own[name] = changed(own[name], value)
        else:
            own[name] = value
    return own


#: What is wrong with an item of the Planetary Computer, and what the line says of it.
FAULTS: dict[str, tuple[dict[str, Any] | bytes | None, str]] = {
    "gone": (None, "cannot be read"),
    "cut": (b'{"type": "Feature", "id": "S2B_MSIL2A_2023', "cannot be read"),
    "no text": (b"\xff\xfe\x00garbage", "cannot be read"),
    "no item": (b"[1, 2, 3]", "not a STAC item"),
    "empty": (b"{}", "not a STAC item"),
    "no assets": ({"assets": None}, "assets: Field required"),
    "no bands": ({"assets": dict.fromkeys(L2A)}, "no asset of Sentinel-2 bands"),
    "file gone": ({"assets": {"B05": {"href": "gone.tif"}}}, "cannot be opened"),
    "no geometry": ({"geometry": {"coordinates": "here"}}, "invalid geometry"),
    "Landsat": (
        {"properties": {"platform": "landsat-8", "constellation": None}},
        "is of landsat-8",
    ),
    "scale": (
        {"assets": {"B02": {"raster:bands": [{"scale": 10000}]}}},
        "raster:scale 10000",
    ),
    "date": ({"properties": {"datetime": "yesterday"}}, "properties.datetime"),
    "contradiction": (
        {"assets": {"B02": {"raster:bands": [{"scale": 0.0001, "offset": 0}]}}},
        "offset -1000 (s2:processing_baseline 05.09) and 0 (raster extension, B02)",
    ),
    "two products": (
        {"properties": {"s2:product_type": "S2MSI1C"}},
        "has level",
    ),
    "scales differ": (
        {"assets": {"B02": {"raster:bands": [{"scale": 1e-4}]},
                    "B03": {"raster:bands": [{"scale": 2e-4}]}}},
        "has scale",
    ),
    "nodata differs": (
        {"assets": {"B02": {"nodata": 0}, "B03": {"nodata": 65535}}},
        "several values of nodata",
    ),
    "same id": ({"id": "S2B_33TXM_20230701_0_L2A"}, "the id of another item"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FAULTS)
def test_a_bad_item_is_one_line(kind: str, tmp_path: Path, rslow: Run) -> None:
    """One bad item ends the build with one line, or is left out with that line; the rest stays."""
    change, line = FAULTS[kind]
    for name in ("good", "bad"):
        (tmp_path / name).mkdir()
    good, bad = earth_search(tmp_path / "good"), planetary_computer(tmp_path / "bad")
    if change is None:
        bad.path.unlink()
    elif isinstance(change, bytes):
        bad.path.write_bytes(change)
    else:
        bad.path.write_text(json.dumps(changed(json.loads(bad.path.read_text()), change)))
    root = write_root(tmp_path, [good.path, bad.path])
    words = (
        "catalog", "build", "-s", "data.kind=stac", "-s", f"data.root={root}",
        "-s", "data.tile_size=32", "-s", f"catalog.path={tmp_path}/c.parquet",
    )  # fmt: skip
    ran = rslow(*words)
    assert ran.code == 4
    assert len(ran.err.strip().splitlines()) == 1
    ran = rslow(*words, "-s", "data.skip_bad=true")
    assert ran.code == 0, ran.err
    told = ran.told
    assert line in told
    assert "9 tiles of " in told
    assert told.count("WARNING: left out") == 1


@pytest.mark.parametrize(
    ("change", "offset", "scale"),
    [
        ({"raster:bands": [{"offset": -0.1}]}, -1000, 10_000),
        ({"raster:bands": [{"offset": -1000}]}, -1000, 10_000),
        ({"raster:bands": [{"scale": 1.0, "offset": -1000}]}, -1000, 10_000),
        ({"raster:bands": [{"scale": 1.0, "offset": 0.0}]}, 0, 10_000),
        ({"raster:bands": [{"scale": 2e-5, "offset": -0.1}]}, -5000, 50_000),
        ({"raster:bands": [{"scale": 1.0, "offset": 0.0, "data_type": "float32"}]}, 0, 1),
        ({"raster:scale": 1e-4, "raster:offset": -0.1}, -1000, 10_000),
        ({"bands": [{"raster:scale": 1e-4, "raster:offset": -0.1}]}, -1000, 10_000),
        ({"raster:bands": [{"scale": 1e-4, "offset": None}]}, 0, 10_000),
        ({}, 0, 10_000),
    ],
)
def test_scale_and_offset(
    change: dict[str, Any], offset: float, scale: float, tmp_path: Path
) -> None:
    """Fields of STAC 1.0 and 1.1 give scale and offset; an offset may come without a scale."""
    (row,), _ = built(one_band(tmp_path, change))
    assert (row.bands.dn_offset, row.bands.scale) == (offset, scale)


def one_band(folder: Path, change: dict[str, Any], **properties: Any) -> Path:
    """Write an item of one band with other fields, and return its path."""
    write(folder / "a.tif", np.full((32, 32), 2000, np.uint16), corner(*PLACE))
    asset = {"href": "a.tif", "type": "image/tiff", **change}
    item: dict[str, Any] = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "id": "one",
        "geometry": None,
        "links": [],
        "properties": {"datetime": DATE, **properties},
        "assets": {"B04": asset},
    }
    (folder / "item.json").write_text(json.dumps(item))
    return folder / "item.json"


def test_settings_have_the_last_word(tmp_path: Path) -> None:
    """A setting corrects an item, also one that contradicts itself, and also back to a default."""
    contradiction = {"raster:bands": [{"scale": 1e-4, "offset": 0.0}]}
    path = one_band(tmp_path, contradiction, **{"s2:processing_baseline": "05.09"})
    with pytest.raises(DataError, match=r"data\.dn_offset"):
        built(path)
    for value in (-1000.0, 0.0, -500.0):
        (row,), account = built(path, dn_offset=value, scale=20_000.0, level="L2A")
        assert (row.bands.dn_offset, row.bands.scale, row.bands.level) == (value, 20_000, "L2A")
        (why,) = account.meanings
        assert why.count("data.") == 3


@pytest.mark.parametrize(
    ("properties", "offset"),
    [
        ({"s2:processing_baseline": "03.01"}, 0),
        ({"s2:processing_baseline": "04.00"}, -1000),
        ({"s2:processing_baseline": "0510"}, -1000),
        ({"processing:version": "05.11"}, -1000),
        ({"processing:version": "1.4.2"}, 0),
        ({"s2:processing_baseline": "99.99"}, 0),
        (
            {"s2:product_uri": "S2B_MSIL2A_20230701T103629_N0509_R008_T33TXM_20230701T135112.SAFE"},
            -1000,
        ),
        ({"s2:processing_baseline": "05.09", "sentinel:boa_offset_applied": True}, 0),
        ({"s2:processing_baseline": "05.09", "earthsearch:boa_offset_applied": False}, -1000),
    ],
)
def test_baselines(properties: dict[str, Any], offset: float, tmp_path: Path) -> None:
    """From baseline 04.00 on the offset is -1000, unless an item says that it was applied."""
    (row,), _ = built(one_band(tmp_path, {}, **properties))
    assert row.bands.dn_offset == offset


@pytest.mark.parametrize(
    ("properties", "level"),
    [
        ({"processing:level": "L2A"}, "L2A"),
        ({"processing:level": "Level-1C"}, "L1C"),
        ({"s2:product_type": "S2MSI2A"}, "L2A"),
        ({"product:type": "S2MSI2A"}, "L2A"),
        ({"title": "S2A_33TXM_20200101_0_L2A"}, "L2A"),
        ({"processing:level": "L3A"}, "L1C"),
    ],
)
def test_levels(properties: dict[str, Any], level: str, tmp_path: Path) -> None:
    """The level is read from any of the fields that tell it."""
    (row,), _ = built(one_band(tmp_path, {}, **properties))
    assert row.bands.level == level


@pytest.mark.parametrize(
    "change",
    [{"raster:bands": [{"nodata": 65535}]}, {"nodata": 65535}, {"bands": [{"nodata": 65535}]}],
)
def test_nodata_of_the_item(change: dict[str, Any], tmp_path: Path) -> None:
    """What the item alone says is nodata is none of the reflectance, also after the catalog."""
    path = one_band(tmp_path, change)
    pixels = np.full((32, 32), 2000, np.uint16)
    pixels[:, :8] = 65535
    write(tmp_path / "a.tif", pixels, corner(*PLACE))
    rows, account = built(path)
    assert not rows
    assert account.left_out.number("tile") == 1
    (row,), _ = built(path, max_nodata=0.5)
    assert row.valid == 0.75
    np.testing.assert_array_equal(read_row(row).nodata.numpy(), pixels == 65535)


def test_tiles_and_what_is_left_out_make_the_image(tmp_path: Path) -> None:
    """Tiles in the catalog, with nodata and outside the outline are all of the image's tiles."""
    pixels = np.full((96, 160), 2000, np.uint16)
    pixels[:32, :32] = 0
    path = one_band(tmp_path, {})
    write(tmp_path / "a.tif", pixels, corner(*PLACE))
    item = json.loads(path.read_text())
    x, y = PLACE
    box = rasterio.warp.transform_geom(
        "EPSG:32633", "EPSG:4326", shapely.geometry.mapping(shapely.box(x, y - 700, x + 1700, y))
    )
    path.write_text(json.dumps({**item, "geometry": box}))
    rows, account = built(path)
    assert (len(rows), account.left_out.number("tile")) == (9, 6)
    told = Counter(line.split(": ")[1].split(" (")[0] for line in account.left_out.counted())
    assert set(told) == {
        "more nodata than data.max_nodata=0", "centre outside the outline of its image",
    }  # fmt: skip


@pytest.mark.parametrize("ring", ["across", "split", "beyond"])
def test_an_item_across_180_degrees(ring: str, tmp_path: Path) -> None:
    """Tiles on both sides are inside an item's outline, however it is written."""
    path = one_band(tmp_path, {})
    (x,), (y,) = rasterio.warp.transform("EPSG:4326", "EPSG:32760", [180.0], [-16.8])
    write(
        tmp_path / "a.tif", np.full((64, 320), 2000, np.uint16), corner(x - 1600, y), "EPSG:32760"
    )
    west, east, south, north = 179.9, -179.9, -16.9, -16.7
    if ring == "split":
        boxes = [shapely.box(west, south, 180, north), shapely.box(-180, south, east, north)]
        shape: BaseGeometry = shapely.MultiPolygon(boxes)
    else:
        last = east + 360 if ring == "beyond" else east
        shape = shapely.Polygon([(west, south), (last, south), (last, north), (west, north)])
    item = json.loads(path.read_text())
    path.write_text(json.dumps({**item, "geometry": shapely.geometry.mapping(shape)}))
    rows, account = built(path)
    assert len(rows) == 20
    assert account.left_out.number("tile") == 0


@pytest.mark.parametrize(
    ("href", "address", "path"),
    [
        ("./a.tif", "/x/item.json", "/x/a.tif"),
        ("/y/a.tif", "/x/item.json", "/y/a.tif"),
        ("file:///y/a%20b.tif", "/x/item.json", "/y/a b.tif"),
        (
            "https://h/a.tif?sig=x%2Fy",
            "/x/item.json",
            "/vsicurl?url=https%3A%2F%2Fh%2Fa.tif%3Fsig%3Dx%252Fy",
        ),
        ("../a.tif", "https://h/x/item.json", "/vsicurl?url=https%3A%2F%2Fh%2Fa.tif"),
        ("/y/a.tif", "https://h/x/item.json", "/y/a.tif"),
        ("s3://bucket/a/b.jp2", "/x/item.json", "/vsis3/bucket/a/b.jp2"),
        ("/vsicurl/https://h/a.tif", "/x/item.json", "/vsicurl?url=https%3A%2F%2Fh%2Fa.tif"),
        ("/vsizip/a.zip/b.tif", "/x/item.json", "/vsizip/a.zip/b.tif"),
    ],
)
def test_places_of_files(href: str, address: str, path: str) -> None:
    """Files are named as GDAL opens them, relative to the item's document, and by a `Path`."""
    assert location(href, address) == path
    assert str(Path(path)) == path


def test_pages_that_are_not_fetched_are_counted(tmp_path: Path) -> None:
    """One page of a search is used, its `next` page on the network is named as left out."""
    drawn = earth_search(tmp_path)
    item = json.loads(drawn.path.read_text())
    item["links"] = []
    link = {"rel": "next", "href": "https://stac.example/search?page=2", "method": "GET"}
    page = {"type": "FeatureCollection", "features": [item], "links": [link]}
    (tmp_path / "page.json").write_text(json.dumps(page))
    rows, account = built(tmp_path / "page.json")
    assert len(rows) == 9
    assert account.left_out.number("page") == 1


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", "null", '{"type": "Catalog"}', '{"type": "FeatureCollection"}',
             '{"type": "Polygon", "coordinates": []}', '{"type": "Catalog", "links": 7}']
)  # fmt: skip
def test_what_is_no_stac(text: str, tmp_path: Path) -> None:
    """Any other JSON is refused with one line, not taken for an empty STAC."""
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DataError, match=r"is not a STAC|has no items"):
        built(tmp_path / "x.json")


def test_a_catalog_of_tiles_is_no_source(tmp_path: Path, rslow: Run) -> None:
    """Our own catalogs are STAC items, too, but nothing is to be built from them."""
    ran = rslow(
        "catalog", "build", "-s", "data.kind=stac", "-s", f"catalog.path={tmp_path}/c.parquet",
        "-s", f"data.root={one_band(tmp_path, {})}", "-s", "data.tile_size=32",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    with pytest.raises(DataError, match=r"catalog\.path"):
        built(tmp_path / "c.parquet")
    pq.write_table(pq.read_table(tmp_path / "c.parquet").select(["id"]), tmp_path / "d.parquet")
    with pytest.raises(DataError, match="lacks the columns"):
        built(tmp_path / "d.parquet")


@pytest.mark.parametrize("link", [7, {"rel": "item"}, {"rel": "item", "href": None}])
def test_links_that_are_none(link: Any, tmp_path: Path) -> None:
    """What a broken link meant to name is missing, so it is a fault and not passed over."""
    root = write_root(tmp_path, [earth_search(tmp_path).path])
    values = json.loads(root.read_text())
    values["links"].append(link)
    root.write_text(json.dumps(values))
    with pytest.raises(DataError, match="invalid link"):
        built(root)
    rows, account = built(root, skip_bad=True)
    assert (len(rows), account.left_out.number("item")) == (9, 1)


def test_catalogs_that_link_in_a_circle(tmp_path: Path) -> None:
    """Each document is read once, whatever links to it."""
    drawn = earth_search(tmp_path)
    root = write_root(tmp_path, [drawn.path, drawn.path])
    values = json.loads(root.read_text())
    values["links"].append({"rel": "child", "href": "./collection.json"})
    root.write_text(json.dumps(values))
    assert len(built(root)[0]) == 9
