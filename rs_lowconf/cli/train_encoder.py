"""`rslow train encoder`: what finds the latents of real tiles."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rs_lowconf.cli.app import ConfigOption, SetOption, load_settings
from rs_lowconf.cli.progress import show
from rs_lowconf.cli.train import gate_tiles, train_app
from rs_lowconf.settings import Settings

if TYPE_CHECKING:
    import torch

    from rs_lowconf.gan.encode import Draw, Tiles
    from rs_lowconf.gan.mask_model import MaskGanModel
    from rs_lowconf.gan.model import GanModel
    from rs_lowconf.search.distances import RealDistances
    from rs_lowconf.settings import GeneratorSettings

_MOST_TILES = 2_000
"""With labels, of which distances are measured: all of a large data set would fill the memory."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Lesson:
    """What an encoder is trained on."""

    gan: "GanModel | MaskGanModel"
    draw: "Draw"
    tiles: "Tiles"
    recipe: "GeneratorSettings"
    distances: "RealDistances"


@train_app.command()
def encoder(config: ConfigOption = None, set_: SetOption = None) -> None:
    """Train the encoder, and measure how far apart real tiles of a class are.

    `rslow batch generate` alone needs it, because it starts from real tiles. It is trained on a
    finished GAN; tiles with labels need the extractor too, tiles with masks the gate. Writes
    encoder.safetensors, distances.safetensors and metrics.jsonl into run.dir/encoder.
    """
    settings = load_settings(config, set_)
    from rs_lowconf.device import choose_device
    from rs_lowconf.gan.encode import comparison_of, train_encoder
    from rs_lowconf.gan.model import save_encoder
    from rs_lowconf.runs import RunFolder
    from rs_lowconf.search.prior import PriorShell
    from rs_lowconf.workflows.training import last_record

    device = choose_device(settings.run)
    lesson = (_with_masks if settings.data.masked else _with_labels)(settings, device)
    parts = lesson.gan.generator.latent_parts
    records = train_encoder(
        lesson.draw,
        comparison_of(lesson.gan.critic),
        lesson.tiles,
        PriorShell(parts, settings.search.prior_tail).project,
        lesson.recipe,
        settings.encoder,
        settings.run.seed,
        device,
    )
    folder = RunFolder(settings.run.dir / "encoder", settings)
    folder.trim_log("images", 0)
    own = settings.encoder
    trained = show(last_record(records, "the encoder", own.images, folder.log))
    path = settings.run.dir / "encoder" / "encoder.safetensors"
    distances = lesson.distances
    save_encoder(path, trained, lesson.recipe, models={"gan": distances.models["gan"]})
    distances.save(path.with_name("distances.safetensors"))
    print(f"encoder, and distances of real tiles of {len(distances.classes)} classes: {path}")


def _with_labels(settings: Settings, device: "torch.device") -> _Lesson:
    import torch

    from rs_lowconf.data.augment import augmentations_at
    from rs_lowconf.gan.model import load_model
    from rs_lowconf.gan.train import BalancedDraw
    from rs_lowconf.models import features_in
    from rs_lowconf.runs import sha256_of
    from rs_lowconf.search.distances import measure_distances
    from rs_lowconf.seeds import seed_of
    from rs_lowconf.settings import GanSettings
    from rs_lowconf.target.classifier import load_classifier

    paths = {name: settings.run.dir / name / f"{name}.safetensors" for name in ("gan", "extractor")}
    gan, seed = load_model(paths["gan"], device), settings.run.seed
    extractor = load_classifier(paths["extractor"], device)
    source, _ = gate_tiles(settings, gan.generator)
    draw, augment = BalancedDraw(source), augmentations_at(settings.augment)
    change = augment(settings.augment.probability)[0]

    def tiles(count: int, number: int, dice: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        label, chosen = draw(count, dice)
        image = change(source.batch(chosen).image, seed_of(seed, "encoder", "augment", number))
        return image.to(device), label.to(device)

    some = torch.Generator().manual_seed(seed_of(seed, "encoder", "distances"))
    measured = torch.randperm(len(source), generator=some)[:_MOST_TILES].sort().values
    distances = measure_distances(
        source.batch(measured.tolist()).image,
        source.labels[measured],
        source.classes,
        features_in(extractor, gan.generator.bands),
        seed,
        {name: sha256_of(path) for name, path in paths.items()},
    )
    return _Lesson(
        gan=gan,
        draw=gan.generator,
        tiles=tiles,
        recipe=GanSettings.model_validate(gan.header["settings"]),
        distances=distances,
    )


def _with_masks(settings: Settings, device: "torch.device") -> _Lesson:
    import torch

    from rs_lowconf.data.augment import mask_gan_augmentations
    from rs_lowconf.data.masks import open_masks
    from rs_lowconf.gan.mask_model import load_mask_critic, load_mask_model
    from rs_lowconf.gan.mask_train import MaskShow
    from rs_lowconf.gan.masks import main_classes
    from rs_lowconf.models import check_same, check_tile_size, features_in
    from rs_lowconf.runs import sha256_of
    from rs_lowconf.search.distances import measure_distances
    from rs_lowconf.settings import MaskGanSettings

    run, seed = settings.run.dir, settings.run.seed
    paths = {"gan": run / "gan" / "gan.safetensors", "critic": run / "gate" / "critic.safetensors"}
    gan = load_mask_model(paths["gan"], device)
    critic = load_mask_critic(paths["critic"], gan.generator.bank, device)
    train = open_masks(settings.data, "train")
    check_tile_size(settings, gan.generator)
    check_same(gan.generator.bands, gan.generator.pixel_classes, train, setting="data.mask_classes")
    turn, shift = mask_gan_augmentations(settings.augment)
    show = MaskShow(train, turn=turn, augment=shift, seed=seed, stream="encoder", device=device)

    def tiles(count: int, number: int, dice: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        return show.draw(count, number, dice)

    image, label = main_classes(train, settings.mask_gan.bank, seed)
    distances = measure_distances(
        image,
        label,
        train.classes,
        features_in(critic, gan.generator.bands),
        seed,
        {name: sha256_of(path) for name, path in paths.items()},
    )
    return _Lesson(
        gan=gan,
        draw=gan.generator.generator,
        tiles=tiles,
        recipe=MaskGanSettings.model_validate(gan.header["settings"]),
        distances=distances,
    )
