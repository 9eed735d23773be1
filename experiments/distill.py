"""Distillation: a small model learns to predict as a larger one does.

    python -m experiments.distill --init-from runs/sft/small --teacher-from runs/sft/large
    python -m experiments.distill --init-from runs/sft/small --teacher-from runs/sft/large \\
        --distill.on-policy --distill.divergence reverse
    python -m experiments.distill --init-from hf:ORG/SMALL --teacher-from hf:ORG/LARGE --context 512

Of every token the student learns the teacher's whole distribution, not only the word that came: on
the demonstrations or, with `--distill.on-policy`, on what the student itself says to the prompts
(Agarwal et al. 2024), so that it learns from the mistakes that it makes. Both have one tokenizer.
`losses/distillation.py` has the divergences. Held out, both are measured on demonstrations.

Hardware and time (tiny, on-policy, reverse, 100 steps of 32 prompts at a rate of 1e-3): 4 minutes
on 2 CPU cores that much else was using, 1 minute of processor time.
Expected (the same, from the SFT model to the DPO policy of its own size): the reverse KL of its own
samples from 0.14 to 0.004 nats per token, and the teacher's gold score within its interval.
"""

import dataclasses
import functools
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from experiments import sft
from gpt_jax import keys
from gpt_jax.data.batches import Batch, Prompts
from gpt_jax.data.left_out import LeftOut
from gpt_jax.data.packing import pack_demonstrations, pad_prompt_records
from gpt_jax.errors import UserError
from gpt_jax.generate.sampler import generate
from gpt_jax.losses.distillation import Divergence, distillation_loss
from gpt_jax.losses.lm import Metrics
from gpt_jax.models.contract import Model, init, param_shapes
from gpt_jax.models.flops import forward_flops
from gpt_jax.models.heads import axes_of
from gpt_jax.models.lora import attached
from gpt_jax.plan.estimate import Cost
from gpt_jax.plan.workload import StepPlan, Workload, floats, gradient_step, tokens
from gpt_jax.ranges import Positive, Range, check_ranges
from gpt_jax.rl.iteration import EndIds, ends_of
from gpt_jax.train import command
from gpt_jax.train import state as states
from gpt_jax.train.checkpoint import ModelFiles
from gpt_jax.train.gradient import GradientRecipe, gradient_functions, gradient_stage
from gpt_jax.train.launch import run_stage
from gpt_jax.train.optim import OptimizerConfig
from gpt_jax.train.origin import load_model_files, load_params, start_of
from gpt_jax.train.stage import Functions, Parameters, Stage, TrainConfig
from gpt_jax.train.state import TrainState
from gpt_jax.train.tuning import Start, Tuned

COST = Cost(frozen=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distill(GradientRecipe):
    divergence: Divergence = "forward"
    """forward: KL(teacher || student), or reverse, or jsd, which lies between."""
    jsd_beta: Annotated[float, Range(0.0, 1.0, open_low=True, open_high=True)] | None = None
    """Of the jsd the teacher's weight (0.5); nearer to 0 it is more like forward."""
    on_policy: bool = False
    """Learn on the student's own samples, not on demonstrations."""
    max_new_tokens: Positive = 40
    """Of a sample."""

    def __post_init__(self):
        check_ranges(self)
        if self.jsd_beta is not None and self.divergence != "jsd":
            raise UserError(f"jsd_beta is no option of {self.divergence}; leave it out")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Tuned):
    run_dir: str = "runs/distill/default"
    init_from: str = "runs/sft/default"
    teacher_from: str = "runs/sft/teacher"
    """The model to learn from, larger and with the same tokenizer: a run folder, a Hugging Face
    folder, hf:ORG/NAME or gguf:FILE."""
    distill: Distill


def teacher_of(config: Config, start: ModelFiles) -> Model:
    """The teacher's shape.

    Raises:
      UserError: if it has another tokenizer than the student, or reads fewer tokens.
    """
    limits = {"context": config.context, "dtype": config.dtype}
    teacher, tokenizer = load_model_files(config.teacher_from, param_shapes, **limits)
    if tokenizer != start.tokenizer:
        raise UserError(
            f"{config.teacher_from} has another tokenizer than {config.init_from}, so that its "
            "predictions are of other tokens; give a teacher and a student of one family"
        )
    if teacher.context_length < start.model.context_length:
        raise UserError(
            f"{config.teacher_from} reads {teacher.context_length} tokens, {config.init_from} "
            f"{start.model.context_length}; give --context {teacher.context_length}"
        )
    return teacher


def functions_of(
    model: Model, teacher: Model, recipe: Distill, train: TrainConfig, ends: EndIds
) -> Functions:
    """The functions of the stage; on-policy a step takes prompts, and samples first."""
    loss = loss_of(recipe, teacher)
    made = gradient_functions(model, loss, recipe.optimizer, train, sft.first)
    made = made._replace(axes=axes_of(model, teacher))

    def step(state: TrainState, prompts: Prompts, frozen: dict) -> tuple[TrainState, Metrics]:
        rollout = generate(
            model,
            attached(state.params, frozen),
            prompts,
            keys.derive(state.seed, state.step, "distill/rollout"),
            max_new_tokens=recipe.max_new_tokens,
            stop_ids=ends.stop_ids,
            pad_id=ends.pad_id,
        )
        sampled = Batch(rollout.tokens_BT, rollout.mask_BT)
        state, metrics = made.step(state, sampled, frozen)
        rows = len(rollout.stopped_B)
        return state, metrics | {
            "tokens": (jnp.sum(rollout.mask_BC), 1),
            "val/num_eos_tokens": (jnp.sum(rollout.stopped_B), rows),
        }

    return made._replace(step=jax.jit(step, donate_argnums=0)) if recipe.on_policy else made


