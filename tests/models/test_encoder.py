"""BERT as a sentence encoder, against plain NumPy in float64; what its folder may say.

Break it: leave a residual out of `encode`, give it causal attention or the tanh GELU, swap two
names of `BERT`, or let `pooled` count padding.
"""

import json
import math
import sys
import types

import jax
import numpy as np
import pytest

from gpt_jax.errors import UserError
from gpt_jax.generate.embeddings import open_encoder
from gpt_jax.parallel.mesh import MeshConfig, make_mesh
from gpt_jax.train.served import open_run
from tests import bert

TEXTS = ["cats", "a cat sees cats", "b", "the quick brown fox", "zebra cat " * 2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return bert.write(tmp_path_factory.mktemp("bert") / "model")


@pytest.fixture(scope="module")
def embed(folder):
    return open_encoder(folder)


def by_hand(weights, ids, pooling="mean"):
    """Devlin et al. 2019 in float64, one text, no batch and no padding."""
    w = {name: array.astype(np.float64) for name, array in weights.items()}

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-12)
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    def dense(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    x = w["embeddings.word_embeddings.weight"][ids]
    x = x + w["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm(x + w["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for layer in range(2):
        at = f"encoder.layer.{layer}."
        q, k, v = (
            dense(x, f"{at}attention.self.{name}").reshape(len(ids), 4, 4).transpose(1, 0, 2)
            for name in ("query", "key", "value")
        )
        scores = np.exp(q @ k.transpose(0, 2, 1) / 2)
        mixed = (scores / scores.sum(-1, keepdims=True) @ v).transpose(1, 0, 2).reshape(-1, 16)
        x = norm(x + dense(mixed, f"{at}attention.output.dense"), f"{at}attention.output.LayerNorm")
        up = dense(x, f"{at}intermediate.dense")
        up = up * 0.5 * (1 + np.vectorize(math.erf)(up / math.sqrt(2)))
        x = norm(x + dense(up, f"{at}output.dense"), f"{at}output.LayerNorm")
    vector = x.mean(0) if pooling == "mean" else x[0]
    return vector / np.linalg.norm(vector)


def test_vectors_are_those_of_plain_numpy(embed):
    rows = embed.read(TEXTS).rows
    assert rows[0][0] == 2 and rows[0][-1] == 3 and len(set(map(len, rows))) > 2
    expected = np.stack([by_hand(bert.tensors(), ids) for ids in rows])
    np.testing.assert_allclose(embed(TEXTS), expected, atol=2e-6)


def test_padding_and_the_texts_beside_change_nothing(embed):
    """Invariant 1."""
    together = embed([*TEXTS, "x " * 20] * 4)
    for number, text in enumerate(TEXTS):
        np.testing.assert_allclose(embed([text])[0], together[number], atol=1e-6)
    assert embed([]).shape == (0, 16)


def test_the_first_token_can_be_the_vector(tmp_path):
    flags = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    for number, pooling in enumerate([flags, {"pooling_mode": "cls"}]):
        found = open_encoder(bert.write(tmp_path / str(number), pooling=pooling))
        expected = [by_hand(bert.tensors(), ids, "cls") for ids in found.read(TEXTS).rows]
        np.testing.assert_allclose(found(TEXTS), expected, atol=2e-6)


def test_vectors_keep_their_length_where_nothing_says_otherwise(tmp_path, embed):
    free = open_encoder(bert.write(tmp_path / "free", modules=("Transformer", "Pooling")))
    lengths = np.linalg.norm(free(TEXTS), axis=1)
    assert (abs(lengths - 1) > 0.1).all()
    np.testing.assert_allclose(free(TEXTS) / lengths[:, None], embed(TEXTS), atol=2e-6)
    bare = open_encoder(bert.write(tmp_path / "bare", modules=None))  # a BERT of no further files
    assert bare.longest == 48
    np.testing.assert_allclose(bare(TEXTS), embed(TEXTS), atol=1e-6)


def test_long_texts_are_cut_counted_and_told(embed, capsys):
    """Invariant 14."""
    long = "a b c d e f g h i j k l m n o p q r s t u v w x y z"
    found = embed.embed(["cat", long, [5] * 30])
    assert found.cut == [1, 2] and found.tokens == 3 + 24 + 24
    rows = embed.read([long]).rows
    assert rows[0][0] == 2 and rows[0][-1] == 3  # the last token is still there
    embed(["cat"])
    assert capsys.readouterr().err == ""
    embed(["cat", long])
    assert "1 of 2 texts have more than 24 tokens" in capsys.readouterr().err


def test_tokens_are_read_as_they_are(embed):
    rows = embed.read(TEXTS).rows
    np.testing.assert_array_equal(embed.embed(rows).vectors_BD, embed(TEXTS))
    for wrong in ([], [64], [-1]):
        with pytest.raises(UserError, match="text 2 must have tokens, each of them 0 to 63"):
            embed.embed(["cat", wrong])


def test_a_text_makes_no_special_token(embed):
    (ids,) = embed.read(["a [SEP] b"]).rows
    assert ids.count(3) == 1


@pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")
def test_over_a_mesh_it_is_the_same(folder, embed):
    over = open_encoder(folder, make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)))
    np.testing.assert_allclose(over(TEXTS), embed(TEXTS), atol=2e-6)
    np.testing.assert_allclose(over(TEXTS[:1]), embed(TEXTS[:1]), atol=2e-6)


