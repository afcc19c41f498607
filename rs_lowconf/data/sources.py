"""The sources of tiles that one generator learns from, with splits that agree by name."""

from pathlib import PurePosixPath

from rs_lowconf.data.files import SPLITS, Split, list_files, open_dataset, refuse_idle
from rs_lowconf.data.memory import MemorySource
from rs_lowconf.data.pictures import open_pictures
from rs_lowconf.data.source import open_split
from rs_lowconf.errors import DataError
from rs_lowconf.settings import DataSettings


def open_more(settings: DataSettings, split: Split, classes: tuple[str, ...]) -> list[MemorySource]:
    """Return a split of each further source, in the order of `data.more`.

    Args:
        settings: of the first source, with the further ones in `more`.
        split: which.
        classes: of the first source; the others are read in the same order.

    Raises:
        SettingsError: a setting has no effect on its kind of data.
        DataError: tiles cannot be used, or one name is in different splits of two sources.
    """
    known = known_splits(settings)
    opened = []
    for further in settings.more:
        if further.kind == "pictures":
            refuse_idle(further)
            opened.append(open_pictures(further, split, classes=classes, known=known))
        else:
            source = open_split(further.model_copy(update={"classes": classes}), split)
            names = [PurePosixPath(tile_id).name for tile_id in source.ids]
            moved = [name for name in names if known.get(name, split) != split]
            if moved:
                raise DataError(
                    f"the {split} split of {further.root} has {len(moved)} tiles that are in "
                    f"another split of {settings.root}, such as {moved[0]}",
                    remedy="lay them into the same train, val and test subfolders",
                )
            opened.append(source)
    return opened


def known_splits(settings: DataSettings) -> dict[str, Split]:
    """Return the split of every name of a source; pictures of the same name are in the same one."""
    return {
        PurePosixPath(file.tile_id).name: split
        for split in SPLITS
        for file in list_files(open_dataset(settings, split))
    }
