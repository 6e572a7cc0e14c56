"""What a computation ran on, in words that a result can carry."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch


def describe(device: torch.device) -> str:
    """`NVIDIA H200`, or `AMD EPYC, 2 cores`."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cores = os.cpu_count() or 1
    return f"{processor()}, {cores} {'core' if cores == 1 else 'cores'}"


def of_training(gpus: float) -> torch.device:
    """Where a client that is given so many GPUs trains, and all that is trained and measured beside it."""
    return torch.device("cuda" if gpus > 0 and torch.cuda.is_available() else "cpu")


def exact() -> None:
    """Let float32 be float32 on a GPU, and the same twice.

    By default cuDNN rounds what enters a convolution to ten bits (TF32), which is more than gradients that are matched
    can bear, and tries out which algorithm is fastest. It is set in each process that trains or attacks.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def environment() -> dict[str, str | int]:
    """All outside the scenario that can change a number's digits, as it is in this process.

    Returns:
        versions by package (`python`, `torch`, `flwr`, `numpy`, `opacus`), the `processor`, the `vector` extensions
        that torch uses of it (as `AVX512`), and how many `threads` it computes with.
    """
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # with its build, as `+cu128`, which the package's own metadata may leave out
        **{package: version(package) for package in ("flwr", "numpy", "opacus")},
        "processor": processor(),
        "vector": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name; its architecture, as `x86_64`, where the system does not say more."""
    try:
        # Linux: `platform.processor()` is empty there
        for line in cpuinfo.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return " ".join(value.split())
    except OSError:
        pass
    return platform.processor() or platform.machine() or "cpu"
