"""Settings of searches, of variants of real tiles, and of what reviewers get."""

from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from rs_lowconf.settings.section import Section
from rs_lowconf.vocabulary import class_name


class SplittingSettings(Section):
    """Search without gradients, which also estimates the probability of low confidence."""

    particles: int = Field(default=32, ge=4)
    """Latents of a population; each population has one condition."""
    moves: PositiveInt = 3
    """Proposals for each copy per level."""
    max_levels: PositiveInt = 25
    """Levels after which a population is abandoned; each has half the probability of the previous
    one."""
    drift: NonNegativeFloat = 0.5
    """Mode `sample` with a differentiable target: weight of gradients in a move; 0: none."""
    replicates: PositiveInt = 2
    """Populations of each condition before the search may stop at search.count; two or more give
    the probability an interval."""


class StudentSettings(Section):
    """Search by the gradients of a student that is trained on the target's confidence."""

    first: PositiveInt = 512
    """Random latents whose tiles the target evaluates first."""
    rounds: NonNegativeInt = 4
    """Rounds of tiles where the student expects low confidence."""
    each: PositiveInt = 128
    """Tiles of each of these rounds."""
    steps: PositiveInt = 300
    """Training steps of 32 tiles each after each round."""

    @property
    def evaluations(self) -> int:
        """Return how many evaluations of the target it learns from."""
        return self.first + self.rounds * self.each


class SearchSettings(Section):
    """Latent search for tiles that the target is unsure of."""

    count: PositiveInt = 64
    """Accepted samples to stop at."""
    conditions: tuple[str, ...] | None = None
    """Conditions to search, by name; default is all of the generator's. If a generator is
    conditioned on masks, each of its masks is a condition."""
    most_conditions: PositiveInt | None = None
    """Search at most this many conditions, chosen at random; default is no limit."""
    method: Literal["auto", "gradient", "student", "splitting"] = "auto"
    """`gradient` follows the target's gradients, `student` those of a network that is trained on
    its confidence, `splitting` needs none and estimates the probability of low confidence. `auto`
    uses gradients if the target has them, else a student in mode `yield` and splitting in mode
    `sample`."""
    splitting: SplittingSettings = SplittingSettings()
    student: StudentSettings = StudentSettings()
    mode: Literal["yield", "sample"] = "yield"
    """`yield` finds the most hard tiles for the budget; `sample` draws tiles of the prior
    given low confidence by splitting, for several times as many evaluations, and estimates the
    probability of low confidence. If the target has gradients, moves use them."""
    tau: float = Field(default=0.5, gt=0.0, lt=1.0)
    """A sample is of low confidence when the target's largest probability is below this."""
    pixel_share: float = Field(default=0.2, gt=0.0, le=1.0)
    """Targets that predict a class per pixel: their confidence in a tile is the mean of the largest
    probabilities over this share of its pixels, the least certain ones."""
    region: Annotated[str | None, AfterValidator(class_name)] = None
    """Generators conditioned on masks: the class over whose pixels the confidence is read, while
    masks without it are not searched; default is all known pixels."""
    tau_quantile: float | None = Field(default=None, gt=0.0, lt=1.0)
    """Replaces tau by this quantile of the target's confidence on held-out real tiles; in `rslow
    batch review` on the scored tiles of the catalog."""
    per_condition: PositiveInt | None = None
    """Most samples of one condition; default is 1.25 times an equal share."""
    per_cell: PositiveInt | None = 4
    """Most samples of one condition, second class of the target and feature cluster."""
    novelty_quantile: float | None = Field(default=0.05, ge=0.0, le=1.0)
    """A tile is a duplicate if it is nearer to an earlier one than this quantile of the
    nearest-neighbour distances of real tiles; null keeps duplicates."""
    clusters: PositiveInt = 20
    """Number of feature clusters of real tiles."""
    max_evaluations: PositiveInt = 50_000
    """Budget in evaluations of the target, the random-latent baseline not counted."""
    max_minutes: PositiveFloat = 30.0
    """Budget in minutes, of the search and then of the random-latent baseline together."""
    slots: PositiveInt = 16
    """Latents that move at the same time; more than a micro-batch is only worthwhile on a GPU."""
    micro_batch: PositiveInt = 16
    """Fixed, padded batch of every network pass, so that a sample is independent of what else is in
    the batch."""
    learning_rate: PositiveFloat = 0.1
    """Step size of Adam on the latent."""
    max_age: PositiveInt = 40
    """Steps after which a latent without a find is abandoned."""
    realism_weight: NonNegativeFloat = 0.0
    """Weight of a penalty in the energy for tiles that the generator's discriminator rates as
    unreal. Worthwhile if the gate's critic rejects most tiles that are found; each step takes 1.5
    times as long."""
    spectra_weight: NonNegativeFloat = 3.0
    """Weight of a penalty in the energy for spectra that real pixels do not have."""
    review_weight: NonNegativeFloat = 3.0
    """Weight of a penalty in the energy for tiles that reviewers would reject; no effect before the
    first update from reviews."""
    mixing_steps: PositiveInt = 10
    """Mode `sample`: moves of a population that has arrived, which decorrelate copies."""
    false_rejection: float = Field(default=0.05, gt=0.0, lt=0.5)
    """Share of held-out real tiles that all parts of the gate together may reject."""
    prior_tail: float = Field(default=0.01, gt=0.0, lt=0.5)
    """Each latent is kept inside the central 1 - prior_tail of the prior's norm."""
    update: NonNegativeInt | None = None
    """Which update of the gate from reviews to use: 0 for none; default is the newest."""
    baseline_evaluations: NonNegativeInt = 2_000
    """Random latents evaluated under the same gate for comparison; 0: no baseline."""


