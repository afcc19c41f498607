"""A release as a torchgeo dataset."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torchgeo.datasets import NonGeoDataset, RGBBandsMissingError

from rs_lowconf.bands import TRUE_COLOUR
from rs_lowconf.errors import DataError
from rs_lowconf.review.geotiff import read_tile
from rs_lowconf.review.panels import mask_panel
from rs_lowconf.stored import reflectance_of
from rs_lowconf.testset.evaluate import mask_of
from rs_lowconf.testset.read import read_release

_WHITE = 0.3
"""Reflectance shown at full brightness, as torchgeo shows EuroSAT."""


class ReviewedTiles(NonGeoDataset):
    """Reviewed synthetic tiles with their classes: for testing, in addition to real test data.

    Accuracy on them does not estimate accuracy in the field: see DATASHEET.md.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "test",
        bands: Sequence[str] | None = None,
        transforms: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
        checksum: bool = False,
    ) -> None:
        """Open a release.

        Args:
            root: its folder.
            split: `test`, as torchgeo's data modules call it; there is no other.
            bands: names of the bands to return, in this order; all when missing.
            transforms: applied to each sample.
            checksum: whether to compare every file with its checksum first.

        Raises:
            DataError: it is not a release, is damaged, lacks a band, or another split is requested.
        """
        if split != "test":
            raise DataError(
                f"a release has no split {split!r}",
                expected="test",
                remedy="train and validate on real tiles",
            )
        self.root = Path(root)
        self.transforms = transforms
        self.release = read_release(self.root, checksum=checksum)
        self.classes = list(self.release.classes)
        self.bands = self.release.bands.select(bands or self.release.bands.names).names
        self._channels = list(self.release.bands.index_of(self.bands))

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self.release.tiles)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return a tile: `image` (reflectance, float32 c h w), its label and `sample_id`.

        The label is `label` (the class index), or `mask` (int64 h w, `masks.UNKNOWN` where the
        class is unknown) in a release with masks.
        """
        tile = self.release.tiles[index]
        pixels = read_tile(tile.path).pixels[self._channels]
        sample: dict[str, Any] = {
            "image": reflectance_of(pixels),
            "sample_id": tile.sample_id,
        }
        if self.release.pixelwise:
            sample["mask"] = mask_of(tile)
        else:
            sample["label"] = torch.tensor(self.classes.index(str(tile.class_name)))
        return sample if self.transforms is None else self.transforms(sample)

    def plot(
        self, sample: dict[str, Any], show_titles: bool = True, suptitle: str | None = None
    ) -> Figure:
        """Return a figure of a sample in true colour, with its class and a `prediction` if any.

        With masks, these are shown beside it, with the names of their classes.

        Raises:
            RGBBandsMissingError: `bands` lacks red, green or blue.
        """
        if not set(TRUE_COLOUR) <= set(self.bands):
            raise RGBBandsMissingError
        chosen = sample["image"][[self.bands.index(name) for name in TRUE_COLOUR]]
        picture = (chosen / _WHITE).clamp(0, 1).permute(1, 2, 0).numpy()
        pictures, title = [("", picture)], "SYNTHETIC"
        if self.release.pixelwise:
            panel = mask_panel(self.classes)
            for name in ("mask", "prediction"):
                if name in sample:
                    pictures.append((name, panel.paint(sample[name].to(torch.uint8).numpy())))
        else:
            title += f", label: {self.classes[int(sample['label'])]}"
            if "prediction" in sample:
                title += f"\nprediction: {self.classes[int(sample['prediction'])]}"
        figure = Figure(figsize=(4 * len(pictures), 4), layout="constrained")
        for number, (name, shown) in enumerate(pictures):
            axes = figure.add_subplot(1, len(pictures), number + 1)
            axes.imshow(shown, interpolation="nearest")
            axes.axis("off")
            if show_titles:
                axes.set_title(name or title)
        if self.release.pixelwise:
            patches = [
                Patch(color=(red / 255, green / 255, blue / 255), label=name)
                for name, (red, green, blue) in panel.classes.items()
            ]
            figure.legend(handles=patches, loc="outside lower center", ncols=len(patches))
        if suptitle is not None:
            figure.suptitle(suptitle)
        return figure
