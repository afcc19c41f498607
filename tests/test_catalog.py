"""Catalogs of tiles. Oracles are rasterio, geopandas, pystac and the numbers that were written."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import pystac
import pytest
import rasterio
import shapely
import torch
from numpy.typing import NDArray
from rasterio.warp import transform, transform_bounds
from rasterio.windows import Window
from stac_geoparquet.arrow import parse_stac_items_to_arrow, stac_table_to_items, to_parquet

from rs_lowconf.bands import EUROSAT_ORDER, BandSpec
from rs_lowconf.batch.choose import chosen_rows
from rs_lowconf.data.catalog.check import check_tiles, groups_of, same_pixels, sampled
from rs_lowconf.data.catalog.reading import read_mask, read_row, reflectance
from rs_lowconf.data.catalog.rows import BandFile, CatalogRow, centres, from_table, to_table
from rs_lowconf.data.catalog.scan import Account, looked_at, masked_rows, rows_of
from rs_lowconf.data.catalog.sources import collection_of, date_in, list_images
from rs_lowconf.data.catalog.table import Catalog, merge, write_catalog
from rs_lowconf.data.files import SPLITS
from rs_lowconf.data.left_out import LeftOut
from rs_lowconf.data.masks import open_masks
from rs_lowconf.data.source import open_split
from rs_lowconf.errors import DataError, RsLowconfError, SettingsError
from rs_lowconf.generators import finish
from rs_lowconf.grid import Grid
from rs_lowconf.settings import (
    BatchSettings,
    CatalogSettings,
    EuroSatData,
    ImageData,
    MaskData,
    Rasters,
    StacData,
    data_settings,
)
from rs_lowconf.workflows.records import counted
from tests.conftest import Run
from tests.make_scenes import BANDS, corner, draw, make_chips, write

ESA_ORDER = tuple(sorted(EUROSAT_ORDER, key=lambda name: name.replace("8A", "08A")))


def settings_of(**values: Any) -> Rasters:
    """Return settings of drawn four-band images."""
    usual = {"kind": "images", "file_bands": BANDS, "level": "L2A", "tile_size": 32}
    found = data_settings({**usual, **values})
    assert isinstance(found, Rasters)
    return found


def account(*, skip_bad: bool = False) -> Account:
    """Return an account of a build that has not begun."""
    return Account(left_out=LeftOut(skip_bad=skip_bad))


def rows_in(settings: Rasters, collection: str = "tiles") -> list[CatalogRow]:
    """Return all rows of a source without masks."""
    own = account()
    return [
        row
        for image in list_images(settings, own.left_out)
        for row in rows_of(image, settings, collection, own)
    ]


def catalogued(path: Path, rows: list[CatalogRow]) -> Catalog:
    """Write rows as a catalog and open it."""
    write_catalog(path, [to_table(rows)])
    return Catalog(path)


def read_back(catalog: Catalog) -> list[CatalogRow]:
    """Return all rows of a catalog."""
    return [row for table in catalog.tables() for row in from_table(table)]


@pytest.fixture
def scene(tmp_path: Path) -> tuple[Path, NDArray[np.uint16]]:
    """Return a folder with one image of 80 x 100 pixels, a corner of it nodata, and its pixels."""
    pixels, _ = draw(80, 100, 3)
    pixels[:, 40:, 80:] = 0
    write(tmp_path / "images" / "S2B_20210716T105619.tif", pixels, corner(600_000, 5_200_000))
    return tmp_path, pixels


def test_windows_cover_an_image(scene: tuple[Path, NDArray[np.uint16]]) -> None:
    """Tiles lie on the grid, hold what rasterio reads there, and leave nodata out."""
    folder, _ = scene
    settings = settings_of(images=folder / "images", stride=16, max_nodata=0.25)
    rows = rows_in(settings)
    seen = np.zeros((80, 100), dtype=bool)
    for row in rows:
        top, left, height, width = row.window
        with rasterio.open(row.files[0].href) as file:
            own = file.read(window=Window(left, top, width, height))
            place = file.xy(top, left, offset="ul")
        content = read_row(row)
        np.testing.assert_array_equal(content.pixels.numpy(), own)
        np.testing.assert_array_equal(content.nodata.numpy(), (own == 0).all(axis=0))
        assert row.corners[0] == place
        assert row.valid == pytest.approx((own != 0).all(axis=0).mean())
        assert row.valid >= 0.75
        seen[top : top + height, left : left + width] = True
    assert seen[:40, :].all()
    assert seen[:, :80].all()
    assert len({row.tile_id for row in rows}) == len(rows)
    assert {row.taken for row in rows} == {datetime(2021, 7, 16, 10, 56, 19, tzinfo=UTC)}


@pytest.mark.parametrize("checksums", [True, False])
def test_a_damaged_catalog_loses_no_row_in_silence(
    scene: tuple[Path, NDArray[np.uint16]], tmp_path: Path, checksums: bool
) -> None:
    """With checksums a wrong byte is refused or harmless; without them no row is missing."""
    rows = rows_in(settings_of(images=scene[0] / "images", max_nodata=1.0))
    catalog = catalogued(tmp_path / "c.parquet", rows)
    if not checksums:
        pq.write_table(pq.read_table(catalog.path), catalog.path)
    content, refused = catalog.path.read_bytes(), 0
    ends = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    places = range(4, ends, ends // 80)
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 0xFF
        catalog.path.write_bytes(changed)
        try:
            read = [row for table in Catalog(catalog.path).tables() for row in from_table(table)]
        except DataError as error:
            assert "catalog" in str(error)  # noqa: PT017 -- some places are refused
            refused += 1
        else:
            assert len(read) == len(rows)
            assert not checksums or read == rows
    assert refused > (0.7 if checksums else 0.3) * len(places)


def test_a_catalog_is_read_by_others(
    scene: tuple[Path, NDArray[np.uint16]], tmp_path: Path
) -> None:
    """Geopandas finds the footprints in degrees, and pystac valid items with the same place."""
    folder, _ = scene
    rows = rows_in(settings_of(images=folder / "images", max_nodata=1.0))
    catalog = catalogued(tmp_path / "c.parquet", rows)
    frame = geopandas.read_parquet(catalog.path)
    assert frame.crs.to_epsg() == 4326 or frame.crs.to_authority() == ("OGC", "CRS84")
    for row, outline in zip(rows, frame.geometry, strict=True):
        (west, north), _, (east, south), _ = row.corners
        (x, y) = transform(row.grid.crs, "EPSG:4326", [west, west, east, east], [south, north] * 2)
        assert outline.bounds == pytest.approx((min(x), min(y), max(x), max(y)), abs=1e-9)
    items = [
        pystac.Item.from_dict(values) for values in stac_table_to_items(pq.read_table(catalog.path))
    ]
    assert [item.id for item in items] == [row.tile_id for row in rows]
    for item, row in zip(items, rows, strict=True):
        assert item.datetime == row.taken
        assert item.properties["proj:transform"] == list(row.grid.transform)
        assert item.assets["image"].href == "images/S2B_20210716T105619.tif"


def test_rows_survive_the_file(scene: tuple[Path, NDArray[np.uint16]], tmp_path: Path) -> None:
    """What is written is read again, also after the folder has moved."""
    folder, _ = scene
    rows = rows_in(settings_of(images=folder / "images", max_nodata=1.0))
    catalog = catalogued(folder / "c.parquet", rows)
    assert read_back(catalog) == rows
    shutil.move(folder, tmp_path.parent / "moved")
    moved = read_back(Catalog(tmp_path.parent / "moved" / "c.parquet"))
    assert [row.sha256 for row in moved] == [read_row(row).sha256 for row in moved]
    shutil.move(tmp_path.parent / "moved", folder)


def test_unknown_dates_make_a_span(tmp_path: Path) -> None:
    """A tile whose date nobody says is a valid item all the same."""
    pixels, _ = draw(32, 32, 0)
    write(tmp_path / "images" / "a.tif", pixels, corner(600_000, 5_200_000))
    catalog = catalogued(tmp_path / "c.parquet", rows_in(settings_of(images=tmp_path / "images")))
    (values,) = stac_table_to_items(pq.read_table(catalog.path))
    item = pystac.Item.from_dict(values)
    assert item.datetime is None
    first, last = item.common_metadata.start_datetime, item.common_metadata.end_datetime
    assert first is not None
    assert last is not None
    assert first < last
    (row,) = read_back(catalog)
    assert row.taken is None


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("S2A_MSIL1C_20200113T105421_N0208_R051_T31TDG.tif", (2020, 1, 13, 10, 54, 21)),
        ("Boadella_2021-07-21.tif", (2021, 7, 21)),
        ("tile_20201399T999999.tif", None),
        ("geojson_205232.tif", None),
    ],
)
def test_dates_in_names(name: str, taken: tuple[int, ...] | None) -> None:
    """Names of products tell their time; other numbers are no dates."""
    due = None if taken is None else datetime(*taken, tzinfo=UTC)  # type: ignore[misc,arg-type]
    assert date_in(name) == due


def test_eurosat(eurosat_root: Path, tmp_path: Path) -> None:
    """EuroSAT's catalog has the splits, classes, pixels and reflectance of torchgeo's data set."""
    settings = EuroSatData(root=eurosat_root)
    rows = rows_in(settings)
    read = {row.tile_id: row for row in read_back(catalogued(tmp_path / "c.parquet", rows))}
    assert len(read) == 389
    for split in SPLITS:
        source = open_split(settings, split)
        own = [row for row in read.values() if row.split == split]
        assert len(own) == len(source)
        for index in (0, len(source) - 1):
            row = read[f"tiles/{source.ids[index]}_r00000_c00000"]
            assert row.label == source.classes[source.labels[index]]
            assert row.grid == source.grids[index]
            found = reflectance(row, read_row(row), source.bands)
            torch.testing.assert_close(found, source.batch([index]).image[0])


def test_masks(tmp_path: Path) -> None:
    """Of chips, rows are the tiles that training and tests see, with the same masks."""
    make_chips(tmp_path, 12)
    settings = settings_of(
        kind="chips",
        images=tmp_path / "images",
        masks=tmp_path / "masks",
        image_name="s2_*.tif",
        mask_name="mask_*.tif",
        mask_classes={0: "background", 1: "damage"},
        stride=16,
        val_share=0.3,
        test_share=0.3,
    )
    assert isinstance(settings, MaskData)
    left_out = LeftOut(skip_bad=False)
    cut = masked_rows(settings, "c", left_out)
    rows = [own for row in cut for own in looked_at(row, settings, left_out)]
    again = read_back(catalogued(tmp_path / "c.parquet", rows))
    assert again == rows
    for split in SPLITS:
        source = open_masks(settings, split)
        own = {row.tile_id: row for row in again if row.split == split}
        assert set(own) == {f"c/{name}" for name in source.ids}
        batch = source.batch(range(len(source)))
        assert batch.mask is not None
        for name, image, mask in zip(source.ids, batch.image, batch.mask, strict=True):
            row = own[f"c/{name}"]
            torch.testing.assert_close(reflectance(row, read_row(row), source.bands), image)
            # Where windows overlap, a source counts pixels once; a catalog shows all of them.
            told = read_mask(row, source.classes)
            assert bool((told == mask)[mask != 255].all())
            assert bool((told != 255).all())


def test_masks_on_another_grid(tmp_path: Path) -> None:
    """A mask of half the resolution in the same place is brought onto the tile's pixels."""
    pixels, mask = draw(32, 32, 1)
    write(tmp_path / "a.tif", pixels, corner(600_000, 5_200_000))
    write(tmp_path / "m.tif", mask[::2, ::2], corner(600_000, 5_200_000, 20.0))
    (row,) = rows_in(settings_of(images=tmp_path, image_name="a.tif"))
    values = {**row.__dict__, "masks": (str(tmp_path / "m.tif"),), "mask_classes": {0: "a", 1: "b"}}
    told = read_mask(CatalogRow(**values), ("b", "a"))
    np.testing.assert_array_equal(1 - told.numpy(), mask[::2, ::2].repeat(2, 0).repeat(2, 1))


