"""Training of a generator, from its tiles to the checkpoint that is nearest to held-out ones."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from rs_lowconf.bands import COMPOSITES
from rs_lowconf.data.augment import augmentations_at, mask_gan_augmentations
from rs_lowconf.data.masks import open_masks
from rs_lowconf.data.source import open_split
from rs_lowconf.device import choose_device
from rs_lowconf.errors import SettingsError
from rs_lowconf.gan.condition import bank_of
from rs_lowconf.gan.critic import fit_realism
from rs_lowconf.gan.figures import FrozenDistance, domain_distance, figures, spectral_figures
from rs_lowconf.gan.frozen import frozen_network
from rs_lowconf.gan.mask_figures import mask_figures
from rs_lowconf.gan.mask_train import MaskGanTraining, MaskStepRecord
from rs_lowconf.gan.masks import MaskCritic
from rs_lowconf.gan.model import save_model
from rs_lowconf.gan.resume import CHECKPOINT, STATE, resume, save_state
from rs_lowconf.gan.sheet import write_sheets
from rs_lowconf.gan.source_critics import owners
from rs_lowconf.gan.steps import LossRecord, train
from rs_lowconf.gan.train import GanTraining, StepRecord
from rs_lowconf.gan.train_sources import SourcesTraining, realism_of
from rs_lowconf.runs import RunFolder
from rs_lowconf.settings import GeneratorSettings, Settings, further_sources
from rs_lowconf.target.load import check_fit
from rs_lowconf.target.trained import load_trained
from rs_lowconf.types import MaskSource, TileSource
from rs_lowconf.workflows.records import Step, Work
from rs_lowconf.workflows.training import open_sources

_SELECTING = ("efficientnet_lite1", "efficientnet_lite0")
"""Pretrained networks that may choose the checkpoint: the first that the critics do not see
through."""


R = TypeVar("R", bound=LossRecord)


@dataclass(frozen=True, kw_only=True)
class TrainedGan:
    """A generator whose training has ended."""

    images: int
    """Real tiles shown."""
    chosen: int
    """Real tiles shown at the checkpoint that is kept."""
    path: Path
    """Of that checkpoint."""
    sheets: Path
    """Folder of pictures of all checkpoints."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Training(Generic[R]):
    """One kind of training, and what is done at each of its checkpoints."""

    state: GanTraining | MaskGanTraining | SourcesTraining
    steps: Callable[[], Iterator[R]]
    section: GeneratorSettings
    averaged: tuple[str, ...]
    """Fields of the records that metrics.jsonl holds the means of."""
    measure: Callable[[Sequence[R]], dict[str, float]]
    """Returns the figures of the checkpoint after these steps."""
    distance: str
    """The figure that is least at the checkpoint to keep."""
    keep: Callable[[Path], None]
    """Writes the checkpoint."""
    draw: Callable[[Path], object]
    """Writes its pictures into a folder."""


def train_gan(settings: Settings) -> Work[TrainedGan]:
    """Open what a training needs and return the training, which goes on where it stopped.

    Closed between two steps, it keeps its state.

    Args:
        settings: of the run; `gan`, or `mask_gan` where tiles have masks, say how to train.

    Raises:
        DataError: the tiles cannot be used.
        ModelError: the folder holds a training with other settings, or the extractor is missing.
        SettingsError: `data.more` would have no effect.
        JobError: the training diverged.
    """
    if settings.data.masked:
        train_tiles, val = open_masks(settings.data, "train"), open_masks(settings.data, "val")
        return train_mask_gan(settings, train_tiles, val)
    if settings.gan.recipe == "frozen":
        return _run(settings, _on_sources(settings))
    return _run(settings, _on_labels(settings))


