"""Our side of the training benchmark, which is the side that changes, takes a step."""

import numpy as np

from tests import tiny
from tools.benchmark_training import Benchmark, jax_step


def test_our_side_trains():
    """Break it: hand `forward` the ids alone."""
    tokens_BT = np.random.default_rng(0).integers(0, tiny.MODEL.vocab_size, (2, 8), np.int32)
    step = jax_step(tiny.MODEL, Benchmark(), tokens_BT)
    assert step() is None and step() is None
