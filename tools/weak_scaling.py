"""Weak scaling on paper: the same rows per chip, from one host to a pod, by the planner.

    python -m tools.weak_scaling
    python -m tools.weak_scaling --model gpt3_6.7b --run-dir runs/weak_scaling/small

Every slice is planned as `tools.plan` would; plans that lie in the run folder already are
read instead of made again. Writes `table.md` and `plot.png` there.
Hardware and time: any machine with the extra `plan`; about a minute per slice on 2 CPU cores.
Expected (gpt3_13b on v5p): the kept output in docs/plans/weak_scaling.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import tyro

from gpt_jax import terminal
from gpt_jax.parallel.mesh import MeshConfig
from gpt_jax.plan import targets
from gpt_jax.plan.page import GIB, write_plan
from gpt_jax.ranges import Positive, check_ranges
from tools import plan

# A 13B model needs no more than 512 shards; beyond them there are replicas.
SLICES = ("2x2x2", "2x4x4", "4x4x8", "8x8x8", "8x16x16", "16x16x16")
MOST_SHARDS = 512


@dataclasses.dataclass(frozen=True)
class Config:
    model: str = "gpt3_13b"
    """A preset."""
    chip: str = "v5p"
    slices: tuple[str, ...] = SLICES
    rows_per_chip: Positive = 1
    run_dir: str = "runs/weak_scaling/default"

    def __post_init__(self):
        check_ranges(self)


def main(config: Config) -> None:
    """Plans every slice that has no plan yet, then writes the table and the plot."""
    folder = Path(config.run_dir)
    plans = []
    for shape in config.slices:
        path = folder / shape / "plan.json"
        if not path.is_file():
            name = f"{config.chip}:{shape}"
            devices = targets.devices(name)
            asked = plan.parse(["--model", config.model, "--slice", name])
            fsdp = min(len(devices), MOST_SHARDS)
            asked = dataclasses.replace(
                asked,
                mesh=MeshConfig(data=len(devices) // fsdp, fsdp=fsdp),
                rows=config.rows_per_chip * len(devices),
            )
            made = plan.plan_one(plan.settle(asked, len(devices)), devices)
            command = (
                f"python -m tools.plan --model {config.model} --slice {name} "
                f"{plan.options(asked)} --rows {asked.rows}"
            )
            write_plan(path.parent, made | {"tried": [], "command": command})
        plans.append(json.loads(path.read_text()))
    (folder / "table.md").write_text(table(plans))
    plot(plans, f"{config.model} on {config.chip}", folder / "plot.png")
    print(table(plans))


def table(plans: list[dict]) -> str:
    """One row per slice, in Markdown."""
    lines = [
        "| chips | mesh | HBM per chip (GiB) | sent (GB) | step (s) | MFU at best | bound by |",
        "| ---: | --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for one in plans:
        program, step = one["programs"][0], one["step"]
        mesh = ", ".join(f"{name}={size}" for name, size in one["mesh"].items() if size > 1)
        lines.append(
            f"| {one['devices']:,} | {mesh} | {program['hbm_bytes'] / GIB:.1f} | "
            f"{sent(one):.1f} | {step['seconds']:.3f} | {step['mfu']:.1%} | {step['bound']} |"
        )
    return "\n".join(lines) + "\n"


def sent(one: dict) -> float:
    """Gigabytes that a chip sends per step."""
    return sum(one["programs"][0]["collective_bytes"].values()) / 1e9


def plot(plans: list[dict], title: str, path: Path) -> None:
    """Memory, communication and MFU over the number of chips, side by side."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    chips = [one["devices"] for one in plans]
    panels = {
        "HBM in use per chip (GiB)": [p["programs"][0]["hbm_bytes"] / GIB for p in plans],
        "sent per chip and step (GB)": [sent(one) for one in plans],
        "MFU at best (%)": [100 * one["step"]["mfu"] for one in plans],
    }
    style = {"font.size": 9.5, "axes.spines.top": False, "axes.spines.right": False}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(9.6, 2.9), layout="constrained", dpi=150)
        FigureCanvasAgg(figure)
        for axes, (label, values) in zip(figure.subplots(1, 3), panels.items(), strict=True):
            axes.plot(chips, values, "o-", color="#0f86c9")
            axes.set_xscale("log", base=2)
            axes.set_xticks(chips, [f"{n // 1024}k" if n >= 1024 else n for n in chips])
            axes.set_ylim(0, 1.15 * max(values))
            axes.set_xlabel("chips")
            axes.set_title(label, fontsize=9.5, loc="left")
            axes.grid(alpha=0.15)
        figure.suptitle(title, fontsize=10.5, x=0.01, ha="left", fontweight="bold")
        figure.savefig(path)


if __name__ == "__main__":
    with terminal.ending_plainly():
        main(tyro.cli(Config, description=__doc__))
