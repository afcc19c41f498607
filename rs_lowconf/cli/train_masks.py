"""What `rslow train gan` and `rslow train gate` do with tiles that have masks, not labels."""

import math
import time
from typing import TYPE_CHECKING

from rs_lowconf.cli.progress import checkpoints, means, print_calibrated, show
from rs_lowconf.settings import Settings

if TYPE_CHECKING:
    from rs_lowconf.types import MaskSource

_LOGGED = ("critic_loss", "generator_loss", "mix_loss", "penalty", "agreement")


def train_mask_gan(settings: Settings, source: "MaskSource", val: "MaskSource") -> None:
    """Train the generator of tiles with given masks, or go on where it stopped.

    Args:
        settings: of the run; those of the training are in `mask_gan`.
        source: the training split, whose masks are stored with the generator.
        val: held-out tiles, by which the checkpoint to keep is chosen.

    Raises:
        DataError: there are no tiles, or they have no masks.
        ModelError: the folder holds a training with other settings.
        JobError: the training diverged.
    """
    from rs_lowconf.data.augment import mask_gan_augmentations
    from rs_lowconf.device import choose_device
    from rs_lowconf.gan.mask_figures import mask_figures
    from rs_lowconf.gan.mask_model import save_mask_model
    from rs_lowconf.gan.mask_sheet import write_mask_sheets
    from rs_lowconf.gan.mask_train import MaskGanTraining, train_on_masks
    from rs_lowconf.gan.masks import bank_of
    from rs_lowconf.gan.model import restore_state, save_state
    from rs_lowconf.runs import RunFolder

    own, seed, path = settings.mask_gan, settings.run.seed, settings.run.dir / "gan"
    turn, augment = mask_gan_augmentations(settings.augment)
    training = MaskGanTraining(
        own, source, turn=turn, augment=augment, seed=seed, device=choose_device(settings.run)
    )
    bank = bank_of(source, most=own.bank, seed=seed)
    state = path / "state.safetensors"
    if state.exists():
        restore_state(state, training)
    folder = RunFolder(path, settings)
    folder.trim_log("images", training.images)
    start, first = time.monotonic(), training.images
    log = folder.read_log()
    best = min((line["region_distance"] for line in log), default=math.inf)
    logged = max((line["images"] for line in log), default=0)
    for recent in checkpoints(
        train_on_masks(training), own, first, logged, save=lambda: save_state(state, training)
    ):
        figures = mask_figures(training.average, training.discriminator, val, seed)
        if figures["region_distance"] < best:
            best = figures["region_distance"]
            save_mask_model(
                path / "gan.safetensors", training, bank, attribution=settings.data.attribution
            )
        write_mask_sheets(
            path / "sheets",
            training.average,
            val,
            columns=own.sheet_columns,
            seed=seed,
            images=training.images,
        )
        save_state(state, training)
        folder.log(
            {
                "images": training.images,
                "images_per_second": (training.images - first) / (time.monotonic() - start),
                **means(recent, _LOGGED),
                **figures,
            }
        )
    chosen = min(folder.read_log(), key=lambda line: line["region_distance"])["images"]
    print(
        f"{training.images:,} images, of which the checkpoint after {chosen:,} is kept: "
        f"{path / 'gan.safetensors'}, sheets in {path / 'sheets'}"
    )


def train_mask_gate(settings: Settings) -> None:
    """Train the gate's critic of tiles with masks, and measure what the gate knows of real ones.

    The critic's own features say which tiles look alike: for masks there is no extractor.

    Args:
        settings: of the run; the critic's are in `gate`, its losses' weights in `mask_gan`.

    Raises:
        ModelError: there is no generator of tiles with masks, or it is of other data.
        DataError: too few tiles are held out.
        JobError: the training diverged.
    """
    from rs_lowconf.data.augment import mask_gan_augmentations
    from rs_lowconf.data.masks import open_masks
    from rs_lowconf.device import choose_device
    from rs_lowconf.gan.mask_judge import train_mask_judge
    from rs_lowconf.gan.mask_model import load_mask_model, save_mask_critic
    from rs_lowconf.gan.masks import MaskCritic, bank_of, by_mask
    from rs_lowconf.models import check_same, check_tile_size, features_in
    from rs_lowconf.runs import RunFolder
    from rs_lowconf.workflows.training import last_record, write_calibration

    own, run, device = settings.gate, settings.run.dir, choose_device(settings.run)
    paths = {"gan": run / "gan" / "gan.safetensors", "critic": run / "gate" / "critic.safetensors"}
    gan = load_mask_model(paths["gan"], device)
    generator = gan.generator
    train, val = open_masks(settings.data, "train"), open_masks(settings.data, "val")
    check_tile_size(settings, generator)
    check_same(generator.bands, generator.pixel_classes, train, setting="data.mask_classes")
    folder = RunFolder(run / "gate", settings)
    folder.trim_log("images", 0)
    records = train_mask_judge(
        generator.generator,
        train,
        own,
        settings.mask_gan,
        augment=mask_gan_augmentations(settings.augment),
        seed=settings.run.seed,
        device=device,
    )
    judge = show(last_record(records, "the gate's critic", own.images, folder.log))
    save_mask_critic(paths["critic"], judge)
    held_out = bank_of(val)
    critic = MaskCritic(judge, held_out)
    counts = write_calibration(
        settings,
        paths,
        critics=(critic, gan.critic.on(held_out)),
        extractor=(critic, features_in(critic, generator.bands)),
        tiles=(by_mask(train), by_mask(val)),
        device=device,
    )
    print_calibrated(counts, run / "gate")
