"""The speed of a PPO iteration, against TRL's PPOv2Trainer.

    python -m venv trl && trl/bin/pip install trl==0.11.4 transformers==4.46.3 torch rich
    python -m tools.benchmark_ppo --trl trl/bin/python
    python -m tools.benchmark_ppo --trl trl/bin/python --width 384 --layers 6 --vocab-size 4096

TRL 0.11.4 is the last that has this trainer, and it needs an older transformers, so it has an
environment of its own. Both sides train a GPT-2 policy with a value model apart against a reward
model and a reference of the same shape (random weights, float32, no dropout): sample, score, and
epochs x minibatches of updates. They take turns, an iteration each, so that whatever else the
machine does falls on both alike; the table gives medians, and the ratio the median of the rounds'
own ratios. Without `--trl` ours is measured alone, and where its time goes.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import tyro

from gpt_jax import terminal
from gpt_jax.data.batches import Prompts, Tokens
from gpt_jax.errors import UserError
from gpt_jax.models import ModelConfig, init
from gpt_jax.models.heads import axes_of, init_scorer
from gpt_jax.ranges import Positive, check_ranges
from gpt_jax.rl import iteration
from gpt_jax.rl.actor_critic import ActorCritic, PPOConfig, init_state, ppo
from gpt_jax.rl.iteration import EndIds, Inputs, make_iteration
from gpt_jax.rl.rewards import model_reward
from gpt_jax.train.host import keep_freed_memory
from gpt_jax.train.optim import OptimizerConfig, make_optimizer

CHILD = Path(__file__).with_name("trl_ppo.py")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One iteration; `rounds` of them are measured on each side."""

    trl: str | None = None
    """The Python of an environment with TRL 0.11.4; None: ours alone."""
    vocab_size: Positive = 1024
    width: Positive = 128
    layers: Positive = 4
    heads: Positive = 4
    prompt: Positive = 32
    response: Positive = 32
    episodes: Positive = 64
    epochs: Positive = 4
    minibatches: Positive = 4
    rounds: Positive = 10
    fused: bool = True
    """Whether TRL's AdamW is torch's fused one."""
    output: str | None = None
    """A file for the numbers, as JSON."""

    def __post_init__(self):
        check_ranges(self)

    @property
    def model(self) -> ModelConfig:
        """The shape of all four models."""
        context = self.prompt + self.response
        return ModelConfig(self.vocab_size, context, self.width, self.layers, self.heads)

    @property
    def recipe(self) -> PPOConfig:
        """The algorithm, with TRL's defaults."""
        return PPOConfig(
            episodes=self.episodes,
            epochs=self.epochs,
            minibatches=self.minibatches,
            max_new_tokens=self.response,
            missing_stop_score=None,
        )


