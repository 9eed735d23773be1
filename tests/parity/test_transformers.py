"""Every family against `transformers`, both ways: logits, greedy answers, tensors.

Break it: swap two names of a table in gpt_jax/models/foreign/tensors.py, or a norm's offset.
"""

import contextlib
import functools
import json

import numpy as np
import pytest

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from gpt_jax.data.batches import Tokens, pad_prompts  # noqa: E402
from gpt_jax.errors import UserError  # noqa: E402
from gpt_jax.generate.sampler import generate  # noqa: E402
from gpt_jax.models import ModelConfig, forward, init, token_logprobs, token_nll  # noqa: E402
from gpt_jax.models.foreign.configs import computed, config_to_hf  # noqa: E402
from gpt_jax.models.foreign.export import save_pretrained  # noqa: E402
from gpt_jax.models.foreign.safetensors import TensorFiles  # noqa: E402
from gpt_jax.models.presets import PRESETS, tiny  # noqa: E402
from gpt_jax.models.weights import open_pretrained  # noqa: E402
from gpt_jax.parallel.mesh import MeshConfig, make_mesh  # noqa: E402
from tests.parity.families import CONFIGS, V, logits_of, randomised, rows_of  # noqa: E402

IDS = np.random.default_rng(1).integers(3, V, (2, 24))
MESHES = {"one device": None, "fsdp=2, tensor=2": MeshConfig(data=1, fsdp=2, tensor=2)}


@pytest.fixture(params=CONFIGS, scope="module")
def pair(request, tmp_path_factory):
    """(their model, ours from a folder on disk)."""
    folder = tmp_path_factory.mktemp(request.param)
    model = randomised(CONFIGS[request.param]())
    model.save_pretrained(folder)
    return model, open_pretrained(folder)


def over(mesh):
    """The mesh in use, if there is one."""
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def their_logits(model, ids=IDS):
    with torch.no_grad():
        return model(torch.from_numpy(ids)).logits.numpy()


@functools.partial(jax.jit, static_argnums=0)
def jitted_logits(config, params, tokens_BT):
    return logits_of(config, params, tokens_BT)


def greedy(config, params, mesh=None, new=64):
    """The 64 likeliest tokens after each row, ours; nothing stops them."""
    with over(mesh):
        rollout = jax.jit(
            generate,
            static_argnums=0,
            static_argnames=("max_new_tokens", "stop_ids", "pad_id", "temperature"),
        )(
            config,
            params,
            pad_prompts(IDS.tolist(), IDS.shape[1], 0),
            jax.random.key(0),
            max_new_tokens=new,
            stop_ids=(-1,),
            pad_id=0,
            temperature=0.0,
        )
    return np.asarray(rollout.completion_BC.ids)


def their_greedy(model, new=64):
    return model.generate(
        torch.from_numpy(IDS),
        attention_mask=torch.ones(IDS.shape, dtype=torch.long),
        do_sample=False,
        min_new_tokens=new,
        max_new_tokens=new,
        eos_token_id=None,
        pad_token_id=0,
    )[:, IDS.shape[1] :].numpy()


@pytest.mark.parametrize("devices", MESHES)
def test_logits_and_64_greedy_tokens_agree(pair, devices):
    model, pretrained = pair
    mesh = MESHES[devices] and make_mesh(MESHES[devices])
    params = pretrained.load(mesh)
    with over(mesh):
        ours = jitted_logits(pretrained.config, params, rows_of(IDS))
    np.testing.assert_allclose(np.asarray(ours), their_logits(model), atol=1e-4)
    np.testing.assert_array_equal(greedy(pretrained.config, params, mesh), their_greedy(model))


@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_agree_with_padding_on_either_side(pair, side):
    model, pretrained = pair
    lengths, T = (9, 5, 1), 9
    tokens = np.random.default_rng(1).integers(3, V, (3, T))
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
    ours = jitted_logits(
        pretrained.config, pretrained.load(), Tokens(tokens, positions, real.astype(np.int32))
    )
    np.testing.assert_allclose(np.asarray(ours)[real], theirs[real], atol=1e-4)


def test_the_losses_have_the_cap_of_the_logits(pair):
    """Log-probabilities and their weighted sum are those of the logits that are sampled from."""
    _, pretrained = pair
    config, params, tokens = pretrained.config, pretrained.load(), rows_of(IDS)
    logp = jax.nn.log_softmax(logits_of(config, params, tokens))[:, :-1]
    expected = np.take_along_axis(np.asarray(logp), IDS[:, 1:, None], axis=2)[..., 0]
    hidden, _ = forward(config, params, tokens)
    targets = jnp.asarray(IDS[:, 1:])
    found, _ = token_logprobs(config, params, hidden[:, :-1], targets)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    total = token_nll(config, params, hidden[:, :-1], targets, jnp.ones(targets.shape))
    np.testing.assert_allclose(total, -expected.sum(), rtol=1e-4)


