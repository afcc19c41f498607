"""What reviewers said changes the gate and, on request, the generator."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rs_lowconf.data.augment import augmentations_at
from rs_lowconf.data.memory import MemorySource
from rs_lowconf.device import choose_device
from rs_lowconf.errors import OutputError, ReviewError, SettingsError
from rs_lowconf.folders import whole_folder
from rs_lowconf.gan.condition import TileClasses, bank_of
from rs_lowconf.gan.critic import RealismCritic, fit_realism
from rs_lowconf.gan.masks import by_mask
from rs_lowconf.gan.model import (
    GanModel,
    draws_masks,
    load_critic,
    load_model,
    save_critic,
    save_model,
)
from rs_lowconf.gan.networks import Generator
from rs_lowconf.gan.pyramid import ClassGenerator
from rs_lowconf.gan.refine import refine_critic
from rs_lowconf.gan.steps import train as gan_steps
from rs_lowconf.gan.train import GanTraining
from rs_lowconf.models import checksums, features_in, load_generator, views_of
from rs_lowconf.percents import percent
from rs_lowconf.places import model_path, newest_update, update_folder
from rs_lowconf.review.geotiff import read_tile
from rs_lowconf.review.rounds import Judged, judged_samples, round_reports
from rs_lowconf.review.store import STORE, ReviewStore
from rs_lowconf.runs import RunFolder, sha256_of, write_json
from rs_lowconf.search.calibration import Calibration, Features, calibrate, load_calibration
from rs_lowconf.search.fitted import FittedGate, Kind
from rs_lowconf.search.head import fit_head
from rs_lowconf.search.taught import teach_gate
from rs_lowconf.seeds import seed_of
from rs_lowconf.settings import GanSettings, Settings
from rs_lowconf.stored import reflectance_of
from rs_lowconf.target.trained import load_trained
from rs_lowconf.types import Critic, TileSource
from rs_lowconf.vocabulary import class_list, class_name, require, vocabulary
from rs_lowconf.workflows.records import Step, Work
from rs_lowconf.workflows.train_gate import train_critic
from rs_lowconf.workflows.training import open_like, open_like_masks
from rs_lowconf.workflows.update_page import Reviewed, write_update_page


@dataclass(frozen=True, kw_only=True)
class Gates:
    """What `Gate.describe` says before and after an update."""

    before: Mapping[str, Any]
    after: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class LearnedHead:
    """What a gate of gate.recipe=native learned: a head on the features of its critic."""

    auc: float
    """Cross-validated: how surely it tells accepted tiles from rejected ones."""
    accepted: int
    rejected: int
    critic_refined: bool
    """Whether the last stage of the critic was trained on with the rejected tiles."""
    generator_images: int
    """Real tiles that the generator was trained on with; 0 where it is as before."""
    held_out_real_tiles: int
    """On so many the gate is calibrated."""
    gate: Gates

    @property
    def answer(self) -> str:
        """Return in one sentence what was learned."""
        bound = self.gate.after["joint_false_rejection_at_most"]
        return (
            f"The gate learned from {self.accepted:,} accepted and {self.rejected:,} rejected "
            f"tiles: cross-validated, what it learned tells them apart with an AUC of "
            f"{self.auc:.2f}, and it still rejects at most {percent(bound, 1)} of real tiles on "
            "average."
        )

    def to_json(self) -> dict[str, Any]:
        """Return its part of report.json."""
        return {
            "head": {"auc": self.auc, "accepted": self.accepted, "rejected": self.rejected},
            "critic_refined": self.critic_refined,
            "generator_images": self.generator_images,
            "held_out_real_tiles": self.held_out_real_tiles,
            "gate": vars(self.gate),
        }


@dataclass(frozen=True, kw_only=True)
class LearnedPart:
    """What a gate of gate.recipe=frozen learned: a part that drops what was rejected."""

    rejected: int
    accepted: int
    dropped: Mapping[str, Any]
    """Cross-validated share of the rejected tiles that it drops, with its interval."""
    held_out_real_tiles: int
    """On so many its first stage is calibrated."""
    gate: Gates

    @property
    def answer(self) -> str:
        """Return in one sentence what was learned."""
        low, high = self.dropped["interval_95"]
        bound = self.gate.after["joint_false_rejection_at_most"]
        return (
            f"The gate learned from {self.rejected:,} rejected and {self.accepted:,} accepted "
            f"tiles: cross-validated, it drops {percent(self.dropped['value'], 0)} "
            f"({percent(low, 0)} .. {percent(high, 0)}) of what was rejected, and still rejects at "
            f"most {percent(bound, 1)} of real tiles on average."
        )

    def to_json(self) -> dict[str, Any]:
        """Return its part of report.json."""
        return {**vars(self), "gate": vars(self.gate)}


@dataclass(frozen=True, kw_only=True)
class Update:
    """A gate that has learned from reviews."""

    number: int
    """From 1 on."""
    folder: Path
    learned: LearnedHead | LearnedPart


@dataclass(frozen=True, kw_only=True, eq=False)
class Reviews:
    """Generated tiles that reviewers accepted or rejected."""

    names: tuple[str, ...]
    image: Float[Tensor, "n c h w"]
    """Reflectance, in the generator's bands."""
    label: Int[Tensor, " n"]
    """Class that each was generated for."""
    accepted: Bool[Tensor, " n"]

    def tiles(self, classes: Sequence[str]) -> list[Reviewed]:
        """Return them one by one, with the names of their classes."""
        return [
            Reviewed(name=name, condition=classes[label], accepted=accepted, image=image)
            for name, label, accepted, image in zip(
                self.names, self.label.tolist(), self.accepted.tolist(), self.image, strict=True
            )
        ]


