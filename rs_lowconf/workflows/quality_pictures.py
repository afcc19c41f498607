"""How good a generator is that learned from pictures too: the probe, and likeness to pictures.

Both in the features of a network that nothing else sees through.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from rs_lowconf.bands import BandSpec, composites_of
from rs_lowconf.boundary import reading
from rs_lowconf.data.files import Split
from rs_lowconf.data.sources import open_more
from rs_lowconf.errors import DataError, ModelError
from rs_lowconf.gan.frozen import frozen_network
from rs_lowconf.gan.measure import Measurement
from rs_lowconf.gan.pictures import CompositeView, StoredView, View, random_tiles, real_pictures
from rs_lowconf.gan.probe import probe_features
from rs_lowconf.gan.rendering import rendering_of
from rs_lowconf.gan.source_quality import (
    MEANING,
    NETWORK,
    Looks,
    Probed,
    first_of_each,
    halves,
    likeness_figures,
    passed_figure,
    probe_kind,
    probe_measurements,
    probe_table,
)
from rs_lowconf.gan.tiles import at_most
from rs_lowconf.models import GeneratorModel, load_gate
from rs_lowconf.places import model_path
from rs_lowconf.review.geotiff import read_tile
from rs_lowconf.runs import sha256_of
from rs_lowconf.search.gate import Gate
from rs_lowconf.seeds import seed_of
from rs_lowconf.settings import PictureData, Settings, further_sources
from rs_lowconf.stored import reflectance_of
from rs_lowconf.target.load import check_fit
from rs_lowconf.types import TileSource
from rs_lowconf.workflows.probe_log import log_probe
from rs_lowconf.workflows.quality_classifiers import cas_on_pictures
from rs_lowconf.workflows.quality_tiles import Tiles
from rs_lowconf.workflows.records import Step, Work

RANDOM, PASSED, REJECTED, FOUND = "random tiles", "gate-passed", "gate-rejected", "found tiles"
KINDS = (RANDOM, PASSED, REJECTED, FOUND)
_ATTEMPTS = 10
"""Random tiles drawn per gate-passed tile wanted, before a class is given up."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Judged:
    """What the report gets."""

    groups: dict[str, list[Measurement]]
    probe: dict[str, Any]
    """Results of the probe by view, kind of tiles and class."""
    numbers: dict[str, int]
    """Tiles by what they are."""
    text: str
    """What the probe means and its results by class, as Markdown."""
    opened: str
    """How often the probe has been opened for this model."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Shown:
    """One way to show tiles, with the real tiles that are shown so."""

    title: str
    view: View
    train: TileSource
    val: TileSource
    real: Sequence[TileSource]
    """Held-out tiles of one split, or of two where one would be too few."""

    @property
    def pictures(self) -> bool:
        """Return whether these are a source of pictures, else a composite of all bands."""
        return isinstance(self.view, StoredView)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Pile:
    """Generated tiles of one kind as pictures."""

    pictures: dict[str, list[UInt8[np.ndarray, "b h w 3"]]] = field(default_factory=dict)
    """By title of the view."""
    labels: list[Int[Tensor, " b"]] = field(default_factory=list)

    def add(
        self,
        image: Float[Tensor, "b c h w"],
        label: Int[Tensor, " b"],
        bands: BandSpec,
        views: Sequence[Shown],
    ) -> None:
        """Add tiles, shown in every way."""
        self.labels.append(label)
        for one in views:
            self.pictures.setdefault(one.title, []).append(one.view.generated(image, bands))

    def __len__(self) -> int:
        return sum(map(len, self.labels))


@dataclass(frozen=True, kw_only=True, eq=False)
class Judges:
    """What is compared, opened and checked."""

    views: list[Shown]
    left_out: dict[str, str]
    """Why a source is left out, by its title."""
    searches: list[Path]
    """Whose found tiles are judged too."""
    no_search: str
    """Why there are none."""


def open_judges(settings: Settings, tiles: Tiles, found: Sequence[str]) -> Judges:
    """Open what generated tiles are compared with.

    Args:
        settings: of the run, with pictures in `data.more`.
        tiles: the generator, and the tiles with all bands.
        found: searches whose tiles are judged too; `generate` when none is named, if it exists.

    Raises:
        DataError: pictures cannot be used, or a search was one of another generator.
        ModelError: the generator does not draw what the pictures show.
    """
    searches = [settings.run.dir / name for name in found]
    default, no_search = settings.run.dir / "generate", "the searches found none"
    foreign = [path for path in searches if searched_gan(path) != tiles.gan_sha256]
    if foreign:
        raise DataError(
            f"the tiles that {foreign[0]} found are of another generator",
            remedy="leave out that --found, or search again",
        )
    if not searches:
        if not (default / "samples.parquet").exists():
            no_search = "there is no search in run.dir yet, or under another name (--found)"
        elif searched_gan(default) != tiles.gan_sha256:
            no_search = f"the tiles in {default} are of another generator"
        else:
            searches = [default]
    views, left_out = _open_views(settings, tiles)
    return Judges(views=views, left_out=left_out, searches=searches, no_search=no_search)


def judge_sources(settings: Settings, tiles: Tiles, folder: Path, judges: Judges) -> Work[Judged]:
    """Compare generated tiles with real ones as every source shows them, and log the probe.

    Args:
        settings: of the run, with pictures in `data.more`.
        tiles: the generator, and the tiles with all bands.
        folder: of the evaluation.
        judges: see `open_judges`.

    Raises:
        DataError: found tiles cannot be used.
    """
    seed, classes = seed_of(settings.run.seed, "judges"), tiles.train.classes
    views = judges.views
    piles, missing, passed = yield from _draw(settings, tiles, views, seed)
    piles[FOUND], missing[FOUND] = _find(tiles, judges), judges.no_search
    piles = {kind: pile for kind, pile in piles.items() if len(pile)}
    missing = {kind: why for kind, why in missing.items() if kind not in piles}
    groups: dict[str, list[Measurement]] = {}
    results: dict[str, dict[str, Any]] = {}
    numbers = {"generated and judged as pictures": len(piles[RANDOM])}
    tables = []
    title = "looking through EfficientNet-Lite2"
    yield Step(title=title, done=0, total=len(views))
    for number, one in enumerate(views, start=1):
        looks = _look(settings, tiles, one, piles, seed)
        probes, floor = _probe(settings, looks, one, classes, seed)
        numbers[f"{one.title} ({_splits(settings, one)})"] = len(looks["real"])
        if one.pictures:
            groups[f"Likeness: {one.title}"] = likeness_figures(
                looks[RANDOM], looks["train"], looks["real"], len(classes), seed
            )
        groups[f"Probe: {one.title}"] = probe_measurements(KINDS, probes, floor, missing)
        results[one.title] = {
            **{kind: own and own.to_json() for kind, own in probes.items()},
            "floor": floor and floor.to_json(),
        }
        table = probe_table(probes, floor, classes)
        tables.append(f"### {one.title}, by class\n\n{table}")
        yield Step(title=title, done=number, total=len(views), text=one.title)
    for title, why in judges.left_out.items():
        groups[f"Probe: {title}"] = [Measurement(name="probe", note=f"left out: {why}")]
    if passed is not None:
        groups["Gate"] = [passed_figure(passed)]
    opened = log_probe(
        settings,
        folder,
        results,
        sha256=tiles.gan_sha256,
        images=tiles.gan.header["images"],
    )
    if settings.evaluate.cas_rgb:
        for one in views:
            if one.pictures:
                groups[f"Use: {one.title}"] = yield from cas_on_pictures(
                    settings,
                    tiles.gan.class_generator,
                    one.view,
                    (one.train, one.val, one.real[0]),
                    tiles.device,
                )
    text = "\n".join(["", "## What the probe says", "", MEANING, opened, "", *tables])
    return Judged(groups=groups, probe=results, numbers=numbers, text=text, opened=opened)


def _open_views(settings: Settings, tiles: Tiles) -> tuple[list[Shown], dict[str, str]]:
    """Return the ways to show tiles, and why a source is left out, by its title.

    Every source of pictures is one, and so is every composite of all bands that no pictures show.

    Raises:
        DataError: pictures cannot be used.
        ModelError: they show what the generator does not draw.
    """
    data, bands = settings.data, tiles.gan.class_generator.bands
    split, classes = settings.evaluate.split, tiles.train.classes
    wanted: tuple[Split, ...] = ("train", "val", "test") if split == "test" else ("train", "val")
    opened = {name: open_more(data, name, classes) for name in wanted}
    views, left_out = [], {}
    more = further_sources(data)
    for number, section in enumerate(more):
        if not isinstance(section, PictureData):
            continue
        title = f"pictures {number + 1}" if len(more) > 1 else "pictures"
        own = {name: sources[number] for name, sources in opened.items()}
        shown = own["train"].bands
        if len(shown) != 3:
            left_out[title] = f"the network takes three bands, these show {len(shown)}"
            continue
        check_fit(shown, bands, model="source of pictures")
        if section.tile_size != tiles.gan.class_generator.tile_size:
            raise ModelError(
                f"the generator draws tiles of {tiles.gan.class_generator.tile_size} pixels, the "
                f"pictures in {section.root} have {section.tile_size}",
                remedy="leave them out of data.more",
            )
        views.append(
            Shown(
                title=title,
                view=StoredView(rendering=rendering_of(section, shown)),
                train=own["train"],
                val=own["val"],
                real=[own[split]],
            )
        )
    covered = [set(one.train.bands.names) for one in views]
    views += [
        Shown(
            title=composite.name.replace("_", " "),
            view=CompositeView(composite=composite),
            train=tiles.train,
            val=tiles.val,
            real=tiles.held_out,
        )
        for composite in composites_of(tiles.train.bands)
        if set(composite.bands) not in covered
    ]
    return views, left_out


def _splits(settings: Settings, one: Shown) -> str:
    """Return which splits the real tiles of a view are of."""
    return "test and val" if len(one.real) > 1 else settings.evaluate.split


def _draw(
    settings: Settings, tiles: Tiles, views: Sequence[Shown], seed: int
) -> Work[tuple[dict[str, _Pile], dict[str, str], Bool[Tensor, " n"] | None]]:
    """Draw random tiles and sort them by what the gate says.

    Returns:
        the tiles by kind; why a kind is missing; of all tiles drawn, which the gate passes.
    """
    generator, own = tiles.gan.class_generator, settings.evaluate
    k = len(generator.classes)
    random, few = -(-own.picture_tiles // k), -(-own.probe_tiles // k)
    gate, why = _gate(settings, tiles)
    missing = {
        PASSED: why or "the gate passes no random tile",
        REJECTED: why or "the gate rejects no random tile",
    }
    piles = {kind: _Pile() for kind in ((RANDOM, PASSED, REJECTED) if gate else (RANDOM,))}
    verdicts = []
    title = "drawing tiles to judge"
    yield Step(title=title, done=0, total=k * random)
    for label in range(k):
        left = dict.fromkeys(piles, few) | {RANDOM: random}
        drawn = 0
        for image in random_tiles(generator, label, seed):
            passed = torch.ones(len(image), dtype=torch.bool)
            if gate is not None:
                passed = _passes(gate, image, label, tiles.device)
                verdicts.append(passed)
            drawn += len(image)
            chosen = {RANDOM: passed | True, PASSED: passed, REJECTED: ~passed}
            for kind, pile in piles.items():
                some = image[chosen[kind]][: left[kind]]
                left[kind] -= len(some)
                if len(some):
                    labels = torch.full((len(some),), label)
                    pile.add(some, labels, generator.bands, views)
            enough = not left.get(PASSED) or drawn >= _ATTEMPTS * few
            if not left[RANDOM] and enough:
                break
        yield Step(title=title, done=(label + 1) * random, total=k * random)
    return piles, missing, torch.cat(verdicts) if verdicts else None


def _gate(settings: Settings, tiles: Tiles) -> tuple[Gate | None, str]:
    """Return the gate, or why there is none."""
    if not model_path(settings, "calibration").exists():
        return None, "there is no gate yet"
    try:
        generator = GeneratorModel(gan=tiles.gan, sha256=sha256_of(model_path(settings, "gan")))
        made = load_gate(settings, generator, tiles.device)
        return made.gate(generator.net.bands, settings.search.false_rejection, tiles.device), ""
    except ModelError as error:
        return None, f"the gate cannot be used: {error}"


@torch.no_grad()
def _passes(
    gate: Gate, image: Float[Tensor, "b c h w"], label: int, device: torch.device
) -> Bool[Tensor, " b"]:
    labels = torch.full((len(image),), label, device=device)
    return gate.score(image.to(device), labels).passes


def _find(tiles: Tiles, judges: Judges) -> _Pile:
    """Return the tiles that the searches found."""
    pile, bands = _Pile(), tiles.gan.class_generator.bands
    for search in judges.searches:
        for image, condition in found_tiles(search, bands):
            label = torch.tensor([tiles.train.classes.index(condition)])
            pile.add(image, label, bands, judges.views)
    return pile


def searched_gan(search: Path) -> str:
    """Return the checksum of the generator that a search had.

    Raises:
        DataError: there is no report of a search.
    """
    path = search / "report.json"
    with reading(path, expected="the report of a search"):
        checksum = json.loads(path.read_text(encoding="utf-8"))["models"]["GAN file"]
    return str(checksum)


def found_tiles(search: Path, bands: BandSpec) -> Iterator[tuple[Float[Tensor, "1 c h w"], str]]:
    """Yield the tiles that a search found, as reflectance, with their conditions.

    Args:
        search: its folder.
        bands: wanted, of the generator.

    Raises:
        DataError: the table cannot be read.
        ReviewError: a tile cannot be read.
    """
    path = search / "samples.parquet"
    with reading(path, expected="the table of samples of a search"):
        rows = pq.read_table(path, columns=["tile", "condition"]).to_pylist()
    for row in rows:
        tile = read_tile(search / row["tile"])
        held = BandSpec(names=tile.names, level=bands.level)
        pixels = tile.pixels[list(held.index_of(bands.names))]
        yield reflectance_of(pixels)[None], row["condition"]


def _look(
    settings: Settings, tiles: Tiles, one: Shown, piles: Mapping[str, _Pile], seed: int
) -> dict[str, Looks]:
    """Return what the network sees of all kinds of tiles in one view."""
    network, own = frozen_network(NETWORK).to(tiles.device), settings.evaluate
    k = len(tiles.train.classes)

    def of_sources(sources: Sequence[TileSource]) -> Looks:
        parts = [probe_features(network, real_pictures(source, one.view)) for source in sources]
        return Looks(
            features=torch.cat(parts), labels=torch.cat([source.labels for source in sources])
        )

    train = at_most(one.train, -(-own.picture_tiles // k), seed)
    looks = {"real": of_sources(one.real), "train": of_sources([train])}
    for kind, pile in piles.items():
        pictures = np.concatenate(pile.pictures[one.title])
        labels = torch.cat(pile.labels)
        if not one.pictures:
            # No more than there are real tiles can be compared.
            most = torch.bincount(looks["real"].labels, minlength=k)
            chosen = first_of_each(labels, most)
            pictures, labels = pictures[chosen.numpy()], labels[chosen]
        looks[kind] = Looks(features=probe_features(network, pictures), labels=labels)
    return looks


def _probe(
    settings: Settings, looks: Mapping[str, Looks], one: Shown, classes: Sequence[str], seed: int
) -> tuple[dict[str, Probed | None], Probed | None]:
    """Return the probe's result for every kind of generated tiles, and the floor."""
    few = -(-settings.evaluate.probe_tiles // len(classes))
    real = looks["real"]
    # Halves of the few multispectral tiles would be too few: training tiles take their place.
    sides = (real, looks["train"])
    if one.pictures:
        sides = halves(real, len(classes), per_class=few, seed=seed)
    floor = probe_kind(*sides, classes, per_class=few, seed=seed)
    probes = {
        # Hard samples are compared as they were found, so many of each class.
        kind: probe_kind(real, own, classes, per_class=None if kind == FOUND else few, seed=seed)
        for kind, own in looks.items()
        if kind not in ("real", "train")
    }
    return probes, floor
