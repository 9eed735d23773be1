"""Our forward pass against `transformers`, on tiny random models."""

import json

import numpy as np
import pytest

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

import jax  # noqa: E402

from gpt_jax.data.batches import Tokens  # noqa: E402
from gpt_jax.errors import UserError  # noqa: E402
from gpt_jax.models import ModelConfig, forward, last_logits  # noqa: E402
from gpt_jax.models.weights import (  # noqa: E402
    from_gpt2,
    from_llama,
    load_pretrained,
    to_gpt2,
    to_llama,
)

pytestmark = pytest.mark.usefixtures("optimized")


def gpt2(tied):
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=61,
            n_positions=32,
            n_embd=24,
            n_layer=3,
            n_head=4,
            tie_word_embeddings=tied,
        )
    )


def llama(tied):
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=61,
            hidden_size=24,
            intermediate_size=40,
            num_hidden_layers=3,
            num_attention_heads=6,
            num_key_value_heads=2,
            max_position_embeddings=32,
            tie_word_embeddings=tied,
        )
    )


def qwen3(tied):
    return transformers.Qwen3ForCausalLM(
        transformers.Qwen3Config(
            vocab_size=61,
            hidden_size=24,
            intermediate_size=40,
            num_hidden_layers=3,
            num_attention_heads=6,
            num_key_value_heads=2,
            head_dim=8,
            max_position_embeddings=32,
            tie_word_embeddings=tied,
        )
    )


def gemma3():
    """Seven layers: the sixth is global; the window of 3 is shorter than the longest row."""
    return transformers.Gemma3ForCausalLM(
        transformers.Gemma3TextConfig(
            vocab_size=61,
            hidden_size=24,
            intermediate_size=40,
            num_hidden_layers=7,
            num_attention_heads=6,
            num_key_value_heads=2,
            head_dim=8,
            max_position_embeddings=32,
            sliding_window=3,
            query_pre_attn_scalar=10,
            rope_parameters={
                "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
            attn_implementation="eager",
        )
    )


MODELS = {
    "gpt2": (lambda: gpt2(tied=True), from_gpt2, to_gpt2),
    "gpt2-untied": (lambda: gpt2(tied=False), from_gpt2, to_gpt2),
    "llama": (lambda: llama(tied=False), from_llama, to_llama),
    "llama-tied": (lambda: llama(tied=True), from_llama, to_llama),
    "qwen3": (lambda: qwen3(tied=False), from_llama, to_llama),
    "qwen3-tied": (lambda: qwen3(tied=True), from_llama, to_llama),
    "gemma3": (gemma3, from_llama, to_llama),
}


@pytest.fixture(params=MODELS)
def pair(request, tmp_path):
    """(their model, our config and parameters through a folder on disk, import, export)."""
    make, convert, export = MODELS[request.param]
    torch.manual_seed(0)
    model = make().eval()
    with torch.no_grad():
        for parameter in model.parameters():  # Fresh biases are 0 and would hide mistakes.
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path)
    config, params = load_pretrained(tmp_path)
    return model, config, params, convert, export


@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_agree_with_padding_on_either_side(pair, side):
    model, config, params, _, _ = pair
    rng = np.random.default_rng(1)
    lengths, T = (9, 5, 1), 9
    tokens = rng.integers(0, 61, (3, T))
    real = np.stack(
        [np.arange(T) < n if side == "right" else np.arange(T) >= T - n for n in lengths]
    )
    positions = np.where(real, real.cumsum(axis=1) - 1, 0)
    with torch.no_grad():
        theirs = model(
            torch.from_numpy(tokens),
            attention_mask=torch.from_numpy(real.astype(np.int64)),
            position_ids=torch.from_numpy(positions),
        ).logits.numpy()
    hidden, _ = forward(config, params, Tokens(tokens, positions, real.astype(np.int32)))
    ours = jax.vmap(lambda h: last_logits(config, params, h))(hidden)
    np.testing.assert_allclose(np.asarray(ours)[real], theirs[real], atol=1e-4)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("embd_pdrop", "embedding_dropout"),
        ("attn_pdrop", "attention_dropout"),
        ("resid_pdrop", "dropout"),
    ],
)
def test_dropout_has_the_same_distribution(theirs, ours):
    """Mean and deviation of every logit over 3,000 rows, each of which draws its own masks."""
    rows, T, rate = 3000, 6, 0.2
    rates = dict(embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0) | {theirs: rate}
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=61, n_positions=32, n_embd=24, n_layer=2, n_head=4, **rates
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    state = {name: array.detach().numpy().copy() for name, array in model.state_dict().items()}
    config = ModelConfig(61, 32, width=24, layers=2, heads=4, **{ours: rate})
    params = from_gpt2(state, config)
    ids = np.tile(np.random.default_rng(0).integers(0, 61, T), (rows, 1))
    with torch.no_grad():
        expected = model.train()(torch.from_numpy(ids)).logits.numpy()
    tokens = Tokens(ids, np.tile(np.arange(T), (rows, 1)), np.ones_like(ids))
    hidden, _ = jax.jit(lambda params, key: forward(config, params, tokens, dropout_key=key))(
        params, jax.random.key(0)
    )
    found = np.asarray(hidden @ params["embed"]["tokens"].T)
    deviation = np.maximum(expected.std(axis=0), 1e-6)
    z = (found.mean(axis=0) - expected.mean(axis=0)) / deviation / (2 / rows) ** 0.5
    assert np.abs(z).max() < 5 and np.sqrt(np.mean(z**2)) < 1.6
    np.testing.assert_allclose(found.std(axis=0) / deviation, 1.0, atol=0.12)
    assert deviation.min() > 1e-3 or theirs == "attn_pdrop"


def test_export_is_the_inverse_of_import(pair):
    model, config, params, _, export = pair
    exported = export(params, config)
    theirs = {name: array.numpy() for name, array in model.state_dict().items()}
    if config.tied:
        theirs.pop("lm_head.weight")
    assert exported.keys() == theirs.keys()
    rounding = 1e-7 if config.norm_position == "both" else 0  # scales are stored minus 1
    for name, array in theirs.items():
        np.testing.assert_allclose(exported[name], array, rtol=0, atol=rounding, err_msg=name)


def test_a_folder_that_cannot_be_loaded_is_named(tmp_path):
    with pytest.raises(UserError, match="no config.json"):
        load_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    with pytest.raises(UserError, match="'mamba'"):
        load_pretrained(tmp_path)


def test_a_missing_tensor_is_named(pair):
    _, config, params, convert, export = pair
    state = export(params, config)
    removed = next(name for name in state if ".1." in name)
    del state[removed]
    with pytest.raises(UserError, match=removed.removeprefix("transformer.")):
        convert(state, config)
