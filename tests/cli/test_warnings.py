"""What is odd but usable is one line on standard error, once, and the command goes on."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from fedsim.cli import main

SCENARIO = """\
name: mine
data: {name: npz, path: own.npz}
model: {name: mlp, width: 16}
federation: {clients: 2}
attacks: [inverting_gradients]
sweep: {model.width: [8, 16]}
"""


def test_a_warning_is_one_line_and_said_once(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(SCENARIO)
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "own.npz", x=images, y=np.arange(20) % 2 + 1)
    shown = warnings.showwarning
    for command in (["check"], ["run", "--dry-run"]):
        np.savez(tmp_path / "own.npz", x=(images := images + 1), y=np.arange(20) % 2 + 1)  # read again
        monkeypatch.setattr("sys.argv", ["fedsim", *command, "mine.yaml"])
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capsys.readouterr()
        assert caught.value.code in (None, 0), err
        [said] = [line for line in err.splitlines() if not line.startswith("measuring ")]  # by a dry run
        assert said.startswith(f"warning: {tmp_path}/own.npz: labels start at 1")
        assert out.strip()
    assert warnings.showwarning is shown
