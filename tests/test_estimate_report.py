"""Reports of labelled draws: accuracies by every design, zones, tiles, pages."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from matplotlib.figure import Figure

from rs_lowconf.estimate.describe import DrawnFrom, describe
from rs_lowconf.estimate.designs import DESIGNS
from rs_lowconf.estimate.draws import Draw, Pool
from rs_lowconf.estimate.page import Page, Part, Picture, Table, Text
from rs_lowconf.estimate.report import Labelled, report
from rs_lowconf.pages.report import as_html
from rs_lowconf.settings import DesignName
from tests.make_estimate_golden import leaves

DICE = np.random.default_rng(2)
N = 3_000
G = DICE.beta(0.4, 2.5, N)
PREDICTED = DICE.integers(3, size=N)
WRONG = DICE.random(N) < G
TRUTH = np.where(WRONG, (PREDICTED + 1) % 3, PREDICTED)
POOL = Pool(g=G, predicted=PREDICTED)
CLASSES = ("a", "b", "c")


def labelled(draw: Draw) -> Labelled:
    """Return a draw with true labels."""
    return Labelled(
        pool=POOL, classes=CLASSES, draw=draw, truth=TRUTH[draw.index], unclear="refuse"
    )


def drawn(name: DesignName, seed: int, labels: int = 300) -> Draw:
    """Return a draw of any design."""
    return DESIGNS[name].replay(POOL, WRONG, labels)(seed)


@pytest.mark.parametrize("name", DESIGNS)
def test_accuracies_and_areas_are_right_on_average_and_know_their_error(name: DesignName) -> None:
    """Over 60 draws: near the truth by the Monte-Carlo error, and told errors as the scatter."""
    said, true = ([np.equal(own, i) for i in range(3)] for own in (PREDICTED, TRUTH))
    truth = {
        "area": [own.mean() for own in true],
        "user": [own[other].mean() for own, other in zip(true, said, strict=True)],
        "producer": [own[other].mean() for own, other in zip(said, true, strict=True)],
    }
    found: dict[str, list[list[float]]] = {key: [] for key in truth}
    told: dict[str, list[list[float]]] = {key: [] for key in truth}
    for seed in range(60):
        by_class = report(labelled(drawn(name, seed))).accuracy.by_class
        for key in truth:
            shares = [getattr(one, key) for one in by_class]
            found[key].append([one.value for one in shares])
            told[key].append([one.standard_error for one in shares])
    for key, known in truth.items():
        values = np.array(found[key])
        scatter = values.std(0, ddof=1)
        # Ratios have a bias of the order of the variance, which is small beside the scatter.
        assert (np.abs(values.mean(0) - known) < 0.5 * scatter).all()
        ratio = np.sqrt((np.array(told[key]) ** 2).mean(0)) / scatter
        assert ((ratio > 0.7) & (ratio < 1.4)).all(), (key, ratio)


def test_a_zone_without_errors_has_three_over_its_labels() -> None:
    """Of a uniform draw the bound is the rule of three, for the whole of the pool."""
    error_free = replace(POOL, predicted=TRUTH)
    draw = DESIGNS["uniform"].prepare(error_free, 300)(1)
    own = replace(labelled(draw), pool=error_free)
    told = report(own)
    assert told.errors_found == 0
    assert told.error_rate == 0
    assert told.blind_spot.at_most == pytest.approx(-np.log(0.05) / 300)
    assert told.blind_spot.share_of_pool == 0.5
    assert [one.low for one in told.intervals] == [0.0] * 6


def test_a_zone_full_of_errors_is_seen() -> None:
    """Errors where none is expected raise the bound above their share, whatever the design."""
    order = np.argsort(G)
    hidden = np.zeros(N, dtype=bool)
    hidden[order[:300]] = True
    truth = np.where(hidden, (PREDICTED + 1) % 3, PREDICTED)
    names: tuple[DesignName, ...] = ("uniform", "stratified", "importance", "active")
    for name in names:
        draw = drawn(name, 4)
        own = replace(labelled(draw), truth=truth[draw.index])
        zone = report(own).blind_spot
        assert zone.errors > 0
        assert zone.at_most > 0.1


def test_pixels_of_a_tile_are_no_independent_tiles() -> None:
    """Errors that come in whole tiles make the error for other tiles larger than for this pool."""
    group = np.repeat(np.arange(60), 50)
    bad = DICE.random(60) < 0.2
    truth = np.where(bad[group], (PREDICTED + 1) % 3, PREDICTED)
    draw = drawn("uniform", 0, 600)
    own = replace(labelled(draw), truth=truth[draw.index], group=group)
    told = report(own)
    tiles = told.tiles
    assert tiles is not None
    assert tiles.in_pool == 60
    # Between whole tiles: sqrt(p (1 - p) / 60).
    expected = np.sqrt(bad.mean() * (1 - bad.mean()) / 60)
    assert tiles.standard_error_for_other_tiles == pytest.approx(expected, rel=0.25)
    assert told.standard_error < 0.5 * expected
    assert report(labelled(draw)).tiles is None


def test_prediction_powered_stands_beside_uniform_alone() -> None:
    """It is told where it is right, and the biased figures say that they are."""
    ppi = report(labelled(drawn("uniform", 0))).ppi
    assert ppi is not None
    assert abs(ppi.error_rate - WRONG.mean()) < 0.06
    assert ppi.interval.reliable
    few = report(labelled(drawn("uniform", 0, 20))).ppi
    assert few is not None
    assert not few.interval.reliable
    told = report(labelled(drawn("stratified", 0)))
    assert told.ppi is None
    assert "biased" in told.naive_sentence


class _Texts(HTMLParser):
    """Collects what a browser would show."""

    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []
        self.open: list[str] = []
        self.pictures = 0

    def handle_starttag(
        self,
        tag: str,
        attrs: list[tuple[str, str | None]],  # noqa: ARG002 -- as its base has it
    ) -> None:
        if tag == "img":
            self.pictures += 1
        elif tag not in ("meta", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_a_page_says_the_same_in_both_forms() -> None:
    """Text is escaped, tables have all cells, plots are inside; every tag is closed."""
    page = Page(
        title="A < B",
        parts=[
            Part(
                title="One & two",
                blocks=[
                    Text(text="5 < 6", key=True),
                    Table(rows=[("name", "n"), ("a|b", "1")]),
                    Picture(name="plot", caption="A plot.", figure=Figure()),
                ],
            )
        ],
    )
    markdown = page.markdown("plots")
    assert "# A < B" in markdown
    assert "| a\\|b | 1 |" in markdown
    assert "![A plot.](plots/plot.png)" in markdown
    parser = _Texts()
    parser.feed(as_html(page).removeprefix("<!doctype html>"))
    assert parser.open == []
    assert parser.pictures == 1
    text = "".join(parser.text)
    for part in ("A < B", "One & two", "5 < 6", "a|b", "A plot."):
        assert part in text
    assert set(page.figures()) == {"plot"}


def test_the_report_names_its_numbers() -> None:
    """Estimate, interval, weights, zone and bias are in the page; no number is a nan."""
    told = report(labelled(drawn("stratified", 3)))
    about = DrawnFrom(seed=0, defensive=0.3, validated=False, sha256={"draw-1.json": "0" * 64})
    text = describe(told, about, {"Target": "a|b"}).markdown("plots")
    assert "a\\|b" in text
    assert f"{100 * told.error_rate:.3g} %" in text
    assert "biased" in text
    assert "largest weight" in text
    assert not re.search(r"\bnan\b", text)
    assert told.headline in text
    assert str(told).splitlines()[0] == told.headline


def by_rule(design: Literal["uniform", "stratified"]) -> Labelled:
    """Return 40 labels of 120 units without any chance, two of them unclear if they are strata."""
    unit = np.arange(120)
    g = ((unit * 37 % 120 + 0.5) / 120) ** 3
    predicted = unit % 3
    truth = np.where(unit * 53 % 120 < 100 * g, (predicted + 1) % 3, predicted)
    truth[unit % 31 == 0] = 3
    strata = [unit] if design == "uniform" else [unit[g < 0.3], unit[g >= 0.3]]
    taken = [unit[::3] + unit[:40] % 3] if design == "uniform" else [strata[0][::4], strata[1][::2]]
    labels, sizes = np.array([len(one) for one in taken]), np.array([len(one) for one in strata])
    stratum, index = np.repeat(np.arange(len(sizes)), labels), np.concatenate(taken)
    chance = (labels / sizes)[stratum]
    truth = truth[index]
    if design == "stratified":
        truth[[3, 8]] = -1
    return Labelled(
        pool=Pool(g=g, predicted=predicted),
        classes=("a", "b", "c", "d"),
        draw=Draw(
            design=design,
            population=120,
            index=index,
            chance=chance,
            largest_ratio=float(len(index) / 120 / chance.min()),
            expected_ratio=0.8,
            columns={"stratum": stratum},
            constants={"stratum_sizes": sizes},
        ),
        truth=truth,
        unclear="refuse" if design == "uniform" else "wrong",
        group=None if design == "uniform" else unit // 10,
    )


@pytest.mark.parametrize("design", ["uniform", "stratified"])
def test_report_files_keep_their_keys_and_numbers(design: Literal["uniform", "stratified"]) -> None:
    """What programs read from report.json is as it was when reports were still dictionaries."""
    stored = json.loads((Path(__file__).parent / "estimate_reports.json").read_text())[design]
    found = json.loads(json.dumps(report(by_rule(design), 0.9).to_json()))
    assert [*leaves(found)] == [(key, pytest.approx(value)) for key, value in leaves(stored)]
