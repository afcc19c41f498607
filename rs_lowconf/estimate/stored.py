"""A draw on disk: the pool as it was, the units to label, and checksums that hold both fast.

```
pool.parquet   id, predicted, g, features, group of every unit
draw-1.json    the units of the first wave in order, with their chances; so are all others
labels-1.csv   to fill in, where units are no tiles of a catalog
```

Who labels must not choose what is labelled, and who estimates must not choose what was drawn:
a draw is a function of pool and seed, and a file that was changed since is refused.
"""

import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rs_lowconf.class_map import PLAIN, ClassMap
from rs_lowconf.csvs import text_table
from rs_lowconf.errors import DataError, RsLowconfError, SettingsError
from rs_lowconf.estimate.draws import Draw, Pool, new_name
from rs_lowconf.estimate.prepare import Prepared
from rs_lowconf.estimate.waves import (
    DrawnPool,
    MissingLabelsError,
    Request,
    check_complete,
    check_known,
)
from rs_lowconf.runs import replacing, sha256_of, write_json
from rs_lowconf.vocabulary import UNCLEAR, class_list, class_name

FORMAT = 1
_POOL = "pool.parquet"
_UNIT = ("id", "row", "chance")
"""What files say of every unit; the rest are columns of the design."""
_DRAW = (
    *("format", "design", "labels", "defensive", "seed", "wave", "waves", "before"),
    *("pool_sha256", "population", "largest_ratio", "expected_ratio", "units"),
)
"""What files say of every draw; the rest are constants of the design."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredPool:
    """A pool as it was when it was drawn from."""

    units: DrawnPool
    sha256: str
    """Checksum of its file."""


def write_pool(folder: Path, prepared: Prepared) -> StoredPool:
    """Write the pool beside its draws and return it.

    Raises:
        OutputError: the file cannot be written.
    """
    pool, features = prepared.pool, prepared.pool.features
    class_map = prepared.scores.class_map
    table = pa.table(
        {
            "id": pa.array(prepared.scores.ids, pa.string()),
            "predicted": pa.array(prepared.scores.predicted, pa.string()),
            "g": pool.g,
            **(
                {}
                if features is None
                else {f"feature_{i}": features[:, i] for i in range(features.shape[1])}
            ),
            **(
                {}
                if prepared.scores.group is None
                else {"group": pa.array(prepared.scores.group, pa.string())}
            ),
        }
    )
    about = {
        "format": FORMAT,
        "classes": prepared.classes,
        "validated": prepared.validation is not None,
        **({"class_map": dict(class_map.names)} if class_map.names else {}),
    }
    table = table.replace_schema_metadata({"rs_lowconf": json.dumps(about)})
    with replacing(folder / _POOL) as temporary:
        pq.write_table(table, temporary)
    return read_pool(folder)


def read_pool(folder: Path) -> StoredPool:
    """Return the pool of a folder of draws.

    Raises:
        DataError: it is missing, damaged, or of a newer format.
    """
    path = folder / _POOL
    if not path.is_file():
        raise DataError(f"{folder} holds no draw", command=_draw_again(folder))
    try:
        table = pq.read_table(path)
        about = json.loads((table.schema.metadata or {})[b"rs_lowconf"])
        frame = table.to_pandas()
    except (pa.ArrowException, OSError, KeyError, json.JSONDecodeError) as error:
        raise DataError(f"{path} is damaged ({error})", remedy="draw again") from error
    _check_format(path, about)
    features = [name for name in frame if name.startswith("feature_")]
    units = DrawnPool(
        ids=frame["id"].to_numpy(object),
        classes=class_list(f"the classes of {path}", about["classes"]).names,
        pool=Pool(
            g=frame["g"].to_numpy(np.float64, copy=True),
            predicted=pd.Categorical(frame["predicted"], about["classes"]).codes.astype(np.int64),
            features=frame[features].to_numpy(np.float64) if features else None,
        ),
        group=frame["group"].to_numpy(object) if "group" in frame else None,
        validated=bool(about["validated"]),
        class_map=ClassMap(names=about.get("class_map", {})),
    )
    return StoredPool(units=units, sha256=sha256_of(path))


def write_draw(
    path: Path, request: Request, draw: Draw, stored: StoredPool, *, wave: int, before: str | None
) -> None:
    """Write one wave.

    Args:
        path: the JSON file.
        request: what all waves are of.
        draw: this wave.
        stored: the pool that it was drawn from.
        wave: from 1 on.
        before: checksum of the file of the wave before; None for the first.

    Raises:
        OutputError: the file cannot be written.
    """
    nothing = [None] * len(draw)
    columns = {
        "id": [str(name) for name in stored.units.ids[draw.index]],
        "row": draw.index.tolist(),
        "chance": draw.chance.tolist(),
        # Files of this format have two columns and two constants of every design.
        "stratum": nothing,
        "control": nothing,
        **{name: column.tolist() for name, column in draw.columns.items()},
    }
    values: dict[str, Any] = {
        "format": FORMAT,
        "design": request.design,
        "labels": request.labels,
        "defensive": request.defensive,
        "seed": request.seed,
        "wave": wave,
        "waves": len(request.sizes),
        "before": before,
        "pool_sha256": stored.sha256,
        "population": draw.population,
        "largest_ratio": draw.largest_ratio,
        "expected_ratio": draw.expected_ratio,
        "stratum_sizes": None,
        "control_mean": None,
        **{name: constant.tolist() for name, constant in draw.constants.items()},
        "units": [
            dict(zip(columns, unit, strict=True)) for unit in zip(*columns.values(), strict=True)
        ],
    }
    write_json(path, {**values, "sha256": _checksum(values)})


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredDraw:
    """One wave as its file tells it."""

    request: Request
    draw: Draw
    wave: int
    """From 1 on."""
    before: str | None
    """Checksum of the wave before; None for the first."""
    checksum: str


def read_draw(path: Path, stored: StoredPool) -> StoredDraw:
    """Return a wave.

    Raises:
        DataError: the file is missing, damaged, of a newer format, was changed since, or is of
            another pool.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        checksum = values.pop("sha256")
    except FileNotFoundError as error:
        raise DataError(f"there is no {path}", command=_draw_again(path.parent)) from error
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise DataError(
            f"{path} is no draw ({error})", remedy="restore it, or draw anew"
        ) from error
    _check_format(path, values)
    if checksum != _checksum(values):
        raise DataError(
            f"{path} was changed since it was drawn: its checksum differs",
            expected="the units and chances that the seed gave",
            remedy="restore the file, or draw anew under another --name",
        )
    if values["pool_sha256"] != stored.sha256:
        raise DataError(
            f"{path} was drawn from another pool than the {_POOL} beside it",
            remedy="restore that file, or draw anew under another --name",
        )
    units = {name: [unit[name] for unit in values["units"]] for name in values["units"][0]}
    columns = {name: column for name, column in units.items() if name not in _UNIT}
    constants = {name: constant for name, constant in values.items() if name not in _DRAW}
    draw = Draw(
        design=new_name(values["design"]),
        population=values["population"],
        index=np.array(units["row"], dtype=np.int64),
        chance=np.array(units["chance"], dtype=np.float64),
        largest_ratio=values["largest_ratio"],
        expected_ratio=values["expected_ratio"],
        columns={
            name: np.array(column) for name, column in columns.items() if column[0] is not None
        },
        constants={
            name: np.array(constant) for name, constant in constants.items() if constant is not None
        },
    )
    same = {name: values[name] for name in ("labels", "defensive", "seed")}
    request = Request(design=draw.design, **same)
    return StoredDraw(
        request=request, draw=draw, wave=values["wave"], before=values["before"], checksum=checksum
    )


