"""What hangs is ended: what can be interrupted by an error, and the process of what cannot."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from fedsim.federation.overdue import Overdue, ended_after
from fedsim.recording.reasons import passing, why


def _spin():
    while True:
        pass


@pytest.mark.parametrize("hang", [lambda: time.sleep(60), _spin], ids=["sleeps", "computes"])
def test_what_can_be_interrupted_is_and_says_so(hang):
    started = time.monotonic()
    with pytest.raises(Overdue, match=r"longer than federation.deadline = 0.005 minutes"):
        with ended_after(0.3):
            hang()
    assert time.monotonic() - started < 10


def test_what_is_in_time_leaves_every_alarm_as_it_was():
    before = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)[0] > 0
    with ended_after(30):
        pass
    assert (signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)[0] > 0) == before


STUBBORN = """
import time
from fedsim.federation import overdue
overdue.GRACE = 0.3
with overdue.ended_after(0.2):
    while True:
        try:
            time.sleep(60)
        except BaseException:
            print("caught", flush=True)
"""


def test_the_process_of_what_catches_everything_is_ended():
    done = subprocess.run([sys.executable, "-c", STUBBORN], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stdout == "caught\n"
    assert "Timeout" in done.stderr


FROM_RAY = (
    "<class 'ray.exceptions.RayTaskError(ClientAppException)'>:<'ray::ClientAppActor.run() (pid=7, ip=10.0.0.1)\n"
    '  File "/fedsim/federation/overdue.py", line 8, in ring\n'
    "fedsim.federation.overdue.Overdue: its round took longer\n\n"
    "The above exception was the direct cause of the following exception:\n\n"
    "flwr.clientapp.client_app.ClientAppException: \nException ClientAppException occurred. Message: its round'>"
)


@pytest.mark.parametrize(
    ("text", "said", "again"),
    [
        ("<class 'ray.exceptions.ActorDiedError'>:<'The actor died'>", "the client's process died", True),
        ("<class 'ray.exceptions.OutOfMemoryError'>:<'Task was killed due to memory'>", "lack of memory", True),
        (FROM_RAY, "raised fedsim.federation.overdue.Overdue: its round took longer", True),
        ("fedsim.federation.overdue.Overdue: its round took longer", "raised fedsim.federation.overdue.Overdue", True),
        ("OSError: [Errno 28] No space left on device", "raised OSError", True),
        ("ValueError: boom", "raised ValueError: boom", False),
    ],
)
def test_what_may_go_well_another_time(text, said, again):
    assert said in why(text)
    assert passing(text) == again
