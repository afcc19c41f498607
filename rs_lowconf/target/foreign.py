"""The adapter that makes any model from elsewhere a `TargetModel`."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from rs_lowconf.bands import BandSpec
from rs_lowconf.errors import ModelError
from rs_lowconf.settings import TargetSettings
from rs_lowconf.target.origin import in_a_line
from rs_lowconf.target.windows import cut, mirrored, resized

_PROBE_TILES = 3
_DN_PER_REFLECTANCE = 10_000.0


class ForeignTarget:
    """Feeds a model what it was trained on and turns what it returns into log-probabilities.

    The caller selects and orders bands (`check_fit`); here reflectance becomes the model's
    input: unit, size, mean and std. A model of two classes may return one number, for or against
    the second.
    """

    def __init__(
        self,
        function: Callable[[Tensor], object],
        settings: TargetSettings,
        *,
        tile_size: int,
        device: torch.device,
    ) -> None:
        """Wrap `function` and probe it with a few tiles, which are not counted as evaluations.

        Args:
            function: a module in eval mode on `device`, or anything else that takes and returns
                tensors there.
            settings: bands, classes, input and output of the model.
            tile_size: side in pixels of the tiles that will come.
            device: where the model computes.

        Raises:
            ModelError: the model fails on such tiles, returns something other than `settings`
                says, or mixes up the tiles of a batch.
        """
        self.bands = BandSpec(names=settings.bands or (), level=settings.level)
        self.classes = settings.classes or ()
        self.evaluations = 0
        self._function = function
        self._settings = settings
        self._device = device
        self._mean = _per_band(settings.mean, 0.0, device)
        self._std = _per_band(settings.std, 1.0, device)
        self.differentiable = False
        self.pixelwise, self.differentiable = self._probe(tile_size)

    def predict(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k *pixels"]:
        """Return log-probabilities at the set temperature, on the target's device.

        Raises:
            ModelError: the model fails; its output is not one number a tile and class (or a
                tile, class and pixel, whichever it was at first), is not finite, or is said to
                be probabilities and is not.
        """
        self.evaluations += len(image)
        with torch.set_grad_enabled(self.differentiable and torch.is_grad_enabled()):
            return torch.cat(
                [self._part(part) for part in torch.split(image, self._settings.batch_size)]
            )

    def _part(self, image: Tensor) -> Tensor:
        output = self._raw(image)
        if (output.ndim == 4) != self.pixelwise:
            raise ModelError(
                f"the target returns shape {tuple(output.shape)}, at first it answered for "
                f"{'every pixel' if self.pixelwise else 'whole tiles'}",
                expected="the same form of answer to every batch",
            )
        if self._settings.output == "probabilities":
            output = _logarithm(output)
        return torch.log_softmax(output / self._settings.temperature, dim=1)

    def _raw(self, image: Tensor) -> Tensor:
        """Return the model's own output for reflectance, checked, on the pixels of `image`."""
        settings = self._settings
        image = image.to(self._device)
        size = image.shape[-1]
        side = settings.input_size or size
        fit = mirrored if settings.input_fit == "mirror" else resized
        window = fit(image, side)
        if settings.input == "digital_numbers":
            window = window * _DN_PER_REFLECTANCE
        output = self._answer((window - self._mean) / self._std)
        output = _checked(output, (len(image), len(self.classes)), (side, side))
        if output.shape[1] < len(self.classes):
            output = _both_sides(output, settings.output)
        output = output.float()
        if output.ndim == 4:
            output = cut(output, size) if fit is mirrored else resized(output, size)
        return output

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
        """Check the model on made-up tiles.

        Returns:
            Whether it answers for every pixel, and whether gradients reach the image.
        """
        generator = torch.Generator().manual_seed(0)
        shape = (_PROBE_TILES, len(self.bands), tile_size, tile_size)
        # Unlike each other in brightness, so that batch statistics would show.
        brightness = torch.tensor([0.05, 0.2, 0.8])[:, None, None, None]
        image = brightness * (0.5 + torch.rand(shape, generator=generator))
        image = image[: self._settings.batch_size]
        with torch.enable_grad():
            image.requires_grad_()
            first = self._raw(image)
        with torch.no_grad():
            alone = self._raw(image[:1])
        if first[:1].shape != alone.shape or not torch.allclose(
            first[:1], alone, rtol=1e-2, atol=1e-2
        ):
            raise ModelError(
                "the target answers differently for a tile alone and in a batch",
                expected="the same answer in any company, without dropout or batch statistics",
            )
        if self._settings.output == "probabilities":
            _logarithm(first.detach())
        elif _looks_like_probabilities(first.detach()):
            raise ModelError(
                "the target returns probabilities where target.output says logits",
                remedy="set target.output=probabilities",
            )
        if not first.requires_grad:
            return first.ndim == 4, False
        (gradient,) = torch.autograd.grad(first.square().sum(), image, allow_unused=True)
        return first.ndim == 4, gradient is not None


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
            expected=f"{shape}, one number a tile and class, or {(*shape, *pixels)}, one a pixel",
            remedy="check target.classes",
        )
    if not torch.isfinite(output).all():
        raise ModelError(
            "the target returns NaN or infinity",
            remedy="check target.input, target.mean and target.std",
        )
    return output


def _both_sides(one: Tensor, output: str) -> Tensor:
    """Return the numbers of both classes for that of the second."""
    other = 1 - one if output == "probabilities" else torch.zeros_like(one)
    return torch.cat([other, one], dim=1)


def _looks_like_probabilities(output: Tensor) -> bool:
    """Return whether what should be logits is a distribution, or one class's share of it."""
    alone = output.shape[1] == 2 and not output[:, 0].any()
    return _is_distribution(output) or (alone and bool(((output >= 0) & (output <= 1)).all()))


def _is_distribution(output: Tensor) -> bool:
    sums = output.sum(1)
    sums_to_one = torch.allclose(sums, torch.ones_like(sums), atol=1e-3)
    return sums_to_one and bool((output >= -1e-6).all())


def _logarithm(probability: Tensor) -> Tensor:
    """Return logarithms that are finite: a probability of 0 counts as the smallest float."""
    if not _is_distribution(probability.detach()):
        sums = probability.detach().sum(1)
        raise ModelError(
            f"the target's outputs sum to {sums.min():.3g} .. {sums.max():.3g} "
            f"with a smallest value of {probability.detach().min():.3g}",
            expected="probabilities, at least 0 and of sum 1",
            remedy="set target.output=logits if it returns logits",
        )
    return probability.clamp_min(torch.finfo(torch.float32).tiny).log()
