"""Folders of other people's models: what is accepted has the logits of `transformers`.

Break it: leave a key of config.json out of account in families.py, or a tensor in assemble.py.
"""

import json
import shutil

import numpy as np
import pytest

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")

from gpt_jax.errors import UserError  # noqa: E402
from gpt_jax.models.weights import open_pretrained  # noqa: E402
from tests.parity.families import LLAMA3, YARN, logits_of, randomised, rows_of  # noqa: E402

SHAPE = dict(
    vocab_size=61,
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=32,
)
CONFIGS = {
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=61, n_positions=32, n_embd=24, n_layer=2, n_head=4, tie_word_embeddings=False
    ),
    "llama": lambda: transformers.LlamaConfig(**SHAPE),
    "qwen3": lambda: transformers.Qwen3Config(**SHAPE, head_dim=8),
    "gemma3": lambda: transformers.Gemma3TextConfig(
        **SHAPE,
        head_dim=8,
        layer_types=["sliding_attention", "full_attention"],
        sliding_window=3,
        query_pre_attn_scalar=10,
        tie_word_embeddings=False,
    ),
    "gemma2": lambda: transformers.Gemma2Config(
        **SHAPE, head_dim=8, sliding_window=3, query_pre_attn_scalar=10, final_logit_softcapping=2.0
    ),
    "gemma": lambda: transformers.GemmaConfig(**SHAPE, head_dim=8),
    "mistral": lambda: transformers.MistralConfig(**SHAPE, sliding_window=3),
    "qwen2": lambda: transformers.Qwen2Config(
        **SHAPE, use_sliding_window=True, sliding_window=3, max_window_layers=0
    ),
    "phi3": lambda: transformers.Phi3Config(**SHAPE, pad_token_id=0, sliding_window=3),
    "opt": lambda: transformers.OPTConfig(
        vocab_size=61,
        hidden_size=24,
        ffn_dim=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=32,
        tie_word_embeddings=False,
    ),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=32,
    ),
}
# Keys that change the logits, and that ours must compute rather than refuse.
COMPUTED = {
    "gpt2": {"n_head", "layer_norm_epsilon", "scale_attn_weights"},
    "llama": {"rms_norm_eps", "rope_parameters", "hidden_act"},
    "qwen3": {"rms_norm_eps", "rope_parameters", "hidden_act"},
    "gemma3": {
        "rms_norm_eps",
        "rope_parameters",
        "hidden_activation",
        "query_pre_attn_scalar",
        "sliding_window",
        "layer_types",
    },
    "gemma2": {
        "rms_norm_eps",
        "rope_parameters",
        "query_pre_attn_scalar",
        "sliding_window",
        "layer_types",
        "attn_logit_softcapping",
        "final_logit_softcapping",
    },
    "gemma": {"rms_norm_eps", "rope_parameters"},
    "mistral": {"rms_norm_eps", "rope_parameters", "sliding_window"},
    "qwen2": {"rms_norm_eps", "rope_parameters", "sliding_window"},
    "phi3": {"rms_norm_eps", "rope_parameters", "sliding_window"},
    "opt": {"activation_function"},
    "gpt_neox": {"layer_norm_eps", "rope_parameters", "hidden_act", "use_parallel_residual"},
}
# Keys that a saved file has not, and values for them.
ADDED = {
    "partial_rotary_factor": [0.5, 1.0],
    "rope_theta": [100.0],
    "rope_scaling": [{"rope_type": "linear", "factor": 4.0}, {"type": "dynamic", "factor": 4.0}],
    "rope_local_base_freq": [100.0],
    "sliding_window": [2],
    "sliding_window_pattern": [1, 2, 0],
    "use_sliding_window": [True],
    "layer_types": [["sliding_attention", "full_attention"], ["full_attention"] * 2],
    "attn_logit_softcapping": [0.5],
    "final_logit_softcapping": [0.5],
    "quantization_config": [{"quant_method": "gptq", "bits": 4}],
    "num_hidden_layers": [1],
    "n_layer": [1],
    "n_ctx": [7],
    "temperature": [0.1],
    "rotary_pct": [0.5],
    "rotary_emb_base": [100.0],
    "max_window_layers": [0, 1],
    "original_max_position_embeddings": [8],
    "_remove_final_layer_norm": [True],
    "hidden_activation": ["gelu"],
    "unheard_of": [1],
}
ROPE_TYPES = [
    {"rope_type": "linear", "factor": 4.0, "rope_theta": 100.0},
    {"rope_type": "default", "rope_theta": 100.0},
    {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.5},
    LLAMA3,
    YARN,
    YARN | {"truncate": False},
    YARN | {"attention_factor": 0.5, "beta_fast": 3, "beta_slow": 2},
    YARN | {"mscale": 0.5, "mscale_all_dim": 0.7},
    {"rope_type": "longrope", "rope_theta": 100.0, "factor": 4.0},
]
TOKENS = np.random.default_rng(1).integers(0, 61, (2, 9))