def train_mask_gan(settings: Settings, source: MaskSource, val: MaskSource) -> Work[TrainedGan]:
    """Return the training of a generator of tiles with given masks; see `train_gan`.

    Args:
        settings: of the run; those of the training are in `mask_gan`.
        source: the training split, whose masks are stored with the generator.
        val: held-out tiles, by which the checkpoint to keep is chosen.
    """
    section, seed = settings.mask_gan, settings.run.seed
    turn, augment = mask_gan_augmentations(settings.augment)
    state = MaskGanTraining(
        section, source, turn=turn, augment=augment, seed=seed, device=choose_device(settings.run)
    )
    bank = bank_of(source, most=section.bank, seed=seed)

    def keep(path: Path) -> None:
        # A copy, because the critic freezes weights that training still updates.
        critic = MaskCritic(deepcopy(state.discriminator), bank)
        save_model(path, state, critic, attribution=settings.data.attribution)

    def draw(folder: Path) -> None:
        write_sheets(
            folder,
            state.average,
            val,
            columns=section.sheet_columns,
            seed=seed,
            images=state.images,
        )

    def measure(records: Sequence[MaskStepRecord]) -> dict[str, float]:
        return {
            **_by_critic(records),
            **mask_figures(state.average, state.discriminator, val, seed),
        }

    return _run(
        settings,
        _Training(
            state=state,
            steps=lambda: train(state, "mask_gan"),
            section=section,
            averaged=("critic_loss", "generator_loss", "mix_loss", "penalty", "agreement"),
            measure=measure,
            distance="region_distance",
            keep=keep,
            draw=draw,
        ),
    )


def _on_labels(settings: Settings) -> _Training[StepRecord]:
    """Return the training on one source of labelled tiles."""
    source, val = open_split(settings.data, "train"), open_split(settings.data, "val")
    if further_sources(settings.data):
        raise SettingsError(
            "data.more has no effect with gan.recipe=native, which learns from the tiles of data",
            remedy="set gan.recipe=frozen, or remove data.more",
        )
    seed, device = settings.run.seed, choose_device(settings.run)
    state = GanTraining(
        settings.gan,
        source,
        augment_at=augmentations_at(settings.augment),
        strength=settings.augment.probability,
        seed=seed,
        device=device,
        val=val,
    )
    features = _selecting_features(settings, source, device)

    def keep(path: Path) -> None:
        critic = fit_realism(state.discriminator, state.average, source, seed)
        save_model(path, state, critic, attribution=settings.data.attribution)

    def draw(folder: Path) -> None:
        write_sheets(
            folder,
            state.average,
            source,
            columns=settings.gan.sheet_columns,
            seed=seed,
            images=state.images,
        )

    def measure(records: Sequence[StepRecord]) -> dict[str, float]:  # noqa: ARG001
        return {
            **figures(state.average, state.discriminator, source, val, seed),
            "domain_distance": domain_distance(state.average, val, features, seed),
        }

    return _Training(
        state=state,
        steps=lambda: train(state),
        section=settings.gan,
        averaged=(
            "critic_loss",
            "generator_loss",
            "logit_real",
            "logit_fake",
            "penalty",
            "strength",
        ),
        measure=measure,
        distance="domain_distance",
        keep=keep,
        draw=draw,
    )


def _selecting_features(
    settings: Settings, source: TileSource, device: torch.device
) -> Callable[[Float[Tensor, "b c h w"]], Float[Tensor, "b f"]]:
    """Return the extractor's features, by which the best checkpoint is chosen."""
    extractor = load_trained(
        settings.run.dir / "extractor" / "extractor.safetensors", device, kind="classifier"
    )
    channels = list(check_fit(extractor.bands, source.bands, model="extractor"))
    return lambda image: extractor.features(image[:, channels])


def _on_sources(settings: Settings) -> _Training[StepRecord]:
    """Return the training on several sources, with critics on the features of a network."""
    seed, device = settings.run.seed, choose_device(settings.run)
    sources, held_out = open_sources(settings, "train"), open_sources(settings, "val")
    state = SourcesTraining(
        settings.gan,
        sources,
        augment_at=augmentations_at(settings.augment),
        strength=settings.augment.probability,
        seed=seed,
        device=device,
    )
    owner = owners([source.shape for source in held_out])
    shown = held_out[owner.get("true_colour", 0)]
    distance_of = FrozenDistance(
        frozen_network(next(n for n in _SELECTING if n != settings.gan.features)).to(device),
        shown.tiles,
        rendering=shown.rendering,
        white=COMPOSITES["true_colour"].network_white,
    )

    def keep(path: Path) -> None:
        save_model(path, state, realism_of(state), attribution=settings.data.attribution)

    def draw(folder: Path) -> None:
        for source in sources:
            write_sheets(
                folder,
                state.average,  # which `measure` has settled
                source.tiles,
                columns=settings.gan.sheet_columns,
                seed=seed,
                images=state.images,
                rendering=source.rendering,
                name=source.name,
            )

    def measure(records: Sequence[StepRecord]) -> dict[str, float]:
        generator = state.settled()
        return {
            **_by_critic(records),
            **spectral_figures(generator, held_out[0].tiles, seed),
            "distance": distance_of(generator, seed),
        }

    return _Training(
        state=state,
        steps=lambda: train(state),
        section=settings.gan,
        averaged=("critic_loss", "generator_loss", "logit_real", "logit_fake", "penalty"),
        measure=measure,
        distance="distance",
        keep=keep,
        draw=draw,
    )