def write_stac(folder: Path) -> NDArray[np.uint16]:
    """Write a static STAC whose item has two bands of 10 m and one of 20 m, with an offset."""
    pixels, _ = draw(64, 64, 5)
    place = corner(600_000, 5_200_000)
    coarse = pixels[3, ::2, ::2]
    assets = {"red": ("B04", pixels[2], place), "nir": ("B08", pixels[3], place)}
    write(folder / "scene" / "B11.tif", coarse + 1000, corner(600_000, 5_200_000, 20.0))
    for name, (_, own, at) in assets.items():
        write(folder / "scene" / f"{name}.tif", own + 1000, at)
    bounds = transform_bounds("EPSG:32633", "EPSG:4326", 600_000, 5_199_360, 600_640, 5_200_000)
    item = pystac.Item(
        id="S2A_33TXM",
        geometry=shapely.geometry.mapping(shapely.box(*bounds)),
        bbox=list(bounds),
        datetime=datetime(2022, 3, 8, tzinfo=UTC),
        properties={"processing:level": "L2A"},
    )
    meaning = {"raster:bands": [{"scale": 0.0001, "offset": -0.1}]}
    for key, href, told in (
        ("swir16", "B11.tif", {"eo:bands": [{"name": "B11", "common_name": "swir16"}]}),
        ("red", "red.tif", {"eo:bands": [{"name": "red", "common_name": "red"}]}),
        ("nir", "nir.tif", {}),
    ):
        item.add_asset(
            key,
            pystac.Asset(
                href=str(folder / "scene" / href),
                media_type=pystac.MediaType.COG,
                roles=["data"],
                extra_fields={**told, **meaning},
            ),
        )
    item.add_asset("visual", pystac.Asset(href="x.jpg", media_type="image/jpeg", roles=["visual"]))
    root = pystac.Catalog(id="root", description="A drawn scene")
    root.add_item(item)
    root.normalize_and_save(str(folder), pystac.CatalogType.SELF_CONTAINED)
    return pixels


