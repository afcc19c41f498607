"""Files whose numbers mean something else than those of the others are found and named."""

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from rs_lowconf.bands import EUROSAT_ORDER, RESOLUTION_M, BandSpec
from rs_lowconf.data.mixtures import OFFSET, UNSURE, Finding, Spectra, compare_levels
from tests.conftest import Run, WriteTile

L2A = tuple(name for name in RESOLUTION_M if name != "B10")
#: Reflectance of woods, water, fields and towns in the order of ESA's 13 bands, at the top of the
#: atmosphere.
GROUND = np.array(
    [
        [1100, 800, 700, 450, 800, 1900, 2300, 2250, 2450, 800, 10, 1300, 600],
        [1300, 950, 650, 400, 350, 300, 280, 250, 220, 100, 10, 100, 70],
        [1350, 1150, 1100, 1150, 1400, 2000, 2250, 2200, 2500, 900, 15, 2300, 1500],
        [1500, 1400, 1350, 1450, 1600, 1900, 2000, 2000, 2150, 800, 15, 2100, 1700],
    ]
)
Dark = np.ndarray[tuple[int, int], np.dtype[np.float64]]


def drawn(seed: int, side: int = 32) -> np.ndarray[tuple[int, ...], np.dtype[np.uint16]]:
    """Return a tile of one of the four kinds of ground, 13 bands."""
    rng = np.random.default_rng(seed)
    light = rng.uniform(0.9, 1.1) * (1 + 0.1 * rng.standard_normal((side, side)))
    tile = GROUND[seed % 4][:, None, None] * light
    tile = tile * (1 + 0.02 * rng.standard_normal((13, side, side)))
    numbers: np.ndarray[tuple[int, ...], np.dtype[np.uint16]]
    numbers = np.clip(tile, 2, 12_000).astype(np.uint16)
    return numbers


def found_in(
    tiles: "Iterator[np.ndarray[tuple[int, ...], np.dtype[np.uint16]]]",
    bands: tuple[str, ...] = tuple(RESOLUTION_M),
    offset: float = 0.0,
) -> list[Finding]:
    """Return what is found in tiles that are named by their numbers."""
    spectra = Spectra(BandSpec(names=bands, level="L1C"))
    for name, pixels in enumerate(tiles):
        values = torch.from_numpy(pixels.astype(np.float32)).flatten(1)
        spectra.add(str(name), (values + offset) / 10_000)
    return list(spectra.mixtures())


@cache
def dark_spectra(kind: str) -> Dark:
    """Return the first percentiles of real tiles by file and band."""
    folder = Path(os.environ["RSLOW_DATA"])
    where = folder / "eurosat" if kind == "eurosat" else folder / "barkbeetle"
    found = []
    for path in sorted(where.rglob("*.tif")):
        if path.parent.name == "masks":
            continue
        with rasterio.open(path) as file:
            pixels = file.read() / 10_000
        found.append(np.quantile(pixels[:, pixels.any(axis=0)], 0.01, axis=1))
    return np.stack(found)


@pytest.mark.usefixtures("eurosat_root")
@pytest.mark.parametrize("kind", ["eurosat", "barkbeetle"])
def test_real_tiles_as_they_are(kind: str) -> None:
    """There is no alarm on real L1C and L2A tiles, and nearly all of them can be told."""
    dark = dark_spectra(kind)
    found = compare_levels(dark)
    assert not found.mixed
    assert found.unsure.sum() <= 0.02 * len(dark)


@pytest.mark.usefixtures("eurosat_root")
@pytest.mark.parametrize("kind", ["eurosat", "barkbeetle"])
@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("share", [1, 3, 10, 50, 90, 99])
def test_real_mixtures(kind: str, direction: int, share: int) -> None:
    """Of 100 real images those with an offset are found at any share, and named on their side.

    scripts/research/mixtures.py does this for 20 seeds.
    """
    dark = dark_spectra(kind)
    for seed in range(2):
        rng = np.random.default_rng([seed, share])
        mixed = dark[rng.choice(len(dark), 100, replace=False)]
        changed = np.arange(100) < share
        mixed[changed] += direction * OFFSET
        found = compare_levels(mixed)
        high = changed if direction > 0 else ~changed
        assert found.mixed
        assert (found.high & high).sum() + (found.low & ~high).sum() >= 95
        assert (found.high & ~high).sum() + (found.low & high).sum() <= 1


