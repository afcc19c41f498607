"""Pages of samples: what they tell, how failures are named, and how they behave in Chromium."""

import base64
import io
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from selenium.webdriver import Chrome
from selenium.webdriver.support.ui import Select

from rs_lowconf.pages.result import Part, Result
from rs_lowconf.pages.samples import Card, card_of, groups_of, places_of, traits_of
from rs_lowconf.pages.write import MOST, write_page
from rs_lowconf.review.composites import composites_of, stretch
from tests.review_samples import CLASSES, PIXEL_CLASSES, SIZE, masked, sample

TOLD = Result(
    title="Hard samples of the target",
    answer="24 tiles were found.",
    tested={"Target": "trained", "SHA-256": "0" * 64},
    parts=[Part(title="Cost", table=[("", "tiles", "evaluations"), ("search", "24", "300")])],
    notes=["The gate dropped 3 of 27 tiles."],
)
HOSTILE = """<script>document.title='broken'</script>"><img src=x onerror=alert(1)>&'"""


def cards(count: int, *, real: bool = True) -> list[Card]:
    """Return cards of samples, with seeded features."""
    rng = np.random.default_rng(3)
    return [card_of(sample(n, real=real), rng.normal(size=8), (), CLASSES) for n in range(count)]


def stand_ins(count: int) -> list[Card]:
    """Return many cards that share one picture."""
    one = cards(4)
    return [replace(one[n % 4], name=f"s{n:05d}") for n in range(count)]


def test_a_picture_shows_the_sample_above_its_neighbour() -> None:
    """All composites of both, with the stretch of reviews, but for the loss of WebP."""
    own = sample(3)
    card = card_of(own, np.zeros(4), (), CLASSES)
    with Image.open(io.BytesIO(base64.b64decode(card.picture))) as image:
        drawn = np.asarray(image.convert("RGB")).astype(float)
    assert (drawn.shape[1], drawn.shape[0]) == card.size
    assert own.neighbour is not None
    for row, pixels in enumerate((own.pixels, own.neighbour.pixels)):
        for column, composite in enumerate(composites_of(own.bands)):
            top, left = row * (SIZE + 2), column * (SIZE + 2)
            shown = drawn[top : top + SIZE, left : left + SIZE]
            expected = stretch(pixels, own.bands, composite)
            assert np.abs(shown - expected).mean() < 12
    assert card.neighbour == "Water_3 (Water)"
    assert [wave for wave, _ in card.spectrum] == sorted(wave for wave, _ in card.spectrum)
    own_means = np.sort(own.pixels.reshape(13, -1).mean(1) / 10_000)
    assert np.allclose(np.sort([value for _, value in card.spectrum]), own_means)


def test_masks_are_shown_instead_of_a_class() -> None:
    """Mask, prediction and confidence stand beside the composites, and no class is told."""
    card = card_of(masked(1), np.zeros(4), PIXEL_CLASSES, PIXEL_CLASSES)
    wide = card_of(sample(1), np.zeros(4), (), CLASSES).size[0]
    assert card.size[0] == wide + 3 * (SIZE + 2)
    assert (card.predicted, card.confusion) == ("", "unsure pixels")


def test_every_sample_is_in_one_group() -> None:
    """Groups part the samples; their names are different and begin with the confusion."""
    own = [replace(card, predicted=card.condition) if n % 5 == 0 else card
           for n, card in enumerate(cards(60))]  # fmt: skip
    groups = groups_of(own)
    assert sorted(card.name for group in groups for card in group.cards) == sorted(
        card.name for card in own
    )
    assert len({group.name for group in groups}) == len(groups)
    for group in groups:
        assert {card.confusion for card in group.cards} == {group.cards[0].confusion}
        assert group.name.startswith(group.cards[0].confusion)
    counts = [len(group.cards) for group in groups]
    assert counts == sorted(counts, reverse=True)
    assert any(group.name.startswith("Forest barely recognised") for group in groups)


def with_rim(number: int, factor: float) -> Card:
    """Return a card of lakes taken for towns, whose rim is brighter by a factor."""
    rng = np.random.default_rng(number)
    own = sample(number)
    pixels = rng.normal(600, 25, own.pixels.shape)
    pixels[:, :4] *= factor
    pixels[:, -4:] *= factor
    pixels[:, :, :4] *= factor
    pixels[:, :, -4:] *= factor
    one = replace(own, pixels=pixels.astype(np.uint16), condition="Water")
    features = np.array([factor, 0, 0]) + rng.normal(0, 0.05, 3)
    return replace(card_of(one, features, (), CLASSES), predicted="Town")


def test_what_samples_have_in_common_is_named() -> None:
    """Of lakes taken for towns, nine have a bright rim, and are a group of their own."""
    own = [with_rim(n, 1.6 if n < 9 else 1.0) for n in range(24)]
    named = {group.name: {card.name for card in group.cards} for group in groups_of(own)}
    assert named["Water taken for Town, bright rim"] == {card.name for card in own[:9]}
    assert groups_of(own)[0].name.startswith("Water taken for Town")


