"""The whole tree of settings: one YAML file is one frozen tree.

A stage is handed its own section, never the whole. YAML holds values, never class paths; the sole
exceptions are the target's `python: module:name` and `command`, which run foreign code and need
`--trust-code`.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import NonNegativeInt, model_validator

from rs_lowconf.settings.data import DataSettings, NoData
from rs_lowconf.settings.jobs import BatchSettings, CatalogSettings
from rs_lowconf.settings.measure import EstimateSettings, EvaluateSettings
from rs_lowconf.settings.search import (
    ReviewSettings,
    SearchSettings,
    TestsetSettings,
    VariantSettings,
)
from rs_lowconf.settings.section import Device, Section
from rs_lowconf.settings.target import EmbeddedTarget, TargetSettings
from rs_lowconf.settings.training import (
    AugmentSettings,
    ClassifierSettings,
    EncoderSettings,
    ExtractorSettings,
    GanSettings,
    GateSettings,
    MaskGanSettings,
    SegmenterSettings,
    UpdateSettings,
)


class RunSettings(Section):
    """Where results go and what makes them reproducible."""

    dir: Path = Path("runs/default")
    """Folder of the run; each stage writes a subfolder named after itself."""
    models: Literal["embedded", "trained"] = "embedded"
    """Generator, gate and extractor: those in the package (EuroSAT's bands and classes), or those
    that `rslow train` wrote into `dir`."""
    seed: NonNegativeInt = 0
    """Seed of every random choice: the same seed and settings give the same results on the same
    kind of machine."""
    device: Device = "auto"
    """`auto` is cuda if available; in a batch job each worker chooses for itself."""
    threads: NonNegativeInt = 0
    """CPU threads of torch; 0: torch's default."""


class Settings(Section):
    """The whole tree, one attribute per YAML section."""

    run: RunSettings = RunSettings()
    data: DataSettings = NoData()
    catalog: CatalogSettings = CatalogSettings()
    augment: AugmentSettings = AugmentSettings()
    target: TargetSettings = EmbeddedTarget()
    classifier: ClassifierSettings = ClassifierSettings()
    """The classifier that `rslow train target` trains on labelled tiles."""
    segmenter: SegmenterSettings = SegmenterSettings()
    """The network that `rslow train target` trains on scenes and chips."""
    extractor: ExtractorSettings = ExtractorSettings()
    gan: GanSettings = GanSettings()
    mask_gan: MaskGanSettings = MaskGanSettings()
    gate: GateSettings = GateSettings()
    encoder: EncoderSettings = EncoderSettings()
    search: SearchSettings = SearchSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    review: ReviewSettings = ReviewSettings()
    testset: TestsetSettings = TestsetSettings()
    update: UpdateSettings = UpdateSettings()
    variants: VariantSettings = VariantSettings()
    batch: BatchSettings = BatchSettings()
    estimate: EstimateSettings = EstimateSettings()

    @model_validator(mode="before")
    @classmethod
    def _default_kinds(cls, tree: Any) -> Any:
        """Sections of several kinds are of the first kind unless they name another."""
        if not isinstance(tree, dict):
            return tree
        kinds = {"data": NoData().kind, "target": EmbeddedTarget().kind}
        named = {
            name: {"kind": kind, **tree[name]}
            for name, kind in kinds.items()
            if isinstance(tree.get(name), dict)
        }
        return {**tree, **named}