def test_stac(tmp_path: Path) -> None:
    """Bands in files of 10 and 20 m become one tile, with the item's offset and date."""
    pixels = write_stac(tmp_path)
    settings = StacData(root=tmp_path / "catalog.json", tile_size=32)
    rows = read_back(catalogued(tmp_path / "c.parquet", rows_in(settings)))
    assert len(rows) == 4
    due = np.stack([pixels[2], pixels[3], pixels[3, ::2, ::2].repeat(2, 0).repeat(2, 1)]) / 10_000
    for row in rows:
        assert row.bands == BandSpec(names=("B04", "B08", "B11"), level="L2A", dn_offset=-1000.0)
        assert row.taken == datetime(2022, 3, 8, tzinfo=UTC)
        top, left, _, _ = row.window
        found = reflectance(row, read_row(row), row.bands.select(("B11", "B04", "B08")))
        np.testing.assert_allclose(
            found.numpy(), due[[2, 0, 1], top : top + 32, left : left + 32], atol=1e-6
        )


def test_geopackage(tmp_path: Path) -> None:
    """A layer as gdaltindex writes it names the files; its outlines choose the tiles."""
    for name, x in (("a", 600_000), ("b", 610_000)):
        write(tmp_path / f"{name}.tif", draw(64, 64, ord(name))[0], corner(x, 5_200_000))
    half = shapely.box(600_000, 5_199_360, 600_330, 5_200_000)
    whole = shapely.box(610_000, 5_199_360, 610_640, 5_200_000)
    geopandas.GeoDataFrame(
        {"location": ["a.tif", "b.tif"], "label": ["x", None], "dn_offset": [-1000.0, None]},
        geometry=[half, whole],
        crs="EPSG:32633",
    ).to_file(tmp_path / "index.gpkg", layer="tiles")
    settings = settings_of(kind="geopackage", root=tmp_path / "index.gpkg", layer="tiles")
    rows = rows_in(settings)
    assert [(row.label, row.bands.dn_offset, row.window[:2]) for row in rows] == [
        ("x", -1000, (0, 0)),
        ("x", -1000, (32, 0)),
        *((None, 0, place) for place in ((0, 0), (0, 32), (32, 0), (32, 32))),
    ]


