"""The sources of tiles that one generator is trained on; their splits agree by tile name."""

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from rs_lowconf.data.files import (
    SPLITS,
    Split,
    TileFile,
    list_files,
    open_dataset,
    require_classes,
)
from rs_lowconf.data.memory import MemorySource
from rs_lowconf.data.pictures import open_pictures
from rs_lowconf.data.source import open_split
from rs_lowconf.errors import DataError
from rs_lowconf.settings import ClassedTiles, PictureData, Tiles, further_sources


def open_more(settings: Tiles, split: Split, classes: tuple[str, ...]) -> list[MemorySource]:
    """Return a split of each further source, in the order of `data.more`.

    Args:
        settings: of the first source, with the further ones in `more`.
        split: which.
        classes: of the first source; the others are read in the same order.

    Raises:
        DataError: tiles cannot be used, or one name is in different splits of two sources.
    """
    more = further_sources(settings)
    if not more:
        return []
    root = require_classes(settings).root
    known = splits_by_name((name, list_files(open_dataset(settings, name))) for name in SPLITS)
    opened = []
    for further in more:
        if isinstance(further, PictureData):
            opened.append(open_pictures(further, split, classes=classes, known=known))
        else:
            source = open_split(further.model_copy(update={"classes": classes}), split)
            refuse_moved(source.ids, split, known, further, root)
            opened.append(source)
    return opened


def splits_by_name(listed: Iterable[tuple[Split, Iterable[TileFile]]]) -> dict[str, Split]:
    """Return the split of every name of a source; further sources have to agree with it."""
    return {PurePosixPath(file.tile_id).name: split for split, files in listed for file in files}


def refuse_moved(
    ids: Iterable[str],
    split: Split,
    known: Mapping[str, Split],
    source: ClassedTiles,
    first: Path,
) -> None:
    """Reject a split of a further source with tiles that are in another split of the first.

    Args:
        ids: of its tiles.
        split: which.
        known: see `splits_by_name`.
        source: settings of the further source.
        first: root of the first one.

    Raises:
        DataError: there are such tiles.
    """
    names = [PurePosixPath(tile_id).name for tile_id in ids]
    moved = [name for name in names if known.get(name, split) != split]
    if moved:
        raise DataError(
            f"the {split} split of {source.root} has {len(moved)} tiles that are in another split "
            f"of {first}, such as {moved[0]}",
            remedy="move them into the same train, val and test subfolders",
        )
