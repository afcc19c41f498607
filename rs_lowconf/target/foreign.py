"""The adapter that makes any torch module from elsewhere a `TargetModel`."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from rs_lowconf.bands import BandSpec
from rs_lowconf.errors import ModelError
from rs_lowconf.settings import TargetSettings

#: What a module of somebody else's raises on an input that it was not made for.
_MISFITS = (RuntimeError, ValueError, TypeError, AssertionError, IndexError, KeyError)

_PROBE_TILES = 3
_DN_PER_REFLECTANCE = 10_000.0


class ForeignTarget:
    """Feeds a module what it was trained on and turns what it returns into log-probabilities.

    The caller selects and orders bands (`check_fit`); here reflectance becomes the module's
    input: unit, size, mean and std.
    """

    def __init__(
        self, module: nn.Module, settings: TargetSettings, *, tile_size: int, device: torch.device
    ) -> None:
        """Wrap `module` and probe it with a few tiles, which are not counted as evaluations.

        Args:
            module: in eval mode, on `device`.
            settings: bands, classes, input and output of the module.
            tile_size: side in pixels of the tiles that will come.
            device: where the module computes.

        Raises:
            ModelError: the module rejects such tiles, returns something other than
                `settings` says, or mixes up the tiles of a batch.
        """
        self.bands = BandSpec(names=settings.bands or (), level=settings.level)
        self.classes = settings.classes or ()
        self.evaluations = 0
        self._module = module
        self._settings = settings
        self._device = device
        self._mean = _per_band(settings.mean, 0.0, device)
        self._std = _per_band(settings.std, 1.0, device)
        self.pixelwise = False
        self.differentiable = False
        self.differentiable = self._probe(tile_size)

    def predict(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Return log-probabilities at the set temperature, on the target's device.

        Raises:
            ModelError: the output has another shape than (tiles, classes), is not finite,
                or is said to be probabilities and is not.
        """
        self.evaluations += len(image)
        with torch.set_grad_enabled(self.differentiable and torch.is_grad_enabled()):
            return torch.cat(
                [self._part(part) for part in torch.split(image, self._settings.batch_size)]
            )

    def _part(self, image: Tensor) -> Tensor:
        output = self._raw(image)
        if self._settings.output == "probabilities":
            output = _logarithm(output)
        return torch.log_softmax(output / self._settings.temperature, dim=1)

    def _raw(self, image: Tensor) -> Tensor:
        """Return the module's own output for reflectance, checked."""
        settings = self._settings
        image = image.to(self._device)
        if settings.input == "digital_numbers":
            image = image * _DN_PER_REFLECTANCE
        if settings.input_size is not None and image.shape[-1] != settings.input_size:
            side = (settings.input_size, settings.input_size)
            image = F.interpolate(image, side, mode="bilinear", antialias=True)
        output = self._module((image - self._mean) / self._std)
        return _checked(output, (len(image), len(self.classes)))

    def _probe(self, tile_size: int) -> bool:
        """Check the module on made-up tiles; return whether gradients reach the image."""
        generator = torch.Generator().manual_seed(0)
        shape = (_PROBE_TILES, len(self.bands), tile_size, tile_size)
        # Unlike each other in brightness, so that batch statistics would show.
        brightness = torch.tensor([0.05, 0.2, 0.8])[:, None, None, None]
        image = brightness * (0.5 + torch.rand(shape, generator=generator))
        try:
            with torch.enable_grad():
                image.requires_grad_()
                first = self._raw(image)
            with torch.no_grad():
                alone = self._raw(image[:1])
        except _MISFITS as error:
            raise ModelError(
                f"the target rejects {_PROBE_TILES} tiles of {len(self.bands)} bands and "
                f"{tile_size} pixels ({' '.join(str(error).split())[:300]})",
                expected="a module that takes batches of any number of such tiles",
                remedy="check target.bands and target.input_size",
            ) from error
        if not torch.allclose(first[:1], alone, rtol=1e-2, atol=1e-2):
            raise ModelError(
                "the target answers differently for a tile alone and in a batch",
                expected="a module in eval mode, without dropout or batch statistics",
            )
        if self._settings.output == "probabilities":
            _logarithm(first.detach())
        elif _is_distribution(first.detach()):
            raise ModelError(
                "the target returns probabilities where target.output says logits",
                remedy="set target.output=probabilities",
            )
        if not first.requires_grad:
            return False
        (gradient,) = torch.autograd.grad(first.square().sum(), image, allow_unused=True)
        return gradient is not None


def _per_band(values: tuple[float, ...] | None, default: float, device: torch.device) -> Tensor:
    return torch.tensor(values or (default,), device=device)[:, None, None]


def _checked(output: object, shape: tuple[int, int]) -> Tensor:
    if not isinstance(output, Tensor):
        raise ModelError(
            f"the target returns a {type(output).__name__}", expected=f"a tensor of shape {shape}"
        )
    if tuple(output.shape) != shape:
        raise ModelError(
            f"the target returns shape {tuple(output.shape)}",
            expected=f"{shape}, one number a tile and class",
            remedy="check target.classes",
        )
    if not torch.isfinite(output).all():
        raise ModelError(
            "the target returns NaN or infinity",
            remedy="check target.input, target.mean and target.std",
        )
    return output.float()


def _is_distribution(output: Tensor) -> bool:
    sums_to_one = torch.allclose(output.sum(1), output.new_ones(len(output)), atol=1e-3)
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
