"""What the target says of tiles that the generator draws of random latents: no gate, no search."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from rs_lowconf.asking import ask, require_most
from rs_lowconf.batch.jobs import TargetOf
from rs_lowconf.batches import fixed_batches
from rs_lowconf.class_map import ClassMap
from rs_lowconf.device import choose_device
from rs_lowconf.errors import ModelError
from rs_lowconf.estimate.rare import Score
from rs_lowconf.gan.model import load_generator
from rs_lowconf.places import model_path
from rs_lowconf.runs import sha256_of
from rs_lowconf.search.reading import log_odds
from rs_lowconf.settings import Settings
from rs_lowconf.target.load import check_fit
from rs_lowconf.types import TargetModel, TileGenerator
from rs_lowconf.vocabulary import class_list
from rs_lowconf.workflows.catalog import target_of


@dataclass(frozen=True, kw_only=True, eq=False)
class Law:
    """The generator's latent law as the target sees it."""

    generator: TileGenerator
    target: TargetModel
    class_map: ClassMap
    """Which classes of the generator and the target mean the same."""
    channels: tuple[int, ...]
    """The generator's channels that the target reads, in its order."""
    micro_batch: int
    """See `search.micro_batch`."""
    device: torch.device
    key: str
    """What answers depend on: checksums and settings of both models."""
    target_of: TargetOf
    """The target by name, as jobs know it."""
    asked: Counter[str] = field(default_factory=Counter)
    """Tiles that the target was asked about so far, by condition."""
    unanswered: Counter[str] = field(default_factory=Counter)
    """How many of all of them it has no answer to, by reason."""

    @property
    def dimensions(self) -> int:
        """Return the length of a latent, whose law is N(0, I)."""
        return sum(self.generator.latent_parts)

    @torch.no_grad()
    def answers(self, z: Float64[np.ndarray, "b d"], name: str) -> Float[Tensor, "b k"]:
        """Return the target's log-probabilities of tiles of one condition, on the CPU.

        Tiles are asked about as they are drawn, not rounded to stored numbers. Those without an
        answer are counted, and have NaN for each class.

        Args:
            z: latents.
            name: of the condition.

        Raises:
            ModelError: more than half of all tiles so far have no answer.
        """
        index, size = self.generator.classes.index(name), self.micro_batch
        label = torch.full((size,), index, device=self.device)
        answers = torch.full((len(z), len(self.target.classes)), torch.nan)
        start = 0
        for count, (part,) in fixed_batches(size, torch.from_numpy(z).float()):
            image = self.generator(part.to(self.device), label)
            asked = ask(self.target.predict, image[:, list(self.channels)], count)
            if asked.log_probability is not None:
                rows = start + torch.tensor(asked.rows)
                answers[rows] = asked.log_probability[: len(asked.rows)].cpu()
            self.unanswered.update(asked.reasons)
            start += count
        self.asked[name] += len(z)
        require_most(self.unanswered, self.asked.total())
        return answers

    def confidence(self, name: str) -> Score:
        """Return the log-odds of the confidence in tiles of a condition.

        They are below the log-odds of t where confidence is below t, which itself rounds to 1 in
        most tiles.
        """
        return lambda z: log_odds(self.answers(z, name)).double().numpy()

    def disagreement(self, name: str) -> Score | None:
        """Return the score of a condition that is below 0 where the target says another class.

        None where the target has no such class.
        """
        places = list(self.class_map.places(name, self.target.classes))
        if not places:
            return None

        def score(z: Float64[np.ndarray, "b d"]) -> Float64[np.ndarray, " b"]:
            said = self.answers(z, name).double()
            own = said[:, places].max(1).values
            said[:, places] = -torch.inf
            margin: Float64[np.ndarray, " b"] = (own - said.max(1).values).numpy()
            return margin

        return score


def load_law(settings: Settings, *, trust_code: bool) -> Law:
    """Load the generator and the target, and check that they fit each other.

    Raises:
        ModelError: one is missing, damaged, does not fit the other, or works with masks.
    """
    device, path = choose_device(settings.run), model_path(settings, "gan")
    generator, _ = load_generator(path, device)
    named = target_of(settings, trust_code=trust_code)
    target = named.load(generator.tile_size)
    if target.pixelwise:
        raise ModelError(
            "the target answers for every pixel", expected="one that gives a tile a class"
        )
    # A condition that the target has no class for is told of in the report.
    class_map = settings.target.common_names
    class_map.meet(
        class_list("the generator", generator.classes, error=ModelError),
        class_list("the target", target.classes, error=ModelError),
        error=ModelError,
    )
    size = settings.search.micro_batch
    return Law(
        generator=generator,
        target=target,
        class_map=class_map,
        channels=check_fit(target.bands, generator.bands),
        micro_batch=size,
        device=device,
        key=f"{sha256_of(path)} {named.key} {size}"
        + (f" {dict(class_map.names)}" if class_map.names else ""),
        target_of=named,
    )
