"""Everything that a search reads, loaded and fitted together. Imports torch: import it late."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rs_lowconf.cli.device import choose_device
from rs_lowconf.data.source import MemorySource, open_split
from rs_lowconf.errors import ModelError, SettingsError
from rs_lowconf.gan.critic import RealismCritic
from rs_lowconf.gan.model import GanModel, load_critic, load_model
from rs_lowconf.runs import sha256_of
from rs_lowconf.search.archive import Looks, learn_looks
from rs_lowconf.search.evaluate import Evaluator
from rs_lowconf.search.gate import Gate, calibrate_gate, scores_one_by_one
from rs_lowconf.search.neighbours import features_of
from rs_lowconf.search.parts import Likeness, Spectra
from rs_lowconf.search.prior import PriorShell
from rs_lowconf.settings import Settings
from rs_lowconf.target.classifier import Classifier, load_classifier
from rs_lowconf.target.load import check_fit, load_target
from rs_lowconf.types import TargetModel

#: Parts of the gate that other stages look up by name.
CRITIC, LIKENESS = "critic", "likeness"


@dataclass(frozen=True, kw_only=True, eq=False)
class Models:
    """Everything that the search reads."""

    gan: GanModel
    target: TargetModel
    extractor: Classifier
    train: MemorySource
    evaluator: Evaluator
    shell: PriorShell
    looks: Looks
    per_condition: int
    """Most samples of one condition."""
    bank: Float[Tensor, "n f"]
    """Features of the training tiles, a row each."""
    tau: float
    """Confidence below which a tile counts as hard."""
    labels: tuple[int, ...]
    """Class indices of the conditions to search."""
    fingerprint: dict[str, Any]
    """What the results depend on, so that an interrupted search is not mixed with another."""
    device: torch.device


def load_models(settings: Settings, *, trust_code: bool) -> Models:
    """Load models and tiles, check that they fit each other, and calibrate the gate.

    Raises:
        SettingsError: a class is unknown, or the target gives no gradients.
        DataError: tiles cannot be used, or are too few to calibrate the gate.
        ModelError: a model is missing, damaged, or does not fit the others or the data.
    """
    own = settings.search
    device = choose_device(settings.run)
    paths = {
        part: settings.run.dir / part / f"{part}.safetensors"
        for part in ("gan", "critic", "extractor", "target")
    }
    gan = load_model(paths["gan"], device)
    generator = gan.generator
    labels = _labels(own.classes, generator.classes)
    critic = _critic(paths["critic"], gan, device)
    extractor = load_classifier(paths["extractor"], device)
    extractor_channels = list(check_fit(extractor.bands, generator.bands, model="extractor"))
    target = load_target(
        settings.target,
        paths["target"],
        trust_code=trust_code,
        tile_size=generator.tile_size,
        device=device,
    )
    target_channels = check_fit(target.bands, generator.bands)
    if not target.differentiable:
        raise SettingsError(
            "the target gives no gradients, which this search needs",
            remedy="export it with gradients, or test a differentiable version of it",
        )
    train, val = open_split(settings.data, "train"), open_split(settings.data, "val")
    channels = check_fit(generator.bands, train.bands, model="generator")
    if settings.data.tile_size != generator.tile_size:
        raise ModelError(
            f"the generator draws tiles of {generator.tile_size} pixels, the data have "
            f"{settings.data.tile_size}",
            remedy="set data.tile_size, or train the GAN on these data",
        )

    @torch.no_grad()
    def features(image: Tensor) -> Tensor:
        return extractor.features(image[:, extractor_channels])

    bank = features_of(extractor, train, device)
    gate = _gate(settings, critic, features, bank, (train, val), channels, device)
    floor = scores_one_by_one(
        {"energy": gan.critic.realism},
        val,
        channels=channels,
        classes=generator.classes,
        device=device,
    ).quantile(own.false_rejection)
    evaluator = Evaluator(
        generator,
        target,
        gan.critic,
        gate,
        features=features,
        target_channels=target_channels,
        realism_floor=float(floor),
        realism_weight=own.realism_weight,
        micro_batch=own.micro_batch,
        device=device,
    )
    per_condition = own.per_condition or math.ceil(1.25 * own.count / len(labels))
    tau = own.tau if own.tau_quantile is None else _tau(target, val, own.tau_quantile)
    target.evaluations = 0
    likeness = gate.reference[:, list(gate.parts).index(LIKENESS)]
    return Models(
        gan=gan,
        target=target,
        extractor=extractor,
        train=train,
        evaluator=evaluator,
        shell=PriorShell(generator.latent_parts, own.prior_tail),
        looks=learn_looks(
            bank,
            (-likeness).exp(),
            novelty_quantile=own.novelty_quantile,
            clusters=own.clusters,
            seed=settings.run.seed,
        ),
        per_condition=per_condition,
        bank=bank,
        tau=tau,
        labels=labels,
        fingerprint={
            **_fingerprint(settings, paths, (train, val)),
            "search.per_condition": per_condition,
        },
        device=device,
    )


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
            f"the critic {path} was trained for another generator", remedy="run rslow train critic"
        )
    return critic


def _gate(  # noqa: PLR0917  # settings, looks, tiles, place
    settings: Settings,
    critic: RealismCritic,
    features: Callable[[Tensor], Tensor],
    bank: Float[Tensor, "n f"],
    splits: tuple[MemorySource, MemorySource],
    channels: tuple[int, ...],
    device: torch.device,
) -> Gate:
    train, val = splits
    return calibrate_gate(
        {
            CRITIC: critic.realism,
            LIKENESS: Likeness(features, bank),
            "spectra": Spectra(train, channels, settings.run.seed),
        },
        val,
        channels=channels,
        classes=critic.classes,
        false_rejection=settings.search.false_rejection,
        device=device,
    )


@torch.no_grad()
def _tau(target: TargetModel, val: MemorySource, quantile: float) -> float:
    """Return a quantile of the target's confidence on held-out real tiles."""
    channels = list(val.bands.index_of(target.bands.names))
    parts = [target.predict(val.batch([i]).image[:, channels]).cpu() for i in range(len(val))]
    return float(torch.cat(parts).amax(1).exp().quantile(quantile))


def _fingerprint(
    settings: Settings, paths: dict[str, Path], splits: tuple[MemorySource, MemorySource]
) -> dict[str, Any]:
    """Return what a search depends on, so that it is not continued with something else."""
    limits = {"count", "max_evaluations", "max_minutes", "slots", "baseline_evaluations"}
    foreign = settings.target.path
    target_file = paths["target"] if settings.target.kind == "trained" else foreign
    return {
        "run.seed": settings.run.seed,
        "search settings": settings.search.model_dump(mode="json", exclude=limits),
        "target settings": settings.target.model_dump(mode="json"),
        "target file": None if target_file is None else sha256_of(target_file),
        "GAN file": sha256_of(paths["gan"]),
        "critic file": sha256_of(paths["critic"]),
        "extractor file": sha256_of(paths["extractor"]),
        "tiles": [len(split) for split in splits],
        "bands": list(splits[0].bands.names),
    }
