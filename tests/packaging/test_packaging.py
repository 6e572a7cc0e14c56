"""The wheel holds all that fedsim needs at run time, and both kinds of install find their scenarios."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from fedsim.scenario import bundled

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel built from a copy of the tree without what git ignores: no stale `build` directory, no network."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(target), str(source)]
    subprocess.run([sys.executable, *command], check=True, capture_output=True, text=True)
    [built] = target.glob("fedsim_privacy-*.whl")
    return built


def test_the_wheel_holds_scenarios_assets_and_templates(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    expected = [
        *ROOT.glob("scenarios/*.yaml"),
        *ROOT.glob("fedsim/assets/*"),
        *(path for path in ROOT.glob("fedsim/reporting/templates/**/*") if path.is_file()),
    ]
    assert len(expected) >= 5
    assert {path.relative_to(ROOT).as_posix() for path in expected} <= held
    assert {"fedsim/py.typed", "attacks/py.typed", "defenses/py.typed"} <= held
    assert any(name.endswith("licenses/LICENSE") for name in held)
    assert not any(name.startswith(("tests", "benchmarks", "docs")) for name in held)


def test_an_installed_wheel_finds_its_scenarios(wheel, tmp_path):
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)  # what an installer does with a wheel of pure Python
    code = "from fedsim.scenario import *; [print(f'{n}={p}') for n, p in bundled().items()]; load('quickstart')"
    # An editable install hooks the import of its packages by path: without site-packages' .pth files only ours remain.
    path = os.pathsep.join([str(site), *(entry for entry in sys.path if "site-packages" in entry)])
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": path},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert set(found) == set(bundled())
    assert all(Path(file).parent == site / "scenarios" for file in found.values())


def test_an_editable_install_finds_the_scenarios_of_the_checkout(tmp_path):
    (tmp_path / "scenarios").mkdir()
    (tmp_path / "scenarios" / "__init__.py").touch()  # a user's own package of this name hides nothing
    code = "import fedsim.scenario as s; print(s.bundled()['quickstart'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()) == ROOT / "scenarios" / "quickstart.yaml"