@pytest.fixture(params=CONFIGS)
def folder(request, tmp_path):
    randomised(CONFIGS[request.param]()).save_pretrained(tmp_path)
    tmp_path.joinpath("family").write_text(request.param)
    return tmp_path


def theirs(folder):
    """Their logits, or None where they refuse."""
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        )
        with torch.no_grad():
            return model.eval()(torch.from_numpy(TOKENS)).logits.numpy()
    except Exception:
        return None


def loaded(folder):
    pretrained = open_pretrained(folder)
    return pretrained.config, pretrained.load()


def ours(config, params):
    return np.asarray(logits_of(config, params, rows_of(TOKENS)))


def other_values(key, value):
    """Values that the key could have instead."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [2 * value, max(value // 2, 1), 0]
    if isinstance(value, float):
        return [1000 * value if 0 < value < 1e-3 else value / 10, -1.0, float("nan")]
    if isinstance(value, list):
        return [value[::-1], value[:1], ["full_attention"] * len(value)]
    if key.endswith(("activation", "act", "activation_function")):
        return ["gelu", "relu", "gelu_new", "silu", "gelu_pytorch_tanh", "gelu_fast"]
    if key == "rope_parameters" and "full_attention" in value:
        local, whole = value["sliding_attention"], value["full_attention"]
        return [
            *({"sliding_attention": local, "full_attention": rope} for rope in ROPE_TYPES),
            *({"sliding_attention": rope, "full_attention": whole} for rope in ROPE_TYPES),
            ROPE_TYPES[1],
        ]
    if key == "rope_parameters":
        return ROPE_TYPES
    if key == "model_type":
        return ["qwen3", "llama", "mamba"]
    return [1, 0.5, True, "other", {"a": 1}] if value is None else ["other", 3, None]


def test_every_key_is_computed_as_theirs_changes_nothing_or_is_refused(folder):
    """Each key of the file, and others, with other values and the same weights."""
    saved = json.loads((folder / "config.json").read_text())
    family = (folder / "family").read_text()
    base, params = loaded(folder)
    logits = ours(base, params)
    np.testing.assert_allclose(logits, theirs(folder), atol=1e-4)
    changes = [(key, other) for key, value in saved.items() for other in other_values(key, value)]
    changes += [(key, value) for key, values in ADDED.items() for value in values]
    wrong, computed, harmless = {}, set(), set()
    for key, value in changes:
        (folder / "config.json").write_text(json.dumps(saved | {key: value}))
        try:
            config, params = loaded(folder)
        except UserError as error:
            # Another family lacks other keys; a head may be odd only with the positions it has.
            named = key in str(error) or "tensor" in str(error) or " even " in str(error)
            assert named or key in ("model_type", "hidden_size"), error
            assert "\n" not in str(error)
            continue
        if config == base and key in harmless:
            continue  # one value of such a key is enough
        expected = theirs(folder)
        if expected is None:
            continue
        if config == base:
            harmless.add(key)
        result = logits if config == base else ours(config, params)
        if not np.allclose(result, expected, atol=1e-4):
            wrong[f"{key}={value}"] = float(np.abs(result - expected).max())
        elif not np.allclose(logits, expected, atol=1e-3):
            computed.add(key)
    assert not wrong
    assert computed >= COMPUTED[family]


@pytest.mark.parametrize(
    ("family", "older"),
    [
        ("llama", {"rope_theta": 100.0}),
        ("llama", {"rope_theta": 100.0, "rope_scaling": {"type": "linear", "factor": 4.0}}),
        ("qwen3", {"rope_theta": 100.0, "sliding_window": 4096, "max_window_layers": 1}),
        (
            "gemma3",
            {
                "rope_theta": 100.0,
                "rope_local_base_freq": 50.0,
                "rope_scaling": {"rope_type": "linear", "factor": 4.0},
                "layer_types": None,
                "sliding_window_pattern": 2,
            },
        ),
    ],
)
def test_files_of_older_versions_mean_what_they_did(family, older, tmp_path):
    randomised(CONFIGS[family]()).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(saved | {"rope_parameters": None} | older))
    np.testing.assert_allclose(ours(*loaded(tmp_path)), theirs(tmp_path), atol=1e-4)


def change_tensors(folder, change):
    """Rewrites the weights' file after `change` of its dict of tensors."""
    path = folder / "model.safetensors"
    tensors = safetensors.load_file(path)
    change(tensors)
    safetensors.save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t.update(score=torch.ones(2)), "tensor score is not used"),
        (lambda t: t.pop("lm_head.weight"), "no tensor lm_head.weight"),
        (lambda t: t.update({"lm_head.weight": torch.ones(60, 24)}), r"lm_head.weight is \(60, 24"),
        (
            lambda t: t.update({"lm_head.weight": torch.ones((61, 24), dtype=torch.int8)}),
            "lm_head.weight is not of floating point",
        ),
        (
            lambda t: t.update({k.replace(".1.", ".2."): t[k] + 1 for k in list(t)}),
            r"\.2\..* not u",
        ),
    ],
)
@pytest.mark.parametrize("folder", ["gpt2", "llama"], indirect=True)
def test_every_tensor_is_used_or_named(folder, change, sentence):
    change_tensors(folder, change)
    with pytest.raises(UserError, match=sentence):
        loaded(folder)