class Ours:
    """Our iteration, compiled, and its parts."""

    def __init__(self, benchmark: Benchmark):
        model, recipe = benchmark.model, benchmark.recipe
        shapes = ActorCritic(model, model)
        # No token ends a completion, as in TRL, which samples all of them and cuts later.
        ends = EndIds(stop_ids=(benchmark.vocab_size,), pad_id=0)
        keys = jax.random.split(jax.random.key(0), 3)
        policy, reference = (init(model, key) for key in keys[:2])
        scorer = init_scorer(model, init(model, keys[2]), keys[2])
        updates = recipe.passes.updates * (benchmark.rounds + 1)
        optimizer = make_optimizer(OptimizerConfig(eps=1e-5), updates, axes_of(model))
        self.algorithm = ppo(recipe, shapes, ends)
        reward = model_reward(model, scorer)
        self.frozen = {"reference": reference, "reward": scorer}
        self.state = init_state(recipe, shapes, optimizer, 0, policy, scorer)
        rng, size = np.random.default_rng(0), (benchmark.episodes, benchmark.prompt)
        ids_BP = rng.integers(1, benchmark.vocab_size, size, np.int32)
        positions_BP = np.broadcast_to(np.arange(size[1], dtype=np.int32), size)
        tokens_BP = Tokens(ids_BP, positions_BP, np.ones(size, np.int32))
        self.inputs = Inputs(Prompts(tokens_BP, np.arange(size[0], dtype=np.int32)))
        began = time.perf_counter()
        step = make_iteration(self.algorithm, optimizer, reward)
        self.step = step.lower(self.state, self.inputs, self.frozen).compile()
        self.compile_seconds = time.perf_counter() - began
        self._learn = jax.jit(functools.partial(iteration.learn, self.algorithm, optimizer))
        self._score = jax.jit(reward.score)

    def iterate(self) -> float:
        """Seconds of one iteration."""
        began = time.perf_counter()
        self.state, metrics = self.step(self.state, self.inputs, self.frozen)
        jax.block_until_ready((self.state.params, metrics))
        return time.perf_counter() - began

    def shares(self, rounds: int = 3) -> dict[str, float]:
        """Seconds of an iteration's parts, each as a program of its own; medians."""
        algorithm, state = self.algorithm, self.state
        place = (algorithm.config, algorithm.model.policy, algorithm.ends)
        collect = jax.jit(functools.partial(iteration.collect, *place))
        prepare = jax.jit(functools.partial(iteration.prepare, algorithm))
        policy, at = state.params["policy"], (state.seed, state.step)

        def timed(call, *args):
            jax.block_until_ready(call(*args))
            seconds = []
            for _ in range(rounds):
                began = time.perf_counter()
                out = jax.block_until_ready(call(*args))
                seconds.append(time.perf_counter() - began)
            return out, statistics.median(seconds)

        rollout, sample = timed(collect, policy, self.inputs.prompts, at)
        scores_B, score = timed(self._score, self.frozen["reward"], rollout)
        _, prepared = timed(prepare, state, self.frozen, rollout, scores_B)
        _, learned = timed(self._learn, state, (rollout, scores_B, None), self.frozen)
        return {"sample": sample, "score": score + prepared, "update": learned - prepared}


class Theirs:
    """TRL's trainer in a process of its own."""

    def __init__(self, benchmark: Benchmark):
        shape = dataclasses.asdict(benchmark) | {
            "context": benchmark.prompt + benchmark.response,
            "iterations": benchmark.rounds + 1,
        }
        self._process = subprocess.Popen(
            [benchmark.trl, str(CHILD), json.dumps(shape)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._read()  # ready

    def iterate(self) -> float:
        """Seconds of one iteration."""
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return float(self._read())

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait(timeout=60)

    def _read(self) -> str:
        line = self._process.stdout.readline()
        if not line:
            raise UserError(
                "TRL's side has ended; see above why (it needs trl==0.11.4, transformers==4.46.3)"
            )
        return line.strip()


def main(benchmark: Benchmark) -> dict[str, float]:
    """Prints the table and returns its numbers."""
    keep_freed_memory()
    ours = Ours(benchmark)
    theirs = Theirs(benchmark) if benchmark.trl else None
    ours.iterate()
    if theirs:
        theirs.iterate()
    seconds: dict[str, list[float]] = {"gpt_jax": [], "TRL": []}
    for _ in range(benchmark.rounds):
        seconds["gpt_jax"].append(ours.iterate())
        if theirs:
            seconds["TRL"].append(theirs.iterate())
    found = {name: statistics.median(rounds) for name, rounds in seconds.items() if rounds}
    for name, median in found.items():
        per_second = benchmark.episodes / median
        print(f"{name:<10}{median:>8.2f} s an iteration{per_second:>8.1f} episodes/s")
    result = found | {"compile_seconds": ours.compile_seconds}
    if theirs:
        theirs.close()
        pairs = zip(seconds["TRL"], seconds["gpt_jax"], strict=True)
        result["ratio"] = statistics.median(b / a for b, a in pairs)
        print(f"gpt_jax / TRL: {result['ratio']:.2f}")
    print(f"compiling ours: {ours.compile_seconds:.1f} s, once")
    result |= ours.shares()
    total = sum(result[name] for name in ("sample", "score", "update"))
    for name in ("sample", "score", "update"):
        print(f"  {name:<8}{result[name]:>8.2f} s{100 * result[name] / total:>6.0f}%")
    if benchmark.output:
        Path(benchmark.output).write_text(json.dumps(result, indent=2) + "\n")
    return result


if __name__ == "__main__":
    with terminal.ending_plainly():
        try:
            main(tyro.cli(Benchmark, description=__doc__))
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
