"""One Ray for the whole run: the simulation attaches to it, then the attack jobs use it."""

from __future__ import annotations

import logging
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from fedsim.errors import BadInput, FedsimError, on_one_line
from fedsim.paths import USER_PATH, telling
from fedsim.scenario import Scenario
from fedsim.scenario.schema import Engine

_QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
}
OBJECT_STORE_BYTES = 300_000_000
"""Flower's messages pass through it; models up to a few hundred MB spill to disk, which is slow but works."""

_LONGEST_SOCKET = "session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store.1"
_SOCKET_BYTES = 103
"""What the systems allow for the path of a socket, less the terminating zero: macOS 104 bytes, Linux 108."""

ANSWER_SECONDS = 5
KINDS = ("CPU", "GPU")


def check_address(address: str) -> None:
    """Raise BadInput if nothing answers at a Ray address; Ray itself would retry for more than a minute."""
    if address == "auto":  # Ray looks for one on this machine, and says at once if there is none
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise BadInput(f"--ray-address {address}: not an address; accepted are HOST:PORT and auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS).close()
    except OSError as error:
        raise BadInput(f"--ray-address {address}: nothing answers there ({error.strerror or error})") from None


def check_capacity(scenarios: Iterable[Scenario]) -> None:
    """Raise BadInput if no machine of the attached Ray has what a client or an attack occupies; Ray would wait for
    ever."""
    import ray

    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for scenario in scenarios:
        _check_attacks(scenario.engine, max((each.get("GPU", 0) for each in machines), default=0))
        resources = scenario.federation.resources
        if any(each.get("CPU", 0) >= resources.cpus and each.get("GPU", 0) >= resources.gpus for each in machines):
            continue
        most = " and ".join(f"{max((each.get(kind, 0) for each in machines), default=0):g} {kind}s" for kind in KINDS)
        raise BadInput(
            f"federation.resources: a client takes {resources.cpus} CPUs and {resources.gpus:g} GPUs, but no machine "
            f"of the Ray cluster has that (at most {most})"
        )


def _check_attacks(engine: Engine, most: float) -> None:
    """Where attacks need a GPU, or take one because there is one.

    Args:
        most: GPUs of one machine.
    """
    if engine.device == "cuda" and most == 0:
        raise BadInput("engine.device: cuda, but no machine of the Ray cluster has a GPU; accepted: auto, cpu")
    if engine.device != "cpu" and 0 < most < engine.gpus:
        raise BadInput(
            f"engine.gpus: an attack takes {engine.gpus:g} GPUs, but no machine of the Ray cluster has more than "
            f"{most:g}"
        )


@contextmanager
def cluster(address: str | None = None) -> Iterator[str]:
    """Start a Ray, or attach to the one at `address`; yields its address. A Ray that we started ends with the block.

    Ray's workers put the driver's working directory first on their path, where a user's own `attacks` folder would take
    the place of ours. So Ray is started from an empty directory, and the user's directories come last (`fedsim.paths`).
    """
    os.environ.update(_QUIET)
    import ray  # after the environment is set, which Ray reads on import

    sessions = _sessions_directory() if address is None else None
    with tempfile.TemporaryDirectory(prefix="fedsim-") as neutral:
        with telling(), _in_directory(neutral), _keeping_signals():
            try:
                if address is None:
                    ray.init(
                        address="local",
                        num_cpus=os.cpu_count(),
                        include_dashboard=False,
                        log_to_driver=False,
                        logging_level=logging.ERROR,
                        object_store_memory=OBJECT_STORE_BYTES,
                        _temp_dir=sessions,
                    )
                else:
                    ray.init(
                        address=address,
                        log_to_driver=False,
                        logging_level=logging.ERROR,
                        runtime_env={"env_vars": {**_QUIET, USER_PATH: os.environ[USER_PATH]}},
                    )
            except ConnectionError as error:
                raise BadInput(f"--ray-address {address}: no Ray cluster answers there ({error})") from None
            except Exception as error:  # that nodes did not come up in time has no class of its own
                raise FedsimError(f"Ray cannot be started: {on_one_line(error)}") from error
        try:
            yield ray.get_runtime_context().gcs_address
        finally:
            ray.shutdown()


def _sessions_directory() -> str:
    """Where Ray keeps its sessions: the user's temporary directory, unless its path is too long for a socket's name."""
    usual = tempfile.gettempdir()
    for directory in (os.environ.get("RAY_TMPDIR", usual), usual, "/tmp"):
        socket_path = os.path.join(os.path.abspath(directory), "ray", _LONGEST_SOCKET)
        if len(os.fsencode(socket_path)) <= _SOCKET_BYTES and os.access(directory, os.W_OK | os.X_OK):
            return os.path.join(os.path.abspath(directory), "ray")
    raise BadInput(
        f"TMPDIR {usual}: too long for the sockets that Ray keeps there, and /tmp cannot be written; set "
        "RAY_TMPDIR to a short directory"
    )


@contextmanager
def _keeping_signals() -> Iterator[None]:
    """What this process does with the signals that end it is not for Ray to change, as it does when it starts: SIGTERM
    would be a crash."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in kept.items():
                signal.signal(number, handler)


@contextmanager
def _in_directory(directory: str) -> Iterator[None]:
    home = os.getcwd()
    os.chdir(directory)
    try:
        yield
    finally:
        os.chdir(home)
