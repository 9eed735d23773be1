"""What each stage executes, as jitted functions and shapes: the planner's view of the experiments.

Nothing here is a copy of a stage: the functions come from the stages' own `build` and from
`rl.ppo`, and their arguments are laid out by the same rules, only that no array is made.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from experiments import ppo, pretrain, reward, sft
from gpt_jax.data.batches import Batch, Comparisons, Prompts
from gpt_jax.models.config import ModelConfig
from gpt_jax.models.flops import forward_flops
from gpt_jax.models.heads import init_scorer
from gpt_jax.models.transformer import init
from gpt_jax.parallel import rules
from gpt_jax.rl import ppo as rl
from gpt_jax.rl.rewards import model_reward
from gpt_jax.train import state as states
from gpt_jax.train.loop import TrainConfig
from gpt_jax.train.optim import OptimizerConfig

STEPS = 1000  # of the schedule; it changes no shape


class Workload(NamedTuple):
    """One step of a stage.

    Attributes:
      stage: "pretrain", "sft", "reward" or "ppo".
      rows: sequences (reward: prompts; PPO: episodes) over all devices.
      length: tokens of a sequence (PPO: prompt and completion).
      accumulate: micro-batches (PPO: minibatches).
      completions: per prompt, for the reward model.
      new_tokens: sampled per episode, for PPO.
      epochs: passes over the episodes, for PPO.
    """

    stage: str
    rows: int
    length: int
    accumulate: int
    completions: int
    new_tokens: int
    epochs: int

    @property
    def tokens(self) -> int:
        """Trained on in one step (PPO: sampled)."""
        if self.stage == "ppo":
            return self.rows * self.new_tokens
        return self.rows * self.length * (self.completions if self.stage == "reward" else 1)

    def flops(self, model: ModelConfig) -> float:
        """What the mathematics of one step needs, by the closed formula; nothing recomputed."""
        logits = 2.0 * model.width * model.vocab_size  # per token
        body = forward_flops(model, self.length) - logits * self.length
        if self.stage in ("pretrain", "sft"):
            return 3 * self.rows * (body + logits * self.length)
        if self.stage == "reward":
            return 3 * self.rows * self.completions * body
        completion = logits * self.new_tokens  # prompts need no logits
        rollout = body + completion
        scoring = 4 * body + 2 * completion  # policy, reference, value and reward
        update = 3 * self.epochs * (2 * body + completion)  # policy and value
        return self.rows * (rollout + scoring + update)


class Planned(NamedTuple):
    """A jitted function, its arguments as shapes with shardings, and its runs per step."""

    name: str
    function: Any
    args: tuple
    runs: int = 1


def stage_programs(
    work: Workload, model: ModelConfig, optimizer: OptimizerConfig, mesh: Mesh
) -> list[Planned]:
    """All that one step of the stage executes.

    Raises:
      UserError: if the mesh does not divide a parameter, naming it.
    """
    train = TrainConfig(steps=STEPS, batch_size=work.rows, accumulate=work.accumulate)
    key = jax.eval_shape(lambda: jax.random.key(0))
    params = states.abstract(functools.partial(init, model), key, mesh=mesh)
    shape_BT = (work.rows, work.length)
    if work.stage == "pretrain":
        recipe = pretrain.Pretrain(model=model, optimizer=optimizer, train=train)
        stage, origin = pretrain.build(recipe, train, seed=0), (key,)
        batch = Batch(*_ints(shape_BT, 3), jax.ShapeDtypeStruct(shape_BT, jnp.float32))
    elif work.stage == "sft":
        recipe = sft.SFT(optimizer=optimizer, train=train)
        stage, origin = sft.build(recipe, model, train, seed=0), (params,)
        batch = Batch(*_ints(shape_BT, 3), jax.ShapeDtypeStruct(shape_BT, jnp.float32))
    elif work.stage == "reward":
        recipe = reward.Reward(optimizer=optimizer, train=train)
        stage, origin = reward.build(recipe, model, train, seed=0), (params, key)
        shape_BKT = (work.rows, work.completions, work.length)
        batch = Comparisons(*_ints(shape_BKT, 3), *_ints(shape_BKT[:2], 1))
    else:
        return _ppo_programs(work, model, optimizer, mesh, params, key)
    state = states.abstract(stage.init, *origin, mesh=mesh)
    return [Planned("train step", stage.step, (state, _laid_out(batch, mesh)))]


def _ppo_programs(work, model, optimizer_config, mesh, params, key) -> list[Planned]:
    """The iteration as it runs, which says what fits, and its three parts, which say how long."""
    recipe = ppo.PPO(
        episodes=work.rows,
        epochs=work.epochs,
        minibatches=work.accumulate,
        max_new_tokens=work.new_tokens,
        optimizer=optimizer_config,
        train=TrainConfig(steps=STEPS),
    )
    optimizer, start = ppo.build(recipe, model)
    scorer = states.abstract(functools.partial(init_scorer, model), params, key, mesh=mesh)
    state = states.abstract(start, params, scorer, key, mesh=mesh)
    score = model_reward(model, scorer)
    prompts = _laid_out(Prompts(*_ints((work.rows, work.length - work.new_tokens), 3)), mesh)
    learned = {name: state.params[name] for name in ("policy", "value")}

    def scoring(learned, reference, score, kl_coef, rollout):
        scores_B = score(rollout)
        return rl.prepare(recipe, model, learned, reference, kl_coef, rollout, scores_B)[0]

    collect = functools.partial(rl.collect, recipe, model, 0)
    iterate = functools.partial(rl.iterate, recipe, model, optimizer, 0)
    update = functools.partial(rl.update, recipe, model, optimizer)
    rollout = _laid_out(jax.eval_shape(collect, params, state.step, prompts), mesh)
    scored = (learned, params, score, state.extras["kl_coef"], rollout)
    experience = _laid_out(jax.eval_shape(scoring, *scored), mesh)
    return [
        Planned(
            "iteration",
            jax.jit(iterate, donate_argnums=0),
            (state, params, score, rl.PPOInputs(prompts, None)),
            runs=0,
        ),
        Planned("rollout", jax.jit(collect), (params, state.step, prompts)),
        Planned("scoring", jax.jit(scoring), scored),
        Planned(
            "update",
            jax.jit(update, donate_argnums=(0, 1)),
            (learned, state.opt_state, experience, None, key),
        ),
    ]


def _ints(shape: tuple[int, ...], count: int) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct(shape, jnp.int32)] * count


def _laid_out(batch: Any, mesh: Mesh) -> Any:
    """Shapes of a batch, split as `data.pipeline.place` splits the arrays."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        batch,
        rules.batch_shardings(batch, mesh),
    )
