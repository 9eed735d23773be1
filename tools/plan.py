"""Plan before you rent: does a stage fit a machine, how fast can it be, what does it cost?

    python -m tools.plan --model gpt3-175b --slice v5p:8x8x8 --mesh fsdp=64,tensor=8
    python -m tools.plan --model llama3-8b --slice v5p:4x4x4 --stage ppo --accumulate 4
    python -m tools.plan --model llama3-8b --slice h100:1 --stage ppo --lora.rank 16 --rows 16
    python -m tools.plan --model gpt3-13b --slice h100:8 --search

Compiles the stage's own step function, from shapes alone, with the real compiler of the named TPU
slice or GPU node; neither has to be there (pip install -e ".[plan]"). Prints a table and writes
`plan.json` and `plan.html` into the run folder.

`--model` takes any preset of `gpt_jax.models.presets`, in bfloat16 and with recomputed blocks
unless `--model.dtype` and `--model.remat` say otherwise. Times are a roofline: no run is faster.
Hardware and time: any machine; half a minute to a few minutes of compiling on 2 CPU cores.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import itertools
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated, Literal

import jax
import rich
import tyro

from gpt_jax import terminal
from gpt_jax.chips import CHIPS, Chip
from gpt_jax.errors import UserError
from gpt_jax.models.config import ModelConfig
from gpt_jax.models.lora import LoraConfig
from gpt_jax.models.presets import PRESETS, parameter_count
from gpt_jax.parallel.mesh import MeshConfig, make_mesh
from gpt_jax.plan import estimate, targets
from gpt_jax.plan.compiled import DoesNotFit, Program, compile_program
from gpt_jax.plan.estimate import Cost
from gpt_jax.plan.page import plan_table, write_plan
from gpt_jax.plan.workload import StepPlan, Workload
from gpt_jax.ranges import NonNegative, Positive, PositiveFloat, Range, check_ranges
from gpt_jax.report.stages import STAGES
from gpt_jax.train import command
from gpt_jax.train.adapters import FrozenDtype
from gpt_jax.train.optim import OptimizerConfig

VOCAB_MULTIPLE = 128
# Of a weight that is frozen, with its share of a block's scale.
WEIGHT_BYTES = {None: 4.0, "bfloat16": 2.0, "int8": 1.125, "int4": 0.625}
REMATS = ("none", "dots", "block", "offload")
Stage = Literal[tuple(STAGES)]  # the experiments that are stages


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What to plan."""

    model: ModelConfig
    """`--model NAME` takes a preset; `--model.FIELD` changes it."""
    slice: str = "v5e:4x4"
    """A TPU slice (v5p:8x8x8, v6e:2x4) or a GPU node (h100:8, h200:8)."""
    stage: Stage = "pretrain"
    mesh: MeshConfig = MeshConfig()
    """`--mesh fsdp=64,tensor=8`; with no axis given, fsdp takes every device."""
    rows: NonNegative = 0
    """Sequences per step (reward: prompts; PPO: episodes); 0: as few as the mesh can split."""
    length: NonNegative = 0
    """Tokens per sequence; 0: the model's context_length."""
    accumulate: Positive = 1
    """Micro-batches per update (PPO: minibatches)."""
    completions: Annotated[int, Range(2, 2**31 - 1)] = 4
    """Ranked completions per prompt, for the reward model."""
    new_tokens: Positive = 256
    """Tokens sampled per episode, for PPO; the prompt is the rest of `length`."""
    epochs: Positive = 4
    """Passes over the episodes of an iteration, for PPO."""
    lora: LoraConfig = LoraConfig()
    """With a rank, all that is learned is adapters on one frozen backbone; not for pretraining."""
    frozen_dtype: FrozenDtype = None
    """How the matrices of what is frozen are kept: float32, or bfloat16, int8, int4."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """Its learning rate and schedule do not matter here."""
    tokens: PositiveFloat = 300e9
    """The budget that chip-hours are given for."""
    search: bool = False
    """Try the meshes and recomputation policies that divide, and rank those that fit."""
    compiles: Positive = 4
    """How many candidates of a search are compiled."""
    run_dir: str = "runs/plan/default"

    def __post_init__(self):
        check_ranges(self)
        if self.stage == "pretrain" and (self.lora.rank or self.frozen_dtype):
            raise UserError(
                "pretraining learns all weights; leave --lora.rank and --frozen-dtype out"
            )
        if self.frozen_dtype and not (self.lora.rank or self.cost.frozen):
            raise UserError(
                f"{self.stage} freezes nothing; add --lora.rank 16, or leave --frozen-dtype out"
            )

    @property
    def chip(self) -> Chip:
        return CHIPS[self.slice.partition(":")[0]]

    @property
    def work(self) -> Workload:
        return Workload(
            self.stage,
            self.model,
            self.optimizer,
            self.rows,
            self.length,
            self.accumulate,
            self.completions,
            self.new_tokens,
            self.epochs,
            self.lora,
            self.frozen_dtype,
        )

    @property
    def cost(self) -> Cost:
        """What the experiment says of itself; most train one model on rows of tokens."""
        cost = getattr(self.experiment, "COST", Cost())
        return cost.tuned(bool(self.lora.rank), WEIGHT_BYTES[self.frozen_dtype])

    @property
    def experiment(self) -> ModuleType:
        """The stage's own file, whose `plan(work, mesh)` says what a step executes."""
        return importlib.import_module(f"experiments.{self.stage}")


