"""`rslow train target | extractor | gan | gate | encoder`."""

from typing import Literal

import typer

from rs_lowconf.cli.app import ConfigOption, SetOption, app, load_settings
from rs_lowconf.cli.progress import show, show_until_interrupted
from rs_lowconf.percents import percent

train_app = typer.Typer(help="Train one of the built-in models.", no_args_is_help=True)
app.add_typer(train_app, name="train")


@train_app.command()
def target(config: ConfigOption = None, set_: SetOption = None) -> None:
    """Train a classifier to be tested and calibrate it on the validation split.

    Of scenes and chips it trains a segmenter (settings in segmenter), which names the class of
    every pixel. Either resumes where it stopped, after the last finished epoch.

    Writes target.safetensors, report.json and metrics.jsonl into run.dir/target.
    """
    _train(config, set_, "target")


@train_app.command()
def extractor(config: ConfigOption = None, set_: SetOption = None) -> None:
    """Train the network whose features say which real tile resembles a generated one.

    Another architecture and seed than the target, or what is hard for the target would
    seem unreal. Resumes where it stopped, after the last finished epoch. Writes
    extractor.safetensors, report.json and metrics.jsonl into run.dir/extractor. Tiles with
    masks need none: the gate's critic says which look alike.
    """
    _train(config, set_, "extractor")


def _train(config: ConfigOption, set_: SetOption, name: Literal["target", "extractor"]) -> None:
    settings = load_settings(config, set_)
    from rs_lowconf.target.evaluate import ClassifierReport
    from rs_lowconf.workflows.train_target import train_network

    trained = show_until_interrupted(train_network(settings, name))
    report, end = trained.report, f"temperature {trained.temperature:.2f}; {trained.path}"
    if isinstance(report, ClassifierReport):
        print(
            f"{name}: {percent(report.accuracy, 1)} of {report.tiles} test tiles "
            f"(95 % interval {percent(report.accuracy_low, 1)} .. "
            f"{percent(report.accuracy_high, 1)}), calibration error {report.ece_equal_count:.3f} "
            f"(by chance {report.ece_by_chance:.3f}), {end}"
        )
        if report.note:
            print(report.note)
        return
    low, high = report.mean_iou_95
    print(
        f"target: mIoU {report.mean_iou:.3f} (95 % interval {low:.3f} .. {high:.3f}) on "
        f"{report.tiles} test tiles in {report.blocks} blocks; {report.floor_class} everywhere "
        f"has {report.floor_mean_iou:.3f}"
    )
    for label, value in report.iou.items():
        interval = report.iou_95[label]
        if value is not None and interval is not None:
            floor = report.floor_iou[label] or 0.0
            print(
                f"  IoU of {label}: {value:.3f} ({interval[0]:.3f} .. {interval[1]:.3f}), "
                f"floor {floor:.3f}"
            )
    low, high = report.pixel_accuracy_95
    print(
        f"  pixels right: {percent(report.pixel_accuracy, 1)} "
        f"({percent(low, 1)} .. {percent(high, 1)}), floor "
        f"{percent(report.floor_pixel_accuracy, 1)}; calibration error {report.ece:.3f}, {end}"
    )
    if report.note:
        print(f"  {report.note}")


@train_app.command()
def gan(config: ConfigOption = None, set_: SetOption = None) -> None:
    """Train the conditional generator and its discriminator; resumes where it stopped.

    With gan.recipe=frozen it learns from the tiles of data and of data.more, judged by critics on
    the features of a pretrained network, and gan.safetensors is the checkpoint nearest to the
    validation tiles by the features of another one. With gan.recipe=native tiles with labels need
    the extractor, by whose features the checkpoint is chosen. Tiles with masks (settings in
    mask_gan) need none: the checkpoint is the one whose spectra and texture in each class are
    nearest. Writes metrics.jsonl and sheets/ beside it into run.dir/gan.
    """
    settings = load_settings(config, set_)
    from rs_lowconf.workflows.train_gan import train_gan

    trained = show_until_interrupted(train_gan(settings))
    print(
        f"{trained.images:,} images, of which the checkpoint after {trained.chosen:,} is kept: "
        f"{trained.path}, sheets in {trained.sheets}"
    )


@train_app.command()
def gate(config: ConfigOption = None, set_: SetOption = None) -> None:
    """Fit what drops unrealistic tiles, and measure what it drops and what it costs.

    With gate.recipe=frozen, scores on features of a pretrained network are fitted on real tiles,
    on tiles of the generator, and on others that are not real; they are calibrated on real tiles
    that they have not seen, and report.json says what share of each kind the gate drops; tiles with
    masks also have to agree with them, as the gate's critic sees it. With gate.recipe=native a
    critic decides in their place, trained against the finished generator from another seed than its
    own. Needs the GAN and, for tiles with labels, the extractor. Writes critic.safetensors,
    calibration.safetensors, report.json and metrics.jsonl into run.dir/gate; a search needs no data
    beyond these.
    """
    settings = load_settings(config, set_)
    from rs_lowconf.search.report import gate_lines
    from rs_lowconf.workflows.train_gate import train_gate

    trained = show(train_gate(settings))
    counts = " and ".join(map(str, trained.calibrated_on))
    print(f"gate, calibrated on {counts} held-out tiles: {trained.folder}")
    for line in gate_lines(trained.described):
        print(line)


@train_app.command()
def encoder(config: ConfigOption = None, set_: SetOption = None) -> None:
    """Train the encoder, and measure how far apart real tiles of a class are.

    `rslow batch generate` alone needs it, because it starts from real tiles. It is trained on a
    finished GAN; tiles with labels need the extractor too, tiles with masks the gate. Writes
    encoder.safetensors, distances.safetensors and metrics.jsonl into run.dir/encoder.
    """
    settings = load_settings(config, set_)
    from rs_lowconf.workflows.train_encoder import train_encoder

    trained = show(train_encoder(settings))
    print(f"encoder, and distances of real tiles of {len(trained.classes)} classes: {trained.path}")
