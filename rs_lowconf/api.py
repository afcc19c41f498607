"""What scripts and notebooks use: generator, gate, target, search and review, as objects.

`import rs_lowconf as rl` offers all of it as `rl.Search` and so on, and imports this, with torch,
on first use. Nothing here prints; what takes long is iterated over or yields records.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal
from weakref import finalize

import pandas as pd
import torch
from jaxtyping import Float, Int, UInt16
from torch import Tensor, nn

from rs_lowconf.bands import Level
from rs_lowconf.batches import in_fixed_batches
from rs_lowconf.device import choose_device
from rs_lowconf.errors import ModelError, ReviewError, SettingsError
from rs_lowconf.generators import finish
from rs_lowconf.models import (
    GateModel,
    GeneratorModel,
    Models,
    fit_models,
)
from rs_lowconf.models import (
    load_gate as load_gate_model,
)
from rs_lowconf.models import (
    load_generator as load_generator_model,
)
from rs_lowconf.places import model_path
from rs_lowconf.search.gate import GateScores
from rs_lowconf.search.loop import Found, Trajectory
from rs_lowconf.seeds import seed_of
from rs_lowconf.settings import (
    Device,
    ModelFormat,
    ReviewSettings,
    RunSettings,
    SearchSettings,
    Settings,
    TrainedTarget,
    checked,
    target_settings,
)
from rs_lowconf.stored import as_stored, reflectance_of
from rs_lowconf.target.foreign import ForeignTarget
from rs_lowconf.target.load import load_target as load_target_model
from rs_lowconf.target.origin import GIVEN
from rs_lowconf.types import TargetModel, TileBatch
from rs_lowconf.workflows.export import export_of, write_tiles
from rs_lowconf.workflows.search import Searching, SearchLog, SearchRun, Teaching
from rs_lowconf.workflows.search_page import write_search_page
from rs_lowconf.workflows.search_report import SearchReport, report_of
from rs_lowconf.workflows.search_review import choose_shown, publish_shown

Function = Callable[[Tensor], object]
"""A model as a function of float32 reflectance b c h w."""

_BATCH = 16
"""Tiles that are drawn or judged together."""


class Generator:
    """Draws Sentinel-2 tiles of a class, or of a mask."""

    def __init__(self, model: GeneratorModel, settings: Settings, device: torch.device) -> None:
        """Wrap a loaded generator; see `load_generator`."""
        self.model, self.settings, self.device = model, settings, device
        self.bands = model.net.bands
        self.conditions = model.net.classes
        """What tiles can be drawn of: classes, or names of masks."""
        self.tile_size = model.net.tile_size

    def sample(
        self, condition: str | Sequence[str] | None = None, count: int = 8, *, seed: int = 0
    ) -> TileBatch:
        """Return tiles of random latents, on the CPU.

        The first tiles of a seed are the same whatever the count.

        Args:
            condition: of all tiles, or the condition of each in turn; all conditions in turn when
                missing.
            count: number of tiles.
            seed: of the latents.

        Raises:
            SettingsError: the generator knows no such condition, or the count is below 1.

        Example:
            >>> import rs_lowconf as rl
            >>> tiles = rl.load_generator().sample("River", 2, seed=0)
            >>> tuple(tiles.image.shape), tiles.bands.names[:3]
            ((2, 13, 64, 64), ('B01', 'B02', 'B03'))
        """
        if count < 1:
            raise SettingsError(f"{count} tiles are to be drawn", expected="at least one")
        label = self._labels(condition, count)
        z = torch.stack([self._latent(seed, number) for number in range(count)])
        return self.decode(z, label, ids=[f"synthetic-{seed}-{number}" for number in range(count)])

    @torch.no_grad()
    def decode(
        self,
        latents: Float[Tensor, "n d"],
        label: Int[Tensor, " n"],
        *,
        ids: Sequence[str] | None = None,
    ) -> TileBatch:
        """Return the tiles of latents, on the CPU, as they would be stored.

        Args:
            latents: one row per tile.
            label: index of the condition of each, in `conditions`.
            ids: a name for each; numbers when missing.
        """

        def draw(z: Tensor, conditions: Tensor) -> Tensor:
            return self.model.net(z.to(self.device), conditions.to(self.device)).cpu()

        image = in_fixed_batches(draw, _BATCH, latents, label)
        return TileBatch(
            image=as_stored(image),
            bands=self.bands,
            ids=tuple(ids or map(str, range(len(latents)))),
            classes=self.conditions,
            label=label,
        )

    def _latent(self, seed: int, number: int) -> Float[Tensor, " d"]:
        rng = torch.Generator().manual_seed(seed_of(seed, "sample", number))
        return torch.randn(sum(self.model.net.latent_parts), generator=rng)

    def _labels(self, condition: str | Sequence[str] | None, count: int) -> Int[Tensor, " n"]:
        wanted = [condition] if isinstance(condition, str) else list(condition or self.conditions)
        unknown = [name for name in wanted if name not in self.conditions]
        if unknown:
            raise SettingsError(
                f"the generator draws no {', '.join(unknown)}",
                expected=f"one of {', '.join(self.conditions)}",
            )
        return torch.tensor(
            [self.conditions.index(wanted[number % len(wanted)]) for number in range(count)]
        )


def load_generator(
    where: Path | str | None = None, *, device: Device = "auto", threads: int = 0
) -> Generator:
    """Load a generator.

    Args:
        where: folder of a run that trained one, or that taught the embedded one's gate from
            reviews; the embedded generator as it came when missing.
        device: `auto` is CUDA where there is one.
        threads: of torch on the CPU; its own choice when 0.

    Raises:
        ModelError: there is none, or it is damaged.

    Example:
        >>> import rs_lowconf as rl
        >>> rl.load_generator().conditions[:3]
        ('AnnualCrop', 'Forest', 'HerbaceousVegetation')
    """
    settings = _run_settings(where, device, threads)
    chosen = choose_device(settings.run)
    return Generator(load_generator_model(model_path(settings, "gan"), chosen), settings, chosen)


class RealismGate:
    """Drops tiles that look unlike real ones."""

    def __init__(self, model: GateModel, generator: Generator, false_rejection: float) -> None:
        """Wrap a loaded gate; see `load_gate`."""
        self.model, self.false_rejection = model, false_rejection
        self._generator = generator
        self._gate = model.gate(generator.bands, false_rejection, generator.device)

    @torch.no_grad()
    def judge(self, tiles: TileBatch) -> GateScores:
        """Return what the gate says of tiles, whether they pass among it.

        Args:
            tiles: with the generator's bands and conditions, such as `Generator.sample` returns.

        Raises:
            ModelError: they have other bands, or no conditions.

        Example:
            >>> import rs_lowconf as rl
            >>> generator = rl.load_generator()
            >>> rl.load_gate(generator).judge(generator.sample("Forest", 4)).passes.shape
            torch.Size([4])
        """
        own = self._generator
        if tiles.bands != own.bands or tiles.classes != own.conditions or tiles.label is None:
            raise ModelError(
                "these tiles have other bands or conditions than the generator draws",
                expected=f"{', '.join(own.bands.names)} and a label for each tile",
            )
        device = own.device
        return self._gate.score(tiles.image.to(device), tiles.label.to(device))

    def describe(self) -> dict[str, object]:
        """Return its parts, what it costs in real tiles, and what it drops, as far as measured."""
        return self._gate.describe()


def load_gate(generator: Generator, *, false_rejection: float = 0.05) -> RealismGate:
    """Load the gate that belongs to a generator.

    Args:
        generator: of `load_generator`.
        false_rejection: share of real tiles that all its parts together may reject.

    Raises:
        ModelError: there is none, or it belongs to another generator.
        DataError: too few tiles were held out to bound a share so small.
        SettingsError: the share is not between 0 and 0.5.
    """
    checked(SearchSettings, {"false_rejection": false_rejection})
    model = load_gate_model(generator.settings, generator.model, generator.device)
    return RealismGate(model, generator, false_rejection)


def load_target(
    model: nn.Module | Function | Mapping[str, object] | Literal["visible", "multispectral"],
    *,
    bands: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    level: Level = "L1C",
    reads: Literal["reflectance", "digital_numbers"] = "reflectance",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    returns: Literal["logits", "probabilities", "sigmoid"] = "logits",
    temperature: float = 1.0,
    input_size: int | None = None,
    batch_size: int = 32,
    tile_size: int = 64,
    device: Device = "auto",
    trust_code: bool = False,
) -> TargetModel:
    """Return a model under test.

    A model from elsewhere is tried on a few made-up tiles first. It may answer for whole tiles
    (b k) or for every pixel (b k h w), and is searched by its gradients where it gives any.

    Args:
        model: a module, which is set to evaluate; any function of float32 tensors b c h w; what
            the section `target` of settings holds, such as {"kind": "onnx", "path": ...}, for
            files of all kinds; or an embedded model's name.
        bands: that it reads, in its order; of a module or function only, as are all of these up to
            `input_size`.
        classes: in the order of its outputs.
        level: processing level that it was made for.
        reads: what it reads before `mean` and `std`.
        mean: subtracted per band, or one value for all.
        std: divided by per band, or one value for all.
        returns: what its outputs are.
        temperature: logits are divided by this.
        input_size: side in pixels that tiles are resized to.
        batch_size: most tiles in one call; a section of settings has its own.
        tile_size: side in pixels of the tiles that will come.
        device: `auto` is CUDA where there is one.
        trust_code: whether files that can run code may be read.

    Raises:
        ModelError: the model is missing or damaged, fails on tiles, or does not do what is said.
        SettingsError: bands or classes are missing, or a value does not fit.

    Example:
        >>> import rs_lowconf as rl
        >>> def by_brightness(image):
        ...     light = 20 * image.mean((1, 2, 3)) - 2
        ...     return torch.stack([-light, light], 1)
        >>> target = rl.load_target(by_brightness, bands=("B04", "B03"), classes=("dark", "bright"))
        >>> target.differentiable, target.pixelwise
        (True, False)
    """
    chosen = choose_device(checked(RunSettings, {"device": device}))
    if isinstance(model, str):
        model = {"kind": "embedded", "model": model, "batch_size": batch_size}
    if isinstance(model, Mapping):
        section = target_settings(model)
        if section.class_map:
            raise SettingsError(
                "class_map says nothing about the model itself", remedy="give it to rl.Search"
            )
        if isinstance(section, TrainedTarget) and section.path is None:
            raise SettingsError("the target has no file", remedy="set path to its checkpoint")
        file = model_path(checked(Settings, {"target": section}), "target")
        return load_target_model(
            section, file, trust_code=trust_code, tile_size=tile_size, device=chosen
        )
    if bands is None or classes is None:
        raise SettingsError("a model from elsewhere needs bands and classes")
    about = checked(
        ModelFormat,
        {
            "bands": tuple(bands),
            "classes": tuple(classes),
            "level": level,
            "input": reads,
            "mean": mean,
            "std": std,
            "output": returns,
            "temperature": temperature,
            "input_size": input_size,
            "batch_size": batch_size,
        },
    )
    function = model.to(chosen).eval() if isinstance(model, nn.Module) else model
    return ForeignTarget(function, about, tile_size=tile_size, device=chosen)


@dataclass(frozen=True, kw_only=True, eq=False)
class SearchResult:
    """Hard tiles that a search found, and what they cost."""

    report: SearchReport
    """Counts, costs, why it stopped, what the gate is worth."""
    log: SearchLog
    settings: Settings
    models: Models

    def __len__(self) -> int:
        """Return the number of hard tiles."""
        return len(self._found)

    @cached_property
    def tiles(self) -> TileBatch:
        """Return the hard tiles with their conditions, as they would be stored."""
        generator = self.models.generator.net
        return TileBatch(
            image=reflectance_of(self._stored[1]),
            bands=generator.bands,
            ids=tuple(self._name(one) for one, _ in self._found),
            classes=generator.classes,
            label=torch.tensor([one.label for one, _ in self._found], dtype=torch.long),
        )

    @property
    def latents(self) -> Float[Tensor, "n d"]:
        """Return the latent of each hard tile."""
        return self._stored[0]

    @property
    def probabilities(self) -> Float[Tensor, "n k"]:
        """Return the target's probabilities of its classes; of pixels their mean."""
        rows = [found.log_probability.exp() for _, found in self._found]
        return torch.stack(rows) if rows else torch.empty(0, len(self.models.target.classes))

    @property
    def confidence(self) -> Float[Tensor, " n"]:
        """Return what the target's confidence was read as; all are below tau."""
        return torch.tensor([found.confidence for _, found in self._found])

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per hard tile: condition, prediction, confidence, gate, costs."""
        classes, conditions = self.models.target.classes, self.models.generator.net.classes
        rows = []
        for one, found in self._found:
            first, second = found.log_probability.topk(2).indices.tolist()
            rows.append(
                {
                    "id": self._name(one),
                    "condition": conditions[one.label],
                    "predicted": classes[first],
                    "second": classes[second],
                    "confidence": found.confidence,
                    "gate_p_value": found.p_value,
                    "steps": one.steps,
                    "evaluations": one.evaluations,
                }
            )
        return pd.DataFrame(rows, columns=_COLUMNS)

    @cached_property
    def _found(self) -> list[tuple[Trajectory, Found]]:
        return [(one, one.found) for one in self.log.trajectories if one.found is not None]

    @cached_property
    def _stored(self) -> tuple[Float[Tensor, "n d"], UInt16[Tensor, "n c h w"]]:
        """Latents and pixels of the hard tiles, whose files are read once."""
        generator = self.models.generator.net
        tiles = [self.log.journal.tile(one.seed_id) for one, _ in self._found]
        if not tiles:
            size = (len(generator.bands), generator.tile_size, generator.tile_size)
            empty = torch.empty(0, *size, dtype=torch.uint16)
            return torch.empty(0, sum(generator.latent_parts)), empty
        return torch.stack([own.z for own in tiles]), torch.stack([own.pixels for own in tiles])

    def _name(self, one: Trajectory) -> str:
        return f"synthetic-{self.settings.run.seed}-{one.seed_id}"


_COLUMNS = (
    "id",
    "condition",
    "predicted",
    "second",
    "confidence",
    "gate_p_value",
    "steps",
    "evaluations",
)


class Search:
    """Searches latents for realistic tiles that a target is unsure of.

    Iterate over it for records of how it goes, or call `result` at once.

    Example:
        >>> import rs_lowconf as rl
        >>> generator = rl.load_generator()
        >>> target, gate = rl.load_target("multispectral"), rl.load_gate(generator)
        >>> search = rl.Search(generator, target, gate, tau=0.5, count=2, seed=0)
        >>> for record in search:
        ...     pass
        >>> result = search.result()
        >>> len(result), bool((result.confidence < 0.5).all())
        (2, True)
    """

    def __init__(
        self,
        generator: Generator,
        target: TargetModel,
        gate: RealismGate,
        *,
        tau: float = 0.5,
        count: int = 64,
        conditions: Sequence[str] | None = None,
        seed: int = 0,
        folder: Path | str | None = None,
        keep_rejected: bool = False,
        class_map: Mapping[str, str] | None = None,
        settings: SearchSettings | None = None,
    ) -> None:
        """Fit the models to each other.

        Args:
            generator: draws the tiles.
            target: the model under test.
            gate: of the generator.
            tau: a tile is hard when the target's largest probability is below this.
            count: hard tiles to stop at.
            conditions: to search; all of the generator's when missing.
            seed: the same seed finds the same tiles on the same kind of machine.
            folder: for the journal, from which an interrupted search goes on; a temporary one,
                which lasts as long as this search or its result, when missing.
            keep_rejected: whether to keep tiles that the gate drops, so that people can check it.
            class_map: common names of classes of the target and of the generator, where these
                differ, such as `{"River": "water", "SeaLake": "water"}`; see `target.class_map`.
            settings: everything else; `tau`, `count`, `conditions` and the gate's false rejection
                take the place of theirs.

        Raises:
            SettingsError: a value does not fit, a condition is unknown, no probability can fall
                below `tau`, or the folder holds a search with other settings or models.
            ModelError: the models do not fit each other.
        """
        place = Path(tempfile.mkdtemp(prefix="rs_lowconf-") if folder is None else folder)
        values = {
            "tau": tau,
            "tau_quantile": None,
            "count": count,
            "conditions": None if conditions is None else tuple(conditions),
            "false_rejection": gate.false_rejection,
        }
        own = checked(SearchSettings, {**dict(settings or SearchSettings()), **values})
        mode: Literal["blind", "confirm"] = "blind" if keep_rejected else "confirm"
        self._settings = generator.settings.model_copy(
            update={
                "run": generator.settings.run.model_copy(update={"seed": seed}),
                "search": own,
                "review": ReviewSettings(mode=mode),
                "target": target_settings({"class_map": dict(class_map or {})}),
            }
        )
        self._models = fit_models(
            self._settings,
            generator.model,
            gate.model,
            target,
            origin=GIVEN,
            known={"target": _identity(target, generator.tile_size)},
            real=None,
            device=generator.device,
        )
        self._run = SearchRun(self._settings, self._models, place, "search")
        if folder is None:
            # The journal goes with whoever needs it: this search, or its result.
            finalize(self._run.journal, shutil.rmtree, place, ignore_errors=True)
        self._records = iter(self._run)

    def __iter__(self) -> Iterator[Teaching | Searching]:
        """Yield what happens until the search ends; a second iteration goes on with the first."""
        yield from self._records

    def result(self) -> SearchResult:
        """Search to the end, where it has not ended, and return what was found.

        Raises:
            ModelError: the target has no answer to most tiles.
        """
        for _ in self:
            pass
        log = self._run.log
        return SearchResult(
            report=report_of(self._settings, self._models, log, None),
            log=log,
            settings=self._settings,
            models=self._models,
        )


def write_review(
    result: SearchResult, folder: Path | str, *, blind: bool = False, max_samples: int = 500
) -> Path:
    """Write hard tiles as a package for review in QGIS.

    The folder gets `tiles/` (one GeoTIFF per tile), `samples.parquet`, `report.html` (a page of all
    samples), the store of reviews and, last, `review/`, the package: open `review/review.qgz` in
    QGIS.

    Args:
        result: of a search.
        folder: that does not hold a package yet.
        blind: whether nothing of the model is shown, and reviewers name the class unseen.
        max_samples: in the package; those that differ most are taken.

    Returns:
        The folder of the package; `read_review` tells what reviewers said of it.

    Raises:
        ReviewError: the folder holds a package, or there is nothing to review.
    """
    folder = Path(folder)
    if (folder / "review").exists():
        raise ReviewError(
            f"{folder / 'review'} exists already, and reviews may live in it",
            remedy="choose another folder",
        )
    if not len(result):
        raise ReviewError("the search found no hard tile", remedy="choose a larger tau")
    settings = result.settings.model_copy(
        update={
            "run": result.settings.run.model_copy(update={"dir": folder}),
            "review": checked(
                ReviewSettings,
                {"mode": "blind" if blind else "confirm", "max_samples": max_samples},
            ),
        }
    )
    export = export_of(settings, result.models, folder)
    cards = finish(write_tiles(export, result.log))
    write_search_page(export, result.report, cards)
    publish_shown(export, finish(choose_shown(export, result.log)))
    return folder / "review"


@torch.no_grad()
def _identity(target: TargetModel, tile_size: int) -> dict[str, object]:
    """Return what a target reads and how it answers, by which a journal knows it again."""
    rng = torch.Generator().manual_seed(0)
    image = 0.3 * torch.rand(2, len(target.bands), tile_size, tile_size, generator=rng)
    said = target.predict(image).exp()
    said = said.flatten(2).mean(2) if target.pixelwise else said
    return {
        "bands": list(target.bands.names),
        "classes": list(target.classes),
        "answers": [[round(value, 3) for value in row] for row in said.tolist()],
    }


def _run_settings(where: Path | str | None, device: Device, threads: int) -> Settings:
    """Return the settings by which models of a run, or the embedded ones, are found."""
    if where is None:
        # No update of a run folder that happens to be there.
        return checked(
            Settings,
            {"run": {"device": device, "threads": threads}, "search": {"update": 0}},
        )
    folder = Path(where)
    models: Literal["trained", "embedded"]
    models = "trained" if (folder / "gan" / "gan.safetensors").exists() else "embedded"
    if models == "embedded" and not (folder / "update-1").exists():
        raise ModelError(
            f"{folder} holds no generator and no update",
            expected="the folder of a run that trained one, or that updated the gate from reviews",
            remedy="leave it out for the embedded generator",
        )
    return checked(
        Settings,
        {"run": {"dir": folder, "models": models, "device": device, "threads": threads}},
    )
