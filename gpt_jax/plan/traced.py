"""FLOPs of a traced program, before any compiler has seen it: what was asked for, over all devices.

Beside `hlo.cost`, which counts what one device was given, this tells replicated work from the work
itself. On a machine without an accelerator it traces the XLA form of every kernel, which does the
visible blocks of attention and no others, as the kernels do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr


def traced_flops(function: Callable, *args: Any) -> float:
    """Two for every multiply-add of the matrix products in `function(*args)`.

    Args:
      function: pure; it is traced, not run.
      args: arrays or ShapeDtypeStructs.

    A scan counts as often as it steps. A `while_loop` counts as often as the largest integer
    constant in its condition says (the sampler's: the longest completion). Of two branches the
    dearer counts: with sliding windows, every layer as if it were global.
    """
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr: Jaxpr) -> float:
    return sum(_equation(equation) for equation in jaxpr.eqns)


def _equation(equation) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        out = equation.outvars[0].aval.shape
        return 2.0 * math.prod(out) * math.prod(left[axis] for axis in contracted)
    inside = [_count(jaxpr) for jaxpr in _jaxprs(params)]
    if name == "scan":
        return params["length"] * sum(inside)
    if name == "while":
        condition = params["cond_jaxpr"]
        return _largest_constant(condition) * _count(params["body_jaxpr"].jaxpr)
    if name == "cond":
        return max(inside)
    if name == "shard_map":
        return params["mesh"].size * sum(inside)
    if name.startswith("custom_"):
        return inside[0]  # the function itself; its derivatives are there when they are taken
    return sum(inside)


def _jaxprs(params: dict) -> list[Jaxpr]:
    found = []
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, ClosedJaxpr):
                found.append(item.jaxpr)
            elif isinstance(item, Jaxpr):
                found.append(item)
    return found


def _largest_constant(condition: ClosedJaxpr) -> int:
    constants = [
        int(variable.val)
        for equation in condition.jaxpr.eqns
        for variable in equation.invars
        if hasattr(variable, "val") and variable.aval.dtype.kind == "i"
    ]
    return max(constants, default=1)
