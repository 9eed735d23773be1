"""Adapters against `peft`: what is exported gives there what it gives here, and learns alike.

Break it: leave `pick` out of `_joined` in peft.py, or the scale out of `attach`.
"""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")

from gpt_jax.data.batches import Batch  # noqa: E402
from gpt_jax.errors import UserError  # noqa: E402
from gpt_jax.losses.lm import lm_loss  # noqa: E402
from gpt_jax.models.foreign.peft import save_adapters  # noqa: E402
from gpt_jax.models.lora import LoraConfig, attach, attached, on_backbone, zero_adapters  # noqa: E402
from gpt_jax.models.weights import open_pretrained  # noqa: E402
from tests.parity.families import CONFIGS, V, logits_of, randomised, rows_of  # noqa: E402

IDS = np.random.default_rng(0).integers(0, V, (3, 20))
LORAS = {
    "all": LoraConfig(rank=4, alpha=6.0),
    "attention": LoraConfig(rank=3, alpha=5.0, targets="attention", rs=True),
}


def adapters_of(lora, config):
    zeros = zero_adapters(lora, config)
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: jnp.asarray(0.2 * rng.standard_normal(x.shape), "f4"), zeros)


@pytest.fixture(scope="module")
def base_of(tmp_path_factory):
    """`name -> folder` of a random model of a family."""

    @functools.cache
    def make(name):
        folder = tmp_path_factory.mktemp(name)
        randomised(CONFIGS[name]()).save_pretrained(folder)
        return folder

    return make


def theirs_of(base, adapters):
    model = transformers.AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager")
    return peft.PeftModel.from_pretrained(model, adapters).eval()


ALL = ["gpt2", "llama", "qwen2", "qwen3", "gemma3", "phi3", "opt", "neox"]


@pytest.mark.parametrize(
    ("name", "targets"), [(name, "all") for name in ALL] + [("gpt2", "attention")]
)
def test_what_is_exported_gives_there_what_it_gives_here(name, targets, base_of, tmp_path):
    """Logits to 1e-4, also of matrices that are several of ours; and it is read back."""
    base, lora = base_of(name), LORAS[targets]
    pretrained = open_pretrained(base)
    adapters = adapters_of(lora, pretrained.config)
    save_adapters(tmp_path, pretrained.config, adapters, lora, str(base), pretrained.kind)
    params = attach(pretrained.load(), adapters, lora.scale)
    ours = logits_of(pretrained.config, params, rows_of(IDS))
    with torch.no_grad():
        theirs = theirs_of(base, tmp_path)(torch.tensor(IDS)).logits.numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=1e-4)
    without = logits_of(pretrained.config, pretrained.load(), rows_of(IDS))
    assert np.abs(without - ours).max() > 0.05
    back = open_pretrained(tmp_path)
    again = logits_of(back.config, back.load(), rows_of(IDS))
    np.testing.assert_allclose(again, ours, atol=2e-4, rtol=1e-4)
    assert back.load(dtype="int8")["embed"]["tokens"].kind == "int8"


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_adapters_that_peft_made_are_read(name, base_of, tmp_path):
    """On GPT-2's c_attn one adapter is of queries, keys and values alike."""
    base = base_of(name)
    target = ["c_attn", "c_proj"] if name == "gpt2" else ["q_proj", "down_proj"]
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager")
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=target, init_lora_weights=False)
    model = peft.get_peft_model(model, config).eval()
    model.save_pretrained(tmp_path)
    back = open_pretrained(tmp_path)
    with torch.no_grad():
        theirs = model(torch.tensor(IDS)).logits.numpy()
    ours = logits_of(back.config, back.load(), rows_of(IDS))
    np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=1e-4)


def test_gradients_are_those_of_peft(base_of, tmp_path):
    """Of the mean cross-entropy of a Llama, for every A and B."""
    base, lora = base_of("llama"), LORAS["all"]
    pretrained = open_pretrained(base)
    config, adapters = pretrained.config, adapters_of(lora, pretrained.config)
    save_adapters(tmp_path, config, adapters, lora, str(base), pretrained.kind)
    model = transformers.AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager")
    model = peft.PeftModel.from_pretrained(model, tmp_path, is_trainable=True)
    ids = torch.tensor(IDS)
    model(ids, labels=ids).loss.backward()

    frozen = {"backbone": pretrained.load(), "lora_scale": jnp.float32(lora.scale)}
    weights_BT = np.ones(IDS.shape, np.float32)
    weights_BT[:, 0] = 0
    batch = Batch(rows_of(IDS), weights_BT)

    def loss(learned):
        total, count, _ = on_backbone(lm_loss)(config, learned, batch, None, frozen)
        return total / count

    found = jax.grad(loss)({"lora": adapters})["lora"]["blocks"]
    theirs = {n: p.grad.numpy() for n, p in model.named_parameters() if p.grad is not None}
    assert len(theirs) == config.layers * 7 * 2
    for sub, ours, name in (
        ("attn", "q", "self_attn.q_proj"),
        ("attn", "out", "self_attn.o_proj"),
        ("mlp", "gate", "mlp.gate_proj"),
        ("mlp", "down", "mlp.down_proj"),
    ):
        for layer in range(config.layers):
            module = f"base_model.model.model.layers.{layer}.{name}"
            for part, ending in (("a", "lora_A"), ("b", "lora_B")):
                expected = theirs[f"{module}.{ending}.default.weight"].T
                scale = np.abs(expected).max()
                got = found[sub][ours][part][layer]
                np.testing.assert_allclose(got, expected, atol=2e-5 * scale, rtol=1e-4)
    assert attached({"lora": {}}, frozen) == frozen["backbone"]


def test_what_is_no_plain_lora_is_said(base_of, tmp_path):
    base, lora = base_of("llama"), LORAS["all"]
    pretrained = open_pretrained(base)
    adapters = adapters_of(lora, pretrained.config)
    save_adapters(tmp_path, pretrained.config, adapters, lora, str(base), pretrained.kind)
    path = tmp_path / "adapter_config.json"
    written = json.loads(path.read_text())
    for change, sentence in (
        ({"use_dora": True}, "use_dora is True, which cannot be loaded; merge"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3', but only LORA"),
        ({"base_model_name_or_path": None}, "base_model_name_or_path is missing"),
    ):
        path.write_text(json.dumps(written | change))
        with pytest.raises(UserError, match=sentence):
            open_pretrained(tmp_path)
    path.write_text(json.dumps(written))
    other = dataclasses.replace(pretrained.config, layers=1)
    save_adapters(tmp_path, other, adapters_of(lora, other), lora, str(base), pretrained.kind)
    with pytest.raises(UserError, match="has no .*layers.1.*lora_A.* some layers alone"):
        open_pretrained(tmp_path).load()