def test_traits_are_what_their_names_say() -> None:
    """Brighter, rougher, greener and redder tiles have more of it."""
    own = sample(2)
    plain = np.full(own.pixels.shape, 1000, dtype=np.uint16)
    noisy = plain + np.random.default_rng(0).integers(0, 400, plain.shape).astype(np.uint16)
    green, red = plain.copy(), plain.copy()
    green[own.bands.names.index("B08")] = 4000
    red[own.bands.names.index("B04")] = 3000
    base = traits_of(plain, own.bands)
    assert traits_of((plain * 2).astype(np.uint16), own.bands)["brightness"] > base["brightness"]
    assert traits_of(noisy, own.bands)["contrast"] > base["contrast"]
    assert traits_of(noisy, own.bands)["roughness"] > base["roughness"]
    assert traits_of(green, own.bands)["vegetation"] > base["vegetation"] + 0.5
    assert traits_of(red, own.bands)["redness"] > base["redness"] + 0.2


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_samples_have_a_map_too(count: int) -> None:
    """Places are finite and inside, also where there is nothing to span a plane."""
    places = places_of(cards(count))
    assert places.shape == (count, 2)
    assert ((places >= 0) & (places <= 1)).all()


class Elements(HTMLParser):
    """Counts elements, and collects what attributes lead to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.links += [str(value) for name, value in attrs if name in ("href", "src")]


def test_a_page_needs_nothing_beside_it(tmp_path: Path) -> None:
    """One file; its links lead to its own samples, and all that was told is on it."""
    own = cards(24)
    page = write_page(tmp_path, TOLD, own)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    text = page.read_text()
    elements = Elements(text)
    links = [link for link in elements.links if not link.startswith("data:")]
    assert {link.removeprefix("#") for link in links} == {card.name for card in own}
    assert elements.names.count("article") == 24
    for told in ("24 tiles were found.", "0" * 64, "The gate dropped 3 of 27", "evaluations"):
        assert told in text


def test_hostile_names_stay_text(tmp_path: Path, chromium: Chrome, socket_enabled: None) -> None:
    """Class names with markup are shown as they are, and run nothing."""
    own = [replace(card, condition=HOSTILE, predicted=HOSTILE + "2") for card in cards(3)]
    page = write_page(tmp_path, replace(TOLD, answer=HOSTILE), own)
    assert Elements(page.read_text()).names.count("script") == 1
    chromium.get(page.as_uri())
    assert chromium.title == TOLD.title
    heads = chromium.execute_script(
        "return [...document.querySelectorAll('h3 span:first-child')].map((e) => e.textContent)"
    )
    assert heads == [card.confusion for card in own]
    choices = chromium.execute_script(
        "return [...document.querySelector('[name=condition]').options].map((e) => e.value)"
    )
    assert choices == ["", HOSTILE]


def test_samples_are_chosen_in_a_browser(
    tmp_path: Path, chromium: Chrome, socket_enabled: None
) -> None:
    """Filters show what they say, links show what is hidden, and nothing is fetched."""
    own = cards(24)
    page = write_page(tmp_path, TOLD, own)
    chromium.get("about:blank")
    chromium.get(page.as_uri())

    def shown() -> list[str]:
        found: list[str] = chromium.execute_script(
            "return [...document.querySelectorAll('article')].filter((e) => !e.hidden)"
            ".map((e) => e.id)"
        )
        return found

    assert shown() == [card.name for card in own]
    Select(chromium.find_element("name", "condition")).select_by_value("Water")
    water = [card.name for card in own if card.condition == "Water"]
    assert shown() == water
    assert chromium.find_element("id", "count").text == f"{len(water)} of 24 samples"
    Select(chromium.find_element("name", "predicted")).select_by_value("Town")
    assert shown() == []
    other = next(card.name for card in own if card.condition != "Water")
    chromium.execute_script(f"location.hash = '{other}'")
    chromium.execute_async_script("setTimeout(arguments[0], 50)")
    assert shown() == [card.name for card in own]
    fetched = chromium.execute_script("return performance.getEntriesByType('resource').length")
    log: Any = chromium  # of which selenium publishes no types
    complaints = [entry["message"] for entry in log.get_log("browser")]
    assert (fetched, complaints) == (0, [])
    broken = chromium.execute_script(
        "return [...document.images].filter((e) => e.complete && !e.naturalWidth).length"
    )
    assert broken == 0


def test_a_thousand_samples_are_one_page_and_more_are_several(
    tmp_path: Path, chromium: Chrome, socket_enabled: None
) -> None:
    """Under 30 MB for a thousand; above, an index whose links lead to the samples."""
    many = stand_ins(MOST)
    (tmp_path / "one").mkdir()
    page = write_page(tmp_path / "one", TOLD, many)
    assert page.stat().st_size < 30e6
    assert not (tmp_path / "one" / "report").exists()
    more = stand_ins(2 * MOST + 7)
    index = write_page(tmp_path, TOLD, more)
    pages = sorted((tmp_path / "report").iterdir())
    assert [path.name for path in pages] == ["page-1.html", "page-2.html", "page-3.html"]
    counts = [Elements(path.read_text()).names.count("article") for path in pages]
    assert counts == [MOST, MOST, 7]
    assert "article" not in Elements(index.read_text()).names
    chromium.get(index.as_uri())
    last = chromium.execute_script(
        "return [...document.querySelectorAll('svg a')].pop().getAttribute('href')"
    )
    assert last == "report/page-3.html#s02006"
    chromium.get(pages[2].as_uri() + "#s02006")
    assert chromium.find_element("css selector", "article:target").get_attribute("id") == "s02006"
    chromium.find_element("link text", "Back to the summary of all 2,007 samples").click()
    assert chromium.current_url == index.as_uri()
