"""The catalog and the target that work on real tiles begins with."""

from rs_lowconf.batch.jobs import TargetOf
from rs_lowconf.data.catalog.table import Catalog
from rs_lowconf.errors import DataError
from rs_lowconf.places import catalog_path, model_path
from rs_lowconf.settings import Settings


def catalog_of(settings: Settings) -> Catalog:
    """Return the catalog that the settings mean.

    Raises:
        DataError: there is none, or it is damaged or of a newer format.
    """
    path = catalog_path(settings)
    if not path.is_file() and settings.data.kind == "none":
        raise DataError(
            f"there is no catalog {path}",
            remedy="name the tiles to catalog by data.kind and data.root",
        )
    if not path.is_file():
        raise DataError(f"there is no catalog {path}", command="catalog build")
    return Catalog(path)


def tiles_of(settings: Settings) -> Catalog:
    """Return the same for work that reads its tiles.

    Raises:
        DataError: see there, or two rows have one id, or the catalog lies in another folder than it
            was written for.
    """
    catalog = catalog_of(settings)
    catalog.require_unique()
    catalog.require_files()
    return catalog


def target_of(settings: Settings, *, trust_code: bool) -> TargetOf:
    """Return the target as jobs are told of it."""
    return TargetOf(
        settings=settings.target,
        trained=model_path(settings, "target").absolute(),
        trust_code=trust_code,
        device=settings.run.device,
    )
