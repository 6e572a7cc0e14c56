"""`fedsim animate`: a picture and a dropout mask emerging while an attack optimises them, as a GIF.

Made from the snapshots that a job kept (`engine: {record: {every: 200}}`, see `attacks.snapshots`). The last frame is
the attack's answer: its best iterate, which need not be its last. The original is shown where scoring has stored it.
"""

from fedsim.reporting.animation.drawing import frame, gif
from fedsim.reporting.animation.snapshots import HOW, Emerging, emerging, job_named, recorded

__all__ = ["HOW", "Emerging", "emerging", "frame", "gif", "job_named", "recorded"]