def test_an_encoder_of_the_hub_comes_with_its_modules(folder, embed, monkeypatch):
    """Its pooling lies in a folder of its own, which no language model has."""
    asked = []

    def snapshot_download(repository, **options):
        asked.append((repository, options["revision"], *options["allow_patterns"]))
        return str(folder)

    fake = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    np.testing.assert_array_equal(open_encoder("hf:ORG/NAME@v1")(TEXTS), embed(TEXTS))
    assert {one[:2] for one in asked} == {("ORG/NAME", "v1")}
    assert "*_*/config.json" in asked[1] and "*.safetensors" not in asked[1]


def test_names_may_begin_with_bert_and_be_those_of_pretraining(tmp_path, embed):
    weights = {f"bert.{name}": array for name, array in bert.tensors().items()}
    weights["bert.embeddings.position_ids"] = np.arange(48)[None]
    weights["cls.predictions.bias"] = np.zeros(64, np.float32)
    found = open_encoder(bert.write(tmp_path / "x", weights))
    np.testing.assert_array_equal(found(TEXTS), embed(TEXTS))


@pytest.mark.parametrize(
    "change, why",
    [
        ({"model_type": "roberta"}, "model_type is 'roberta'.* only bert can"),
        ({"hidden_act": "gelu_new"}, "hidden_act is 'gelu_new'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"is_decoder": True}, "is_decoder is True.* those behind them"),
        ({"num_attention_heads": 3}, "config.json: a width of 16 does not divide into 3 heads"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"is_wonderful": True}, "is_wonderful is True, which cannot be loaded"),
        ({"num_hidden_layers": 3}, r"no tensor encoder\.layer\.2\."),
        ({"num_hidden_layers": 1}, r"encoder\.layer\.1\.\S+ is not used"),
        ({"vocab_size": 40}, "word_embeddings.weight is"),
    ],
)
def test_a_key_that_cannot_be_loaded_is_named(tmp_path, change, why):
    """Invariant 12."""
    with pytest.raises(UserError, match=why):
        open_encoder(bert.write(tmp_path / "x", config=bert.CONFIG | change))


@pytest.mark.parametrize(
    "said, why",
    [
        ({"modules": ("Transformer", "Pooling", "Dense")}, "Transformer, Pooling, Dense cannot"),
        ({"modules": ()}, "nothing cannot be loaded"),
        ({"pooling": {"pooling_mode_max_tokens": True}}, "pooling by max_tokens cannot"),
        ({"pooling": {"pooling_mode_mean_tokens": False}}, "pooling by nothing cannot"),
        ({"pooling": {"pooling_mode": "mean", "word_embedding_dimension": 8}}, "16 numbers"),
        ({"sentence": {"max_seq_length": 512}}, "max_seq_length is 512.* 3 to 48"),
        ({"sentence": {"other": 1}}, "other is 1"),
    ],
)
def test_a_pooling_that_cannot_be_done_is_named(tmp_path, said, why):
    with pytest.raises(UserError, match=why):
        open_encoder(bert.write(tmp_path / "x", **said))


def test_it_is_no_language_model(folder):
    with pytest.raises(UserError, match="model_type is 'bert'.*with --embeddings"):
        open_run(folder)


def test_files_that_are_missing_or_of_another_model_are_named(tmp_path):
    with pytest.raises(UserError, match="nowhere has no config.json"):
        open_encoder(tmp_path / "nowhere")
    folder = bert.write(tmp_path / "x")
    (folder / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    with pytest.raises(UserError, match="tokenizer.json is missing"):
        open_encoder(folder)
    larger = bert.tokenizer()
    larger.add_tokens([f"word{i}" for i in range(9)])
    larger.save(str(folder / "tokenizer.json"))
    with pytest.raises(UserError, match="but the encoder only 64 tokens"):
        open_encoder(folder)
    (tmp_path / "tokenizer.json").rename(folder / "tokenizer.json")
    prompts = folder / "config_sentence_transformers.json"
    prompts.write_text(json.dumps({"prompts": {"query": "q: "}, "default_prompt_name": "query"}))
    with pytest.raises(UserError, match="default_prompt_name is 'query'"):
        open_encoder(folder)
    prompts.unlink()
    (folder / "modules.json").write_text('{"a": 1}')
    with pytest.raises(UserError, match="modules.json is damaged"):
        open_encoder(folder)
