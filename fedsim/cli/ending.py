"""A command that is told to end does so in order: what is finished is kept, and nothing of it is left running.

Ctrl-C, SIGTERM (of a batch system, `timeout`, `docker stop`) and SIGHUP (of a terminal that is closed) are one thing: a
`KeyboardInterrupt` in whatever is going on. The exit code is the shell's for each: 128 and the signal's number.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

_ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]  # Windows has no SIGHUP


@contextmanager
def orderly() -> Iterator[None]:
    """Turn the signals that end a process into a `KeyboardInterrupt`, and what comes of it into the right exit code."""
    heard: list[int] = []
    terminal = [stream for stream in (1, 2) if os.isatty(stream)]  # of one that is gone the system no longer says so

    def interrupt(number: int, frame: FrameType | None) -> None:
        first = not heard
        heard.append(number)
        if number != signal.SIGTERM:
            _silence(terminal)
        if first:  # a second one must not interrupt the end that the first has begun
            raise KeyboardInterrupt

    for number in _ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            signal.signal(number, interrupt)
    try:
        yield
    except (SystemExit, KeyboardInterrupt):
        if heard:
            for number in _ENDING:  # Python gives up its handlers when it ends: a late signal would have its exit code
                signal.signal(number, signal.SIG_IGN)
            sys.exit(128 + heard[0])
        raise


def _silence(streams: Sequence[int]) -> None:
    """What would be written to a terminal that is gone goes nowhere, instead of being an error of its own."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        os.dup2(nowhere, stream)
    os.close(nowhere)