def update(settings: Settings) -> Work[Update]:
    """Teach the gate what reviewers rejected, in a folder of its own that is written whole.

    Raises:
        ReviewError: there are too few reviews or no new ones.
        SettingsError: a setting would have no effect.
        ModelError: a model that it needs is missing.
    """
    store = ReviewStore(settings.run.dir / STORE)
    before = newest_update(settings)
    folder = update_folder(settings, before + 1)
    generator = load_generator(model_path(settings, "gan"), choose_device(settings.run))
    reviews = _reviews(settings, store, generator.net.classes, before)
    seed = seed_of(settings.run.seed, "update", before + 1)
    known = _calibration(settings)
    learned: LearnedHead | LearnedPart
    with whole_folder(folder, OutputError(f"{folder} exists already")) as building:
        gan = generator.gan
        if known.fitted is not None:
            learned = _teach(
                settings, building, gan, reviews, known, fitted=known.fitted, seed=seed
            )
        elif gan.condition.pixelwise:
            learned = _of_masks(settings, building, gan, reviews, known, seed=seed)
        else:
            learned = yield from _make(settings, building, gan, reviews, known, seed=seed)
        RunFolder(building, settings)
        report = {
            "update": before + 1,
            **learned.to_json(),
            "reviewed": sorted(reviews.names),
            "rounds": {str(k): v for k, v in round_reports(store).items()},
        }
        write_json(building / "report.json", report)
        write_update_page(
            building,
            answer=learned.answer,
            report=report,
            tested={
                "Generator's SHA-256": generator.sha256,
                "Generator learned from": generator.attribution,
                "Reviewed tiles": f"{len(reviews.names):,}",
            },
            tiles=reviews.tiles(generator.net.classes),
            bands=generator.net.bands,
        )
    return Update(number=before + 1, folder=folder, learned=learned)


def _calibration(settings: Settings) -> Calibration:
    """Return what the gate in use knows."""
    return load_calibration(model_path(settings, "calibration"), checksums(_paths(settings)))


def _paths(settings: Settings) -> dict[str, Path]:
    """Return where the models are that a gate is calibrated for."""
    paths = {name: model_path(settings, name) for name in ("gan", "critic", "extractor")}
    if draws_masks(paths["gan"]):
        del paths["extractor"]
    return paths


def _teach(
    settings: Settings,
    folder: Path,
    gan: GanModel,
    reviews: Reviews,
    known: Calibration,
    *,
    fitted: FittedGate,
    seed: int,
) -> LearnedPart:
    """Write calibration.safetensors of a fitted gate that was taught with the rejected tiles."""
    if settings.update.generator_images:
        raise SettingsError(
            "update.generator_images has no effect on a gate of gate.recipe=frozen",
            remedy="set update.generator_images=0, or train the gate with gate.recipe=native",
        )
    device = choose_device(settings.run)
    specs = {part.view: fitted.views[part.view] for part in fitted.stages[0].parts}
    seen = {
        name: torch.cat([view(part.to(device)) for part in torch.split(reviews.image, 32)])
        for name, view in views_of(specs, gan.generator.bands, device).items()
    }
    taught = teach_gate(
        fitted,
        Kind(
            seen={name: features[~reviews.accepted] for name, features in seen.items()},
            labels=reviews.label[~reviews.accepted],
        ),
        {name: features[reviews.accepted] for name, features in seen.items()},
        false_rejection=settings.search.false_rejection,
        seed=seed,
    )
    after = replace(known, fitted=taught.gate)
    after.save(folder / "calibration.safetensors")
    return LearnedPart(
        rejected=taught.rejected,
        accepted=taught.accepted,
        dropped=taught.dropped,
        held_out_real_tiles=len(taught.gate.stages[0].reference),
        gate=Gates(
            before=known.describe(settings.search.false_rejection),
            after=after.describe(settings.search.false_rejection),
        ),
    )