def test_merged_catalogs(
    scene: tuple[Path, NDArray[np.uint16]], tmp_path: Path, rslow: Run
) -> None:
    """Catalogs of other names become one; of the same name, the twice-used id is told."""
    folder, _ = scene
    settings = settings_of(images=folder / "images", max_nodata=1.0)
    first = catalogued(tmp_path / "1" / "c.parquet", rows_in(settings, "a"))
    second = catalogued(tmp_path / "2" / "c.parquet", rows_in(settings, "b"))
    words = ("catalog", "merge", "-s", f"catalog.path={tmp_path / 'all.parquet'}")
    ran = rslow(*words, first.path, second.path)
    assert ran.code == 0, ran.err
    both = read_back(Catalog(tmp_path / "all.parquet"))
    assert both == [*read_back(first), *read_back(second)]
    ran = rslow(*words, first.path, first.path)
    assert ran.code == 4
    assert "catalog.collection" in ran.err
    assert read_back(Catalog(tmp_path / "all.parquet")) == both


@pytest.mark.parametrize(
    ("name", "collection"),
    [("Seine 2023 (north)", "Seine-2023-north"), ("...", "tiles"), ("a.b_c-1", "a.b_c-1")],
)
def test_a_collection_is_named_after_its_folder(name: str, collection: str) -> None:
    """Whatever the folder is called, `catalog.collection` would allow the name."""
    settings = settings_of(images=Path("/data") / name)
    assert collection_of(settings) == collection
    assert CatalogSettings(collection=collection_of(settings))


@pytest.mark.parametrize("fault", ["changed", "truncated", "missing"])
def test_a_tile_that_is_another_one_now(
    fault: str, scene: tuple[Path, NDArray[np.uint16]], tmp_path: Path, rslow: Run
) -> None:
    """`check` finds files that changed, broke or vanished, and ends with the code of data."""
    folder, pixels = scene
    catalogued(
        tmp_path / "c.parquet", rows_in(settings_of(images=folder / "images", max_nodata=1.0))
    )
    (path,) = (folder / "images").iterdir()
    if fault == "changed":
        pixels[0, 0, 0] += 1
        write(path, pixels, corner(600_000, 5_200_000))
    elif fault == "truncated":
        path.write_bytes(path.read_bytes()[:2000])
    else:
        path.unlink()
    ran = rslow("catalog", "check", "-s", f"catalog.path={tmp_path / 'c.parquet'}")
    assert ran.code == 4
    assert {"changed": "has changed", "truncated": "cannot be", "missing": "cannot be"}[
        fault
    ] in ran.out


