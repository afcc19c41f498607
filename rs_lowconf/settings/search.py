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
    """Search without gradients, which also says how probable low confidence is."""

    particles: int = Field(default=32, ge=4)
    """Latents of a population; each population is of one condition."""
    moves: PositiveInt = 3
    """Proposals to each copy on a level."""
    max_levels: PositiveInt = 25
    """Levels after which a population gives up; each has half the probability of the last."""
    drift: NonNegativeFloat = 0.5
    """Mode `sample` of a target with gradients: weight of these in a move; 0 does without."""
    replicates: PositiveInt = 2
    """Populations of each condition before the search may stop at search.count; from two on
    the probability has an interval."""


class StudentSettings(Section):
    """Search by the gradients of a student that learns the target's confidence."""

    first: PositiveInt = 512
    """Random latents that the target is asked about first."""
    rounds: NonNegativeInt = 4
    """Rounds in which it is asked about tiles at which the student expects low confidence."""
    each: PositiveInt = 128
    """Tiles of each of these rounds."""
    steps: PositiveInt = 300
    """Steps of learning, of 32 tiles each, after each round."""


class SearchSettings(Section):
    """Latent search for tiles the target is unsure of."""

    count: PositiveInt = 64
    """Accepted samples to stop at."""
    classes: tuple[str, ...] | None = None
    """Conditions to search, by name; all of the generator's when missing. Where a generator
    draws tiles of given masks, each of its masks is a condition."""
    most_conditions: PositiveInt | None = None
    """Search no more than so many conditions, random ones; no limit when missing."""
    method: Literal["auto", "gradient", "student", "splitting"] = "auto"
    """`gradient` follows the target's own gradients, `student` those of a network that learns
    its confidence, `splitting` needs none and says how probable low confidence is. `auto` takes
    the first where the target gives gradients; where not, a student in mode `yield` and
    splitting in mode `sample`."""
    splitting: SplittingSettings = SplittingSettings()
    student: StudentSettings = StudentSettings()
    mode: Literal["yield", "sample"] = "yield"
    """`yield` finds the most hard tiles for the budget; `sample` draws tiles of the prior
    given low confidence by splitting, for several times as many evaluations, and says how
    probable low confidence is. Where the target gives gradients, moves use them."""
    tau: float = Field(default=0.5, gt=0.0, lt=1.0)
    """A sample is of low confidence when the target's largest probability is below this."""
    pixel_share: float = Field(default=0.2, gt=0.0, le=1.0)
    """Targets that answer for every pixel: their confidence in a tile is the mean of the largest
    probabilities over this share of its pixels, the least certain ones."""
    region: Annotated[str | None, AfterValidator(class_name)] = None
    """Generators of tiles with given masks: the class over whose pixels the confidence is read,
    and masks without it are not searched; all known pixels when missing."""
    tau_quantile: float | None = Field(default=None, gt=0.0, lt=1.0)
    """Takes the place of tau: this quantile of the target's confidence on held-out reals;
    `rslow batch review`: on the scored tiles of the catalog."""
    per_condition: PositiveInt | None = None
    """Most samples of one condition; 1.25 times an equal share when missing."""
    per_cell: PositiveInt | None = 4
    """Most samples of one condition, second class of the target and cluster of looks."""
    novelty_quantile: float | None = Field(default=0.05, ge=0.0, le=1.0)
    """A tile that is nearer to one found before than this quantile of the distances of real
    tiles to their nearest other one is a duplicate; null keeps duplicates."""
    clusters: PositiveInt = 20
    """Clusters of looks, found among real tiles."""
    max_evaluations: PositiveInt = 50_000
    """Budget in evaluations of the target, the random-latent baseline not counted."""
    max_minutes: PositiveFloat = 30.0
    """Budget in minutes, of the search and then of the random-latent baseline together."""
    slots: PositiveInt = 16
    """Latents that move at the same time; more than a micro-batch pays on a GPU only."""
    micro_batch: PositiveInt = 16
    """Fixed, padded batch of every network pass, so that a sample is the same in any company."""
    learning_rate: PositiveFloat = 0.1
    """Step size of Adam on the latent."""
    max_age: PositiveInt = 40
    """Steps after which a latent that found nothing is given up."""
    realism_weight: NonNegativeFloat = 0.0
    """Weight of a penalty in the energy for what the generator's own discriminator finds unreal.
    It pays where the gate's critic rejects most of what is found; each step takes 1.5 times as
    long."""
    spectra_weight: NonNegativeFloat = 3.0
    """Weight of a penalty in the energy for spectra that real pixels do not have."""
    review_weight: NonNegativeFloat = 3.0
    """Weight of a penalty in the energy for what reviewers would reject; it has no effect before
    the first update by reviews."""
    mixing_steps: PositiveInt = 10
    """Mode `sample`: moves of a population that has arrived, which let copies forget each other."""
    false_rejection: float = Field(default=0.05, gt=0.0, lt=0.5)
    """Share of held-out real tiles that all parts of the gate together may reject."""
    prior_tail: float = Field(default=0.01, gt=0.0, lt=0.5)
    """Each latent is kept inside the central 1 - prior_tail of the prior's norm."""
    update: NonNegativeInt | None = None
    """Which update of the gate by reviews to use: 0 for none, the newest when missing."""
    baseline_evaluations: NonNegativeInt = 2_000
    """Random latents evaluated under the same gate for comparison; 0 leaves the baseline out."""


