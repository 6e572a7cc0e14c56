"""What an audit is of: replies as they were recorded (`fedsim.recording`, on which the federation builds as well)."""

from fedsim.recording import Fault, Recorded, Store

__all__ = ["Fault", "Recorded", "Store"]
