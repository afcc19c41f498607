"""Found tiles to files: table, tiles with all that is known of them, and the review package."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from rs_lowconf import __version__
from rs_lowconf.cli.models import CRITIC, Models
from rs_lowconf.cli.progress import progress
from rs_lowconf.review.geotiff import synthetic_tags, write_tile
from rs_lowconf.review.package import RealNeighbour, ReviewSample, sample_tags, write_package
from rs_lowconf.runs import replacing, sha256_of
from rs_lowconf.search.archive import most_diverse
from rs_lowconf.search.evaluate import stored_numbers
from rs_lowconf.search.loop import Trajectory
from rs_lowconf.search.neighbours import nearest, same_class
from rs_lowconf.seeds import seed_of
from rs_lowconf.settings import Settings


def write_results(
    settings: Settings, models: Models, folder: Path, found: Sequence[Trajectory]
) -> None:
    """Write tiles/, samples.parquet and review/ for the found tiles.

    The review package comes last and whole: where it exists, everything else does.
    """
    blind = settings.review.label == "blind"
    samples = _samples(settings, models, found, any_class=False)
    _write_tiles(models.gan.header["attribution"], folder / "tiles", samples)
    _write_table(folder, samples, found)
    shown = samples
    if blind:
        # A neighbour of the conditioned class would tell the class, an order by seed too.
        shown = _samples(settings, models, found, any_class=True)
        dice = np.random.default_rng(seed_of(settings.run.seed, "review", "order"))
        shown = [shown[i] for i in dice.permutation(len(shown))]
    if len(shown) > settings.review.max_samples:
        tiles = {_sample_id(settings, one): one.found for one in found if one.found is not None}
        features = torch.stack([tiles[one.sample_id].features for one in shown])
        shown = [shown[i] for i in most_diverse(features, settings.review.max_samples)]
    classes = list(dict.fromkeys((*models.gan.generator.classes, *models.train.classes)))
    write_package(
        folder / "review",
        shown,
        classes=classes,
        target_classes=models.target.classes,
        label=settings.review.label,
        attribution=models.gan.header["attribution"],
        provenance={name: str(value) for name, value in models.fingerprint.items()},
    )


def _samples(
    settings: Settings, models: Models, found: Sequence[Trajectory], *, any_class: bool
) -> list[ReviewSample]:
    """Pair every found tile with the real tile that resembles it most.

    Args:
        settings: the run's.
        models: extractor and training tiles.
        found: trajectories with a tile, in seed order.
        any_class: whether a neighbour may be of another class than the condition.
    """
    generator, source = models.gan.generator, models.train
    tiles = [one.found for one in found if one.found is not None]
    features = torch.stack([tile.features for tile in tiles])
    conditions = [generator.classes[one.label] for one in found]
    allowed = None if any_class else same_class(conditions, source.classes, source.labels)
    indices, distances = nearest(features, models.bank, allowed)
    real = source.batch(indices.tolist())
    ordered = real.image[:, list(source.bands.index_of(generator.bands.names))]
    real_pixels = stored_numbers(ordered).numpy()
    samples = []
    for row, (one, tile) in enumerate(zip(found, tiles, strict=True)):
        ranked = tile.log_probability.argsort(descending=True)
        index = int(indices[row])
        samples.append(
            ReviewSample(
                sample_id=_sample_id(settings, one),
                pixels=tile.pixels.numpy(),
                bands=generator.bands,
                condition=conditions[row],
                predicted=models.target.classes[int(ranked[0])],
                second=models.target.classes[int(ranked[1])],
                confidence=float(tile.log_probability.max().exp()),
                realism=tile.parts[CRITIC],
                neighbour=RealNeighbour(
                    tile_id=source.ids[index],
                    pixels=real_pixels[row],
                    class_name=source.classes[int(source.labels[index])],
                    grid=source.grids[index],
                    distance=float(distances[row]),
                ),
                provenance=_provenance(models, one),
            )
        )
    return samples


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


def _write_tiles(attribution: str, folder: Path, samples: Sequence[ReviewSample]) -> None:
    tags = synthetic_tags(attribution)
    with progress("writing tiles", len(samples)) as bar:
        for number, sample in enumerate(samples, start=1):
            path = folder / f"{sample.sample_id}.tif"
            write_tile(path, sample.pixels, sample.bands, {**sample_tags(sample), **tags})
            bar.update(number)


def _write_table(
    folder: Path, samples: Sequence[ReviewSample], found: Sequence[Trajectory]
) -> None:
    rows: list[dict[str, Any]] = []
    for sample, one in zip(samples, found, strict=True):
        if one.found is None:
            continue
        path = folder / "tiles" / f"{sample.sample_id}.tif"
        top = one.found.log_probability.topk(2).values
        rows.append(
            {
                "sample_id": sample.sample_id,
                "seed_id": one.seed_id,
                "condition": sample.condition,
                "predicted": sample.predicted,
                "second": sample.second,
                "confidence": sample.confidence,
                "confidence_before_rounding": one.found.confidence_before,
                "margin": float(top[0] - top[1]),
                **{f"gate_{name}": value for name, value in one.found.parts.items()},
                "gate_p_value": one.found.p_value,
                "steps": one.steps,
                "evaluations": one.evaluations,
                "neighbour": sample.neighbour.tile_id,
                "neighbour_distance": sample.neighbour.distance,
                "tile": path.relative_to(folder).as_posix(),
                "sha256": sha256_of(path),
                "probabilities": one.found.log_probability.exp().tolist(),
                "latent": one.found.z.tolist(),
            }
        )
    with replacing(folder / "samples.parquet") as temporary:
        pq.write_table(pa.Table.from_pylist(rows), temporary)
