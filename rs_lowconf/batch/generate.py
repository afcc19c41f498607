"""The job `generate`: hard variants of the real tiles of a catalog, each around its tile."""

import enum
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import torch
from jaxtyping import Float, Int
from torch import Tensor

from rs_lowconf.batch.jobs import TileKind, kind_of_row, require_fitting
from rs_lowconf.batch.work import Call
from rs_lowconf.data.catalog.reading import read_mask, read_row, reflectance
from rs_lowconf.data.catalog.rows import CatalogRow, from_table
from rs_lowconf.errors import AnswerError, DataError
from rs_lowconf.gan.condition import MaskBank, main_class
from rs_lowconf.masks import UNKNOWN
from rs_lowconf.models import Inversions, Models, load_inversions, load_models, of_masks
from rs_lowconf.review.ids import sample_id
from rs_lowconf.search.anchors import Anchors
from rs_lowconf.search.evaluate import Evaluator
from rs_lowconf.search.invert import Inversion
from rs_lowconf.search.loop import Found, Outcome, SearchRules, Trajectory, search
from rs_lowconf.search.loop import Tile as StoredTile
from rs_lowconf.search.student import load_student
from rs_lowconf.settings import Settings
from rs_lowconf.stored import reflectance_of, stored_numbers
from rs_lowconf.types import TileGenerator

VARIANT = pa.struct(
    [
        ("sample_id", pa.string()),
        ("attempt", pa.int32()),
        ("predicted", pa.string()),
        ("second", pa.string()),
        ("confidence", pa.float64()),
        ("probabilities", pa.list_(pa.float32())),
        ("parts", pa.list_(pa.float64())),
        ("gate_score", pa.float64()),
        ("gate_p_value", pa.float64()),
        ("pixel_distance", pa.float64()),
        ("feature_distance", pa.float64()),
        ("steps", pa.int32()),
        ("pixels", pa.binary()),
        ("latent", pa.list_(pa.float32())),
    ]
)
"""`pixels` are uint16 in the generator's bands, band by band; `parts` are in the gate's order.
Distances are from the real tile, in the units of `search.distances`."""

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("outcome", pa.string()),
        ("condition", pa.string()),
        ("group", pa.string()),
        ("predicted", pa.string()),
        ("confidence", pa.float64()),
        ("redrawn_confidence", pa.float64()),
        ("pixel_error", pa.float64()),
        ("feature_error", pa.float64()),
        ("pixel_bound", pa.float64()),
        ("feature_bound", pa.float64()),
        ("evaluations", pa.int32()),
        ("latent", pa.list_(pa.float32())),
        ("unanswered", pa.map_(pa.string(), pa.int32())),
        ("variants", pa.list_(VARIANT)),
    ]
)
"""`group`: the class whose pairs of real tiles give the bounds. Errors are distances of the redrawn
tile from the real one. `unanswered`: how many evaluations gave no answer, by reason."""


_READ = {
    "method", "tau", "pixel_share", "region", "max_age", "micro_batch", "learning_rate",
    "realism_weight", "spectra_weight", "review_weight", "false_rejection", "prior_tail",
    "novelty_quantile",
}  # fmt: skip
"""Search settings that variants depend on. The number of samples or of slots does not matter."""


class Ending(enum.Enum):
    """What became of a tile."""

    VARIED = "has hard variants"
    NONE = "no hard variant within the distance budget passed the gate"
    UNANSWERED = "no hard variant, and the target has no answer to most tiles around it"
    POOR = "redrawn worse than the bound, so nothing was searched around it"
    UNSURE = "of low confidence itself, so no variant is needed"
    NO_REGION = "has no pixel of search.region"


@dataclass(frozen=True, kw_only=True)
class GenerateWork:
    """Generates variants around tiles."""

    settings: Settings
    """Settings of the run, without data: workers only read catalogs. Each worker chooses its
    device."""
    trust_code: bool
    student: Path | None
    """A student that guides the search for a target without gradients."""
    models_key: str
    """Checksums of all models."""
    kinds: tuple[TileKind, ...]
    """Kinds of all tiles; the job does not start if the generator can draw none of them."""

    @property
    def key(self) -> str:
        """All that variants depend on besides the tiles."""
        run_settings = self.settings
        search = run_settings.search.model_dump_json(include=_READ)
        return (
            f"generate 2 {self.models_key} {run_settings.run.seed} {search} "
            f"{run_settings.variants.model_dump_json()} {run_settings.target.answers}"
        )

    @property
    def schema(self) -> pa.Schema:
        """See `SCHEMA`."""
        return SCHEMA

    def open(self) -> Call:
        """Load all models.

        Raises:
            RsLowconfError: they cannot be loaded, or the generator can draw none of the tiles.
        """
        torch.set_flush_denormal(True)
        models = load_models(self.settings, trust_code=self.trust_code)
        require_fitting(self.kinds, lambda kind: _misfit(models, kind))
        inversions = load_inversions(self.settings, models)
        evaluator = models.evaluator
        if self.student is not None:
            evaluator = evaluator.guided_by(load_student(self.student, models.device)[0])
        maker = Maker(
            settings=self.settings, models=replace(models, evaluator=evaluator), found=inversions
        )

        def generate(table: pa.Table) -> pa.Table:
            schema = SCHEMA.append(pa.field("error", pa.string()))
            return pa.Table.from_pylist(maker(from_table(table)), schema=schema)

        return generate


