"""Settings of what is measured: the generator, and the error rate of the target."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from rs_lowconf.settings.section import ClassNames, Section
from rs_lowconf.settings.training import ClassifierSettings, SegmenterSettings


class ReporterSettings(ClassifierSettings):
    """The reporter: wider than a target, so that its features tell more apart."""

    width: PositiveInt = 64


class PictureClassifierSettings(ClassifierSettings):
    """The classifier that learns from pictures: there are many, so fewer epochs do."""

    width: PositiveInt = 64
    epochs: PositiveInt = 20
    """Times that every training tile is shown."""
    batch_size: PositiveInt = 64
    """Tiles in one step of training."""


class EvaluateSettings(Section):
    """How the generator's quality is measured, on tiles drawn for nothing else."""

    split: Literal["test", "val"] = "test"
    """The real tiles that generated ones are compared with. `val` while models are still being
    chosen, so that the test split is used once, at the end."""
    tiles_per_class: PositiveInt = 100
    """Generated tiles a class that the figures are measured on."""
    reporter: ReporterSettings = ReporterSettings()
    """The network whose features the figures speak of; it selects and gates nothing."""
    classifier: ClassifierSettings = ClassifierSettings()
    """Trained on real and on generated tiles alike, for as many steps: `epochs` on real ones."""
    probe_tiles: PositiveInt = 1_000
    """With pictures in data.more: real and generated tiles, each, that the probe tells apart; the
    same number of every class."""
    picture_tiles: PositiveInt = 5_000
    """With pictures in data.more: generated tiles that KID, FD, precision and recall are measured
    on, beside as many real ones and the whole split."""
    cas_rgb: bool = False
    """With pictures in data.more: also train classifiers on real pictures, on as many generated
    ones and on pictures without texture, and compare their accuracy. It takes hours."""
    cas_seeds: PositiveInt = 3
    """Classifiers of each kind that cas_rgb trains."""
    cas_classifier: PictureClassifierSettings = PictureClassifierSettings()
    """The classifiers of cas_rgb."""
    segmenter: SegmenterSettings = SegmenterSettings()
    """Tiles with masks: the network that looks for the masks in generated and in real tiles; it
    selects and gates nothing."""


class ExperimentSettings(Section):
    """Replays of all designs on a pool whose labels are known: `rslow estimate experiment`."""

    budgets: Annotated[tuple[Annotated[float, Field(gt=0.0, lt=1.0)], ...], Field(min_length=1)] = (
        0.005,
        0.01,
        0.02,
    )
    """Labels, as shares of the pool."""
    repetitions: int = Field(default=200, ge=20)
    """Draws of each design at each budget."""
    blind: tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...] = (0.3, 1.0)
    """Shares of the errors that are hidden where none is expected, a stress test each."""
    validation: int = Field(default=5_000, ge=50)
    """Where estimate.validation names no table: random units that are taken out of the pool for
    it, a fifth of the pool at most."""
    random_latents: Path | None = None
    """Table of tiles from random latents, see `rslow estimate generated`: the paper's own arm."""


class RareSettings(Section):
    """How rare low confidence and disagreement are under the generator: `rslow estimate rare`."""

    thresholds: (
        Annotated[tuple[Annotated[float, Field(gt=0.0, lt=1.0)], ...], Field(min_length=1)] | None
    ) = None
    """Confidences whose probability to fall below is told: all above 1 / classes of the target,
    which no largest probability falls below; when missing, those of 0.99, 0.9, 0.7, 0.5 and 0.4."""
    classes: Annotated[ClassNames, Field(min_length=1)] | None = None
    """Conditions, by name; all of the generator's when missing."""
    replicates: PositiveInt = 10
    """Independent populations of latents of each condition, ten at least: the interval comes from
    how they scatter."""
    particles: PositiveInt = 100
    """Latents of a population: four times as many halve the interval."""
    survivors: PositiveInt = 20
    """Latents of a population that go on to the next level, ten at least; a divisor of
    particles."""
    max_levels: PositiveInt = 8
    """Levels after which a population gives up; each has survivors / particles of the probability
    of the last."""


class EstimateSettings(Section):
    """Error estimates from few labels."""

    scores: Path | None = None
    """Table of scores, Parquet or CSV: columns id, predicted, confidence and, where known, label
    and group. When missing, the pool is what `rslow batch score` scored, within batch.splits and
    batch.collections."""
    surrogates: tuple[Path, ...] = ()
    """Tables of other models' scores of the same units, which tell more of where the target
    errs."""
    validation: Path | None = None
    """Table of labelled units, drawn uniformly from units like the pool's: they tell what error
    probabilities are worth. Surrogates score them too."""
    generated: Path | None = None
    """Table of generated tiles with labels, such as samples.parquet of `rslow generate`: an error
    predictor learned from it is taken if validation labels say that it is better."""
    measure: Literal["confidence", "margin", "entropy"] = "confidence"
    """What tells how sure the target is; the other two need all probabilities."""
    classes: ClassNames = ()
    """True classes beside those that the target and the labels of the pool name."""
    design: Literal["uniform", "olofsson", "strat", "is", "lure", "asi", "adaptive"] = "strat"
    """How units are drawn: uniformly; by strata of predicted classes; by strata of error
    probability; with replacement; one after another; with fixed size; in waves that learn."""
    labels: PositiveInt = 300
    """Units to draw."""
    defensive: float = Field(default=0.3, gt=0.0, le=1.0)
    """Share of the labels drawn uniformly, against errors where none are expected; 0.5 to
    certify."""
    width: float | None = Field(default=None, gt=0.0, lt=1.0)
    """Wanted width of the interval, for which `plan` tells the labels."""
    level: float = Field(default=0.95, gt=0.5, lt=1.0)
    """How often intervals shall cover the pool's error rate."""
    unclear: Literal["refuse", "wrong", "right"] = "refuse"
    """What units count as whose class nobody could tell."""
    experiment: ExperimentSettings = ExperimentSettings()
    rare: RareSettings = RareSettings()
