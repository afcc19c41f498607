"""Everything that a search reads, loaded and fitted together. Imports torch: import it late."""

import logging
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from rs_lowconf.bands import BandSpec
from rs_lowconf.class_map import ClassMap
from rs_lowconf.device import choose_device
from rs_lowconf.errors import AnswerError, ModelError, SettingsError, by_reason
from rs_lowconf.gan.condition import Condition, MaskBank, bank_of
from rs_lowconf.gan.critic import RealismCritic
from rs_lowconf.gan.encode import comparison_of, encoding
from rs_lowconf.gan.gate_views import FrozenView, ViewSpec
from rs_lowconf.gan.masks import MaskCritic, MaskedGenerator, by_mask
from rs_lowconf.gan.model import GanModel, draws_masks, load_critic, load_encoder, load_model
from rs_lowconf.places import model_path, update_of
from rs_lowconf.runs import sha256_of
from rs_lowconf.search.archive import Looks, learn_looks
from rs_lowconf.search.calibration import (
    Calibration,
    Features,
    critic_parts,
    load_calibration,
)
from rs_lowconf.search.distances import RealDistances, load_distances
from rs_lowconf.search.evaluate import Evaluator, Penalty
from rs_lowconf.search.gate import Gate
from rs_lowconf.search.invert import Inverter
from rs_lowconf.search.parts import pixel_features
from rs_lowconf.search.prior import PriorShell
from rs_lowconf.search.reading import Reading, regions_of
from rs_lowconf.seeds import seed_of
from rs_lowconf.settings import SearchSettings, Settings
from rs_lowconf.target.load import check_fit, load_target
from rs_lowconf.target.origin import Origin, origin_of
from rs_lowconf.target.trained import load_trained
from rs_lowconf.types import (
    Critic,
    FeatureExtractor,
    MaskSource,
    TargetModel,
    TileGenerator,
    TileSource,
)
from rs_lowconf.vocabulary import class_list, join, require

Method = Literal["gradient", "student", "splitting"]

log = logging.getLogger(__name__)

_NAMED = 12
"""Most conditions that a message lists."""


@dataclass(frozen=True, kw_only=True, eq=False)
class GeneratorModel:
    """A trained generator with what belongs to it."""

    gan: GanModel
    sha256: str
    """Of its file."""

    @property
    def net(self) -> TileGenerator:
        """Return what draws tiles of latents and conditions."""
        return self.gan.generator

    @property
    def condition(self) -> Condition:
        """Return what tiles are drawn of: classes, or masks."""
        return self.gan.condition

    @property
    def attribution(self) -> str:
        """Return whom the data that it learned from are owed to."""
        named: str = self.gan.header["attribution"]
        return named


@dataclass(frozen=True, kw_only=True, eq=False)
class GateModel:
    """What a gate is made of, and what the search knows of real tiles from it."""

    critic: RealismCritic | MaskCritic
    extractor: FeatureExtractor
    calibration: Calibration
    files: Mapping[str, str]
    """Checksums of the files of `critic`, `extractor` (unless the critic is it) and
    `calibration`."""

    def features(self, bands: BandSpec) -> Features:
        """Return the extractor's features of tiles with the channels of `bands`.

        Raises:
            ModelError: the extractor reads other bands.
        """
        return features_in(self.extractor, bands)

    def gate(self, bands: BandSpec, false_rejection: float, device: torch.device) -> Gate:
        """Return the gate of tiles with the channels of `bands`.

        Args:
            bands: the generator's.
            false_rejection: share of real tiles that all parts together may reject.
            device: where pretrained networks compute.

        Raises:
            ModelError: the extractor reads other bands.
            DataError: too few tiles were held out for a share so small.
        """
        fitted = self.calibration.fitted
        views = views_of({} if fitted is None else fitted.views, bands, device)
        return self.calibration.gate(self.critic, self.features(bands), false_rejection, views)


@dataclass(frozen=True, kw_only=True, eq=False)
class Models:
    """Everything that a search reads, fitted to each other."""

    generator: GeneratorModel
    gate: GateModel
    target: TargetModel
    target_origin: Origin
    class_map: ClassMap
    """Which classes of the target and the generator mean the same."""
    real: TileSource | None
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
    device = choose_device(settings.run)
    generator = load_generator(model_path(settings, "gan"), device)
    # Before the gate: without masks there may be none at all.
    real = _real_tiles(settings, generator)
    gate = load_gate(settings, generator, device)
    trained = model_path(settings, "target")
    target = load_target(
        settings.target,
        trained,
        trust_code=trust_code,
        tile_size=generator.net.tile_size,
        device=device,
    )
    about = settings.target.model_dump(mode="json", exclude={"class_map"})
    return fit_models(
        settings,
        generator,
        gate,
        target,
        origin=origin_of(settings.target, trained),
        known={"target settings": about},
        real=real,
        device=device,
    )


