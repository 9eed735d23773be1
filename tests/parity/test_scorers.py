"""Reward models in the layout of `...ForSequenceClassification`, both ways.

Break it: read the last token of theirs without a pad id, or leave the bias out of account.
"""

import json

import numpy as np
import pytest

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

import jax  # noqa: E402

from gpt_jax.data.batches import Tokens  # noqa: E402
from gpt_jax.errors import UserError  # noqa: E402
from gpt_jax.models import init, init_scorer, score_last_token  # noqa: E402
from gpt_jax.models.foreign.export import save_pretrained  # noqa: E402
from gpt_jax.models.weights import open_pretrained  # noqa: E402
from gpt_jax.parallel.mesh import MeshConfig, make_mesh  # noqa: E402
from tests.parity.families import CONFIGS, V, randomised  # noqa: E402
from tests.parity.test_transformers import OWN, random_params  # noqa: E402

LENGTHS, T = (9, 5, 2), 9
IDS = np.random.default_rng(0).integers(3, V, (3, T))
REAL = np.arange(T) < np.array(LENGTHS)[:, None]
TOKENS = Tokens(np.where(REAL, IDS, 0), np.where(REAL, np.arange(T), 0), REAL.astype(np.int32))
AUTO = transformers.AutoModelForSequenceClassification
# One per layout of the file; OPT and Gemma 3 name and score as these do.
FAMILIES = ("gpt2", "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "phi3", "neox")


def their_scores(model):
    with torch.no_grad():
        ids, mask = torch.from_numpy(TOKENS.ids), torch.from_numpy(REAL.astype(np.int64))
        return model(ids, attention_mask=mask).logits[:, 0].numpy()


@pytest.mark.parametrize("name", FAMILIES)
def test_their_reward_models_give_the_same_scores(name, tmp_path):
    config = CONFIGS[name]()
    config.num_labels, config.pad_token_id = 1, 0
    model = randomised(config, AUTO)
    model.save_pretrained(tmp_path)
    pretrained = open_pretrained(tmp_path)
    assert pretrained.is_scorer
    mesh = make_mesh(MeshConfig(data=1, fsdp=2, tensor=2))
    for params in (pretrained.load(), jax.device_get(pretrained.load(mesh))):
        scores = jax.jit(score_last_token, static_argnums=0)(pretrained.config, params, TOKENS)
        np.testing.assert_allclose(np.asarray(scores), their_scores(model), atol=1e-4)


@pytest.mark.parametrize("name", OWN)
def test_our_reward_models_give_the_same_scores_there(name, tmp_path):
    """But for the bias, which config.json states and `transformers` does not read."""
    config = OWN[name]
    scorer = init_scorer(config, random_params(config), jax.random.key(1))
    scorer["head"]["bias"] += 0.75
    save_pretrained(tmp_path, config, scorer, stop_ids=[1], pad_id=0)
    assert json.loads((tmp_path / "config.json").read_text())["head_bias"] == 0.75
    model = AUTO.from_pretrained(tmp_path).eval()
    assert model.num_labels == 1
    ours = np.asarray(jax.jit(score_last_token, static_argnums=0)(config, scorer, TOKENS))
    np.testing.assert_allclose(ours, their_scores(model) + 0.75, atol=1e-4)
    again = open_pretrained(tmp_path)
    assert again.is_scorer
    same = jax.tree.map(lambda a, b: bool((a == b).all()), again.load(), scorer)
    assert jax.tree.all(same)


def test_what_their_reward_models_lack_is_refused(tmp_path):
    config = OWN["tiny"]
    backbone = init(config, jax.random.key(0))
    both = init_scorer(config, backbone, jax.random.key(1), likelihood=1.0)
    with pytest.raises(UserError, match="adds the log-likelihood of an answer"):
        save_pretrained(tmp_path, config, both, stop_ids=[1], pad_id=0)
    plain = init_scorer(config, backbone, jax.random.key(1))
    with pytest.raises(UserError, match="needs a pad_id"):
        save_pretrained(tmp_path, config, plain, stop_ids=[1])
    assert not list(tmp_path.iterdir())


def test_a_classifier_of_several_labels_is_refused(tmp_path):
    config = CONFIGS["llama"]()
    config.num_labels, config.pad_token_id = 3, 0
    randomised(config, AUTO).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"score.weight is \(3, 32\), but .* it is \(1, 32\)"):
        open_pretrained(tmp_path)
