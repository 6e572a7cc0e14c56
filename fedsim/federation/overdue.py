"""A client that hangs is ended, whatever it hangs in, so that its process can serve the next one."""

from __future__ import annotations

import faulthandler
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

GRACE = 10.0
"""Seconds that a client has for giving up, after which its process is ended."""

STDERR = 2


class Overdue(Exception):
    """A client's round took longer than its deadline."""


@contextmanager
def ended_after(seconds: float) -> Iterator[None]:
    """Interrupt the block when it has run for so long, and end the process if it does not stop even then.

    The interrupt is an alarm, which wakes what sleeps or waits and what Python computes. Native code that does not
    return, or code that catches everything, is met by `faulthandler`, whose own thread needs nothing of Python's: it
    writes where the process hung, and leaves.

    Raises:
        Overdue: from within the block.
    """

    def ring(number: int, frame: FrameType | None) -> None:
        raise Overdue(f"its round took longer than federation.deadline = {seconds / 60:g} minutes")

    alarmed = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
    faulthandler.dump_traceback_later(seconds + GRACE, exit=True, file=STDERR)
    if alarmed:
        handler = signal.signal(signal.SIGALRM, ring)
        before = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        if alarmed:
            signal.setitimer(signal.ITIMER_REAL, *before)
            signal.signal(signal.SIGALRM, handler)
        faulthandler.cancel_dump_traceback_later()