def _reviews(
    settings: Settings, store: ReviewStore, classes: tuple[str, ...], before: int
) -> Reviews:
    """Read the reviewed tiles from the run's folders, and check that there are new ones.

    Args:
        settings: of the run.
        store: of its reviews.
        classes: of the generator.
        before: number of the newest update.

    Raises:
        ReviewError: nothing was reviewed, or nothing since the last update; a tile is missing
            or was edited, or is of a class that the generator lacks.
    """
    judged: dict[str, Judged] = {}
    for samples in judged_samples(store, store.opinions()).values():
        for sample in samples:
            if sample.sent.origin != "real" and sample.verdict.decision in ("accept", "reject"):
                judged[sample.sent.sample_id] = sample
    if not judged:
        raise ReviewError(
            "no generated sample was accepted or rejected yet",
            remedy="review a package in QGIS and import it",
            command="status",
        )
    if before:
        report = update_folder(settings, before) / "report.json"
        known = set(json.loads(report.read_text(encoding="utf-8"))["reviewed"])
        if set(judged) <= known:
            raise ReviewError(
                f"no sample was reviewed since update {before}",
                remedy="review another package in QGIS and import it",
                command="status",
            )
    images, chosen = [], sorted(judged)
    for name in chosen:
        path = settings.run.dir / judged[name].sent.tile
        tile = read_tile(path)
        if sha256_of(path) != judged[name].sent.sha256:
            raise ReviewError(f"{path} was edited since it was exported", remedy="restore it")
        images.append(reflectance_of(tile.pixels))
    conditions = vocabulary(
        "the reviewed samples", [judged[name].sent.condition for name in chosen], error=ReviewError
    )
    places = require(
        conditions,
        class_list("the generator", classes, error=ReviewError),
        remedy="update with the generator that drew them",
        error=ReviewError,
    )
    label = dict(zip(conditions.names, places, strict=True))
    return Reviews(
        names=tuple(chosen),
        image=torch.stack(images),
        label=torch.tensor(
            [label[str(class_name(judged[name].sent.condition))] for name in chosen]
        ),
        accepted=torch.tensor([judged[name].verdict.decision == "accept" for name in chosen]),
    )


def _make(
    settings: Settings,
    folder: Path,
    gan: GanModel,
    reviews: Reviews,
    known: Calibration,
    *,
    seed: int,
) -> Work[LearnedHead]:
    """Write critic.safetensors, calibration.safetensors and, on request, gan.safetensors."""
    device, paths = choose_device(settings.run), _paths(settings)
    drawing = gan.class_generator
    critic = load_critic(paths["critic"], TileClasses(names=drawing.classes), device)
    train, val = open_like(settings, drawing)
    refined = int((~reviews.accepted).sum()) >= settings.update.refine_from
    if settings.update.generator_images:
        opponent, generator = gan.critic, gan.generator
        if not isinstance(opponent, RealismCritic) or not isinstance(generator, Generator):
            raise SettingsError(
                "update.generator_images is set, but this generator was trained with "
                "gan.recipe=frozen",
                expected="a generator of gan.recipe=native to be trained on",
                remedy="set update.generator_images=0",
            )
        if refined:
            opponent = yield from _refine(settings, opponent, drawing, train, reviews, seed=seed)
        paths["gan"] = folder / "gan.safetensors"
        yield from _tune_generator(
            settings, generator, gan.header, opponent, (train, val), path=paths["gan"]
        )
        gan = load_model(paths["gan"], device)
        drawing = gan.class_generator
        # Not the one that the generator has just learned to please.
        critic = yield from train_critic(settings, drawing, train, device, lambda record: None)
    if refined:
        critic = yield from _refine(settings, critic, drawing, train, reviews, seed=seed)
    paths["critic"] = folder / "critic.safetensors"
    save_critic(paths["critic"], critic)
    extractor = load_trained(paths["extractor"], device, kind="classifier")
    return _with_head(
        settings,
        folder,
        reviews,
        known,
        critics=(critic, gan.critic),
        features=features_in(extractor, drawing.bands),
        tiles=(train, val),
        models=checksums(paths),
        refined=refined,
        seed=seed,
    )