def eurosat_copies(root: Path, folder: Path, change: Any) -> None:
    """Write some real tiles again with other numbers."""
    for path in sorted(root.rglob("*_1.tif")) + sorted(root.rglob("*_2.tif")):
        with rasterio.open(path) as file:
            pixels, place, crs = file.read(), file.transform, file.crs
        write(folder / path.name, change(pixels), place, str(crs))


def findings(folder: Path, order: tuple[str, ...]) -> list[str]:
    """Return what a check says of a folder of 13-band images."""
    settings = ImageData(images=folder, file_bands=order)
    catalog = catalogued(folder / "c.parquet", rows_in(settings))
    groups = groups_of(catalog)
    report = finish(counted(check_tiles(catalog, groups, 1000), "checking", 1000))
    return [finding.text for part in report.collections for finding in part.findings]


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("none", None),
        ("order", "B8A last"),
        ("offset", "an offset of 1000 was left in"),
        ("some offsets", "brighter in every band"),
        ("fill", "hold 32767 in every band"),
    ],
)
def test_check_finds_faults(
    fault: str, told: str | None, eurosat_root: Path, tmp_path: Path
) -> None:
    """Band order, offset and nodata of real tiles: what is wrong is told, what is right is not."""
    count = iter(range(10_000))

    def change(pixels: NDArray[Any]) -> NDArray[Any]:
        if fault == "offset" or (fault == "some offsets" and next(count) % 5 == 0):
            return pixels + 1000
        if fault == "fill":
            pixels[:, :10, :10] = 32767
        return pixels

    eurosat_copies(eurosat_root, tmp_path, change)
    found = findings(tmp_path, ESA_ORDER if fault == "order" else EUROSAT_ORDER)
    if told is None:
        assert not found
    else:
        assert any(told in text for text in found), found


def test_the_same_pixels_twice(scene: tuple[Path, NDArray[np.uint16]], tmp_path: Path) -> None:
    """A copy of an image in another split is found by its checksums."""
    folder, _ = scene
    rows = rows_in(settings_of(images=folder / "images", max_nodata=1.0))
    first = [CatalogRow(**{**row.__dict__, "split": "train"}) for row in rows]
    copies = [
        CatalogRow(**{**row.__dict__, "split": "test", "tile_id": f"copy/{row.tile_id}"})
        for row in rows
    ]
    (finding,) = same_pixels(catalogued(tmp_path / "c.parquet", first + copies))
    assert "two splits" in finding.text
    assert len(finding.names) == len(rows)


def test_sample_is_spread(scene: tuple[Path, NDArray[np.uint16]], tmp_path: Path) -> None:
    """A sample has the size asked for and reaches from the first rows to the last."""
    folder, _ = scene
    rows = rows_in(settings_of(images=folder / "images", max_nodata=1.0, stride=4))
    catalog = catalogued(tmp_path / "c.parquet", rows)
    groups = groups_of(catalog)
    places = [rows.index(row) for row in sampled(catalog, groups, 10)]
    assert len(places) == 10
    assert max(np.diff(places)) <= 2 * len(rows) / 10


def moved_together(folder: Path, target: Path) -> list[CatalogRow]:
    """Copy a folder with catalog and tiles, break the original, and read the copy."""
    shutil.copytree(folder, target)
    folder.rename(folder.with_name("gone"))
    rows = read_back(Catalog(target / "c.parquet"))
    for row in rows:
        assert Path(row.files[0].href).is_relative_to(target.resolve())
        assert read_row(row).sha256 == row.sha256
    return rows


