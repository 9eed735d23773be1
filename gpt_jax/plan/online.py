"""The planner's view of an iteration that learns from its own samples."""

from __future__ import annotations

import functools

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from gpt_jax.data.batches import Prompts
from gpt_jax.models.contract import init
from gpt_jax.models.heads import init_scorer
from gpt_jax.plan.workload import Planned, Workload, ints, laid_out, tokens
from gpt_jax.rl import iteration
from gpt_jax.rl.iteration import Algorithm, Inputs
from gpt_jax.rl.rewards import model_score
from gpt_jax.rl.update import update
from gpt_jax.train import state as states
from gpt_jax.train.finite import Learner
from gpt_jax.train.stage import Functions


def iteration_programs(
    work: Workload,
    mesh: Mesh,
    algorithm: Algorithm,
    optimizer: optax.GradientTransformation,
    made: Functions,
) -> list[Planned]:
    """The iteration as it runs, which says what fits, and its parts, which say how long.

    Args:
      work: of one iteration; policy, reference, value and reward have its model's shape.
      mesh: of the machine.
      algorithm, optimizer, made: as the experiment makes them.
    """
    model, key = work.model, jax.random.key(0)
    score = model_score(model)
    abstract = functools.partial(states.abstract, mesh=mesh, axes=made.axes)
    policy = abstract(lambda: init(model, key))
    scorer = abstract(lambda: init_scorer(model, init(model, key), key))
    frozen = {"reference": policy, "reward": scorer}
    state = abstract(made.init, np.uint32(0), policy, scorer)
    prompt_length = work.length - work.new_tokens
    prompts = laid_out(Prompts(tokens(work.rows, prompt_length), ints(work.rows)), mesh)

    collect = functools.partial(iteration.collect, algorithm.config, model, algorithm.ends)
    sampled = (policy, prompts, state.seed, state.step)
    rollout = laid_out(jax.eval_shape(collect, *sampled), mesh)

    def scoring(state, frozen, rollout):
        return algorithm.prepare(state, frozen, rollout, score(frozen["reward"], rollout))[0]

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
