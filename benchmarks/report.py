"""How long the defense report of a large run takes to build, to open and to scroll through, and how large it is.

    python benchmarks/report.py [--cells 50] [--attacks 10] [--victims 64] [--pictures digits|photos]

Makes up a run of that size (5 models, each under cells / 5 defenses) with pictures of real size: `digits` are 28 x 28 x
1 from the bundled MNIST, `photos` 32 x 32 x 3 from the bundled photographs; reconstructions are the originals with
noise of the size that their PSNR says, which no compression shrinks. Then builds the report as `fedsim report` does,
and opens it in Chromium: the time until the load event, until charts can be drawn, and the tasks that held the page up
for more than 50 ms while scrolling through it all. `cpu` is the process's own time, which others on the machine do not
change.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

from attacks import ThreatModel
from fedsim import data, table
from fedsim.api import Run
from fedsim.files import write_json
from fedsim.runs.directory import MARKER, RunDirectory
from fedsim.runs.results import write

MODELS = 5
CLIENTS = 16
SCENARIO = {"name": "large", "description": "A made-up run of full size", "utility": {"rounds": 1}}
FLOORS = ("null_mean", "null_random")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=50)
    parser.add_argument("--attacks", type=int, default=10)
    parser.add_argument("--victims", type=int, default=64)
    parser.add_argument("--pictures", choices=("digits", "photos"), default="digits")
    parser.add_argument("--keep", type=Path, help="keep the run and its report here")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        directory = RunDirectory(given.keep or Path(temporary) / "run")
        rows = make_run(directory, given.cells, given.attacks, given.victims, given.pictures)
        started, cpu = time.perf_counter(), time.process_time()
        page = Run(directory.path).report()
        print(
            f"{given.pictures}: {rows:,} rows; built in {time.perf_counter() - started:.1f} s "
            f"({time.process_time() - cpu:.1f} s cpu); "
            f"{page.stat().st_size / 1e6:.1f} MB",
            flush=True,
        )
        look(page)


def make_run(directory: RunDirectory, cells: int, attacks: int, victims: int, pictures: str) -> int:
    random = np.random.default_rng(0)
    source = data.load({"name": "mnist"} if pictures == "digits" else {"name": "photos"})
    originals = np.moveaxis(np.asarray(source.train_images[:victims]), 1, -1).astype(np.uint8)
    threat = {f"threat_{name}": value for name, value in ThreatModel().as_dict().items()}
    names = [f"attack_{number}" for number in range(attacks - len(FLOORS))] + list(FLOORS)
    rows: list[dict[str, object]] = []
    for cell in range(cells):
        model, step = divmod(cell, cells // MODELS)
        parts = [{"name": "none"}] if step == 0 else [{"name": "gaussian_noise", "std": 0.001 * 2**step}]
        for at, attack in enumerate(names):
            middle = 11.0 if attack in FLOORS else 50 - 4 * step - 2 * at
            psnr = np.maximum(5, random.normal(middle, 3, victims))
            rebuilt = originals + random.normal(size=originals.shape) * (255 * 10 ** (-psnr / 20))[:, None, None, None]
            job = f"job-{cell}-{at}"
            target = directory.score(job)
            target.mkdir(parents=True)
            stack = np.clip(rebuilt, 0, 255).astype(np.uint8)
            np.savez_compressed(target / "pictures.npz", original=originals, reconstruction=stack)
            for victim in range(victims):
                score = float(psnr[victim])
                rows.append(
                    {
                        "run": "large", "scenario": "large", "cell": f"cell-{cell}", "seed": 0, "round": 1,
                        "client": victim % CLIENTS, "sample": victim // CLIENTS, "dataset": pictures,
                        "model": f"model_{model}", "model_params": "{}", "dropout": 0.0,
                        "defense": "none" if step == 0 else f"gaussian_noise(std={parts[0]['std']})",
                        "defense_params": json.dumps(parts), "batch_size": victims // CLIENTS, "local_steps": 1,
                        "attack": attack, "attack_params": "{}", "details": "{}", "oracle": False, **threat,
                        "status": "ok", "model_state": "init", "update_kind": "gradient",
                        "update_precision": "float32", "mse": 10 ** (-score / 10), "psnr": score,
                        "ssim": min(1.0, score / 50), "lpips": max(0.0, 0.8 - score / 60), "leaked_psnr": score > 19,
                        "leaked_ssim": score > 30, "bit_exact": score > 54, "label_correct": True,
                        "mask_accuracy": 0.9, "mask_accuracy_layers": '{"drop.0": 0.91, "drop.1": 0.89}',
                        "attack_loss": 0.1, "iterations": 1000, "seconds": 1.0, "device": "cpu",
                        "utility": 0.9 - 0.02 * step, "fedsim_version": "0", "job": job, "picture": victim,
                    }
                )  # fmt: skip
    marker = {"name": "large", "scenario": SCENARIO, "command": "fedsim run large", "version": "0"}
    write_json(directory.path / MARKER, marker)
    results = table.frame(rows)
    write(directory, results)
    return len(results)


def look(page: Path) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        tab = browser.new_page(viewport={"width": 1200, "height": 900})
        tab.add_init_script(
            """window.long = []; window.cause = "opening";
            new PerformanceObserver(list => { for (const task of list.getEntries())
                long.push([window.cause, Math.round(task.duration)]); }).observe({type: "longtask"});"""
        )
        tab.goto(page.as_uri())
        loaded = tab.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd / 1000")
        tab.wait_for_function("window.Plotly !== undefined")
        ready = tab.evaluate("performance.now() / 1000")
        print(f"load event after {loaded:.2f} s, charts can be drawn after {ready:.2f} s")
        first = tab.evaluate(
            """async () => { const place = document.querySelector(".plot"), start = performance.now();
                place.scrollIntoView();
                while (!place.dataset.drawn) await new Promise(requestAnimationFrame);
                return (performance.now() - start) / 1000; }"""
        )
        print(f"the first chart is drawn {first:.2f} s after it is scrolled to")
        frames = tab.evaluate(
            """async () => { scrollTo(0, 0); await new Promise(done => setTimeout(done, 1000)); cause = "scrolling";
                const times = []; let last = performance.now();
                for (let y = 0; y < document.documentElement.scrollHeight; y += 60) {
                    scrollTo(0, y); await new Promise(requestAnimationFrame);
                    const now = performance.now(); times.push(now - last); last = now; }
                cause = "after"; times.sort((a, b) => a - b);
                return [times.length, times[times.length >> 1], times[Math.floor(times.length * 0.99)],
                    times[times.length - 1], document.documentElement.scrollHeight]; }"""
        )
        number, middle, late, worst, height = frames
        print(
            f"scrolled through {height:,} px in {number} frames: median {middle:.0f} ms, 99 % {late:.0f} ms, "
            f"worst {worst:.0f} ms"
        )
        tab.wait_for_timeout(1500)
        held = tab.evaluate("long")
        for cause in ("opening", "scrolling", "after"):
            durations = sorted(duration for when, duration in held if when == cause)
            print(f"tasks over 50 ms {cause}: {len(durations)} {durations[-6:]}")
        browser.close()


if __name__ == "__main__":
    main()