class ReviewSettings(Section):
    """The package that a person judges in QGIS."""

    label: Literal["confirm", "blind"] = "confirm"
    """`confirm`: the reviewer confirms or corrects a suggested class; `blind`: names it unseen."""
    max_samples: PositiveInt = Field(default=500, le=500)
    """Samples in one package; more make reviews long and QGIS slow."""
    round: PositiveInt | None = None
    """Round of reviews that the package belongs to; each round draws other latents. One more
    than the gate's update when missing."""
    real_share: float = Field(default=0.3, ge=0.0, lt=1.0)
    """Blind packages: share of real held-out tiles, which measure how often a reviewer takes
    reality for a fake. Without data there are none."""
    audit_share: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Blind packages: share of tiles that the gate rejected; without them nobody would learn
    what the gate rejects wrongly."""


class TestsetSettings(Section):
    """Releases of the test set."""

    licence: Annotated[str, Field(pattern=r"\S")] | None = None
    """Licence of the tiles of a release, which whoever publishes them chooses: an identifier of
    SPDX such as CC-BY-4.0, or the text. `rslow testset build` needs it."""


class InversionSettings(Section):
    """How the latent of a real tile is looked for."""

    steps: NonNegativeInt = 150
    """Steps of Adam from the encoder's guess."""
    learning_rate: PositiveFloat = 0.1
    """Step size of Adam."""
    quantile: float = Field(default=0.05, gt=0.0, lt=1.0)
    """A tile is redrawn well enough if it is nearer to the real one, in pixels and in features,
    than this quantile of pairs of real tiles of its class are to each other. Others are reported
    and get no variants."""


class VariantSettings(Section):
    """Hard variants of the real tiles of a catalog: `rslow batch generate`."""

    inversion: InversionSettings = InversionSettings()
    count: PositiveInt = 5
    """Variants of a tile at most."""
    attempts: PositiveInt = 10
    """Latents that are searched for them; the first starts at the tile itself."""
    reach: float = Field(default=0.3, gt=0.0, lt=1.0)
    """Share of fresh noise in the latents that the others start from."""
    budget: float = Field(default=0.2, gt=0.0, lt=1.0)
    """A variant has to be nearer to its tile, in pixels and in features, than this quantile of
    pairs of real tiles of its class are to each other."""
    weight: NonNegativeFloat = 3.0
    """Weight of a penalty in the energy near the end of that budget."""

    @model_validator(mode="after")
    def _fits(self) -> "VariantSettings":
        if self.budget < self.inversion.quantile:
            raise ValueError("variants.budget is below variants.inversion.quantile")
        if self.attempts < self.count:
            raise ValueError("variants.attempts is below variants.count")
        return self
