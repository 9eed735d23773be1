"""The planner's view of an iteration that learns from its own samples."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from gpt_jax.data.batches import Prompts
from gpt_jax.models.flops import forward_flops
from gpt_jax.models.heads import axes_of, scorer_shapes
from gpt_jax.models.lora import SCALE, adapted_shapes, attached
from gpt_jax.models.quantized import keep_as
from gpt_jax.plan.workload import Planned, StepPlan, Workload, ints, laid_out, placed, tokens
from gpt_jax.rl import iteration
from gpt_jax.rl.iteration import Algorithm, EndIds, Inputs
from gpt_jax.rl.policy_stage import MakeAlgorithm, PolicyMethod, policy_functions, policy_optimizer
from gpt_jax.rl.rewards import model_score
from gpt_jax.rl.scoring import model_scoring
from gpt_jax.rl.stage import OnlineRecipe
from gpt_jax.rl.update import update
from gpt_jax.train import state as states
from gpt_jax.train.finite import Learner
from gpt_jax.train.stage import Functions, LoopConfig, Parameters


def iteration_programs(
    work: Workload,
    mesh: Mesh,
    algorithm: Algorithm,
    optimizer: optax.GradientTransformation,
    made: Functions,
) -> list[Planned]:
    """The iteration as it runs, which says what fits, and its parts, which say how long.

    Args:
      work: of one iteration; policy, reference, value and reward have its model's shape, and all
        are adapters on one backbone if any is.
      mesh: of the machine.
      algorithm, optimizer, made: as the experiment makes them.
    """
    model, key = work.model, jax.random.key(0)
    score = model_score(model)
    (policy, scorer), frozen = placed(_parameters(work), mesh, made.axes)
    state = states.abstract(
        work.start.first(made.init), np.uint32(0), policy, scorer, mesh=mesh, axes=made.axes
    )
    backbone = {name: frozen[name] for name in ("backbone", SCALE) if name in frozen}
    prompt_length = work.length - work.new_tokens
    prompts = laid_out(Prompts(tokens(work.rows, prompt_length), ints(work.rows)), mesh)

    def collect(policy, backbone, *asked):
        policy = attached(policy, backbone)
        return iteration.collect(algorithm.config, model, algorithm.ends, policy, *asked)

    sampled = (policy, backbone, prompts, (state.seed, state.step))
    rollout = laid_out(jax.eval_shape(collect, *sampled), mesh)

    def scoring(state, frozen, rollout):
        scores_B = score(attached(frozen["reward"], frozen), rollout)
        return iteration.prepare(algorithm, state, frozen, rollout, scores_B)[0]

    def learning(learner, experience, frozen, key):
        given = (algorithm.config.passes, learner, (experience, None), frozen, key)
        return update(optimizer, *given, model=algorithm.model, loss=algorithm.loss)

    experience = laid_out(jax.eval_shape(scoring, state, frozen, rollout), mesh)
    learned = (Learner(state.params, state.opt_state), experience, frozen)
    return [
        Planned("iteration", made.step, (state, Inputs(prompts), frozen), runs=0),
        Planned("rollout", jax.jit(collect), sampled),
        Planned("scoring", jax.jit(scoring), (state, frozen, rollout)),
        Planned(
            "update",
            jax.jit(learning, donate_argnums=0),
            (*learned, jax.eval_shape(lambda: key)),
        ),
    ]


def policy_plan(work: Workload, mesh: Mesh, recipe: OnlineRecipe, make: MakeAlgorithm) -> StepPlan:
    """One iteration of a method without a value model, for `plan` of its experiment.

    Args:
      work, mesh: as `plan` is given them.
      recipe: of the work; see `planned_recipe`.
      make: `(recipe, model, ends) -> Algorithm`.
    """
    model, new = work.model, work.new_tokens
    ends = EndIds(stop_ids=(1,), pad_id=0)  # whichever they are: a program of one size
    method = PolicyMethod(make)
    made = policy_functions(recipe, method, model, ends, model_scoring(model), work.train.steps)
    optimizer = policy_optimizer(recipe, model, work.train.steps)
    # Prompts need no logits. Policy, reference and reward score; the policy learns.
    body, told = (forward_flops(model, work.length, logits=n) for n in (0, new))
    each = told + (body + 2 * told) + 3 * recipe.epochs * told
    return StepPlan(
        iteration_programs(work, mesh, make(recipe, model, ends), optimizer, made),
        tokens=work.rows * new,
        flops=work.rows * each,
    )


def planned_recipe(work: Workload) -> dict[str, Any]:
    """The fields of an `OnlineRecipe` that the work decides."""
    return dict(
        episodes=work.rows,
        epochs=work.epochs,
        minibatches=work.accumulate,
        max_new_tokens=work.new_tokens,
        optimizer=work.optimizer,
        train=LoopConfig(steps=work.train.steps),
    )


def _parameters(work: Workload) -> Parameters:
    """What policy and value model start from, and what is frozen, as shapes."""
    (policy,), frozen = work.start.shapes(reference=True)
    scorer = reward = scorer_shapes(work.model)
    if work.lora.rank:
        scorer = reward = adapted_shapes(work.lora, work.model, scorer)
    else:
        keep = functools.partial(keep_as, axes=axes_of(work.model), dtype=work.frozen_dtype)
        frozen, reward = jax.eval_shape(keep, frozen), jax.eval_shape(keep, reward)
    return Parameters((policy, scorer), frozen | {"reward": reward})
