"""The one answer of an estimate: its interval covers, its words are true, its page shows it."""

import re
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binom
from selenium.webdriver import Chrome

from rs_lowconf.estimate.designs import DESIGNS, estimate
from rs_lowconf.estimate.draws import Pool
from rs_lowconf.estimate.intervals import SIMULATED, Interval, answering
from rs_lowconf.estimate.replay import with_blind_spot
from rs_lowconf.settings import DesignName
from tests.conftest import Run

DOCS = Path(__file__).parents[1] / "docs" / "pages" / "results.md"
TILES = 100_000


def pool_of(rate: float, hidden: float) -> tuple[Pool, NDArray[np.bool_]]:
    """Return 4,000 units in three classes, and who errs; scores know nothing of a share of them."""
    rng = np.random.default_rng(5)
    g = 1 / (1 + np.exp(-rng.normal(np.log(rate) - 2, 2.5, 4_000)))
    error = np.zeros(4_000, dtype=np.bool_)
    error[rng.choice(4_000, round(4_000 * rate), replace=False, p=g / g.sum())] = True
    return Pool(g=g, predicted=rng.integers(3, size=4_000)), with_blind_spot(error, g, hidden, 0)


@pytest.mark.parametrize("hidden", [0.0, 1.0])
@pytest.mark.parametrize("rate", [0.1, 0.01, 0.001])
@pytest.mark.parametrize("labels", [20, 100])
@pytest.mark.parametrize("design", [name for name in get_args(DesignName) if name != "adaptive"])
def test_the_interval_covers_also_with_few_labels_and_rare_errors(
    design: DesignName, labels: int, rate: float, hidden: float
) -> None:
    """Of 100 draws it holds the true rate in 95 %, but for chance of one in 10,000."""
    pool, error = pool_of(rate, hidden)
    draw_of, simple = DESIGNS[design].prepare(pool, labels, 0.3), DESIGNS[design].simple_random
    covered = 0
    for seed in range(100):
        draw = draw_of(seed)
        found = estimate(draw, error[draw.index], pool)
        interval = answering(found, simple_random=simple)
        covered += interval.low <= error.mean() <= interval.high
    assert covered >= binom.ppf(1e-4, 100, 0.95)


def test_which_interval_answers_follows_from_the_design_alone() -> None:
    """Whatever the labels say: the exact one of a uniform draw, Fay and Feuer's of all others."""
    pool, error = pool_of(0.1, 0.3)
    for name, design in DESIGNS.items():
        draw = design.replay(pool, error, 100)(0)
        for labels in (error[draw.index], np.zeros(100, dtype=bool), np.ones(100, dtype=bool)):
            found = estimate(draw, labels, pool)
            interval = answering(found, 0.9, simple_random=design.simple_random)
            assert interval.method == ("clopper-pearson" if name == "uniform" else "ff")
            assert interval.level == 0.9


def test_what_reports_say_of_coverage_is_what_the_documentation_measured() -> None:
    """The least coverage in the table of the results is that of the report, for every design."""
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([\d.]+) % \|$", DOCS.read_text(), re.MULTILINE)
    assert {name: float(least) for name, least in rows} == pytest.approx(
        {name: 100 * known.least for name, known in SIMULATED.items()}
    )
    assert set(SIMULATED) == set(get_args(DesignName))
    assert min(known.least for known in SIMULATED.values()) >= 0.95


