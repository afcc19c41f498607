"""Mutated files: whatever a user hands over is read right or refused in one line.

Each reader is given files in which bytes or values were changed. It may raise an RsLowconfError;
if it accepts the file, it has to say what json, sqlite3, pyarrow, PyYAML, rasterio, LightGBM or
onnxruntime reads from the same bytes. Nothing else may be raised, and nothing may hang. A few dozen
mutations run here;

    RSLOW_FUZZ=2000 pytest tests/test_fuzz.py

tries as many per reader.
"""

import csv
import json
import math
import os
import re
import shutil
import sqlite3
import unicodedata
import warnings
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import ANY

import geopandas
import joblib
import lightgbm
import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
import safetensors.torch
import shapely
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DataObject
from rasterio.windows import Window
from sklearn.linear_model import LogisticRegression

from rs_lowconf import strict_yaml
from rs_lowconf.bands import BandSpec
from rs_lowconf.data.catalog.rows import BandFile, CatalogRow, from_table, to_table
from rs_lowconf.data.catalog.sources import list_images
from rs_lowconf.data.catalog.table import Catalog, write_catalog
from rs_lowconf.data.declared import meaning_of
from rs_lowconf.data.left_out import LeftOut
from rs_lowconf.data.plain import read_plain
from rs_lowconf.data.tiles import read_profile, read_window
from rs_lowconf.errors import ModelError, RsLowconfError
from rs_lowconf.estimate.scores import read_scores
from rs_lowconf.grid import Grid
from rs_lowconf.review.reading import read_package
from rs_lowconf.runs import read_checkpoint, write_checkpoint
from rs_lowconf.settings import ForeignModel, GeoPackageData, StacData, target_settings
from rs_lowconf.settings import load as load_settings
from rs_lowconf.target.blackbox import load_black_box
from rs_lowconf.target.load import load_target
from rs_lowconf.target.programs import _weights, load_module
from rs_lowconf.testset.read import read_release
from tests.review_samples import package, sample
from tests.testset_samples import release, reviewed_tiles

MUTATIONS = int(os.environ.get("RSLOW_FUZZ", "40"))
GRID = Grid(crs="EPSG:32633", transform=(10.0, 0.0, 500_000.0, 0.0, -10.0, 5_000_000.0))