@pytest.mark.parametrize("devices", MESHES)
def test_what_is_written_loads_there_and_here(pair, devices, tmp_path):
    """Under its own family; all tensors have their names, and nearly all their bits."""
    model, pretrained = pair
    mesh = MESHES[devices] and make_mesh(MESHES[devices])
    params = pretrained.load(mesh)
    save_pretrained(
        tmp_path, pretrained.config, params, stop_ids=[1], pad_id=0, kind=pretrained.kind
    )
    files = TensorFiles(tmp_path)
    state = TensorFiles(pretrained.folder_or_file).tensors
    assert set(files.names()) == state.keys()
    # Gemma's scales are stored minus 1; no token reads OPT's first two positions.
    rounding = 1e-7 if pretrained.kind.startswith("gemma") else 0
    for name, array in state.items():
        skipped = 2 if name.endswith("embed_positions.weight") else 0
        np.testing.assert_allclose(
            files.tensors[name][skipped:], array[skipped:], rtol=0, atol=rounding, err_msg=name
        )
    back = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    np.testing.assert_allclose(their_logits(back), their_logits(model), atol=1e-5)
    assert back.generation_config.eos_token_id in (1, [1])
    again = open_pretrained(tmp_path)
    assert computed(again.config) == computed(pretrained.config)
    for one, other in zip(jax.tree.leaves(again.load()), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


OWN = {
    "tiny": tiny(V, 128),
    "llama-like": ModelConfig(
        *(V, 128, 32, 2, 4),
        mlp_width=64,
        positions="rope",
        norm="rms",
        mlp="swiglu",
        biases=False,
    ),
    "gpt1": ModelConfig(V, 128, 32, 2, 4, norm_position="post"),
}


@pytest.mark.parametrize(
    ("name", "kind"), [("tiny", "gpt2"), ("llama-like", "llama"), ("gpt1", "opt")]
)
def test_our_own_models_find_a_family(name, kind, tmp_path):
    config = OWN[name]
    params = random_params(config)
    save_pretrained(tmp_path, config, params, stop_ids=[1, 2])
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert model.config.model_type == kind and model.generation_config.eos_token_id == [1, 2]
    ours = jitted_logits(config, params, rows_of(IDS))
    np.testing.assert_allclose(np.asarray(ours), their_logits(model), atol=1e-4)
    np.testing.assert_array_equal(greedy(config, params), their_greedy(model))


def random_params(config):
    """As `randomised` makes theirs."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: x + 0.1 * rng.standard_normal(x.shape, np.float32),
        init(config, jax.random.key(0)),
    )


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_be_written_and_comes_back(name):
    config_to_hf(PRESETS[name])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (dict(positions="sinusoidal"), "positions sinusoidal, which gpt2 cannot"),
        (dict(norm="rms"), "norm rms, which gpt2"),
        (dict(qk_norm=True, biases=False), "cannot express; keep it as a run folder"),
    ],
)
def test_what_no_family_expresses_is_named(change, sentence):
    with pytest.raises(UserError, match=sentence):
        config_to_hf(ModelConfig(V, 128, 32, 2, 4, **change))


def test_large_models_are_written_in_several_files(tmp_path, monkeypatch):
    monkeypatch.setattr("gpt_jax.models.foreign.export.LARGEST_FILE", 30_000)
    params = init(OWN["tiny"], jax.random.key(0))
    save_pretrained(tmp_path, OWN["tiny"], params, stop_ids=[1])
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 5
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(4 * x.size for x in jax.tree.leaves(params))
    transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    same = jax.tree.map(np.array_equal, open_pretrained(tmp_path).load(), params)
    assert jax.tree.all(same)
    # What was there before is gone: an index of other files would be taken for this model's.
    monkeypatch.undo()
    save_pretrained(tmp_path, OWN["tiny"], params, stop_ids=[1], dtype="bfloat16")
    assert [path.name for path in tmp_path.glob("model*")] == ["model.safetensors"]
    assert open_pretrained(tmp_path).load()["embed"]["tokens"].dtype == jnp.float32


def test_a_weight_that_is_not_finite_is_named(tmp_path):
    params = init(OWN["tiny"], jax.random.key(0))
    params["embed"]["tokens"] = params["embed"]["tokens"].at[3, 3].set(jnp.nan)
    with pytest.raises(UserError, match=r"transformer.wte.weight has a weight that is not finite"):
        save_pretrained(tmp_path, OWN["tiny"], params, stop_ids=[1])
    with pytest.raises(UserError, match="no config.json"):
        open_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("embd_pdrop", "embedding_dropout"),
        ("attn_pdrop", "attention_dropout"),
        ("resid_pdrop", "dropout"),
    ],
)
@pytest.mark.usefixtures("optimized")
def test_dropout_has_the_same_distribution(theirs, ours, tmp_path):
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
    model.save_pretrained(tmp_path)
    config = ModelConfig(61, 32, width=24, layers=2, heads=4, **{ours: rate})
    params = open_pretrained(tmp_path).load()
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


def test_a_folder_that_cannot_be_loaded_is_named(tmp_path):
    with pytest.raises(UserError, match="no config.json"):
        open_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    with pytest.raises(UserError, match="'mamba'"):
        open_pretrained(tmp_path)