def _misfit(models: Models, kind: TileKind) -> DataError | None:
    """Return why the generator cannot draw tiles of a kind."""
    generator = models.generator.net
    size, due = (kind.height, kind.width), (generator.tile_size,) * 2
    missing = [name for name in generator.bands.names if name not in kind.bands]
    what: str
    expected: str
    if kind.level != generator.bands.level:
        what, expected = f"the tile is {kind.level}", generator.bands.level
    elif size != due:
        what, expected = f"tiles of {size[0]} x {size[1]} pixels", f"{due[0]} x {due[1]}"
    elif missing:
        what, expected = f"bands {' '.join(kind.bands)}", f"{' '.join(missing)} among them"
    elif models.generator.condition.pixelwise and not kind.masked:
        what, expected = "there is no mask", "one, because the generator is conditioned on masks"
        return DataError(what, expected=expected)
    else:
        return None
    return DataError(what, expected=f"{expected}, which the generator draws")


@dataclass(frozen=True, kw_only=True, eq=False)
class _Tile:
    """A real tile that can be processed."""

    row: CatalogRow
    image: Float[Tensor, "c h w"]
    """Reflectance as stored in a file."""
    label: int
    """Its condition, -1 if that has to be estimated."""
    mask: Int[Tensor, "h w"] | None


@dataclass(frozen=True, kw_only=True, eq=False)
class _Setting:
    """Generator and evaluator of the tiles of a chunk, by their conditions."""

    generator: TileGenerator
    evaluator: Evaluator
    label: Int[Tensor, " n"]


@dataclass(kw_only=True, eq=False)
class _Surroundings:
    """Variants found around a tile."""

    variants: list[dict[str, Any]] = field(default_factory=list)
    evaluations: int = 0
    unanswered: Counter[str] = field(default_factory=Counter)
    attempts: int = 0
    silent: int = 0
    """Attempts that ended without an answer of the target."""

    def add(self, one: Trajectory) -> None:
        """Count an attempt."""
        self.evaluations += one.evaluations
        self.unanswered.update(one.unanswered)
        self.attempts += 1
        self.silent += one.outcome is Outcome.UNANSWERED

    @property
    def ending(self) -> Ending:
        """Return the outcome of the tile."""
        if self.variants:
            return Ending.VARIED
        return Ending.UNANSWERED if 2 * self.silent > self.attempts else Ending.NONE


