"""Which extra of the package installs a module that a command could not import."""

from typing import Final

from rs_lowconf.errors import MissingPackageError

_REVIEW: Final = frozenset({"PIL", "krippendorff", "sklearn"})
_ESTIMATE: Final = frozenset({"sklearn"})
_GENERATE: Final = _REVIEW | _ESTIMATE | {"torch", "torchvision", "timm", "safetensors"}
EXTRAS: Final = {
    "review": _REVIEW,
    "estimate": _ESTIMATE,
    "generate": _GENERATE,
    "train": _GENERATE | {"torchgeo", "requests", "kornia", "segmentation_models_pytorch"},
    "notebook": _GENERATE | {"xarray"},
    "dask": frozenset({"distributed"}),
    "ppi": _ESTIMATE | {"ppi_py"},
}
"""The modules of each extra, by their import names, smallest extras first. Targets report the
libraries of their kind themselves."""


def missing(module: str, command: str) -> MissingPackageError | None:
    """Return the error to show when a module cannot be found; None if no extra installs it.

    Args:
        module: what was to be imported, such as `torch.nn`.
        command: the first word of the command; if it has an extra, that is named.

    Example:
        >>> print(missing("sklearn.metrics", "estimate"))
        sklearn is not installed; type: pip install 'rs-lowconf[estimate]'.
    """
    package = module.partition(".")[0]
    extras = [extra for extra, packages in EXTRAS.items() if package in packages]
    if not extras:
        return None
    extra = command if command in extras else extras[0]
    return MissingPackageError(
        f"{package} is not installed", remedy=f"type: pip install 'rs-lowconf[{extra}]'"
    )
