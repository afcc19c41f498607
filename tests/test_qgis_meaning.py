"""What QGIS reads from each kind of project is what it read when `qgis_meaning.json` was stored.

That file holds no bytes of ours but what QGIS makes of them: see `qgis/describe.py`.
`python -m tests.test_qgis_meaning FOLDER` writes the packages into a new folder and stores it anew.
"""

import json
import os
import sqlite3
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pytest
import shapely

from rs_lowconf.batch.score_map import write_score_map
from rs_lowconf.grid import Grid
from rs_lowconf.review.samples import Generated
from tests.make_estimate_golden import leaves
from tests.offscreen import run_offscreen
from tests.review_samples import GRID, masked, observed, package, sample
from tests.testset_samples import release, reviewed_tiles

SCRIPT = Path(__file__).parent / "qgis" / "describe.py"
STORED = Path(__file__).parent / "qgis_meaning.json"
FAR = Grid(crs="EPSG:32632", transform=(10.0, 0.0, 600_000.0, 0.0, -10.0, 5_100_000.0))


def variants() -> list[Generated]:
    """Return two samples around one real tile, and one around another in another zone."""
    first, _, other = (
        replace(sample(n, grid=(GRID, GRID, FAR)[n]), anchored=True) for n in range(3)
    )
    return [first, replace(first, sample_id="s0001", neighbour=first.neighbour), other]


def scored() -> geopandas.GeoDataFrame:
    """Return the results of a job on 40 tiles."""
    confidence = np.linspace(0.3, 1.0, 40) ** 2
    shapes = [shapely.box(10 + x, 50, 10.01 + x, 50.01) for x in confidence]
    rows = {
        "id": [f"t{n}" for n in range(40)],
        "confidence": confidence,
        "datetime": pd.to_datetime(["2023-07-01T10:30:00Z"] * 40),
        "lon": 10.005 + confidence,
        "lat": 50.005,
    }
    return geopandas.GeoDataFrame(rows, geometry=shapes, crs="EPSG:4326")


def write_all(folder: Path) -> dict[str, Path]:
    """Write one project of each kind, and return them by name."""
    kinds: dict[str, Any] = {
        "confirm": ([sample(0), sample(1)], "confirm"),
        "confirm, alone": ([sample(0, real=False)], "confirm"),
        "blind": ([sample(0)], "blind"),
        "blind, alone": ([sample(0, ("B02", "B03", "B04", "B08"), real=False)], "blind"),
        "masks": ([masked(0)], "confirm"),
        "masks, alone": ([masked(0, real=False)], "confirm"),
        "masks, blind": ([masked(0)], "blind"),
        "real": ([observed(0), observed(1, labelled=False, asked=False)], "confirm"),
        "real, blind": ([observed(0)], "blind"),
        "variants": (variants(), "confirm"),
    }
    projects = {}
    for name, (samples, label) in kinds.items():
        projects[name] = package(folder / name, samples, label) / "review.qgz"
    for name in ("real", "variants"):
        projects[f"{name}, map"] = folder / name / "context.qgz"
    release(folder / "v1", reviewed_tiles(folder / "store", 3))
    projects["release"] = folder / "v1" / "release.qgz"
    write_score_map(folder / "scores", scored())
    projects["scores"] = folder / "scores" / "scores.qgz"
    return projects


def read(python: str, folder: Path) -> dict[str, Any]:
    """Write all, and return what QGIS and SQLite read."""
    projects = write_all(folder)
    layers = {name: path.with_name("review.gpkg") for name, path in projects.items()}
    layers = {name: path for name, path in layers.items() if "map" not in name and path.exists()}
    layers["release"] = folder / "v1" / "labels.gpkg"
    rasters = {
        kind: folder / "masks" / kind / "s0000.tif"
        for kind in ("tiles", "anchors", "masks", "anchor_masks", "predicted", "confidence")
    }
    rasters["release"] = folder / "v1" / "tiles" / "s0000.tif"
    request = {
        "projects": [str(path) for path in projects.values()],
        "layers": [f"{path}|layername={path.stem}" for path in layers.values()],
        "rasters": [str(path) for path in rasters.values()],
    }
    (folder / "request.json").write_text(json.dumps(request))
    ran = run_offscreen(
        [python, str(SCRIPT), str(folder / "request.json"), str(folder / "report.json")], folder
    )
    assert ran.returncode == 0, ran.stderr
    report = json.loads((folder / "report.json").read_text())
    return {
        "projects": dict(zip(projects, report["projects"], strict=True)),
        "layers": dict(zip(layers, report["layers"], strict=True)),
        "rasters": dict(zip(rasters, report["rasters"], strict=True)),
        "databases": {name: database(path) for name, path in layers.items()},
    }


