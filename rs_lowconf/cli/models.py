"""Everything that a search reads, loaded and fitted together. Imports torch: import it late."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from rs_lowconf.bands import BandSpec
from rs_lowconf.cli.device import choose_device
from rs_lowconf.data.source import MemorySource, open_split
from rs_lowconf.errors import ModelError, SettingsError
from rs_lowconf.gan.critic import RealismCritic
from rs_lowconf.gan.model import GanModel, load_critic, load_model
from rs_lowconf.gan.networks import Generator
from rs_lowconf.runs import sha256_of
from rs_lowconf.search.archive import Looks, learn_looks
from rs_lowconf.search.calibration import LIKENESS, Features, load_calibration
from rs_lowconf.search.evaluate import Evaluator
from rs_lowconf.search.prior import PriorShell
from rs_lowconf.search.reading import Reading
from rs_lowconf.settings import SearchSettings, Settings
from rs_lowconf.target.classifier import Classifier, load_classifier
from rs_lowconf.target.load import check_fit, load_target
from rs_lowconf.target.origin import target_file
from rs_lowconf.types import TargetModel

Method = Literal["gradient", "student", "splitting"]

EMBEDDED = Path(__file__).parents[1] / "embedded"
"""Models inside the package, laid out like a run folder."""


def model_path(settings: Settings, name: str) -> Path:
    """Return where a model is read from: `gan`, `critic`, `calibration`, `extractor`, `target`."""
    stage = "gate" if name in ("critic", "calibration") else name
    if name in ("gan", "critic", "calibration"):
        for number in reversed(range(1, update_of(settings) + 1)):
            path = update_folder(settings, number) / f"{name}.safetensors"
            if path.exists():
                return path
    kind = settings.target.kind if name == "target" else settings.run.models
    folder = EMBEDDED if kind == "embedded" else settings.run.dir
    return folder / stage / f"{name}.safetensors"


def update_folder(settings: Settings, number: int) -> Path:
    """Return where the models that reviews led to are, from number 1 on."""
    return settings.run.dir / f"update-{number}"


def newest_update(settings: Settings) -> int:
    """Return the number of the newest update, 0 without any."""
    newest = 0
    while update_folder(settings, newest + 1).exists():
        newest += 1
    return newest


def update_of(settings: Settings) -> int:
    """Return the number of the update to use, 0 for none.

    Raises:
        ModelError: there is no such update.
    """
    newest = newest_update(settings)
    wanted = settings.search.update
    if wanted is not None and wanted > newest:
        raise ModelError(
            f"there is no {update_folder(settings, wanted)}",
            expected=f"search.update from 0 to {newest}",
            remedy="run rslow update",
        )
    return newest if wanted is None else wanted


@dataclass(frozen=True, kw_only=True, eq=False)
class Models:
    """Everything that the search reads."""

    gan: GanModel
    target: TargetModel
    extractor: Classifier
    real: MemorySource | None
    """Real tiles to show beside generated ones; None where there are no data."""
    evaluator: Evaluator
    shell: PriorShell
    looks: Looks
    per_condition: int
    """Most samples of one condition."""
    method: Method
    """How to search, where the settings leave it to the target."""
    tau: float
    """Confidence below which a tile counts as hard."""
    labels: tuple[int, ...]
    """Class indices of the conditions to search."""
    round: int
    """The round of reviews that a search belongs to."""
    fingerprint: dict[str, Any]
    """What the results depend on, so that an interrupted search is not mixed with another."""
    device: torch.device


def load_models(settings: Settings, *, trust_code: bool) -> Models:
    """Load models and tiles, and check that they fit each other.

    Raises:
        SettingsError: a class is unknown, or the target gives no gradients where they are
            asked for.
        DataError: tiles cannot be used, or too few were held out to calibrate the gate.
        ModelError: a model is missing, damaged, or does not fit the others or the data.
    """
    own = settings.search
    device = choose_device(settings.run)
    paths = {
        name: model_path(settings, name)
        for name in ("gan", "critic", "calibration", "extractor", "target")
    }
    gan = load_model(paths["gan"], device)
    generator = gan.generator
    labels = _labels(own.classes, generator.classes)
    critic = _critic(paths["critic"], gan, device)
    extractor = load_classifier(paths["extractor"], device)
    features = features_in(extractor, generator.bands)
    target = load_target(
        settings.target,
        paths["target"],
        trust_code=trust_code,
        tile_size=generator.tile_size,
        device=device,
    )
    target_channels = check_fit(target.bands, generator.bands)
    method = method_of(own, differentiable=target.differentiable)
    known = checksums(paths)
    calibration = load_calibration(paths["calibration"], known)
    gate = calibration.gate(critic, features, own.false_rejection)
    real = _real_tiles(settings, generator)
    reading = Reading(share=own.pixel_share)
    evaluator = Evaluator(
        generator,
        target,
        gate,
        penalties=calibration.penalties(
            gan.critic,
            realism_weight=own.realism_weight,
            spectra_weight=own.spectra_weight,
            share=own.false_rejection,
        ),
        reading=reading,
        features=features,
        target_channels=target_channels,
        micro_batch=own.micro_batch,
        device=device,
    )
    per_condition = own.per_condition or math.ceil(1.25 * own.count / len(labels))
    tau = own.tau if own.tau_quantile is None else _tau(settings, target, reading, own.tau_quantile)
    target.evaluations = 0
    likeness = calibration.reference[:, list(gate.parts).index(LIKENESS)]
    return Models(
        gan=gan,
        target=target,
        extractor=extractor,
        real=real,
        evaluator=evaluator,
        shell=PriorShell(generator.latent_parts, own.prior_tail),
        looks=learn_looks(
            calibration.bank[0],
            (-likeness).exp(),
            novelty_quantile=own.novelty_quantile,
            clusters=own.clusters,
            seed=settings.run.seed,
        ),
        per_condition=per_condition,
        method=method,
        tau=tau,
        labels=labels,
        round=settings.review.round or update_of(settings) + 1,
        fingerprint={
            **_fingerprint(settings, paths, known),
            "search.per_condition": per_condition,
            "audit": audits(settings),
            "round": settings.review.round or update_of(settings) + 1,
        },
        device=device,
    )


def audits(settings: Settings) -> bool:
    """Return whether tiles that the gate rejects are kept, to be shown to reviewers."""
    return settings.review.label == "blind" and settings.review.audit_share > 0


def checksums(paths: Mapping[str, Path]) -> dict[str, str]:
    """Return the checksums by which a calibration knows its models again."""
    return {name: sha256_of(paths[name]) for name in ("gan", "critic", "extractor")}


def features_in(extractor: Classifier, bands: BandSpec) -> Features:
    """Return the extractor's features of tiles with the channels of `bands`.

    Raises:
        ModelError: the extractor reads other bands.
    """
    channels = list(check_fit(extractor.bands, bands, model="extractor"))
    return lambda image: extractor.features(image[:, channels])


def _real_tiles(settings: Settings, generator: Generator) -> MemorySource | None:
    """Return the tiles to show beside generated ones, if there are data."""
    if settings.data.kind == "none":
        return None
    train = open_split(settings.data, "train")
    check_fit(generator.bands, train.bands, model="generator")
    check_tile_size(settings, generator)
    return train


def check_tile_size(settings: Settings, generator: Generator) -> None:
    """Refuse data whose tiles are not of the generator's size.

    Raises:
        ModelError: the sizes differ.
    """
    if settings.data.tile_size != generator.tile_size:
        raise ModelError(
            f"the generator draws tiles of {generator.tile_size} pixels, the data have "
            f"{settings.data.tile_size}",
            remedy="set data.tile_size, or train the GAN on these data",
        )


def method_of(settings: SearchSettings, *, differentiable: bool) -> Method:
    """Return how to search a target.

    Raises:
        SettingsError: the settings ask for what the target or the mode cannot do.
    """
    if settings.method == "auto":
        if differentiable:
            return "gradient"
        return "splitting" if settings.mode == "sample" else "student"
    if settings.method == "gradient" and not differentiable:
        raise SettingsError(
            "the target gives no gradients, which search.method=gradient needs",
            remedy="leave search.method at auto, or set student or splitting",
        )
    if settings.method == "student" and settings.mode == "sample":
        raise SettingsError(
            "search.mode=sample does not go with search.method=student, whose confidence is a "
            "guess",
            remedy="set search.method=splitting",
        )
    return settings.method


def _labels(wanted: tuple[str, ...] | None, classes: tuple[str, ...]) -> tuple[int, ...]:
    unknown = [name for name in wanted or () if name not in classes]
    if unknown or wanted == ():
        raise SettingsError(
            f"search.classes names {', '.join(unknown) or 'none'}",
            expected=f"some of the generator's {', '.join(classes)}",
        )
    return tuple(classes.index(name) for name in wanted or classes)


def _critic(path: Path, gan: GanModel, device: torch.device) -> RealismCritic:
    critic = load_critic(path, device)
    generator = gan.generator
    if (critic.bands, critic.classes) != (generator.bands, generator.classes):
        raise ModelError(
            f"the critic {path} was trained for another generator", remedy="run rslow train gate"
        )
    return critic


@torch.no_grad()
def _tau(settings: Settings, target: TargetModel, reading: Reading, quantile: float) -> float:
    """Return a quantile of the target's confidence on held-out real tiles."""
    val = open_split(settings.data, "val")
    channels = list(check_fit(target.bands, val.bands))
    confidence = [
        reading(target.predict(val.batch([i]).image[:, channels]), val.labels[[i]]).confidence
        for i in range(len(val))
    ]
    return float(torch.cat(confidence).cpu().quantile(quantile))


def _fingerprint(
    settings: Settings, paths: Mapping[str, Path], known: Mapping[str, str]
) -> dict[str, Any]:
    """Return what a search depends on, so that it is not continued with something else."""
    # Models are known by their checksums, not by the number of their update.
    free = {"count", "max_evaluations", "max_minutes", "slots", "baseline_evaluations", "update"}
    own = settings.target.kind in ("embedded", "trained")
    if own:
        file: Path | None = paths["target"]
    else:
        file = None if settings.target.path is None else target_file(settings.target)
    return {
        "run.seed": settings.run.seed,
        "search settings": settings.search.model_dump(mode="json", exclude=free),
        "target settings": settings.target.model_dump(mode="json"),
        "target file": None if file is None else sha256_of(file),
        "GAN file": known["gan"],
        "critic file": known["critic"],
        "extractor file": known["extractor"],
        "calibration file": sha256_of(paths["calibration"]),
    }
