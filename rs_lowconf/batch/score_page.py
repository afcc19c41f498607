"""The page of the job `score`: how sure the target is, and the tiles that it is least sure of."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64
from matplotlib.figure import Figure

from rs_lowconf.batch.choose import tau_of
from rs_lowconf.batch.jobs import TargetOf, rows_of
from rs_lowconf.batch.status import Problem, problems
from rs_lowconf.data.catalog.reading import read_row, reflectance
from rs_lowconf.data.catalog.table import Catalog
from rs_lowconf.errors import DataError
from rs_lowconf.pages.pictures import plot, tile_picture
from rs_lowconf.pages.rendering import made, target_facts
from rs_lowconf.pages.result import Part, Result, Tile, write_result
from rs_lowconf.percents import percent
from rs_lowconf.plot_style import BLUE, panels
from rs_lowconf.runs import sha256_of
from rs_lowconf.settings import Settings
from rs_lowconf.stored import stored_numbers
from rs_lowconf.target.origin import origin_of
from rs_lowconf.vocabulary import class_name

MOST_TILES = 100
"""Least sure tiles that are shown."""
MOST_ROWS = 20
"""Rows of a table; a catalog may have thousands of scenes."""
_SIDE = 256
"""Longest side of a composite, in pixels."""
_WINDOW = re.compile(r"_r\d+_c\d+$")
"""End of a tile's id in catalogs that we build: its place in the image."""
_UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """What a job of `score` found, as its page tells it."""

    scores: geopandas.GeoDataFrame
    """See `collect.placed`."""
    tau: float
    """Confidence below which the target counts as unsure."""
    failed: Sequence[Problem]
    """Why tiles have no score."""
    tiles: Sequence[Tile]
    """The least sure ones below tau, lowest confidence first, those whose imagery is at hand."""
    absent: int
    """How many of the least sure ones have no imagery on this disk."""


def write_score_page(
    folder: Path,
    scores: geopandas.GeoDataFrame,
    catalog: Catalog,
    settings: Settings,
    target: TargetOf,
) -> Path:
    """Write report.html into the folder of a job and return it.

    Args:
        folder: of the job.
        scores: see `collect.placed`.
        catalog: of the job.
        settings: of the run; `search.tau` or its quantile says what is unsure.
        target: that scored.

    Raises:
        OutputError: it cannot be written.
    """
    tau = tau_of(scores["confidence"].to_numpy(), settings.search)
    unsure = scores[scores["confidence"] < tau]
    least = unsure.sort_values(["confidence", "id"]).head(MOST_TILES)
    tiles = [*_tiles(catalog, least)]
    scored = Scored(
        scores=scores,
        tau=tau,
        failed=problems(folder),
        tiles=[tile for tile in tiles if tile is not None],
        absent=sum(tile is None for tile in tiles),
    )
    tested = {
        **target_facts(origin_of(target.settings, target.trained), target.classes),
        "Catalog": catalog.path.name,
        "Its SHA-256": sha256_of(catalog.path),
        "Data": settings.data.attribution,
        "Splits": ", ".join(settings.batch.splits or ("all",)),
        "Collections": ", ".join(settings.batch.collections or ("all",)),
        **made(),
    }
    quantile = settings.search.tau_quantile
    return write_result(folder / "report.html", result_of(scored, tested, quantile))


def result_of(scored: Scored, tested: dict[str, str], quantile: float | None) -> Result:
    """Return what the page tells.

    Args:
        scored: what was found.
        tested: what was tested with what.
        quantile: of the confidences that tau is; None where tau was given.
    """
    scores, tau = scored.scores, scored.tau
    confidence = scores["confidence"].to_numpy()
    below, failed = int((confidence < tau).sum()), sum(one.count for one in scored.failed)
    answer = (
        f"The target's confidence is below {percent(tau)} on {below:,} of {len(scores):,} scored "
        f"tiles ({percent(below / len(scores))})"
    )
    if failed:
        answer += f"; {failed:,} tiles have no score"
    notes = [
        "The confidence is what the model says of itself. How often it is wrong, only labelled "
        "tiles tell.",
    ]
    if quantile is not None:
        notes.append(
            f"The limit is the {percent(quantile)} quantile of these confidences "
            "(search.tau_quantile), so the share below it was chosen, not found."
        )
    days = _days(scores)
    plots = [plot(_histogram(confidence, tau), "Confidence of the target in all scored tiles.")]
    if days[days != _UNKNOWN].nunique() > 2:
        caption = "Each point is a date; larger points have more tiles."
        plots.append(plot(_by_date(days, confidence < tau), caption))
    return Result(
        title="Confidence of the target in a catalog",
        answer=f"{answer}.",
        tested=tested,
        notes=notes,
        parts=[
            Part(title="How sure the target is", plots=plots),
            *_tables(scores, days, tau),
            *_least_sure(scored, below),
            *failures(scored.failed),
        ],
    )


def _tables(scores: geopandas.GeoDataFrame, days: "pd.Series[str]", tau: float) -> Iterator[Part]:
    """Yield where the target is unsure: by prediction, date, scene and collection."""
    scenes = scores["id"].str.replace(_WINDOW, "", regex=True)
    columns = {"prediction": scores["predicted"].map(class_name), "date": days, "scene": scenes}
    columns["collection"] = scores["collection"]
    for name, values in columns.items():
        groups = values.nunique()
        if name == "scene" and groups == len(scores):
            yield Part(title="By scene", text=["Every tile is an image of its own."])
        elif name == "date" and (days == _UNKNOWN).all():
            yield Part(title="By date", text=["No tile has a date."])
        elif groups > 1 or name != "collection":
            yield _by(name, values, scores["confidence"], tau)