def _by_critic(records: Sequence[StepRecord | MaskStepRecord]) -> dict[str, float]:
    """Return the mean loss of each critic by name, where there are several."""
    losses = [record.losses or {} for record in records]
    names = sorted({name for parts in losses for name in parts})
    return {
        f"loss, {name}": fmean(parts[name] for parts in losses if name in parts) for name in names
    }


def _run(settings: Settings, training: _Training[R]) -> Work[TrainedGan]:
    """Go on from the state where there is one, and yield every step."""
    state, path = training.state, settings.run.dir / "gan"
    resume(path, state)
    folder = RunFolder(path, settings)
    folder.trim_log("images", state.images)
    start, first = time.monotonic(), state.images
    log = folder.read_log()
    best = min((line[training.distance] for line in log), default=math.inf)

    def save() -> None:
        save_state(path / STATE, state)

    def measure(records: Sequence[R]) -> None:
        nonlocal best
        save()
        found = training.measure(records)
        if found[training.distance] < best:
            best = found[training.distance]
            training.keep(path / CHECKPOINT)
        training.draw(path / "sheets")
        folder.log(
            {
                "images": state.images,
                "images_per_second": (state.images - first) / (time.monotonic() - start),
                **means(records, training.averaged),
                **found,
            }
        )

    yield from in_checkpoints(
        training.steps(),
        training.section,
        first,
        max((line["images"] for line in log), default=0),
        save=save,
        measure=measure,
    )
    chosen = min(folder.read_log(), key=lambda line: line[training.distance])["images"]
    return TrainedGan(
        images=state.images, chosen=chosen, path=path / CHECKPOINT, sheets=path / "sheets"
    )


def in_checkpoints(
    records: Iterator[R],
    section: GeneratorSettings,
    images: int,
    measured: int,
    *,
    save: Callable[[], None],
    measure: Callable[[Sequence[R]], None],
) -> Work[None]:
    """Run a GAN's training and measure it at every checkpoint; yield after steps and checkpoints.

    A training that was closed between a step and its checkpoint begins with that checkpoint,
    without records.

    Args:
        records: one per step, until the training ends.
        section: its settings.
        images: real tiles that a resumed training has shown before.
        measured: real tiles at the last checkpoint that was measured, 0 before the first.
        save: keeps the state; called when the training is closed.
        measure: measures a checkpoint, given the records since the one before.
    """
    every, total = section.checkpoint_images, section.images
    step = Step(title="training the GAN", done=images, total=total)
    if images > measured and (images // every > measured // every or images >= total):
        measure(())
        yield step
    due, recent = images // every + 1, list[R]()
    for record in records:
        recent.append(record)
        losses = f"loss {record.critic_loss:.2f} / {record.generator_loss:.2f}"
        step = Step(title=step.title, done=record.images, total=total, text=losses)
        try:
            yield step
        except GeneratorExit:
            save()
            raise
        if record.images >= due * every:
            measure(recent)
            recent.clear()
            due += 1
            yield step
    if recent:
        measure(recent)


def means(records: Sequence[object], names: Iterable[str]) -> dict[str, float]:
    """Return the mean of each named part of the records over the steps that have it."""
    found = {}
    for name in names:
        values = [v for v in (getattr(record, name) for record in records) if v is not None]
        if values:
            found[name] = sum(values) / len(values)
    return found
