"""gpt_jax: the whole ChatGPT recipe in JAX.

text -> tokenizer -> pretraining -> supervised finetuning -> reward model -> PPO -> an assistant.
Start reading at `experiments/rlhf.py`; the README has the map.
"""

__version__ = "0.1.0"
