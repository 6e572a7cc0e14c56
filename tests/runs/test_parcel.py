"""What travels through Ray's object store comes out as it was."""

from __future__ import annotations

import pytest
import torch

from fedsim.runs.parcel import Parcel

TENSORS = {
    "float": torch.linspace(0, 1, 12).reshape(3, 4),
    "transposed": torch.arange(6.0).reshape(2, 3).T,
    "a part": torch.arange(10)[3:5],
    "half": torch.ones(5, dtype=torch.bfloat16),
    "truth": torch.tensor([True, False]),
    "scalar": torch.tensor(3),
    "empty": torch.empty(0, 3),
    "with a gradient": torch.ones(2, requires_grad=True),
}


@pytest.mark.parametrize("name", TENSORS)
def test_a_tensor_comes_out_as_it_was(name):
    tensor = TENSORS[name]
    [opened] = Parcel.of([tensor]).open()
    assert torch.equal(opened, tensor)
    assert (opened.dtype, opened.shape) == (tensor.dtype, tensor.shape)


def test_the_bytes_of_tensors_are_not_copied_into_the_pickle():
    tensor = torch.ones(1000)
    parcel = Parcel.of({"twice": [tensor, tensor], "plain": (1, "text", None)})
    assert len(parcel.rest) < 500
    assert [array.nbytes for array in parcel.arrays] == [4000]
    opened = parcel.open()
    assert opened["twice"][0] is opened["twice"][1]
    assert opened["plain"] == (1, "text", None)
