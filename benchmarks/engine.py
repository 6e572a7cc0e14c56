"""How much faster is the engine than attacking one victim after another?

    python benchmarks/engine.py [--rows mlp:mnist:16 ...] [--json]     # compiles a program a row: a quarter of an hour
    python benchmarks/engine.py --quick               # every row: short turns, one thread's seconds, nothing compiled
    python benchmarks/engine.py --converge [--dropout 0.25]            # until 16 MLP victims have all converged: 10 min
    python benchmarks/engine.py --snippet                              # what `compile: auto` costs one victim: a minute

One row per model and number of victims, for the Dropout Inversion Attack. Both sides run in one process, in turns, and
the best turn of each counts. *plain* is the attack as a paper's code would write it: one victim, autograd through
autograd, `torch.optim.Adam`. *engine* is `attacks.create("dropout_inversion")` on all victims at once. Both in
victim-steps a second (one step of one victim, masks included), compile time apart; `--compile never` shows the engine
without compilation. The peak memory per victim is that of a fresh process which runs the uncompiled engine, above what
it holds before the engine starts: libraries, model, observations.

A row may name a setting behind its victims (`mlp:mnist:16:pruning`): clients that prune to 10 % or take several local
steps, attacked by IG that is told so; or that put noise on their weights in each batch (DropConnect), attacked by the
oracle. There *plain* replays the client's round for one victim. Those of several steps have a row each uncompiled and
compiled; how much there is to compile, and when that is declined, says `attacks.program`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Literal

import known_defenses
import torch
from dia import clients, psnr
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

import attacks
from attacks import LocalTraining, Observation, ThreatModel
from attacks.twin import attacker_copy, client_round
from attacks.unknowns import Guess
from defenses.client.kept import remains
from defenses.client.round import replay
from fedsim import models

ATTACK = "dropout_inversion"
ROWS = ("mlp:mnist:16", "mlp:mnist:128", "lenet:photos:16", "vit:photos:16")
SETTINGS = ("mlp:mnist:16:pruning", "mlp:mnist:4:3 steps", "mlp:mnist:4:20 steps", "mlp:mnist:16:weight noise")


@dataclass(frozen=True)
class Turns:
    """How long is measured: so many turns of either side, of about so many seconds of a clock, the engine's from so
    many steps on."""

    count: int = 3
    seconds: float = 6.0
    first: int = 20
    clock: Callable[[], float] = time.perf_counter


QUICK = Turns(count=2, seconds=1.5, first=8, clock=time.process_time)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", default=[*ROWS, *SETTINGS], metavar="MODEL:DATA:VICTIMS[:SETTING]")
    parser.add_argument("--dropout", type=float)
    parser.add_argument("--compile", choices=["always", "never", "auto"], help="by default always; never with --quick")
    parser.add_argument("--quick", action="store_true", help="short turns, nothing compiled, no memory: in 5 minutes")
    parser.add_argument("--threads", type=int, help="by default 2; 1 with --quick")
    parser.add_argument("--converge", action="store_true")
    parser.add_argument("--snippet", action="store_true", help="one victim as in the README, its compiler's cache cold")
    parser.add_argument("--alone", help=argparse.SUPPRESS)  # what `snippet` starts
    parser.add_argument("--memory", help=argparse.SUPPRESS)  # what `_memory_apart` starts
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads or (1 if arguments.quick else 2))
    compile = arguments.compile or ("never" if arguments.quick else "always")
    dropout = arguments.dropout or 0.5
    if arguments.memory:
        print(memory(arguments.memory, dropout))
        return
    if arguments.alone:
        print(alone(arguments.alone))
        return
    if arguments.snippet:
        found = iter([snippet()])
    elif arguments.converge:
        found = iter([converge(arguments.dropout or 0.25, compile)])
    else:
        turns = QUICK if arguments.quick else Turns()
        found = (row for name in arguments.rows for row in measured(name, dropout, compile, turns))
    if arguments.json:
        print(json.dumps(list(found), indent=1))
        return
    for number, row in enumerate(found):  # each as soon as it is there
        if number == 0:
            print("  ".join(f"{column:>{max(len(column), 18)}}" for column in row))
        print("  ".join(f"{_short(value):>{max(len(column), 18)}}" for column, value in row.items()), flush=True)


Plain = Callable[[int], object]
"""Attacks one victim for so many steps."""

Together = Callable[..., tuple[float, float]]
"""Attacks all victims for so many steps, `compile`d or not, by a `clock`; see `_engine`."""


def measured(row: str, dropout: float, compile: str, turns: Turns) -> Iterator[dict[str, Any]]:
    """The rows of the table that a name stands for."""
    model_name, data, count, *setting = row.split(":")
    facts = {"model": model_name, "data": data, "victims": int(count), "setting": setting[0] if setting else "-"}
    if setting:
        attack, alone, together = _replayed(model_name, data, int(count), setting[0])
    else:
        attack, alone, together = _undefended(model_name, data, int(count), dropout)
    both = compile == "always" and "steps" in facts["setting"]
    for how in ("never", "always") if both else (compile,):
        found = speed(alone, partial(together, compile=how, clock=turns.clock), int(count), turns)
        peak = None if setting or turns is QUICK else _memory_apart(row, dropout)
        compiled = "-" if how == "never" else "yes" if found["compile_seconds"] else "declined"
        yield {**facts, "attack": attack, "compiled": compiled, **found, "peak_mb_per_victim": peak}


def speed(alone: Plain, together: Together, victims: int, turns: Turns) -> dict[str, Any]:
    """Victim-steps a second of both sides, in turns."""
    alone(2)
    plain_steps = _enough(alone, 4, turns)
    plain, engine, compiling = [], [], 0.0
    engine_steps = turns.first
    for turn in range(turns.count + 1):  # the first finds out how many steps a turn may have, and compiles
        begin = turns.clock()
        alone(plain_steps)
        plain.append(plain_steps / (turns.clock() - begin))
        seconds, compile_seconds = together(engine_steps)
        compiling = max(compiling, compile_seconds)
        if turn == 0:
            engine_steps = WARM + max(2, round((engine_steps - WARM) * turns.seconds / seconds))
            continue
        engine.append(victims * (engine_steps - WARM) / seconds)
    speedup = max(engine) / max(plain)
    return {"plain": max(plain), "engine": max(engine), "speedup": speedup, "compile_seconds": compiling}


def _undefended(model_name: str, data: str, victims: int, dropout: float) -> tuple[str, Plain, Together]:
    """DIA on the gradient of one step."""
    _, observations, model, _ = _clients(model_name, data, dropout, victims)
    twin = attacker_copy(model, observations[0].state)

    return ATTACK, lambda steps: _plain(twin, observations[0], steps=steps), partial(_engine, observations, model)


def _replayed(model_name: str, data: str, victims: int, setting: str) -> tuple[str, Plain, Together]:
    """IG, or the oracle where there is noise, on clients in one of the settings: told of everything.

    Raises:
        SystemExit: no such setting.
    """
    parts: list[dict[str, Any]] = []
    local, name = None, "inverting_gradients"
    match setting.split():
        case ["pruning"]:
            parts = [{"name": "pruning", "keep": 0.1}]
        case ["weight", "noise"]:
            parts, name = [{"name": "dropconnect", "p": 0.3}], "well_informed"
        case [count, "steps"] if count.isdecimal():
            local = LocalTraining(steps=int(count), learning_rate=0.05)
        case _:
            raise SystemExit(f"no setting {setting!r}: there are pruning, weight noise, and N steps")
    spec = {"name": model_name, "dropout": 0.0, **({"bias": False} if model_name == "mlp" else {})}
    arguments = argparse.Namespace(victims=victims, seed=0, dataset=data)
    _, observations, dataset = known_defenses.clients(spec, parts, arguments, local=local)
    shape, classes = dataset.input_shape, len(dataset.classes)
    model = models.build({**spec, "defenses": parts}, input_shape=shape, classes=classes, seed=0)
    oracle = name == "well_informed"
    seen = observations if oracle else [replace(one, noise=None) for one in observations]
    twin = attacker_copy(model, seen[0].state)

    together = partial(_engine, seen, model, name=name, noise="known" if oracle else "unknown")
    return name, lambda steps: _plain_replay(twin, seen[0], steps=steps), together


def memory(row: str, dropout: float) -> float:
    """Peak memory of the uncompiled engine in MB a victim, above what this process holds once it has attacked one."""
    model_name, data, count = row.split(":")
    _, observations, model, _ = _clients(model_name, data, dropout, int(count))
    _engine(observations[:1], model, 2 * WARM, "never")  # loads what the libraries load at first use
    with _peak_memory() as peak:
        _engine(observations, model, 2 * WARM, "never")
    return peak[0] / int(count)


def _memory_apart(row: str, dropout: float) -> float:
    """The same, measured in a process of its own: this one keeps what earlier rows have freed, and would reuse it."""
    command = [sys.executable, __file__, "--memory", row, "--dropout", str(dropout)]
    command += ["--threads", str(torch.get_num_threads())]
    # Blocks of 64 KiB and more go back to the system as soon as they are freed, so that what is resident is in use.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    answer = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return float(answer.stdout)


def converge(dropout: float, compile: str, victims: int = 16) -> dict[str, Any]:
    """Seconds until all victims' attack loss is below 1e-5: all at once, and one after another.

    Both sides without the priors, which at the truth itself are 0.5e-5 to 1.3e-5 on these images and masks: on some of
    them no attack could converge. And both with a loss that is exact near its optimum: as `1 - cos` in float32 the
    plain one falls below 1e-5, and below zero, by rounding, at 40 dB.
    """
    images, observations, model, std = _clients("mlp", "mnist", dropout, victims)
    twin = attacker_copy(model, observations[0].state)
    begin = time.perf_counter()
    alone = [_plain(twin, one, steps=20_000, tolerance=1e-5, priors=0, distance=_exact) for one in observations]
    plain = time.perf_counter() - begin
    attack = attacks.create(ATTACK, total_variation=0.0, drop_rate=0.0)
    attack.compile = compile  # type: ignore[assignment]
    begin = time.perf_counter()
    together = attack.run(observations, ThreatModel(), model)
    engine = time.perf_counter() - begin
    return {
        "model": "mlp",
        "attack": ATTACK,
        "victims": victims,
        "dropout": dropout,
        "plain_seconds": plain,
        "engine_seconds": engine,
        "compile_seconds": attack.compile_seconds,
        "speedup": plain / engine,
        "speedup_compiled": plain / (engine - attack.compile_seconds),
        "plain_psnr": median(psnr(guess, truth, std) for (guess, _), truth in zip(alone, images)),
        "engine_psnr": median(psnr(answer.images, truth, std) for answer, truth in zip(together, images)),  # type: ignore[union-attr]
        "plain_converged": sum(loss < 1e-5 for _, loss in alone),
        "engine_converged": sum(answer.loss < 1e-5 for answer in together),  # type: ignore[union-attr]
    }


def snippet() -> dict[str, Any]:
    """Seconds of the README's attack on one update, with its defaults, and without compiling."""
    seconds: dict[str, list[float]] = {"never": [], "auto": []}
    for _ in range(Turns().count):
        for compile, found in seconds.items():
            with tempfile.TemporaryDirectory() as cache:
                command = [sys.executable, __file__, "--alone", compile, "--threads", str(torch.get_num_threads())]
                environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache}
                answer = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
            found.append(float(answer.stdout))
    best = {compile: min(found) for compile, found in seconds.items()}
    return {"never_seconds": best["never"], "auto_seconds": best["auto"], "ratio": best["auto"] / best["never"]}


