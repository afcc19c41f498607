"""`rslow update`: what reviewers said changes the gate, and on request the generator."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rs_lowconf.cli.app import ConfigOption, SetOption, app, load_settings
from rs_lowconf.cli.hints import hint
from rs_lowconf.cli.progress import progress
from rs_lowconf.errors import OutputError, ReviewError, SettingsError
from rs_lowconf.settings import Settings
from rs_lowconf.vocabulary import class_list, class_name, require, vocabulary

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from jaxtyping import Bool, Float, Int

    from rs_lowconf.data.memory import MemorySource
    from rs_lowconf.gan.critic import RealismCritic
    from rs_lowconf.gan.model import GanModel
    from rs_lowconf.gan.networks import Generator
    from rs_lowconf.gan.pyramid import ClassGenerator
    from rs_lowconf.review.rounds import Judged
    from rs_lowconf.review.store import ReviewStore
    from rs_lowconf.search.calibration import Calibration


@app.command()
def update(config: ConfigOption = None, set_: SetOption = None) -> None:
    """Teach the gate what reviewers rejected; the next `rslow generate` uses the new gate.

    From 10 rejects on, what tells them from real tiles becomes a part of the gate, which is
    calibrated again to the same joint false rejection. A gate of gate.recipe=frozen holds what
    this takes. One of gate.recipe=native needs 10 accepts too, and the data that it was trained
    on; from update.refine_from rejects the last stage of its critic is trained on with them as
    fakes. Writes run.dir/update-N, whole or not at all, with report.json.
    """
    settings = load_settings(config, set_)
    from rs_lowconf.cli.review import refuse_masks, store_of
    from rs_lowconf.device import choose_device
    from rs_lowconf.folders import whole_folder
    from rs_lowconf.gan.model import load_model
    from rs_lowconf.places import model_path, newest_update, update_folder
    from rs_lowconf.review.rounds import round_reports
    from rs_lowconf.runs import RunFolder, write_json
    from rs_lowconf.seeds import seed_of

    store = store_of(settings)
    refuse_masks(store, "an update")
    before = newest_update(settings)
    folder = update_folder(settings, before + 1)
    gan = load_model(model_path(settings, "gan"), choose_device(settings.run))
    reviews = _reviews(settings, store, gan.generator.classes, before)
    seed = seed_of(settings.run.seed, "update", before + 1)
    known = _calibration(settings)
    with whole_folder(folder, OutputError(f"{folder} exists already")) as building:
        if known.fitted is None:
            made = _make(settings, building, gan, reviews, seed=seed)
        else:
            made = _teach(settings, building, gan, reviews, known, seed=seed)
        RunFolder(building, settings)
        write_json(
            building / "report.json",
            {
                "update": before + 1,
                **made,
                "reviewed": sorted(reviews.names),
                "rounds": {str(k): v for k, v in round_reports(store).items()},
            },
        )
    if known.fitted is None:
        _say_head(before + 1, made, folder)
    else:
        _say_taught(before + 1, made, folder)
    hint("Next", "loop")


def _say_head(number: int, made: dict[str, Any], folder: Path) -> None:
    """Print what a head on the critic's features learned."""
    head = made["head"]
    print(
        f"update {number}: a head from {head['accepted']} accepted and {head['rejected']} "
        f"rejected samples, cross-validated AUC {head['auc']:.2f}; critic "
        f"{'refined' if made['critic_refined'] else 'as before'}, generator "
        f"{'trained on' if made['generator_images'] else 'as before'}; {folder}"
    )


def _say_taught(number: int, made: dict[str, Any], folder: Path) -> None:
    """Print what a fitted gate learned."""
    low, high = made["dropped"]["interval_95"]
    print(
        f"update {number}: a part of the gate from {made['rejected']} rejected and "
        f"{made['accepted']} accepted samples; cross-validated, it drops "
        f"{made['dropped']['value']:.0%} ({low:.0%} .. {high:.0%}) of what was rejected; {folder}"
    )


