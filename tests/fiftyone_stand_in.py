"""What guides use of FiftyOne, which needs a MongoDB server: more than tests may install."""

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import UInt8


class Sample:
    """Fields by name; a field of the data set that has no value is None."""

    def __init__(self, filepath: str) -> None:
        if not Path(filepath).is_absolute():
            raise ValueError(f"{filepath} is relative to the folder of whoever reads it")
        self.filepath, self.tags, self.last_modified_at = filepath, list[str](), datetime.now(UTC)
        self._values: dict[str, Any] = {}

    def __setitem__(self, name: str, value: Any) -> None:
        self._values[name] = value
        self.last_modified_at = datetime.now(UTC)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]


class Dataset:
    """Samples in their order, and the fields that all of them have."""

    def __init__(self, name: str) -> None:
        self.name, self.default_mask_targets = name, dict[int, str]()
        self._fields, self._samples = set[str](), list[Sample]()

    def add_sample_field(self, name: str, kind: type, inner: type) -> None:
        assert (kind, inner) == (EmbeddedDocumentField, Classification)
        self._fields.add(name)

    def add_sample(self, sample: Sample) -> None:
        for name in self._fields - sample._values.keys():
            sample._values[name] = None
        self._samples.append(sample)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self._samples)


class EmbeddedDocumentField:
    """The type of a field that holds a label."""


@dataclass
class Classification:
    """A class with its probability."""

    label: str
    confidence: float | None = None


@dataclass
class Segmentation:
    """The classes of pixels."""

    mask: UInt8[np.ndarray, "h w"]


def fiftyone() -> ModuleType:
    """Return FiftyOne where it is installed, else this module."""
    if importlib.util.find_spec("fiftyone") is not None:
        return importlib.import_module("fiftyone")
    return sys.modules[__name__]
