"""The adapter that makes any external model a `TargetModel`."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from rs_lowconf.bands import PRODUCT_SCALE, BandSpec
from rs_lowconf.boundary import in_a_line
from rs_lowconf.errors import AnswerError, ModelError
from rs_lowconf.settings import ModelFormat
from rs_lowconf.target.answers import (
    WHOLES,
    are_distributions,
    are_shares,
    log_odds_of,
    log_probabilities,
    logarithm,
    require,
    require_finite,
)
from rs_lowconf.target.windows import cut, mirrored, resized

_PROBE_TILES = 3


class ForeignTarget:
    """Converts tiles to a model's input and its output to log-probabilities.

    The caller selects and orders bands (`check_fit`); here reflectance becomes the model's
    input: unit, size, mean and std. A model of two classes may return one number, for or against
    the second.
    """

    def __init__(
        self,
        function: Callable[[Tensor], object],
        settings: ModelFormat,
        *,
        tile_size: int,
        device: torch.device,
    ) -> None:
        """Wrap `function` and probe it with a few tiles.

        Args:
            function: a module in eval mode on `device`, or anything else that takes and returns
                tensors there.
            settings: bands, classes, input and output of the model.
            tile_size: side in pixels of the tiles to predict.
            device: where the model computes.

        Raises:
            ModelError: the model fails on such tiles, returns something other than `settings`
                states, or mixes the tiles of a batch.
        """
        self.bands = BandSpec(names=settings.bands, level=settings.level)
        self.classes = settings.classes
        self._function = function
        self._settings = settings
        self._device = device
        self._mean = _per_band(settings.mean, 0.0, device)
        self._std = _per_band(settings.std, 1.0, device)
        self._whole = 1.0
        """The sum of the model's probabilities, found by the probe."""
        self._fit = mirrored if settings.input_fit == "mirror" else resized
        self.differentiable = False
        self.pixelwise, self.differentiable = self._probe(tile_size)

    def predict(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k *pixels"]:
        """Return log-probabilities at the set temperature, on the target's device.

        Raises:
            ModelError: the model fails, or its output is not one number per tile and class (or per
                tile, class and pixel, whichever the probe found).
            AnswerError: for some tiles it is not finite, or does not match `target.output`.
        """
        size, answers = self._settings.batch_size, []
        with torch.set_grad_enabled(self.differentiable and torch.is_grad_enabled()):
            for start in range(0, len(image), size):
                try:
                    answers.append(self._part(image[start : start + size]))
                except AnswerError as error:
                    error.tiles = tuple(start + tile for tile in error.tiles)
                    raise
        return torch.cat(answers)

    def _part(self, image: Tensor) -> Tensor:
        output = self._numbers(image)
        if (output.ndim == 4) != self.pixelwise:
            raise ModelError(
                f"the target returns shape {tuple(output.shape)}, but at first predicted one "
                f"class per {'pixel' if self.pixelwise else 'tile'}",
                expected="outputs of the same form for every batch",
            )
        return log_probabilities(self._logits(output, image.shape[-1]), self._settings.temperature)

    def _numbers(self, image: Tensor) -> Tensor:
        """Return the model's raw output for reflectance: finite and of an allowed shape."""
        settings = self._settings
        image = image.to(self._device)
        side = settings.input_size or image.shape[-1]
        window = self._fit(image, side)
        if settings.input == "digital_numbers":
            window = window * PRODUCT_SCALE
        output = self._answer((window - self._mean) / self._std)
        return _checked(output, (len(image), len(self.classes)), (side, side))

    def _logits(self, output: Tensor, size: int) -> Tensor:
        """Return logits of all classes on `size` pixels for the model's raw output."""
        kind, one = self._settings.output, output.shape[1] < len(self.classes)
        if kind == "probabilities":
            good = are_shares(output) if one else are_distributions(output, self._whole)
            _require_as_said(good, output, "probabilities that are at least 0 and sum to 1 or 100")
            output = output / self._whole
            output = torch.cat([1 - output, output], dim=1) if one else output
        elif kind == "sigmoid":
            _require_as_said(are_shares(output), output, "a number from 0 to 1 per class")
            output = log_odds_of(output)
        if one and kind != "probabilities":
            output = torch.cat([torch.zeros_like(output), output], dim=1)
        if output.ndim == 4:
            output = cut(output, size) if self._fit is mirrored else resized(output, size)
        return (logarithm(output) if kind == "probabilities" else output).float()

    def _answer(self, image: Tensor) -> object:
        try:
            return self._function(image)
        except ModelError:
            raise
        except (Exception, SystemExit) as error:  # foreign code may raise anything
            n, c, side = image.shape[:3]
            raise ModelError(
                f"the target rejects {n} tiles of {c} bands and {side} pixels ({in_a_line(error)})",
                expected="a model that takes batches of any number of such tiles",
                remedy="check target.bands, target.input_size and target.batch_size",
            ) from error

    def _probe(self, tile_size: int) -> tuple[bool, bool]:
        """Check the model on synthetic tiles.

        Returns:
            Whether it predicts a class per pixel, and whether gradients reach the image.
        """
        generator = torch.Generator().manual_seed(0)
        shape = (_PROBE_TILES, len(self.bands), tile_size, tile_size)
        # Of different brightness, so that batch statistics would show.
        brightness = torch.tensor([0.05, 0.2, 0.8])[:, None, None, None]
        image = brightness * (0.5 + torch.rand(shape, generator=generator))
        with torch.enable_grad():
            image.requires_grad_()
            parts = [self._numbers(part) for part in torch.split(image, self._settings.batch_size)]
        first, together = parts[0], torch.cat(parts).detach()
        # All of them: of few outputs, dropout leaves those of one tile as they were by chance.
        with torch.no_grad():
            alone = torch.cat([self._numbers(tile) for tile in torch.split(image, 1)])
        if together.shape != alone.shape or not torch.allclose(
            together, alone, rtol=1e-2, atol=1e-2
        ):
            raise ModelError(
                "the target answers differently for a tile alone and in a batch",
                expected="answers independent of what else is in the batch, without dropout or "
                "batch statistics",
            )
        self._whole = self._scale_of(together)
        if not first.requires_grad:
            return first.ndim == 4, False
        (gradient,) = torch.autograd.grad(first.square().sum(), image, allow_unused=True)
        return first.ndim == 4, gradient is not None

    def _scale_of(self, output: Tensor) -> float:
        """Return the sum of probabilities, after checking that outputs match `target.output`.

        Raises:
            ModelError: they look like something else.
        """
        kind = self._settings.output
        one = output.shape[1] < len(self.classes)
        whole = next((w for w in WHOLES if not one and are_distributions(output, w).all()), None)
        if whole is not None:
            if kind != "probabilities":
                raise ModelError(
                    f"the target returns probabilities that sum to {whole:g}, but target.output "
                    f"is {kind}",
                    remedy="set target.output=probabilities",
                )
            return whole
        if kind == "logits" and are_shares(output).all():
            raise ModelError(
                f"all outputs of the target are in 0 .. 1 ({_range(output)}), like "
                "probabilities, but target.output is logits",
                remedy="set target.output=probabilities if they sum to 1 per tile, or sigmoid if "
                "classes are independent; if they are logits in this range by "
                "coincidence, shift them by any number, such as -1",
            )
        self._logits(output, output.shape[-1])  # raises the precise error
        return 1.0


def _per_band(values: tuple[float, ...] | None, default: float, device: torch.device) -> Tensor:
    return torch.tensor(values or (default,), device=device)[:, None, None]


def _checked(output: object, shape: tuple[int, int], pixels: tuple[int, int]) -> Tensor:
    """Return finite numbers b k or b k h w; for two classes there may be one, b 1 or b 1 h w."""
    n, k = shape
    if not isinstance(output, Tensor):
        raise ModelError(
            f"the target returns a {type(output).__name__}",
            expected=f"numbers of shape {shape} or {(*shape, *pixels)}",
        )
    allowed = [shape, (*shape, *pixels)]
    if k == 2:
        if tuple(output.shape) in ((n,), (n, *pixels)):
            output = output[:, None]
        allowed += [(n, 1), (n, 1, *pixels)]
    if tuple(output.shape) not in allowed:
        raise ModelError(
            f"the target returns shape {tuple(output.shape)}",
            expected=f"{shape}, one number per tile and class, or {(*shape, *pixels)}, one per "
            "pixel",
            remedy="check target.classes",
        )
    output = output if output.dtype == torch.float64 else output.float()
    require_finite(output, remedy="check target.input, target.mean and target.std")
    return output


def _require_as_said(good: Tensor, output: Tensor, expected: str) -> None:
    """Reject the tiles whose outputs do not match `target.output`."""
    if not good.all():
        bad = output[~good.reshape(len(good), -1).all(dim=1)].detach()
        require(
            good,
            f"the target's outputs are {_range(bad)} and sum to {_range(bad.sum(dim=1))}",
            expected=expected,
            remedy="set target.output to what the model returns: logits, probabilities or sigmoid",
            reason=f"the target's outputs do not match target.output: {expected}",
        )


def _range(numbers: Tensor) -> str:
    return f"{numbers.min():.3g} .. {numbers.max():.3g}"
