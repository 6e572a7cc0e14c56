"""Signals that end a process end a command in order, with the shell's exit codes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

CODE = """
import sys, time
from fedsim.cli import shell
from fedsim import cli

def endless():
    try:
        print("begun", flush=True)
        while True:
            time.sleep(0.05)
    finally:
        print("cleaning", flush=True)
        time.sleep(0.5)
        print("clean", flush=True)

shell.app.command(name="endless")(endless)
sys.argv = ["fedsim", "endless"]
cli.main()
"""


def _heeding():
    """What a shell that runs the tests in the background ignores, children would ignore too."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _nohup():
    _heeding()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


@pytest.fixture(scope="module")
def ended():
    """Exit code and output of a command that gets the signals one after the other, all runs at the same time."""
    cases = {
        "SIGINT": [signal.SIGINT],
        "SIGTERM": [signal.SIGTERM],
        "SIGHUP": [signal.SIGHUP],
        "SIGTERM twice": [signal.SIGTERM, signal.SIGTERM],
        "SIGHUP, then SIGTERM": [signal.SIGHUP, signal.SIGTERM],
        "SIGHUP under nohup": [signal.SIGHUP, signal.SIGTERM],
    }
    running = {}
    for name in cases:
        running[name] = subprocess.Popen(
            [sys.executable, "-c", CODE],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=_nohup if "nohup" in name else _heeding,
            start_new_session=True,
        )
    found = {}
    for name, process in running.items():
        said = ""
        while "begun" not in said:
            said += process.stdout.readline()
        for number in cases[name]:
            process.send_signal(number)
            time.sleep(0.2)
        rest, _ = process.communicate(timeout=60)
        found[name] = process.returncode, said + rest
    return found


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("SIGINT", 130),
        ("SIGTERM", 143),
        ("SIGHUP", 129),
        ("SIGTERM twice", 143),
        ("SIGHUP, then SIGTERM", 129),
        ("SIGHUP under nohup", 143),
    ],
)
def test_what_was_begun_is_cleaned_up_and_the_exit_code_says_which_it_was(ended, name, code):
    returned, said = ended[name]
    assert "begun\ncleaning\nclean\n" in said
    assert "Traceback" not in said
    assert returned == code


def test_a_terminal_that_is_gone_is_no_error_of_its_own():
    leader, follower = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", CODE],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        preexec_fn=_heeding,
        start_new_session=True,
    )
    os.close(follower)
    said = b""
    while b"begun\r\n" not in said:  # of half a line the other half could not be written to a terminal that is gone
        said += os.read(leader, 1000)
    os.close(leader)  # it is no controlling terminal: the signal comes by hand
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=60) == 129


def test_signals_that_keep_coming_change_nothing():
    process = subprocess.Popen(
        [sys.executable, "-c", CODE],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=_heeding,
        start_new_session=True,
    )
    while "begun" not in process.stdout.readline():
        pass
    while process.poll() is None:
        process.send_signal(signal.SIGHUP)
        time.sleep(0.001)
    assert process.returncode == 129
