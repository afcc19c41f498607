"""`rslow evaluate`: how good the generator is, in figures with intervals and floors."""

from typing import TYPE_CHECKING, Annotated

import typer

from rs_lowconf.cli.app import ConfigOption, SetOption, app, load_settings
from rs_lowconf.cli.progress import show

if TYPE_CHECKING:
    from rs_lowconf.gan.measure import Measurement

FoundOption = Annotated[
    list[str] | None,
    typer.Option(
        "--found",
        help="A search below run.dir whose found tiles the probe judges too. Repeatable.",
        show_default="generate, where there is one",
    ),
]
NameOption = Annotated[str, typer.Option("--name", help="Folder of this evaluation below run.dir.")]


@app.command()
def evaluate(
    config: ConfigOption = None,
    set_: SetOption = None,
    name: NameOption = "evaluate",
    found: FoundOption = None,
) -> None:
    """Measure the generator against real tiles: likeness, usefulness, spectra, copies.

    Needs a GAN and real tiles of the split evaluate.split; trains the classifiers it measures
    with. Writes report.html, report.json, report.md, plots/ and mixed.png (generated tiles without
    labels; the key is mixed.json) into run.dir/NAME. With pictures in data.more, the probe tries to
    tell generated tiles from real ones by a network that nothing else sees through; probe.jsonl
    logs every time it does. Of tiles with masks: fidelity to these, spectra, the probe, and sheets/
    in the place of plots.
    """
    settings = load_settings(config, set_)
    from rs_lowconf.workflows.mask_quality import evaluate_masks
    from rs_lowconf.workflows.quality import evaluate as evaluate_labels

    folder = settings.run.dir / name
    work = evaluate_masks if settings.data.masked else evaluate_labels
    quality = show(work(settings, folder, found or ()))
    for measurement in quality.headline:
        _say(measurement)
    if quality.note:
        print(quality.note)
    print(f"Report: {quality.page}")
    print(f"The whole table: {quality.report}")
    if settings.data.masked:
        print(f"Masks, real and generated tiles: {folder / 'sheets'}")
    else:
        print(f"Plots: {folder / 'plots'}; generated tiles to judge by eye: {folder / 'mixed.png'}")


def _say(measurement: "Measurement") -> None:
    """Print a figure with its interval and its floor."""
    measured, floor = measurement.measured, measurement.floor
    if measured is None:
        print(f"{measurement.name}: {measurement.note}")
        return
    interval = f"{measured.low:.3g} .. {measured.high:.3g}"
    real = "" if floor is None else f"; real tiles {floor.value:.3g}"
    print(f"{measurement.name}: {measured.value:.3g} ({interval}){real}")