def alone(compile: str) -> float:
    """The same, in a process that does nothing else."""
    _, [observation], model, _ = _clients("mlp", "mnist", 0.5, 1)
    attack = attacks.create(ATTACK)
    attack.compile = compile  # type: ignore[assignment]
    begin = time.perf_counter()
    attack(observation, ThreatModel(), model)
    return time.perf_counter() - begin


WARM = 5
"""Iterations before the clock starts: the first one compiles."""


def _engine(
    observations: list[Observation],
    model: nn.Module,
    steps: int,
    compile: str,
    *,
    name: str = ATTACK,
    noise: Literal["known", "unknown"] = "unknown",
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[float, float]:
    """Seconds of the iterations after the first few, seconds of compiling."""
    attack = attacks.create(name, iterations=steps, tolerance=0, patience=steps)
    attack.compile = compile  # type: ignore[assignment]
    begin = 0.0

    def watch(iteration: int, problems: Tensor, guess: Guess) -> None:
        nonlocal begin
        if iteration == WARM:
            begin = clock()

    attack.watch = watch  # type: ignore[attr-defined]
    attack.run(observations, ThreatModel(noise=noise), model)
    return clock() - begin, attack.compile_seconds


def _cosine(gradient: Tensor, target: Tensor) -> Tensor:
    return 1 - F.cosine_similarity(gradient, target, dim=0)


def _exact(gradient: Tensor, target: Tensor) -> Tensor:
    """The same number, without the cancellation."""
    return (gradient / gradient.norm() - target / target.norm()).square().sum() / 2


def _plain(
    model: nn.Module,
    observation: Observation,
    *,
    steps: int,
    tolerance: float = 0.0,
    priors: float = 1.0,
    distance: Callable[[Tensor, Tensor], Tensor] = _cosine,
) -> tuple[Tensor, float]:
    """The Dropout Inversion Attack on one victim as its paper states it; the image and its loss."""
    generator = torch.Generator().manual_seed(observation.client)
    images = torch.randn(1, *observation.input_shape, generator=generator).requires_grad_()
    assert observation.noise is not None
    masks = {
        path: torch.empty_like(mask).bernoulli_(0.5, generator=generator).requires_grad_()
        for path, mask in observation.noise.items()
    }
    rates = {path: model.get_submodule(path).p for path in masks}
    low, high = (
        torch.tensor([(side - m) / s for m, s in zip(observation.mean, observation.std)]).view(-1, 1, 1)
        for side in (0, 1)
    )
    parameters = {name: p.detach().requires_grad_() for name, p in model.named_parameters()}
    target = torch.cat([observation.update[name].flatten() for name in parameters])
    optimiser = torch.optim.Adam([images, *masks.values()], lr=0.1)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, factor=0.1, patience=800)
    best, answer = torch.inf, images.detach().clone()
    for _ in range(steps):
        logits = functional_call(model, {**parameters, **{f"{p}.noise": m for p, m in masks.items()}}, (images,))
        loss = F.cross_entropy(logits, observation.labels)
        gradient = torch.autograd.grad(loss, list(parameters.values()), create_graph=True)
        loss = distance(torch.cat([g.flatten() for g in gradient]), target)
        loss = loss + priors * 1e-5 * (images.diff(dim=-1).abs().mean() + images.diff(dim=-2).abs().mean())
        loss = loss + priors * 1e-4 * torch.stack([((1 - m.mean()) - rates[p]).abs() for p, m in masks.items()]).sum()
        images.grad, *gradients = torch.autograd.grad(loss, [images, *masks.values()])
        images.grad.sign_()
        for mask, own in zip(masks.values(), gradients):
            mask.grad = own
        value = loss.item()
        if value < best:
            best, answer = value, images.detach().clone()
        if value < tolerance:
            break
        optimiser.step()
        with torch.no_grad():
            images.copy_(images.clamp(low, high))
            for mask in masks.values():
                mask.clamp_(0, 1)
        scheduler.step(value)
    return answer, best


