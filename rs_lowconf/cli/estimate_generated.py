"""`rslow estimate generated`: what a target says of tiles from random latents, as a table."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rs_lowconf.cli.app import ConfigOption, SetOption, TrustOption, load_settings
from rs_lowconf.cli.estimate_pool import estimate_app, pool_is_there
from rs_lowconf.cli.hints import hint
from rs_lowconf.cli.progress import progress
from rs_lowconf.errors import ModelError, by_reason
from rs_lowconf.settings import Settings
from rs_lowconf.vocabulary import class_list, join

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    import torch
    from jaxtyping import Float

    from rs_lowconf.data.catalog.table import Catalog
    from rs_lowconf.models import Models

OutOption = Annotated[
    Path | None,
    typer.Option(help="The table to write; run.dir/estimate/generated.parquet when missing."),
]
CountOption = Annotated[int, typer.Option(min=1, help="Tiles to draw.")]


@estimate_app.command()
def generated(
    config: ConfigOption = None,
    set_: SetOption = None,
    count: CountOption = 1_000,
    out: OutOption = None,
    trust_code: TrustOption = False,
) -> None:
    """Write a table of scores of tiles from random latents, for `rslow estimate experiment`.

    Conditions take turns. A row a tile, labelled by its condition; of generators that draw for
    masks a row a pixel, labelled by the mask. Nothing is searched and nothing is gated: what is
    counted in this table speaks of the generator's own law.
    """
    settings = load_settings(config, set_)
    import torch

    from rs_lowconf.asking import require_most
    from rs_lowconf.cli.estimate_pixels import parquet_pieces
    from rs_lowconf.models import load_models
    from rs_lowconf.search.prior import draw_latent

    models = load_models(settings, trust_code=trust_code)
    classes = models.pixel_classes or models.generator.net.classes
    meeting = join(
        class_list("the conditions", classes, error=ModelError),
        class_list("the target", models.target.classes, error=ModelError),
        error=ModelError,
    ).meeting(ModelError)
    if meeting.remark:
        print(meeting.remark)
    path = out or settings.run.dir / "estimate" / "generated.parquet"
    step, dim = settings.search.micro_batch, sum(models.evaluator.generator.latent_parts)
    wrong, rows, unanswered = 0, 0, Counter[str]()
    with progress("drawing tiles", count) as bar, parquet_pieces(path) as write:
        for first in range(0, count, step):
            seeds = range(first, min(first + step, count))
            z = torch.stack([draw_latent(settings.run.seed, "estimate", one, dim) for one in seeds])
            label = torch.tensor([models.labels[one % len(models.labels)] for one in seeds])
            table, without = _scores(models, z, label, [f"g{one:08d}" for one in seeds])
            unanswered.update(without)
            require_most(unanswered, seeds.stop)
            write(table)
            pairs = zip(table["predicted"].to_pylist(), table["label"].to_pylist(), strict=True)
            wrong += sum(said != true for said, true in pairs if true is not None)
            rows += len(table) - table["label"].null_count
            bar.update(seeds.stop)
    what = "tiles" if models.generator.bank is None else "pixels"
    print(f"{count:,} tiles from random latents: {path}")
    if unanswered:
        print(f"Left out, as the target has no answer to them: {by_reason(unanswered)}.")
    print(
        f"The target disagrees with the condition on {100 * wrong / rows:.3g} % of {rows:,} "
        f"{what}. That is of the generator's law, not an error rate on real data."
    )
    if pool_is_there(settings):
        hint("Then", "estimate experiment", set_=(f"estimate.experiment.random_latents={path}",))


def _scores(
    models: "Models", z: "torch.Tensor", label: "torch.Tensor", names: list[str]
) -> "tuple[pa.Table, Mapping[str, int]]":
    """Return a row for each tile, or for each pixel where masks are the conditions.

    Tiles without an answer of the target have none: their number by reason.
    """
    import pyarrow as pa
    import torch

    from rs_lowconf.asking import ask
    from rs_lowconf.cli.estimate_pixels import pixel_scores
    from rs_lowconf.models import features_in
    from rs_lowconf.target.load import check_fit
    from rs_lowconf.types import TileBatch

    generator = models.evaluator.generator
    with torch.no_grad():
        image = generator(z.to(models.device), label.to(models.device))
        if models.generator.bank is not None:
            batch = TileBatch(
                image=image.cpu(),
                bands=generator.bands,
                ids=tuple(names),
                classes=models.generator.bank.classes,
                mask=models.generator.bank.masks[label].long(),
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
    settings: Settings, catalog: "Catalog", ids: Sequence[str]
) -> "Float[np.ndarray, 'n f']":
    """Return features of a catalog's tiles, in the space of those of generated tiles.

    Raises:
        DataError: a tile cannot be read, or has changed since.
        ModelError: a model is missing, or reads bands that the tiles lack.
    """
    import torch

    from rs_lowconf.batch.review import rows_of
    from rs_lowconf.data.catalog.reading import read_row, reflectance
    from rs_lowconf.models import load_models
    from rs_lowconf.target.load import check_fit

    models = load_models(settings, trust_code=False)
    bands, found = models.gate.extractor.bands, []
    with progress("reading tiles", len(ids)) as bar, torch.no_grad():
        for number, row in enumerate(rows_of(catalog, ids), 1):
            check_fit(bands, row.bands, model="extractor")
            image = reflectance(row, read_row(row), bands)[None].to(models.device)
            found.append(models.gate.extractor.features(image)[0].cpu())
            bar.update(number)
    features: Float[np.ndarray, "n f"] = torch.stack(found).numpy()
    return features