def main(config: Config) -> dict:
    """Plans, prints, writes; returns what `plan.json` holds."""
    devices = targets.devices(config.slice)
    if config.search:
        plan, tried = search(config, devices)
    else:
        settled = settle(config, len(devices))
        try:
            plan, tried = plan_one(settled, devices), []
        except DoesNotFit as error:
            raise UserError(f"{error}; {nearest(settled, devices)}") from error
    plan |= {"tried": tried, "command": command.invocation("plan", "tools")}
    rich.print(plan_table(plan))
    folder = Path(config.run_dir)
    write_plan(folder, plan)
    print(f"{folder}/plan.html shows the plan; {folder}/plan.json holds it")
    return plan


def settle(config: Config, count: int) -> Config:
    """Every default resolved for `count` devices.

    The vocabulary is filled up where `tensor` does not divide it (GPT's 50,257 is no multiple of
    anything useful), as one does before training on such a mesh.

    Raises:
      UserError: with the nearest number that works, where one does not divide.
    """
    mesh, model = config.mesh, config.model
    if mesh == MeshConfig():
        mesh = MeshConfig(data=1, fsdp=count)
    inner = mesh.fsdp * mesh.tensor * mesh.context
    if mesh.data == -1:
        mesh = dataclasses.replace(mesh, data=max(1, count // inner))
    if mesh.data * inner != count:
        raise UserError(
            f"{config.slice} has {count} devices, but data={mesh.data} x fsdp={mesh.fsdp} x "
            f"tensor={mesh.tensor} x context={mesh.context} is {mesh.data * inner}; "
            f"{closest_mesh(config.mesh, count)} would do"
        )
    if model.vocab_size % mesh.tensor:
        multiple = math.lcm(VOCAB_MULTIPLE, mesh.tensor)
        model = dataclasses.replace(model, vocab_size=-(-model.vocab_size // multiple) * multiple)
    length = config.length or model.context_length
    if config.cost.samples and length <= config.new_tokens:
        raise UserError(
            f"{config.new_tokens} new tokens leave no prompt in a length of {length}; "
            f"--new-tokens {length // 2} would do"
        )
    model = dataclasses.replace(model, context_length=max(length, model.context_length))
    splits = mesh.data * mesh.fsdp * config.accumulate
    rows = config.rows or splits
    if rows % splits:
        raise UserError(
            f"{rows} rows do not divide over data x fsdp x accumulate = {splits}; "
            f"--rows {max(1, round(rows / splits)) * splits} would do"
        )
    return dataclasses.replace(config, mesh=mesh, model=model, length=length, rows=rows)


def closest_mesh(mesh: MeshConfig, count: int) -> str:
    """The division of `count` devices nearest to what was asked for, as `--mesh` takes it."""
    divisors = [n for n in range(1, count + 1) if count % n == 0]
    fsdp, tensor = min(
        ((f, t) for f in divisors for t in divisors if count % (f * t) == 0),
        key=lambda pair: (abs(pair[1] - mesh.tensor), abs(pair[0] - mesh.fsdp)),
    )
    return f"--mesh fsdp={fsdp},tensor={tensor}"


def plan_one(config: Config, devices: list[jax.Device]) -> dict:
    """Compiles one settled configuration and adds it up."""
    mesh = make_mesh(config.mesh, devices)
    programs = []
    step = config.experiment.plan(config.work, mesh)
    for planned in step.programs:
        print(f"compiling the {planned.name} for {config.slice} ...", file=sys.stderr, flush=True)
        programs.append(compile_program(*planned, mesh=mesh, chip=config.chip))
    return summary(config, step, programs, mesh.size)


def summary(config: Config, step: StepPlan, programs: list[Program], devices: int) -> dict:
    """What `plan.json` holds."""
    chip = config.chip
    seconds = sum(program.roofline_seconds for program in programs)
    in_turn = sum(program.runs * sum(program.seconds.values()) for program in programs)
    needed = step.flops / devices / chip.flops  # seconds, if nothing else took any
    return {
        "model": dataclasses.asdict(config.model),
        "parameters": parameter_count(config.model),
        "slice": config.slice,
        "devices": devices,
        "mesh": dataclasses.asdict(config.mesh),
        "optimizer": dataclasses.asdict(config.optimizer),
        "work": {
            name: value
            for name, value in config.work._asdict().items()
            if name not in ("model", "optimizer", "lora")
        }
        | {"lora": dataclasses.asdict(config.lora)},
        "chip": dataclasses.asdict(chip),
        "programs": [
            dataclasses.asdict(program) | {"bound": program.bound} for program in programs
        ],
        "hbm_fraction": max(program.hbm_bytes for program in programs) / chip.hbm_bytes,
        "step": {
            "bound": max(programs, key=lambda program: program.roofline_seconds).bound,
            "seconds": seconds,
            "seconds_in_turn": in_turn,
            "mfu": needed / seconds,
            "mfu_in_turn": needed / in_turn,
            "tokens": step.tokens,
            "tokens_per_day": 86400 * step.tokens / seconds,
            "budget": config.tokens,
            "chip_hours": config.tokens / step.tokens * seconds * devices / 3600,
        },
    }


def candidates(config: Config, count: int) -> list[Config]:
    """Settled configurations with other meshes and recomputation, the quickest by estimate first.

    Those that are estimated to need more than the device has are left out.
    """
    found = []
    divisors = [n for n in range(1, count + 1) if count % n == 0]
    c, length = config.model.resolved(), config.length or config.model.context_length
    for tensor, fsdp, context, remat in itertools.product(divisors, divisors, divisors, REMATS):
        inner = tensor * fsdp * context
        if count % inner or c.kv_heads % tensor or c.width % fsdp or c.mlp_width % tensor:
            continue
        if context > 1 and (length % (2 * context) or config.cost.samples):
            continue  # the ring deals out 2 x context pieces; a rollout has no long sequences
        changed = dataclasses.replace(
            config,
            mesh=MeshConfig(count // inner, fsdp, tensor, context),
            model=dataclasses.replace(config.model, remat=remat),
        )
        try:
            settled = settle(changed, count)
        except UserError:
            continue  # these rows do not divide over this mesh
        sizes = dataclasses.asdict(settled.mesh)
        micro = settled.rows / settled.accumulate / settled.mesh.data / fsdp
        micro *= settled.completions if settled.cost.ranks else 1
        if estimate.memory(settled.model, sizes, settled.cost, micro, settled.length) > (
            config.chip.hbm_bytes
        ):
            continue
        time = estimate.seconds(
            settled.model, sizes, settled.rows, settled.length, settled.accumulate, config.chip
        )
        found.append((time / settled.rows, settled))
    return [settled for _, settled in sorted(found, key=lambda pair: pair[0])]


def search(config: Config, devices: list[jax.Device]) -> tuple[dict, list[dict]]:
    """The plan with the most tokens per day that fits, and one row for each that was tried.

    Rows that are not given are the same for every candidate: one for each device.
    """
    rows = config.rows or len(devices) * config.accumulate
    ranked = candidates(dataclasses.replace(config, rows=rows), len(devices))
    best, tried = None, []
    for candidate in ranked[: config.compiles]:
        print(f"trying {options(candidate)}", file=sys.stderr, flush=True)
        try:
            plan = plan_one(candidate, devices)
        except UserError as error:
            tried.append({"options": options(candidate), "trouble": str(error)})
            continue
        tried.append(
            {"options": options(candidate), "hbm_fraction": plan["hbm_fraction"]} | plan["step"]
        )
        if not best or plan["step"]["seconds"] < best["step"]["seconds"]:
            best = plan
    if best is None:
        trouble = tried[-1]["trouble"] if tried else "every mesh is estimated to need more memory"
        raise UserError(f"nothing that was tried fits {config.slice}: {trouble}")
    return best, tried


def nearest(config: Config, devices: list[jax.Device]) -> str:
    """The change closest to the request that does fit, as options, found by compiling."""
    print("it does not fit; looking for what does ...", file=sys.stderr, flush=True)
    asked = (config.mesh, config.model.remat)
    cheaper = [
        candidate
        for candidate in candidates(config, len(devices))
        if (candidate.mesh, candidate.model.remat) != asked
    ]
    cheaper.sort(
        key=lambda c: (
            (c.mesh != config.mesh) + (c.model.remat != config.model.remat),
            abs(math.log(c.mesh.tensor / config.mesh.tensor)),
        )
    )
    for candidate in cheaper[: config.compiles]:
        try:
            plan = plan_one(candidate, devices)
        except DoesNotFit:
            continue
        return f"{options(candidate)} fits ({plan['hbm_fraction']:.0%} of the memory)"
    return "no other mesh or recomputation was found to fit: take a larger slice or fewer rows"


def options(config: Config) -> str:
    """Mesh and recomputation as they are typed."""
    axes = {name: size for name, size in dataclasses.asdict(config.mesh).items() if size > 1}
    mesh = ",".join(f"{name}={size}" for name, size in axes.items()) or "data=1"
    return f"--mesh {mesh} --model.remat {config.model.remat}"


def parse(arguments: list[str]) -> Config:
    """`--model NAME` and `--mesh a=1,b=2` spelled out, the rest by tyro."""
    spelled, model = [], "gpt2"
    pending = iter(arguments)
    for argument in pending:
        name, equals, value = argument.partition("=")
        if name not in ("--model", "--mesh"):
            spelled.append(argument)
            continue
        value = value if equals else next(pending, "")
        if name == "--model":
            model = value
        else:
            for axis, _, size in (part.partition("=") for part in value.split(",")):
                spelled += [f"--mesh.{axis}", size]
    preset = dataclasses.replace(find_preset(model), dtype="bfloat16", remat="block")
    return tyro.cli(Config, default=Config(model=preset), args=spelled, description=__doc__)


def find_preset(name: str) -> ModelConfig:
    """A preset by its name, with hyphens or underscores."""
    key = name.lower().replace("-", "_")
    if key not in PRESETS:
        near = difflib.get_close_matches(key, PRESETS, n=3, cutoff=0.4) or PRESETS
        raise UserError(f"there is no model {name!r}; nearest are {', '.join(near)}")
    return PRESETS[key]


if __name__ == "__main__":
    with terminal.ending_plainly():
        main(parse(sys.argv[1:]))
