"""What is read off the hidden states: token log-probabilities, next-token logits, scores.

A scorer (reward or value model) is `{"backbone": params, "head": {"kernel_D", "bias"}}`. A reward
model that reads likelihoods, too, or all tokens of an answer, or at a token of its own, has
`likelihood`, `sum` or `readout` in its head.
"""

from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gpt_jax.data.batches import Tokens
from gpt_jax.kernels.linear_cross_entropy import linear_cross_entropy, linear_cross_entropy_sum
from gpt_jax.models.contract import (
    Model,
    Params,
    forward,
    init,
    logical_axes,
    logit_softcap,
    unembedding,
)
from gpt_jax.models.lora import adapter_axes
from gpt_jax.parallel.rules import Axes

# Every device keeps a head whole, and no head is kept in bfloat16, so that scores are float32.
HEAD_AXES: Axes = {
    "head/kernel_D": (None,),
    "head/bias": (),
    "head/kernel_DC": (None, None),
    "head/bias_C": (None,),
    "head/likelihood": (),
    "head/readout": (),
    "head/sum": (),
}


class HeadOptions(NamedTuple):
    """What a scorer's head has beside a linear map; see `score_completions`.

    Attributes:
      likelihood: whether it reads likelihoods, too.
      readout: whether it reads at a token behind the completion.
      sum: whether it reads all of the completion's tokens.
    """

    likelihood: bool = False
    readout: bool = False
    sum: bool = False


def axes_of(*models: Model) -> Axes:
    """The logical axes of all parameters of these models, and of heads and adapters on them.

    Raises:
      ValueError: if two models mean different axes by one path.
    """
    axes = dict(HEAD_AXES)
    for model in models:
        for path, names in logical_axes(model).items():
            if axes.setdefault(path, names) != names:
                raise ValueError(f"{path} has axes {axes[path]} in one model, {names} in another")
    return axes | adapter_axes(axes)


def is_scorer(params: Params) -> bool:
    """Whether these are a scorer's parameters, and not a language model's."""
    return "head" in params


def is_head(path: str) -> bool:
    """Whether a parameter belongs to a scalar head."""
    return any(f"/{path}".endswith(f"/{name}") for name in HEAD_AXES)