def _by(name: str, values: "pd.Series[str]", confidence: "pd.Series[float]", tau: float) -> Part:
    """Return a table of the groups of tiles that have most tiles below tau."""
    frame = pd.DataFrame(
        {"name": values.fillna(_UNKNOWN), "confidence": confidence, "below": confidence < tau}
    )
    groups = frame.groupby("name").agg(
        tiles=("below", "size"), below=("below", "sum"), lowest=("confidence", "min")
    )
    groups = groups.assign(share=groups["below"] / groups["tiles"])
    first = groups.sort_values(["below", "share", "tiles"], ascending=False).head(MOST_ROWS)
    heads = (name, "tiles", f"below {percent(tau)}", "share", "lowest confidence")
    rows = [
        (
            str(row.Index),
            f"{row.tiles:,}",
            f"{row.below:,}",
            percent(row.share, 1),
            percent(row.lowest, 1),
        )
        for row in first.itertuples()
    ]
    text = []
    if len(groups) > len(first):
        text.append(f"The {len(first)} of {len(groups):,} with most tiles below {percent(tau)}.")
    return Part(title=f"By {name}", text=text, table=[heads, *rows])


def _least_sure(scored: Scored, below: int) -> Iterator[Part]:
    """Yield the least sure tiles, and how many there are beside them."""
    if not below:
        lowest = percent(float(scored.scores["confidence"].min()))
        text = [f"No tile is below {percent(scored.tau)}; the lowest confidence is {lowest}."]
    elif below > MOST_TILES:
        text = [
            f"The {MOST_TILES} least sure of {below:,} tiles below {percent(scored.tau)}, lowest "
            "confidence first; scores.parquet has all."
        ]
    else:
        text = [f"All {below:,} tiles below {percent(scored.tau)}, lowest confidence first."]
    if scored.absent:
        text.append(f"{scored.absent:,} of them are not shown: their imagery is not on this disk.")
    yield Part(title="The least sure tiles", text=text, tiles=scored.tiles, wide=True)


def failures(failed: Sequence[Problem]) -> Iterator[Part]:
    """Yield why tiles of a job have no result."""
    if not failed:
        return
    rows = [(one.text, f"{one.count:,}", one.example) for one in failed[:MOST_ROWS]]
    text = ["The job went on without them; they can be tried again."]
    if len(failed) > MOST_ROWS:
        text.append(f"The {MOST_ROWS} most frequent of {len(failed):,} problems; errors/ has all.")
    heads = ("problem", "tiles", "such as")
    yield Part(title="Tiles that failed", text=text, table=[heads, *rows], wide=True)


def _tiles(catalog: Catalog, scores: geopandas.GeoDataFrame) -> Iterator[Tile | None]:
    """Yield tiles with their pictures, None for those whose imagery is not at hand."""
    rows = rows_of(catalog, [*scores["id"]])
    for row, score in zip(rows, scores.to_dict("records"), strict=True):
        # Nothing is fetched for a picture.
        if not all(Path(file.href).is_file() for file in row.files):
            yield None
            continue
        try:
            pixels = stored_numbers(reflectance(row, read_row(row), row.bands)).numpy()
        except DataError:  # gone or changed since it was scored
            yield None
            continue
        predicted, label = class_name(score["predicted"]), class_name(score["label"])
        taken = row.taken.date().isoformat() if row.taken is not None else "date unknown"
        yield Tile(
            title=f"{predicted}?",
            share=percent(score["confidence"]),
            picture=tile_picture(pixels, row.bands, row.tile_id, side=_SIDE),
            lines=[
                f"Second choice {class_name(score['second'])}"
                + (f", label {label}" if label else ""),
                f"{row.tile_id}, {taken}, {score['lat']:.4f}, {score['lon']:.4f}",
            ],
        )


def _days(scores: geopandas.GeoDataFrame) -> "pd.Series[str]":
    """Return the date of each tile as text, in UTC."""
    return pd.to_datetime(scores["datetime"], utc=True).dt.strftime("%Y-%m-%d").fillna(_UNKNOWN)


def _histogram(confidence: Float64[np.ndarray, " n"], tau: float) -> Figure:
    figure, (axes,) = panels(6.4, 3.2)
    axes.hist(confidence, bins=np.linspace(0, 1, 51).tolist(), color=BLUE)
    axes.axvline(tau, color="black", lw=1, ls=":", label=percent(tau))
    axes.set_xlabel("confidence of the target")
    axes.set_ylabel("tiles")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_major_formatter(lambda share, _: percent(share))
    axes.set_xlim(0, 1)
    axes.legend(frameon=False)
    return figure


def _by_date(days: "pd.Series[str]", below: Bool[np.ndarray, " n"]) -> Figure:
    known = pd.DataFrame({"day": days, "below": below})[days != _UNKNOWN]
    groups = known.groupby("day")["below"].agg(["mean", "size"])
    figure, (axes,) = panels(6.4, 3.2)
    sizes = 4 + 60 * groups["size"] / groups["size"].max()
    # Clear, because years have hundreds of dates.
    axes.scatter(
        pd.to_datetime(groups.index), groups["mean"], s=sizes, color=BLUE, alpha=0.35, lw=0
    )
    axes.set_ylabel("share of tiles below the limit")
    axes.yaxis.set_major_formatter(lambda share, _: percent(share))
    axes.set_ylim(bottom=0)
    axes.tick_params(axis="x", rotation=30)
    return figure
