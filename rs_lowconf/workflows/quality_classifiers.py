"""The networks that an evaluation trains: the reporter, and those that learn from drawn tiles."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from rs_lowconf.data.augment import augmentation
from rs_lowconf.gan.measure import Measurement
from rs_lowconf.gan.pictures import View, draw_pictures
from rs_lowconf.gan.pyramid import ClassGenerator
from rs_lowconf.gan.quality import Right, repeated_figures
from rs_lowconf.gan.tiles import (
    Change,
    ChangedTiles,
    DrawnTiles,
    PictureTiles,
    decorrelate,
    fit_gaussian,
    standardise,
)
from rs_lowconf.seeds import seed_of
from rs_lowconf.settings import ClassifierSettings, Settings
from rs_lowconf.target.evaluate import evaluate_classifier
from rs_lowconf.target.tasks import ClassificationTask
from rs_lowconf.target.train import Training
from rs_lowconf.target.trained import TrainedNetwork, load_trained, save_trained
from rs_lowconf.types import TileSource
from rs_lowconf.workflows.quality_tiles import Tiles
from rs_lowconf.workflows.records import Step, Work

_BATCH = 64
_VIEWS: dict[str, Change] = {
    "tiles as they are": lambda image: image,
    "standardised tiles": standardise,
    "decorrelated tiles": decorrelate,
}


def load_reporter(settings: Settings, tiles: Tiles, path: Path) -> Work[TrainedNetwork]:
    """Return the reporter of an earlier run with the same settings and tiles, or train it."""
    fingerprint = _fingerprint(settings, tiles)
    if path.exists():
        known = load_trained(path, tiles.device, kind="classifier")
        if known.figures.get("fingerprint") == fingerprint:
            return known
    section = settings.evaluate.reporter
    task = ClassificationTask(tiles.train, tiles.val, section, augmentation(settings.augment))
    training = Training(task, seed_of(settings.run.seed, "reporter"), tiles.device)
    for record in training.epochs():
        yield Step(title="training the reporter", done=record.epoch, total=section.epochs)
    reporter = training.best
    report = evaluate_classifier(reporter, tiles.test)
    reporter.figures = {"fingerprint": fingerprint, "accuracy": report.accuracy}
    save_trained(path, reporter)
    return reporter


def _fingerprint(settings: Settings, tiles: Tiles) -> str:
    """Return a hash of everything that the reporter and its accuracy depend on."""
    values = {
        "reporter": settings.evaluate.reporter.model_dump(mode="json"),
        "augment": settings.augment.model_dump(mode="json"),
        "seed": settings.run.seed,
        "bands": tiles.train.bands.to_json(),
        "classes": tiles.train.classes,
    }
    digest = hashlib.sha256(json.dumps(values).encode())
    for source in (tiles.train, tiles.val, tiles.test):
        digest.update(json.dumps([source.ids, source.labels.tolist()]).encode())
        for index in range(len(source)):
            digest.update(source.batch([index]).image.numpy().tobytes())
    return digest.hexdigest()


def train_and_test(settings: Settings, tiles: Tiles) -> Work[Right]:
    """Train classifiers on real, generated and Gaussian tiles, and test them on real ones.

    All take as many steps, whatever their number of tiles. The epoch is chosen on tiles of
    the kind that is learned from: real ones would help those that must do without.
    """
    recipe, augment = settings.evaluate.classifier, augmentation(settings.augment)
    pairs = {
        "real": (tiles.train, tiles.val),
        "generated": (tiles.generated, tiles.generated_val),
        "gaussian": _gaussian_tiles(settings, tiles),
    }
    recipes = {
        name: _as_many_steps(recipe, len(tiles.train), len(train))
        for name, (train, _) in pairs.items()
    }
    right = {}
    done, total = 0, len(_VIEWS) * sum(section.epochs for section in recipes.values())
    for view, change in _VIEWS.items():
        # The same first weights for all three.
        seed = seed_of(settings.run.seed, "evaluate", "classifier", view)
        for name, (train, val) in pairs.items():
            sources = ChangedTiles(train, change), ChangedTiles(val, change)
            task = ClassificationTask(*sources, recipes[name], augment)
            training = Training(task, seed, tiles.device)
            for _ in training.epochs():
                done += 1
                title, text = "training on real and on generated tiles", f"{view}, {name} tiles"
                yield Step(title=title, done=done, total=total, text=text)
            right[view, name] = _right(training.best, ChangedTiles(tiles.test, change))
    return right


def _gaussian_tiles(settings: Settings, tiles: Tiles) -> tuple[DrawnTiles, DrawnTiles]:
    """Return tiles without texture, as many as are generated to learn from and to choose on."""
    statistics = fit_gaussian(tiles.train)
    learn, choose = (
        DrawnTiles(
            statistics.draw(like.labels, settings.data.tile_size, seed_of(settings.run.seed, name)),
            like.labels,
            bands=like.bands,
            classes=like.classes,
            name=name,
        )
        for name, like in (
            ("gaussian", tiles.generated),
            ("gaussian_val", tiles.generated_val),
        )
    )
    return learn, choose


def cas_on_pictures(
    settings: Settings,
    generator: ClassGenerator,
    view: View,
    splits: tuple[TileSource, TileSource, TileSource],
    device: torch.device,
) -> Work[list[Measurement]]:
    """Return the accuracy of classifiers that learned from generated pictures alone.

    Beside them others learn from as many real pictures, and from pictures with the right band
    statistics and no texture; each from several seeds, as the pictures are and standardised per
    channel. No generated tile is filtered. The epoch is chosen on tiles of the kind that is learned
    from.

    Args:
        settings: of the run.
        generator: draws as many tiles of each class as there are real ones.
        view: how they are shown.
        splits: real pictures to learn from, to choose the epoch on, and to test on.
        device: where to compute.
    """
    train, val, test = splits
    section, k = settings.evaluate, len(train.classes)
    statistics = fit_gaussian(train)
    kinds: dict[str, list[TileSource]] = {"real": [train, val], "generated": [], "gaussian": []}
    like: dict[str, Any] = {"bands": train.bands, "classes": train.classes}
    done, total = 0, len(train) + len(val)
    for source, name in ((train, "train"), (val, "val")):
        counts = torch.bincount(source.labels, minlength=k)
        seed = seed_of(settings.run.seed, "cas", name)
        drawn, labels = draw_pictures(generator, counts, view, seed)
        kinds["generated"].append(PictureTiles(drawn, labels, name=name, **like))
        flat = view.generated(statistics.draw(labels, drawn.shape[1], seed), train.bands)
        kinds["gaussian"].append(PictureTiles(flat, labels, name=name, **like))
        done += len(source)
        yield Step(title="drawing pictures to learn from", done=done, total=total)
    # Other names than those of the tiles with all bands, in whose report these figures stand.
    views: dict[str, Change] = {
        "pictures as they are": _VIEWS["tiles as they are"],
        "standardised pictures": standardise,
    }
    done, total = 0, len(views) * len(kinds) * section.cas_seeds * section.cas_classifier.epochs
    right: dict[tuple[str, str], Bool[Tensor, "s n"]] = {}
    for name, change in views.items():
        tested = ChangedTiles(test, change)
        for kind, (learned, chosen) in kinds.items():
            rows = []
            for number in range(section.cas_seeds):
                task = ClassificationTask(
                    ChangedTiles(learned, change),
                    ChangedTiles(chosen, change),
                    section.cas_classifier,
                    augmentation(settings.augment),
                )
                # The same first weights for all three kinds.
                seed = seed_of(settings.run.seed, "cas", name, number)
                training = Training(task, seed, device)
                for _ in training.epochs():
                    done += 1
                    yield Step(
                        title="training on real and on generated pictures",
                        done=done,
                        total=total,
                        text=f"{name}, {kind} pictures, seed {number + 1}",
                    )
                rows.append(_right(training.best, tested))
            right[name, kind] = torch.stack(rows)
    return repeated_figures(right, k, seed_of(settings.run.seed, "cas"))


def _as_many_steps(recipe: ClassifierSettings, real: int, tiles: int) -> ClassifierSettings:
    """Return the recipe with as many steps on `tiles` tiles as it has on the real ones."""
    steps = recipe.epochs * math.ceil(real / recipe.batch_size)
    epochs = max(1, round(steps / math.ceil(tiles / recipe.batch_size)))
    return recipe.model_copy(update={"epochs": epochs})


@torch.no_grad()
def _right(classifier: TrainedNetwork, source: TileSource) -> Bool[Tensor, " n"]:
    """Return which tiles are classified correctly."""
    parts = torch.split(torch.arange(len(source)), _BATCH)
    predicted = [
        classifier.predict(source.batch(part.tolist()).image).argmax(1).cpu() for part in parts
    ]
    return torch.cat(predicted) == source.labels
