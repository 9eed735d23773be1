"""A model small enough to compile in a second, and batches for it."""

import functools
import json

import jax
import numpy as np
import optax

from gpt_jax.data.batches import Batch, Comparisons, empty_tokens, pad_prompts, put
from gpt_jax.models.config import ModelConfig
from gpt_jax.models.contract import init
from gpt_jax.models.heads import axes_of
from gpt_jax.rl.iteration import EndIds
from gpt_jax.train.checkpoint import Checkpoints, save_model_files
from gpt_jax.train.stage import Functions, LoopConfig, Stage
from gpt_jax.train.state import TrainState

ENDS = EndIds(stop_ids=(1,), pad_id=0)
MODEL = ModelConfig(vocab_size=32, context_length=64, width=16, layers=2, heads=2)
AXES = axes_of(MODEL)


@functools.partial(jax.jit, static_argnums=0)
def params(model=MODEL, seed=0, scale=5.0):
    """Random parameters, scaled up so that the predictions are far from uniform."""
    return jax.tree.map(lambda x: x * scale, init(model, jax.random.key(seed)))


def random_rows(rng, n, low=4, high=20):
    return [rng.integers(5, 32, rng.integers(low, high)).tolist() for _ in range(n)]


def padded(rows, length, weights=True) -> Batch:
    """One example per row, right-padded."""
    tokens = empty_tokens((len(rows), length), 0)
    weight = np.zeros((len(rows), length), np.float32)
    for b, row in enumerate(rows):
        put(tokens, np.s_[b, : len(row)], row)
        weight[b, 1 : len(row)] = float(weights)
    return Batch(tokens, weight)


def comparisons(rng, n, k, length) -> Comparisons:
    """Completions without a prompt; all but their first token has weight 1."""
    parts = [padded(random_rows(rng, k), length) for _ in range(n)]
    ranks = np.stack([rng.permutation(k) for _ in range(n)]).astype(np.int32)
    return Comparisons(*jax.tree.map(lambda *xs: np.stack(xs), *parts), ranks)


def prompts(rng, n, length=12):
    return pad_prompts(random_rows(rng, n, 3, 10), length, 0)


def stage(functions: Functions, train: LoopConfig, batch_at, **fields) -> Stage:
    """A stage for `fit` and `run_stage`, of the tiny model."""
    defaults = dict(
        tokenizer=None, row_numbers=lambda step: np.arange(4), learning_rate=lambda step: 0.0
    )
    return Stage(
        model=MODEL,
        train=train,
        functions=functions,
        batch_at=batch_at,
        **(defaults | fields),
    )


def run_folder(folder, model, stage="sft"):
    """A stage's folder with a `TextModel`'s files and parameters, as a run leaves it."""
    save_model_files(folder, model.config, model.tokenizer)
    (folder / "config.json").write_text(json.dumps({"stage": stage}))
    checkpoints = Checkpoints(folder)
    checkpoints.save(1, TrainState.create(model.params, optax.identity()))
    checkpoints.close()
    return folder