def _calibration(settings: Settings) -> "Calibration":
    """Return what the gate in use knows."""
    from rs_lowconf.models import checksums
    from rs_lowconf.places import model_path
    from rs_lowconf.search.calibration import load_calibration

    paths = {name: model_path(settings, name) for name in ("gan", "critic", "extractor")}
    return load_calibration(model_path(settings, "calibration"), checksums(paths))


def _teach(
    settings: Settings,
    folder: Path,
    gan: "GanModel",
    reviews: "Reviews",
    known: "Calibration",
    *,
    seed: int,
) -> dict[str, Any]:
    """Write calibration.safetensors of a fitted gate that was taught with the rejected tiles."""
    from dataclasses import replace

    import torch

    from rs_lowconf.device import choose_device
    from rs_lowconf.models import views_of
    from rs_lowconf.search.fitted import Kind
    from rs_lowconf.search.taught import teach_gate

    fitted = known.fitted
    assert fitted is not None  # noqa: S101  # the caller has looked
    if settings.update.generator_images:
        raise SettingsError(
            "update.generator_images has no effect on a gate of gate.recipe=frozen",
            remedy="set update.generator_images=0, or train the gate with gate.recipe=native",
        )
    device = choose_device(settings.run)
    specs = {own.view: fitted.views[own.view] for own in fitted.stages[0].parts}
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
    replace(known, fitted=taught.gate).save(folder / "calibration.safetensors")
    return {
        "rejected": taught.rejected,
        "accepted": taught.accepted,
        "dropped": taught.dropped,
        "held_out_real_tiles": len(taught.gate.stages[0].reference),
    }


@dataclass(frozen=True, kw_only=True, eq=False)
class Reviews:
    """Generated tiles that reviewers accepted or rejected."""

    names: tuple[str, ...]
    image: "Float[torch.Tensor, 'n c h w']"
    """Reflectance, in the generator's bands."""
    label: "Int[torch.Tensor, ' n']"
    """Class that each was generated for."""
    accepted: "Bool[torch.Tensor, ' n']"


def _reviews(
    settings: Settings, store: "ReviewStore", classes: tuple[str, ...], before: int
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
    import json

    import torch

    from rs_lowconf.places import update_folder
    from rs_lowconf.review.geotiff import DN_SCALE, read_tile
    from rs_lowconf.review.rounds import judged_samples
    from rs_lowconf.runs import sha256_of

    judged: dict[str, Judged] = {}
    for own in judged_samples(store, store.opinions()).values():
        for one in own:
            if one.sent.origin != "real" and one.verdict.decision in ("accept", "reject"):
                judged[one.sent.sample_id] = one
    if not judged:
        raise ReviewError(
            "no generated sample was accepted or rejected yet",
            remedy="review a package in QGIS and import it",
            command="loop",
        )
    if before:
        report = update_folder(settings, before) / "report.json"
        known = set(json.loads(report.read_text(encoding="utf-8"))["reviewed"])
        if set(judged) <= known:
            raise ReviewError(
                f"no sample was reviewed since update {before}",
                remedy="review another package in QGIS and import it",
                command="loop",
            )
    images, chosen = [], sorted(judged)
    for name in chosen:
        path = settings.run.dir / judged[name].sent.tile
        tile = read_tile(path)
        if sha256_of(path) != judged[name].sent.sha256:
            raise ReviewError(f"{path} was edited since it was exported", remedy="restore it")
        images.append(torch.from_numpy(tile.pixels.astype("float32")) / DN_SCALE)
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
    settings: Settings, folder: Path, gan: "GanModel", reviews: Reviews, *, seed: int
) -> dict[str, Any]:
    """Write critic.safetensors, calibration.safetensors and, on request, gan.safetensors."""
    from rs_lowconf.cli.train import gate_critic, gate_tiles
    from rs_lowconf.device import choose_device
    from rs_lowconf.gan.critic import RealismCritic
    from rs_lowconf.gan.model import load_critic, load_model, save_critic
    from rs_lowconf.gan.networks import Generator
    from rs_lowconf.models import checksums, features_in
    from rs_lowconf.places import model_path
    from rs_lowconf.search.calibration import calibrate, load_calibration
    from rs_lowconf.search.head import fit_head
    from rs_lowconf.target.classifier import load_classifier

    device = choose_device(settings.run)
    paths = {name: model_path(settings, name) for name in ("gan", "critic", "extractor")}
    critic = load_critic(paths["critic"], device)
    # Of the training tiles, which are the same: the extractor has not changed.
    bank = load_calibration(model_path(settings, "calibration"), checksums(paths)).bank
    train, val = gate_tiles(settings, gan.generator)
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
            opponent = _refine(settings, opponent, gan.generator, train, reviews, seed=seed)
        paths["gan"] = folder / "gan.safetensors"
        _tune_generator(settings, generator, gan.header, opponent, train, val, path=paths["gan"])
        gan = load_model(paths["gan"], device)
        # Not the one that the generator has just learned to please.
        critic = gate_critic(settings, gan.generator, train, device, lambda record: None)
    if refined:
        critic = _refine(settings, critic, gan.generator, train, reviews, seed=seed)
    paths["critic"] = folder / "critic.safetensors"
    save_critic(paths["critic"], critic)
    extractor = load_classifier(paths["extractor"], device)
    fitted = fit_head(
        reviews.image, lambda image: critic.features(image.to(device)), reviews.accepted, seed
    )
    calibration = calibrate(
        critic,
        gan.critic,
        features_in(extractor, gan.generator.bands),
        train,
        val,
        bank=bank,
        seed=settings.run.seed,
        models=checksums(paths),
        device=device,
        head=fitted.head,
    )
    calibration.save(folder / "calibration.safetensors")
    return {
        "head": {
            "auc": fitted.auc,
            "accepted": fitted.accepted,
            "rejected": fitted.rejected,
        },
        "critic_refined": refined,
        "generator_images": settings.update.generator_images,
        "held_out_real_tiles": len(calibration.reference),
    }


