"""What a server saw of its clients, recorded: by a wrapper around any Flower strategy, or by hand for any framework.

docs/audit.md describes the format.
"""

from fedsim.recording.recorded import Fault, Recorded, fault_of
from fedsim.recording.store import Store

__all__ = ["Fault", "Recorded", "Store", "fault_of"]