def write_labels(path: Path, ids: Sequence[str], shown: pd.DataFrame) -> None:
    """Write a table to fill in: nothing in it tells what the target says.

    Args:
        path: the CSV file.
        ids: of the units, each once.
        shown: what may be known of them, one row per unit.

    Raises:
        OutputError: the file cannot be written.
    """
    frame = shown.reset_index(drop=True)
    frame.insert(0, "id", list(ids))
    frame["label"] = ""
    with replacing(path) as temporary:
        frame.to_csv(temporary, index=False)


def read_labels(
    path: Path, ids: Sequence[str], classes: Sequence[str], class_map: ClassMap = PLAIN
) -> dict[str, str | None]:
    """Return the class of each unit; None where the labeller could not tell, written `?`.

    Args:
        path: the CSV file.
        ids: of the units.
        classes: that labels may name, besides those in the map.
        class_map: by whose common names the classes are returned.

    Raises:
        DataError: the file is no table of these units, an id comes twice, a class is unknown,
            or, as `MissingLabelsError`, labels are missing.
    """
    try:
        frame = text_table(path, ("id", "label"))
    except FileNotFoundError as error:
        raise MissingLabelsError(
            f"there is no {path}",
            remedy="restore it, or let the draw write it anew",
            command=_draw_again(path.parent),
        ) from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error})", expected="a CSV table") from error
    if not {"id", "label"} <= set(frame):
        raise DataError(f"{path} has the columns {', '.join(frame)}", expected="id and label")
    twice = frame["id"][frame["id"].duplicated()]
    if len(twice):
        raise DataError(f"{path}: {len(twice)} ids occur more than once, such as {twice.iloc[0]}")
    wanted = set(ids)
    # Foreign units are kept, labelled or not, so that they are found.
    labels = {
        name: class_name(label, class_map.names)
        for name, label in zip(frame["id"], frame["label"], strict=True)
        if class_name(label) is not None or label.strip() == UNCLEAR or name not in wanted
    }
    check_known(labels, ids, class_map.commons((*classes, *class_map.names)), str(path))
    check_complete([name for name in ids if name not in labels], len(ids), str(path))
    return labels


def same_request(known: Request, wanted: Request, folder: Path) -> None:
    """Check that a folder's draw is what the settings ask for.

    Raises:
        SettingsError: it is another one.
    """
    if known != wanted:
        names = ("design", "labels", "defensive", "seed")
        others = [
            f"{name} {getattr(known, name)} instead of {getattr(wanted, name)}"
            for name in names
            if getattr(known, name) != getattr(wanted, name)
        ]
        raise SettingsError(
            f"{folder} holds a draw of {', '.join(others)}",
            remedy="draw the other one under another --name",
        )


def _draw_again(folder: Path) -> str:
    """Return the command whose draw a folder holds."""
    return f"estimate draw --name {shlex.quote(folder.name)}"


def _checksum(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _check_format(path: Path, values: Mapping[str, Any]) -> None:
    newest: RsLowconfError = DataError(
        f"{path} has format {values.get('format')}",
        expected=f"at most {FORMAT}",
        remedy="upgrade rs_lowconf",
    )
    if not isinstance(values.get("format"), int) or values["format"] > FORMAT:
        raise newest
