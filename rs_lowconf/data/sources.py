"""The sources of tiles that one generator learns from, with splits that agree by name."""

from pathlib import PurePosixPath

from rs_lowconf.data.files import SPLITS, Split, list_files, open_dataset, refuse_idle
from rs_lowconf.data.memory import MemorySource
from rs_lowconf.data.pictures import open_pictures
from rs_lowconf.data.source import open_split
from rs_lowconf.settings import DataSettings


def open_more(settings: DataSettings, split: Split, classes: tuple[str, ...]) -> list[MemorySource]:
    """Return a split of each further source, in the order of `data.more`.

    Args:
        settings: of the first source, with the further ones in `more`.
        split: which.
        classes: of the first source; the others are read in the same order.
    """
    known: dict[str, Split] = {}
    for name in SPLITS:
        for file in list_files(open_dataset(settings, name)):
            known[PurePosixPath(file.tile_id).name] = name
    opened = []
    for further in settings.more:
        if further.kind == "pictures":
            refuse_idle(further)
            opened.append(open_pictures(further, split, classes=classes, known=known))
        else:
            opened.append(open_split(further.model_copy(update={"classes": classes}), split))
    return opened