@pytest.mark.usefixtures("eurosat_root")
@pytest.mark.parametrize("bands", [("B02", "B03", "B04", "B08"), ("B02", "B03", "B04")])
def test_few_bands_raise_no_alarm(bands: tuple[str, ...]) -> None:
    """Real tiles of three or four bands are no mixture, and half of them with an offset are."""
    dark = dark_spectra("eurosat")[:, [EUROSAT_ORDER.index(name) for name in bands]]
    assert not compare_levels(dark).mixed
    changed = np.arange(len(dark)) % 2 == 0
    found = compare_levels(dark + OFFSET * changed[:, None])
    assert found.mixed
    assert not (found.high & ~changed).any()
    assert not (found.low & changed).any()


@pytest.mark.parametrize("bands", [tuple(RESOLUTION_M), L2A])
@pytest.mark.parametrize("share", [0, 1, 12, 20, 39])
def test_every_file_is_named(bands: tuple[str, ...], share: int) -> None:
    """The report names each file with its side, and says which side has the offset."""
    channels = [tuple(RESOLUTION_M).index(name) for name in bands]
    tiles = (drawn(k)[channels] + np.uint16(1000 * (k < share)) for k in range(40))
    found = found_in(tiles, bands)
    if share == 0:
        assert found == []
        return
    (mixture,) = found
    assert "was left in the brighter files" in mixture.text
    sides = dict(line.split(" ", 1) for line in mixture.names)
    assert len(sides) == 40
    named = {int(name): side for name, side in sides.items() if UNSURE not in side}
    assert len(named) >= 38
    assert all(("brighter" in side) == (name < share) for name, side in named.items())


@pytest.mark.parametrize("share", [1, 20, 39])
def test_an_offset_that_some_files_do_not_have(share: int) -> None:
    """With dn_offset=-1000 over all, those without an offset are darker than nothing."""
    tiles = (drawn(k) + np.uint16(0 if k < share else 1000) for k in range(40))
    (mixture,) = found_in(tiles, offset=-1000)
    assert "1000 is subtracted from the darker files" in mixture.text
    darker = {int(line.split(" ")[0]) for line in mixture.names if "(darker" in line}
    assert darker == set(range(share))


def test_numbers_that_were_cut_at_zero() -> None:
    """Files from which 1000 was taken in whole positive numbers are named."""
    tiles = (
        np.where(drawn(k) > 1000, drawn(k) - 1000, 0) if k < 5 else drawn(k) for k in range(40)
    )
    found = found_in(tile.astype(np.uint16) for tile in tiles)
    assert "negative values were clipped" in found[0].text
    assert {int(line.split(" ")[0]) for line in found[0].names if "clipped at" in line} == set(
        range(5)
    )
    assert len(found) == 1


@pytest.mark.parametrize("share", [1, 4, 20])
@pytest.mark.parametrize("factor", [6.5535, 1e-4])
def test_other_scales_are_named(share: int, factor: float) -> None:
    """Files of numbers that fill 0 .. 65535, or of reflectance, are named among others."""
    spectra = Spectra(BandSpec(names=tuple(RESOLUTION_M), level="L1C"))
    for k in range(40):
        values = torch.from_numpy(drawn(k).astype(np.float32)).flatten(1) / 10_000
        spectra.add(str(k), values * (factor if k < share else 1))
    texts = list(spectra.mixtures())
    assert "scale" in texts[0].text
    word = "brighter" if factor > 1 else "darker"
    assert {int(line.split(" ")[0]) for line in texts[0].names if f"({word}" in line} == set(
        range(share)
    )


