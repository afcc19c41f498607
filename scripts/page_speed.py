"""Size of a search's page, seconds to write it, and to its first picture in Chromium."""

import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from selenium import webdriver

import rs_lowconf as rl
from rs_lowconf.pages.result import Result
from rs_lowconf.pages.samples import Card, card_of
from rs_lowconf.pages.write import write_page
from rs_lowconf.review.samples import Generated, Prediction, RealNeighbour
from rs_lowconf.stored import stored_numbers

COUNTS = (64, 1_000, 10_000)
_EACH = 8
"""Different tiles per class; larger pages repeat them."""
_PATIENCE_S = 60.0


def bench_pages(repeats: int = 3) -> dict[str, Any]:
    """Return bytes and seconds of pages with more and more samples, the median of some runs."""
    cards = _cards()
    options = webdriver.ChromeOptions()
    options.page_load_strategy = "none"
    options.binary_location = shutil.which("chromium") or ""
    for word in ("headless", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{word}")
    service = webdriver.ChromeService(shutil.which("chromedriver") or "")
    found: dict[str, Any] = {}
    told = Result(title="Page", answer="An answer.", tested={}, notes=[], parts=[])
    with webdriver.Chrome(options=options, service=service) as browser:
        for count in COUNTS:
            many = [
                replace(cards[n % len(cards)], name=f"s{n:06d}", predicted=cards[n % 7].condition)
                for n in range(count)
            ]
            with tempfile.TemporaryDirectory() as folder:
                start = time.monotonic()
                page = write_page(Path(folder), told, many)
                written = time.monotonic() - start
                first = Path(folder) / "report" / "page-1.html"
                shown = first if first.exists() else page
                times = sorted(_first_picture(browser, shown) for _ in range(repeats))
                files = [*Path(folder).rglob("*.html")]
                found[f"{count}"] = {
                    "files": len(files),
                    "megabytes": sum(path.stat().st_size for path in files) / 1e6,
                    "largest_megabytes": max(path.stat().st_size for path in files) / 1e6,
                    "seconds_to_write": written,
                    "seconds_to_first_picture": times[len(times) // 2],
                }
    return found


def _first_picture(browser: webdriver.Chrome, page: Path) -> float:
    """Return the seconds until the first picture of a page is there."""
    browser.get("about:blank")
    start = time.monotonic()
    browser.get(page.as_uri())
    there = (
        "const one = document.querySelector('article img');"
        "return Boolean(one && one.complete && one.naturalWidth)"
    )
    while not browser.execute_script(there):
        if time.monotonic() - start > _PATIENCE_S:
            raise TimeoutError(f"no picture in {page}")
        time.sleep(0.01)
    return time.monotonic() - start


def _cards() -> list[Card]:
    """Return cards of random tiles of the embedded generator, each beside another one."""
    generator = rl.load_generator()
    tiles = [generator.sample(name, _EACH, seed=0) for name in generator.conditions]
    pixels = stored_numbers(torch.cat([one.image for one in tiles])).numpy()
    names = [name for name in generator.conditions for _ in range(_EACH)]
    rng = np.random.default_rng(0)
    cards = []
    for number, (own, name) in enumerate(zip(pixels, names, strict=True)):
        sample = Generated(
            sample_id=f"s{number:04d}",
            origin="found",
            pixels=own,
            bands=tiles[0].bands,
            condition=name,
            prediction=Prediction(class_name=names[number - 1], second=name, confidence=0.4),
            realism=0.0,
            gate_score=0.0,
            tile=f"tiles/s{number:04d}.tif",
            neighbour=RealNeighbour(
                tile_id=f"{name}_{number}",
                pixels=pixels[number - 1],
                class_name=name,
                distance=1.0,
            ),
        )
        cards.append(card_of(sample, rng.normal(size=64), (), generator.conditions))
    return cards