@pytest.mark.parametrize("way", ["both by the link", "catalog", "tiles", "dots"])
def test_a_catalog_built_through_a_link_moves_with_its_tiles(
    way: str, scene: tuple[Path, NDArray[np.uint16]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths are relative also where catalog or tiles were named through a symbolic link."""
    disk, _ = scene[0] / "images", None
    home = scene[0] / "disk"
    home.mkdir()
    shutil.move(disk, home / "images")
    (scene[0] / "link").symlink_to(home)
    via = {"both by the link": ("link", "link"), "catalog": ("link", "disk"),
           "tiles": ("disk", "link"), "dots": ("disk", "link/images/..")}[way]  # fmt: skip
    monkeypatch.chdir(scene[0])
    rows = rows_in(settings_of(images=Path(via[1]) / "images", max_nodata=1.0))
    write_catalog(Path(via[0]) / "c.parquet", [to_table(rows)])
    found = moved_together(home, scene[0] / "elsewhere")
    assert [row.sha256 for row in found] == [row.sha256 for row in rows]


def test_tiles_behind_a_link_inside_the_folder(
    scene: tuple[Path, NDArray[np.uint16]], tmp_path: Path
) -> None:
    """A link in the catalog's folder to tiles elsewhere stays part of the path."""
    folder, _ = scene
    home = folder / "home"
    home.mkdir()
    (home / "images").symlink_to(folder / "images")
    write_catalog(
        home / "c.parquet",
        [to_table(rows_in(settings_of(images=home / "images", max_nodata=1.0)))],
    )
    hrefs = {
        row["image"]["href"] for row in pq.read_table(home / "c.parquet")["assets"].to_pylist()
    }
    assert hrefs == {"images/S2B_20210716T105619.tif"}
    (home / "gdal.parquet").touch()


@pytest.mark.parametrize(
    "writer", ["geopandas", "pandas", "pyarrow", "mercator", "stac-geoparquet"]
)
def test_catalogs_that_others_wrote(
    writer: str, scene: tuple[Path, NDArray[np.uint16]], tmp_path: Path
) -> None:
    """A catalog that went through another library is read as before, in its rows and outlines."""
    folder, _ = scene
    rows = rows_in(settings_of(images=folder / "images", max_nodata=1.0))
    labelled = [CatalogRow(**{**row.__dict__, "label": "x" if i % 2 else None})
                for i, row in enumerate(rows)]  # fmt: skip
    first, path = folder / "c.parquet", folder / "again.parquet"
    catalog = catalogued(first, labelled)
    if writer in ("geopandas", "mercator"):
        frame = geopandas.read_parquet(first)
        (frame.to_crs(3857) if writer == "mercator" else frame.assign(more=1)).to_parquet(path)
    elif writer == "pandas":
        pandas.read_parquet(first).to_parquet(path)
    elif writer == "pyarrow":
        table = pq.read_table(first)
        pq.write_table(table.select(sorted(table.column_names)), path)
    else:
        items = list(stac_table_to_items(pq.read_table(first)))
        to_parquet(parse_stac_items_to_arrow(items), path)
    again = Catalog(path)
    assert read_back(again) == labelled
    assert len(again) == len(rows)
    outlines = [
        shapely.from_wkb(table["geometry"].to_pylist())
        for own in (catalog, again)
        for table in own.tables(["geometry"])
    ]
    for one, other in zip(*outlines, strict=True):
        assert one.symmetric_difference(other).area < 1e-15
    merged = folder / "merged.parquet"
    merge(merged, [again])
    assert read_back(Catalog(merged)) == labelled


def test_a_catalog_that_was_written_into_another_folder_is_refused(
    tmp_path: Path, rslow: Run
) -> None:
    """Where no relative path leads to a file, one line says so before the first tile.

    So it does where rows of one id are there twice.
    """
    pixels, _ = draw(32, 32, 0)
    for name in ("a.tif", "b.tif"):
        write(tmp_path / "images" / name, pixels, corner(600_000, 5_200_000))
    catalog = catalogued(tmp_path / "c.parquet", rows_in(settings_of(images=tmp_path / "images")))
    moved, run = tmp_path / "other" / "c.parquet", tmp_path / "run"
    moved.parent.mkdir()
    geopandas.read_parquet(catalog.path).to_parquet(moved)
    where = ("-s", f"catalog.path={moved}", "-s", f"run.dir={run}")
    for words in (("catalog", "check", *where), ("batch", "score", *where),
                  ("catalog", "merge", moved, "-s", f"run.dir={run}")):  # fmt: skip
        ran = rslow(*words)
        assert ran.code == 4
        assert "Traceback" not in ran.err
        assert "no file of catalog" in ran.err
        assert str(Path("other", "images", "a.tif")) in ran.err
    assert not (run / "batch").exists()
    assert not (run / "catalog.parquet").exists()
    table = pq.read_table(catalog.path)
    pq.write_table(pa.concat_tables([table, table.slice(1)]), tmp_path / "twice.parquet")
    ran = rslow("batch", "score", "-s", f"catalog.path={tmp_path / 'twice.parquet'}", *where[2:])
    assert ran.code == 4
    assert "1 ids of catalog" in ran.err
    assert "occur more than once, such as" in ran.err
    # A file that is lost is the matter of its tiles.
    (tmp_path / "images" / "a.tif").unlink()
    catalog.require_files()
    (tmp_path / "images" / "b.tif").unlink()
    with pytest.raises(DataError, match="move it back"):
        catalog.require_files()


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("assets", pa.array([7])),
        ("id", pa.array([None], pa.string())),
        ("collection", pa.array([None], pa.string())),
        ("rslow:sha256", pa.array([""])),
        ("rslow:window", pa.array([["a", "b"]])),
        ("rslow:window", pa.array([None], pa.list_(pa.int64()))),
        ("datetime", pa.array(["yesterday"])),
        ("rslow:scale", pa.array(["many"])),
        ("rslow:bands", pa.array([None], pa.list_(pa.string()))),
        ("proj:transform", pa.array([[1.0]])),
        ("assets", pa.array([{"image": None}], pa.struct({"image": pa.string()}))),
    ],
)  # fmt: skip
def test_columns_that_make_no_sense(column: str, values: pa.Array, tmp_path: Path) -> None:
    """A catalog whose values are no values of a catalog is refused with one line."""
    path = catalogued(tmp_path / "c.parquet", synthetic_rows()).path
    table = pq.read_table(path)
    index = table.column_names.index(column)
    pq.write_table(table.set_column(index, column, [values]), path)
    with pytest.raises(DataError):
        read_back(Catalog(path))


