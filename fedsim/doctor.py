"""What this installation has, and whether it can do its work."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from rich.table import Table

from fedsim.hardware import describe
from fedsim.version import versions


def examine() -> tuple[Table, bool]:
    """A table of findings, and whether nothing essential is missing."""
    table = Table(show_header=False, title="fedsim doctor", title_justify="left")
    for name, version in versions().items():
        table.add_row(name, version)
    table.add_row("processor", describe(torch.device("cpu")))
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    table.add_row("GPUs", ", ".join(gpus) or "none: everything runs on the CPU")
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    table.add_row("C++ compiler", compiler or "none: models are not compiled")
    healthy, lpips = _lpips()
    table.add_row("LPIPS", lpips)
    table.add_row("runs go to", str(Path("runs").absolute()))
    return table, healthy


def _lpips() -> tuple[bool, str]:
    from fedsim.scoring.lpips import lpips

    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    same = float(lpips(image, image)[0])
    return same == 0.0, "calibrated AlexNet" if same == 0.0 else f"distance of an image to itself is {same}, not 0"