@pytest.mark.parametrize("share", [1, 4, 20])
def test_clouds_are_no_other_scale(share: int) -> None:
    """Files below clouds are brighter by as much as numbers that fill 0 .. 65535, and as real."""
    spectra = Spectra(BandSpec(names=tuple(RESOLUTION_M), level="L1C"))
    for k in range(40):
        values = torch.from_numpy(drawn(k).astype(np.float32)).flatten(1) / 10_000
        spectra.add(str(k), (values * 6.5535).clamp(max=1.7) if k < share else values)
    assert not [own.text for own in spectra.mixtures() if "65535" in own.text]


def test_levels_are_told_apart() -> None:
    """Where B09 is like B8A in some files and far darker in others, both are named."""

    def leveled(k: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint16]]:
        tile = drawn(4 * k)
        if k < 3:
            tile[9] = tile[8]
        return tile

    found = [own for own in found_in(leveled(k) for k in range(20)) if "levels" in own.text]
    assert [line.split(" ")[0] for line in found[0].names[:3]] == ["0", "1", "2"]
    assert all("as in L2A" in line for line in found[0].names[:3])


def test_few_files_say_nothing() -> None:
    """With seven files nothing is compared."""
    assert found_in(drawn(k) + np.uint16(1000 * (k < 2)) for k in range(7)) == []


@pytest.mark.parametrize("command", ["data", "catalog"])
def test_commands_say_it(command: str, rslow: Run, write_tile: WriteTile, tmp_path: Path) -> None:
    """Both checks report a mixture and the files of the smaller side, and not that all is well."""
    for k in range(24):
        name = f"{k:02d}_{'high' if k in (3, 8, 9) else 'low'}.tif"
        pixels = drawn(k) + np.uint16(1000 * ("high" in name))
        path = tmp_path / "tiles" / ("wood", "field")[k % 2] / name
        write_tile(path, bands=tuple(RESOLUTION_M), pixels=pixels)
    run = ("-s", f"run.dir={tmp_path / 'run'}")
    words = ("kind=folder", f"root={tmp_path / 'tiles'}", "tile_size=32", "val_share=0.2")
    data = (*run, *(part for word in words for part in ("-s", f"data.{word}")))
    if command == "catalog":
        assert rslow("catalog", "build", *data).code == 0
    ran = rslow(command, "check", *data)
    assert ran.code == 0, ran.err
    text = ran.told
    assert "3 of 24 files are 0.1 brighter in every band than 21 others" in text
    lines = [line.strip() for line in ran.out.splitlines() if "(brighter by 0.1)" in line]
    assert len(lines) == 3
    assert all("high" in line for line in lines)
    assert "No problems found" not in text


@pytest.mark.usefixtures("eurosat_root")
@pytest.mark.parametrize(
    ("share", "first"),
    [(0, "Forest"), (1, "Highway"), (1, "SeaLake"), (20, "River"), (90, "River")],
)
def test_orders_are_told_apart(share: int, first: str, eurosat_root: Path) -> None:
    """Of 100 real tiles those whose bands lie as ESA has them are named among EuroSAT's order.

    One of water alone is not: what is left of its light where orders differ is noise.
    """
    paths = sorted(eurosat_root.rglob("*.tif"))
    paths = [paths[i] for i in np.random.default_rng(share).permutation(len(paths))[:100]]
    paths.sort(key=lambda path: not path.name.startswith(first))
    esa = [EUROSAT_ORDER.index(name) for name in RESOLUTION_M]

    def mixed() -> "Iterator[np.ndarray[tuple[int, ...], np.dtype[np.uint16]]]":
        for k, path in enumerate(paths):
            with rasterio.open(path) as file:
                pixels = file.read()
            yield pixels[esa] if k < share else pixels

    found = found_in(mixed(), EUROSAT_ORDER)
    if share == 0 or (share, first) == (1, "SeaLake"):
        assert found == []
        return
    (mixture,) = found
    assert "another order" in mixture.text
    named = {int(line.split(" ")[0]): line for line in mixture.names if UNSURE not in line}
    sides = {line.split(" ", 1)[1] for name, line in named.items() if name < share}
    others = {line.split(" ", 1)[1] for name, line in named.items() if name >= share}
    assert len(named) >= 95
    assert len(sides) == len(others) == 1
    assert sides != others