def test_a_tile_across_180_degrees(tmp_path: Path, rslow: Run) -> None:
    """Its outline is split, its bbox misses nothing, and quotas count it where it lies."""
    (x,), (y,) = transform("EPSG:4326", "EPSG:32760", [180.0], [-16.8])
    for number, shift in enumerate((-2000, -200, -100, 1000)):
        place = corner(x + shift, y)
        write(tmp_path / "images" / f"{number}.tif", draw(32, 32, number)[0], place, "EPSG:32760")
    rows = rows_in(settings_of(images=tmp_path / "images"))
    catalog = catalogued(tmp_path / "c.parquet", rows)
    frame = geopandas.read_parquet(catalog.path)
    assert list(frame.geom_type) == ["Polygon", "MultiPolygon", "MultiPolygon", "Polygon"]
    assert frame.to_crs("EPSG:6933").area.max() == pytest.approx(320**2, rel=0.01)
    for west, east, due in ((179.9, 180.0, 3), (-180.0, -179.9, 3), (-10.0, 10.0, 2)):
        box = (west, -20.0, east, -10.0)
        found = geopandas.read_parquet(catalog.path, bbox=box)
        assert len(found) == due  # two of them go around the earth as far as boxes can tell
        assert (found.intersects(shapely.box(*box))).sum() == (due if west != -10 else 0)
    (table,) = catalog.tables()
    lon, lat = centres(table).T
    for row, own in zip(rows, lon, strict=True):
        (due_lon,), _ = transform(
            row.grid.crs, "EPSG:4326", *([v] for v in row.grid.at(16.0, 16.0))
        )
        assert own == due_lon
    assert lat == pytest.approx([-16.8] * 4, abs=0.01)
    chosen = chosen_rows(catalog, BatchSettings(per_region=2, region_degrees=90.0), 0)
    assert chosen.chosen is not None
    assert len(chosen.chosen) == 4  # two on either side of 180 degrees, none in between


def test_odd_values_in_a_geopackage(tmp_path: Path) -> None:
    """A row with a date or number that is none is one line, and left out where it may be."""
    for name in "abcd":
        write(tmp_path / f"{name}.tif", draw(32, 32, ord(name))[0], corner(600_000, 5_200_000))
    frame = pandas.DataFrame(
        {"location": ["a.tif", "b.tif", "c.tif", "d.tif"],
         "id": pandas.array([1, None, 3, None], "Int64"),
         "datetime": ["2022-03-08", "yesterday", None, ""],
         "dn_offset": ["-1000", "0", "much", ""]},
    )  # fmt: skip
    pyogrio.write_dataframe(frame, tmp_path / "t.gpkg")
    settings = settings_of(kind="geopackage", root=tmp_path / "t.gpkg")
    with pytest.raises(DataError, match=r"row 2.*datetime"):
        rows_in(settings)
    own = account(skip_bad=True)
    first, last = list_images(settings, own.left_out)
    assert (first.name, first.taken) == ("1", datetime(2022, 3, 8, tzinfo=UTC))
    assert (last.name, last.taken, last.said) == ("d", None, ())
    assert own.left_out.number("image") == 2
    assert "dn_offset" in str(own.left_out.faults[1])


