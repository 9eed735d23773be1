"""An LSTM language model (Hochreiter & Schmidhuber 1997): the model contract in forty lines."""

import dataclasses

import jax
import jax.numpy as jnp

from gpt_jax.models import contract


@dataclasses.dataclass(frozen=True)
class LSTM:
    vocab_size: int
    context_length: int
    width: int
    dtype: str = "float32"


@contract.init.register(LSTM)
def _(model, key):
    D, (one, two) = model.width, jax.random.split(key)
    embed = jax.random.normal(one, (model.vocab_size, D)) / D**0.5
    gates = jax.random.normal(two, (2 * D, 4 * D)) / D**0.5
    return {"embed": embed, "gates": gates, "bias": jnp.zeros(4 * D)}


@contract.forward.register(LSTM)
def _(model, params, tokens_BT, cache=None, *, dropout_key=None):
    def step(state, inputs):
        x_BD, now_B1 = inputs
        is_new_B1 = now_B1 != state[2]
        cell_BD, hidden_BD = (jnp.where(is_new_B1, 0.0, x_BD) for x_BD in state[:2])
        gates_BF = jnp.concatenate([x_BD, hidden_BD], axis=1) @ params["gates"] + params["bias"]
        i, f, o, g = jnp.split(gates_BF, 4, axis=1)
        cell_BD = jax.nn.sigmoid(f + 1) * cell_BD + jax.nn.sigmoid(i) * jnp.tanh(g)
        after = (cell_BD, jax.nn.sigmoid(o) * jnp.tanh(cell_BD), now_B1)
        state = jax.tree.map(lambda new, old: jnp.where(now_B1 != 0, new, old), after, state)
        return state, state[1]

    state = contract.init_cache(model, len(tokens_BT.ids), 0) if cache is None else cache
    by_time = (params["embed"][tokens_BT.ids].swapaxes(0, 1), tokens_BT.segment_ids.T[..., None])
    state, hidden_TBD = jax.lax.scan(step, state, by_time)
    return hidden_TBD.swapaxes(0, 1), None if cache is None else state


@contract.init_cache.register(LSTM)
def _(model, batch, length):
    zeros = jnp.zeros((batch, model.width))
    return zeros, zeros, jnp.zeros((batch, 1), jnp.int32)


@contract.unembedding.register(LSTM)
def _(model, params):
    return params["embed"]


@contract.logical_axes.register(LSTM)
def _(model):
    return {"embed": ("vocab", "width"), "gates": ("width", "mlp"), "bias": ("mlp",)}
