"""Who has which training examples: flwr-datasets' partitioners, applied to the examples' labels alone."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from fedsim.errors import BadInput
from fedsim.random import rng_for, seed_for

KINDS = {"iid": (), "dirichlet": ("alpha",), "shards": ("shards_per_client",)}


def partition(labels: Tensor, clients: int, spec: Mapping[str, Any], seed: int) -> list[np.ndarray]:
    """Divide the training examples among clients.

    Args:
        labels: (N,) of the training part.
        clients: how many clients there are.
        spec: `{"kind": "iid"}`; `{"kind": "dirichlet", "alpha": 0.5}`, the smaller the more uneven (Yurochkin et al.,
            ICML 2019); or `{"kind": "shards", "shards_per_client": 2}`, blocks of examples sorted by label (McMahan et
            al., AISTATS 2017).
        seed: the scenario's seed; the same one gives the same partition.

    Returns:
        For each client the indices of its examples (int64), in an order that is random but fixed by the seed.

    Raises:
        BadInput: a client would be left without any example, or the spec is not one of the above.
    """
    kind = spec.get("kind")
    if kind not in KINDS:
        raise BadInput(f"data.partition.kind: {kind!r} is not one of {', '.join(KINDS)}")
    for key in KINDS[kind]:
        if spec.get(key) is None:
            raise BadInput(f"data.partition.{key}: kind {kind} needs it")
    if not 1 <= clients <= len(labels):
        raise BadInput(f"federation.clients: {clients} clients, but {len(labels)} training examples: each needs one")
    shards = spec["shards_per_client"] if kind == "shards" else 1
    if not isinstance(shards, int) or not 1 <= shards * clients <= len(labels):
        raise BadInput(
            f"data.partition.shards_per_client: {shards} shards for each of {clients} clients cannot be cut from "
            f"{len(labels)} training examples; a whole number from 1 to {len(labels) // clients} can"
        )

    order = rng_for(seed, "partition order").permutation(len(labels))
    if kind == "iid":  # as flwr-datasets' IidPartitioner cuts, without the seconds that its import takes
        parts = [np.asarray(part, dtype=np.int64) for part in np.array_split(order, clients)]
    else:
        parts = _drawn(kind, clients, spec, order, labels.numpy(), seed_for(seed, "partition"))
    empty = [client for client, part in enumerate(parts) if len(part) == 0]
    if empty:
        raise BadInput(f"data.partition: {kind} leaves client {empty[0]} of {clients} without any training example")
    return parts


def _drawn(
    kind: str, clients: int, spec: Mapping[str, Any], order: np.ndarray, labels: np.ndarray, seed: int
) -> list[np.ndarray]:
    """The parts that a partitioner of flwr-datasets makes of the examples in this order."""
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")  # read when flwr-datasets is imported
    from datasets import Dataset as Table

    table = Table.from_dict({"index": order, "label": labels[order]})
    try:
        with warnings.catch_warnings():  # a warning for each failed draw of the Dirichlet partitioner
            warnings.simplefilter("ignore")
            partitioner = _partitioner(kind, clients, spec, seed)
            partitioner.dataset = table
            return [np.array(partitioner.load_partition(client)["index"], dtype=np.int64) for client in range(clients)]
    except ValueError as error:
        settings = ", ".join(f"{key} {spec[key]}" for key in KINDS[kind])
        raise BadInput(
            f"data.partition: {kind} ({settings}) cannot give each of {clients} clients one of {len(labels)} examples: "
            f"{str(error).splitlines()[0]}"
        ) from error


def _partitioner(kind: str, clients: int, spec: Mapping[str, Any], seed: int) -> Any:
    from flwr_datasets.partitioner import DirichletPartitioner, ShardPartitioner

    if kind == "dirichlet":
        return DirichletPartitioner(
            num_partitions=clients, partition_by="label", alpha=float(spec["alpha"]), min_partition_size=1, seed=seed
        )
    return ShardPartitioner(
        num_partitions=clients, partition_by="label", num_shards_per_partition=spec["shards_per_client"], seed=seed
    )
