"""`rslow estimate pixels | generated`: tables of what a target says, which estimates read."""

from pathlib import Path
from typing import Annotated

import typer

from rs_lowconf.cli.app import ConfigOption, SetOption, TrustOption, load_settings
from rs_lowconf.cli.estimate import estimate_app, pool_is_there
from rs_lowconf.cli.hints import hint
from rs_lowconf.cli.progress import show
from rs_lowconf.errors import by_reason

PixelsOption = Annotated[
    Path | None,
    typer.Option("--out", help="The table to write; run.dir/estimate/pixels.parquet when missing."),
]
GeneratedOption = Annotated[
    Path | None,
    typer.Option(
        "--out", help="The table to write; run.dir/estimate/generated.parquet when missing."
    ),
]
CountOption = Annotated[int, typer.Option(min=1, help="Tiles to draw.")]


@estimate_app.command()
def pixels(
    config: ConfigOption = None,
    set_: SetOption = None,
    out: PixelsOption = None,
    trust_code: TrustOption = False,
) -> None:
    """Write a table of scores of all pixels of scenes or chips, a pool for estimates per pixel.

    Tiles are those of batch.splits; of the test split by default. One row per pixel: the target's
    prediction, the mask's class as label where it is known, its tile as group, its position, and
    its reflectance as features. The other commands read it through estimate.scores.
    """
    settings = load_settings(config, set_)
    from rs_lowconf.workflows.pixels import open_pixels, write_pixels

    path = out or settings.run.dir / "estimate" / "pixels.parquet"
    pool = open_pixels(settings, trust_code=trust_code)
    if pool.remark:
        print(pool.remark)
    scored = show(write_pixels(pool, path))
    print(f"{scored.pixels:,} pixels of {len(pool):,} tiles ({', '.join(pool.splits)}): {path}")
    if scored.unanswered:
        reasons = by_reason(scored.unanswered)
        print(f"Tiles left out, as the target has no answer to them: {reasons}.")
    hint("Then", "estimate plan", set_=(f"estimate.scores={path}",))


@estimate_app.command("random-latents")
def random_latents(
    config: ConfigOption = None,
    set_: SetOption = None,
    count: CountOption = 1_000,
    out: GeneratedOption = None,
    trust_code: TrustOption = False,
) -> None:
    """Write a table of scores of tiles from random latents, for `rslow estimate experiment`.

    Conditions take turns. One row per tile, labelled by its condition; with a generator that draws
    for masks, one row per pixel, labelled by the mask. Nothing is searched or filtered: the counts
    in this table describe the generator's own distribution, not real tiles.
    """
    settings = load_settings(config, set_)
    from rs_lowconf.workflows.generated import open_random_tiles, write_generated

    path = out or settings.run.dir / "estimate" / "generated.parquet"
    tiles = open_random_tiles(settings, trust_code=trust_code)
    if tiles.remark:
        print(tiles.remark)
    scored = show(write_generated(tiles, count, path))
    print(f"{count:,} tiles from random latents: {path}")
    if scored.unanswered:
        print(f"Left out, as the target has no answer to them: {by_reason(scored.unanswered)}.")
    print(
        f"The target disagrees with the condition on {100 * scored.disagreement:.3g} % of "
        f"{scored.labelled:,} {scored.unit}. That describes the generator's distribution, it is "
        "not an error rate on real data."
    )
    if pool_is_there(settings):
        hint("Then", "estimate experiment", set_=(f"estimate.experiment.random_latents={path}",))
