"""Runs a target on a batch of tiles of which some may have no valid answer."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from rs_lowconf.errors import AnswerError, ModelError, by_reason
from rs_lowconf.types import TargetModel

WHOLE_STEP = 4
"""From this many tiles at once, at least one must have an answer; a single one may lack it."""
_ENOUGH = 16
"""Trajectories of a search before the share without an answer is meaningful."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """A target's answers for a batch."""

    rows: list[int]
    """The tiles with an answer, in order."""
    filled: list[int]
    """These, then copies of the first, up to the size of the batch."""
    log_probability: Float[Tensor, "b k *pixels"] | None
    """Log-probabilities of the tiles of `filled`; None if there are none."""
    without: dict[int, AnswerError]
    """Why the others have no answer."""

    @property
    def reasons(self) -> Counter[str]:
        """Return how many tiles have no answer, by reason."""
        return Counter(error.reason for error in self.without.values())


def ask(
    predict: Callable[[Float[Tensor, "b c h w"]], Float[Tensor, "b k *pixels"]],
    image: Float[Tensor, "b c h w"],
    count: int,
) -> Asked:
    """Run the target on the first tiles of a batch, and again without those that have no answer.

    Kernels depend on the batch's shape, so it keeps its size: gaps are filled with the first
    remaining tile.

    Args:
        predict: of the target.
        image: `count` tiles, then copies of the first that fill the batch.
        count: tiles to run.

    Raises:
        AnswerError: the target does not report which tiles have no answer.
    """
    rows, without = list(range(count)), dict[int, AnswerError]()
    while rows:
        filled = rows + rows[:1] * (len(image) - len(rows))
        try:
            prediction = predict(image[filled] if without else image)
        except AnswerError as error:
            bad = {filled[tile] for tile in error.tiles}
            if not bad:
                raise
            without |= dict.fromkeys(sorted(bad), error)
            rows = [row for row in rows if row not in bad]
        else:
            return Asked(rows=rows, filled=filled, log_probability=prediction, without=without)
    return Asked(rows=[], filled=[], log_probability=None, without=without)


class CountedTarget:
    """A target that counts the tiles it is asked about.

    Padding of a batch, and asking again without the tiles that have no answer, cost time but do
    not count.
    """

    def __init__(self, model: TargetModel) -> None:
        """Count the tiles that `model` is asked about, from 0 on."""
        self.model = model
        self.evaluations = 0

    def ask(self, image: Float[Tensor, "b c h w"], count: int) -> Asked:
        """Return the answers for the first `count` tiles of a batch; see `ask`."""
        self.evaluations += count
        return ask(self.model.predict, image, count)

    def predict(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k *pixels"]:
        """Return the log-probabilities of tiles."""
        self.evaluations += len(image)
        return self.model.predict(image)


def require_answers(reasons: Counter[str], tiles: int) -> None:
    """Reject a target without an answer for any tile of a search step.

    Args:
        reasons: how many tiles have no answer, by reason.
        tiles: of the step.

    Raises:
        ModelError: no tile has an answer, and there are `WHOLE_STEP` or more.
    """
    if tiles >= WHOLE_STEP and reasons.total() == tiles:
        raise _silent(f"any of the {tiles} tiles of a step", reasons)


def require_most(reasons: Counter[str], tiles: int) -> None:
    """Reject a target without an answer for more than half of the tiles so far.

    Args:
        reasons: how many have no answer, by reason.
        tiles: number of all tiles.

    Raises:
        ModelError: more than half have no answer.
    """
    if 2 * reasons.total() > tiles:
        raise _silent(f"{reasons.total():,} of {tiles:,} tiles", reasons)


class Unanswered:
    """Counts the tiles of a search without an answer, and ends it if they are the majority."""

    def __init__(self) -> None:
        """Start at 0."""
        self._tiles = self._searched = self._ended = 0
        self._reasons = Counter[str]()

    def add(self, tiles: int, reasons: Mapping[str, int], *, ended: bool) -> None:
        """Count a trajectory.

        Args:
            tiles: that the target was run on.
            reasons: how many of them have no answer, by reason.
            ended: whether the trajectory ended without an answer.

        Raises:
            ModelError: more than half of all tiles, or of all trajectories, have none.
        """
        self._tiles += tiles
        self._searched += tiles > 0
        self._ended += ended
        self._reasons.update(reasons)
        most = 2 * self._reasons.total() > self._tiles or 2 * self._ended > self._searched
        if most and self._searched >= _ENOUGH:
            raise _silent(
                f"{self._reasons.total():,} of {self._tiles:,} tiles, which ended {self._ended:,} "
                f"of {self._searched:,} trajectories",
                self._reasons,
            )


def _silent(what: str, reasons: Mapping[str, int]) -> ModelError:
    return ModelError(
        f"the target has no answer to {what}: {by_reason(reasons)}",
        expected="an answer to most tiles",
        remedy="correct the target, or its settings, such as target.input, mean, std and output",
    )
