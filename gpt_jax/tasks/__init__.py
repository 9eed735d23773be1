"""What models are asked to do, with the score of an answer: one file per task."""

from gpt_jax.tasks.task import Task

__all__ = ["Task"]
