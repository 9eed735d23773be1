"""Distillation: a student learns to predict as a teacher does, over the whole vocabulary.

With the teacher's distribution p and the student's q of a token (Hinton et al. 2015; Agarwal et al.
2024, "On-policy distillation of language models", section 2):

    forward     KL(p || q): the student covers all that the teacher says
    reverse     KL(q || p): the student says nothing that the teacher would not
    jsd         b KL(p || m) + (1 - b) KL(q || m),  m = b p + (1 - b) q   (their eq. 1)

Both distributions of every token are needed whole, B x T x V twice: they are formed for a few
columns of tokens at a time, and once more in the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from gpt_jax.data.batches import Batch
from gpt_jax.losses.lm import Loss, predictions
from gpt_jax.models.contract import Model, forward, logit_softcap, unembedding
from gpt_jax.parallel import rules

Divergence = Literal["forward", "reverse", "jsd"]

# So many logits of each model are held at once on a device (float32: 64 MiB).
MOST_LOGITS = 2**24


class Predictor(NamedTuple):
    """What a model's predictions are formed from.

    Attributes:
      hidden_BTD: its hidden states.
      unembed_VD: what they are multiplied with.
      softcap: of its logits, or None.
    """

    hidden_BTD: jax.Array
    unembed_VD: jax.Array
    softcap: float | None = None


def divergences(
    p_BCV: jax.Array, q_BCV: jax.Array, jsd_beta: float = 0.5
) -> dict[Divergence, jax.Array]:
    """Every divergence of two distributions of log-probabilities, in nats, (B, C).

    Args:
      p_BCV, q_BCV: log-probabilities of teacher and student.
      jsd_beta: b above, between 0 and 1. Divided by b or 1 - b the jsd tends to KL(p || q) as b
        goes to 0, and to KL(q || p) as it goes to 1.
    """
    m_BCV = jnp.logaddexp(p_BCV + jnp.log(jsd_beta), q_BCV + jnp.log1p(-jsd_beta))
    return {
        "forward": _kl(p_BCV, q_BCV),
        "reverse": _kl(q_BCV, p_BCV),
        "jsd": jsd_beta * _kl(p_BCV, m_BCV) + (1 - jsd_beta) * _kl(q_BCV, m_BCV),
    }


def _kl(p_BCV: jax.Array, q_BCV: jax.Array) -> jax.Array:
    return jnp.sum(jnp.exp(p_BCV) * (p_BCV - q_BCV), axis=-1)


def divergence_sums(
    teacher: Predictor,
    student: Predictor,
    weights_BT: jax.Array,
    jsd_beta: float = 0.5,
    most_logits: int = MOST_LOGITS,
) -> dict[Divergence, jax.Array]:
    """sum(weights x divergence) of each, without ever holding B x T x V when that is large.

    Where the vocabularies differ in rows (those of one tokenizer may be padded to different sizes),
    both distributions are those among the tokens that the two have in common.

    Args:
      teacher, student: the predictions, token by token.
      weights_BT: float32 weight of each.
      jsd_beta: as for `divergences`.
      most_logits: of each model, held at once on a device.
    """
    V = min(len(teacher.unembed_VD), len(student.unembed_VD))
    teacher, student = (_cut(one, V) for one in (teacher, student))
    B, T = weights_BT.shape
    mesh = jax.sharding.get_abstract_mesh()
    rows = -(-B // (1 if mesh.empty else rules.shards(mesh, "batch")))
    size = min(T, max(1, most_logits // (rows * V)))

    def sums(teacher_BCD: jax.Array, student_BCD: jax.Array, weights_BC: jax.Array):
        p_BCV = _logprobs(teacher, teacher_BCD)
        q_BCV = _logprobs(student, student_BCD)
        found = divergences(p_BCV, q_BCV, jsd_beta)
        return jax.tree.map(lambda x_BC: jnp.sum(weights_BC * x_BC), found)

    arrays = (teacher.hidden_BTD, student.hidden_BTD, weights_BT)
    return sums(*arrays) if size == T else _in_chunks(sums, arrays, size)


def _in_chunks(sums: Callable, arrays_BT: tuple, size: int) -> dict:
    """The same, `size` columns of tokens at a time."""
    T = arrays_BT[-1].shape[1]
    chunks = -(-T // size)

    def deal(x_BT: jax.Array) -> jax.Array:
        padding = [(0, 0), (0, chunks * size - T)] + [(0, 0)] * (x_BT.ndim - 2)  # of weight 0
        x_BT = jnp.pad(x_BT, padding)
        return x_BT.reshape(len(x_BT), chunks, size, *x_BT.shape[2:]).swapaxes(0, 1)

    def add(total: dict, chunk: tuple):
        return jax.tree.map(jnp.add, total, jax.checkpoint(sums)(*chunk)), None

    dealt = jax.tree.map(deal, arrays_BT)
    zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(sums, *(x[0] for x in dealt)))
    return jax.lax.scan(add, zeros, dealt)[0]


def _cut(one: Predictor, V: int) -> Predictor:
    return one if len(one.unembed_VD) == V else one._replace(unembed_VD=one.unembed_VD[:V])


def _logprobs(of: Predictor, hidden_BCD: jax.Array) -> jax.Array:
    """Log-probabilities, float32 (B, C, V)."""
    unembed_VD = of.unembed_VD.astype(hidden_BCD.dtype)
    logits_BCV = jnp.einsum(
        "BCD,VD->BCV", hidden_BCD, unembed_VD, preferred_element_type=jnp.float32
    )
    if of.softcap is not None:
        logits_BCV = of.softcap * jnp.tanh(logits_BCV / of.softcap)
    return jax.nn.log_softmax(logits_BCV, axis=-1)


def distillation_loss(
    model: Model,
    learned: dict,
    batch: Batch,
    key: jax.Array | None = None,
    frozen: dict | None = None,
    *,
    teacher: Model,
    divergence: Divergence = "forward",
    jsd_beta: float = 0.5,
) -> Loss:
    """The mean divergence of the tokens that have a weight; `frozen["teacher"]` has parameters.

    Args:
      model, learned, batch, key, frozen: as of every loss.
      teacher: the teacher's shape; it reads the same tokens.
      divergence: which one is minimised.
      jsd_beta: as for `divergences`.

    Returns:
      numerator, denominator (the sum of the weights), and `loss`, `forward_kl` and `reverse_kl`.
    """
    hidden_BTD, _, weights_BT = predictions(model, learned, batch, key)
    theirs_BTD, _ = forward(teacher, frozen["teacher"], batch.tokens_BT)
    sums = divergence_sums(
        Predictor(theirs_BTD, unembedding(teacher, frozen["teacher"]), logit_softcap(teacher)),
        Predictor(hidden_BTD, unembedding(model, learned), logit_softcap(model)),
        weights_BT,
        jsd_beta,
    )
    total, count = sums[divergence], jnp.sum(weights_BT)
    kls = {f"{name}_kl": (sums[name], count) for name in ("forward", "reverse")}
    return total, count, {"loss": (total, count)} | kls
