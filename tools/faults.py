"""Kills a run at random moments, starts it again each time, and compares what comes out.

    python -m tools.faults --kills 50

The run is the whole recipe (`experiments.rlhf`, preset smoke, more steps). An uninterrupted run
goes first. A second one gets SIGKILL `kills` times: before it moves, between two steps, and while a
checkpoint is being written, in all four stages. A kill has lost something if a whole
checkpoint is gone after it, or if the next start ends with an error or does not go on from the
newest one. At the end all parameters of all stages and all results must be bitwise those of the
first run. Every run is a fork of this process, which has imported all and started nothing: that
is only faster than starting Python each time.

Hardware and time: 2 CPU cores, about 5 s per kill.
Expected: 0 lost, 0 different; exit code 1 otherwise.
"""

import dataclasses
import json
import multiprocessing
import os
import random
import re
import signal
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import tyro

from experiments import rlhf
from gpt_jax import terminal
from gpt_jax.errors import UserError
from gpt_jax.metrics import read_metrics
from gpt_jax.parallel.rules import path_name
from gpt_jax.ranges import NonNegative, Positive, check_ranges
from gpt_jax.report.openings import read_openings
from gpt_jax.train import command
from gpt_jax.train.checkpoint import load_params

MOMENTS = ("start", "step", "write", "write")  # half of the kills meet a checkpoint's write
START = 5.0  # seconds within which a run has restored its checkpoint and moves
PATIENCE = 1800.0  # seconds after which a run that does not move is called hung


@dataclasses.dataclass(frozen=True)
class Config:
    kills: NonNegative = 50
    """SIGKILLs, as many in each stage, or one more."""
    pretrain: Positive = 96
    """Steps of the stage; likewise below."""
    sft: Positive = 64
    reward: Positive = 64
    ppo: Positive = 16
    seed: NonNegative = 0
    """Of the moments."""
    folder: str | None = None
    """Where the two runs go; by default a temporary folder."""

    def __post_init__(self):
        check_ranges(self)

    @property
    def steps(self) -> dict[str, int]:
        return {stage: getattr(self, stage) for stage in ("pretrain", "sft", "reward", "ppo")}


def configure(steps: dict[str, int]) -> rlhf.Config:
    """A line of metrics for every step, eight checkpoints a stage, one evaluation at its end."""
    options = [
        f"--{stage}.train.{name}={value}"
        for stage, n in steps.items()
        for name, value in {
            "steps": n,
            "log-every": 1,
            "checkpoint-every": max(1, n // 8),
            "evaluate-every": n,
        }.items()
    ]
    return command.parse(["--preset=smoke", "--mesh.data=1", *options], rlhf.presets, "")


class Start:
    """One run of the recipe in a process of its own; what it prints goes to a file."""

    def __init__(self, config: rlhf.Config, folder: Path):
        self._log = folder.with_suffix(".log")
        self._log.write_text("")
        config = dataclasses.replace(config, run_dir=str(folder))
        fork = multiprocessing.get_context("fork")
        self._process = fork.Process(target=self._run, args=(config,))
        self._process.start()

    def _run(self, config: rlhf.Config) -> None:
        with self._log.open("w") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        command.set_up_compiler(config)  # here: it starts JAX, which does not survive a fork
        rlhf.main(config)

    def ended(self) -> bool:
        return not self._process.is_alive()

    def kill(self) -> None:
        self._process.kill()
        self._process.join()

    def ends_well(self) -> bool:
        """Waits for the end."""
        self._process.join(PATIENCE)
        self.kill()
        return self._process.exitcode == 0

    def failed(self) -> bool:
        """Whether it ended otherwise than well or by SIGKILL."""
        return self._process.exitcode not in (0, -signal.SIGKILL)

    def said(self) -> str:
        return self._log.read_text()


def whole_checkpoints(folder: Path, stages: list[str]) -> dict[str, int]:
    """The newest whole checkpoint of every stage that has one."""
    newest = {
        stage: max((int(p.name) for p in paths if p.name.isdigit()), default=None)
        for stage in stages
        for paths in [list(folder.glob(f"{stage}/checkpoints/*"))]
    }
    return {stage: step for stage, step in newest.items() if step is not None}


def unfinished(folder: Path) -> set[Path]:
    """Checkpoints under their temporary names: being written, or left so by a kill."""
    return {path for path in folder.glob("*/checkpoints/*") if not path.name.isdigit()}


def reached(
    folder: Path, stage: str, step: int, moment: str, stale: set[Path], since: float
) -> bool:
    """Whether the stage is at `step` or past it, and writing a checkpoint if that is meant.

    `stale` are the unfinished checkpoints of earlier starts; metrics written before `since` are
    theirs, too. The end of a stage counts as well.
    """
    if (folder / stage / "finished").exists():
        return True
    metrics = folder / stage / "metrics.jsonl"
    if not metrics.exists() or metrics.stat().st_mtime < since:
        return False
    rows = read_metrics(folder / stage)
    if not rows or rows[-1]["step"] < step:
        return False
    return moment == "step" or bool(unfinished(folder) - stale)


def moved(folder: Path, since: float) -> bool:
    """Whether any stage has written metrics."""
    return any(path.stat().st_mtime >= since for path in folder.glob("*/metrics.jsonl"))


def kill_once(
    config: rlhf.Config, folder: Path, stage: str, step: int, moment: str, rng: random.Random
) -> tuple[Start, bool]:
    """Starts the run, waits for the moment and a little longer, and sends SIGKILL.

    Returns:
      the run, and whether it left a checkpoint that is not whole.
    """
    stale = unfinished(folder)
    past = whole_checkpoints(folder, [stage]).get(stage, 0) >= step
    since, deadline = time.time(), time.monotonic() + PATIENCE
    run = Start(config, folder)
    if moment == "start" or past:  # what lies before the last checkpoint does not come again
        until = time.monotonic() + rng.uniform(0, START)
        while time.monotonic() < until and not (moved(folder, since) or run.ended()):
            time.sleep(0.002)
    else:
        while not (reached(folder, stage, step, moment, stale, since) or run.ended()):
            if time.monotonic() > deadline:
                run.kill()
                raise UserError(f"{folder}: the run hangs before step {step} of {stage}")
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05))
    run.kill()
    return run, bool(unfinished(folder) - stale)


