"""A release as a dataset of torchgeo."""

from pathlib import Path
from typing import Any

import pytest
import rasterio
import torch
from rasterio.errors import NotGeoreferencedWarning
from torch.utils.data import DataLoader
from torchgeo.datamodules import NonGeoDataModule
from torchgeo.datasets import NonGeoDataset, RGBBandsMissingError

from rs_lowconf.errors import DataError
from rs_lowconf.testset import read_release
from rs_lowconf.testset.dataset import ReviewedTiles
from tests.review_samples import CLASSES, SIZE
from tests.testset_samples import BANDS, release, reviewed_tiles

COUNT = 12

few_cores = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
"""Two workers work on one core too."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("dataset")
    return release(where / "v1", reviewed_tiles(where / "store", COUNT))


def test_items_are_like_those_of_torchgeo(folder: Path) -> None:
    """Image is float32 reflectance as rasterio reads it, label an int64 that indexes `classes`."""
    dataset = ReviewedTiles(folder, checksum=True)
    assert isinstance(dataset, NonGeoDataset)
    assert len(dataset) == COUNT
    assert dataset.classes == list(CLASSES)
    assert f"size: {COUNT}" in str(dataset)
    for index, tile in enumerate(read_release(folder).tiles):
        item = dataset[index]
        with pytest.warns(NotGeoreferencedWarning):
            file = rasterio.open(tile.path)
        with file:
            expected = torch.from_numpy(file.read().astype("float32")) / 10_000
        assert item["image"].dtype == torch.float32
        assert torch.equal(item["image"], expected)
        assert (item["label"].dtype, item["label"].shape) == (torch.int64, ())
        assert dataset.classes[item["label"]] == tile.class_name
        assert item["sample_id"] == tile.sample_id


def test_index_beyond_the_end_is_an_error(folder: Path) -> None:
    """A plain loop over the dataset ends, as torchgeo asks of its datasets."""
    dataset = ReviewedTiles(folder)
    with pytest.raises(IndexError):
        dataset[COUNT]


def test_bands_go_by_name(folder: Path) -> None:
    """Any bands in any order and spelling; a band that the release lacks is named."""
    whole, some = ReviewedTiles(folder), ReviewedTiles(folder, bands=("B8a", "B2", "B12"))
    assert some.bands == ("B8A", "B02", "B12")
    channels = [BANDS.names.index(name) for name in some.bands]
    assert torch.equal(some[3]["image"], whole[3]["image"][channels])
    with pytest.raises(DataError, match="'B99' is unknown"):
        ReviewedTiles(folder, bands=("B99",))


def test_transforms_see_the_whole_sample(folder: Path) -> None:
    """A transform takes a sample and returns another."""

    def mirrored(sample: dict[str, Any]) -> dict[str, Any]:
        return {**sample, "image": sample["image"].flip(-1)}

    plain, turned = ReviewedTiles(folder), ReviewedTiles(folder, transforms=mirrored)
    assert torch.equal(turned[0]["image"], plain[0]["image"].flip(-1))
    assert turned[0]["sample_id"] == plain[0]["sample_id"]


@few_cores
def test_loads_with_workers(folder: Path) -> None:
    """Two worker processes of torch's DataLoader give every tile once, in order."""
    dataset = ReviewedTiles(folder)
    batches = list(DataLoader(dataset, batch_size=5, num_workers=2))
    assert [len(batch["label"]) for batch in batches] == [5, 5, 2]
    image = torch.cat([batch["image"] for batch in batches])
    assert image.shape == (COUNT, len(BANDS), SIZE, SIZE)
    assert torch.equal(image, torch.stack([dataset[i]["image"] for i in range(COUNT)]))
    ids = [name for batch in batches for name in batch["sample_id"]]
    assert ids == [tile.sample_id for tile in read_release(folder).tiles]


@few_cores
def test_torchgeo_data_module_tests_with_it(folder: Path) -> None:
    """The data module of torchgeo opens it for testing, and refuses to train on it."""
    module = NonGeoDataModule(
        ReviewedTiles, batch_size=4, num_workers=2, root=folder, bands=("B04", "B03", "B02")
    )
    module.setup("test")
    labels = []
    for batch in module.test_dataloader():
        assert batch["image"].shape == (4, 3, SIZE, SIZE)
        labels += batch["label"].tolist()
    assert labels == [CLASSES.index(tile.class_name) for tile in read_release(folder).tiles]
    with pytest.raises(DataError, match="no split 'train'; expected test; train and validate on"):
        module.setup("fit")


def test_plot_shows_true_colour_and_classes(folder: Path) -> None:
    """The picture is red, green and blue whatever the order of bands, under the class's name."""
    dataset = ReviewedTiles(folder, bands=("B02", "B08", "B03", "B04"))
    sample = {**dataset[0], "prediction": torch.tensor(2)}
    figure = dataset.plot(sample, suptitle="above")
    (axes,) = figure.axes
    (picture,) = axes.get_images()
    expected = (sample["image"][[3, 2, 0]] / 0.3).clamp(0, 1).permute(1, 2, 0)
    assert torch.equal(torch.as_tensor(picture.get_array()), expected)
    assert axes.get_title() == "SYNTHETIC, label: Forest\nprediction: Town"
    assert figure.get_suptitle() == "above"
    assert dataset.plot(dataset[0], show_titles=False).axes[0].get_title() == ""
    with pytest.raises(RGBBandsMissingError):
        ReviewedTiles(folder, bands=("B08", "B03")).plot(sample)


def test_checksums_are_compared_on_request(tmp_path: Path) -> None:
    """With `checksum` an edited tile is refused; without it the tile is loaded."""
    folder = release(tmp_path / "v1", reviewed_tiles(tmp_path / "store", 2))
    (folder / "tiles" / "s0001.tif").write_bytes((folder / "tiles" / "s0000.tif").read_bytes())
    assert len(ReviewedTiles(folder)) == 2
    with pytest.raises(DataError, match=r"tiles/s0001\.tif was edited"):
        ReviewedTiles(folder, checksum=True)
