"""`rslow train target | extractor | gan | gate`."""

import math
import time
from typing import TYPE_CHECKING, cast

import typer

from rs_lowconf.cli.app import ConfigOption, SetOption, app, load_settings
from rs_lowconf.cli.progress import checkpoints, means, print_calibrated, progress, show
from rs_lowconf.errors import SettingsError
from rs_lowconf.settings import ClassifierSettings, GanSettings, Settings, further_sources

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from rs_lowconf.data.memory import MemorySource
    from rs_lowconf.gan.critic import RealismCritic
    from rs_lowconf.gan.pyramid import ClassGenerator
    from rs_lowconf.target.classifier import Classifier
    from rs_lowconf.types import MaskSource, TileSource

_LOGGED = ("critic_loss", "generator_loss", "logit_real", "logit_fake", "penalty", "strength")

train_app = typer.Typer(help="Train a model of ours.", no_args_is_help=True)
app.add_typer(train_app, name="train")


@train_app.command()
def target(config: ConfigOption = None, set_: SetOption = None) -> None:
    """Train a classifier to be tested and calibrate it on the validation split.

    Of scenes and chips it trains a segmenter (target.segmenter), which names the class of
    every pixel.

    Writes target.safetensors, report.json and metrics.jsonl into run.dir/target.
    """
    settings = load_settings(config, set_)
    if settings.data.masked:
        from rs_lowconf.cli.segmentation import train_target

        train_target(settings)
    else:
        _train_classifier(settings, settings.classifier, "target")


@train_app.command()
def extractor(config: ConfigOption = None, set_: SetOption = None) -> None:
    """Train the network whose features say which real tile resembles a generated one.

    Another architecture and seed than the target, or what is hard for the target would
    seem unreal. Writes extractor.safetensors, report.json and metrics.jsonl into
    run.dir/extractor. Tiles with masks need none: the gate's critic says which look alike.
    """
    settings = load_settings(config, set_)
    _train_classifier(settings, settings.extractor, "extractor")


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
    if settings.gan.recipe == "frozen" and not settings.data.masked:
        from rs_lowconf.cli.train_sources import train_from_sources

        train_from_sources(settings)
        return
    from rs_lowconf.cli.train_masks import train_mask_gan
    from rs_lowconf.types import TileSource

    source, val = _open(settings)
    if isinstance(source, TileSource) and isinstance(val, TileSource):
        _train_gan(settings, source, val)
    else:
        train_mask_gan(settings, source, val)


def _open(
    settings: Settings,
) -> "tuple[TileSource | MaskSource, TileSource | MaskSource]":
    """Return training and validation tiles: with labels, or with masks in their place."""
    from rs_lowconf.data.masks import open_masks
    from rs_lowconf.data.source import open_split

    if settings.data.masked:
        return open_masks(settings.data, "train"), open_masks(settings.data, "val")
    return open_split(settings.data, "train"), open_split(settings.data, "val")


def _train_gan(settings: Settings, source: "TileSource", val: "TileSource") -> None:
    if further_sources(settings.data):
        raise SettingsError(
            "data.more has no effect with gan.recipe=native, which learns from the tiles of data",
            remedy="set gan.recipe=frozen, or remove data.more",
        )
    from rs_lowconf.data.augment import augmentations_at
    from rs_lowconf.device import choose_device
    from rs_lowconf.gan.critic import fit_realism
    from rs_lowconf.gan.figures import domain_distance, figures
    from rs_lowconf.gan.model import restore_state, save_model, save_state
    from rs_lowconf.gan.sheet import write_sheets
    from rs_lowconf.gan.train import GanTraining, train
    from rs_lowconf.runs import RunFolder

    device = choose_device(settings.run)
    training = GanTraining(
        settings.gan,
        source,
        augment_at=augmentations_at(settings.augment),
        strength=settings.augment.probability,
        seed=settings.run.seed,
        device=device,
        val=val,
    )
    features = _selecting_features(settings, source, device)
    path = settings.run.dir / "gan"
    state = path / "state.safetensors"
    if state.exists():
        restore_state(state, training)
    folder = RunFolder(path, settings)
    folder.trim_log("images", training.images)
    start, first = time.monotonic(), training.images
    log = folder.read_log()
    best = min((line["domain_distance"] for line in log), default=math.inf)
    logged = max((line["images"] for line in log), default=0)
    for recent in checkpoints(
        train(training), settings.gan, first, logged, save=lambda: save_state(state, training)
    ):
        distance = domain_distance(training.average, val, features, settings.run.seed)
        if distance < best:
            best = distance
            critic = fit_realism(
                training.discriminator, training.average, source, settings.run.seed
            )
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
        folder.log(
            {
                "images": training.images,
                "images_per_second": (training.images - first) / (time.monotonic() - start),
                **means(recent, _LOGGED),
                **quality,
                "domain_distance": distance,
            }
        )
    chosen = min(folder.read_log(), key=lambda line: line["domain_distance"])["images"]
    print(
        f"{training.images:,} images, of which the checkpoint after {chosen:,} is kept: "
        f"{path / 'gan.safetensors'}, sheets in {path / 'sheets'}"
    )


