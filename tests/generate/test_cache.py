"""Moving rows of a cache, whatever form it has where it is used."""

import jax
import numpy as np
import pytest

from gpt_jax.generate import cache as rows
from gpt_jax.models import transformer
from gpt_jax.models.config import ModelConfig
from gpt_jax.models.contract import init_cache


@pytest.mark.parametrize("platforms", [("cpu", "tpu"), ("tpu", "cpu")])
def test_rows_are_found_in_the_form_of_every_platform(platforms, monkeypatch):
    """A program traced here may be one for other devices (the planner's), whose cache differs."""
    config = ModelConfig(vocab_size=32, context_length=16, layers=3, heads=2, width=8)
    forms = set()
    for platform in platforms:
        monkeypatch.setattr(transformer, "platform", lambda platform=platform: platform)
        cache = init_cache(config, 2, 8)
        forms.add(jax.tree.structure(cache))
        numbered = jax.tree.map(lambda x: np.arange(x.size, dtype=x.dtype).reshape(x.shape), cache)
        repeated = rows.repeat_rows(config, numbered, 2)
        taken = rows.take_rows(config, repeated, np.array([2, 0]))
        swapped = rows.take_rows(config, numbered, np.array([1, 0]))
        for one, other in zip(jax.tree.leaves(taken), jax.tree.leaves(swapped), strict=True):
            np.testing.assert_array_equal(one, other)
    assert len(forms) == 2