def _plain_replay(model: nn.Module, observation: Observation, *, steps: int) -> None:
    """IG on one victim by a replay of its round, autograd through autograd; what was drawn is taken as given."""
    round = client_round(observation, model)
    names = [name for name, _ in model.named_parameters() if name in observation.update]
    kept = round.defense.selection(observation.update) if round.defense.selects else None
    assert observation.labels is not None
    generator = torch.Generator().manual_seed(observation.client)
    images = torch.randn(len(observation.labels), *observation.input_shape, generator=generator).requires_grad_()
    low, high = (
        torch.tensor([(side - m) / s for m, s in zip(observation.mean, observation.std)]).view(-1, 1, 1)
        for side in (0, 1)
    )

    def flat(update: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([(update[n] if kept is None else remains(kept[n], update[n])).flatten() for n in names])

    target = flat(observation.update)
    optimiser = torch.optim.Adam([images], lr=0.1)
    for _ in range(steps):
        played = replay(round, observation.state, images, observation.labels, observation.noise, surrogate=True)
        loss = _cosine(flat(played.update), target)
        loss = loss + 1e-5 * (images.diff(dim=-1).abs().mean() + images.diff(dim=-2).abs().mean())
        [slope] = torch.autograd.grad(loss, [images])
        images.grad = slope.sign()
        optimiser.step()
        with torch.no_grad():
            images.copy_(images.clamp(low, high))


def _clients(model: str, data: str, dropout: float, victims: int) -> Any:
    return clients(
        argparse.Namespace(model=model, data=data, dropout=dropout, victims=victims, batch_size=1, seed=0, keys={})
    )


def _enough(run: Plain, steps: int, turns: Turns) -> int:
    """How many steps take about as long as a turn."""
    begin = turns.clock()
    run(steps)
    return max(2, round(steps * turns.seconds / (turns.clock() - begin)))


@contextmanager
def _peak_memory() -> Iterator[list[float]]:
    """The peak of the resident memory in MB above what it is now, sampled; in the list when the block ends."""
    pages, page = Path("/proc/self/statm"), os.sysconf("SC_PAGE_SIZE") / 2**20

    def resident() -> float:
        return int(pages.read_text().split()[1]) * page

    before, peak, stop = resident(), [0.0], threading.Event()

    def sample() -> None:
        while not stop.wait(0.005):
            peak[0] = max(peak[0], resident() - before)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def _short(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}"


if __name__ == "__main__":
    main()
