"""Checks every tile with a mask of every split before hours of training are spent on them."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from rs_lowconf.bands import BandSpec
from rs_lowconf.data.files import SPLITS, Split
from rs_lowconf.data.left_out import LeftOut
from rs_lowconf.data.masks import Cut, by_picture, open_pictures, split_cuts, usable_cuts
from rs_lowconf.data.mixtures import Finding
from rs_lowconf.data.radiometry import BandRange
from rs_lowconf.data.tally import Tally
from rs_lowconf.data.tiles import TileError, said_of
from rs_lowconf.data.windows import class_names
from rs_lowconf.masks import UNKNOWN
from rs_lowconf.settings import MaskData


@dataclass(frozen=True, kw_only=True)
class MaskSplit:
    """What one split holds."""

    tiles: int
    blocks: int
    """Blocks of land that its tiles lie in."""
    left_out: int
    """Tiles with more nodata than `data.max_nodata`, without a pixel of known class, or following
    an error in their file."""
    pixels: Mapping[str, int]
    """Pixels by class; where training tiles overlap they count more than once."""
    repeated: int
    """Pixels with data where tiles at an edge overlap the tile before, which counts them."""
    unknown: int
    """Other pixels of unknown class, nodata included."""
    nodata: int
    """Pixels without data."""


@dataclass(frozen=True, kw_only=True)
class MaskReport:
    """What `rslow data check` shows and saves of scenes and chips."""

    images: int
    """Images that can be used."""
    bands: BandSpec | None
    """The bands in use; None when no image can be used."""
    ranges: Mapping[str, BandRange]
    """Reflectance by band, nodata pixels not counted."""
    crs: Mapping[str, int]
    """Images by coordinate reference system."""
    splits: Mapping[Split, MaskSplit]
    findings: tuple[Finding, ...]
    """Errors first: one for each file that cannot be used."""
    meanings: Mapping[str, int]
    """Number of images by what their digital numbers mean, the source of this, and their nodata."""
    left_out: tuple[str, ...]
    """Files and tiles that are not used, counted: one line per reason."""

    def to_json(self) -> dict[str, Any]:
        """Return values that JSON can hold."""
        values, found = asdict(self), self.findings
        del values["findings"]
        warnings = [finding for finding in found if finding.severity == "warning"]
        return {
            **values,
            "bands": self.bands.to_json() if self.bands else None,
            "faults": [finding.text for finding in found if finding.severity == "error"],
            "warnings": [finding.text for finding in warnings if not finding.names],
            "mixtures": [{"text": f.text, "files": f.names} for f in warnings if f.names],
        }


def check_masks(settings: MaskData) -> MaskReport:
    """Read every tile of every split.

    Raises:
        SettingsError: a setting has no effect on this kind of data.
        DataError: a folder does not exist or holds no files, or there are too few blocks.
    """
    pictures, tally = open_pictures(settings), Tally()
    left_out = LeftOut(skip_bad=True)
    if pictures.bands is None:
        empty = MaskSplit(tiles=0, blocks=0, left_out=0, pixels={}, repeated=0, unknown=0, nodata=0)
        splits = dict.fromkeys(SPLITS, empty)
    else:
        cuts = split_cuts(settings, pictures.usable, left_out)
        splits = {
            split: _look_at(chosen, settings, pictures.bands, tally, left_out)
            for split, chosen in cuts.items()
        }
    faults = dict.fromkeys(map(str, (*pictures.faults, *left_out.faults)))
    crs = Counter[str]()
    for picture in pictures.usable:
        place = picture.profile.grid
        assert place is not None  # noqa: S101  # images without georeference are not usable
        crs[place.crs] += 1
    return MaskReport(
        images=len(pictures.usable),
        bands=pictures.bands,
        ranges=tally.ranges,
        crs=dict(crs),
        splits=splits,
        findings=(
            *(Finding(severity="error", text=fault) for fault in faults),
            *tally.implausible(),
            *tally.mixtures(),
        ),
        meanings=dict(
            Counter(said_of(settings, image.profile) for image in pictures.usable).most_common()
        ),
        left_out=(*pictures.left_out.counted(), *left_out.counted()),
    )


def _look_at(
    cuts: list[Cut], settings: MaskData, bands: BandSpec, tally: Tally, left_out: LeftOut
) -> MaskSplit:
    counts = torch.zeros(UNKNOWN + 1, dtype=torch.int64)
    nodata = repeated = 0
    used: list[Cut] = []
    for _, chosen in by_picture(cuts):
        try:
            for cut, content in usable_cuts(chosen, settings, left_out):
                used.append(cut)
                counts += torch.bincount(content.mask.flatten(), minlength=UNKNOWN + 1)
                nodata += int(content.tile.nodata.sum())
                old = torch.ones_like(content.tile.nodata)
                old[slice(*cut.window.fresh_rows), slice(*cut.window.fresh_cols)] = False
                repeated += int((old & ~content.tile.nodata).sum())
                tally.add(
                    bands,
                    content.tile.select(bands)[:, ~content.tile.nodata],
                    file=cut.picture.name,
                    picture=cut.picture.profile.dtype == "uint8",
                )
        except TileError as error:
            left_out.fault("file", error)
    return MaskSplit(
        tiles=len(used),
        blocks=len({cut.block for cut in used}),
        left_out=len(cuts) - len(used),
        pixels={name: int(counts[label]) for label, name in enumerate(class_names(settings))},
        repeated=repeated,
        unknown=int(counts[UNKNOWN]) - repeated,
        nodata=nodata,
    )
