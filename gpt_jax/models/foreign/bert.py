"""BERT as sentence-transformers keeps it: a folder with the encoder, and how it is pooled.

    config.json, *.safetensors      the encoder
    modules.json                    what is done one after the other: encoder, pooling, length 1
    1_Pooling/config.json           the mean of all tokens, or the first of them
    sentence_bert_config.json       how many tokens of a text are read

Without modules.json it is the mean of length 1.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from gpt_jax.errors import UserError
from gpt_jax.models.contract import Params
from gpt_jax.models.encoder import Encoder, Pooling
from gpt_jax.models.foreign import assemble
from gpt_jax.models.foreign.hub import download
from gpt_jax.models.foreign.keys import Keys
from gpt_jax.models.foreign.safetensors import TensorFiles, read_json
from gpt_jax.models.foreign.tensors import Entry, Table, entries

MODULES, SENTENCE, MODEL = "modules.json", "sentence_bert_config.json", "config.json"
PROMPTS = "config_sentence_transformers.json"
POOLINGS: dict[str, Pooling] = {"mean_tokens": "mean", "cls_token": "cls"}
BERT = Table(
    block={
        "attn/q": "attention.self.query",
        "attn/k": "attention.self.key",
        "attn/v": "attention.self.value",
        "attn/out": "attention.output.dense",
        "attn_norm": "attention.output.LayerNorm",
        "mlp/up": "intermediate.dense",
        "mlp/down": "output.dense",
        "mlp_norm": "output.LayerNorm",
    },
    whole={
        "embed/tokens": "embeddings.word_embeddings",
        "embed/positions": "embeddings.position_embeddings",
        "embed/types": "embeddings.token_type_embeddings",
        "embed/norm": "embeddings.LayerNorm",
    },
    prefix="bert.",
    layer="encoder.layer.{}.",
)
# Of training, of heads, and of the pooler, which no sentence embedding uses.
UNUSED = (
    "attention_probs_dropout_prob hidden_dropout_prob tie_word_embeddings directionality "
    "pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head "
    "pooler_type"
)


@dataclasses.dataclass(frozen=True, eq=False)
class Sentences:
    """A sentence encoder whose files were looked at; its weights still lie in them.

    Attributes:
      model: the encoder.
      folder: where its tokenizer lies, too.
      pooling: of the hidden states.
      normalized: whether vectors get the length 1.
      longest: how many tokens of a text are read, those in front and behind included.
      lowercase: whether texts are written small before they are read.
    """

    model: Encoder
    folder: Path
    pooling: Pooling
    normalized: bool
    longest: int
    lowercase: bool
    _source: TensorFiles
    _entries: dict[str, Entry]

    def load(self, mesh: Mesh | None = None) -> Params:
        """The parameters, float32, on the default device or over a mesh.

        Raises:
          UserError: if the mesh does not divide a parameter.
        """
        return assemble.load(self._source, self._entries, self.model, mesh, "float32")


def open_sentences(where: str | Path) -> Sentences:
    """Looks at a sentence encoder: every key and tensor of its files has to be known.

    Args:
      where: a folder, or `hf:ORG/NAME` or `hf:ORG/NAME@REVISION`, which is downloaded.

    Raises:
      UserError: naming the file, key or tensor that is missing, not supported or would be left
        unused.
    """
    where = str(where)
    if where.startswith("hf:"):
        name = where.removeprefix("hf:")
        folder = download(name)
        download(name, wanted=["*_*/config.json"], unwanted=[])  # of the modules, in folders
    else:
        folder = Path(where).expanduser()
    if not (folder / MODEL).is_file():
        raise UserError(f"{folder} has no {MODEL}; give the folder of a sentence encoder")
    model = _model(read_json(folder / MODEL), str(folder / MODEL))
    pooling, normalized = _modules(folder, model.width)
    longest, lowercase = _reading(folder, model.context_length)
    _refuse_prompt(folder)
    source = TensorFiles(folder)
    bare = BERT.whole["embed/tokens"] + ".weight" in set(source.names())
    found = entries(BERT, model, "" if bare else BERT.prefix)
    assemble.check(source, found, model, None, False)
    return Sentences(model, folder, pooling, normalized, longest, lowercase, source, found)


def _model(theirs: dict[str, Any], source: str) -> Encoder:
    """The encoder that a config.json describes."""
    keys = Keys(theirs, source)
    if (kind := keys.take("model_type", str)) != "bert":
        keys.refuse("model_type", kind, "only bert can, as a sentence encoder")
    for key in UNUSED.split():
        keys.left.pop(key, None)
    for key, only in (("hidden_act", "gelu"), ("position_embedding_type", "absolute")):
        if (value := keys.take(key, str, only)) != only:
            keys.refuse(key, value, f"only {only!r} can")
    if keys.take("is_decoder", bool, False):
        keys.refuse("is_decoder", True, "an encoder's tokens see those behind them, too")
    try:
        model = Encoder(
            vocab_size=keys.take("vocab_size", int),
            context_length=keys.take("max_position_embeddings", int),
            width=keys.take("hidden_size", int),
            layers=keys.take("num_hidden_layers", int),
            heads=keys.take("num_attention_heads", int),
            mlp_width=keys.take("intermediate_size", int),
            types=keys.take("type_vocab_size", int, 2),
            norm_eps=float(keys.take("layer_norm_eps", float, 1e-12)),
        )
    except UserError as error:
        raise UserError(str(error) if source in str(error) else f"{source}: {error}") from error
    keys.finish()
    return model


def _modules(folder: Path, width: int) -> tuple[Pooling, bool]:
    """How hidden states become a vector."""
    path = folder / MODULES
    if not path.is_file():
        return "mean", True
    try:
        modules = [(str(one["type"]).rpartition(".")[2], str(one["path"])) for one in _list(path)]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error!r}); download it again") from error
    kinds = [kind for kind, _ in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise UserError(
            f"{path}: {', '.join(kinds) or 'nothing'} cannot be loaded; only Transformer, Pooling "
            "and Normalize can, in this order"
        )
    if modules[0][1]:
        raise UserError(f"{path}: the encoder lies in {modules[0][1]}; put it into {folder} itself")
    return _pooling(folder / modules[1][1] / "config.json", width), len(kinds) == 3


def _list(path: Path) -> list[dict]:
    found = json.loads(path.read_bytes())
    if not isinstance(found, list):
        raise TypeError("it is no list")
    return found


def _pooling(path: Path, width: int) -> Pooling:
    """What `N_Pooling/config.json` says, in its older form (a flag each) or as one name."""
    if not path.is_file():
        raise UserError(f"{path} is missing; download it: it says how tokens become a vector")
    keys = Keys(read_json(path), str(path))
    for key in ("word_embedding_dimension", "embedding_dimension"):
        if (size := keys.take(key, int, width)) != width:
            keys.refuse(key, size, f"the encoder's vectors have {width} numbers")
    if not keys.take("include_prompt", bool, True):
        keys.refuse("include_prompt", False, "only true can")
    chosen = [keys.take("pooling_mode", str)] if "pooling_mode" in keys.left else []
    prefix = "pooling_mode_"
    for key in [key for key in keys.left if key.startswith(prefix)]:
        if keys.take(key, bool):
            chosen.append(POOLINGS.get(key.removeprefix(prefix), key.removeprefix(prefix)))
    keys.finish()
    if len(chosen) != 1 or chosen[0] not in POOLINGS.values():
        raise UserError(
            f"{path}: pooling by {' and '.join(chosen) or 'nothing'} cannot be loaded; only by "
            f"{' or '.join(POOLINGS)} can"
        )
    return chosen[0]


def _reading(folder: Path, context: int) -> tuple[int, bool]:
    """How many tokens are read of a text, and whether it is written small before."""
    path = folder / SENTENCE
    longest, lowercase = None, False
    if path.is_file():
        keys = Keys(read_json(path), str(path))
        longest = keys.take("max_seq_length", int, context)
        lowercase = keys.take("do_lower_case", bool, False)
        keys.finish()
        if not 3 <= longest <= context:
            keys.refuse("max_seq_length", longest, f"it must be 3 to {context}")
    else:
        path = folder / "tokenizer_config.json"
        said = read_json(path).get("model_max_length") if path.is_file() else None
        fits = isinstance(said, int) and 3 <= said <= context
        longest = said if fits else context
    return longest, lowercase


def _refuse_prompt(folder: Path) -> None:
    """Words that would stand before every text are not put there, and so refused."""
    path = folder / PROMPTS
    theirs = read_json(path) if path.is_file() else {}
    name = theirs.get("default_prompt_name")
    if name is not None:
        raise UserError(
            f"{path}: default_prompt_name is {name!r}, which cannot be loaded; set it to null and "
            "put its words before your texts"
        )
