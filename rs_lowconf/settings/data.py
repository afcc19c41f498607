"""Settings of tiles: one class of settings per kind of data, each with what that kind reads."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from rs_lowconf.bands import Level
from rs_lowconf.settings.section import ClassNames, MaskClasses, Section


class Tiles(Section):
    """What all kinds of data have in common."""

    masked: ClassVar[bool] = False
    """Whether these are tiles with one class per pixel."""
    kind: str
    tile_size: PositiveInt = Field(default=64, multiple_of=16)
    """Side of every tile in pixels; tiles of this size are cut out of larger images."""
    attribution: str = "Contains modified Copernicus Sentinel data"
    """Notice written into every exported tile, as the licence of Sentinel data requires."""


class NoData(Tiles):
    """No real tiles at hand."""

    kind: Literal["none"] = "none"
    """`none`: no real tiles of your own; beside generated tiles of the embedded models then those
    of their album are shown, 8 of each class."""


class Rasters(Tiles):
    """GeoTIFFs and what their digital numbers mean."""

    bands: tuple[str, ...] | None = None
    """The bands to use, by name and in this order; default is all bands of the files."""
    scale: PositiveFloat | None = None
    """Digital numbers per unit of reflectance. Default is the scale in the metadata, else 10000."""
    dn_offset: float | None = None
    """Added to digital numbers before division: -1000 from processing baseline 04.00 on. Default is
    the offset in the metadata, else 0."""
    max_nodata: float = Field(default=0.0, ge=0.0, le=1.0)
    """Largest share of a tile's pixels that may be nodata: declared by tags or masks, or 0 in every
    band over an area if files declare nothing; tiles with more are left out where tiles are cut out
    of larger images."""
    skip_bad: bool = False
    """Skip files that cannot be used instead of stopping at the first."""
    stride: PositiveInt | None = None
    """Spacing of tiles in pixels, default `tile_size`: of all tiles in catalogs, of training tiles
    in scenes and chips; in scenes as many tiles lie at random positions. Validation and test tiles
    never overlap."""


class OwnRasters(Rasters):
    """GeoTIFFs of the user."""

    file_bands: tuple[str, ...] | None = None
    """The order of the bands in files without band descriptions. Names that are not Sentinel-2
    bands, such as QA60, stand for bands that are not used."""
    level: Level | None = None
    """Processing level of the files. Default is the level in their metadata, else L1C."""


class Held(Section):
    """Shares of the tiles that are held out."""

    val_share: float = Field(default=0.15, ge=0.0, lt=0.5)
    """Share held out for validation: by block for scenes and chips, by file for a folder without
    train/val/test subfolders."""
    test_share: float = Field(default=0.15, ge=0.0, lt=0.5)
    """Share held out for testing, in the same way."""


class EuroSatTiles(Rasters):
    """The 13-band GeoTIFFs of torchgeo.datasets.EuroSAT."""

    kind: Literal["eurosat"] = "eurosat"
    """`eurosat`: torchgeo.datasets.EuroSAT, which is L1C."""
    root: Path = Path("data")
    """EuroSAT's folder."""
    download: bool = False
    """Let torchgeo fetch the 2 GB archive when it is not in `root`."""
    classes: ClassNames | None = None
    """The classes to use, in order; default is all."""


class FolderTiles(OwnRasters, Held):
    """A folder of GeoTIFFs, one class each."""

    kind: Literal["folder"] = "folder"
    """`folder`: class-named subfolders of GeoTIFFs."""
    root: Path = Path("data")
    """The folder with the class-named subfolders, or with train, val and test above them."""
    classes: ClassNames | None = None
    """The classes to use, in order; default is all."""


class PictureData(Tiles, Held):
    """A folder of JPEG or PNG files, one class each, to train on."""

    kind: Literal["pictures"] = "pictures"
    """`pictures`: class-named subfolders of JPEG or PNG files, also in the layout of
    torchvision.datasets.EuroSAT."""
    root: Path = Path("data")
    """The folder with the class-named subfolders."""
    download: bool = False
    """Let torchvision fetch EuroSAT's pictures when they are not in `root`."""
    classes: ClassNames | None = None
    """The classes to use, in order; default is all."""
    bands: tuple[str, ...]
    """The band of each channel, by name: pictures do not name them."""
    level: Level | None = None
    """Processing level that the pictures were made from; L1C when missing."""
    reflectance: tuple[float, float]
    """The reflectance that bytes 0 and 255 stand for."""
    chroma: Literal["full", "half"] = "half"
    """Resolution of their colour differences (chroma), half in most JPEGs."""
    skip_bad: bool = False
    """Skip files that cannot be used instead of stopping at the first."""

    @model_validator(mode="after")
    def _rising(self) -> "PictureData":
        if not self.reflectance[0] < self.reflectance[1]:
            raise ValueError("reflectance must rise from byte 0 to byte 255")
        return self


