"""A run in MLflow: a parent for the scenario, a child for each cell and attack."""

import builtins
import os
import statistics

import polars as pl
import pytest
from made_up_run import HOSTILE, SCENARIO, make_results

from fedsim.errors import BadInput
from fedsim.reporting import mlflow_log


@pytest.fixture
def inputs(tmp_path):
    report = tmp_path / "report.html"
    report.write_text("<p>report</p>")
    results = make_results().filter((pl.col("model") == "mlp") & pl.col("defense").str.contains("gaussian|dropout"))
    job = results.filter(attack="dropout_inversion", defense="dropout(p=0.5)")["job"][0]
    return {
        "results": results.filter(pl.col("defense") != "dropout(p=0.25)"),
        "losses": {job: {client: [(0, 1.0), (10, 0.5), (20, 0.25)] for client in range(3)}},
        "scenario": SCENARIO,
        "command": f"fedsim run made-up --set 'name={HOSTILE}'",
        "pictures": {"reconstructions.png": b"\x89PNG"},
        "files": [report],
        "experiment": "fedsim",
    }


def test_a_run_is_logged(inputs, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow") if not os.environ.get("CI") else __import__("mlflow")
    monkeypatch.chdir(tmp_path)  # MLflow keeps artifacts beside a SQLite store
    uri = f"sqlite:///{tmp_path}/store.db"
    parent = mlflow_log.log(**inputs, tracking_uri=uri)
    client = mlflow.MlflowClient(tracking_uri=uri)
    place = client.get_experiment_by_name("fedsim").experiment_id
    logged = client.get_run(parent)
    assert logged.info.status == "FINISHED"
    assert logged.data.params["model.name"] == "mlp"
    assert logged.data.params["seeds"] == "[0]"
    assert HOSTILE in logged.data.params["command"]
    assert {file.path for file in client.list_artifacts(parent)} == {"reconstructions.png", "report.html"}

    children = client.search_runs([place], f"tags.`mlflow.parentRunId` = '{parent}'")
    assert len(children) == 2 * 5  # defenses x attacks
    [child] = [
        run
        for run in children
        if run.data.params["attack"] == "dropout_inversion" and run.data.params["defense"] == "dropout(p=0.5)"
    ]
    rows = inputs["results"].filter(attack="dropout_inversion", defense="dropout(p=0.5)")
    assert child.data.metrics["psnr"] == pytest.approx(statistics.median(rows["psnr"]))
    assert child.data.metrics["mask_accuracy"] == pytest.approx(0.97)
    assert child.data.metrics["leaked_psnr"] == 1.0
    assert child.data.metrics["utility"] == 0.89
    assert child.data.metrics["n"] == 10
    assert "epsilon" not in child.data.metrics
    assert child.data.params["attack.iterations"] == "2000"
    assert child.data.params["threat_server"] == "passive"
    history = client.get_metric_history(child.info.run_id, "attack_loss")
    assert [(point.step, point.value) for point in history] == [(0, 1.0), (10, 0.5), (20, 0.25)]
    [noisy] = [
        run for run in children if "gaussian" in run.info.run_name and ": dropout_inversion" in run.info.run_name
    ]
    assert noisy.data.metrics["epsilon"] == 8.2


def test_without_mlflow_one_line_names_what_to_install(inputs, monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **options):
        if name.split(".")[0] == "mlflow":
            raise ImportError(name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(BadInput, match=r"pip install 'fedsim-privacy\[mlflow\]'"):
        mlflow_log.log(**inputs, tracking_uri=None)


def test_a_store_that_cannot_be_used_is_one_line(inputs, tmp_path):
    pytest.importorskip("mlflow")
    with pytest.raises(BadInput, match=r"^mlflow: ") as error:
        mlflow_log.log(**inputs, tracking_uri="no-such-scheme://somewhere")
    assert "\n" not in str(error.value)
