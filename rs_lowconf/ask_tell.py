"""A search turned inside out: it hands out tiles, and the caller runs the model on them.

Searches are written as loops that call a target. Here that call waits, in a separate thread, until
the caller passes the answers, so the search is not implemented twice.
"""

import threading
from collections.abc import Mapping, Sequence
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
    """The caller closed the search; not an error of a model, which would be caught."""


class AskTell:
    """A search by `ask` and `tell`: for models that run elsewhere, or in another loop.

    The first tiles are synthetic, so that the search finds out what the model returns. Without
    gradients a student or splitting guides the search, see `search.method` in the settings.

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
        class_map: Mapping[str, str] | None = None,
        settings: SearchSettings | None = None,
    ) -> None:
        """Prepare a search; it starts with the first `ask`.

        Args:
            generator: draws the tiles.
            gate: of the generator.
            bands: of the model, in its order.
            classes: in the order of the model's answers.
            level: processing level of the model.
            returns: kind of the model's outputs.
            tau: a tile is hard when the model's largest probability is below this.
            count: hard tiles to stop at.
            conditions: to search; all of the generator's when missing.
            seed: of the search.
            folder: for the journal; a temporary one when missing.
            class_map: see `Search`.
            settings: all other settings.
        """
        self._bands = BandSpec(names=tuple(bands), level=level)
        self._classes = tuple(classes)
        self._asked = 0
        self._questions: Queue[Tensor | None] = Queue()
        self._answers: Queue[Tensor | None] = Queue()
        self._open = False
        """Whether tiles wait for their answers."""
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
                    class_map=class_map,
                    settings=settings,
                ).result()
            except BaseException as error:
                self._error = error
            self._questions.put(None)

        self._thread = threading.Thread(target=work, name="rs_lowconf search", daemon=True)

    def ask(self) -> TileBatch | None:
        """Return the next tiles to run the model on; None when the search has ended.

        Raises:
            RsLowconfError: the error that ended the search early.
            JobError: the previous tiles have no answers yet.
        """
        if self._open:
            raise JobError(
                "the tiles of the last ask have no answers yet", remedy="call tell first"
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
        """Pass the model's answers for the tiles of the last `ask`.

        Args:
            answers: one row per tile, one column per class; b k h w with a class per pixel.

        Raises:
            JobError: no tiles wait for answers.
            ModelError: the answers are not numbers.
        """
        if not self._open:
            raise JobError("no tiles wait for answers", remedy="call ask first")
        try:
            tensor = answers if isinstance(answers, Tensor) else torch.tensor(np.asarray(answers))
        except TypeError as error:
            raise ModelError("the answers are not numbers", expected="an array") from error
        self._open = False
        self._answers.put(tensor.detach())

    def result(self) -> SearchResult:
        """Return what was found, once `ask` has returned None.

        Raises:
            JobError: the search has not ended.
        """
        if self._result is None:
            raise JobError(
                "the search has not ended", remedy="call ask and tell until ask returns None"
            )
        return self._result

    def close(self) -> None:
        """End a search that will get no more answers; a finished one is kept."""
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
        """Hand out tiles and wait for the answers."""
        self._questions.put(image.detach().cpu())
        answers = self._answers.get()
        if answers is None:
            raise _StoppedError
        return answers.to(image.device)