def database(path: Path) -> dict[str, Any]:
    """Return what programs that are not QGIS read from a GeoPackage."""
    with closing(sqlite3.connect(path)) as opened:

        def rows(text: str) -> list[list[Any]]:
            return [list(row) for row in opened.execute(text)]

        return {
            "marks": [*rows("PRAGMA application_id"), *rows("PRAGMA user_version")],
            "columns": [row[1:3] for row in rows(f'PRAGMA table_info("{path.stem}")')],
            "contents": rows(
                "SELECT table_name, data_type, identifier, min_x, min_y, max_x, max_y, srs_id"
                " FROM gpkg_contents WHERE data_type = 'features'"
            ),
            "geometry": rows("SELECT * FROM gpkg_geometry_columns"),
            "titles": rows(
                "SELECT column_name, title, constraint_name IS NULL FROM gpkg_data_columns"
                " ORDER BY rowid"
            ),
            "rules": rows(
                "SELECT column_name, constraint_type, value, min, min_is_inclusive, max,"
                " max_is_inclusive FROM gpkg_data_columns JOIN gpkg_data_column_constraints"
                " USING (constraint_name) ORDER BY column_name, value"
            ),
            "extensions": rows("SELECT table_name, extension_name, scope FROM gpkg_extensions"),
            "styles": rows(
                "SELECT f_table_name, f_geometry_column, styleName, useAsDefault FROM layer_styles"
            ),
            "indexes": rows("SELECT name FROM sqlite_master WHERE name LIKE 'rtree%'"),
        }


@pytest.fixture(scope="module")
def found(qgis_python: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return read(qgis_python, tmp_path_factory.mktemp("meaning"))


def stored() -> dict[str, Any]:
    values: dict[str, Any] = json.loads(STORED.read_text(encoding="utf-8"))
    return values


def flat(values: Any) -> dict[str, Any]:
    """Return all that JSON values hold by its path, with decimals to be compared roughly."""
    return {
        key: pytest.approx(value, rel=1e-6) if isinstance(value, float) else value
        for key, value in leaves(values)
    }


@pytest.mark.parametrize("name", stored()["projects"])
def test_projects_mean_what_they_meant(found: dict[str, Any], name: str) -> None:
    """Layers, sources, symbols, labels, forms, rules, extents and coordinate systems."""
    assert flat(found["projects"][name]) == flat(stored()["projects"][name])


@pytest.mark.parametrize("name", stored()["databases"])
def test_a_layer_by_itself_has_the_projects_form(found: dict[str, Any], name: str) -> None:
    """Opened without its project, a GeoPackage brings the same symbols, labels and form."""
    layer = found["layers"][name]
    project = next(one for one in found["projects"][name]["layers"] if "form" in one)
    for key in ("renderer", "labels", "form", "geometry", "extent"):
        assert layer[key] == project[key], key


def test_rasters_mean_what_they_meant(found: dict[str, Any]) -> None:
    """Tiles and masks by themselves have the stretch or the colours of the package."""
    assert flat(found["rasters"]) == flat(stored()["rasters"])


@pytest.mark.parametrize("name", stored()["databases"])
def test_geopackages_mean_what_they_meant(found: dict[str, Any], name: str) -> None:
    """Columns, extents and allowed values, for programs other than QGIS."""
    assert flat(found["databases"][name]) == flat(stored()["databases"][name])


def main(folder: Path) -> None:
    report = read(os.environ.get("QGIS_PYTHON", "/usr/bin/python3"), folder)
    del report["layers"]  # they are compared with the projects'
    # One line per project, so that a change shows where it is.
    parts = [
        f"{json.dumps(part)}: {{\n"
        + ",\n".join(f"{json.dumps(name)}: {json.dumps(values[name])}" for name in values)
        + "\n}"
        for part, values in report.items()
    ]
    STORED.write_text("{" + ",\n".join(parts) + "}\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