@dataclass(frozen=True, kw_only=True, eq=False)
class Maker:
    """Makes variants of tiles, each independent of the other tiles of its chunk."""

    settings: Settings
    models: Models
    found: Inversions

    def __call__(self, rows: Sequence[CatalogRow]) -> list[dict[str, Any]]:
        """Return a record of `SCHEMA` for each tile, or the reason why there is none."""
        tiles, records = [], []
        for row in rows:
            try:
                tiles.append(self._tile(row))
            except DataError as error:
                records.append({"id": row.tile_id, "error": str(error)})
        return records + (self._variants(tiles) if tiles else [])

    def _tile(self, row: CatalogRow) -> _Tile:
        """Read a tile.

        Raises:
            DataError: the generator cannot draw such a tile.
        """
        generator, condition = self.models.generator.net, self.models.generator.condition
        misfit = _misfit(self.models, kind_of_row(row))
        if misfit is not None:
            raise misfit
        content = read_row(row)
        if content.nodata.any():
            raise DataError(f"{int(content.nodata.sum())} of its pixels have no data")
        pixels = stored_numbers(reflectance(row, content, generator.bands)[None])[0]
        image = reflectance_of(pixels)
        if not condition.pixelwise:
            known = row.label in generator.classes
            label = generator.classes.index(str(row.label)) if known else -1
            return _Tile(row=row, image=image, label=label, mask=None)
        mask = read_mask(row, condition.classes)
        if not (mask != UNKNOWN).any():
            raise DataError("no pixel of its mask is known")
        return _Tile(row=row, image=image, label=0, mask=mask)

    def _variants(self, tiles: Sequence[_Tile]) -> list[dict[str, Any]]:
        setting = self._setting(tiles)
        image = torch.stack([tile.image for tile in tiles])
        inversion = replace(self.found.invert, generator=setting.generator)(image, setting.label)
        group = self._groups(tiles, inversion)
        real = torch.cat([self._features(tile.image) for tile in tiles])
        drawn = self._redrawn(setting, tiles, inversion, group, real)
        anchors = [i for i, one in enumerate(drawn) if one.get("outcome") is Ending.VARIED]
        if anchors:
            surroundings = self._search(setting, tiles, inversion, group, real, anchors)
            for i, around in zip(anchors, surroundings, strict=True):
                drawn[i]["variants"] = around.variants
                drawn[i]["evaluations"] += around.evaluations
                drawn[i]["unanswered"] += around.unanswered
                drawn[i]["outcome"] = around.ending
        for one in drawn:
            if "error" not in one:
                one["outcome"] = one["outcome"].name.lower()
                one["unanswered"] = list(one["unanswered"].items())
        return drawn

    def _setting(self, tiles: Sequence[_Tile]) -> _Setting:
        models = self.models
        if not models.generator.condition.pixelwise:
            return _Setting(
                generator=models.generator.net,
                evaluator=models.evaluator,
                label=torch.tensor([tile.label for tile in tiles]),
            )
        masks = torch.stack([tile.mask for tile in tiles if tile.mask is not None])
        bank = MaskBank(
            masks=masks.to(torch.uint8),
            names=tuple(tile.row.tile_id for tile in tiles),
            classes=models.generator.condition.classes,
        )
        evaluator, generator = of_masks(self.settings.search, models, bank)
        return _Setting(generator=generator, evaluator=evaluator, label=torch.arange(len(tiles)))

    def _redrawn(
        self,
        setting: _Setting,
        tiles: Sequence[_Tile],
        inversion: Inversion,
        group: Int[Tensor, " n"],
        real: Float[Tensor, "n f"],
    ) -> list[dict[str, Any]]:
        """Return the records of tiles before the search, with `VARIED` where it may begin.

        For a tile without an answer of the target, this is the error.
        """
        distances, section = self.found.distances, self.settings.variants
        bound = distances.bound(group, section.inversion.quantile)
        records: list[dict[str, Any]] = []
        for i, tile in enumerate(tiles):
            label = int(inversion.label[i])
            error = distances.between(
                inversion.image[i : i + 1],
                self._features(inversion.image[i]),
                tile.image[None],
                real[i : i + 1],
            )[0]
            unanswered = Counter[str]()
            try:
                answer = setting.evaluator.answer_stored(stored_numbers(tile.image[None])[0], label)
            except AnswerError as without:
                records.append({"id": tile.row.tile_id, "error": str(without)})
                continue
            redrawn = None
            try:
                again = setting.evaluator.answer_stored(
                    stored_numbers(inversion.image[i : i + 1])[0], label
                )
                redrawn = float(again.confidence[0])
            except AnswerError as without:
                unanswered[without.reason] += 1
            confidence = float(answer.confidence[0])
            ending = Ending.VARIED
            if (error > bound[i]).any():
                ending = Ending.POOR
            if confidence < self.models.tau:
                ending = Ending.UNSURE
            if tile.mask is not None and not setting.evaluator.reads(label):
                ending = Ending.NO_REGION
            target = self.models.target
            records.append(
                {
                    "id": tile.row.tile_id,
                    "outcome": ending,
                    "condition": None
                    if self.models.generator.condition.pixelwise
                    else setting.generator.classes[label],
                    "group": distances.classes[int(group[i])],
                    "predicted": target.classes[int(answer.log_probability[0].argmax())],
                    "confidence": confidence,
                    "redrawn_confidence": redrawn,
                    "pixel_error": float(error[0]),
                    "feature_error": float(error[1]),
                    "pixel_bound": float(bound[i, 0]),
                    "feature_bound": float(bound[i, 1]),
                    "evaluations": 2,
                    "latent": inversion.z[i].tolist(),
                    "unanswered": unanswered,
                    "variants": [],
                }
            )
        return records

    def _groups(self, tiles: Sequence[_Tile], inversion: Inversion) -> Int[Tensor, " n"]:
        """Return the class of each tile among those whose distances are known."""
        condition = self.models.generator.condition
        if not condition.pixelwise:
            names = condition.names
            return torch.tensor(
                [self.found.distances.classes.index(names[int(k)]) for k in inversion.label]
            )
        masks = torch.stack([tile.mask for tile in tiles if tile.mask is not None])
        return main_class(masks, len(condition.classes))

    @torch.no_grad()
    def _features(self, image: Float[Tensor, "c h w"]) -> Float[Tensor, "1 f"]:
        return self.found.features(image[None].to(self.models.device)).cpu()

    def _search(  # noqa: PLR0917 - as `_redrawn`
        self,
        setting: _Setting,
        tiles: Sequence[_Tile],
        inversion: Inversion,
        group: Int[Tensor, " n"],
        real: Float[Tensor, "n f"],
        chosen: Sequence[int],
    ) -> list[_Surroundings]:
        """Search around chosen tiles."""
        variant_settings, models, distances = (
            self.settings.variants,
            self.models,
            self.found.distances,
        )
        anchors = Anchors(
            names=tuple(tiles[i].row.tile_id for i in chosen),
            image=torch.stack([tiles[i].image for i in chosen]),
            features=real[list(chosen)],
            z=inversion.z[list(chosen)],
            label=inversion.label[list(chosen)],
            budget=distances.bound(group[list(chosen)], variant_settings.budget),
        )
        nearness = anchors.nearness(distances, self.found.features)
        apart = anchors.distance(distances, self.found.features)
        evaluator = anchors.around(setting.evaluator, nearness, variant_settings.weight)
        around = [_Surroundings() for _ in chosen]
        features: list[list[Tensor]] = [[] for _ in chosen]
        closed: set[int] = set()
        for one in search(
            evaluator,
            models.shell,
            self._rules(len(chosen)),
            closed=closed,
            start=anchors.start(
                models.shell, reach=variant_settings.reach, run_seed=self.settings.run.seed
            ),
            seeds=variant_settings.attempts * len(chosen),
        ):
            # Attempts in progress when there were enough do not count: they depend on the other
            # tiles.
            if one.label in closed:
                continue
            known = around[one.label]
            known.add(one)
            if one.found is None or self._known(one.found, features[one.label]):
                continue
            features[one.label].append(one.found.features)
            tile = tiles[chosen[one.label]]
            attempt = one.seed_id // len(chosen)
            known.variants.append(self._record(evaluator, tile, one, one.found, attempt, apart))
            if len(known.variants) == variant_settings.count:
                closed.add(one.label)
        return around

    def _rules(self, anchors: int) -> SearchRules:
        section = self.settings.search
        return SearchRules(
            mode="yield",
            tau=self.models.tau,
            max_age=section.max_age,
            slots=section.slots,
            learning_rate=section.learning_rate,
            labels=tuple(range(anchors)),
            run_seed=self.settings.run.seed,
            stream="variants",
        )

    def _known(self, found: Found, others: Sequence[Tensor]) -> bool:
        """Return whether another variant of the tile is nearly the same."""
        return any(
            float((found.features - other).norm()) < self.models.looks.novelty_radius
            for other in others
        )

    def _record(  # noqa: PLR0917 - what judged, tile, what was found, measure: as they are used
        self,
        evaluator: Evaluator,
        tile: _Tile,
        one: Trajectory,
        found: Found,
        attempt: int,
        apart: Callable[[Tensor, Tensor], Tensor],
    ) -> dict[str, Any]:
        models, stored = self.models, cast("StoredTile", found.tile)
        with torch.no_grad():
            image = reflectance_of(stored.pixels)[None].to(models.device)
            distance = apart(image, torch.tensor([one.label], device=models.device))[0].tolist()
        first, second = found.log_probability.topk(2).indices.tolist()
        parts = [found.parts[name] for name in evaluator.gate.parts]
        names = ("variant", tile.row.tile_id, attempt)
        return {
            "sample_id": sample_id(self.settings.run.seed, *names, letter="v"),
            "attempt": attempt,
            "predicted": models.target.classes[first],
            "second": models.target.classes[second],
            "confidence": found.confidence,
            "probabilities": found.log_probability.exp().tolist(),
            "parts": parts,
            "gate_score": evaluator.gate.joint(found.parts),
            "gate_p_value": found.p_value,
            "pixel_distance": distance[0],
            "feature_distance": distance[1],
            "steps": one.steps,
            "pixels": stored.pixels.numpy().tobytes(),
            "latent": stored.z.tolist(),
        }
