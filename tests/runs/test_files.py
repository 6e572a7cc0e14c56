"""What is written is read back, whatever memory it lay in."""

from __future__ import annotations

import torch

from fedsim.files import read_tensors, write_tensors


def test_tensors_that_share_memory_are_written_each_by_itself(tmp_path):
    """One draw that several clients share, and the values that a draw can take, are views of one tensor."""
    values = torch.tensor([0.0, 1.0])
    given = {"0.noise": values[1], "1.noise": values[1], "wide": values[0].expand(3), "both": values}
    write_tensors(tmp_path / "t.safetensors", given)
    read = read_tensors(tmp_path / "t.safetensors")
    assert read.keys() == given.keys()
    assert all(torch.equal(read[name], value) for name, value in given.items())
