"""What a scenario may say of its data: where images come from, and how they are divided among the clients."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fedsim.scenario.members import Block, Count, Positive, Rate


class Iid(Block):
    """Every client's images are a fair sample of all."""

    kind: Literal["iid"]
    """How the images are divided."""


class Dirichlet(Block):
    """Class shares differ among clients: drawn from a Dirichlet distribution, more unequal the smaller `alpha`."""

    kind: Literal["dirichlet"]
    """How the images are divided."""
    alpha: Positive
    """Of the Dirichlet distribution: 0.1 is very unequal, 100 nearly equal."""


class Shards(Block):
    """Images sorted by class are cut into shards, and each client gets some: few classes a client."""

    kind: Literal["shards"]
    """How the images are divided."""
    shards_per_client: Count
    """How many shards each client gets."""


class _Source(Block):
    image_size: Count | None = None
    """Resize to squares of this many pixels; null keeps the source's size (photos: 32)."""
    test_fraction: Rate = 0.2
    """Part held out for testing where the source has no test part; 0 trains on all of it and leaves no utility."""
    partition: Annotated[Iid | Dirichlet | Shards, Field(discriminator="kind")] = Iid(kind="iid")
    """How the images are divided among the clients."""


class Mnist(_Source):
    """5,000 bundled MNIST digits."""

    name: Literal["mnist"]
    """5,000 bundled MNIST digits."""
    path: None = None
    """It comes with the package."""


class Photos(_Source):
    """Colour crops of the photographs that ship with scikit-image."""

    name: Literal["photos"]
    """Colour crops of the photographs that ship with scikit-image."""
    path: None = None
    """They come with scikit-image."""
    image_size: Annotated[int, Field(ge=32, le=224)] | None = None
    """Pixels a side, 32 to 224; null is 32."""


class Npz(_Source):
    """Your own arrays: x and y, or x_train, y_train, x_test and y_test; uint8."""

    name: Literal["npz"]
    """Your own arrays."""
    path: str
    """The archive; relative to the scenario file."""


class Folder(_Source):
    """Your own pictures: one sub-folder for each class."""

    name: Literal["folder"]
    """Your own pictures."""
    path: str
    """The folder; relative to the scenario file."""


class Hub(_Source):
    """A data set of the Hugging Face Hub."""

    name: Literal["hub"]
    """A data set of the Hugging Face Hub."""
    path: None = None
    """It is downloaded."""
    dataset: str
    """Its name there, e.g. `uoft-cs/cifar10`."""
    subset: str | None = None
    """Its configuration there; null where it has one."""
    image_key: str | None = None
    """The column of the pictures; null finds it."""
    label_key: str | None = None
    """The column of the classes; null finds it."""
