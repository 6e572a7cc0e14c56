"""The tutorial on Opacus: small noise leaves images to be rebuilt, and what it prints and draws is there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from fedsim.recording import Store

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_noise_of_a_real_epsilon_is_what_stops_the_attack(tmp_path):
    out, store = tmp_path / "drawn.png", tmp_path / "observations"
    command = [sys.executable, "examples/opacus/dia.py", "--victims", "1", "--iterations", "300"]
    ran = subprocess.run(
        [*command, "--out", out, "--record", store], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert ran.returncode == 0, ran.stderr
    rows = [line.split() for line in ran.stdout.splitlines() if "dropout_inversion" in line]
    epsilons = [float(row[1].replace(",", "")) for row in rows]
    scores = [float(row[3]) for row in rows]
    assert epsilons == sorted(epsilons, reverse=True)
    assert epsilons[-1] <= 8.0
    assert scores[0] > 25 > 15 > scores[-1]
    with Image.open(out) as drawn:
        assert drawn.width > 200
    assert [round for round, _ in Store.open(store).listed()] == [1, 2, 3, 4]