@pytest.mark.parametrize("folder", ["gpt2", "llama"], indirect=True)
def test_what_follows_from_the_configuration_may_lie_beside_the_parameters(folder):
    _, before = loaded(folder)
    masks = {"transformer.h.0.attn.bias": torch.ones(4, dtype=torch.bool)}
    angles = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    change_tensors(folder, lambda t: t.update(masks | angles))
    _, after = loaded(folder)
    np.testing.assert_array_equal(before["embed"]["tokens"], after["embed"]["tokens"])


def test_a_tied_unembedding_must_be_the_embedding(tmp_path):
    randomised(transformers.LlamaConfig(**SHAPE, tie_word_embeddings=True)).save_pretrained(
        tmp_path
    )
    embedding = "model.embed_tokens.weight"
    change_tensors(tmp_path, lambda t: t.update({"lm_head.weight": t[embedding].clone()}))
    loaded(tmp_path)
    change_tensors(tmp_path, lambda t: t.update({"lm_head.weight": t[embedding] + 1}))
    with pytest.raises(UserError, match="lm_head.weight differs from the embedding"):
        loaded(tmp_path)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_of_half_precision_are_read(dtype, tmp_path):
    """Most published weights are bfloat16."""
    model = randomised(CONFIGS["llama"]()).to(getattr(torch, dtype))
    model.save_pretrained(tmp_path)
    config, params = loaded(tmp_path)
    expected = model.lm_head.weight.T.float().detach().numpy()
    np.testing.assert_array_equal(params["unembed"]["kernel"], expected)
    assert config.dtype == "float32" and params["unembed"]["kernel"].dtype == np.float32


@pytest.fixture
def shards(tmp_path):
    """A folder of several files with their index."""
    randomised(CONFIGS["llama"]()).save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    return tmp_path


def test_the_index_says_which_files_are_read(shards, tmp_path_factory):
    """A stale file beside the shards changes nothing; without the index it is an error."""
    expected = theirs(shards)
    stale = tmp_path_factory.mktemp("stale")
    other = randomised(CONFIGS["llama"]())
    with torch.no_grad():
        other.lm_head.weight.add_(1.0)
    other.save_pretrained(stale)
    shutil.copy(stale / "model.safetensors", shards)
    np.testing.assert_allclose(ours(*loaded(shards)), expected, atol=1e-4)
    (shards / "model.safetensors.index.json").unlink()
    with pytest.raises(UserError, match="model.safetensors has .* and so has a file before it"):
        loaded(shards)


@pytest.mark.parametrize(
    ("break_", "sentence"),
    [
        (lambda file: file.unlink(), "is missing; download it"),
        (lambda file: file.write_bytes(file.read_bytes()[:-8]), "not a whole safetensors file"),
        (lambda file: file.write_bytes(b""), "not a whole safetensors file"),
        (lambda file: file.write_bytes(b"\xff" * 64), "not a whole safetensors file"),
        (
            lambda file: safetensors.save_file({"x": torch.ones(1)}, file),
            "is in only one of model-00002.* and model.safetensors.index.json",
        ),
    ],
)
def test_a_broken_shard_is_named(shards, break_, sentence):
    break_(next(shards.glob("model-00002-*")))
    with pytest.raises(UserError, match=sentence) as error:
        loaded(shards)
    assert "model-00002" in str(error.value)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"model_type": 3}', '{"model_type": "gpt2"}', "[" * 10**5, "\ud83d"]
)
@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_a_broken_json_file_is_named(shards, name, text):
    (shards / name).write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        loaded(shards)
