"""The division of the training examples among clients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.data import partition
from fedsim.errors import BadInput
from fedsim.random import rng_for

LABELS = torch.arange(10).repeat_interleave(40)
KINDS = [{"kind": "iid"}, {"kind": "dirichlet", "alpha": 0.5}, {"kind": "shards", "shards_per_client": 2}]


@pytest.mark.parametrize("spec", KINDS, ids=lambda spec: spec["kind"])
def test_every_example_goes_to_one_client_and_the_seed_decides_which(spec):
    parts = partition(LABELS, 8, spec, seed=3)
    assert len(parts) == 8
    assert np.sort(np.concatenate(parts)).tolist() == list(range(400))
    again, other = partition(LABELS, 8, spec, seed=3), partition(LABELS, 8, spec, seed=4)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again))
    assert not all(np.array_equal(a, b) for a, b in zip(parts, other))


def classes_of(parts):
    return [len(LABELS[part].unique()) for part in parts]


def test_each_kind_is_as_uneven_as_it_says():
    iid = partition(LABELS, 8, KINDS[0], seed=0)
    assert [len(part) for part in iid] == [50] * 8
    assert min(classes_of(iid)) >= 8
    shards = partition(LABELS, 10, {"kind": "shards", "shards_per_client": 1}, seed=0)
    assert classes_of(shards) == [1] * 10
    narrow = partition(LABELS, 8, {"kind": "dirichlet", "alpha": 0.1}, seed=0)
    wide = partition(LABELS, 8, {"kind": "dirichlet", "alpha": 100}, seed=0)
    assert np.mean(classes_of(narrow)) < np.mean(classes_of(wide)) - 2


@settings(max_examples=15, deadline=None)
@given(examples=st.integers(1, 60), clients=st.integers(1, 12), seed=st.integers(0, 2**32))
def test_no_client_is_ever_left_without_an_example(examples, clients, seed):
    labels = torch.arange(examples) % 5
    for spec in KINDS:
        try:
            parts = partition(labels, clients, spec, seed)
        except BadInput:
            continue
        assert min(map(len, parts)) >= 1
        assert len(np.unique(np.concatenate(parts))) == sum(map(len, parts)) <= examples


@pytest.mark.parametrize(
    ("clients", "spec", "said"),
    [
        (5, {"kind": "iid"}, "federation.clients: 5 clients, but 4 training examples: each needs one"),
        (
            4,
            {"kind": "shards", "shards_per_client": 3},
            "shards_per_client: 3 shards for each of 4 clients.* from 1 to 1 can",
        ),
        (4, {"kind": "shards", "shards_per_client": 0}, "shards_per_client: 0 shards"),
        (4, {"kind": "dirichlet", "alpha": 1e-6}, r"data.partition: dirichlet \(alpha 1e-06\) cannot give each of 4"),
        (2, {"kind": "dirichlet", "alpha": 0}, r"data.partition: dirichlet \(alpha 0\)"),
        (2, {"kind": "dirichlet"}, "data.partition.alpha: kind dirichlet needs it"),
        (2, {"kind": "even"}, "data.partition.kind: 'even' is not one of iid, dirichlet, shards"),
    ],
)
def test_a_partition_that_cannot_be(clients, spec, said):
    with pytest.raises(BadInput, match=said):
        partition(torch.zeros(4, dtype=torch.int64), clients, spec, seed=0)


@pytest.mark.parametrize("clients", [1, 3, 7, 8])
def test_iid_parts_are_those_of_flowers_partitioner(clients):
    from datasets import Dataset
    from flwr_datasets.partitioner import IidPartitioner

    partitioner = IidPartitioner(num_partitions=clients)
    order = rng_for(3, "partition order").permutation(len(LABELS))
    partitioner.dataset = Dataset.from_dict({"index": order})
    theirs = [partitioner.load_partition(client)["index"] for client in range(clients)]
    ours = partition(LABELS, clients, {"kind": "iid"}, seed=3)
    assert [list(part) for part in ours] == [list(part) for part in theirs]