def _refine(
    settings: Settings,
    critic: "RealismCritic",
    generator: "ClassGenerator",
    train: "MemorySource",
    reviews: Reviews,
    *,
    seed: int,
) -> "RealismCritic":
    """Train the critic's last stage on with the rejected tiles, and calibrate its realism."""
    from rs_lowconf.data.augment import augmentations_at
    from rs_lowconf.gan.critic import fit_realism
    from rs_lowconf.gan.refine import refine_critic

    own, judge = settings.update, critic.discriminator
    rejected = ~reviews.accepted
    augment = augmentations_at(settings.augment)(settings.augment.probability)
    with progress("refining the critic", own.images) as bar:
        for record in refine_critic(
            critic,
            generator,
            train,
            reviews.image[rejected],
            reviews.label[rejected],
            own,
            augment,
            seed,
        ):
            judge = record.average
            bar.update(min(record.images, own.images), f"loss {record.loss:.2f}")
    return fit_realism(judge, generator, train, settings.run.seed)


def _tune_generator(  # noqa: PLR0917 - settings, models, tiles: the order of the work
    settings: Settings,
    generator: "Generator",
    header: "Mapping[str, Any]",
    opponent: "RealismCritic",
    train: "MemorySource",
    val: "MemorySource",
    *,
    path: Path,
) -> None:
    """Train the generator on against a critic that knows the rejected tiles, and write it."""
    from rs_lowconf.data.augment import augmentations_at
    from rs_lowconf.device import choose_device
    from rs_lowconf.gan.critic import fit_realism
    from rs_lowconf.gan.model import save_model
    from rs_lowconf.gan.train import GanTraining
    from rs_lowconf.gan.train import train as train_gan
    from rs_lowconf.settings import GanSettings

    before = GanSettings.model_validate(header["settings"])
    own = before.model_copy(
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
        own,
        train,
        augment_at=augmentations_at(settings.augment),
        strength=settings.augment.probability,
        seed=settings.run.seed,
        device=choose_device(settings.run),
        val=val,
    )
    training.adopt(generator, opponent.discriminator)
    with progress("training the generator on", own.images) as bar:
        for record in train_gan(training):
            bar.update(
                min(record.images, own.images),
                f"loss {record.critic_loss:.2f} / {record.generator_loss:.2f}",
            )
    critic = fit_realism(training.discriminator, training.average, train, settings.run.seed)
    training.images += header["images"]
    save_model(path, training, critic, attribution=header["attribution"])
