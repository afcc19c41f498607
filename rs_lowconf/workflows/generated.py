"""Tiles from random latents: what a target says of each, as a table; features of real tiles."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float

from rs_lowconf.asking import ask, require_most
from rs_lowconf.batch.jobs import rows_of
from rs_lowconf.data.catalog.reading import read_row, reflectance
from rs_lowconf.data.catalog.table import Catalog
from rs_lowconf.errors import ModelError
from rs_lowconf.models import Models, features_in, load_models
from rs_lowconf.search.prior import draw_latent
from rs_lowconf.settings import Settings
from rs_lowconf.target.load import check_fit
from rs_lowconf.types import TileBatch
from rs_lowconf.vocabulary import class_list
from rs_lowconf.workflows.pixels import parquet_pieces, pixel_scores
from rs_lowconf.workflows.records import Step, Work


@dataclass(frozen=True, kw_only=True, eq=False)
class RandomTiles:
    """What draws tiles from random latents, and the target that is asked about them."""

    settings: Settings
    models: Models
    remark: str
    """Which classes only the conditions or only the target name; empty where they agree."""


@dataclass(frozen=True, kw_only=True)
class ScoredGenerated:
    """What a table of generated tiles holds."""

    unit: Literal["tiles", "pixels"]
    """What a row is of."""
    labelled: int
    """Number of rows with a label."""
    disagreement: float
    """Share of these where the target says another class than the condition."""
    unanswered: Mapping[str, int]
    """Number of tiles that the target has no answer to, by reason; they are left out."""


def open_random_tiles(settings: Settings, *, trust_code: bool) -> RandomTiles:
    """Load generator and target.

    Raises:
        ModelError: a model is missing or damaged, or they share no class.
    """
    models = load_models(settings, trust_code=trust_code)
    classes = models.generator.condition.classes
    meeting = models.class_map.meet(
        class_list("the conditions", classes, error=ModelError),
        class_list("the target", models.target.classes, error=ModelError),
        error=ModelError,
    ).meeting(ModelError)
    return RandomTiles(settings=settings, models=models, remark=meeting.remark)


def write_generated(tiles: RandomTiles, count: int, path: Path) -> Work[ScoredGenerated]:
    """Write a table of scores of tiles from random latents, conditions in turn.

    Args:
        tiles: what draws them.
        count: tiles to draw.
        path: of the table.

    Raises:
        ModelError: the target has no answer to most tiles.
        OutputError: the table cannot be written.
    """
    models, settings, title = tiles.models, tiles.settings, "drawing tiles"
    step, dim = settings.search.micro_batch, sum(models.evaluator.generator.latent_parts)
    wrong, rows, unanswered = 0, 0, Counter[str]()
    yield Step(title=title, done=0, total=count)
    with parquet_pieces(path) as write:
        for first in range(0, count, step):
            seeds = range(first, min(first + step, count))
            z = torch.stack([draw_latent(settings.run.seed, "estimate", one, dim) for one in seeds])
            label = torch.tensor([models.labels[one % len(models.labels)] for one in seeds])
            table, without = _scores(models, z, label, [f"g{one:08d}" for one in seeds])
            unanswered.update(without)
            require_most(unanswered, seeds.stop)
            write(table)
            pairs = zip(table["predicted"].to_pylist(), table["label"].to_pylist(), strict=True)
            wrong += sum(
                not models.class_map.same(true, said) for said, true in pairs if true is not None
            )
            rows += len(table) - table["label"].null_count
            yield Step(title=title, done=seeds.stop, total=count)
    return ScoredGenerated(
        unit="pixels" if models.generator.condition.pixelwise else "tiles",
        labelled=rows,
        disagreement=wrong / rows,
        unanswered=unanswered,
    )


def _scores(
    models: Models, z: torch.Tensor, label: torch.Tensor, names: list[str]
) -> tuple[pa.Table, Mapping[str, int]]:
    """Return a row for each tile, or for each pixel where masks are the conditions.

    Tiles without an answer of the target have none: their number by reason.
    """
    generator = models.evaluator.generator
    with torch.no_grad():
        image = generator(z.to(models.device), label.to(models.device))
        condition = models.generator.condition
        if condition.masks is not None:
            batch = TileBatch(
                image=image.cpu(),
                bands=generator.bands,
                ids=tuple(names),
                classes=condition.classes,
                mask=condition.masks[label].long(),
            )
            return pixel_scores(models.target, batch)
        channels = list(check_fit(models.target.bands, generator.bands))
        asked = ask(models.target.predict, image[:, channels], len(image))
        rows = asked.rows
        if asked.log_probability is None:
            said = torch.empty(0, len(models.target.classes))
        else:
            said = asked.log_probability[: len(rows)].cpu()
        features = features_in(models.gate.extractor, generator.bands)(image)[rows].cpu()
    largest, predicted = said.max(1)
    columns: dict[str, Any] = {
        "id": pa.array([names[row] for row in rows], pa.string()),
        "predicted": pa.array(
            [models.target.classes[one] for one in predicted.tolist()], pa.string()
        ),
        "confidence": largest.double().exp().clamp(max=1.0).numpy(),
        "probabilities": pa.array(said.exp().tolist(), pa.list_(pa.float32())),
        "label": pa.array([generator.classes[one] for one in label[rows].tolist()], pa.string()),
        "features": pa.array(features.tolist(), pa.list_(pa.float32())),
    }
    return pa.table(columns), asked.reasons


def features_of_tiles(
    settings: Settings, catalog: Catalog, ids: Sequence[str]
) -> Work[Float[np.ndarray, "n f"]]:
    """Return features of a catalog's tiles, in the space of those of generated tiles.

    Raises:
        DataError: a tile cannot be read, or has changed since.
        ModelError: a model is missing, or reads bands that the tiles lack.
    """
    models = load_models(settings, trust_code=False)
    bands, found = models.gate.extractor.bands, []
    for number, row in enumerate(rows_of(catalog, ids), 1):
        check_fit(bands, row.bands, model="extractor")
        image = reflectance(row, read_row(row), bands)[None].to(models.device)
        with torch.no_grad():
            found.append(models.gate.extractor.features(image)[0].cpu())
        yield Step(title="reading tiles", done=number, total=len(ids))
    features: Float[np.ndarray, "n f"] = torch.stack(found).numpy()
    return features