@given(low=st.floats(0, 1), width=st.floats(0, 1), units=st.integers(1, 10**7))
def test_whole_numbers_hold_the_interval(low: float, width: float, units: int) -> None:
    """They are rounded outwards, by less than one of the number that they are of."""
    interval = Interval(low=low, high=min(1.0, low + width), level=0.95, method="ff")
    least, most, many = interval.of_many(units)
    assert 0 <= least <= most <= many
    assert least <= interval.low * many + 1e-6
    assert most >= interval.high * many - 1e-6
    assert interval.low * many - least < 1.001
    assert most - interval.high * many < 1.001
    assert many == 1_000 or interval.high * many < 100


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Return a table of 100,000 tiles of which 1.2 % are wrong, and the class of each."""
    path, rng = tmp_path_factory.mktemp("pool") / "scores.parquet", np.random.default_rng(3)
    g = 1 / (1 + np.exp(-rng.normal(-7, 2.5, TILES)))
    names = np.array(["annual crop", "forest", "pasture", "river", "residential"])
    predicted = rng.choice(5, TILES, p=[0.4, 0.3, 0.2, 0.07, 0.03])
    truth = np.where(rng.random(TILES) < g, (predicted + 1) % 5, predicted)
    frame = pd.DataFrame(
        {
            "id": [f"t{number:06d}" for number in range(TILES)],
            "predicted": names[predicted],
            "confidence": 1 - g,
        }
    )
    frame.to_parquet(path)
    return path, dict(zip(frame["id"], names[truth], strict=True))


@pytest.mark.parametrize("design", ["uniform", "stratified"])
def test_a_certifiers_page_answers_before_anyone_scrolls(  # noqa: PLR0917
    pool: tuple[Path, dict[str, str]],
    design: str,
    tmp_path: Path,
    rslow: Run,
    chromium: Chrome,
    socket_enabled: None,
) -> None:
    """On 1400 x 900 pixels: target, date, sentence and one interval; others are folded away."""
    table, truth = pool
    settings = (f"run.dir={tmp_path}", f"estimate.scores={table}", f"estimate.design={design}")
    words = [part for one in settings for part in ("--set", one)]
    assert rslow("estimate", "draw", *words).code == 0
    folder = tmp_path / "estimate" / "draw"
    asked = pd.read_csv(folder / "labels-1.csv", dtype=str)
    asked.assign(label=[truth[name] for name in asked["id"]]).to_csv(
        folder / "labels-1.csv", index=False
    )
    ran = rslow("estimate", "report", *words)
    assert ran.code == 0, ran.err
    sentence = ran.out.splitlines()[0]
    assert re.fullmatch(r"Between \d+ and \d+ of 1,000 tiles are wrong \(95 %\)", sentence)
    for width, height in ((1400, 900), (400, 800)):
        chromium.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )
        chromium.get((folder / "report.html").as_uri())
        inside = chromium.execute_script(
            """
            const parts = document.querySelectorAll("h1, #answer, .interval, .facts tr");
            return [...parts].filter((e) => {
              const box = e.getBoundingClientRect();
              return box.top >= 0 && box.bottom <= innerHeight && box.right <= innerWidth;
            }).map((e) => (e.innerText || e.textContent).trim().replace(/\\s+/g, " "))
            """
        )
        shown = "\n".join(inside)
        assert sentence in shown
        assert "Target the model whose predictions are in scores.parquet" in shown
        assert f"Pool 100,000 tiles of {table}" in shown
        assert re.search(r"Date \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", shown)
        assert f"Settings design {design}, 300 labels" in shown
        assert chromium.execute_script("return document.documentElement.scrollWidth") <= width
    chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    visible = chromium.execute_script("return document.body.innerText")
    assert f"{100 * SIMULATED[design].least:.1f} % of the draws" in visible
    # Other intervals have no place before somebody opens them, and no share is a fraction.
    assert "betting" not in visible
    told = re.sub(r"^(Versions|SHA-256|Pool).*$", "", visible, flags=re.MULTILINE)
    assert not re.findall(r"\b0?\.\d+\b(?! ?%)", told)
    assert chromium.execute_script("return document.querySelectorAll('.interval').length") == 1
    # An accuracy without an error among its labels has an interval too.
    perfect = re.findall(r"100 % \(([^)]*)\)", visible)
    assert perfect
    assert all(float(ends.split(" %")[0]) < 100 for ends in perfect)
    chromium.execute_script(
        "document.querySelectorAll('details').forEach((e) => { e.open = true })"
    )
    opened = chromium.execute_script("return document.body.innerText")
    for method in ("betting", "tcz", "kg", "biased"):
        assert method in opened


def test_a_plan_ends_with_what_to_draw(
    pool: tuple[Path, dict[str, str]], tmp_path: Path, rslow: Run
) -> None:
    """The last lines say how many labels to draw with which design, and what to type."""
    words = ("--set", f"run.dir={tmp_path}", "--set", f"estimate.scores={pool[0]}")
    ran = rslow("estimate", "plan", *words)
    assert ran.code == 0, ran.err
    recommended, then = ran.out.splitlines()[-2:]
    found = re.match(r"Recommendation: draw 300 labels with design (\w+)", recommended)
    assert found
    assert f"--set estimate.design={found[1]} --set estimate.budget=300" in then
    wide = rslow("estimate", "plan", *words, "--set", "estimate.width=0.01").out.splitlines()[-2]
    needed = re.match(r"Recommendation: draw ([\d,]+) labels .* for an interval 1 % wide", wide)
    assert needed
    assert 1_000 < int(needed[1].replace(",", "")) < 2_000
    narrow = rslow("estimate", "plan", *words, "--set", "estimate.width=0.00001").out
    assert "needs more labels than the pool has" in narrow.splitlines()[-2]
