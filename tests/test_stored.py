"""Reflectance as stored numbers, and targets that are counted, in batches of one size."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rs_lowconf.asking import CountedTarget
from rs_lowconf.bands import PRODUCT_SCALE, BandSpec
from rs_lowconf.batches import fixed_batches, in_fixed_batches
from rs_lowconf.errors import AnswerError, DataError
from rs_lowconf.stored import as_stored, reflectance_of, stored_numbers
from tests.fakes import FakeSegmenter


@given(st.floats(min_value=-0.5, max_value=8.0, width=32))
def test_reflectance_becomes_the_nearest_number(value: float) -> None:
    """Digital numbers are off by half a unit at most, except where 0 would mean no data."""
    number = int(stored_numbers(torch.full((1, 1, 1), value))[0, 0, 0])
    exact = value * 10_000
    assert number == 1 if exact < 1 else number == 65535 or abs(number - exact) <= 0.501
    assert 1 <= number <= 65535


@given(st.integers(1, 65_535))
def test_numbers_of_a_product_come_back(number: int) -> None:
    """A number of a product survives reading, storing and reading again, as array and tensor."""
    stored = torch.full((1, 2, 2), number, dtype=torch.int32).to(torch.uint16)
    image = BandSpec(names=("B04",), level="L1C").reflectance(stored.float())
    assert torch.equal(stored_numbers(image).int(), stored.int())
    assert torch.equal(reflectance_of(stored.numpy()), reflectance_of(stored))
    assert torch.equal(as_stored(image), image)
    assert float(image[0, 0, 0]) == np.float32(number) / np.float32(PRODUCT_SCALE)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_unknown_reflectance_is_refused(bad: float) -> None:
    """NaN and infinity have no digital number and are named as an error."""
    with pytest.raises(DataError, match="1 reflectance values are NaN or infinite"):
        stored_numbers(torch.tensor([[[0.1, bad]]]))


@given(rows=st.integers(1, 11), size=st.integers(1, 5))
def test_batches_have_one_size_and_every_row_once(rows: int, size: int) -> None:
    """What fills the last batch is a copy of its first row, and does not count."""
    first, second = torch.arange(rows), torch.rand(rows, 3)
    seen = []
    for count, (part, other) in fixed_batches(size, first, second):
        assert len(part) == len(other) == size
        assert (part[count:] == part[0]).all()
        assert torch.equal(other, second[part])
        seen += part[:count].tolist()
    assert seen == list(range(rows))
    doubled = in_fixed_batches(lambda part: 2 * part, size, first)
    assert torch.equal(doubled, 2 * first)


def test_padding_and_asking_again_are_not_counted() -> None:
    """Tiles count once each, whatever else the target is run on."""

    class Picky(FakeSegmenter):
        calls = 0

        def predict(self, image: Tensor) -> Tensor:
            self.calls += 1
            if bad := torch.nonzero(image[:, 0, 0, 0] < 0)[:, 0].tolist():
                raise AnswerError("no answer", tiles=bad, reason="none")
            return super().predict(image)

    model = Picky(BandSpec(names=("B04",), level="L1C"))
    target = CountedTarget(model)
    image = torch.tensor([0.1, -1.0, 0.3, 0.1])[:, None, None, None].expand(4, 1, 2, 2)
    asked = target.ask(image, 3)
    assert (asked.rows, list(asked.without), model.calls) == ([0, 2], [1], 2)
    assert target.evaluations == 3
    target.predict(image[:1])
    assert target.evaluations == 4
