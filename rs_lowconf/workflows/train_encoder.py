"""Training of the encoder: what finds the latents of real tiles."""

from dataclasses import dataclass
from pathlib import Path

import torch

from rs_lowconf.data.augment import augmentations_at, mask_gan_augmentations
from rs_lowconf.device import choose_device
from rs_lowconf.gan import encode
from rs_lowconf.gan.condition import main_classes
from rs_lowconf.gan.encode import Tiles, comparison_of
from rs_lowconf.gan.mask_train import MaskShow
from rs_lowconf.gan.model import GanModel, load_critic, load_model, save_encoder
from rs_lowconf.gan.tiles import some_rows
from rs_lowconf.gan.train import BalancedDraw
from rs_lowconf.models import features_in
from rs_lowconf.runs import RunFolder, sha256_of
from rs_lowconf.search.distances import RealDistances, measure_distances
from rs_lowconf.search.prior import PriorShell
from rs_lowconf.seeds import seed_of
from rs_lowconf.settings import Settings
from rs_lowconf.target.trained import load_trained
from rs_lowconf.workflows.records import Work
from rs_lowconf.workflows.training import last_record, open_like, open_like_masks

_MOST_TILES = 2_000
"""With labels, of which distances are measured: all of a large data set would fill the memory."""


@dataclass(frozen=True, kw_only=True)
class TrainedEncoder:
    """An encoder that is written, and the distances beside it."""

    path: Path
    classes: tuple[str, ...]
    """Whose real tiles the distances are of."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Lesson:
    """What an encoder is trained on."""

    gan: GanModel
    tiles: Tiles
    distances: RealDistances


def train_encoder(settings: Settings) -> Work[TrainedEncoder]:
    """Train an encoder into run.dir/encoder; yield how far that is.

    Raises:
        ModelError: a model that it needs is missing or of other data.
        DataError: the tiles cannot be used.
        JobError: the training diverged.
    """
    device, section = choose_device(settings.run), settings.encoder
    lesson = (_with_masks if settings.data.masked else _with_labels)(settings, device)
    records = encode.train_encoder(
        lesson.gan.network,
        comparison_of(lesson.gan.critic),
        lesson.tiles,
        PriorShell(lesson.gan.generator.latent_parts, settings.search.prior_tail).project,
        lesson.gan.recipe,
        section,
        settings.run.seed,
        device,
    )
    folder = RunFolder(settings.run.dir / "encoder", settings)
    folder.trim_log("images", 0)
    trained = yield from last_record(records, "the encoder", section.images, folder.log)
    path, distances = folder.path / "encoder.safetensors", lesson.distances
    save_encoder(path, trained, lesson.gan.recipe, models={"gan": distances.models["gan"]})
    distances.save(path.with_name("distances.safetensors"))
    return TrainedEncoder(path=path, classes=distances.classes)


def _with_labels(settings: Settings, device: torch.device) -> _Lesson:
    paths = {name: settings.run.dir / name / f"{name}.safetensors" for name in ("gan", "extractor")}
    gan, seed = load_model(paths["gan"], device), settings.run.seed
    extractor = load_trained(paths["extractor"], device, kind="classifier")
    source, _ = open_like(settings, gan.class_generator)
    draw, augment = BalancedDraw(source), augmentations_at(settings.augment)
    change = augment(settings.augment.probability)[0]

    def tiles(count: int, number: int, rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        label, chosen = draw(count, rng)
        image = change(source.batch(chosen).image, seed_of(seed, "encoder", "augment", number))
        return image.to(device), label.to(device)

    measured = some_rows(len(source), _MOST_TILES, seed_of(seed, "encoder", "distances"))
    distances = measure_distances(
        source.batch(measured.tolist()).image,
        source.labels[measured],
        source.classes,
        features_in(extractor, gan.generator.bands),
        seed,
        {name: sha256_of(path) for name, path in paths.items()},
    )
    return _Lesson(gan=gan, tiles=tiles, distances=distances)


def _with_masks(settings: Settings, device: torch.device) -> _Lesson:
    run, seed = settings.run.dir, settings.run.seed
    paths = {"gan": run / "gan" / "gan.safetensors", "critic": run / "gate" / "critic.safetensors"}
    gan = load_model(paths["gan"], device)
    generator, _ = gan.masked
    critic = load_critic(paths["critic"], generator.bank, device)
    train = open_like_masks(settings, generator, "train")
    turn, shift = mask_gan_augmentations(settings.augment)
    show = MaskShow(train, turn=turn, augment=shift, seed=seed, stream="encoder", device=device)

    def tiles(count: int, number: int, rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        return show.draw(count, number, rng)

    image, label = main_classes(train, settings.mask_gan.bank, seed)
    distances = measure_distances(
        image,
        label,
        train.classes,
        features_in(critic, generator.bands),
        seed,
        {name: sha256_of(path) for name, path in paths.items()},
    )
    return _Lesson(gan=gan, tiles=tiles, distances=distances)
