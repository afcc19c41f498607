"""Found tiles to files: table, tiles with all that is known of them, and the review package.

One tile after the other, so that ten thousand take no more memory than a review package.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float
from torch import Tensor

from rs_lowconf import __version__
from rs_lowconf.cli.models import Models
from rs_lowconf.cli.progress import progress
from rs_lowconf.review.geotiff import synthetic_tags, write_tile
from rs_lowconf.review.package import RealNeighbour, ReviewSample, sample_tags, write_package
from rs_lowconf.runs import replacing, sha256_of
from rs_lowconf.search.archive import most_diverse
from rs_lowconf.search.calibration import CRITIC
from rs_lowconf.search.evaluate import stored_numbers
from rs_lowconf.search.journal import Journal
from rs_lowconf.search.loop import Found, Tile, Trajectory
from rs_lowconf.search.neighbours import features_of, nearest, same_class
from rs_lowconf.seeds import seed_of
from rs_lowconf.settings import Settings

_ROWS = 256


@dataclass(frozen=True, kw_only=True, eq=False)
class Export:
    """Turns found tiles into samples, one at a time."""

    settings: Settings
    models: Models
    bank: Float[Tensor, "n f"] | None
    """Features of the real tiles to show beside found ones; None where there are no data."""

    def sample(self, one: Trajectory, tile: Tile, *, any_class: bool = False) -> ReviewSample:
        """Return a found tile as a sample, with the real tile that resembles it most.

        Args:
            one: the trajectory that found it.
            tile: the tile.
            any_class: whether the real tile may be of another class than the condition.
        """
        found, generator = _found(one), self.models.gan.generator
        ranked = found.log_probability.argsort(descending=True)
        return ReviewSample(
            sample_id=_sample_id(self.settings, one),
            pixels=tile.pixels.numpy(),
            bands=generator.bands,
            condition=generator.classes[one.label],
            predicted=self.models.target.classes[int(ranked[0])],
            second=self.models.target.classes[int(ranked[1])],
            confidence=float(found.log_probability.max().exp()),
            realism=found.parts[CRITIC],
            neighbour=self._neighbour(one, any_class=any_class),
            provenance=_provenance(self.models, one),
        )

    def _neighbour(self, one: Trajectory, *, any_class: bool) -> RealNeighbour | None:
        source, generator = self.models.real, self.models.gan.generator
        if source is None or self.bank is None:
            return None
        condition = [generator.classes[one.label]]
        allowed = None if any_class else same_class(condition, source.classes, source.labels)
        indices, distances = nearest(_found(one).features[None], self.bank, allowed)
        index = int(indices[0])
        image = source.batch([index]).image[:, list(source.bands.index_of(generator.bands.names))]
        return RealNeighbour(
            tile_id=source.ids[index],
            pixels=stored_numbers(image)[0].numpy(),
            class_name=source.classes[int(source.labels[index])],
            grid=source.grids[index],
            distance=float(distances[0]),
        )


def write_results(
    settings: Settings,
    models: Models,
    folder: Path,
    found: Sequence[Trajectory],
    journal: Journal,
) -> None:
    """Write tiles/, samples.parquet and review/ for the found tiles.

    The review package comes last and whole: where it exists, everything else does.
    """
    real = models.real
    bank = None if real is None else features_of(models.extractor, real, models.device)
    export = Export(settings=settings, models=models, bank=bank)
    attribution = models.gan.header["attribution"]
    with replacing(folder / "samples.parquet") as temporary:
        _write_table(temporary, _write_tiles(export, folder, found, journal))
    blind = settings.review.label == "blind"
    shown = list(found)
    if len(shown) > settings.review.max_samples:
        features = torch.stack([_found(one).features for one in shown])
        shown = [shown[i] for i in most_diverse(features, settings.review.max_samples)]
    if blind:
        # An order by seed would tell the condition.
        dice = np.random.default_rng(seed_of(settings.run.seed, "review", "order"))
        shown = [shown[i] for i in dice.permutation(len(shown))]
    known = models.gan.generator.classes + (models.real.classes if models.real else ())
    write_package(
        folder / "review",
        # Blind, a neighbour of the conditioned class would tell the class.
        [export.sample(one, journal.tile(one.seed_id), any_class=blind) for one in shown],
        classes=list(dict.fromkeys(known)),
        target_classes=models.target.classes,
        label=settings.review.label,
        attribution=attribution,
        provenance={name: str(value) for name, value in models.fingerprint.items()},
    )


def _found(one: Trajectory) -> Found:
    """Return what a trajectory found; it is asked of those only that found something."""
    return cast("Found", one.found)


def _sample_id(settings: Settings, one: Trajectory) -> str:
    """Return a name that tells nothing of class or order, the same after a resume."""
    return f"s{seed_of(settings.run.seed, 'sample', one.seed_id) % 16**10:010x}"


def _provenance(models: Models, one: Trajectory) -> dict[str, str]:
    header = models.gan.header
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
    export: Export, folder: Path, found: Sequence[Trajectory], journal: Journal
) -> Iterator[dict[str, Any]]:
    """Write tile after tile and yield its row of the table."""
    tags = synthetic_tags(export.models.gan.header["attribution"])
    with progress("writing tiles", len(found)) as bar:
        for number, one in enumerate(found, start=1):
            own, tile = _found(one), journal.tile(one.seed_id)
            sample = export.sample(one, tile)
            path = folder / "tiles" / f"{sample.sample_id}.tif"
            write_tile(path, sample.pixels, sample.bands, {**sample_tags(sample), **tags})
            top = own.log_probability.topk(2).values
            neighbour = sample.neighbour
            yield {
                "sample_id": sample.sample_id,
                "seed_id": one.seed_id,
                "condition": sample.condition,
                "predicted": sample.predicted,
                "second": sample.second,
                "confidence": sample.confidence,
                "confidence_before_rounding": own.confidence_before,
                "margin": float(top[0] - top[1]),
                **{f"gate_{name}": value for name, value in own.parts.items()},
                "gate_p_value": own.p_value,
                "steps": one.steps,
                "evaluations": one.evaluations,
                "neighbour": None if neighbour is None else neighbour.tile_id,
                "neighbour_distance": None if neighbour is None else neighbour.distance,
                "tile": path.relative_to(folder).as_posix(),
                "sha256": sha256_of(path),
                "probabilities": own.log_probability.exp().tolist(),
                "latent": tile.z.tolist(),
            }
            bar.update(number)


def _write_table(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    """Write rows as Parquet, some hundreds at a time."""
    writer: pq.ParquetWriter | None = None
    try:
        while some := list(islice(rows, _ROWS)):
            table = pa.Table.from_pylist(some, schema=writer.schema if writer else None)
            if writer is None:
                writer = pq.ParquetWriter(path, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()
