"""The two public linear-cross-entropy functions; `reference.py` is their specification."""

from __future__ import annotations

import functools
import importlib
import logging
from types import ModuleType
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from gpt_jax.kernels.linear_cross_entropy import over_mesh, reference, xla

Implementation = Literal["reference", "xla", "pallas_tpu"]


def linear_cross_entropy(
    hidden_MD: jax.Array,
    unembed_VD: jax.Array,
    targets_M: jax.Array,
    *,
    temperature: float = 1.0,
    softcap: float | None = None,
    implementation: Implementation | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What a token's loss can want to know of its logits, without holding them.

    With logits z = softcap tanh(hidden unembed^T / softcap) / temperature (no tanh without
    softcap) and p = softmax(z), per token: log p_target, log sum exp z, and -sum p log p. Where
    the loss is the sum of weights times -log p_target, `linear_cross_entropy_sum` costs a matmul
    less.

    Args:
      hidden_MD: a row per token, float32 or bfloat16; M may be several axes (B, T).
      unembed_VD: float32 or bfloat16; cast to the dtype of hidden for the matmuls.
      targets_M: int32 in [0, V).
      temperature: positive; divides the logits.
      softcap: positive, or None (Gemma 2's cap on the logits).
      implementation: "reference" (plain float32), "xla" (in chunks of the vocabulary when M x V
        is large, so that memory does not grow with it; over a mesh as `parallel/rules.py` shards
        the operands), "pallas_tpu" (a kernel for the forward pass, where it takes the shape, else
        "xla"; the gradients are "xla"'s), None ("xla": the kernel has not been timed on a chip).

    Returns:
      (logprobs_M, lse_M, entropy_M), float32, in nats. All are differentiable in hidden and
      unembed; the gradient of unembed is formed in float32 and has its dtype.
    """
    if implementation == "reference":
        return reference.linear_cross_entropy(
            hidden_MD, unembed_VD, targets_M, temperature, softcap
        )
    how = _choose(hidden_MD, unembed_VD, targets_M, temperature, softcap, implementation)
    return _outputs(how, hidden_MD, unembed_VD, targets_M)


def linear_cross_entropy_sum(
    hidden_MD: jax.Array,
    unembed_VD: jax.Array,
    targets_M: jax.Array,
    weights_M: jax.Array,
    *,
    temperature: float = 1.0,
    softcap: float | None = None,
    implementation: Implementation | None = None,
) -> jax.Array:
    """sum(-weights log p_target), float32, with gradients formed while the logits are there.

    Differentiating it computes nothing twice: the gradients of each chunk of tokens are formed in
    the forward pass and only scaled in the backward pass. See `linear_cross_entropy` for the
    arguments; `weights_M` is float32, and the sum is differentiable in it too. "pallas_tpu"
    matters where no gradient is taken.

    Source: Hsu et al. 2024, "Liger Kernel", section 3.2.
    """
    if implementation == "reference":
        logprobs_M, _, _ = reference.linear_cross_entropy(
            hidden_MD, unembed_VD, targets_M, temperature, softcap
        )
        return -jnp.sum(weights_M * logprobs_M)
    how = _choose(hidden_MD, unembed_VD, targets_M, temperature, softcap, implementation)
    return _nll_sum(how, hidden_MD, unembed_VD, targets_M, weights_M)


class _How(NamedTuple):
    """What is known when the op is traced."""

    forward: Literal["few logits", "xla", "pallas_tpu"]
    temperature: float
    softcap: float | None
    layout: over_mesh.Layout

    def of(self, function):
        return functools.partial(function, temperature=self.temperature, softcap=self.softcap)


def _kernel(name: str) -> ModuleType:
    """The module of this name, imported when it is first asked for: Pallas takes half a second."""
    return importlib.import_module(f"{__package__}.{name}")


def _choose(hidden_MD, unembed_VD, targets_M, temperature, softcap, implementation) -> _How:
    layout, one_device = over_mesh.layout_of(targets_M, unembed_VD), over_mesh.one_device()
    # XLA partitions its own operations where the layout is unknown, but no kernel.
    placed = one_device or layout != over_mesh.Layout()
    if implementation == "pallas_tpu" and placed and _kernel("pallas_tpu").takes(hidden_MD):
        forward = "pallas_tpu"
    elif one_device and targets_M.size * unembed_VD.shape[0] <= xla.FEW_LOGITS:
        forward = "few logits"
    else:
        forward = "xla"
    _log_once(forward, targets_M.size, unembed_VD.shape)
    return _How(forward, temperature, softcap, layout)


@functools.cache
def _log_once(forward: str, M: int, shape_VD: tuple[int, int]) -> None:
    logging.getLogger(__name__).info(
        "linear cross-entropy of %d tokens, unembedding %s: %s", M, shape_VD, forward
    )


def _outputs(how, hidden_MD, unembed_VD, targets_M):
    if how.forward != "few logits":
        return _logprobs(how, hidden_MD, unembed_VD, targets_M)
    rows = hidden_MD.reshape(-1, hidden_MD.shape[-1]), unembed_VD, targets_M.ravel()
    return tuple(x.reshape(targets_M.shape) for x in how.of(xla.few_logits)(*rows))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _logprobs(how, hidden_MD, unembed_VD, targets_M):
    return _logprobs_forward(how, hidden_MD, unembed_VD, targets_M)[0]


def _logprobs_forward(how, hidden_MD, unembed_VD, targets_M):
    target_M, max_M, logsum_M, entropy_M = over_mesh.statistics(
        how.of(_kernel(how.forward).statistics), how.layout, hidden_MD, unembed_VD, targets_M
    )
    outputs = (target_M - max_M) - logsum_M, max_M + logsum_M, entropy_M
    return outputs, (hidden_MD, unembed_VD, targets_M, (max_M, logsum_M), entropy_M)


def _logprobs_backward(how, residuals, cotangents):
    hidden_MD, unembed_VD, targets_M, normalizer, entropy_M = residuals
    d_logprob_M, d_lse_M, d_entropy_M = cotangents
    columns_M = d_logprob_M, d_lse_M - d_logprob_M - d_entropy_M * entropy_M, -d_entropy_M
    dh_MD, dU_VD = over_mesh.gradients(
        how.of(functools.partial(xla.gradients, dtype=unembed_VD.dtype)),
        how.layout,
        *(hidden_MD, unembed_VD, targets_M),
        (normalizer, columns_M),
    )
    return dh_MD, dU_VD, None


_logprobs.defvjp(_logprobs_forward, _logprobs_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _nll_sum(how, hidden_MD, unembed_VD, targets_M, weights_M):
    logprobs_M, _, _ = _outputs(how, hidden_MD, unembed_VD, targets_M)
    return -jnp.sum(weights_M * logprobs_M)


def _nll_sum_forward(how, hidden_MD, unembed_VD, targets_M, weights_M):
    # Where devices hold different tokens, their gradients of the unembedding are added up.
    dtype = jnp.float32 if any(how.layout.targets) else unembed_VD.dtype
    nll_M, dh_MD, dU_VD = over_mesh.nll_and_gradients(
        how.of(functools.partial(xla.nll_and_gradients, dtype=dtype)),
        how.layout,
        *(hidden_MD, unembed_VD, targets_M, weights_M),
    )
    return jnp.sum(weights_M * nll_M), (dh_MD, dU_VD.astype(unembed_VD.dtype), nll_M)


def _nll_sum_backward(how, residuals, cotangent):
    dh_MD, dU_VD, nll_M = residuals
    return (
        (cotangent * dh_MD).astype(dh_MD.dtype),
        (cotangent * dU_VD).astype(dU_VD.dtype),
        None,
        cotangent * nll_M,
    )


_nll_sum.defvjp(_nll_sum_forward, _nll_sum_backward)
