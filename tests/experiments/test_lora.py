"""The stages with adapters: `--lora.rank` from finetuning to PPO, on one frozen backbone."""

import dataclasses
import gc
import json
import shutil
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import convert, ppo, reward, sft
from gpt_jax.errors import UserError
from gpt_jax.generate import Sampling
from gpt_jax.metrics import read_metrics
from gpt_jax.models.heads import axes_of
from gpt_jax.models.lora import LoraConfig, attach, merge
from gpt_jax.models.quantized import dequantize, keep_as
from gpt_jax.train import checkpoint, command, launch
from gpt_jax.train.adapters import read_adapter_file
from gpt_jax.train.origin import backbone_of, load_model, load_params
from gpt_jax.train.served import open_run
from tests.experiments.test_origin import ROPE, export

pytestmark = pytest.mark.slow  # three stages first
MODEL = dataclasses.replace(ROPE, width=32)
LORA = ("--lora.rank=4", "--lora.alpha=8")
STEPS = {"sft": 4, "reward": 2, "ppo": 2}


@pytest.fixture(scope="module", autouse=True)
def data(tmp_path_factory):
    """A few rows of each kind, so that little is laid out."""
    folder = tmp_path_factory.mktemp("data")
    ask = [f"What is {a} plus {b}?" for a in range(8) for b in range(8)]
    rows = {
        "demonstrations": [{"prompt": q, "completion": f"It is {len(q)}."} for q in ask],
        "comparisons": [{"prompt": q, "chosen": "It is 7.", "rejected": "Who?"} for q in ask],
        "prompts": [{"prompt": q} for q in ask],
    }
    for kind, some in rows.items():
        (folder / f"{kind}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
        SMALL.append(f"--data.{kind}={folder}/{kind}.jsonl")
    yield
    del SMALL[1:]


SMALL = ["--context=96"]


def run(module, folder, *options, mesh=("--mesh.data=1",)):
    """A few steps of a stage, in a folder called as it is."""
    name = module.__name__.rpartition(".")[2]
    steps = (f"--{name}.train.steps={STEPS[name]}", f"--{name}.train.checkpoint-every=2")
    options = ("--preset=smoke", *mesh, *SMALL, *steps, f"--run-dir={folder}", *options)
    module.main(command.parse(list(options), module.presets, ""))
    return str(folder)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data):
    """A backbone from elsewhere, and on it three stages with adapters."""
    folder = tmp_path_factory.mktemp("lora")
    base = export(folder / "base", MODEL)
    tuned = run(sft, folder / "sft", f"--init-from={base}", *LORA)
    judge = run(reward, folder / "reward", f"--init-from={tuned}", *LORA)
    run(ppo, folder / "ppo", f"--init-from={tuned}", f"--reward-from={judge}", *LORA)
    return folder


def of_ppo(runs, *options):
    return f"--init-from={runs}/sft", f"--reward-from={runs}/reward", *options


def test_checkpoints_hold_adapters_alone_and_name_their_backbone(runs):
    """Break it: write what is frozen into the state."""
    for stage, head in (("sft", 0), ("reward", 3), ("ppo", 3)):
        shapes = checkpoint.param_shapes_in(runs / stage)
        adapters = {name for name in shapes if name.endswith(("/a", "/b"))}
        assert len(shapes) - len(adapters) == head
        assert all(4 in shapes[name] for name in adapters), "the rank"
        found = read_adapter_file(runs / stage)
        assert found.lora == LoraConfig(rank=4, alpha=8.0) and found.frozen_dtype is None
        assert found[1:3] == backbone_of(str(runs / "base")), "of all stages the same"


def test_what_is_served_is_the_merged_model(runs, tmp_path):
    """By chat, evaluation and export alike. Break it: forget the scale in `origin._merged`."""
    model, params, _ = load_model(runs / "ppo")
    raw = checkpoint.load_params(runs / "ppo", part="policy")["lora"]
    base = load_params(runs / "base")
    chex.assert_trees_all_close(params, merge(attach(base, raw, 2.0)), rtol=1e-6)
    assert np.any(params["blocks"]["mlp"]["up"] != base["blocks"]["mlp"]["up"])
    chex.assert_trees_all_equal(params["embed"], base["embed"])
    scorer = load_params(runs / "reward")
    assert scorer["head"].keys() == {"kernel_D", "bias", "likelihood"}
    asked, how = [[{"role": "user", "content": "Who are you?"}]], Sampling(max_new_tokens=4)
    convert.main(str(runs / "ppo"), tmp_path / "whole")
    convert.main(str(runs / "ppo"), tmp_path / "peft", adapters=str(runs / "base"))
    answers = [open_run(place).complete(asked, how)[0].tokens for place in (
        runs / "ppo", tmp_path / "whole", tmp_path / "peft"
    )]  # fmt: skip
    assert answers[0] == answers[1] == answers[2] and model.context_length == 96
    with pytest.raises(UserError, match="holds a whole model, no adapters|no such run folder"):
        convert.main(str(runs / "base"), tmp_path / "none", adapters="x")
    with pytest.raises(UserError, match="is a reward model, whose head peft has no place for"):
        convert.main(str(runs / "reward"), tmp_path / "none", adapters=str(runs / "base"))


