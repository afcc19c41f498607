"""Training of a generator on several sources of tiles, with critics on frozen features."""

import math
import time
from statistics import fmean
from typing import TYPE_CHECKING

from rs_lowconf.bands import COMPOSITES, BandSpec
from rs_lowconf.cli.progress import checkpoints, means
from rs_lowconf.settings import PictureData, Settings, Tiles, further_sources

if TYPE_CHECKING:
    from rs_lowconf.data.files import Split
    from rs_lowconf.data.memory import MemorySource
    from rs_lowconf.gan.rendering import Rendering
    from rs_lowconf.gan.train_sources import TrainingSource

_LOGGED = ("critic_loss", "generator_loss", "logit_real", "logit_fake", "penalty")
_SELECTING = ("efficientnet_lite1", "efficientnet_lite0")
"""Pretrained networks that may choose the checkpoint: the first that the critics do not see
through."""


def train_from_sources(settings: Settings) -> None:
    """Train, keeping the checkpoint nearest to held-out tiles; see `rslow train gan`."""
    from rs_lowconf.data.augment import augmentations_at
    from rs_lowconf.device import choose_device
    from rs_lowconf.gan.figures import FrozenDistance, spectral_figures
    from rs_lowconf.gan.frozen import frozen_network
    from rs_lowconf.gan.model import restore_state, save_sources_model, save_state
    from rs_lowconf.gan.sheet import write_sheets
    from rs_lowconf.gan.source_critics import owners
    from rs_lowconf.gan.train import train
    from rs_lowconf.gan.train_sources import SourcesTraining, realism_of
    from rs_lowconf.runs import RunFolder

    device = choose_device(settings.run)
    sources, held_out = open_sources(settings, "train"), open_sources(settings, "val")
    training = SourcesTraining(
        settings.gan,
        sources,
        augment_at=augmentations_at(settings.augment),
        strength=settings.augment.probability,
        seed=settings.run.seed,
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
    path = settings.run.dir / "gan"
    state = path / "state.safetensors"
    if state.exists():
        restore_state(state, training)
    folder = RunFolder(path, settings)
    folder.trim_log("images", training.images)
    start, first = time.monotonic(), training.images
    log = folder.read_log()
    best = min((line["distance"] for line in log), default=math.inf)
    logged = max((line["images"] for line in log), default=0)
    for recent in checkpoints(
        train(training), settings.gan, first, logged, save=lambda: save_state(state, training)
    ):
        save_state(state, training)
        generator = training.settled()
        distance = distance_of(generator, settings.run.seed)
        if distance < best:
            best = distance
            save_sources_model(
                path / "gan.safetensors",
                training,
                realism_of(training),
                attribution=settings.data.attribution,
            )
        for source in sources:
            write_sheets(
                path / "sheets",
                generator,
                source.tiles,
                columns=settings.gan.sheet_columns,
                seed=settings.run.seed,
                images=training.images,
                rendering=source.rendering,
                name=source.name,
            )
        losses = [record.losses or {} for record in recent]
        names = sorted({name for own in losses for name in own})
        folder.log(
            {
                "images": training.images,
                "images_per_second": (training.images - first) / (time.monotonic() - start),
                **means(recent, _LOGGED),
                **{
                    f"loss, {name}": fmean(own[name] for own in losses if name in own)
                    for name in names
                },
                **spectral_figures(generator, held_out[0].tiles, settings.run.seed),
                "distance": distance,
            }
        )
    chosen = min(folder.read_log(), key=lambda line: line["distance"])["images"]
    print(
        f"{training.images:,} images, of which the checkpoint after {chosen:,} is kept: "
        f"{path / 'gan.safetensors'}, sheets in {path / 'sheets'}"
    )


def rendering_of(section: Tiles, bands: BandSpec) -> "Rendering":
    """Return how a source shows reflectance.

    Args:
        section: its settings.
        bands: of its tiles.
    """
    from rs_lowconf.gan.rendering import Rendering

    if isinstance(section, PictureData):
        return Rendering(bands=bands, eight_bits=True, chroma=section.chroma)
    return Rendering(bands=bands, eight_bits=False, chroma="full")


def open_sources(settings: Settings, split: "Split") -> "list[TrainingSource]":
    """Return a split of all sources of tiles, the one with all bands first."""
    from rs_lowconf.data.source import open_split
    from rs_lowconf.data.sources import open_more
    from rs_lowconf.gan.train_sources import TrainingSource

    first = open_split(settings.data, split)
    opened: list[tuple[Tiles, MemorySource]] = [(settings.data, first)]
    opened += zip(
        further_sources(settings.data),
        open_more(settings.data, split, first.classes),
        strict=True,
    )
    sources = []
    for number, (section, tiles) in enumerate(opened):
        sources.append(
            TrainingSource(
                name=section.kind if number == 0 else f"{section.kind}{number}",
                tiles=tiles,
                rendering=rendering_of(section, tiles.bands),
            )
        )
    return sources
