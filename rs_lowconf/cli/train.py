"""`rslow train target | extractor | gan`."""

import time
from typing import TYPE_CHECKING

import typer

from rs_lowconf.cli.app import ConfigOption, SetOption, app, load_settings
from rs_lowconf.cli.progress import interrupt_between_steps, progress

if TYPE_CHECKING:
    from rs_lowconf.gan.train import StepRecord

train_app = typer.Typer(help="Train a model of ours.", no_args_is_help=True)
app.add_typer(train_app, name="train")


@train_app.command()
def gan(config: ConfigOption = None, set_: SetOption = None) -> None:
    """Train the class-conditional generator and its discriminator; resumes where it stopped.

    Writes gan.safetensors, metrics.jsonl and sheets/ (real | generated) into run.dir/gan.
    """
    settings = load_settings(config, set_)
    from rs_lowconf.cli.device import choose_device
    from rs_lowconf.data.augment import augmentation
    from rs_lowconf.data.source import open_split
    from rs_lowconf.gan.critic import fit_realism
    from rs_lowconf.gan.figures import figures
    from rs_lowconf.gan.model import restore_state, save_model, save_state
    from rs_lowconf.gan.sheet import write_sheets
    from rs_lowconf.gan.train import GanTraining, train
    from rs_lowconf.runs import RunFolder

    device = choose_device(settings.run)
    source, val = open_split(settings.data, "train"), open_split(settings.data, "val")
    augment = augmentation(settings.augment)
    training = GanTraining(settings.gan, source, augment, seed=settings.run.seed, device=device)
    path = settings.run.dir / "gan"
    state = path / "state.safetensors"
    if state.exists():
        restore_state(state, training)
    folder = RunFolder(path, settings)
    folder.trim_log("images", training.images)
    recent: list[StepRecord]
    start, first, recent = time.monotonic(), training.images, []

    def checkpoint() -> None:
        critic = fit_realism(training.discriminator, training.average, source, settings.run.seed)
        save_model(
            path / "gan.safetensors", training, critic, attribution=settings.data.attribution
        )
        write_sheets(
            path / "sheets",
            training.average,
            source,
            columns=settings.gan.sheet_columns,
            seed=settings.run.seed,
            images=training.images,
        )
        save_state(state, training)
        quality = figures(training.average, training.discriminator, source, val, settings.run.seed)
        seconds = time.monotonic() - start
        rate = (training.images - first) / seconds
        folder.log(
            {"images": training.images, "images_per_second": rate, **_means(recent), **quality}
        )
        recent.clear()

    with (
        progress("training the GAN", settings.gan.images, training.images) as bar,
        interrupt_between_steps() as interrupt,
    ):
        due = training.images // settings.gan.checkpoint_images + 1
        for record in train(training):
            recent.append(record)
            bar.update(
                record.images, f"loss {record.critic_loss:.2f} / {record.generator_loss:.2f}"
            )
            if interrupt.requested:
                save_state(state, training)
                raise KeyboardInterrupt
            if record.images >= due * settings.gan.checkpoint_images:
                checkpoint()
                due += 1
        if recent:
            checkpoint()
    print(f"{training.images:,} images; {path / 'gan.safetensors'}, sheets in {path / 'sheets'}")


def _means(records: list["StepRecord"]) -> dict[str, float]:
    """Return the mean of each part of the records over the steps that have it."""
    means = {}
    for name in ("critic_loss", "generator_loss", "logit_real", "logit_fake", "penalty"):
        values = [v for v in (getattr(record, name) for record in records) if v is not None]
        if values:
            means[name] = sum(values) / len(values)
    return means