def test_ppo_begins_at_the_finetuned_model(runs):
    """Invariant 3: policy and reference are the same adapters on the same weights."""
    (first, *_) = read_metrics(runs / "ppo")
    assert abs(first["objective/kl"]) < 1e-6
    assert first["val/sampler_logprob_gap"] < 1e-5
    assert np.isfinite(first["objective/scores"])


def embeddings():
    """How many embeddings of this model are alive: one for each copy of its weights."""
    gc.collect()
    return sum(x.shape == (300, 32) for x in jax.live_arrays() if not x.is_deleted())


@pytest.fixture
def held(monkeypatch):
    """What a stage holds when its first step would begin, in place of running it."""
    found = {}

    def look(run, stage, state, frozen, mesh):
        found["embeddings"], found["state"], found["frozen"] = embeddings(), state, frozen

    monkeypatch.setattr(launch, "fit", look)
    return found


def sizes(tree):
    return sum(x.nbytes for x in jax.tree.leaves(tree))


def test_ppo_holds_one_copy_of_the_weights(runs, tmp_path, held):
    """Policy, reference, value and reward model: from the live arrays. Without adapters there are
    three and their moments. Break it: load the reward model as whole weights."""
    before = embeddings()
    run(ppo, tmp_path / "ppo", *of_ppo(runs, *LORA))
    assert held["embeddings"] - before == 1
    backbone = sizes(held["frozen"]["backbone"])
    assert backbone == sizes(load_params(runs / "base"))
    rest = sizes(held["frozen"]) - backbone
    adapters = sizes(held["state"].params["policy"])
    assert rest == pytest.approx(2 * adapters, rel=0.01), "of reference and reward model"
    # Policy and value model, each with two moments.
    assert sizes(held["state"]) == pytest.approx(2 * 3 * adapters, rel=0.01)
    held.clear()
    whole = [f"--init-from={runs}/sft", f"--reward-from={runs}/reward"]
    run(ppo, tmp_path / "whole", *whole)
    assert held["embeddings"] - before >= 4


def test_a_whole_reward_model_is_a_second_one_and_said(runs, tmp_path, held, capsys):
    """The value model is adapters on it, and begins as it."""
    judge = export(tmp_path / "judge", MODEL, scorer=True)
    before = embeddings()
    run(ppo, tmp_path / "ppo", f"--init-from={runs}/sft", f"--reward-from={judge}", *LORA)
    assert "judge is no adapter on the policy's backbone" in capsys.readouterr().out
    assert held["embeddings"] - before == 2
    value = held["state"].params["value"]
    assert value["backbone"].keys() == {"lora_on_reward"}
    assert not np.any(value["backbone"]["lora_on_reward"]["blocks"]["mlp"]["up"]["b"])
    chex.assert_trees_all_equal(value["head"], held["frozen"]["reward"]["head"])


def test_later_rounds_go_on_from_the_policy(runs, tmp_path, held):
    run(ppo, tmp_path / "ppo", *of_ppo(runs, *LORA, f"--policy-from={runs}/ppo"))
    last = checkpoint.load_params(runs / "ppo", part="policy")
    chex.assert_trees_all_equal(held["state"].params["policy"], last)
    first = checkpoint.load_params(runs / "sft")
    chex.assert_trees_all_equal(held["frozen"]["reference"], first)


def test_a_stopped_run_goes_on_bitwise(runs, tmp_path):
    """Invariant 6, with adapters. Break it: draw A from another key than the seed's."""
    folder = tmp_path / "sft"
    shutil.copytree(runs / "sft", folder)
    shutil.rmtree(checkpoint.newest_checkpoint(folder))  # back to step 2 of 4
    (folder / "finished").unlink()
    run(sft, folder, f"--init-from={runs}/base", *LORA)
    ours, theirs = (checkpoint.load_params(f) for f in (folder, runs / "sft"))
    chex.assert_trees_all_equal(ours, theirs)


