"""A search turned inside out: it hands out tiles, and whoever runs the model tells the answers.

Searches are written as loops that call a target. Here that call waits, in a thread of its own,
until somebody has told the answer, so nothing of a search has to be written twice.
"""

import threading
from collections.abc import Sequence
from pathlib import Path
from queue import Queue
from types import TracebackType
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from rs_lowconf.api import Generator, RealismGate, Search, SearchResult, load_target
from rs_lowconf.bands import BandSpec, Level
from rs_lowconf.errors import JobError, ModelError
from rs_lowconf.settings import SearchSettings
from rs_lowconf.types import TileBatch


class _StoppedError(BaseException):
    """Nobody will tell answers any more; no error of a model, which would be caught."""


class AskTell:
    """Searches by asking for answers: for models that run elsewhere, or in another's loop.

    The first questions are made-up tiles, by which the search finds out what the model returns.
    Without gradients a student or splitting leads, see `search.method` in the settings.

    Example:
        >>> import rs_lowconf as rl
        >>> generator = rl.load_generator()
        >>> def my_model(tiles):
        ...     light = 20 * tiles.numpy().mean((1, 2, 3)) - 2
        ...     return np.stack([-light, light], 1)
        >>> settings = rl.SearchSettings(student={"first": 16, "rounds": 0, "steps": 5})
        >>> search = rl.AskTell(
        ...     generator, rl.load_gate(generator), bands=("B04", "B03", "B02"),
        ...     classes=("dark", "bright"), tau=0.9, count=1, settings=settings,
        ... )
        >>> with search:
        ...     while (tiles := search.ask()) is not None:
        ...         search.tell(my_model(tiles))
        >>> len(search.result())
        1
    """

    def __init__(
        self,
        generator: Generator,
        gate: RealismGate,
        *,
        bands: Sequence[str],
        classes: Sequence[str],
        level: Level = "L1C",
        returns: Literal["logits", "probabilities", "sigmoid"] = "logits",
        tau: float = 0.5,
        count: int = 64,
        conditions: Sequence[str] | None = None,
        seed: int = 0,
        folder: Path | str | None = None,
        settings: SearchSettings | None = None,
    ) -> None:
        """Prepare a search; it begins with the first question.

        Args:
            generator: draws the tiles.
            gate: of the generator.
            bands: that the model reads, in its order.
            classes: in the order of the model's answers.
            level: processing level that the model was made for.
            returns: what the answers are.
            tau: a tile is hard when the model's largest probability is below this.
            count: hard tiles to stop at.
            conditions: to search; all of the generator's when missing.
            seed: of the search.
            folder: for the journal; a temporary one when missing.
            settings: everything else.
        """
        self._bands = BandSpec(names=tuple(bands), level=level)
        self._classes = tuple(classes)
        self._asked = 0
        self._questions: Queue[Tensor | None] = Queue()
        self._answers: Queue[Tensor | None] = Queue()
        self._open = False
        """Whether a question waits for its answer."""
        self._result: SearchResult | None = None
        self._error: BaseException | None = None

        def work() -> None:
            try:
                target = load_target(
                    self._wait,
                    bands=bands,
                    classes=classes,
                    level=level,
                    returns=returns,
                    tile_size=generator.tile_size,
                )
                self._result = Search(
                    generator,
                    target,
                    gate,
                    tau=tau,
                    count=count,
                    conditions=conditions,
                    seed=seed,
                    folder=folder,
                    settings=settings,
                ).result()
            except BaseException as error:
                self._error = error
            self._questions.put(None)

        self._thread = threading.Thread(target=work, name="rs_lowconf search", daemon=True)

    def ask(self) -> TileBatch | None:
        """Return the next tiles that an answer is needed for; None when the search has ended.

        Raises:
            RsLowconfError: what ended the search before its time.
            JobError: the tiles before have no answer yet.
        """
        if self._open:
            raise JobError(
                "the tiles that were asked about last have no answer", remedy="call tell first"
            )
        if not self._thread.is_alive() and self._thread.ident is None:
            self._thread.start()
        image = None if self._ended else self._questions.get()
        if image is None:
            self._thread.join()
            if self._error is not None:
                raise self._error
            return None
        self._open = True
        first = self._asked
        self._asked += len(image)
        return TileBatch(
            image=image,
            bands=self._bands,
            ids=tuple(f"question-{first + number}" for number in range(len(image))),
            classes=self._classes,
        )

    def tell(self, answers: ArrayLike | Tensor) -> None:
        """Answer the tiles that were asked about last.

        Args:
            answers: one row per tile, one column per class; for every pixel b k h w.

        Raises:
            JobError: there is no such question.
            ModelError: the answers are no numbers.
        """
        if not self._open:
            raise JobError("no tiles wait for an answer", remedy="call ask first")
        try:
            told = answers if isinstance(answers, Tensor) else torch.tensor(np.asarray(answers))
        except TypeError as error:
            raise ModelError("the answers are no numbers", expected="an array") from error
        self._open = False
        self._answers.put(told.detach())

    def result(self) -> SearchResult:
        """Return what was found, once `ask` has returned None.

        Raises:
            JobError: the search has not ended.
        """
        if self._result is None:
            raise JobError("the search has not ended", remedy="go on until ask returns None")
        return self._result

    def close(self) -> None:
        """End a search that nobody will tell answers any more; one that has ended stays."""
        if self._thread.is_alive():
            self._answers.put(None)
            self._thread.join()
            self._open = False

    def __enter__(self) -> "AskTell":
        """Return this search, to be closed at the end of the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the search."""
        self.close()

    @property
    def _ended(self) -> bool:
        return self._result is not None or self._error is not None

    def _wait(self, image: Tensor) -> Tensor:
        """Hand out tiles and wait for the answer."""
        self._questions.put(image.detach().cpu())
        told = self._answers.get()
        if told is None:
            raise _StoppedError
        return told.to(image.device)
