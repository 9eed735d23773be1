"""A small synthetic world with ground truth: the embedded data set.

from gpt_jax.data.microworld import gold_score, make_world
from gpt_jax.data.microworld.builder import load

rows = load("prompts", "test")
make_world().gold_score(rows[0]["prompt"], "Sure! Mira lives in Torby.")
"""

from gpt_jax.data.microworld.facts import WorldSize
from gpt_jax.data.microworld.world import World, gold_score, make_world

__all__ = ["World", "WorldSize", "gold_score", "make_world"]