def fit_models(
    settings: Settings,
    generator: GeneratorModel,
    gate: GateModel,
    target: TargetModel,
    *,
    origin: Origin,
    known: Mapping[str, object],
    real: TileSource | None,
    device: torch.device,
) -> Models:
    """Check that models fit each other, and join them for a search.

    Args:
        settings: of the search, the run and the review.
        generator: draws the tiles.
        gate: judges them.
        target: the model under test.
        origin: of the target.
        known: what else tells the target from others, for the fingerprint.
        real: tiles to show beside generated ones.
        device: where the networks are.

    Raises:
        SettingsError: a class is unknown, or the target gives no gradients where they are
            asked for.
        DataError: too few tiles were held out to calibrate the gate.
        ModelError: a model does not fit the others.
    """
    own, condition, bands = settings.search, generator.condition, generator.net.bands
    target_channels = check_fit(target.bands, bands)
    class_map = settings.target.common_names
    _check_classes(generator, real, target, class_map)
    _check_tau(own, target)
    method = method_of(own, differentiable=target.differentiable)
    regions = None
    if condition.masks is not None:
        regions = regions_of(condition.masks, condition.classes, own.region)
        if not target.pixelwise:
            raise ModelError(
                "the generator is conditioned on masks, but the target predicts one class per tile",
                expected="a target that predicts one class per pixel",
            )
    elif own.region is not None:
        raise SettingsError(
            f"search.region={own.region} needs a generator conditioned on masks",
            remedy="leave it out",
        )
    labels = _labels(settings, generator.net.classes, regions)
    evaluator = Evaluator(
        generator.net,
        target,
        gate.gate(bands, own.false_rejection, device),
        penalties=_penalties(own, gate.calibration, generator.gan.critic, gate.critic),
        reading=Reading(share=own.pixel_share, regions=regions),
        features=gate.features(bands),
        target_channels=target_channels,
        micro_batch=own.micro_batch,
        device=device,
    )
    per_condition = own.per_condition or math.ceil(1.25 * own.count / len(labels))
    tau = own.tau if own.tau_quantile is None else _tau(settings, target, own.tau_quantile)
    number = settings.review.round or update_of(settings) + 1
    return Models(
        generator=generator,
        gate=gate,
        target=target,
        target_origin=origin,
        class_map=class_map,
        real=real,
        evaluator=evaluator,
        shell=PriorShell(generator.net.latent_parts, own.prior_tail),
        looks=learn_looks(
            gate.calibration.bank[0],
            gate.calibration.distances,
            novelty_quantile=own.novelty_quantile,
            clusters=own.clusters,
            seed=settings.run.seed,
        ),
        per_condition=per_condition,
        method=method,
        tau=tau,
        labels=labels,
        round=number,
        fingerprint={
            **_fingerprint(settings, generator, gate, origin),
            **known,
            "search.per_condition": per_condition,
            "audit": audits(settings),
            "round": number,
            # Populations that started by other rules are not continued by these.
            **({"rules of splitting": 2} if splits(own, method) else {}),
            # Pages and plots depend on it.
            **({"class map": dict(class_map.names)} if class_map.names else {}),
        },
        device=device,
    )


def load_generator(path: Path, device: torch.device) -> GeneratorModel:
    """Load a generator.

    Raises:
        ModelError: there is none, or it is damaged.
    """
    return GeneratorModel(gan=load_model(path, device), sha256=sha256_of(path))


