"""A tiny model of every family with random weights, as `transformers` makes it."""

import numpy as np
import torch
import transformers

from gpt_jax.data.batches import Tokens
from gpt_jax.models import last_logits
from gpt_jax.models.contract import forward

V = 64
SHAPE = dict(
    vocab_size=V,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
)
LATER = dict(rope_theta=100.0, factor=4.0, original_max_position_embeddings=16)
LLAMA3 = LATER | dict(rope_type="llama3", low_freq_factor=1.0, high_freq_factor=4.0)
YARN = LATER | dict(rope_type="yarn")
IN_TURNS = ["sliding_attention", "full_attention"]
OPT = dict(
    vocab_size=V,
    hidden_size=32,
    ffn_dim=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=128,
)
NEOX = {key: value for key, value in SHAPE.items() if key != "num_key_value_heads"}


def part(share):
    return dict(rope_type="default", rope_theta=100.0, partial_rotary_factor=share)


CONFIGS = {
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=V, n_positions=128, n_embd=32, n_layer=2, n_head=4
    ),
    "gpt2-untied": lambda: transformers.GPT2Config(
        vocab_size=V, n_positions=128, n_embd=32, n_layer=2, n_head=4, tie_word_embeddings=False
    ),
    "llama": lambda: transformers.LlamaConfig(**SHAPE),
    "llama3": lambda: transformers.LlamaConfig(
        **SHAPE, rope_parameters=LLAMA3, tie_word_embeddings=True
    ),
    "llama-linear": lambda: transformers.LlamaConfig(
        **SHAPE, rope_parameters=dict(rope_type="linear", factor=4.0, rope_theta=100.0)
    ),
    "mistral": lambda: transformers.MistralConfig(**SHAPE, sliding_window=7, head_dim=16),
    "qwen2": lambda: transformers.Qwen2Config(**SHAPE, rope_parameters=YARN),
    "qwen2-windowed": lambda: transformers.Qwen2Config(
        **SHAPE, use_sliding_window=True, sliding_window=7, max_window_layers=0
    ),
    "qwen3": lambda: transformers.Qwen3Config(**SHAPE, head_dim=16),
    "gemma": lambda: transformers.GemmaConfig(**SHAPE, head_dim=16),
    "gemma2": lambda: transformers.Gemma2Config(
        **SHAPE,
        head_dim=16,
        sliding_window=7,
        query_pre_attn_scalar=10,
        attn_logit_softcapping=1.0,
        final_logit_softcapping=2.0,
    ),
    "gemma3": lambda: transformers.Gemma3TextConfig(
        **SHAPE,
        head_dim=16,
        layer_types=IN_TURNS,
        sliding_window=7,
        query_pre_attn_scalar=10,
        rope_parameters={
            "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    ),
    "phi3": lambda: transformers.Phi3Config(
        **SHAPE, pad_token_id=0, sliding_window=7, rope_parameters=part(0.5)
    ),
    "opt": lambda: transformers.OPTConfig(**OPT),
    "opt-350m": lambda: transformers.OPTConfig(**OPT, do_layer_norm_before=False),
    "neox": lambda: transformers.GPTNeoXConfig(**NEOX, rope_parameters=part(0.25)),
    "neox-serial": lambda: transformers.GPTNeoXConfig(
        **NEOX,
        rope_parameters=part(0.5),
        use_parallel_residual=False,
        hidden_act="gelu_fast",
        tie_word_embeddings=True,
    ),
}


def randomised(config, auto=transformers.AutoModelForCausalLM):
    """A model with fresh, large weights: fresh biases are 0 and would hide mistakes."""
    torch.manual_seed(0)
    model = auto.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def rows_of(ids):
    """Rows without padding."""
    B, T = np.shape(ids)
    return Tokens(ids, np.broadcast_to(np.arange(T), (B, T)), np.ones((B, T), np.int32))


def logits_of(config, params, tokens_BT):
    """logits_BTV, as the sampler computes them."""
    hidden_BTD, _ = forward(config, params, tokens_BT)
    B, T, D = hidden_BTD.shape
    return last_logits(config, params, hidden_BTD.reshape(B * T, D)).reshape(B, T, -1)
