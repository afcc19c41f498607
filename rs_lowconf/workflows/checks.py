"""Checks of tiles before hours of work are spent on them."""

from rs_lowconf.data.catalog.check import CatalogReport, groups_of
from rs_lowconf.data.catalog.check import check_tiles as check_catalogued
from rs_lowconf.data.check import CheckReport, SplitListing, check_tiles
from rs_lowconf.settings import ClassedTiles, Settings
from rs_lowconf.workflows.catalog import tiles_of
from rs_lowconf.workflows.records import Work, counted


def check_source(settings: ClassedTiles, listings: tuple[SplitListing, ...]) -> Work[CheckReport]:
    """Read every file of one source of tiles and return what is in them and wrong with them."""
    total = sum(len(listing.files) for listing in listings)
    return (
        yield from counted(
            check_tiles(settings, listings), f"checking tiles in {settings.root}", total
        )
    )


def check_catalog(settings: Settings) -> Work[CatalogReport]:
    """Read some tiles of each collection of the catalog and return what is wrong with them.

    Raises:
        DataError: see `tiles_of`.
    """
    catalog, most = tiles_of(settings), settings.catalog.sample
    groups = groups_of(catalog)
    total = sum(min(most, tiles) for tiles in groups.values())
    return (yield from counted(check_catalogued(catalog, groups, most), "checking tiles", total))
