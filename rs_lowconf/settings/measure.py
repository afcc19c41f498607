"""Settings of what is measured: the generator, and the error rate of the target."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from rs_lowconf.settings.section import ClassNames, Section
from rs_lowconf.settings.training import ClassifierSettings, SegmenterSettings

DesignName = Literal[
    "uniform", "by_class", "stratified", "importance", "lure", "active", "adaptive"
]
"""How units to label are drawn; each is a file of this name in `rs_lowconf/estimate/designs`."""


class ReporterSettings(ClassifierSettings):
    """The reporter: wider than a target, so that its features distinguish more."""

    width: PositiveInt = 64


class PictureClassifierSettings(ClassifierSettings):
    """The classifier trained on pictures: as there are many, fewer epochs suffice."""

    width: PositiveInt = 64
    epochs: PositiveInt = 20
    """Passes over the training tiles."""
    batch_size: PositiveInt = 64
    """Tiles in one step of training."""


class EvaluateSettings(Section):
    """How the generator's quality is measured, on separately drawn tiles."""

    split: Literal["test", "val"] = "test"
    """The real tiles that generated ones are compared with. Use `val` while models are still being
    chosen, so that the test split is used once, at the end."""
    tiles_per_class: PositiveInt = 100
    """Generated tiles per class that the figures are measured on."""
    reporter: ReporterSettings = ReporterSettings()
    """The network whose features the figures are based on; not used for selection or the gate."""
    classifier: ClassifierSettings = ClassifierSettings()
    """Trained on real and, for the same number of steps, on generated tiles; `epochs` counts passes
    over real ones."""
    probe_tiles: PositiveInt = 1_000
    """With pictures in data.more: number of real and of generated tiles for the probe, equal for
    all classes. Of tiles with masks: most of each."""
    picture_tiles: PositiveInt = 5_000
    """With pictures in data.more: generated tiles to measure KID, FD, precision and recall on, with
    as many real tiles as the floor and the whole split as reference."""
    cas_rgb: bool = False
    """With pictures in data.more: also train classifiers on real pictures, on as many generated
    ones and on pictures without texture, and compare their accuracy. Takes hours."""
    cas_seeds: PositiveInt = 3
    """Number of classifiers of each kind that cas_rgb trains."""
    cas_classifier: PictureClassifierSettings = PictureClassifierSettings()
    """The classifiers of cas_rgb."""
    segmenter: SegmenterSettings = SegmenterSettings()
    """Tiles with masks: the network that segments generated and real tiles for comparison with
    their masks; not used for selection or the gate."""


class ExperimentSettings(Section):
    """Replays of all designs on a pool with known labels: `rslow estimate experiment`."""

    budgets: Annotated[tuple[Annotated[float, Field(gt=0.0, lt=1.0)], ...], Field(min_length=1)] = (
        0.005,
        0.01,
        0.02,
    )
    """Label budgets, as shares of the pool."""
    repetitions: int = Field(default=200, ge=20)
    """Draws of each design at each budget."""
    blind: tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...] = (0.3, 1.0)
    """Stress tests: shares of the errors that are hidden where none is expected."""
    validation: int = Field(default=5_000, ge=50)
    """Without estimate.validation: number of random units taken out of the pool for validation, at
    most a fifth of the pool."""
    random_latents: Path | None = None
    """Table of tiles from random latents, see `rslow estimate random-latents`: the
    paper's method."""
    generated: dict[str, Path] = Field(default_factory=dict)
    """Further tables of labelled generated tiles, by the name that the report gives them, such as
    the same tiles labelled by another judge. Each is an arm of its own that ends at its number of
    rows. With a column `weight` the estimate is the mean of weight x error, for draws that are made
    to stand for the pool; without one every row weighs 1."""


class RareSettings(Section):
    """Probability of low confidence and disagreement under the generator: `rslow estimate rare`."""

    thresholds: (
        Annotated[tuple[Annotated[float, Field(gt=0.0, lt=1.0)], ...], Field(min_length=1)] | None
    ) = None
    """Confidence thresholds; the probability to fall below each is estimated. All must exceed 1 /
    number of classes, the minimum of the largest probability; default is those of 0.99, 0.9, 0.7,
    0.5 and 0.4 that do."""
    conditions: Annotated[ClassNames, Field(min_length=1)] | None = None
    """Conditions, by name; default is all of the generator's."""
    replicates: PositiveInt = 10
    """Independent populations of latents per condition, at least ten: the interval comes from their
    variance."""
    particles: PositiveInt = 100
    """Latents of a population: four times as many halve the interval."""
    survivors: PositiveInt = 20
    """Latents of a population that go on to the next level, at least ten; a divisor of
    particles."""
    max_levels: PositiveInt = 8
    """Levels after which a population is abandoned; each has survivors / particles times the
    probability of the previous one."""


class EstimateSettings(Section):
    """Error estimates from few labels."""

    scores: Path | None = None
    """Table of scores, Parquet or CSV: columns id, predicted, confidence and, where known, label
    and group. By default the pool is the result of `rslow batch score`, within batch.splits and
    batch.collections."""
    surrogates: tuple[Path, ...] = ()
    """Tables of other models' scores of the same units, which help to predict where the target
    errs."""
    validation: Path | None = None
    """Table of labelled units, drawn uniformly from units like the pool's, to validate error
    probabilities. Surrogates score them too."""
    generated_samples: Path | None = None
    """Table of generated tiles with labels, such as samples.parquet of `rslow generate`: an error
    predictor trained on it is used if validation labels show that it is better."""
    measure: Literal["confidence", "margin", "entropy"] = "confidence"
    """How the target's uncertainty is measured; margin and entropy need all probabilities."""
    classes: ClassNames = ()
    """True classes in addition to those of the target and of the pool's labels."""
    design: DesignName = "stratified"
    """How units are drawn: uniformly; by strata of predicted classes; by strata of error
    probability; by importance, with replacement; one after another; with fixed size; in adaptive
    waves."""
    budget: PositiveInt = 300
    """Units to draw."""
    defensive: float = Field(default=0.3, gt=0.0, le=1.0)
    """Share of the labels drawn uniformly, against errors where none are expected; 0.5 to
    certify."""
    width: float | None = Field(default=None, gt=0.0, lt=1.0)
    """Desired width of the interval, for which `plan` gives the number of labels."""
    level: float = Field(default=0.95, gt=0.5, lt=1.0)
    """Confidence level: how often intervals should cover the pool's error rate."""
    unclear: Literal["refuse", "wrong", "right"] = "refuse"
    """How to count units whose class nobody could determine."""
    experiment: ExperimentSettings = ExperimentSettings()
    rare: RareSettings = RareSettings()
