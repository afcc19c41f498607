"""What the job `generate` found: figures, tables, GeoTIFFs in their place, and a review package.

```
report.html        a page for a browser: the answer, endings, variants beside their tiles
report.json        endings, inversion errors against their bounds and variants, by class
tiles.parquet      a row a tile: ending, errors, bounds, latent
variants.parquet   a row a variant: its tile, scores, distances, file, latent
variants/          every variant as a GeoTIFF on the grid of its tile
sheet.png          some tiles: real, redrawn, variants
review/            a review package of variants beside their tiles, with context.qgz
```

One pass over the parts, of which a few are in memory at a time.
"""

import heapq
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import UInt16

from rs_lowconf.bands import composites_or_grey
from rs_lowconf.batch.generate import SCHEMA, VARIANT
from rs_lowconf.batch.imagery import scenes_around
from rs_lowconf.batch.jobs import CatalogRows
from rs_lowconf.batch.ledger import PARTS
from rs_lowconf.batch.stamp import fingerprint, is_stamped, stamp, unstamp
from rs_lowconf.batch.variants_page import write_variants_page
from rs_lowconf.data.catalog.reading import read_mask, read_row, reflectance
from rs_lowconf.data.catalog.rows import CatalogRow, from_table
from rs_lowconf.gan.condition import MaskBank
from rs_lowconf.gan.sheet import compose, tiles_row
from rs_lowconf.models import Models, of_masks
from rs_lowconf.pages.samples import Card, card_of
from rs_lowconf.review.geotiff import synthetic_tags, write_tile
from rs_lowconf.review.ids import package_id
from rs_lowconf.review.package import place_for
from rs_lowconf.review.publish import publish
from rs_lowconf.review.samples import Generated, Prediction, RealNeighbour, TileMasks
from rs_lowconf.review.store import STORE, ReviewStore
from rs_lowconf.runs import output_errors, replacing, sha256_of, write_json
from rs_lowconf.search.calibration import CRITIC, Features
from rs_lowconf.settings import Settings
from rs_lowconf.stored import reflectance_of, stored_numbers
from rs_lowconf.types import TileGenerator
from rs_lowconf.version import __version__