def _selecting_features(
    settings: Settings, source: "TileSource", device: "torch.device"
) -> "Callable[[torch.Tensor], torch.Tensor]":
    """Return the extractor's features, by which the best checkpoint is chosen."""
    from rs_lowconf.target.classifier import load_classifier
    from rs_lowconf.target.load import check_fit

    extractor = load_classifier(settings.run.dir / "extractor" / "extractor.safetensors", device)
    channels = list(check_fit(extractor.bands, source.bands, model="extractor"))
    return lambda image: extractor.features(image[:, channels])


@train_app.command()
def gate(config: ConfigOption = None, set_: SetOption = None) -> None:
    """Fit what drops unrealistic tiles, and measure what it drops and what it costs.

    With gate.recipe=frozen, scores on features of a pretrained network are fitted on real tiles,
    on tiles of the generator, and on others that are not real; they are calibrated on real tiles
    that they have not seen, and report.json says what share of each kind the gate drops. Tiles
    with masks, and gate.recipe=native, have a critic in their place, trained against the finished
    generator from another seed than its own. Needs the GAN and, for tiles with labels, the
    extractor. Writes critic.safetensors, calibration.safetensors and metrics.jsonl into
    run.dir/gate; a search needs no data beyond these.
    """
    settings = load_settings(config, set_)
    if settings.data.masked:
        from rs_lowconf.cli.train_masks import train_mask_gate

        train_mask_gate(settings)
    else:
        _train_gate(settings)


def _train_gate(settings: Settings) -> None:
    from rs_lowconf.device import choose_device
    from rs_lowconf.gan.model import load_model, save_critic
    from rs_lowconf.models import features_in
    from rs_lowconf.runs import RunFolder, write_json
    from rs_lowconf.target.classifier import load_classifier
    from rs_lowconf.workflows.training import write_calibration

    device = choose_device(settings.run)
    run = settings.run.dir
    paths = {
        "gan": run / "gan" / "gan.safetensors",
        "extractor": run / "extractor" / "extractor.safetensors",
        "critic": run / "gate" / "critic.safetensors",
    }
    gan = load_model(paths["gan"], device)
    generator = gan.generator
    extractor = load_classifier(paths["extractor"], device)
    features = features_in(extractor, generator.bands)
    source, val = gate_tiles(settings, generator)
    folder = RunFolder(run / "gate", settings)
    folder.trim_log("images", 0)
    fitted = None
    if settings.gate.recipe == "frozen":
        from rs_lowconf.cli.train_gate import fit_gate
        from rs_lowconf.search.report import gate_lines

        # First, because it says soonest what is missing.
        recipe = GanSettings.model_validate(gan.header["settings"])
        fitted = fit_gate(settings, generator, recipe, device)
        write_json(run / "gate" / "report.json", fitted.describe(settings.search.false_rejection))
    critic = gate_critic(settings, generator, source, device, folder.log)
    save_critic(paths["critic"], critic)
    counts = write_calibration(
        settings,
        paths,
        critics=(critic, gan.critic),
        extractor=(extractor, features),
        tiles=(source, val),
        device=device,
        fitted=fitted,
    )
    print_calibrated(counts, run / "gate")
    if fitted is not None:
        for line in gate_lines(fitted.describe(settings.search.false_rejection)):
            print(line)