Value = Any


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A kind of file, what reads it, and what says whether that was right."""

    make: Callable[[Path], list[str]]
    """Writes a folder and returns the files to mutate."""
    read: Callable[[Path], Value]
    """Reads the folder by our code."""
    oracle: Callable[[Path], Value]
    """Reads it by another library, and returns the same where that succeeds."""


# Mutations

ODD: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, -1, 0, 1, 2**31, 2**63, 10**400, 0.5, 1e308, float("nan"), float("inf"), "", " ",
     "\0", "a", "1", "é", "../x", "/", "2026-13-45", [], {}, [None], {"a": None}, [[[[]]]],
     "x" * 5000]
)  # fmt: skip


def mutated_bytes(data: DataObject, content: bytes) -> bytes:
    """Change, insert, delete or repeat a few bytes, or cut the end."""
    for _ in range(data.draw(st.integers(1, 3), "edits")):
        # By itself hypothesis seldom looks beyond the first bytes.
        at = Random(data.draw(st.integers(0, 2**32), "at")).randrange(len(content) or 1)
        some = data.draw(
            st.one_of(
                st.binary(min_size=1, max_size=4),
                st.sampled_from([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f", b"\x80", b"-1", b"\n"]),
            ),
            "bytes",
        )
        kind = data.draw(st.sampled_from(["set", "insert", "delete", "repeat", "cut"]), "edit")
        if kind == "set":
            content = content[:at] + some + content[at + len(some) :]
        elif kind == "insert":
            content = content[:at] + some + content[at:]
        elif kind == "delete":
            content = content[:at] + content[at + len(some) * 4 :]
        elif kind == "repeat":
            content = content[: at + 40] + content[at:]
        else:
            content = content[:at]
    return content


def mutated_tree(data: DataObject, tree: Value) -> Value:
    """Change, drop or add a value somewhere in JSON."""
    if not isinstance(tree, dict | list) or not tree or data.draw(st.integers(0, 3)) == 0:
        return data.draw(ODD, "value")
    if isinstance(tree, dict):
        key = data.draw(st.sampled_from(sorted(tree)), "key")
        rest = {name: value for name, value in tree.items() if name != key}
        if data.draw(st.booleans(), "drop"):
            return rest
        return {**rest, key: mutated_tree(data, tree[key])}
    at = data.draw(st.integers(0, len(tree) - 1), "at")
    if data.draw(st.booleans(), "twice"):
        return [*tree, tree[at]]
    return [*tree[:at], mutated_tree(data, tree[at]), *tree[at + 1 :]]


def mutated_database(data: DataObject, path: Path) -> None:
    """Change values, names and types by SQL."""
    with closing(sqlite3.connect(path)) as database, database:
        tables = [
            name
            for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            if not name.startswith(("sqlite_", "rtree"))
        ]
        table = data.draw(st.sampled_from(sorted(tables)), "table")
        columns = [row[1] for row in database.execute(f'PRAGMA table_info("{table}")')]
        column = data.draw(st.sampled_from(columns), "column")
        value = data.draw(
            st.sampled_from([None, "", "a", "1", -1, 0, 2.5, 1e308, 2**62, b"\xff", b"", "é\0"]),
            "value",
        )
        # Triggers of the format would refuse what broken programs write.
        for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'"):
            database.execute(f'DROP TRIGGER "{name}"')
        statement = data.draw(
            st.sampled_from(
                [
                    f'UPDATE "{table}" SET "{column}" = ?1',  # noqa: S608
                    f'UPDATE "{table}" SET "{column}" = ?1 WHERE rowid = 1',  # noqa: S608
                    f'DELETE FROM "{table}" WHERE rowid = 1',  # noqa: S608
                    f'ALTER TABLE "{table}" RENAME COLUMN "{column}" TO "other"',
                    f'ALTER TABLE "{table}" RENAME TO "other"',
                    f'DROP TABLE "{table}"',
                ]
            ),
            "statement",
        )
        try:
            database.execute(statement, (value,) if "?1" in statement else ())
        except sqlite3.Error:
            database.rollback()


def mutate(data: DataObject, path: Path) -> None:
    """Change a file as it is kept: by values where it holds some, or by bytes."""
    values = data.draw(st.booleans(), "values")
    if path.suffix == ".gpkg" and values:
        mutated_database(data, path)
    elif path.suffix == ".json" and values:
        tree = mutated_tree(data, json.loads(path.read_text(encoding="utf-8")))
        path.write_text(json.dumps(tree), encoding="utf-8")
    elif path.suffix == ".parquet" and values:
        mutated_table(data, path)
    else:
        path.write_bytes(mutated_bytes(data, path.read_bytes()))


def mutated_table(data: DataObject, path: Path) -> None:
    """Drop, rename, retype or empty a column, or repeat rows."""
    table = pq.read_table(path)
    at = data.draw(st.integers(0, table.num_columns - 1), "column")
    name, column = table.column_names[at], table.column(at)
    kind = data.draw(st.sampled_from(["drop", "rename", "null", "text", "number", "rows"]), "edit")
    if kind == "drop":
        table = table.drop_columns([name])
    elif kind == "rename":
        table = table.rename_columns(
            [data.draw(st.sampled_from([*table.column_names, ""]), "name") if i == at else own
             for i, own in enumerate(table.column_names)]
        )  # fmt: skip
    elif kind == "rows":
        some = data.draw(st.lists(st.integers(0, len(table) - 1), max_size=4), "rows")
        table = table.take(pa.array(some, pa.int64()))
    else:
        value = {"null": None, "text": "é", "number": 1.5}[kind]
        new = [value] * len(column)
        table = table.set_column(at, name, [new])
    pq.write_table(table, path)


# Readers


def make_package(folder: Path) -> list[str]:
    package(folder / "review", [sample(number, ("B02", "B03", "B04")) for number in range(2)])
    with closing(sqlite3.connect(folder / "review" / "review.gpkg")) as database, database:
        database.execute(
            "UPDATE review SET decision = 'accept', true_class = 'Forest', realism = 4,"
            " reviewer = 'Ada', reviewed_ms = 1790000000000 WHERE sample_id = 's0000'"
        )
    return ["review/manifest.json", "review/review.gpkg"]


def package_read(folder: Path) -> Value:
    found = read_package(folder / "review")
    return found.package_id, found.label, list(found.classes), [vars(a) for a in found.answers]


def package_oracle(folder: Path) -> Value:
    manifest = json.loads((folder / "review" / "manifest.json").read_bytes())
    with closing(sqlite3.connect(folder / "review" / "review.gpkg")) as database:
        database.row_factory = sqlite3.Row
        rows = list(database.execute("SELECT * FROM review ORDER BY rowid"))
    answers = [
        {
            "sample_id": row["sample_id"],
            "decision": row["decision"],
            "true_class": row["true_class"] if row["decision"] == "accept" else None,
            "realism": row["realism"],
            "comment": row["comment"] or "",
            "reviewer": (row["reviewer"] or "").strip(),
            "reviewed_ms": row["reviewed_ms"] or 0,
        }
        for row in rows
    ]
    return manifest["package_id"], manifest["label"], manifest["classes"], answers


def make_geopackage(folder: Path) -> list[str]:
    frame = geopandas.GeoDataFrame(
        {
            "id": ["one", "two"],
            "location": ["a/one.tif", "a/two.tif"],
            "label": ["Forest", None],
            "split": ["train", "val"],
            "datetime": [datetime(2026, 1, 2, tzinfo=UTC)] * 2,
            "dn_offset": [-1000.0, 0.0],
        },
        geometry=[shapely.box(13, 48, 14, 49), shapely.box(14, 48, 15, 49)],
        crs="EPSG:4326",
    )
    frame.to_file(folder / "index.gpkg", layer="index")
    return ["index.gpkg"]


def geopackage_read(folder: Path) -> Value:
    chosen = GeoPackageData(root=folder / "index.gpkg", layer="index")
    return [
        (image.name, image.files[0].href, image.label, [one.value for one in image.said])
        for image in list_images(chosen, LeftOut(skip_bad=False))
    ]


def geopackage_oracle(folder: Path) -> Value:
    with closing(sqlite3.connect(folder / "index.gpkg")) as database:
        there = {row[1] for row in database.execute('PRAGMA table_info("index")')}
        # All but the location may be missing.
        id_, label, offset = (
            name if name in there else "NULL" for name in ("id", "label", "dn_offset")
        )
        rows = list(
            database.execute(
                f'SELECT {id_}, location, {label}, {offset} FROM "index" ORDER BY rowid'  # noqa: S608
            )
        )
    return [
        (
            text(name) or str(Path(href).with_suffix("")),
            str(folder / href),
            text(label),
            [] if offset is None else [float(offset)],
        )
        for name, href, label, offset in rows
    ]


def text(value: Value) -> str | None:
    return None if value in (None, b"") or not str(value).strip() else str(value).strip()


def make_catalog(folder: Path) -> list[str]:
    rows = [
        CatalogRow(
            tile_id=f"tiles/{name}",
            collection="tiles",
            files=(BandFile(href=f"/data/{name}.tif", bands=("B02", "B03")),),
            window=(0, 0, 32, 32),
            bands=BandSpec(names=("B02", "B03"), level="L2A", dn_offset=-1000.0),
            grid=GRID,
            valid=1.0,
            sha256="0" * 64,
            taken=datetime(2026, 1, 2, tzinfo=UTC),
            label=name,
            split="test",
        )
        for name in ("one", "two", "three")
    ]
    write_catalog(folder / "catalog.parquet", [to_table(rows)])
    return ["catalog.parquet"]


def catalog_read(folder: Path) -> Value:
    catalog = Catalog(folder / "catalog.parquet")
    rows = [row for table in catalog.tables() for row in from_table(table)]
    assert len(rows) == len(catalog)
    return [
        (row.tile_id, list(row.window), row.label, row.bands.scale, row.bands.dn_offset, row.sha256)
        for row in rows
    ]


def catalog_oracle(folder: Path) -> Value:
    table = pq.read_table(folder / "catalog.parquet")
    return [
        (str(row["id"]), row["rslow:window"], label_of(row), row["rslow:scale"],
         row["rslow:dn_offset"], str(row["rslow:sha256"]))
        for row in table.to_pylist()
    ]  # fmt: skip


def label_of(row: dict[str, Value]) -> str | None:
    label = row.get("rslow:label")
    return None if label is None else class_of(label)


def make_stac(folder: Path) -> list[str]:
    links = []
    for name in ("one", "two"):
        item = {
            "type": "Feature", "stac_version": "1.0.0", "stac_extensions": [], "id": name,
            "geometry": shapely.geometry.mapping(shapely.box(13, 48, 14, 49)),
            "bbox": [13, 48, 14, 49],
            "properties": {"datetime": "2026-01-02T10:00:00Z", "processing:level": "L2A"},
            "links": [],
            "assets": {
                band: {"href": f"./{name}_{band}.tif", "type": "image/tiff; application=geotiff",
                       "roles": ["data"], "raster:bands": [{"scale": 0.0001, "offset": -0.1}]}
                for band in ("B02", "B03")
            },
        }  # fmt: skip
        (folder / f"{name}.json").write_text(json.dumps(item))
        links.append({"rel": "item", "href": f"./{name}.json", "type": "application/geo+json"})
    catalog = {"type": "Catalog", "stac_version": "1.0.0", "id": "c", "description": "d",
               "links": links}  # fmt: skip
    (folder / "catalog.json").write_text(json.dumps(catalog))
    return ["catalog.json", "one.json", "two.json"]


def stac_read(folder: Path) -> Value:
    chosen = StacData(root=folder / "catalog.json")
    found = []
    for image in list_images(chosen, LeftOut(skip_bad=False)):
        meaning = meaning_of(chosen, image.said)
        found.append((image.name, round(meaning.scale, 6), round(meaning.dn_offset, 6)))
    return found


def stac_oracle(folder: Path) -> Value:
    """Return the items that the catalog names; what one says of its numbers where it is whole."""
    root = json.loads((folder / "catalog.json").read_bytes())
    links = dict.fromkeys(link["href"] for link in root["links"] if link["rel"] == "item")
    found: list[Value] = []
    for href in links:
        item = json.loads((folder / href).read_bytes())
        numbers: tuple[Value, Value] = (ANY, ANY)
        with suppress(LookupError, TypeError, ValueError, ArithmeticError):
            bands = [asset["raster:bands"][0] for asset in item["assets"].values()]
            (said,) = {(band["scale"], band["offset"]) for band in bands}
            numbers = round(1 / said[0], 6), round(said[1] / said[0], 6)
        found.append((item["id"], *numbers))
    return found


def make_yaml(folder: Path) -> list[str]:
    (folder / "settings.yaml").write_text(
        "run: {dir: runs/a, seed: 3}\n"
        "data:\n"
        "  kind: folder\n"
        "  root: tiles  # a comment\n"
        "  dn_offset: -1000.0\n"
        "  classes: [Forest, 'NO', \"010\"]\n"
        "search: &a\n"
        "  tau: 0.6\n"
        "  conditions: null\n"
        "estimate:\n"
        "  surrogates:\n"
        "  - a.csv\n"
        "  - b.parquet\n"
    )
    return ["settings.yaml"]


def yaml_read(folder: Path) -> Value:
    path = folder / "settings.yaml"
    load_settings(path)
    return strict_yaml.read(path.read_text(encoding="utf-8"), "here").value


def yaml_oracle(folder: Path) -> Value:
    return yaml.safe_load((folder / "settings.yaml").read_text(encoding="utf-8"))


def make_tiff(folder: Path) -> list[str]:
    names = []
    for name, options in (("plain", {}), ("deflated", {"compress": "deflate", "tiled": False})):
        pixels = np.random.default_rng(3).integers(1, 4000, (2, 16, 16), dtype=np.uint16)
        with rasterio.open(
            folder / f"{name}.tif", "w", driver="GTiff", count=2, height=16, width=16,
            dtype="uint16", crs="EPSG:32633", transform=rasterio.Affine(10, 0, 5e5, 0, -10, 5e6),
            nodata=0, **options,
        ) as file:  # fmt: skip
            file.write(pixels)
            file.descriptions = ("B02", "B03")
        names.append(f"{name}.tif")
    return names


def tiff_read(folder: Path) -> Value:
    found: list[Value] = []
    for path in sorted(folder.glob("*.tif")):
        profile = read_profile(path)
        numbers = read_window(path, Window(0, 0, 16, 16))
        read_plain(path, 100_000)
        found.append((profile.count, profile.height, profile.width, numbers.tobytes()))
    return found


def tiff_oracle(folder: Path) -> Value:
    found: list[Value] = []
    for path in sorted(folder.glob("*.tif")):
        with rasterio.open(path) as file:
            numbers = file.read(window=Window(0, 0, 16, 16))
            found.append((file.count, file.height, file.width, numbers.tobytes()))
    return found


TABLE = {
    "id": ["a", "b", "c"],
    "predicted": ["Forest", "Water", "Forest"],
    "confidence": [0.5, 0.25, 1.0],
    "label": ["Forest", None, "Water"],
    "group": ["1", "1", "2"],
    "note": ["x", "y", "z"],
}


def make_parquet(folder: Path) -> list[str]:
    pd.DataFrame(TABLE).to_parquet(folder / "scores.parquet")
    return ["scores.parquet"]


def make_csv(folder: Path) -> list[str]:
    pd.DataFrame(TABLE).to_csv(folder / "scores.csv", index=False)
    return ["scores.csv"]


def table_read(folder: Path) -> Value:
    (path,) = folder.glob("scores.*")
    scores = read_scores(path)
    return [
        (name, predicted, round(1 - doubt, 9))
        for name, predicted, doubt in zip(scores.ids, scores.predicted, scores.doubt, strict=True)
    ]


def table_oracle(folder: Path) -> Value:
    (path,) = folder.glob("scores.*")
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if any(row.values())]
    else:
        rows = pq.read_table(path).to_pylist()
    return [
        (str(row["id"]), class_of(row["predicted"]), round(float(row["confidence"]), 9))
        for row in rows
    ]


def class_of(value: Value) -> str:
    """Return the name of a class as all tables are read: without blanks around it, composed."""
    return unicodedata.normalize("NFC", str(value)).strip()


def make_release(folder: Path) -> list[str]:
    release(folder / "set", reviewed_tiles(folder / "store", 2))
    return ["set/release.json", "set/labels.parquet", "set/SHA256SUMS"]


def release_read(folder: Path) -> Value:
    found = read_release(folder / "set")
    return [(tile.sample_id, tile.class_name, tile.sha256) for tile in found.tiles]


def release_oracle(folder: Path) -> Value:
    rows = pq.read_table(folder / "set" / "labels.parquet").to_pylist()
    return [(row["sample_id"], row["class_name"], row["sha256"]) for row in rows]


def make_checkpoint(folder: Path) -> list[str]:
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.int64)}
    write_checkpoint(folder / "net.safetensors", "classifier", tensors, {"classes": ["a", "b"]})
    return ["net.safetensors"]


def checkpoint_read(folder: Path) -> Value:
    tensors, _ = read_checkpoint(folder / "net.safetensors", "classifier")
    return {name: value.tolist() for name, value in tensors.items()}


def checkpoint_oracle(folder: Path) -> Value:
    tensors = safetensors.torch.load((folder / "net.safetensors").read_bytes())
    return {name: value.tolist() for name, value in tensors.items()}


def make_weights(folder: Path) -> list[str]:
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.int64)}
    torch.save({"state_dict": tensors}, folder / "net.pth")
    return ["net.pth"]


def weights_read(folder: Path) -> Value:
    weights = _weights(folder / "net.pth", trust_code=False)
    return {name: value.tolist() for name, value in weights.items()}


def weights_oracle(folder: Path) -> Value:
    weights = torch.load(folder / "net.pth", weights_only=True)
    weights = weights.get("state_dict", weights.get("model", weights))
    return {name: value.tolist() for name, value in weights.items()}


def tiles() -> torch.Tensor:
    """Return tiles to ask targets about, two of three bands and four pixels."""
    return torch.rand((2, 3, 2, 2), generator=torch.Generator().manual_seed(3))


def target_at(kind: str, path: Path, **changes: Value) -> ForeignModel:
    found = target_settings(
        {"kind": kind, "path": path, "bands": ["B02", "B03", "B04"], "level": "L2A",
         "classes": ["a", "b", "c"], **changes}
    )  # fmt: skip
    assert isinstance(found, ForeignModel)
    return found


def asked(settings: ForeignModel) -> Value:
    """Return what a black box says, which has passed the checks of the adapter."""
    load_target(settings, Path(), trust_code=False, tile_size=2, device=torch.device("cpu"))
    function = load_black_box(settings, trust_code=False, device=torch.device("cpu"))
    said = function(tiles())
    assert isinstance(said, torch.Tensor)
    return said.tolist()


def make_booster(folder: Path) -> list[str]:
    rng = np.random.default_rng(3)
    x = rng.random((60, 3))
    x[:, 2] = rng.integers(0, 4, 60)
    y = np.digitize(x[:, 0] + x[:, 1] + (x[:, 2] % 2), [0.7, 1.2])
    options = {"objective": "multiclass", "num_class": 3, "verbose": -1, "num_threads": 1,
               "min_data_in_leaf": 5, "min_data_per_group": 1, "cat_smooth": 1}  # fmt: skip
    table = lightgbm.Dataset(x, y, categorical_feature=[2])
    lightgbm.train(options, table, 2).save_model(folder / "model.txt")
    return ["model.txt"]


def booster_read(folder: Path) -> Value:
    path = folder / "model.txt"
    return asked(target_at("lightgbm", path, rows="pixel", output="probabilities"))


def booster_oracle(folder: Path) -> Value:
    # With the sizes of its trees or what follows them LightGBM may end this process.
    trees, end, _ = (folder / "model.txt").read_bytes().partition(b"\nend of trees\n")
    lines = (trees + end).split(b"\n")
    (folder / "unsized.txt").write_bytes(
        b"\n".join(line for line in lines if not line.startswith(b"tree_sizes="))
    )
    booster = lightgbm.Booster(model_file=folder / "unsized.txt")
    pixels = tiles().numpy().transpose(0, 2, 3, 1).reshape(-1, 3)
    said = np.asarray(booster.predict(pixels, num_threads=1))
    return said.reshape(2, 2, 2, 3).transpose(0, 3, 1, 2).tolist()


def make_onnx(folder: Path) -> list[str]:
    rng = np.random.default_rng(3)
    weights = rng.normal(size=(3, 3, 1, 1)).astype(np.float32)
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["b", 3, 2, 2])
        for name in ("x", "y")
    ]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Conv", ["x", "w"], ["y"])],
        "net",
        ends[:1],
        ends[1:],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    opset = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=9)
    onnx.save(model, folder / "model.onnx")
    return ["model.onnx"]


def onnx_read(folder: Path) -> Value:
    return asked(target_at("onnx", folder / "model.onnx"))


def onnx_oracle(folder: Path) -> Value:
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    (given,) = session.get_inputs()
    (said,) = session.run(None, {given.name: tiles().numpy()})
    return said.astype(np.float64).tolist()


READERS = {
    "package": Reader(make=make_package, read=package_read, oracle=package_oracle),
    "geopackage": Reader(make=make_geopackage, read=geopackage_read, oracle=geopackage_oracle),
    "catalog": Reader(make=make_catalog, read=catalog_read, oracle=catalog_oracle),
    "stac": Reader(make=make_stac, read=stac_read, oracle=stac_oracle),
    "yaml": Reader(make=make_yaml, read=yaml_read, oracle=yaml_oracle),
    "tiff": Reader(make=make_tiff, read=tiff_read, oracle=tiff_oracle),
    "table, Parquet": Reader(make=make_parquet, read=table_read, oracle=table_oracle),
    "table, CSV": Reader(make=make_csv, read=table_read, oracle=table_oracle),
    "release": Reader(make=make_release, read=release_read, oracle=release_oracle),
    "checkpoint": Reader(make=make_checkpoint, read=checkpoint_read, oracle=checkpoint_oracle),
    "weights": Reader(make=make_weights, read=weights_read, oracle=weights_oracle),
    "booster": Reader(make=make_booster, read=booster_read, oracle=booster_oracle),
    "onnx": Reader(make=make_onnx, read=onnx_read, oracle=onnx_oracle),
}

_number = count()


@pytest.mark.parametrize("name", READERS)
def test_the_unchanged_file_is_read_right(name: str, tmp_path: Path) -> None:
    """Each reader and its oracle agree on the file before it is mutated."""
    READERS[name].make(tmp_path)
    assert same(READERS[name].read(tmp_path), READERS[name].oracle(tmp_path))


@pytest.mark.filterwarnings("ignore")  # of libraries, about damaged files
@pytest.mark.timeout(0 if MUTATIONS > 100 else 300)
@pytest.mark.parametrize("name", READERS)
def test_a_mutated_file_is_read_right_or_refused(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """An RsLowconfError of one line, or what the oracle reads from the same bytes."""
    reader = READERS[name]
    original = tmp_path_factory.mktemp("original")
    files = reader.make(original)
    place = tmp_path_factory.mktemp("mutated")

    @given(data=st.data())
    @settings(
        max_examples=MUTATIONS,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        derandomize=MUTATIONS <= 100,
    )
    def check(data: DataObject) -> None:
        folder = place / str(next(_number))
        shutil.copytree(original, folder)
        try:
            mutate(data, folder / data.draw(st.sampled_from(files), "file"))
            refused = found = None
            try:
                found = reader.read(folder)
            except RsLowconfError as error:
                refused = str(error)
            if refused is None:
                assert same(found, reader.oracle(folder))
            else:
                assert "\n" not in refused
        finally:
            shutil.rmtree(folder)

    check()


def write_export(path: Path) -> None:
    program = torch.export.export(torch.nn.Conv2d(3, 3, 1), (tiles(),))
    # It asks for a name of its own.
    torch.export.save(program, path.with_suffix(".pt2"))
    path.with_suffix(".pt2").rename(path)


def write_torchscript(path: Path) -> None:
    with warnings.catch_warnings():
        # Writing it is deprecated; the test has to write what people still have.
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Conv2d(3, 3, 1)), path)


def write_estimator(path: Path) -> None:
    rng = np.random.default_rng(3)
    joblib.dump(LogisticRegression().fit(rng.random((30, 3)), np.arange(30) % 3), path)


@pytest.mark.filterwarnings("ignore")  # of libraries, about damaged files
@pytest.mark.parametrize(
    ("kind", "write"),
    [("export", write_export), ("torchscript", write_torchscript), ("sklearn", write_estimator)],
)
def test_a_cut_program_is_refused(
    kind: str, write: Callable[[Path], object], tmp_path: Path
) -> None:
    """Other changes of such files may run any code, which is why they need trust."""
    whole, path = tmp_path / "whole", tmp_path / "cut"
    write(whole)
    content = whole.read_bytes()
    settings, cpu = target_at(kind, path), torch.device("cpu")
    load: Callable[..., object] = load_black_box if kind == "sklearn" else load_module
    lengths = Random(3).choices(range(len(content)), k=MUTATIONS // 4)
    for length in (0, 1, len(content) // 2, len(content) - 1, *lengths):
        path.write_bytes(content[:length])
        with pytest.raises(ModelError, match=re.escape(str(path))) as caught:
            load(settings, trust_code=True, device=cpu)
        assert "\n" not in str(caught.value)


def same(found: Value, due: Value) -> bool:
    """Return whether two trees of values are equal, NaN to itself."""
    if isinstance(found, dict) and isinstance(due, dict):
        return found.keys() == due.keys() and all(same(found[key], due[key]) for key in found)
    if isinstance(found, list | tuple) and isinstance(due, list | tuple):
        return len(found) == len(due) and all(map(same, found, due))
    if isinstance(found, float) and isinstance(due, str):
        return same(found, float(due))  # 1e3 is text for PyYAML alone
    if isinstance(found, float) and isinstance(due, float) and math.isnan(due):
        return math.isnan(found)
    return bool(due == found)  # in this order, for ANY
