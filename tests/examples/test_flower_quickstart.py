"""The example app: its client learns, and a real `flwr run` of it leaves records that an audit reads."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import torch
from flwr.cli.build import collect_files, get_filtered_fab_paths
from flwr.cli.config_utils import load_and_validate

import fedsim
from fedsim.recording import Store

ROOT = Path(__file__).resolve().parents[2]
APP = ROOT / "examples" / "flower-quickstart"
BIN = Path(sys.executable).parent


@pytest.fixture
def task(monkeypatch):
    monkeypatch.syspath_prepend(str(APP))
    from digits import task

    yield task
    for name in [name for name in sys.modules if name.partition(".")[0] == "digits"]:
        del sys.modules[name]


def test_its_clients_share_no_image_and_hold_all(task):
    held = [torch.cat([part.dataset.tensors[0] for part in task.loaders(client, 3, 32)]) for client in range(3)]
    together = torch.cat(held).flatten(1)
    assert len(together) == 5000
    assert torch.equal(together.sum(1).sort().values, task.digits().tensors[0].flatten(1).sum(1).sort().values)


def test_its_client_learns(task):
    torch.manual_seed(0)
    model = task.Net()
    learn, look = task.loaders(0, 10, 32)
    before = task.accuracy(model, look)
    task.train(model, learn, 3, 0.05)
    assert task.accuracy(model, look) > max(0.5, 2 * before)


@pytest.fixture
def flower(tmp_path):
    """Flower's local server in a folder of its own; the environment in which `flwr` finds it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "FLWR_HOME": str(tmp_path / "flwr"),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": port,
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
    }
    command = ["flower-superlink", "--insecure", "--simulation", "--isolation", "subprocess", "--host", "127.0.0.1"]
    with (tmp_path / "superlink.log").open("w") as log:
        server = subprocess.Popen(
            [BIN / command[0], *command[1:], "--port", port], env=environment, cwd=tmp_path, stdout=log, stderr=log
        )
        try:
            for _ in range(120):
                if server.poll() is not None or _answers(f"http://127.0.0.1:{port}/health"):
                    break
                time.sleep(0.5)
            assert server.poll() is None, (tmp_path / "superlink.log").read_text()
            yield environment
        finally:
            server.terminate()
            server.wait(30)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=1) as answer:
            return answer.status == 200
    except OSError:
        return False


def run(app: Path, config: str, environment: dict[str, str], folder: Path) -> str:
    """What `flwr run` says of a run from its start to its end."""
    ran = subprocess.run(
        [BIN / "flwr", "run", str(app), "--stream", "-c", config],
        env=environment, cwd=folder, capture_output=True, text=True, timeout=800,
    )  # fmt: skip
    return ran.stdout + ran.stderr


@pytest.mark.parametrize("app", [ROOT, APP], ids=["fedsim", "quickstart"])
def test_flower_accepts_it_as_an_app_and_takes_no_other_file_along(app):
    config, _ = load_and_validate(app / "pyproject.toml")
    taken = get_filtered_fab_paths(collect_files(app), config)
    sources = [path for path in taken if path.endswith(".py")]
    own = "flower_app" if app == ROOT else "digits"
    assert f"{own}/__init__.py" in sources
    assert {path.partition("/")[0] for path in sources} == {own}


@pytest.mark.slow
def test_fedsim_is_a_flower_app_itself(tmp_path, flower):
    said = run(ROOT, f"scenario='smoke' out='{tmp_path / 'run'}'", flower, tmp_path)
    assert "dropout_inversion" in said, said
    assert fedsim.results([tmp_path / "run"])["status"].unique().to_list() == ["ok"]


@pytest.mark.slow
def test_a_run_of_it_is_recorded_and_audited(tmp_path, flower):
    app, store = tmp_path / "app", tmp_path / "observations"
    shutil.copytree(APP, app)
    said = run(app, f"store='{store}'", flower, tmp_path)
    assert f"fedsim: 4 replies recorded in {store}, 0 not" in said, said
    opened = Store.open(store)
    assert [round for round, _ in opened.listed()] == [1, 1, 2, 2]
    assert not opened.faults()
    recorded = opened.read(*opened.listed()[0])
    assert recorded.config == {"lr": 0.05, "server-round": 1}
    assert recorded.metrics["num-examples"] == 2000
    assert all(not torch.equal(value, recorded.received[name]) for name, value in recorded.sent.items())
    told = "--data-shape 1,28,28 --classes 10 --batch-size 32 --lr 0.05 --momentum 0.9 --epochs 1"
    audited = subprocess.run(
        [sys.executable, "-m", "fedsim.cli", "audit", str(store), "--app", str(app), "--model", "digits.task:Net",
         *told.split(), "--iterations", "5", "--replies", "1", "--out", str(tmp_path / "audit")],
        env=flower, cwd=tmp_path, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert audited.returncode == 0, audited.stdout + audited.stderr
    verdict = json.loads((tmp_path / "audit" / "verdict.json").read_text())
    assert verdict
    assert (tmp_path / "audit" / "audit.html").stat().st_size > 1000