def load_gate(settings: Settings, generator: GeneratorModel, device: torch.device) -> GateModel:
    """Load the gate of a generator, without target and data.

    Raises:
        ModelError: there is none, or it belongs to another generator.
    """
    # Of tiles with masks, the features of the critic say which look alike.
    names = ["critic", "calibration", *([] if generator.condition.pixelwise else ["extractor"])]
    paths = {name: model_path(settings, name) for name in names}
    critic = _critic(paths["critic"], generator, device)
    extractor: FeatureExtractor = critic
    if "extractor" in paths:
        extractor = load_trained(paths["extractor"], device, kind="classifier")
    known = checksums(paths)
    calibration = load_calibration(paths["calibration"], {"gan": generator.sha256, **known})
    return GateModel(
        critic=critic,
        extractor=extractor,
        calibration=calibration,
        files={**known, "calibration": sha256_of(paths["calibration"])},
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Inversions:
    """What the inversion of real tiles reads."""

    invert: Inverter
    distances: RealDistances
    features: Features


def load_inversions(settings: Settings, models: Models) -> Inversions:
    """Load what finds the latents of real tiles.

    Raises:
        ModelError: a model is missing, or belongs to another generator.
    """
    known = known_to_encoder(settings)
    encoder = load_encoder(model_path(settings, "encoder"), {"gan": known["gan"]}, models.device)
    unlike = comparison_of(models.generator.gan.critic)
    invert = Inverter(
        generator=models.generator.net,
        encode=encoding(encoder, unlike, models.shell.project),
        unlike=unlike,
        shell=models.shell,
        settings=settings.variants.inversion,
        micro_batch=settings.search.micro_batch,
        device=models.device,
    )
    return Inversions(
        invert=invert,
        distances=load_distances(model_path(settings, "distances"), known),
        features=features_in(models.gate.extractor, models.generator.net.bands),
    )


def known_to_encoder(settings: Settings) -> dict[str, str]:
    """Return the checksums of the generator and of whose features tell how alike tiles are."""
    masked = draws_masks(model_path(settings, "gan"))
    names = ("gan", "critic" if masked else "extractor")
    return {name: sha256_of(model_path(settings, name)) for name in names}


def check_same(
    bands: BandSpec, classes: tuple[str, ...], source: TileSource | MaskSource, *, setting: str
) -> None:
    """Refuse data whose bands or classes are not the generator's, in its order.

    Args:
        bands: the generator's.
        classes: the generator's, of tiles or of pixels.
        source: the data.
        setting: what chooses the data's classes.

    Raises:
        ModelError: they differ.
    """
    if (bands, classes) != (source.bands, source.classes):
        raise ModelError(
            "the generator has other bands or classes than the data, or in another order",
            expected=f"{', '.join(bands.names)} and {', '.join(classes)}",
            remedy=f"set data.bands and {setting} so",
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldOut:
    """Real tiles that no model was trained on, and what judges them."""

    source: TileSource
    evaluator: Evaluator
    condition: Condition
    """By which the evaluator knows the tiles."""


def held_out(settings: Settings, models: Models) -> list[HeldOut]:
    """Return the validation and test tiles, to be shown to reviewers among generated ones."""
    from rs_lowconf.data.files import Split
    from rs_lowconf.data.masks import open_masks
    from rs_lowconf.data.source import open_split

    def held(split: Split) -> HeldOut:
        condition = models.generator.condition
        if not condition.pixelwise:
            tiles = open_split(settings.data, split)
            return HeldOut(source=tiles, evaluator=models.evaluator, condition=condition)
        source = open_masks(settings.data, split)
        bank = bank_of(source)
        evaluator, _ = of_masks(settings.search, models, bank)
        return HeldOut(source=by_mask(source), evaluator=evaluator, condition=bank)

    return [held("val"), held("test")]


def of_masks(
    settings: SearchSettings, models: Models, bank: MaskBank
) -> tuple[Evaluator, MaskedGenerator]:
    """Return what draws and judges tiles of other masks than those stored with the generator.

    Args:
        settings: of the search.
        models: of tiles with masks.
        bank: the masks, of the same classes and size.
    """
    judge = models.gate.critic
    assert isinstance(judge, MaskCritic)  # noqa: S101  # of the generator's kind of condition
    critic = judge.on(bank)
    generator, energy = models.generator.gan.of_masks(bank)
    other = models.evaluator.of_masks(
        generator,
        gate=models.evaluator.gate.changed(critic_parts(critic).get),
        penalties=_penalties(settings, models.gate.calibration, energy, critic),
        regions=regions_of(bank.masks, bank.classes, settings.region),
    )
    return other, generator


def _penalties(
    settings: SearchSettings, calibration: Calibration, energy: Critic, critic: Critic
) -> tuple[Penalty, ...]:
    """Return what the energy adds to the target's confidence."""
    return calibration.penalties(
        energy,
        critic,
        realism_weight=settings.realism_weight,
        spectra_weight=settings.spectra_weight,
        review_weight=settings.review_weight,
        share=settings.false_rejection,
    )


def audits(settings: Settings) -> bool:
    """Return whether tiles that the gate rejects are kept, to be shown to reviewers."""
    return settings.review.mode == "blind" and settings.review.audit_share > 0


def checksums(paths: Mapping[str, Path]) -> dict[str, str]:
    """Return the checksums by which a calibration knows its models again."""
    names = [name for name in ("gan", "critic", "extractor") if name in paths]
    return {name: sha256_of(paths[name]) for name in names}


def features_in(extractor: FeatureExtractor, bands: BandSpec) -> Features:
    """Return the extractor's features of tiles with the channels of `bands`.

    Raises:
        ModelError: the extractor reads other bands.
    """
    channels = list(check_fit(extractor.bands, bands, model="extractor"))
    return lambda image: extractor.features(image[:, channels])


def views_of(
    specs: Mapping[str, dict[str, Any] | None], bands: BandSpec, device: torch.device
) -> dict[str, Features]:
    """Return the views by which the fitted parts of a gate see tiles.

    Args:
        specs: what each shows, see `ViewSpec`; None for spectra and texture.
        bands: of the tiles.
        device: where to compute.

    Raises:
        ModelError: the weights of a pretrained network are not installed.
    """
    return {
        name: pixel_features
        if spec is None
        else FrozenView(ViewSpec.from_json(spec), bands, device)
        for name, spec in specs.items()
    }


def _real_tiles(settings: Settings, generator: GeneratorModel) -> TileSource | None:
    """Return the tiles to show beside generated ones, if there are data."""
    if settings.data.kind == "none":
        return None
    from rs_lowconf.data.masks import open_masks
    from rs_lowconf.data.source import open_split

    masked = generator.condition.pixelwise
    if masked and not settings.data.masked:
        raise ModelError(
            "the generator is conditioned on masks, but the data have only tile labels",
            remedy="set data.kind to scenes or chips, or to none",
        )
    source: TileSource
    if masked:
        train = open_masks(settings.data, "train")
        bands, source = train.bands, by_mask(train)
    else:
        source = open_split(settings.data, "train")
        bands = source.bands
    check_fit(generator.net.bands, bands, model="generator")
    check_tile_size(settings, generator.net)
    return source


def check_tile_size(settings: Settings, generator: TileGenerator) -> None:
    """Refuse data whose tiles are not of the generator's size.

    Raises:
        ModelError: the sizes differ.
    """
    if settings.data.tile_size != generator.tile_size:
        raise ModelError(
            f"the generator draws tiles of {generator.tile_size} pixels, but data.tile_size is "
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
            "search.mode=sample cannot be combined with search.method=student, whose confidence "
            "is an estimate",
            remedy="set search.method=splitting",
        )
    return settings.method


def splits(settings: SearchSettings, method: Method) -> bool:
    """Return whether populations are searched: without gradients, or for a fair draw."""
    return method == "splitting" or settings.mode == "sample"


def _labels(
    settings: Settings, classes: tuple[str, ...], regions: Bool[Tensor, "n h w"] | None
) -> tuple[int, ...]:
    """Return the indices of the conditions to search."""
    own, wanted = settings.search, settings.search.conditions
    if regions is None and wanted is not None:
        require(
            class_list("search.conditions", wanted, error=SettingsError),
            class_list("the generator", classes, error=SettingsError),
            remedy="correct it",
            error=SettingsError,
        )
        wanted = class_list("search.conditions", wanted).names
    unknown = [name for name in wanted or () if name not in classes]
    if unknown or wanted == ():
        shown = ", ".join(classes[:_NAMED]) + (", ..." if len(classes) > _NAMED else "")
        raise SettingsError(
            f"search.conditions names {', '.join(unknown) or 'none'}",
            expected=f"some of the generator's {shown}",
        )
    labels = [classes.index(name) for name in wanted or classes]
    if regions is not None:
        labels = [label for label in labels if regions[label].any()]
        if not labels:
            raise SettingsError(
                f"no mask to search has a pixel of search.region={own.region}",
                remedy="choose another region or other search.conditions",
            )
    if own.most_conditions is not None and len(labels) > own.most_conditions:
        dice = torch.Generator().manual_seed(seed_of(settings.run.seed, "search", "conditions"))
        chosen = torch.randperm(len(labels), generator=dice)[: own.most_conditions]
        labels = [labels[i] for i in chosen.sort().values.tolist()]
    return tuple(labels)


def _check_classes(
    generator: GeneratorModel,
    real: TileSource | None,
    target: TargetModel,
    class_map: ClassMap,
) -> None:
    """Refuse models and tiles that write the same class in two ways.

    The target may know other classes than the generator, and tiles may be of others. Where a map
    says which are the same, it has to do so for all of the generator.

    Raises:
        ModelError: they do.
        SettingsError: the map does not fit them.
    """
    condition = generator.condition
    drawn = class_list("the generator", condition.classes, error=ModelError)
    known = class_list("the target", target.classes, error=ModelError)
    tiles = None
    if not condition.pixelwise and real is not None:
        tiles = class_list("the data", real.classes, error=ModelError)
    class_map.meet_all((drawn, *([tiles] if tiles else [])), known, error=ModelError)
    if tiles is not None:
        missing = join(drawn, tiles, error=ModelError).left_only
        if missing:
            log.warning(
                "no real tile is of %s: real tiles of any class are shown beside generated ones",
                ", ".join(missing),
            )


def _check_tau(settings: SearchSettings, target: TargetModel) -> None:
    """Refuse a confidence that no distribution over the target's classes can fall below.

    Raises:
        SettingsError: it is such a one.
    """
    least = 1 / len(target.classes)
    if settings.tau_quantile is None and settings.tau <= least:
        raise SettingsError(
            f"search.tau={settings.tau:g}: the largest of {len(target.classes)} probabilities is "
            f"never below {least:.3g}",
            remedy=f"set search.tau above {least:.3g}, or search.tau_quantile",
        )


def _critic(
    path: Path, generator: GeneratorModel, device: torch.device
) -> RealismCritic | MaskCritic:
    critic = load_critic(path, generator.condition, device)
    known = generator.net.bands, generator.condition.names
    if (critic.bands, critic.classes) != known:
        raise ModelError(
            f"the critic {path} was trained for another generator", command="train gate"
        )
    return critic


@torch.no_grad()
def _tau(settings: Settings, target: TargetModel, quantile: float) -> float:
    """Return a quantile of the target's confidence on held-out real tiles."""
    from rs_lowconf.data.masks import open_masks
    from rs_lowconf.data.source import open_split

    own, data = settings.search, settings.data
    val = open_masks(data, "val") if data.masked else open_split(data, "val")
    channels = list(check_fit(target.bands, val.bands))
    confidence, first = [], torch.zeros(1, dtype=torch.long)
    unanswered = Counter[str]()
    for i in range(len(val)):
        tile = val.batch([i])
        regions = None
        if tile.mask is not None:
            regions = regions_of(tile.mask, val.classes, own.region)
            if not regions.any():
                continue
        reading = Reading(share=own.pixel_share, regions=regions)
        try:
            said = target.predict(tile.image[:, channels])
        except AnswerError as error:
            unanswered[error.reason] += 1
        else:
            confidence.append(reading(said, first).confidence)
    if unanswered:
        log.warning(
            "search.tau_quantile is computed from the %d held-out tiles with an answer of the "
            "target; the others have none: %s",
            len(confidence),
            by_reason(unanswered),
        )
        if not confidence:
            raise ModelError(
                f"the target has no answer to any held-out tile: {by_reason(unanswered)}",
                remedy="correct the target or its settings",
            )
    if not confidence:
        raise SettingsError(
            f"no held-out tile has a pixel of search.region={own.region}",
            remedy="choose another region, or set search.tau",
        )
    return float(torch.cat(confidence).cpu().quantile(quantile))


def _fingerprint(
    settings: Settings, generator: GeneratorModel, gate: GateModel, origin: Origin
) -> dict[str, Any]:
    """Return what a search depends on, so that it is not continued with something else."""
    # Models are known by their checksums, not by the number of their update.
    free = {"count", "max_evaluations", "max_minutes", "slots", "baseline_evaluations", "update"}
    return {
        "run.seed": settings.run.seed,
        "search settings": settings.search.model_dump(mode="json", exclude=free),
        "target settings": None,
        "target file": origin.sha256,
        "GAN file": generator.sha256,
        "critic file": gate.files["critic"],
        "extractor file": gate.files.get("extractor"),
        "calibration file": gate.files["calibration"],
    }