_REPORT = "report.json"
_SHEET_TILES = 24
_TILES = pa.schema([own for own in SCHEMA if own.name != "variants"] + [("found", pa.int32())])
_VARIANTS = pa.schema(
    [("id", pa.string()), *(own for own in VARIANT if own.name != "pixels"), ("file", pa.string())]
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Written:
    """What was written."""

    report: dict[str, Any]
    """As in report.json."""
    package: Path | None
    """The review package; None without any variant."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Variant:
    """A variant with the tile that it is one of."""

    row: CatalogRow
    record: Mapping[str, Any]
    """Of the tile, see `generate.SCHEMA`."""
    own: Mapping[str, Any]
    """Of the variant."""
    file: Path


def write_variants(
    settings: Settings, models: Models, rows: CatalogRows, folder: Path, features: Features
) -> Written:
    """Write everything into the folder of a job.

    Args:
        settings: of the run.
        models: that searched.
        rows: that the job worked on.
        folder: of the job.
        features: in which distance means dissimilarity, for the page.

    Raises:
        TileError: a tile that was searched around cannot be read any more.
        OutputError: a file cannot be written.
    """
    made_from = fingerprint(folder, (str(settings.review.max_samples), models.class_map.text))
    if is_stamped(folder, made_from):
        return _read(folder)
    unstamp(folder)
    parts = sorted((folder / PARTS).glob("part-*"))
    table = pa.concat_tables(list(rows.tables()))
    writer = _Writer(settings=settings, models=models, rows=table, folder=folder)
    figures = _Figures()
    with (
        replacing(folder / "tiles.parquet") as tiles_path,
        pq.ParquetWriter(tiles_path, _TILES) as tiles,
        replacing(folder / "variants.parquet") as variants_path,
        pq.ParquetWriter(variants_path, _VARIANTS) as variants,
    ):
        for path in parts:
            records = pq.read_table(path).to_pylist()
            told: list[dict[str, Any]] = []
            for record in records:
                record["found"] = len(record["variants"])
                figures.add(record)
                if record["found"]:
                    told += writer.write(record)
            tiles.write_table(pa.Table.from_pylist(records, schema=_TILES))
            variants.write_table(pa.Table.from_pylist(told, schema=_VARIANTS))
    writer.remove_others()
    writer.write_sheet()
    chosen = writer.chosen()
    package = writer.write_package(chosen)
    name = None if package is None else package.name
    report = {**figures.report(), "package": name, "shown": len(chosen)}
    write_json(folder / _REPORT, report)
    cards = [writer.card(one, features) for one in chosen]
    page = write_variants_page(
        folder, report, settings, models, cards=cards, catalog=rows.catalog.path
    )
    written = [page, *(folder / name for name in (_REPORT, "tiles.parquet", "variants.parquet"))]
    stamp(folder, made_from, written if package is None else [*written, package])
    return _read(folder)


def _read(folder: Path) -> Written:
    """Return what was written into a folder."""
    report = json.loads((folder / _REPORT).read_text(encoding="utf-8"))
    package = None if report["package"] is None else folder / report["package"]
    return Written(report=report, package=package)


@dataclass(kw_only=True, eq=False)
class _Figures:
    """Counts and errors by class."""

    endings: dict[str, Counter[str]] = field(default_factory=dict)
    variants: Counter[str] = field(default_factory=Counter)
    ratios: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """Errors of pixels and of features over their bounds."""
    unanswered: Counter[str] = field(default_factory=Counter)

    def add(self, record: Mapping[str, Any]) -> None:
        group = record["group"]
        self.endings.setdefault(group, Counter())[record["outcome"]] += 1
        self.variants[group] += record["found"]
        self.unanswered.update(dict(record["unanswered"]))
        self.ratios.setdefault(group, []).append(
            tuple(record[f"{own}_error"] / record[f"{own}_bound"] for own in ("pixel", "feature"))
        )

    def report(self) -> dict[str, Any]:
        every = [pair for own in self.ratios.values() for pair in own]
        return {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            **_against_bounds(every),
            "endings": dict(sum(self.endings.values(), Counter())),
            "variants": self.variants.total(),
            "unanswered": {
                "tiles": self.unanswered.total(),
                "by_reason": dict(self.unanswered),
            },
            "by_class": {
                name: {
                    **_against_bounds(own),
                    "endings": dict(self.endings[name]),
                    "variants": self.variants[name],
                }
                for name, own in sorted(self.ratios.items())
            },
        }


def _against_bounds(ratios: list[tuple[float, float]]) -> dict[str, Any]:
    """Return how inversion errors compare with their bounds."""
    both = np.array(ratios)
    return {
        "tiles": len(both),
        "share_within_bound": float((both <= 1).all(1).mean()),
        "share_within_pixel_bound": float((both[:, 0] <= 1).mean()),
        "share_within_feature_bound": float((both[:, 1] <= 1).mean()),
        "median_pixel_error_over_bound": float(np.median(both[:, 0])),
        "median_feature_error_over_bound": float(np.median(both[:, 1])),
    }


class _Writer:
    """Writes variants one by one, and keeps those that people are shown."""

    def __init__(self, *, settings: Settings, models: Models, rows: pa.Table, folder: Path) -> None:
        self._settings = settings
        self._models = models
        self._rows = rows
        self._place = {name: i for i, name in enumerate(rows["id"].to_pylist())}
        self._folder = folder
        self._shown: list[tuple[int, int, str, _Variant]] = []
        self._sheet: list[tuple[CatalogRow, dict[str, Any]]] = []

    def write(self, record: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Write the variants of a tile and yield their rows of the table."""
        place = self._place[record["id"]]
        (row,) = from_table(self._rows.slice(place, 1))
        if len(self._sheet) < _SHEET_TILES:
            self._sheet.append((row, record))
        for rank, own in enumerate(record["variants"]):
            file = self._folder / "variants" / f"{own['sample_id']}.tif"
            variant = _Variant(row=row, record=record, own=own, file=file)
            tags = {
                **_provenance(variant, self._models),
                **synthetic_tags(self._models.generator.attribution),
            }
            bands = self._models.generator.net.bands
            write_tile(file, self._pixels(own), bands, tags, row.grid)
            self._offer(rank, variant)
            yield {"id": record["id"], **own, "file": file.relative_to(self._folder).as_posix()}

    def _offer(self, rank: int, variant: _Variant) -> None:
        """Keep it for reviewers, who see one of every tile before a second one of any."""
        name = variant.own["sample_id"]
        # Names are hashes: a random choice that does not depend on the order of the parts.
        entry = (-rank, -int(name[1:], 16), name, variant)
        heapq.heappush(self._shown, entry)
        if len(self._shown) > self._settings.review.max_samples:
            heapq.heappop(self._shown)

    def _pixels(self, own: Mapping[str, Any]) -> UInt16[np.ndarray, "c h w"]:
        generator = self._models.generator.net
        shape = (len(generator.bands), generator.tile_size, generator.tile_size)
        return np.frombuffer(own["pixels"], dtype=np.uint16).reshape(shape)

    def write_sheet(self) -> None:
        """Write real tiles, redrawn ones and variants side by side."""
        if not self._sheet:
            return
        bands = self._models.generator.net.bands
        columns = 2 + self._settings.variants.count
        composite = composites_or_grey(bands)[0]
        rows = []
        for row, record in self._sheet:
            real = reflectance(row, read_row(row), bands)[None]
            variants = [reflectance_of(self._pixels(own))[None] for own in record["variants"]]
            images = torch.cat([real, self._redrawn(row, record), *variants])
            name = f"{record['group']} {record['confidence']:.2f}"
            rows.append((name, [tiles_row(images, bands, composite, columns)]))
        with replacing(self._folder / "sheet.png") as temporary:
            sheet = compose("REAL | REDRAWN | VARIANTS (synthetic)", [rows])
            sheet.save(temporary, format="PNG")

    @torch.no_grad()
    def _redrawn(self, row: CatalogRow, record: Mapping[str, Any]) -> torch.Tensor:
        models, z = self._models, torch.tensor([record["latent"]])
        generator: TileGenerator = models.generator.net
        if models.generator.condition.pixelwise:
            label = 0
            _, generator = of_masks(self._settings.search, models, self._bank(row))
        else:
            label = generator.classes.index(record["condition"])
        drawn = generator(z.to(models.device), torch.tensor([label], device=models.device))
        return drawn.cpu()

    def _bank(self, row: CatalogRow) -> MaskBank:
        classes = self._models.generator.condition.pixel_classes
        mask = read_mask(row, classes).to(torch.uint8)[None]
        return MaskBank(masks=mask, names=(row.tile_id,), classes=classes)

    def remove_others(self) -> None:
        """Remove the files of variants of other settings or tiles, left by an earlier run."""
        folder = self._folder / "variants"
        known = set(
            pq.read_table(self._folder / "variants.parquet", columns=["file"])["file"].to_pylist()
        )
        with output_errors(folder):
            for path in folder.glob("v*.tif"):
                if path.relative_to(self._folder).as_posix() not in known:
                    path.unlink()

    def chosen(self) -> list[_Variant]:
        """Return the variants that people are shown, the first ones of all tiles first."""
        # Best last in the heap.
        return [entry[-1] for entry in sorted(self._shown, key=lambda one: one[:3], reverse=True)]

    @torch.no_grad()
    def card(self, one: _Variant, features: Features) -> Card:
        """Return a variant as a page shows it."""
        models, sample = self._models, self._sample(one)
        image = reflectance_of(sample.pixels)[None].to(models.device)
        seen = features(image)[0].cpu().numpy()
        classes = models.generator.condition.pixel_classes, models.target.classes
        return card_of(sample, seen, *classes, models.class_map)

    def write_package(self, chosen: Sequence[_Variant]) -> Path | None:
        """Return the review package of variants; one that exists is never changed."""
        if not chosen:
            return None
        settings, models = self._settings, self._models
        # With the files' checksums: other pixels of the same seeds are other variants.
        content = [(one.own["sample_id"], sha256_of(one.file)) for one in chosen]
        package = package_id(settings.run.seed, "variants", repr(content))
        review = place_for(self._folder, package)
        if review.exists():
            return review
        publish(
            ReviewStore(settings.run.dir / STORE),
            review,
            [self._sample(one) for one in chosen],
            package_id=package,
            label="confirm",
            round=models.round,
            classes=models.generator.condition.tile_classes,
            target_classes=models.target.classes,
            attribution=models.generator.attribution,
            provenance={name: str(value) for name, value in models.fingerprint.items()},
            pixel_classes=models.generator.condition.pixel_classes,
            scenes=scenes_around([one.row for one in chosen], blind=False),
        )
        return review

    def _sample(self, one: _Variant) -> Generated:
        models, own, row = self._models, one.own, one.row
        bands = models.generator.net.bands
        content = reflectance(row, read_row(row), bands)
        pixels = self._pixels(own)
        masks, real_mask = None, None
        if models.generator.condition.pixelwise:
            bank = self._bank(row)
            evaluator = of_masks(self._settings.search, models, bank)[0]
            predicted, confidence = evaluator.maps_stored(torch.from_numpy(pixels.copy()))
            real_mask = bank.masks[0].numpy()
            masks = TileMasks(
                mask=real_mask,
                predicted=predicted.to(torch.uint8).numpy(),
                confidence=confidence.clamp(0, 1).numpy(),
            )
        return Generated(
            sample_id=own["sample_id"],
            origin="found",
            pixels=pixels,
            bands=bands,
            condition=one.record["condition"] or row.tile_id,
            prediction=Prediction(
                class_name=own["predicted"], second=own["second"], confidence=own["confidence"]
            ),
            realism=self._part(own, CRITIC),
            gate_score=own["gate_score"],
            tile=one.file.relative_to(self._settings.run.dir).as_posix(),
            neighbour=RealNeighbour(
                tile_id=row.tile_id,
                pixels=stored_numbers(content[None])[0].numpy(),
                class_name="" if masks is not None else row.label or "",
                mask=real_mask,
                grid=row.grid,
                distance=own["feature_distance"],
            ),
            anchored=True,
            provenance=_known(one, models),
            masks=masks,
        )

    def _part(self, own: Mapping[str, Any], name: str) -> float:
        return float(own["parts"][list(self._models.evaluator.gate.parts).index(name)])


def _known(one: _Variant, models: Models) -> dict[str, str]:
    """Return where a variant comes from."""
    record, own = one.record, one.own
    return {
        "software": f"rs_lowconf {__version__}",
        "gan_sha256": models.fingerprint["GAN file"],
        "target_sha256": str(models.fingerprint["target file"]),
        "derived_from": f"{one.row.tile_id} sha256 {one.row.sha256}",
        **({} if one.row.taken is None else {"anchor_taken": one.row.taken.isoformat()}),
        "anchor_confidence": f"{record['confidence']:.6f}",
        "inversion_pixel_error": f"{record['pixel_error']:.6f} of {record['pixel_bound']:.6f}",
        "inversion_feature_error": f"{record['feature_error']:.6f} of "
        f"{record['feature_bound']:.6f}",
        "anchor_pixel_distance": f"{own['pixel_distance']:.6f}",
        "anchor_feature_distance": f"{own['feature_distance']:.6f}",
        "attempt": str(own["attempt"]),
    }


def _provenance(one: _Variant, models: Models) -> dict[str, str]:
    """Return the tags of a variant's file."""
    own = one.own
    return {
        **{f"RSLOW_{name.upper()}": value for name, value in _known(one, models).items()},
        "RSLOW_SAMPLE_ID": own["sample_id"],
        "RSLOW_CONDITION": one.record["condition"] or one.row.tile_id,
        "RSLOW_CONFIDENCE": f"{own['confidence']:.6f}",
    }