def token_logprobs(
    config: Model,
    params: Params,
    hidden_BTD: jax.Array,
    targets_BT: jax.Array,
    temperature: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
    """Log-probabilities of the targets and entropies of the predictions, in nats.

    `hidden_BTD[:, t]` predicts `targets_BT[:, t]`: the caller shifts. B x T x V logits are
    never held when that is large.

    Returns:
      (logprobs_BT, entropy_BT), float32.
    """
    logprobs_BT, _, entropy_BT = linear_cross_entropy(
        hidden_BTD,
        unembedding(config, params),
        targets_BT,
        temperature=temperature,
        softcap=logit_softcap(config),
    )
    return logprobs_BT, entropy_BT


def token_nll(
    config: Model,
    params: Params,
    hidden_BTD: jax.Array,
    targets_BT: jax.Array,
    weights_BT: jax.Array,
) -> jax.Array:
    """sum(-weights log p_target), float32: `token_logprobs` where only that sum is wanted.

    It costs three matmuls with the unembedding, forward and backward, instead of four.
    """
    return linear_cross_entropy_sum(
        hidden_BTD,
        unembedding(config, params),
        targets_BT,
        weights_BT,
        softcap=logit_softcap(config),
    )


def last_logits(config: Model, params: Params, hidden_BD: jax.Array) -> jax.Array:
    """logits_BV float32 of the token that follows each hidden state."""
    unembed_VD = unembedding(config, params).astype(hidden_BD.dtype)
    logits_BV = jnp.einsum("BD,VD->BV", hidden_BD, unembed_VD, preferred_element_type=jnp.float32)
    cap = logit_softcap(config)
    return logits_BV if cap is None else cap * jnp.tanh(logits_BV / cap)


def init_scalar_head(key: jax.Array, config: Model, zero: bool = False) -> Params:
    """A linear map to one number: N(0, 1/sqrt(D + 1)) (Stiennon et al. 2020), or all zero."""
    stddev = 0.0 if zero else (config.width + 1) ** -0.5
    return {
        "kernel_D": stddev * jax.random.normal(key, (config.width,)),
        "bias": jnp.zeros(()),
    }


def scalar_head(head: Params, hidden_BTD: jax.Array) -> jax.Array:
    """values_BT: float32 whatever the compute dtype (a score of 0.7 stays 0.7)."""
    values_BT = jnp.einsum(
        "BTD,D->BT", hidden_BTD.astype(jnp.float32), head["kernel_D"], precision="highest"
    )
    return values_BT + head["bias"]


def init_class_head(key: jax.Array, config: Model, classes: int) -> Params:
    """A linear map to a number for each class: N(0, 0.02), as GPT-1's."""
    kernel_DC = 0.02 * jax.random.normal(key, (config.width, classes))
    return {"kernel_DC": kernel_DC, "bias_C": jnp.zeros((classes,))}


def class_logits(head: Params, hidden_BD: jax.Array) -> jax.Array:
    """logits_BC float32."""
    logits_BC = jnp.einsum(
        "BD,DC->BC", hidden_BD.astype(jnp.float32), head["kernel_DC"], precision="highest"
    )
    return logits_BC + head["bias_C"]


def last_hidden(hidden_BTD: jax.Array, tokens_BT: Tokens) -> jax.Array:
    """hidden_BD at the last real token of every row."""
    return jnp.take_along_axis(hidden_BTD, _last(tokens_BT)[:, None, None], axis=1)[:, 0]


def init_scorer(
    config: Model,
    backbone_params: Params,
    key: jax.Array,
    *,
    zero: bool = False,
    likelihood: float | None = None,
    readout: int | None = None,
    sum: bool = False,
) -> Params:
    """A scorer that starts from a language model's parameters and a fresh head.

    Args:
      config, backbone_params: of the language model.
      key: of the head.
      zero: whether the head starts with zeros.
      likelihood: with which weight `score_completions` adds the log-likelihood; None: not at all.
      readout: the id of the token that it reads at, behind the completion; None: the last token.
      sum: whether it reads all of the completion's tokens instead, and adds up what it reads.
    """
    head = init_scalar_head(key, config, zero or sum)  # of many tokens a sum would begin large
    if likelihood is not None:
        head["likelihood"] = jnp.float32(likelihood)
    if readout is not None:
        head["readout"] = jnp.float32(readout)  # exact up to 2**24; no gradient ever moves it
    if sum:
        head["sum"] = jnp.zeros(())  # that it is there is all that it says
    return {"backbone": backbone_params, "head": head}


def scorer_shapes(config: Model, options: HeadOptions = HeadOptions()) -> Params:
    """A scorer's parameters as ShapeDtypeStructs; nothing is allocated.

    Args:
      config: of its backbone.
      options: of its head.
    """
    key = jax.random.key(0)
    more = {"likelihood": 0.0 if options.likelihood else None}
    more |= {"readout": 0 if options.readout else None, "sum": options.sum}
    return jax.eval_shape(lambda: init_scorer(config, init(config, key), key, **more))


def head_options(names: Iterable[str]) -> HeadOptions:
    """What the head of a scorer has whose parameters have these names."""
    names = set(names)
    return HeadOptions(*(f"head/{option}" in names for option in HeadOptions._fields))


def score_tokens(
    config: Model,
    scorer: Params,
    tokens_BT: Tokens,
) -> jax.Array:
    """values_BT float32: the head's number at every token."""
    hidden_BTD, _ = forward(config, scorer["backbone"], tokens_BT)
    return scalar_head(scorer["head"], hidden_BTD)


def score_last_token(
    config: Model,
    scorer: Params,
    tokens_BT: Tokens,
) -> jax.Array:
    """scores_B float32: the head's number at the last real token, the largest index with a
    nonzero segment id. Rows must hold at least one real token."""
    return _at_last(score_tokens(config, scorer, tokens_BT), tokens_BT)


def score_completions(
    config: Model, scorer: Params, tokens_BT: Tokens, weights_BT: jax.Array
) -> jax.Array:
    """scores_B float32 of prompts with completions, as a reward model gives them.

    The head's number at the last real token (Ouyang et al. 2022, 3.5); and, if the head has a
    `likelihood` w, plus w log p(completion | prompt) under the scorer's own backbone, in nats.
    Comparing log-likelihoods, a language model is a reward model (Rafailov et al. 2023, eq. 7), and
    one that knew before it was trained how likely an answer is: a number read off the last token
    has to learn from rankings how to check it.

    If the head has a `readout`, that number is the id of a token which is put behind every
    completion, and the head reads there: at a token that stands for the end of an answer and for
    nothing else, as a classifier's does (Radford et al. 2018, 3.3).

    If it has `sum`, the score is the sum of the linear map over all of the completion's tokens, and
    the bias once: every token has a reward of its own, in its context, and length may count for or
    against an answer, as the prompt has it.

    Args:
      config, scorer: the reward model.
      tokens_BT: prompts and completions, one segment in each row.
      weights_BT: float32, 1 on the tokens of the completion, its stop token included, else 0.
    """
    if "readout" in scorer["head"]:
        tokens_BT = with_token_behind(tokens_BT, scorer["head"]["readout"].astype(jnp.int32))
        weights_BT = jnp.pad(weights_BT, ((0, 0), (0, 1)))
    hidden_BTD, _ = forward(config, scorer["backbone"], tokens_BT)
    values_BT = scalar_head(scorer["head"], hidden_BTD)
    if "sum" in scorer["head"]:
        bias = scorer["head"]["bias"]
        scores_B = ((values_BT - bias) * weights_BT).sum(1) + bias
    else:
        scores_B = _at_last(values_BT, tokens_BT)
    if "likelihood" not in scorer["head"]:
        return scores_B
    logprobs_BT, _ = token_logprobs(
        config, scorer["backbone"], hidden_BTD[:, :-1], tokens_BT.ids[:, 1:]
    )
    likelihoods_B = jnp.sum(logprobs_BT * weights_BT[:, 1:], axis=1)
    return scores_B + scorer["head"]["likelihood"] * likelihoods_B


def with_token_behind(tokens_BT: Tokens, token_id: jax.Array) -> Tokens:
    """Rows one column wider, with a token behind the last real one of each; a row without any stays
    empty."""
    ids, positions, segment_ids = (jnp.pad(x, ((0, 0), (0, 1))) for x in tokens_BT)
    last_B = _last(tokens_BT)
    # Not a scatter: rows may lie on several devices.
    here_BT = jnp.arange(ids.shape[1]) == last_B[:, None] + 1
    here_BT &= (segment_ids != 0).any(axis=1, keepdims=True)
    segment_B, position_B = (
        jnp.take_along_axis(x, last_B[:, None], axis=1) for x in (segment_ids, positions)
    )
    return Tokens(
        jnp.where(here_BT, token_id, ids),
        jnp.where(here_BT, position_B + 1, positions),
        jnp.where(here_BT, segment_B, segment_ids),
    )


def _last(tokens_BT: Tokens) -> jax.Array:
    """last_B: the index of the last real token of every row."""
    index_T = jnp.arange(tokens_BT.segment_ids.shape[1])
    return jnp.where(tokens_BT.segment_ids != 0, index_T, 0).max(axis=1)


def _at_last(values_BT: jax.Array, tokens_BT: Tokens) -> jax.Array:
    """values_B at the last real token of every row."""
    return jnp.take_along_axis(values_BT, _last(tokens_BT)[:, None], axis=1)[:, 0]