def gate_tiles(
    settings: Settings, generator: "ClassGenerator"
) -> "tuple[MemorySource, MemorySource]":
    """Return training and validation tiles, in the generator's bands and classes.

    Raises:
        ModelError: the data have others, or in another order.
    """
    from rs_lowconf.data.source import open_split
    from rs_lowconf.models import check_same
    from rs_lowconf.target.load import check_fit

    source, val = open_split(settings.data, "train"), open_split(settings.data, "val")
    check_fit(generator.bands, source.bands, model="generator")
    check_same(generator.bands, generator.classes, source, setting="data.classes")
    return source, val


def gate_critic(
    settings: Settings,
    generator: "ClassGenerator",
    source: "TileSource",
    device: "torch.device",
    log: "Callable[[dict[str, float]], None]",
) -> "RealismCritic":
    """Train the gate's discriminator against a finished generator and calibrate its realism.

    Args:
        settings: of the run.
        generator: finished.
        source: the training split, in the generator's bands and classes.
        device: where to compute.
        log: takes a record now and then.
    """
    from rs_lowconf.data.augment import augmentations_at
    from rs_lowconf.gan.critic import fit_realism
    from rs_lowconf.gan.judge import train_judge
    from rs_lowconf.workflows.training import last_record

    own, seed = settings.gate, settings.run.seed
    augment = augmentations_at(settings.augment)(settings.augment.probability)
    records = train_judge(generator, source, own, augment, seed, device)
    judge = show(last_record(records, "the gate's critic", own.images, log))
    return fit_realism(judge, generator, source, seed)


def _train_classifier(settings: Settings, own: ClassifierSettings, name: str) -> None:
    """Train, calibrate, measure on the test split, write and report."""
    from rs_lowconf.data.augment import augmentation
    from rs_lowconf.data.source import open_split
    from rs_lowconf.device import choose_device
    from rs_lowconf.runs import RunFolder, write_json
    from rs_lowconf.seeds import seed_of
    from rs_lowconf.target.classifier import save_classifier
    from rs_lowconf.target.evaluate import evaluate_classifier
    from rs_lowconf.target.train import calibrate, train_classifier

    device = choose_device(settings.run)
    train, val = open_split(settings.data, "train"), open_split(settings.data, "val")
    test = open_split(settings.data, "test")
    augment = augmentation(settings.augment)
    path = settings.run.dir / name
    folder = RunFolder(path, settings)
    folder.trim_log("epoch", 0)
    seed = seed_of(settings.run.seed, name)
    best = None
    with progress(f"training the {name}", own.epochs) as bar:
        for record in train_classifier(train, val, own, augment, seed, device):
            best = record.best or best
            bar.update(record.epoch, f"validation accuracy {record.val_accuracy:.1%}")
            folder.log(
                {
                    "epoch": record.epoch,
                    "train_loss": record.train_loss,
                    "val_loss": record.val_loss,
                    "val_accuracy": record.val_accuracy,
                    "learning_rate": record.learning_rate,
                    "seconds": record.seconds,
                }
            )
    # The first epoch is better than none, so there is a best one.
    classifier = calibrate(cast("Classifier", best), val)
    report = evaluate_classifier(classifier, test).to_json()
    classifier.figures = report
    save_classifier(path / f"{name}.safetensors", classifier)
    write_json(
        path / "report.json", {"split": "test", "temperature": classifier.temperature, **report}
    )
    low, high = report["accuracy_low"], report["accuracy_high"]
    print(
        f"{name}: {report['accuracy']:.1%} of {report['tiles']} test tiles "
        f"(95 % interval {low:.1%} .. {high:.1%}), calibration error "
        f"{report['ece_equal_count']:.3f} (by chance {report['ece_by_chance']:.3f}), "
        f"temperature {classifier.temperature:.2f}; {path / f'{name}.safetensors'}"
    )
    if report["note"]:
        print(report["note"])
