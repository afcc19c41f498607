"""The STAC of a release, read and validated by pystac."""

import json
import warnings
from pathlib import Path
from typing import Any

import pystac
import pytest
from pystac.extensions.file import FileExtension
from pystac.validation.stac_validator import JsonSchemaSTACValidator

from rs_lowconf.runs import sha256_of
from rs_lowconf.testset import read_release
from tests.review_samples import ATTRIBUTION, CLASSES
from tests.testset_samples import BANDS, release, reviewed_tiles

with warnings.catch_warnings():
    # The extension has no maintainer any more, and no successor.
    warnings.simplefilter("ignore", DeprecationWarning)
    from pystac.extensions.label import LabelExtension

COUNT = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("stac")
    return release(where / "v1", reviewed_tiles(where / "store", COUNT))


@pytest.fixture
def collection(folder: Path) -> pystac.Collection:
    return pystac.Collection.from_file(str(folder / "stac" / "collection.json"))


def test_documents_are_valid(folder: Path) -> None:
    """Collection and items obey the schemas of STAC 1.1, which come with pystac."""
    validator = JsonSchemaSTACValidator()
    item, other = pystac.STACObjectType.ITEM, pystac.STACObjectType.COLLECTION
    documents = [*(folder / "stac" / "items").iterdir(), folder / "stac" / "collection.json"]
    assert len(documents) == COUNT + 1
    for path in documents:
        kind = other if path.name == "collection.json" else item
        assert validator.validate_core(json.loads(path.read_text()), kind, "1.1.0")
    with pytest.raises(pystac.STACValidationError):
        validator.validate_core(
            {**json.loads(documents[0].read_text()), "bbox": [1]}, item, "1.1.0"
        )


def test_links_lead_to_all_tiles_and_back(folder: Path, collection: pystac.Collection) -> None:
    """From the collection to every item and back, and to files of the size and checksum told."""
    items = list(collection.get_items())
    assert [item.id for item in items] == [tile.sample_id for tile in read_release(folder).tiles]
    for item in items:
        assert item.get_collection() is collection
        assert item.get_root() is collection
    for assets in (collection.assets, *(item.assets for item in items)):
        for asset in assets.values():
            path = Path(str(asset.get_absolute_href()))
            assert path.resolve().is_relative_to(folder)
            described = FileExtension.ext(asset)
            assert described.size == path.stat().st_size
            assert described.checksum == "1220" + sha256_of(path)


def test_labels_are_those_of_the_reviewers(folder: Path, collection: pystac.Collection) -> None:
    """The label extension tells the class of the whole tile, and its asset holds that class."""
    for item, tile in zip(collection.get_items(), read_release(folder).tiles, strict=True):
        label = LabelExtension.ext(item)
        assert label.label_type == "vector"
        assert label.label_tasks == ["classification"]
        assert label.label_methods == ["manual"]
        assert label.label_properties == ["class"]
        assert label.label_classes is not None
        assert label.label_overviews is not None
        assert [(one.name, one.classes) for one in label.label_classes] == [
            ("class", list(CLASSES))
        ]
        (overview,) = label.label_overviews
        assert overview.property_key == "class"
        assert [(c.name, c.count) for c in overview.counts or []] == [(tile.class_name, 1)]
        labels = json.loads(Path(str(item.assets["labels"].get_absolute_href())).read_text())
        (feature,) = labels["features"]
        assert feature == {
            "type": "Feature",
            "geometry": None,
            "properties": {"class": tile.class_name},
        }


def test_collection_summarises(folder: Path, collection: pystac.Collection) -> None:
    """The collection has the classes with their numbers, the licence and the version."""
    summaries = collection.summaries.to_dict()
    (overview,) = summaries["label:overviews"]
    assert overview["counts"] == [{"name": name, "count": COUNT // 4} for name in CLASSES]
    assert summaries["label:classes"] == [{"name": "class", "classes": list(CLASSES)}]
    assert collection.license == "CC-BY-4.0"
    assert collection.extra_fields["version"] == "v1"
    assert ATTRIBUTION in collection.description
    assert "never be averaged" in collection.description


def test_nothing_pretends_to_be_an_observation(folder: Path, collection: pystac.Collection) -> None:
    """Items are marked synthetic, have no place and no satellite; their time is the review's."""
    for item, tile in zip(collection.get_items(), read_release(folder).tiles, strict=True):
        assert item.geometry is None
        assert item.bbox is None
        assert item.datetime is not None
        assert round(item.datetime.timestamp() * 1000) == tile.reviewed_ms
        assert item.properties["rslow:synthetic"] is True
        assert item.properties["processing:level"] == "L4"
        assert item.properties["rslow:derived_from"] == ATTRIBUTION
        assert [band["name"] for band in item.assets["image"].extra_fields["bands"]] == list(
            BANDS.names
        )
        assert not {"platform", "instruments", "constellation"} & _keys(item.to_dict())


def _keys(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(value).union(*(_keys(part) for part in value.values()))
    return set().union(*(_keys(part) for part in value)) if isinstance(value, list) else set()


def test_other_licences_are_said_elsewhere(tmp_path: Path) -> None:
    """A licence that is no SPDX identifier is `other` in STAC, and its text is in release.json."""
    text = "for members of the project only"
    folder = release(tmp_path / "v1", reviewed_tiles(tmp_path / "store", 1), licence=text)
    collection = pystac.Collection.from_file(str(folder / "stac" / "collection.json"))
    assert collection.license == "other"
    assert read_release(folder).licence == text
