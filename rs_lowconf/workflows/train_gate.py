"""Training of the gate: what drops unrealistic tiles, and what that is known to cost."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rs_lowconf.data.augment import augmentations_at, mask_gan_augmentations
from rs_lowconf.device import choose_device
from rs_lowconf.gan.condition import bank_of
from rs_lowconf.gan.critic import RealismCritic, fit_realism
from rs_lowconf.gan.judge import train_judge, train_mask_judge
from rs_lowconf.gan.masks import MaskCritic, alike, by_mask
from rs_lowconf.gan.model import GanModel, load_model, save_critic
from rs_lowconf.gan.pyramid import ClassGenerator
from rs_lowconf.gan.rendering import Rendering
from rs_lowconf.gan.tiles import all_turns
from rs_lowconf.gan.train_sources import TrainingSource
from rs_lowconf.models import checksums, features_in
from rs_lowconf.runs import RunFolder, write_json
from rs_lowconf.search.calibration import AGREEMENT_SHARE, Features, calibrate
from rs_lowconf.search.fitted import FittedGate
from rs_lowconf.search.gate import require_enough
from rs_lowconf.search.neighbours import features_of
from rs_lowconf.settings import Settings
from rs_lowconf.target.trained import load_trained
from rs_lowconf.types import Critic, FeatureExtractor, TileSource
from rs_lowconf.workflows.fit_gate import fit_gate
from rs_lowconf.workflows.records import Work
from rs_lowconf.workflows.training import last_record, open_like, open_like_masks, open_sources


@dataclass(frozen=True, kw_only=True)
class TrainedGate:
    """A gate that is calibrated and written."""

    calibrated_on: tuple[int, ...]
    """Held-out tiles that each of its stages is calibrated on."""
    described: Mapping[str, Any]
    """What it costs in real tiles and, with gate.recipe=frozen, what it drops."""
    folder: Path


def train_gate(settings: Settings) -> Work[TrainedGate]:
    """Train and calibrate a gate into run.dir/gate; yield how far that is.

    Raises:
        ModelError: there is no generator or no extractor, or the generator is of other data.
        DataError: too few tiles are held out.
        JobError: the training diverged.
    """
    device, run = choose_device(settings.run), settings.run.dir
    paths = {"gan": run / "gan" / "gan.safetensors", "critic": run / "gate" / "critic.safetensors"}
    gan = load_model(paths["gan"], device)
    if settings.data.masked:
        return (yield from _of_masks(settings, gan, paths, device))
    paths["extractor"] = run / "extractor" / "extractor.safetensors"
    return (yield from _of_labels(settings, gan, paths, device))


def _of_labels(
    settings: Settings, gan: GanModel, paths: dict[str, Path], device: torch.device
) -> Work[TrainedGate]:
    generator = gan.class_generator
    extractor = load_trained(paths["extractor"], device, kind="classifier")
    source, val = open_like(settings, generator)
    folder = _folder(settings)
    fitted = None
    if settings.gate.recipe == "frozen":
        # First, because it says soonest what is missing.
        sources = open_sources(settings, "train"), open_sources(settings, "val")
        fitted = yield from fit_gate(settings, gan, sources, device)
    critic = yield from train_critic(settings, generator, source, device, folder.log)
    save_critic(paths["critic"], critic)
    return _calibrated(
        settings,
        paths,
        critics=(critic, gan.critic),
        extractor=(extractor, features_in(extractor, generator.bands)),
        tiles=(source, val),
        device=device,
        fitted=fitted,
    )


def _folder(settings: Settings) -> RunFolder:
    folder = RunFolder(settings.run.dir / "gate", settings)
    folder.trim_log("images", 0)
    return folder


def train_critic(
    settings: Settings,
    generator: ClassGenerator,
    source: TileSource,
    device: torch.device,
    log: Callable[[dict[str, float]], None],
) -> Work[RealismCritic]:
    """Train the gate's discriminator against a finished generator and calibrate its realism.

    Args:
        settings: of the run.
        generator: finished.
        source: the training split, in the generator's bands and classes.
        device: where to compute.
        log: takes a record now and then.
    """
    section, seed = settings.gate, settings.run.seed
    augment = augmentations_at(settings.augment)(settings.augment.probability)
    records = train_judge(generator, source, section, augment, seed, device)
    judge = yield from last_record(records, "the gate's critic", section.images, log)
    return fit_realism(judge, generator, source, seed)


def _of_masks(
    settings: Settings, gan: GanModel, paths: dict[str, Path], device: torch.device
) -> Work[TrainedGate]:
    """Train the critic of tiles with masks; its own features say which tiles look alike."""
    generator, opponent = gan.masked
    train, val = (open_like_masks(settings, generator, split) for split in ("train", "val"))
    folder = _folder(settings)
    fitted = None
    if settings.gate.recipe == "frozen":
        # Early: else it is only found when the critic is trained.
        require_enough(len(val), AGREEMENT_SHARE * settings.search.false_rejection)
        rendering = Rendering(bands=train.bands)
        learned, held = (
            [TrainingSource(name="tiles", tiles=alike(tiles), rendering=rendering)]
            for tiles in (train, val)
        )
        fitted = yield from fit_gate(settings, gan, (learned, held), device)
    records = train_mask_judge(
        generator.generator,
        train,
        settings.gate,
        settings.mask_gan,
        augment=mask_gan_augmentations(settings.augment),
        seed=settings.run.seed,
        device=device,
    )
    judge = yield from last_record(records, "the gate's critic", settings.gate.images, folder.log)
    held_out = bank_of(val)
    critic = MaskCritic(judge, held_out)
    save_critic(paths["critic"], critic)
    return _calibrated(
        settings,
        paths,
        critics=(critic, opponent.on(held_out)),
        extractor=(critic, features_in(critic, generator.bands)),
        tiles=(by_mask(train), by_mask(val)),
        device=device,
        fitted=fitted,
    )


def _calibrated(
    settings: Settings,
    paths: dict[str, Path],
    *,
    critics: tuple[Critic, Critic],
    extractor: tuple[FeatureExtractor, Features],
    tiles: tuple[TileSource, TileSource],
    device: torch.device,
    fitted: FittedGate | None = None,
) -> TrainedGate:
    """Measure what the gate knows of real tiles and write it into run.dir/gate.

    Args:
        settings: of the run.
        paths: of the models, by name.
        critics: the gate's, and that of the search's energy.
        extractor: what says which tiles look alike, and its features in the gate's bands.
        tiles: of training, and held-out ones.
        device: where the models are.
        fitted: what decides in the place of critic, likeness and spectra, if something does.
    """
    train, val = tiles
    folder = settings.run.dir / "gate"
    calibration = calibrate(
        *critics,
        extractor[1],
        train,
        val,
        bank=torch.stack([features_of(extractor[0], view, device) for view in all_turns(train)]),
        seed=settings.run.seed,
        models=checksums(paths),
        device=device,
        fitted=fitted,
    )
    calibration.save(folder / "calibration.safetensors")
    described = calibration.describe(settings.search.false_rejection)
    write_json(folder / "report.json", described)
    return TrainedGate(
        calibrated_on=tuple(stage["held_out_real_tiles"] for stage in described["stages"]),
        described=described,
        folder=folder,
    )
