"""A little BERT of random numbers, as a folder that sentence-transformers would read."""

import json
import string
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors

CONFIG = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "vocab_size": 64,
    "max_position_embeddings": 48,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "position_embedding_type": "absolute",
    "pad_token_id": 0,
}
MODULES = ("Transformer", "Pooling", "Normalize")
DENSE = {  # [out, in]
    "attention.self.query": (16, 16),
    "attention.self.key": (16, 16),
    "attention.self.value": (16, 16),
    "attention.output.dense": (16, 16),
    "intermediate.dense": (24, 16),
    "output.dense": (16, 24),
}


def tensors(seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights by BERT's names."""
    rng = np.random.default_rng(seed)
    shapes = {
        "embeddings.word_embeddings.weight": (64, 16),
        "embeddings.position_embeddings.weight": (48, 16),
        "embeddings.token_type_embeddings.weight": (2, 16),
        "pooler.dense.weight": (16, 16),
        "pooler.dense.bias": (16,),
    }
    norms = ["embeddings.LayerNorm"]
    for layer in range(2):
        at = f"encoder.layer.{layer}."
        for name, shape in DENSE.items():
            shapes |= {f"{at}{name}.weight": shape, f"{at}{name}.bias": shape[:1]}
        norms += [f"{at}attention.output.LayerNorm", f"{at}output.LayerNorm"]
    found = {name: rng.normal(0, 0.5, shape) for name, shape in shapes.items()}
    for name in norms:
        found |= {f"{name}.weight": rng.normal(1, 0.2, 16), f"{name}.bias": rng.normal(0, 0.2, 16)}
    return {name: array.astype(np.float32) for name, array in found.items()}


def tokenizer() -> tokenizers.Tokenizer:
    """WordPiece over letters, which cuts and pads, as such files often say."""
    letters = [*string.ascii_lowercase, *(f"##{c}" for c in string.ascii_lowercase)]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, "cat", "##s"]
    vocab = {word: i for i, word in enumerate(dict.fromkeys(words))}
    found = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    found.add_special_tokens(words[:4])
    found.normalizer = normalizers.BertNormalizer()
    found.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    found.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    found.enable_truncation(8)
    found.enable_padding(length=8)
    return found


def write(
    folder: Path,
    weights: dict[str, np.ndarray] | None = None,
    config: dict | None = None,
    modules: tuple[str, ...] | None = MODULES,
    pooling: dict | None = None,
    sentence: dict | None = None,
) -> Path:
    """The folder; what is not given is as in all-MiniLM-L6-v2, but small."""
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG if config is None else config))
    tokenizer().save(str(folder / "tokenizer.json"))
    write_safetensors(folder / "model.safetensors", tensors() if weights is None else weights)
    if modules is None:
        return folder
    paths = ["", "1_Pooling", "2_Normalize", "3_More"]
    listed = [
        {"type": f"sentence_transformers.models.{kind}", "path": path}
        for kind, path in zip(modules, paths, strict=False)
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    pooling = {"word_embedding_dimension": 16, **(pooling or {"pooling_mode_mean_tokens": True})}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    said = {"max_seq_length": 24, "do_lower_case": False} if sentence is None else sentence
    (folder / "sentence_bert_config.json").write_text(json.dumps(said))
    return folder


def write_safetensors(path: Path, weights: dict[str, np.ndarray]) -> None:
    header, data = {}, b""
    for name, array in weights.items():
        ends = [len(data), len(data) + array.nbytes]
        kind = {"float32": "F32", "int64": "I64"}[str(array.dtype)]
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": ends}
        data += array.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