class ReviewSettings(Section):
    """The package that people review in QGIS."""

    mode: Literal["confirm", "blind"] = "confirm"
    """`confirm`: the reviewer confirms or corrects a suggested class; `blind`: chooses the class
    without a suggestion."""
    max_samples: PositiveInt = Field(default=500, le=500)
    """Most samples in one package; more make reviews long and QGIS slow."""
    round: PositiveInt | None = None
    """Round of reviews that the package belongs to; each round draws different latents. Default is
    one more than the gate's update."""
    real_share: float = Field(default=0.3, ge=0.0, lt=1.0)
    """Blind packages: share of real held-out tiles, which measure how often a reviewer takes a real
    tile for a fake. Without data there are none."""
    audit_share: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Blind packages: share of tiles that the gate rejected, which show what the gate rejects
    wrongly."""


class TestsetSettings(Section):
    """Releases of the test set."""

    licence: Annotated[str, Field(pattern=r"\S")] | None = None
    """Licence of the tiles of a release, chosen by their publisher: an SPDX identifier such as
    CC-BY-4.0, or the text. `rslow testset build` needs it."""


class InversionSettings(Section):
    """How the latent of a real tile is found."""

    steps: NonNegativeInt = 150
    """Steps of Adam from the encoder's guess."""
    learning_rate: PositiveFloat = 0.1
    """Step size of Adam."""
    quantile: float = Field(default=0.05, gt=0.0, lt=1.0)
    """A reconstruction is good enough if its distance to the real tile, in pixels and in features,
    is below this quantile of the distances between real tiles of its class. Other tiles are
    reported and get no variants."""


class VariantSettings(Section):
    """Hard variants of the real tiles of a catalog: `rslow batch generate`."""

    inversion: InversionSettings = InversionSettings()
    count: PositiveInt = 5
    """Maximum variants per tile."""
    attempts: PositiveInt = 10
    """Starting latents tried per tile; the first is that of the tile itself."""
    reach: float = Field(default=0.3, gt=0.0, lt=1.0)
    """Share of fresh noise in the other starting latents."""
    budget: float = Field(default=0.2, gt=0.0, lt=1.0)
    """The distance of a variant to its tile, in pixels and in features, has to be below this
    quantile of the distances between real tiles of its class."""
    weight: NonNegativeFloat = 3.0
    """Weight of a penalty in the energy near the end of that budget."""

    @model_validator(mode="after")
    def _fits(self) -> "VariantSettings":
        if self.budget < self.inversion.quantile:
            raise ValueError("variants.budget is below variants.inversion.quantile")
        if self.attempts < self.count:
            raise ValueError("variants.attempts is below variants.count")
        return self