def _of_masks(
    settings: Settings,
    folder: Path,
    gan: GanModel,
    reviews: Reviews,
    known: Calibration,
    *,
    seed: int,
) -> LearnedHead:
    """Write calibration.safetensors with a head; critic and generator stay as they are."""
    if settings.update.generator_images:
        raise SettingsError(
            "update.generator_images has no effect on a generator of tiles with masks",
            remedy="set update.generator_images=0",
        )
    device, paths = choose_device(settings.run), _paths(settings)
    generator, opponent = gan.masked
    critic = load_critic(paths["critic"], generator.bank, device)
    train, val = (open_like_masks(settings, generator, split) for split in ("train", "val"))
    held_out = bank_of(val)
    return _with_head(
        settings,
        folder,
        reviews,
        known,
        critics=(critic.on(held_out), opponent.on(held_out)),
        features=features_in(critic, generator.bands),
        tiles=(by_mask(train), by_mask(val)),
        models=checksums(paths),
        refined=False,
        seed=seed,
    )


def _with_head(
    settings: Settings,
    folder: Path,
    reviews: Reviews,
    known: Calibration,
    *,
    critics: tuple[Critic, Critic],
    features: Features,
    tiles: tuple[TileSource, TileSource],
    models: Mapping[str, str],
    refined: bool,
    seed: int,
) -> LearnedHead:
    """Fit a head on the critic's features and write calibration.safetensors with it.

    Args:
        settings: of the run.
        folder: of the update.
        reviews: to learn from.
        known: the calibration so far; features of the training tiles are as there, because the
            extractor has not changed.
        critics: the gate's, and that of the search's energy.
        features: of the extractor.
        tiles: of training, and held-out ones.
        models: checksums of what is calibrated, by name.
        refined: whether the critic was trained on.
        seed: of the folds.
    """
    device = choose_device(settings.run)
    fitted = fit_head(
        reviews.image, lambda image: critics[0].features(image.to(device)), reviews.accepted, seed
    )
    calibration = calibrate(
        *critics,
        features,
        *tiles,
        bank=known.bank,
        seed=settings.run.seed,
        models=models,
        device=device,
        head=fitted.head,
    )
    calibration.save(folder / "calibration.safetensors")
    gates = [own.describe(settings.search.false_rejection) for own in (known, calibration)]
    return LearnedHead(
        auc=fitted.auc,
        accepted=fitted.accepted,
        rejected=fitted.rejected,
        critic_refined=refined,
        generator_images=settings.update.generator_images,
        held_out_real_tiles=len(calibration.reference),
        gate=Gates(before=gates[0], after=gates[1]),
    )


def _refine(
    settings: Settings,
    critic: RealismCritic,
    generator: ClassGenerator,
    train: MemorySource,
    reviews: Reviews,
    *,
    seed: int,
) -> Work[RealismCritic]:
    """Train the critic's last stage on with the rejected tiles, and calibrate its realism."""
    section, judge = settings.update, critic.discriminator
    rejected = ~reviews.accepted
    augment = augmentations_at(settings.augment)(settings.augment.probability)
    for record in refine_critic(
        critic,
        generator,
        train,
        reviews.image[rejected],
        reviews.label[rejected],
        section,
        augment,
        seed,
    ):
        judge = record.average
        done = min(record.images, section.images)
        text = f"loss {record.loss:.2f}"
        yield Step(title="refining the critic", done=done, total=section.images, text=text)
    return fit_realism(judge, generator, train, settings.run.seed)


def _tune_generator(
    settings: Settings,
    generator: Generator,
    header: Mapping[str, Any],
    opponent: RealismCritic,
    tiles: tuple[TileSource, TileSource],
    *,
    path: Path,
) -> Work[None]:
    """Train the generator on against a critic that knows the rejected tiles, and write it."""
    train, val = tiles
    before = GanSettings.model_validate(header["settings"])
    section = before.model_copy(
        update={
            "images": settings.update.generator_images,
            # It goes on where the cosine of the first training ended.
            "learning_rate": before.learning_rate * before.final_rate,
            "blend_images": 0,
            "reconstruction": 0.0,
            "precision": settings.gan.precision,
        }
    )
    training = GanTraining(
        section,
        train,
        augment_at=augmentations_at(settings.augment),
        strength=settings.augment.probability,
        seed=settings.run.seed,
        device=choose_device(settings.run),
        val=val,
    )
    training.adopt(generator, opponent.discriminator)
    for record in gan_steps(training):
        yield Step(
            title="training the generator on",
            done=min(record.images, section.images),
            total=section.images,
            text=f"loss {record.critic_loss:.2f} / {record.generator_loss:.2f}",
        )
    critic = fit_realism(training.discriminator, training.average, train, settings.run.seed)
    training.images += header["images"]
    save_model(path, training, critic, attribution=header["attribution"])