def loss_of(recipe: Distill, teacher: Model) -> functools.partial:
    """The loss with its options."""
    beta = {} if recipe.jsd_beta is None else {"jsd_beta": recipe.jsd_beta}
    return functools.partial(
        distillation_loss, teacher=teacher, divergence=recipe.divergence, **beta
    )


def prepare(config: Config, start: ModelFiles, mesh: Mesh) -> Stage:
    """The stage: the student on demonstrations or on prompts, and the teacher beside it."""
    recipe, (model, tokenizer), left_out = config.distill, start, LeftOut()
    begin = Start(config, model)
    begin.check()
    teacher = teacher_of(config, start)
    context = model.context_length

    def packed(split: str, name: str) -> Batch:
        rows = config.data.read("demonstrations", split)
        return pack_demonstrations(rows, tokenizer, context, left_out, name)

    if recipe.on_policy:
        if recipe.max_new_tokens >= context:
            raise UserError(
                f"--distill.max-new-tokens {recipe.max_new_tokens} leaves no room for a prompt in "
                f"the model's context of {context} tokens; lower it"
            )
        room = context - recipe.max_new_tokens
        rows: Any = pad_prompt_records(
            config.data.read("prompts", "train"), tokenizer, room, left_out
        )
    else:
        rows = packed("train", "demonstrations")

    def load(mesh: Mesh) -> Parameters:
        theirs = load_params(config.teacher_from, mesh, context=config.context)
        origin, frozen = begin.load(mesh)
        return Parameters(origin, frozen | {"teacher": theirs})

    def shapes() -> Parameters:
        origin, frozen = begin.shapes()
        return Parameters(origin, frozen | {"teacher": param_shapes(teacher)})

    stage = gradient_stage(
        recipe,
        rows,
        packed("test", "held-out demonstrations"),
        seed=config.seed,
        mesh=mesh,
        model=model,
        tokenizer=tokenizer,
        first=sft.first,
        load=load,
        shapes=shapes(),
        adapter_file=begin.adapter_file,
        loss=loss_of(recipe, teacher),
        headline=("loss",),
        kinds=("prompts", "demonstrations") if recipe.on_policy else ("demonstrations",),
        left_out=left_out,
    )
    made = functions_of(model, teacher, recipe, stage.train, ends_of(tokenizer))
    stage = dataclasses.replace(stage, functions=made._replace(init=begin.first(made.init)))
    if not recipe.on_policy:
        return stage
    numbers = stage.row_numbers
    return dataclasses.replace(stage, row_numbers=lambda step: rows.rows_B[numbers(step)])


def main(config: Config) -> None:
    """Runs the stage."""

    def stage(config: Config, mesh: Mesh) -> Stage:
        return prepare(config, start_of(config), mesh)

    run_stage("distill", config, stage)


def plan(work: Workload, mesh: Mesh) -> StepPlan:
    """One step on packed conversations with a teacher of the same shape, for the planner."""
    model, recipe = work.model, Distill(optimizer=work.optimizer, train=work.train)
    ends = EndIds(stop_ids=(1,), pad_id=0)  # nothing is sampled
    functions = functions_of(model, model, recipe, work.train, ends)
    params = states.abstract(lambda: init(model, jax.random.key(0)), mesh=mesh, axes=functions.axes)
    batch = Batch(tokens(work.rows, work.length), floats(work.rows, work.length))
    return StepPlan(
        gradient_step(functions, (params,), batch, mesh, {"teacher": params}),
        tokens=work.rows * work.length,
        flops=4 * work.rows * forward_flops(model, work.length),  # of which the teacher one
    )


def smoke() -> Config:
    return Config(
        preset="smoke",
        distill=Distill(
            max_new_tokens=16,
            optimizer=OptimizerConfig(learning_rate=1e-3),
            train=TrainConfig(steps=10, batch_size=8, evaluate_every=10, checkpoint_every=5),
        ),
    )


def tiny() -> Config:
    return Config(
        preset="tiny",
        distill=Distill(
            max_new_tokens=36,
            optimizer=OptimizerConfig(learning_rate=2e-3),
            train=TrainConfig(steps=500, batch_size=16, evaluate_every=250, checkpoint_every=250),
        ),
    )


def colab() -> Config:
    return Config(
        preset="colab",
        distill=Distill(
            max_new_tokens=64,
            optimizer=OptimizerConfig(learning_rate=3e-4),
            train=TrainConfig(steps=300, batch_size=64, evaluate_every=100, checkpoint_every=100),
        ),
    )


presets = {"smoke": smoke, "tiny": tiny, "colab": colab}

if __name__ == "__main__":
    command.run(main, presets, __doc__)