LabelledTiles = EuroSatTiles | FolderTiles
"""GeoTIFFs with one class per tile."""
ClassedTiles = LabelledTiles | PictureData
"""Files with one class per tile."""


class First(Section):
    """The first of several sources of tiles."""

    more: tuple[Annotated[ClassedTiles, Field(discriminator="kind")], ...] = ()
    """Further tiles to train the generator on (gan.recipe=frozen), with fewer bands or another
    scale; a picture whose name is in a split above belongs to the same split here, while other
    kinds of data with a tile in another split are an error."""


class EuroSatData(EuroSatTiles, First):
    """The 13-band GeoTIFFs of torchgeo.datasets.EuroSAT."""


class FolderData(FolderTiles, First):
    """A folder of GeoTIFFs, one class each."""


class MaskData(OwnRasters, Held):
    """Images and masks with one class per pixel."""

    masked: ClassVar[bool] = True
    images: Path
    """The folder of the images, with subfolders."""
    masks: Path
    """The folder of the masks, with subfolders."""
    image_name: str = "*.tif"
    """Which files of `images` to use. For chips, the part that matches * is the name by
    which image and mask are paired; several dates may share a mask."""
    mask_name: str = "*.tif"
    """Which files of `masks` to use."""
    mask_classes: MaskClasses
    """The class of each value of a mask, or null if a value means unknown. 255 and the file's
    declared nodata are unknown unless they are named here; so is `?`."""
    block_size: PositiveFloat = 2_000.0
    """Side in metres of the blocks of land that are split as a whole."""
    block_seed: NonNegativeInt = 0
    """Seed that assigns blocks to splits."""

    @model_validator(mode="after")
    def _complete(self) -> "MaskData":
        if len(set(self.mask_classes.values()) - {None}) < 2:
            raise ValueError("mask_classes must name two classes or more, such as {0: a, 1: b}")
        if self.stride is not None and self.stride > self.tile_size:
            raise ValueError(f"stride {self.stride} leaves gaps between tiles of {self.tile_size}")
        return self


class SceneData(MaskData):
    """Images and masks of any extent and CRS."""

    kind: Literal["scenes"] = "scenes"
    """`scenes`: images and masks of any extent and CRS, matched by location."""


class ChipData(MaskData):
    """Images and masks in pairs."""

    kind: Literal["chips"] = "chips"
    """`chips`: pairs of image and mask on the same grid, matched by name."""

    @model_validator(mode="after")
    def _paired(self) -> "ChipData":
        for name in ("image_name", "mask_name"):
            if getattr(self, name).count("*") != 1:
                raise ValueError(f"{name} {getattr(self, name)!r} must contain one * for chips")
        return self


class ImageData(OwnRasters):
    """Images without classes, for catalogs."""

    kind: Literal["images"] = "images"
    """`images`: a folder of GeoTIFFs without classes, only for catalogs."""
    images: Path
    """The folder of the images, with subfolders."""
    image_name: str = "*.tif"
    """Which files of `images` to use."""


class GeoPackageData(OwnRasters):
    """Images that a layer names, for catalogs."""

    kind: Literal["geopackage"] = "geopackage"
    """`geopackage`: a layer that names GeoTIFFs, only for catalogs."""
    root: Path = Path("data")
    """The GeoPackage."""
    layer: str | None = None
    """The layer to read; default is the first."""


class StacData(OwnRasters):
    """Images that a STAC names, for catalogs."""

    kind: Literal["stac"] = "stac"
    """`stac`: a static STAC, only for catalogs."""
    root: Path = Path("data")
    """The catalog.json, collection.json or items of a STAC."""


DataSettings = Annotated[
    NoData
    | EuroSatData
    | FolderData
    | PictureData
    | SceneData
    | ChipData
    | ImageData
    | GeoPackageData
    | StacData,
    Field(discriminator="kind"),
]
"""The real tiles for training and evaluation."""


def further_sources(data: Tiles) -> tuple[ClassedTiles, ...]:
    """Return the further sources of tiles that the settings of data name in `more`."""
    return data.more if isinstance(data, First) else ()
