"""Published model shapes. `tests/models/test_presets.py` checks their parameter counts.

Sources: GPT-1 (Radford et al. 2018), GPT-2 (Radford et al. 2019; the smallest is published as
117M in the paper and counts 124M), GPT-3 (Brown et al. 2020, table 2.1), LLaMA (Touvron et al.
2023a, table 2; the widths of feed-forward layers are 2/3 of 4 D rounded up to a multiple of 256),
Llama 2 (Touvron et al. 2023b, tables 1 and 2), Llama 3 (Grattafiori et al. 2024, table 3), Qwen3
(Yang et al. 2025, table 1) and Gemma 3's text decoders (Gemma team 2025), both by their published
config.json. Gemma's larger vocabularies have 64 rows for images.

Dropout is 0 in all of them; GPT-1 and GPT-2 were trained with 0.1. Not expressed: GPT-3's
alternating sparse attention layers, and the frequency scaling that extends Llama 3.1 beyond 8,192
tokens. How the models were trained is in `recipes.py`.
"""

import dataclasses

import jax

from gpt_jax.models.config import ModelConfig
from gpt_jax.models.contract import param_shapes


def parameter_count(config: ModelConfig) -> int:
    """The exact number of parameters; allocates nothing."""
    return sum(leaf.size for leaf in jax.tree.leaves(param_shapes(config)))


def tiny(vocab_size: int = 1024, context_length: int = 128) -> ModelConfig:
    """About a million parameters: trains in minutes on a CPU."""
    return ModelConfig(vocab_size, context_length, width=128, layers=4, heads=4)


def gpt2(width: int, layers: int, heads: int) -> ModelConfig:
    """GPT-2's family: learned positions, pre-norm, biases everywhere, tied embeddings."""
    return ModelConfig(50257, 1024, width, layers, heads)


def gpt3(width: int, layers: int, heads: int) -> ModelConfig:
    """GPT-3's family: GPT-2's block with twice the context."""
    return ModelConfig(50257, 2048, width, layers, heads)


def llama(
    vocab_size: int,
    context_length: int,
    width: int,
    layers: int,
    heads: int,
    kv_heads: int,
    *,
    mlp_width: int,
    rope_theta: float = 10000.0,
) -> ModelConfig:
    """Llama's family: rotary positions, RMS norm, SwiGLU, no biases, an untied unembedding."""
    return ModelConfig(
        vocab_size,
        context_length,
        width,
        layers,
        heads,
        kv_heads,
        mlp_width=mlp_width,
        positions="rope",
        norm="rms",
        mlp="swiglu",
        tied=False,
        biases=False,
        rope_theta=rope_theta,
    )


def llama1(
    width: int, layers: int, heads: int, mlp_width: int, norm_eps: float = 1e-6
) -> ModelConfig:
    """LLaMA of the first generation: as many key/value heads as query heads."""
    config = llama(32000, 2048, width, layers, heads, heads, mlp_width=mlp_width)
    return dataclasses.replace(config, norm_eps=norm_eps)


def qwen3(width: int, layers: int, heads: int, mlp_width: int, tied: bool = False) -> ModelConfig:
    """Qwen3's family: Llama's block with normed queries and keys, and heads of 128."""
    return dataclasses.replace(
        llama(151936, 40960, width, layers, heads, 8, mlp_width=mlp_width, rope_theta=1e6),
        head_size=128,
        qk_norm=True,
        tied=tied,
        norm_eps=1e-6,
    )


def gemma3(
    width: int,
    layers: int,
    heads: int,
    kv_heads: int,
    mlp_width: int,
    *,
    head_size: int = 256,
    vocab_size: int = 262208,
    context_length: int = 131072,
    window: int = 1024,
    query_scale: float = 256**-0.5,
    rope_divisor: float = 8.0,
) -> ModelConfig:
    """Gemma 3's family: norms on both sides, five local layers to a global one, GeGLU."""
    return ModelConfig(
        vocab_size,
        context_length,
        width,
        layers,
        heads,
        kv_heads,
        head_size,
        mlp_width,
        positions="rope",
        norm="rms",
        norm_position="both",
        qk_norm=True,
        mlp="geglu",
        biases=False,
        scale_embedding=True,
        query_scale=query_scale,
        window=window,
        rope_theta=1e6,
        rope_divisor=rope_divisor,
        norm_eps=1e-6,
    )


GEMMA3_SMALL = dict(vocab_size=262144, context_length=32768, window=512, rope_divisor=1.0)

PRESETS: dict[str, ModelConfig] = {
    "tiny": tiny(),
    "gpt1": ModelConfig(40478, 512, 768, 12, 12, norm_position="post"),
    "gpt2": gpt2(768, 12, 12),
    "gpt2_medium": gpt2(1024, 24, 16),
    "gpt2_large": gpt2(1280, 36, 20),
    "gpt2_xl": gpt2(1600, 48, 25),
    "gpt3_125m": gpt3(768, 12, 12),
    "gpt3_350m": gpt3(1024, 24, 16),
    "gpt3_760m": gpt3(1536, 24, 16),
    # Table 2.1 prints 24 heads of 128 for a width of 2048, and a width of 5140 for 40 heads of
    # 128; neither product fits, these do, and they give the published sizes.
    "gpt3_1.3b": gpt3(2048, 24, 16),
    "gpt3_2.7b": gpt3(2560, 32, 32),
    "gpt3_6.7b": gpt3(4096, 32, 32),
    "gpt3_13b": gpt3(5120, 40, 40),
    "gpt3_175b": gpt3(12288, 96, 96),
    "llama1_7b": llama1(4096, 32, 32, 11008),
    "llama1_13b": llama1(5120, 40, 40, 13824),
    "llama1_33b": llama1(6656, 60, 52, 17920),
    "llama1_65b": llama1(8192, 80, 64, 22016, norm_eps=1e-5),
    "llama2_7b": llama(32000, 4096, 4096, 32, 32, 32, mlp_width=11008),
    "llama2_70b": llama(32000, 4096, 8192, 80, 64, 8, mlp_width=28672),
    "llama3_8b": llama(128256, 8192, 4096, 32, 32, 8, mlp_width=14336, rope_theta=500000.0),
    "llama3_70b": llama(128256, 8192, 8192, 80, 64, 8, mlp_width=28672, rope_theta=500000.0),
    "llama3_405b": llama(128256, 8192, 16384, 126, 128, 8, mlp_width=53248, rope_theta=500000.0),
    "qwen3_0.6b": qwen3(1024, 28, 16, 3072, tied=True),
    "qwen3_1.7b": qwen3(2048, 28, 16, 6144, tied=True),
    "qwen3_4b": qwen3(2560, 36, 32, 9728, tied=True),
    "qwen3_8b": qwen3(4096, 36, 32, 12288),
    "qwen3_14b": qwen3(5120, 40, 40, 17408),
    "qwen3_32b": qwen3(5120, 64, 64, 25600),
    "gemma3_270m": gemma3(640, 18, 4, 1, 2048, **GEMMA3_SMALL),
    "gemma3_1b": gemma3(1152, 26, 4, 1, 6912, **GEMMA3_SMALL),
    "gemma3_4b": gemma3(2560, 34, 8, 4, 10240),
    "gemma3_12b": gemma3(3840, 48, 16, 8, 15360),
    "gemma3_27b": gemma3(5376, 62, 32, 16, 21504, head_size=128, query_scale=168**-0.5),
}
