"""fedsim's own client, which Flower wants to know of."""

from fedsim.federation.client import app

__all__ = ["app"]
