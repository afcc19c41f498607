"""Pages of results: what they tell is what was found, bounded, inert and complete in one file."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from selenium.webdriver import Chrome

from rs_lowconf.batch import Problem
from rs_lowconf.batch.score_page import MOST_ROWS, MOST_TILES, Scored, result_of
from rs_lowconf.gan.measure import Estimate, Measurement
from rs_lowconf.pages.pictures import picture_of, plot, tile_picture
from rs_lowconf.pages.result import Part, Result, Tile, write_result
from rs_lowconf.percents import percent
from rs_lowconf.plot_style import panels
from rs_lowconf.review.rounds import round_report
from rs_lowconf.shares import share_of
from rs_lowconf.stored import reflectance_of
from rs_lowconf.workflows.quality_page import answer_of, write_quality_page
from rs_lowconf.workflows.update_page import MOST, Reviewed, write_update_page
from tests.review_samples import sample
from tests.test_pages import HOSTILE, Elements

TESTED = {"Target": HOSTILE}


def opened(page: Path, chromium: Chrome) -> str:
    """Open a page and return its text; it fetches nothing and complains of nothing."""
    chromium.get("about:blank")
    log: Any = chromium  # of which selenium publishes no types
    log.get_log("browser")
    chromium.get(page.as_uri())
    fetched = chromium.execute_script("return performance.getEntriesByType('resource').length")
    assert (fetched, log.get_log("browser")) == (0, [])
    broken = chromium.execute_script(
        "return [...document.images].filter((e) => e.complete && !e.naturalWidth).length"
    )
    assert broken == 0
    links = Elements(page.read_text()).links
    assert all(link.startswith("data:") for link in links)
    for width in (1400, 400):
        screen = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width == 400}
        log.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        inside = chromium.execute_script(
            "const page = document.documentElement; return page.scrollWidth <= page.clientWidth"
        )
        assert inside, width
    log.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert "broken" not in chromium.title
    return str(chromium.execute_script("return document.body.textContent"))


def tile(number: int) -> Tile:
    """Return a tile with a hostile class."""
    own = sample(number)
    picture = tile_picture(own.pixels, own.bands, HOSTILE, side=16)
    return Tile(title=HOSTILE, share="10 %", picture=picture, lines=[f"tile {number}"])


def scored(count: int, *, scenes: int, problems: int = 0) -> Scored:
    """Return seeded scores of a catalog, whose classes are hostile."""
    rng = np.random.default_rng(5)
    where = rng.integers(0, scenes, count)
    frame = geopandas.GeoDataFrame(
        {
            "id": [f"c/{HOSTILE}{k}_r{n:05d}_c00000" for n, k in enumerate(where)],
            "predicted": [(HOSTILE, "lake")[k % 2] for k in where],
            "confidence": rng.beta(6, 1, count),
            "collection": "c",
            "datetime": pd.Timestamp("2020-01-01", tz="UTC") + pd.to_timedelta(where, unit="D"),
        }
    )
    failed = [Problem(text=f"{HOSTILE} {n}", count=problems - n, example="c") for n in
              range(problems)]  # fmt: skip
    least = [tile(n) for n in range(4)]
    return Scored(scores=frame, tau=0.5, failed=failed, tiles=least, absent=3)


def test_a_catalog_of_any_size_gives_a_page_of_bounded_size(
    tmp_path: Path, chromium: Chrome, socket_enabled: None
) -> None:
    """A hundred thousand tiles of 3,000 scenes: tables end, counts are of all, names stay text."""
    own = scored(100_000, scenes=3_000, problems=50)
    page = write_result(tmp_path / "report.html", result_of(own, TESTED, None))
    assert page.stat().st_size < 1e6
    text = opened(page, chromium)
    below = own.scores["confidence"] < 0.5
    share = percent(below.mean())
    assert f"below 50 % on {below.sum():,} of 100,000 scored tiles ({share})" in text
    assert "1,275 tiles have no score" in text
    assert f"The {MOST_TILES} least sure of {below.sum():,} tiles" in text
    assert "3 of them are not shown" in text
    assert HOSTILE in text
    shown = chromium.execute_script(
        "return [...document.querySelectorAll('table:not(.facts)')].map((e) => e.rows.length - 1)"
    )
    assert shown == [2, MOST_ROWS, MOST_ROWS, MOST_ROWS]


def test_tables_of_scores_count_what_pandas_counts(tmp_path: Path) -> None:
    """Tiles, tiles below the limit and lowest confidence, date by date and scene by scene."""
    own = scored(400, scenes=6)
    result = result_of(own, TESTED, 0.1)
    frame = own.scores.assign(
        day=own.scores["datetime"].dt.date.astype(str), scene=own.scores["id"].str[:-14]
    )
    for part, column in zip(result.parts[1:4], ("predicted", "day", "scene"), strict=True):
        _, *rows = part.table
        assert {row[0] for row in rows} == set(frame[column])
        for name, tiles, below, share, lowest in rows:
            confidence = frame.loc[frame[column] == name, "confidence"]
            assert int(tiles) == len(confidence)
            assert int(below) == (confidence < 0.5).sum()
            assert share == percent((confidence < 0.5).mean(), 1)
            assert lowest == percent(confidence.min(), 1)
        counts = [int(row[2]) for row in rows]
        assert counts == sorted(counts, reverse=True)
    assert any("search.tau_quantile" in note for note in result.notes)


def test_a_catalog_without_dates_and_unsure_tiles(
    tmp_path: Path, chromium: Chrome, socket_enabled: None
) -> None:
    """The page says that there is nothing to show, and is a page."""
    own = scored(3, scenes=1)
    frame = own.scores.assign(confidence=0.9, datetime=pd.NaT, id=["a", "b", "c"])
    sure = Scored(scores=frame, tau=0.5, failed=(), tiles=(), absent=0)
    text = opened(write_result(tmp_path / "r.html", result_of(sure, TESTED, None)), chromium)
    for told in ("0 of 3", "No tile is below 50 %", "No tile has a date", "an image of its own"):
        assert told in text


def test_a_thousand_tiles_are_under_30_mb(tmp_path: Path) -> None:
    """Also large ones, of which a page keeps small pictures only."""
    own = sample(0)
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 4000, (len(own.bands), 512, 512)).astype(np.uint16)
    picture = tile_picture(noise, own.bands, "noise", side=64)
    assert picture.size[1] == 64
    many = [Tile(title="a", share="", picture=picture, lines=[])] * 1_000
    part = Part(title="p", tiles=many)
    result = Result(title="t", answer="a", tested={}, notes=[], parts=[part])
    page = write_result(tmp_path / "r.html", result)
    assert page.stat().st_size < 30e6


def figure(value: float, floor: float | None, **changes: Any) -> Measurement:
    """Return a figure whose intervals are 0.1 to each side."""

    def near(middle: float) -> Estimate:
        return Estimate(value=middle, low=middle - 0.1, high=middle + 0.1, n=30)

    real = None if floor is None else near(floor)
    return Measurement(name=HOSTILE, measured=near(value), floor=real, **changes)


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ([figure(0.5, 0.6), figure(0.5, 0.75), figure(0.5, 0.2)], "In 2 of 3 figures"),
        ([figure(0.5, 0.7)], "In 0 of 1 figures"),  # where intervals touch
        ([figure(0.5, 0.9), figure(0.5, 0.9, control=True), figure(0.5, None)], "In 1 of 1"),
        ([figure(0.5, None), Measurement(name="left out", note="left out: few")], "No figure"),
    ],
)
def test_the_answer_counts_figures_whose_intervals_are_apart(
    figures: Sequence[Measurement], said: str
) -> None:
    """Controls and figures without a floor do not count."""
    assert answer_of(figures).startswith(said)


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    """Return the folder of an evaluation with a plot, a mixed sheet and a large sheet."""
    figure_, (axes,) = panels(4.0, 3.0)
    axes.plot([0, 1], [0, 1])
    (tmp_path / "plots").mkdir()
    figure_.savefig(tmp_path / "plots" / "radial_power.png")
    (tmp_path / "sheets").mkdir()
    for name, size in (("mixed.png", (300, 200)), ("sheets/long.png", (20_000, 40))):
        Image.new("RGB", size, "green").save(tmp_path / name)
    return tmp_path


def test_an_evaluation_shows_all_figures_and_pictures(
    evaluation: Path, chromium: Chrome, socket_enabled: None
) -> None:
    """Every cell of report.md, the plots and sheets, however long; names stay text."""
    figures = [figure(0.5, 0.9, note="a note"), figure(0.123456, None)]
    page = write_quality_page(
        evaluation, header=f"# Title\n\nTiles:\n{HOSTILE}.\n\nHow.\n", groups={HOSTILE: figures},
        tested=TESTED,
    )  # fmt: skip
    text = opened(page, chromium)
    for told in ("Title", f"Tiles: {HOSTILE}.", "How.", "0.4 .. 0.6", "a note", "0.123"):
        assert told in text
    assert Elements(page.read_text()).names.count("img") == 3
    sizes = chromium.execute_script("return [...document.images].map((e) => e.naturalWidth)")
    assert max(sizes) == 2_400


def test_a_plot_is_kept_without_loss(tmp_path: Path) -> None:
    """A file and a figure give the same bytes as PNG and as WebP of the page."""
    make: Callable[[], Any] = lambda: panels(3.0, 2.0)[0]  # noqa: E731
    make().savefig(tmp_path / "a.png", dpi=120)
    assert plot(make(), "c") == picture_of(tmp_path / "a.png", "c", lossless=True)


def described(**power: Any) -> dict[str, Any]:
    """Return what a gate says of itself, as far as a page tells it."""
    return {
        "parts": [HOSTILE, "spectra"],
        "false_rejection": 0.05,
        "joint_false_rejection_at_most": 0.0497,
        "stages": [{"held_out_real_tiles": 389}],
        "power": power,
    }


def reviewed(count: int) -> list[Reviewed]:
    """Return tiles of two hostile classes, every third accepted."""
    return [
        Reviewed(
            name=f"s{n:03d}",
            condition=f"{HOSTILE}{n % 2}",
            accepted=n % 3 == 0,
            image=reflectance_of(sample(n % 5).pixels),
        )
        for n in range(count)
    ]


def updated(folder: Path, tiles: Sequence[Reviewed], gate: dict[str, Any]) -> Path:
    """Write the page of an update."""
    return write_update_page(
        folder,
        answer=f"Learned {HOSTILE}.",
        report={"update": 2, "gate": gate, "rounds": {"1": round_report([], [], 7)}},
        tested=TESTED,
        tiles=tiles,
        bands=sample(0).bands,
    )


def test_an_update_tells_both_gates_and_what_was_said(
    tmp_path: Path, chromium: Chrome, socket_enabled: None
) -> None:
    """Cost and power before and after, counts by class, all rounds, and every tile."""
    kinds = {HOSTILE: {**share_of(30, 40), "fitted": True}}
    gate = {"before": described(kinds=kinds), "after": described(kinds=kinds, before_reviews=True)}
    text = opened(updated(tmp_path, reviewed(12), gate), chromium)
    for told in ("4.97 %", f"drops of {HOSTILE}", "75 % (59 % .. 87 %) of 40", "0 of 7",
                 "measured before the gate learned from reviews"):  # fmt: skip
        assert told in text
    rows = chromium.execute_script(
        "return [...document.querySelectorAll('table')[2].rows].map((row) => "
        "[...row.cells].map((cell) => cell.textContent).slice(0, 3))"
    )
    assert rows[1:] == [[f"{HOSTILE}0", "2", "4"], [f"{HOSTILE}1", "2", "4"]]
    titles = chromium.execute_script(
        "return [...document.querySelectorAll('article .share')].map((e) => e.textContent)"
    )
    assert titles == ["rejected"] * 8 + ["accepted"] * 4


def test_an_update_of_many_reviews_is_bounded(tmp_path: Path) -> None:
    """A gate without power, and more tiles than are shown."""
    gate = {"before": described(), "after": described()}
    text = updated(tmp_path, reviewed(3 * MOST), gate).read_text()
    assert text.count("<article>") == 2 * MOST
    assert f"The first {MOST} of {2 * MOST}." in text
    assert "was not measured" in text
