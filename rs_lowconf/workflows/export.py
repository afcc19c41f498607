"""Found tiles to files: a table, and tiles with all that is known of them.

One tile after the other, so that ten thousand take no more memory than the cards of a page.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, cast

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Bool, Float, UInt16
from torch import Tensor

from rs_lowconf.album import open_album
from rs_lowconf.gan.condition import Condition
from rs_lowconf.grid import Grid
from rs_lowconf.models import HeldOut, Models
from rs_lowconf.pages.samples import Card, card_of
from rs_lowconf.review.geotiff import observed_tags, synthetic_tags, write_tile
from rs_lowconf.review.ids import sample_id
from rs_lowconf.review.images import write_maps
from rs_lowconf.review.panels import panels_of
from rs_lowconf.review.samples import (
    Generated,
    Prediction,
    RealNeighbour,
    TileMasks,
    sample_tags,
)
from rs_lowconf.runs import replacing, sha256_of
from rs_lowconf.search.calibration import CRITIC
from rs_lowconf.search.journal import Journal
from rs_lowconf.search.loop import Found, Tile, Trajectory
from rs_lowconf.search.neighbours import features_of, nearest, same_class
from rs_lowconf.settings import Settings
from rs_lowconf.stored import stored_numbers
from rs_lowconf.types import TileSource
from rs_lowconf.version import __version__
from rs_lowconf.workflows.records import Step, Work
from rs_lowconf.workflows.search import SearchLog

_ROWS = 256
_FOLDERS = {"found": "tiles", "audit": "audit", "real": "real"}
"""Where the tiles of each origin are, in the folder of the search."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Shown:
    """A sample for reviewers, with the features by which samples are chosen and ordered."""

    sample: Generated
    features: Float[Tensor, " f"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Export:
    """Turns tiles into samples, one at a time."""

    settings: Settings
    models: Models
    folder: Path
    """Of the search."""
    beside: TileSource | None
    """Real tiles to show beside found ones; None if there are none."""
    bank: Float[Tensor, "n f"] | None
    """Their features."""

    def sample(
        self, one: Trajectory, tile: Tile, origin: Literal["found", "audit"] = "found"
    ) -> Generated:
        """Return what a trajectory found or kept for audit, with the real tile most like it."""
        kept = kept_by(one, origin)
        generator = self.models.generator.net
        return self._judged(
            origin,
            self._stream(one),
            pixels=tile.pixels,
            log_probability=kept.log_probability,
            confidence=kept.confidence,
            condition=generator.classes[one.label],
            parts=kept.parts,
            neighbour=self._neighbour(kept.features, generator.classes[one.label]),
            provenance=_provenance(self.models, one),
            masks=self._masks(self.models.generator.condition, one.label, tile.pixels),
        )

    def shown(self, one: Trajectory, tile: Tile, origin: Literal["found", "audit"]) -> Shown:
        """Return a tile that the search kept, to be shown to reviewers."""
        sample = self.sample(one, tile, origin)
        if origin == "audit":  # the found ones are written already
            self.write(sample, sample_tags(sample))
        return Shown(sample=sample, features=kept_by(one, origin).features)

    def real(self, held: HeldOut, index: int) -> Shown:
        """Return a real tile, to be shown to reviewers among generated ones."""
        source, evaluator = held.source, held.evaluator
        bands = self.models.generator.net.bands
        batch = source.batch([index])
        pixels = stored_numbers(batch.image[:, list(source.bands.index_of(bands.names))])[0]
        name = source.classes[int(source.labels[index])]
        features, label = evaluator.features_stored(pixels), held.condition.names.index(name)
        parts = evaluator.judge_stored(pixels, label, thorough=True).parts
        answer = evaluator.answer_stored(pixels, label)
        sample = self._judged(
            "real",
            (source.ids[index],),
            pixels=pixels,
            log_probability=answer.log_probability[0],
            confidence=float(answer.confidence[0]),
            condition=name,
            parts=parts,
            neighbour=self._neighbour(features, name),
            provenance={"tile_id": source.ids[index]},
            masks=self._masks(held.condition, label, pixels),
        )
        self.write(sample, {}, None if batch.grids is None else batch.grids[0])
        return Shown(sample=sample, features=features)

    def write(self, sample: Generated, tags: Mapping[str, str], grid: Grid | None = None) -> None:
        """Write the tile of a sample and, into folders of their own, its maps if it has any.

        Args:
            sample: the sample.
            tags: of its tile, beside those that tell whether it is synthetic.
            grid: of a real tile.
        """
        settings, models = self.settings, self.models
        if sample.origin == "real":
            marks = observed_tags(settings.data.attribution)
        else:
            marks = synthetic_tags(models.generator.attribution)
        path, tags = settings.run.dir / sample.tile, {**tags, **marks}
        write_tile(path, sample.pixels, sample.bands, tags, grid)
        panels = panels_of(
            "confirm", models.generator.condition.pixel_classes, models.target.classes
        )
        write_maps(self.folder, sample, panels, tags, grid)

    def _judged(
        self,
        origin: Literal["found", "audit", "real"],
        names: tuple[str | int, ...],
        *,
        pixels: UInt16[Tensor, "c h w"],
        log_probability: Float[Tensor, " k"],
        confidence: float,
        condition: str,
        parts: dict[str, float],
        neighbour: RealNeighbour | None,
        provenance: dict[str, str],
        masks: TileMasks | None,
    ) -> Generated:
        first, second = log_probability.topk(2).indices.tolist()
        classes, settings = self.models.target.classes, self.settings
        # A trajectory may have two: a tile that the gate rejected, and then a better one.
        kind = "sample" if origin == "found" else origin
        name = sample_id(settings.run.seed, kind, *names)
        path = self.folder / _FOLDERS[origin] / f"{name}.tif"
        return Generated(
            sample_id=name,
            origin=origin,
            pixels=pixels.numpy(),
            bands=self.models.generator.net.bands,
            condition=condition,
            prediction=Prediction(
                class_name=classes[first], second=classes[second], confidence=confidence
            ),
            realism=parts[CRITIC],
            gate_score=self.models.evaluator.gate.joint(parts),
            tile=path.relative_to(settings.run.dir).as_posix(),
            neighbour=neighbour,
            provenance=provenance,
            masks=masks,
        )

    def _masks(
        self, condition: Condition, label: int, pixels: UInt16[Tensor, "c h w"]
    ) -> TileMasks | None:
        """Return the mask of a tile, if it has one, and what the target makes of its pixels."""
        mask = condition.mask(label)
        if mask is None:
            return None
        predicted, confidence = self.models.evaluator.maps_stored(pixels)
        return TileMasks(
            mask=mask.numpy(),
            predicted=predicted.to(torch.uint8).numpy(),
            confidence=confidence.clamp(0, 1).numpy(),
        )

    def _stream(self, one: Trajectory) -> tuple[int, ...]:
        """Return what tells the latent of a trajectory from those of all rounds."""
        return (one.seed_id,) if self.models.round == 1 else (self.models.round, one.seed_id)

    def _neighbour(self, features: Float[Tensor, " f"], name: str) -> RealNeighbour | None:
        source, generator = self.beside, self.models.generator.net
        condition = self.models.generator.condition
        if source is None or self.bank is None:
            return None
        allowed: Bool[Tensor, "1 n"] | None = None
        # Blind, a neighbour of the sample's class would tell the class, and the tile whose mask
        # it has would tell that it is generated.
        if self.settings.review.mode != "blind":
            allowed = same_class([name], source.classes, source.labels)
        elif condition.pixelwise and name in source.classes:
            allowed = source.labels[None] != source.classes.index(name)
        indices, distances = nearest(features[None], self.bank, allowed)
        index = int(indices[0])
        tile = source.batch([index])
        image = tile.image[:, list(source.bands.index_of(generator.bands.names))]
        name = source.ids[index]
        mask = condition.mask(condition.names.index(name)) if name in condition.names else None
        return RealNeighbour(
            tile_id=name,
            pixels=stored_numbers(image)[0].numpy(),
            # Of tiles with masks, each is a condition of its own.
            class_name="" if condition.pixelwise else source.classes[int(source.labels[index])],
            mask=None if mask is None else mask.numpy(),
            grid=None if tile.grids is None else tile.grids[0],
            distance=float(distances[0]),
        )


def tiles_beside(settings: Settings, models: Models) -> TileSource | None:
    """Return the real tiles to show beside found ones: of the data, else those of the package.

    Args:
        settings: of the run.
        models: of the run, not given in Python.
    """
    if models.real is None and settings.run.models == "embedded":
        return open_album()
    return models.real


def export_of(
    settings: Settings, models: Models, folder: Path, beside: TileSource | None = None
) -> Export:
    """Return what turns the tiles of a search into samples and files.

    Args:
        settings: of the run.
        models: that searched.
        folder: of the search.
        beside: tiles to show beside found ones, with the generator's bands.
    """
    bank = None if beside is None else features_of(models.gate.extractor, beside, models.device)
    return Export(settings=settings, models=models, folder=folder, beside=beside, bank=bank)


def write_tiles(export: Export, search: SearchLog) -> Work[list[Card]]:
    """Write tiles/ and samples.parquet of the found tiles; yield progress, return their cards."""
    found = [one for one in search.trajectories if one.found is not None]
    with replacing(export.folder / "samples.parquet") as temporary:
        tiles = _write_tiles(export, found, search.journal, cards := list[Card]())
        yield from _write_table(temporary, tiles, len(found))
    return cards


def kept_by(one: Trajectory, origin: Literal["found", "audit"]) -> Found:
    """Return what a trajectory kept; it is asked of those only that did."""
    return cast("Found", one.found if origin == "found" else one.audit)


def _provenance(models: Models, one: Trajectory) -> dict[str, str]:
    header = models.generator.gan.header
    return {
        "software": f"rs_lowconf {__version__}",
        "gan_sha256": models.fingerprint["GAN file"],
        "target_sha256": str(models.fingerprint["target file"]),
        "gan_images": str(header["images"]),
        "derived_from": header["attribution"],
        "latent_seed": f"{models.fingerprint['run.seed']}/search/{one.seed_id}",
        "steps": str(one.steps),
    }


def _write_tiles(
    export: Export, found: Sequence[Trajectory], journal: Journal, cards: list[Card]
) -> Iterator[dict[str, Any]]:
    """Write tile after tile, add it to `cards` for the page, and yield its row of the table."""
    models = export.models
    for one in found:
        own, tile = kept_by(one, "found"), journal.tile(one.seed_id)
        sample = export.sample(one, tile)
        export.write(sample, sample_tags(sample))
        features = own.features.numpy()
        cards.append(
            card_of(
                sample,
                features,
                models.generator.condition.pixel_classes,
                models.target.classes,
                models.class_map,
            )
        )
        path = export.settings.run.dir / sample.tile
        top = own.log_probability.topk(2).values
        neighbour = sample.neighbour
        yield {
            "sample_id": sample.sample_id,
            "seed_id": one.seed_id,
            "condition": sample.condition,
            "predicted": sample.prediction.class_name,
            "second": sample.prediction.second,
            "confidence": sample.prediction.confidence,
            "confidence_before_rounding": own.confidence_before,
            "margin": float(top[0] - top[1]),
            **{f"gate_{name}": value for name, value in own.parts.items()},
            "gate_p_value": own.p_value,
            "steps": one.steps,
            "evaluations": one.evaluations,
            "neighbour": None if neighbour is None else neighbour.tile_id,
            "neighbour_distance": None if neighbour is None else neighbour.distance,
            "tile": path.relative_to(export.folder).as_posix(),
            "sha256": sha256_of(path),
            "probabilities": own.log_probability.exp().tolist(),
            "latent": tile.z.tolist(),
        }


def _write_table(path: Path, rows: Iterator[dict[str, Any]], total: int) -> Work[None]:
    """Write rows as Parquet, some hundreds at a time."""
    writer: pq.ParquetWriter | None = None
    done = 0
    try:
        yield Step(title="writing tiles", done=0, total=total)
        while True:
            some = []
            for row in islice(rows, _ROWS):
                some.append(row)
                done += 1
                yield Step(title="writing tiles", done=done, total=total)
            if not some:
                break
            table = pa.Table.from_pylist(some, schema=writer.schema if writer else None)
            if writer is None:
                writer = pq.ParquetWriter(path, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()