def synthetic(number: int) -> Iterator[pa.Table]:
    """Yield tables of so many rows of one image."""
    file = BandFile(href="/nowhere/a.tif", bands=("B04",))
    for first in range(0, number, 5_000):
        yield to_table(
            [
                CatalogRow(
                    tile_id=f"t/{index}",
                    collection="t",
                    files=(file,),
                    window=(0, index, 64, 64),
                    bands=BandSpec(names=("B04",), level="L1C"),
                    grid=Grid(
                        crs="EPSG:32633", transform=(10.0, 0.0, 5e5 + index, 0.0, -10.0, 5e6)
                    ),
                    valid=1.0,
                    sha256=f"{index:064x}",
                    before=datetime(2022, 1, 1, tzinfo=UTC),
                )
                for index in range(first, first + 5_000)
            ]
        )


def test_rows_keep_their_order_across_groups(tmp_path: Path) -> None:
    """Many rows come back in order and whole, however they were written."""
    assert write_catalog(tmp_path / "c.parquet", synthetic(25_000)) == 25_000
    catalog = Catalog(tmp_path / "c.parquet")
    assert len(catalog) == 25_000
    ids = [name for table in catalog.tables(["id"]) for name in table["id"].to_pylist()]
    assert ids == [f"t/{index}" for index in range(25_000)]


def test_nothing_is_left_of_a_build_that_fails(
    tmp_path: Path, rslow: Run, scene: tuple[Path, NDArray[np.uint16]]
) -> None:
    """A truncated image ends the build, unless it may be left out; no half catalog stays."""
    folder, _ = scene
    (path,) = (folder / "images").iterdir()
    (folder / "images" / "z.tif").write_bytes(path.read_bytes()[:3000])
    out = tmp_path / "out" / "c.parquet"
    words = (
        "catalog", "build", "-s", "data.kind=images", "-s", f"data.images={folder / 'images'}",
        "-s", f"data.file_bands=[{','.join(BANDS)}]", "-s", "data.tile_size=32",
        "-s", "data.max_nodata=1", "-s", f"catalog.path={out}",
    )  # fmt: skip
    ran = rslow(*words)
    assert ran.code == 4
    assert "z.tif" in ran.err
    assert not list(out.parent.iterdir())
    ran = rslow(*words, "-s", "data.skip_bad=true")
    assert ran.code == 0, ran.err
    assert "left out" in ran.out
    before = out.read_bytes()
    assert rslow(*words, "-s", "data.skip_bad=true").code == 0
    assert out.read_bytes() == before
    ran = rslow("catalog", "show", "-s", f"catalog.path={out}")
    assert "12 tiles" in ran.out
    assert "L1C" in ran.out


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("build",), 3, "data.kind"),
        (("build", "-s", "data.kind=images"), 3, "data.images"),
        (("build", "-s", "data.kind=images", "-s", "data.images=nowhere"), 4, "nowhere"),
        (("build", "-s", "data.kind=stac", "-s", "data.root=x.json"), 4, "is not a STAC"),
        (("build", "-s", "data.kind=geopackage", "-s", "data.root=x.gpkg"), 4, "no GeoPackage"),
        (("build", "-s", "data.kind=stac", "-s", "data.masks=x"), 3, "no effect"),
        (("check",), 4, "data.kind and data.root"),
        (("check", "-s", "data.kind=images", "-s", "data.images=x"), 4, "rslow catalog build"),
        (("show", "-s", "data.kind=images", "-s", "data.images=x"), 4, "rslow catalog build"),
    ],
)
def test_mistakes(words: tuple[str, ...], code: int, told: str, rslow: Run, tmp_path: Path) -> None:
    """Each mistake is one line that says what to do."""
    ran = rslow("catalog", *words, "-s", f"run.dir={tmp_path}")
    assert ran.code == code
    assert told in ran.err
    assert len(ran.err.strip().splitlines()) == 1


def test_a_file_that_is_no_catalog(tmp_path: Path) -> None:
    """Other Parquet files, damaged ones and newer formats are told apart."""
    path = tmp_path / "c.parquet"
    path.write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match="damaged"):
        Catalog(path)
    pq.write_table(pa.table({"id": ["a"]}), path)
    with pytest.raises(DataError, match="lacks the columns"):
        Catalog(path)
    table = pq.read_table(catalogued(tmp_path / "d.parquet", synthetic_rows()).path)
    pq.write_table(table.replace_schema_metadata({b"rs_lowconf": b'{"format": 99}'}), path)
    with pytest.raises(DataError, match="upgrade"):
        Catalog(path)


def synthetic_rows() -> list[CatalogRow]:
    """Return one row of no real image."""
    (table,) = list(synthetic(5_000))
    return from_table(table.slice(0, 1))


def test_labels_need_labelled_data(tmp_path: Path) -> None:
    """A folder of images cannot be trained on, and says why."""
    with pytest.raises(SettingsError, match="no classes"):
        open_split(settings_of(images=tmp_path), "train")
    assert issubclass(SettingsError, RsLowconfError)
