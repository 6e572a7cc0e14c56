"""`python -m fedsim` is the command `fedsim`."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fedsim.version import __version__


@pytest.mark.parametrize("module", ["fedsim", "fedsim.cli"])
def test_the_module_is_the_command(module):
    done = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"{__version__}\n"), done.stderr


def test_an_error_is_one_line_with_its_exit_code_there_too(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "fedsim", "check", "no-such.yaml"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "no-such.yaml" in done.stderr
