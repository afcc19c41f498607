"""What the quality of a generator is measured on."""

from dataclasses import dataclass

import torch

from rs_lowconf.data.source import open_split
from rs_lowconf.device import choose_device
from rs_lowconf.gan.figures import sample
from rs_lowconf.gan.model import GanModel, load_model
from rs_lowconf.gan.tiles import DrawnTiles
from rs_lowconf.models import check_tile_size
from rs_lowconf.places import model_path
from rs_lowconf.runs import sha256_of
from rs_lowconf.seeds import seed_of
from rs_lowconf.settings import Settings
from rs_lowconf.target.load import check_fit
from rs_lowconf.types import TileSource
from rs_lowconf.workflows.records import Step, Work


@dataclass(frozen=True, kw_only=True, eq=False)
class Tiles:
    """Real and generated tiles, all with the generator's bands and classes."""

    gan: GanModel
    gan_sha256: str
    train: TileSource
    val: TileSource
    test: TileSource
    """What generated tiles are compared with: the split evaluate.split."""
    generated: DrawnTiles
    """What the figures are measured on."""
    generated_val: DrawnTiles
    """Others, which choose the epoch where a classifier learns from generated tiles."""
    device: torch.device

    @property
    def held_out(self) -> list[TileSource]:
        """Return the splits that may be read and that nothing was trained on."""
        return [self.val] if self.test is self.val else [self.val, self.test]


def load_tiles(settings: Settings) -> Work[Tiles]:
    """Load the generator, read the splits in its bands, and draw; yield how far that is."""
    device = choose_device(settings.run)
    path = model_path(settings, "gan")
    gan = load_model(path, device)
    generator = gan.class_generator
    check_tile_size(settings, generator)
    wanted = {"bands": generator.bands.names, "classes": generator.classes}
    data = settings.data.model_copy(update=wanted)
    train, val = open_split(data, "train"), open_split(data, "val")
    # Nothing opens the test split while models are compared on the validation split.
    test = val if settings.evaluate.split == "val" else open_split(data, "test")
    check_fit(generator.bands, train.bands, model="generator")
    k = len(generator.classes)
    counts = {
        "generated": torch.full((k,), settings.evaluate.tiles_per_class),
        "generated_val": torch.bincount(val.labels, minlength=k),
    }
    total, done = int(sum(own.sum() for own in counts.values())), 0
    drawn = {}
    yield Step(title="drawing tiles", done=0, total=total)
    for name, own in counts.items():
        parts = []
        for label, number in enumerate(own.tolist()):
            seed = seed_of(settings.run.seed, "evaluate", name, label)
            parts.append(sample(generator, torch.full((number,), label), seed))
            done += number
            yield Step(title="drawing tiles", done=done, total=total)
        drawn[name] = DrawnTiles(
            torch.cat(parts),
            torch.arange(k).repeat_interleave(own),
            bands=train.bands,
            classes=train.classes,
            name=name,
        )
    return Tiles(
        gan=gan,
        gan_sha256=sha256_of(path),
        train=train,
        val=val,
        test=test,
        **drawn,
        device=device,
    )
