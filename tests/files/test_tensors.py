"""Tensors in files: what lies in one place of memory is written once, and read by all its names."""

import pytest
import torch

from zoo.files.tensors import read_tensors, stored_once, under_all_names, write_tensors


def test_tensors_of_one_place_are_stored_once_and_read_by_all_their_names(tmp_path):
    table = torch.arange(6.0).view(2, 3)
    tensors = {"in": table, "other": table.clone(), "out": table, "turned": table.T}
    kept, shared = stored_once(tensors)
    assert list(kept) == ["in", "other", "turned"] and shared == {"out": "in"}
    write_tensors(tmp_path / "a", kept)
    found = under_all_names(read_tensors(tmp_path / "a")[0], shared)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("shared", [{"a": "b"}, {"a": []}, [1], "a", None])
def test_damaged_names_are_a_value_error(shared):
    with pytest.raises(ValueError, match="left out"):
        under_all_names({"c": torch.ones(2)}, shared)
