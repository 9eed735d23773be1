"""Every method without a value model, for the tests that all must pass.

The model sees the last token and its place, and no more, so that a method compiles in a second.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from gpt_jax.data.batches import Prompts
from gpt_jax.generate.sampler import Rollout, generate
from gpt_jax.models import contract
from gpt_jax.models.contract import Model
from gpt_jax.rl.grpo import DAPO, DR_GRPO, GSPO, GRPOConfig, grpo
from gpt_jax.rl.iteration import Algorithm, final_scores
from gpt_jax.rl.online_dpo import OnlineDPOConfig, online_dpo
from gpt_jax.rl.reinforce import ReinforceConfig, reinforce
from gpt_jax.rl.rejection import RejectionConfig, rejection
from gpt_jax.rl.rloo import RLOOConfig, rloo
from gpt_jax.rl.update import whole_if_uneven
from gpt_jax.train.state import TrainState
from tests import tiny


@dataclasses.dataclass(frozen=True)
class Bigram:
    vocab_size: int = 32
    context_length: int = 64
    width: int = 8
    dtype: str = "float32"


@contract.init.register(Bigram)
def _(model, key):
    tokens, places = jax.random.split(key)
    return {
        "embed": jax.random.normal(tokens, (model.vocab_size, model.width)),
        "places": jax.random.normal(places, (model.context_length, model.width)),
    }


@contract.forward.register(Bigram)
def _(model, params, tokens_BT, cache=None, *, dropout_key=None):
    places_BTD = params["places"][tokens_BT.positions]
    return jnp.tanh(params["embed"][tokens_BT.ids] + places_BTD), cache


@contract.init_cache.register(Bigram)
def _(model, batch, length):
    return jnp.zeros(())


@contract.unembedding.register(Bigram)
def _(model, params):
    return params["embed"]


@contract.logical_axes.register(Bigram)
def _(model):
    return {"embed": ("vocab", "width"), "places": (None, "width")}


MODEL = Bigram()
ROWS, GROUP = 16, 4
SIZES = dict(episodes=ROWS, epochs=1, minibatches=2, max_new_tokens=8, missing_stop_score=None)
GROUPED = SIZES | dict(group=GROUP)
GRPO = GRPOConfig(**GROUPED, kl_coef=0.1)
METHODS = {
    "grpo": (grpo, GRPO),
    "dr_grpo": (grpo, dataclasses.replace(GRPO, **DR_GRPO)),
    "dapo": (grpo, dataclasses.replace(GRPO, **DAPO)),
    "gspo": (grpo, dataclasses.replace(GRPO, **GSPO)),
    "grpo, KL in the reward": (grpo, dataclasses.replace(GRPO, kl_in="reward")),
    "rloo": (rloo, RLOOConfig(**GROUPED)),
    "rloo by token": (rloo, RLOOConfig(**GROUPED, level="token")),
    "reinforce++": (reinforce, ReinforceConfig(**SIZES, kl_coef=0.02)),
    "rejection": (rejection, RejectionConfig(**GROUPED)),
    "online dpo": (online_dpo, OnlineDPOConfig(**GROUPED)),
}
WITH_RATIO = [name for name in METHODS if name not in ("rejection", "online dpo")]


def algorithm(name: str, model: Model = MODEL, **changes) -> Algorithm:
    make, config = METHODS[name]
    return make(dataclasses.replace(config, **changes), model, tiny.ENDS)


def prompts(width: int = 12) -> Prompts:
    """Four prompts, four times each."""
    four = tiny.prompts(np.random.default_rng(0), ROWS // GROUP, width)
    return jax.tree.map(lambda x: np.repeat(x, GROUP, axis=0), four)


@functools.cache
def params(seed: int = 0) -> dict:
    return contract.init(MODEL, jax.random.key(seed))


@functools.cache
def rollout(width: int = 12) -> Rollout:
    """Of the policy with `params()`, as NumPy arrays."""
    sample = functools.partial(
        generate,
        MODEL,
        max_new_tokens=GRPO.max_new_tokens,
        stop_ids=tiny.ENDS.stop_ids,
        pad_id=tiny.ENDS.pad_id,
    )
    return jax.device_get(jax.jit(sample)(params(), prompts(width), jax.random.key(5)))


def scores(ties: bool = True) -> np.ndarray:
    """A group of equal ones and a row without any among them."""
    found = np.float32(np.random.default_rng(0).normal(size=ROWS))
    if not ties:
        return found
    found[GROUP : 2 * GROUP], found[-1] = 0.1, np.nan
    return found


def unmoved(kl_coef: float) -> TrainState:
    """A state that is only prepared from."""
    extras = {"kl_coef": jnp.float32(kl_coef)}
    return TrainState(jnp.int32(0), {"policy": params()}, None, jnp.uint32(0), extras)


def measure(method: Algorithm, learned: dict, given: tuple[Rollout, jax.Array], frozen: dict):
    """One pass over a scored rollout, whole and in two halves.

    Returns:
      metrics of the rollout, then (numerator, denominator, metrics, gradient of the numerator)
      of the loss on all rows, and the sums of the same on either half of them.
    """
    kept, scores_B = final_scores(method.config, *given)
    state = unmoved(getattr(method.config, "kl_coef", 0.0))
    rows, metrics = method.prepare(state, frozen, kept, scores_B)

    def of(some):
        def numerator(learned):
            total, count, metrics = method.loss(method.model, learned, (some, None), None, frozen)
            return total, (count, metrics)

        gradient = jax.value_and_grad(numerator, has_aux=True)
        (total, (count, metrics)), gradients = gradient(learned)
        return total, count, metrics, gradients

    halves = jax.tree.map(lambda x: jnp.stack([x[::2], x[1::2]]), rows)
    sums = jax.lax.map(lambda half: of(whole_if_uneven(half)), halves)
    return metrics, of(rows), jax.tree.map(lambda x: x.sum(axis=0), sums)