def test_ppo_goes_on_bitwise(runs, tmp_path):
    folder = tmp_path / "ppo"
    run(ppo, folder, *of_ppo(runs, *LORA, "--ppo.train.checkpoint-every=1"))
    chex.assert_trees_all_equal(*(checkpoint.load_params(f) for f in (folder, runs / "ppo")))
    shutil.rmtree(checkpoint.newest_checkpoint(folder))
    (folder / "finished").unlink()
    run(ppo, folder, *of_ppo(runs, *LORA, "--ppo.train.checkpoint-every=1"))
    chex.assert_trees_all_equal(*(checkpoint.load_params(f) for f in (folder, runs / "ppo")))


def test_eight_devices_learn_what_one_does(runs, tmp_path):
    """Invariant 5: adapters are split over fsdp and tensor as their kernels are."""
    mesh = ("--mesh.data=2", "--mesh.fsdp=2", "--mesh.tensor=2")
    run(sft, tmp_path / "sft", f"--init-from={runs}/base", *LORA, mesh=mesh)
    ours, theirs = (checkpoint.load_params(f) for f in (tmp_path / "sft", runs / "sft"))
    chex.assert_trees_all_close(ours, theirs, atol=2e-4)


def test_a_backbone_in_blocks(runs, tmp_path):
    """What is served is what was learned: adapters on the weights in blocks."""
    small = "--frozen-dtype=int4"
    folder = Path(run(sft, tmp_path / "sft", f"--init-from={runs}/base", *LORA, small))
    found, base = load_params(folder), load_params(runs / "base")
    kept = dequantize(keep_as(base, axes_of(MODEL), "int4"))
    raw = checkpoint.load_params(folder)["lora"]
    chex.assert_trees_all_close(found, merge(attach(kept, raw, 2.0)), rtol=1e-5, atol=1e-6)
    assert jnp.any(kept["embed"]["tokens"] != base["embed"]["tokens"])


@pytest.mark.parametrize("dtype", ["bfloat16", "int8", "int4"])
def test_ppo_on_a_small_backbone(runs, tmp_path, dtype):
    run(ppo, tmp_path / "ppo", *of_ppo(runs, *LORA, f"--frozen-dtype={dtype}"))
    assert abs(read_metrics(tmp_path / "ppo")[0]["objective/kl"]) < 1e-5


def test_all_weights_go_on_from_adapters(runs, tmp_path, held):
    """Without `--lora.rank` a later stage learns all weights of the merged model."""
    run(reward, tmp_path / "reward", f"--init-from={runs}/sft")
    chex.assert_trees_all_equal(held["state"].params["backbone"], load_params(runs / "sft"))
    assert held["frozen"] == {} and not (tmp_path / "reward" / "adapter.json").exists()


def test_what_cannot_go_on_is_said_first(runs, tmp_path):
    none = tmp_path / "none"
    init, rank = f"--init-from={runs}/sft", "--lora.rank=4"
    for options, sentence in (
        ([init, "--lora.rank=8"], "adapters with lora.rank 4, .* give --lora.rank 4"),
        ([init, rank, "--lora.alpha=7"], "adapters with lora.alpha 8.0"),
        ([f"--init-from={runs}/base", "--lora.rank=99"], "--lora.rank 99 is more than the rank"),
        ([f"--init-from={runs}/base", "--frozen-dtype=int8"], "none are frozen here"),
        ([f"--init-from={runs}/base", rank, "--template=llama3"], "tokens that are new to"),
    ):
        with pytest.raises(UserError, match=sentence):
            run(sft, none, *options)
    with pytest.raises(UserError, match="read by every update"):
        run(ppo, none, *of_ppo(runs, *LORA, "--ppo.offload-frozen"))
    with pytest.raises(UserError, match="holds PPO's policy and value model"):
        run(sft, none, f"--init-from={runs}/ppo")
    assert not none.exists()


def test_a_changed_or_missing_backbone_is_said(runs, tmp_path):
    """Break it: do not compare the fingerprint in `backbone_of`."""
    folder = tmp_path / "moved"
    shutil.copytree(runs, folder)
    chex.assert_trees_all_equal(load_params(folder / "sft"), load_params(runs / "sft"))
    assert backbone_of(folder / "sft").where == str(folder / "base"), "both can be moved together"
    shutil.rmtree(folder / "base")
    export(folder / "base", MODEL, seed=3)
    for use in (load_params, open_run):
        with pytest.raises(UserError, match="sft holds adapters, .*base; that has changed since"):
            use(folder / "sft")
    shutil.rmtree(folder / "base")
    path = folder / "sft" / "adapter.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"backbone": "gone"}))
    with pytest.raises(UserError, match="stand on gone; that cannot be read"):
        load_params(folder / "sft")
    path.write_text("{}")
    with pytest.raises(UserError, match="adapter.json is damaged"):
        load_params(folder / "sft")
