"""The layers that blocks are made of: norms and dense maps, in float32 parameters."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from gpt_jax.models.adapted import Adapted, product
from gpt_jax.models.axes import with_axes
from gpt_jax.models.config import ModelConfig
from gpt_jax.models.quantized import Quantized
from gpt_jax.parallel.rules import merge_rows, split_rows

INIT_STDDEV = 0.02  # GPT-2 (Radford et al. 2019).


class Norm(nn.Module):
    """Layer norm or RMS norm over the last axis, in float32."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x_BTD):
        c = self.config
        # Small: every device keeps them whole.
        scale_D = self.param("scale", with_axes(nn.initializers.ones, None), (x_BTD.shape[-1],))
        y_BTD = x_BTD.astype(jnp.float32)
        if c.norm == "layer":
            y_BTD -= y_BTD.mean(axis=-1, keepdims=True)
        variance_BT1 = jnp.square(y_BTD).mean(axis=-1, keepdims=True)
        y_BTD *= jax.lax.rsqrt(variance_BT1 + c.norm_eps) * scale_D
        if c.norm == "layer" and c.biases:
            zeros = with_axes(nn.initializers.zeros, None)
            y_BTD += self.param("bias", zeros, (x_BTD.shape[-1],))
        return y_BTD.astype(c.dtype)


def dense(
    module,
    name: str,
    x_BTI: jax.Array,
    outputs: int,
    axes: tuple[str, str],
    biased: bool | None = None,
) -> jax.Array:
    """x W (+ b), with parameters `name` [I, O] of these logical axes and `name`_bias [O].

    There is a bias if the model has `biases`, unless `biased` says otherwise. A kernel that is
    frozen in blocks (`quantized.py`) is dequantized here, and one with an adapter (`adapted.py`)
    used beside it.

    The matmul runs on 2-D operands: XLA's CPU backend turns the weight gradient of a 3-D one
    into transposed copies that cost more than the matmul itself.
    """
    c = module.config
    inputs = x_BTI.shape[-1]
    residual = axes[1] == "width"  # what goes to the residual stream
    stddev = INIT_STDDEV * (2 * c.layers) ** -0.5 if residual else INIT_STDDEV
    initializer = with_axes(nn.initializers.normal(stddev), *axes)
    kernel_IO = parameter(module, name, initializer, (inputs, outputs))
    y_MO = product(merge_rows(x_BTI), kernel_IO, c.dtype)
    if c.biases if biased is None else biased:
        zeros = with_axes(nn.initializers.zeros, None if residual else axes[1])
        bias_O = module.param(f"{name}_bias", zeros, (outputs,))
        y_MO += bias_O.astype(c.dtype)
    return split_rows(y_MO, *x_BTI.shape[:2])


def parameter(module, name: str, initializer, shape: tuple[int, ...]):
    """A parameter of a module; it may be a `Quantized` or an `Adapted`, of several arrays."""
    found = module.get_variable("params", name)
    several = isinstance(found, Quantized | Adapted)
    return found if several else module.param(name, initializer, shape)


def normal(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return INIT_STDDEV * jax.random.normal(key, shape)
