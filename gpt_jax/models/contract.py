"""What everything else asks of a model: five pure functions and four attributes.

A model is a hashable value that says what is computed; its parameters are a nested dict beside it.
Losses, sampler, scorers and stages use it through the functions below and nothing else, so that
whatever has them trains, samples and is scored. `transformer.py` has the decoder's; a type of
one's own registers its functions in the same way:

    @contract.forward.register(LSTM)
    def _(model, params, tokens_BT, cache=None, *, dropout_key=None): ...
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol

import jax

from gpt_jax.data.batches import Tokens
from gpt_jax.parallel.rules import Axes

Params = dict[str, Any]


class Model(Protocol):
    """What a model has beside the functions; it is frozen and hashable.

    Attributes:
      vocab_size: V, the logits of a token.
      context_length: the longest sequence it is trained on.
      width: D, of its hidden states.
      dtype: of its hidden states.
    """

    vocab_size: int
    context_length: int
    width: int
    dtype: str


def _generic(function: Callable) -> Callable:
    """The function of the type of its first argument, or an error that says which is missing."""

    @functools.singledispatch
    @functools.wraps(function)
    def missing(model, *args, **kwargs):
        raise TypeError(
            f"{type(model).__name__} is no model: nothing is registered with "
            f"gpt_jax.models.contract.{function.__name__} for it"
        )

    return missing


@_generic
def init(model: Model, key: jax.Array) -> Params:
    """Random float32 parameters, as a nested dict."""


@_generic
def forward(
    model: Model,
    params: Params,
    tokens_BT: Tokens,
    cache: Any = None,
    *,
    dropout_key: jax.Array | None = None,
) -> tuple[jax.Array, Any]:
    """Hidden states from which the next tokens are predicted.

    Args:
      model: a static argument under `jax.jit`.
      params: from `init`, or as an earlier stage left them.
      tokens_BT: rows of tokens; a segment knows nothing of the others, nor of padding.
      cache: what the tokens so far have left; None: the T tokens are all there is. The caller sees
        to it that the cache has room.
      dropout_key: what is dropped is drawn from it; None: nothing is dropped.

    Returns:
      hidden_BTD in `model.dtype`, and the cache after the T tokens (None without one).
    """


@_generic
def init_cache(model: Model, batch: int, length: int) -> Any:
    """An empty cache for `batch` rows of up to `length` tokens, a pytree.

    Raises:
      UserError: if the model cannot read that many.
    """


@functools.singledispatch
def for_decoding(model: Model, params: Params) -> Params:
    """The parameters as decoding reads them fastest; `forward` takes these as well.

    Worth its copy where they are used for many tokens with a cache.
    """
    return params


@_generic
def unembedding(model: Model, params: Params) -> jax.Array:
    """unembed_VD float32: a token's logits are its products with a hidden state."""


@functools.singledispatch
def logit_softcap(model: Model) -> float | None:
    """c, where the logits are c tanh(z / c) of the products z; None, as of most models: no cap."""
    return None


@_generic
def logical_axes(model: Model) -> Axes:
    """The logical axes of every parameter by its path, `{"embed/tokens": ("vocab", "width")}`.

    They say how it is sharded (`parallel/rules.py`), and whether it is a matrix, of which weights
    decay and second moments factor: two axes beside "layers". Tables of positions, with an axis
    "position", do not decay.
    """


@functools.singledispatch
def param_shapes(model: Model) -> Params:
    """The parameters as ShapeDtypeStructs; nothing is allocated."""
    return jax.eval_shape(lambda: init(model, jax.random.key(0)))


def model_types() -> dict[str, type]:
    """Every type of model that is known, by its name."""
    return {kind.__name__: kind for kind in init.registry if kind is not object}