def resumed_elsewhere(said: str, before: dict[str, int]) -> list[str]:
    """Stages that went on from another step than that of their newest whole checkpoint."""
    found = re.findall(r"^(\w+): resuming .* from step ([\d,]+)$", said, re.MULTILINE)
    return [stage for stage, step in found if int(step.replace(",", "")) != before.get(stage)]


def differences(ours: Path, theirs: Path, stages: list[str]) -> list[str]:
    """Every array, metric step and result that two finished runs do not share, to the bit."""
    found = []
    for stage in stages:
        trees = [
            jax.tree_util.tree_leaves_with_path(load_params(f / stage)) for f in (ours, theirs)
        ]
        for (path, a), (_, b) in zip(*trees, strict=True):
            if np.asarray(a).tobytes() != np.asarray(b).tobytes():
                found.append(f"{stage}: {path_name(path)}")
        logged = [[row["step"] for row in read_metrics(f / stage)] for f in (ours, theirs)]
        if logged[0] != logged[1]:
            found.append(f"{stage}: the steps in metrics.jsonl")
        if read_openings(ours / stage) != read_openings(theirs / stage):
            found.append(f"{stage}: samples.jsonl")
    results = [json.loads((f / "results.json").read_text()) for f in (ours, theirs)]
    names = set(results[0]) - {"seconds", "command", "peak_memory_gb"}
    return found + [f"results.json: {n}" for n in sorted(names) if results[0][n] != results[1][n]]


def places(config: Config, rng: random.Random) -> list[tuple[str, int]]:
    """(stage, step) of every kill, in the order in which a run comes past them."""
    found = []
    for number, (stage, n) in enumerate(config.steps.items()):
        kills = len(range(number, config.kills, len(config.steps)))
        found += [(stage, step) for step in sorted(rng.choices(range(1, n + 1), k=kills))]
    return found


def main(config: Config) -> int:
    """Returns the exit code."""
    command.use_compilation_cache()
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    rng = random.Random(config.seed)
    run = configure(config.steps)
    run.data.check()  # read once, for all forks
    folder = Path(config.folder or tempfile.mkdtemp(prefix="faults-"))
    folder.mkdir(parents=True, exist_ok=True)
    whole, broken, stages = folder / "whole", folder / "broken", list(config.steps)

    first = Start(run, whole)
    if not first.ends_well():
        raise UserError(f"the uninterrupted run failed: {first.said()[-400:]}")
    print(f"{whole}: the uninterrupted run", flush=True)

    lost = torn = 0
    for number, (stage, step) in enumerate(places(config, rng), start=1):
        moment = rng.choice(MOMENTS)
        before = whole_checkpoints(broken, stages)
        killed, left_torn = kill_once(run, broken, stage, step, moment, rng)
        after = whole_checkpoints(broken, stages)
        trouble = [s for s in before if after.get(s, -1) < before[s]]
        trouble += resumed_elsewhere(killed.said(), before)
        lost += bool(trouble) or killed.failed()
        torn += left_torn
        note = "  torn" if left_torn else ""
        print(f"{number:>3}  {moment:<5} at {stage} {step:<4} {after}{note}", flush=True)
        if trouble or killed.failed():
            print(f"LOST {trouble}: {killed.said()[-1000:]}", flush=True)
    if not Start(run, broken).ends_well():
        raise UserError(f"{broken}: the run does not end; its last words are in {broken}.log")
    different = differences(whole, broken, stages)
    print("\n".join(different))
    print(
        f"{config.kills} kills, {torn} while a checkpoint was being written: {lost} lost, "
        f"{len(different)} different"
    )
    return 1 if lost or different else 0


if __name__ == "__main__":
    with terminal.ending_plainly():
        sys.exit(main(tyro.cli(Config, description=__doc__)))
