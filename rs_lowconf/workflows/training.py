"""What trainings have in common."""

from collections.abc import Callable, Iterable
from typing import cast

from rs_lowconf.data.files import Split
from rs_lowconf.data.masks import WindowSource, open_masks
from rs_lowconf.data.memory import MemorySource
from rs_lowconf.data.source import open_split
from rs_lowconf.data.sources import open_more
from rs_lowconf.gan.beside import BesideRecord, D
from rs_lowconf.gan.masks import MaskedGenerator
from rs_lowconf.gan.pyramid import ClassGenerator
from rs_lowconf.gan.rendering import rendering_of
from rs_lowconf.gan.train_sources import TrainingSource
from rs_lowconf.models import check_same, check_tile_size
from rs_lowconf.settings import Settings, Tiles, further_sources
from rs_lowconf.target.load import check_fit
from rs_lowconf.workflows.records import Step, Work

_LOGS = 20
"""Records of a training that are kept."""


def last_record(
    records: Iterable[BesideRecord[D]],
    name: str,
    images: int,
    log: Callable[[dict[str, float]], None],
) -> Work[D]:
    """Train a network to the end and return its average; yield how far it is.

    Args:
        records: of its training.
        name: what to call it.
        images: after which it ends.
        log: takes a record now and then.
    """
    title, losses, network, due = f"training {name}", list[float](), None, images / _LOGS
    yield Step(title=title, done=0, total=images)
    for record in records:
        network = record.average
        losses.append(record.loss)
        done = min(record.images, images)
        yield Step(title=title, done=done, total=images, text=f"loss {record.loss:.2f}")
        if record.images >= due:
            log({"images": record.images, "loss": sum(losses) / len(losses)})
            losses.clear()
            due += images / _LOGS
    # There is one step or more.
    return cast("D", network)


def open_sources(settings: Settings, split: Split) -> list[TrainingSource]:
    """Return a split of all sources of tiles, the one with all bands first."""
    first = open_split(settings.data, split)
    opened: list[tuple[Tiles, MemorySource]] = [(settings.data, first)]
    opened += zip(
        further_sources(settings.data),
        open_more(settings.data, split, first.classes),
        strict=True,
    )
    return [
        TrainingSource(
            name=section.kind if number == 0 else f"{section.kind}{number}",
            tiles=tiles,
            rendering=rendering_of(section, tiles.bands),
        )
        for number, (section, tiles) in enumerate(opened)
    ]


def open_like(settings: Settings, generator: ClassGenerator) -> tuple[MemorySource, MemorySource]:
    """Return training and validation tiles, in the generator's bands and classes.

    Raises:
        ModelError: the data have others, or in another order.
    """
    source, val = open_split(settings.data, "train"), open_split(settings.data, "val")
    check_fit(generator.bands, source.bands, model="generator")
    check_same(generator.bands, generator.classes, source, setting="data.classes")
    return source, val


def open_like_masks(settings: Settings, generator: MaskedGenerator, split: Split) -> WindowSource:
    """Return tiles with masks, in the generator's bands, classes and size.

    Raises:
        ModelError: the data have others, or in another order.
    """
    source = open_masks(settings.data, split)
    check_tile_size(settings, generator)
    check_same(generator.bands, generator.pixel_classes, source, setting="data.mask_classes")
    return source
