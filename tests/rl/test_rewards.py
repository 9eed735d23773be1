"""Rewards that lie, rows that are left out, and reward models that are not shaped like the policy.

`tests/rl/test_ppo.py` has the iteration that they are part of.
"""

import dataclasses
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import ppo as experiment
from gpt_jax.data.batches import Tokens
from gpt_jax.data.config import DataConfig
from gpt_jax.data.left_out import LeftOut
from gpt_jax.data.packing import pad_prompt_records
from gpt_jax.errors import UserError
from gpt_jax.generate.sampler import Rollout
from gpt_jax.metrics import mean, read_metrics
from gpt_jax.models.config import ModelConfig
from gpt_jax.models.contract import init
from gpt_jax.models.heads import axes_of, init_scorer
from gpt_jax.parallel.mesh import MeshConfig, make_mesh
from gpt_jax.parallel.offload import HOST, check_offload, to_host
from gpt_jax.rl.actor_critic import ActorCritic, PPOConfig, init_state, ppo
from gpt_jax.rl.iteration import Inputs, final_scores, learn, make_iteration
from gpt_jax.rl.rewards import (
    DeviceReward,
    HostReward,
    model_reward,
    record_reward,
    retokenized_reward,
)
from gpt_jax.tasks import sandbox
from gpt_jax.text import chat
from gpt_jax.text.tokenizer import Tokenizer
from gpt_jax.train import state as states
from gpt_jax.train.checkpoint import Checkpoints, ModelFiles, load_params, save_model_files
from gpt_jax.train.optim import OptimizerConfig, make_optimizer
from gpt_jax.train.state import TrainState
from tests import tiny

TOKENIZER = Tokenizer.train(["yes no maybe who knows"] * 9, 290)
OTHER = Tokenizer.train(["what a strange reply it is, yes"] * 9, 300)
SMALL = ModelConfig(vocab_size=320, context_length=64, width=16, layers=1, heads=2)
WIDE = ModelConfig(vocab_size=320, context_length=64, width=24, layers=2, heads=3)
RECORDS = [
    {"prompt": [{"role": "user", "content": text}]} for text in ("yes", "no no no no", "who", "a")
]


def spoken(texts, stopped):
    """A rollout of NumPy arrays of these completions, one for each of the RECORDS."""
    prompts = pad_prompt_records(RECORDS, TOKENIZER, 24, LeftOut())
    rows = [
        chat.render_completion(text, stop, TOKENIZER)
        for text, stop in zip(texts, stopped, strict=True)
    ]
    shape = (len(rows), max(map(len, rows)))
    ids, positions, segments = (np.zeros(shape, np.int32) for _ in range(3))
    lengths = (prompts.tokens_BP.segment_ids > 0).sum(1)
    for b, row in enumerate(rows):
        ids[b, : len(row)], segments[b, : len(row)] = row, 1
        positions[b, : len(row)] = lengths[b] + np.arange(len(row))
    completion = Tokens(ids, positions, segments)
    stopped_B, logprobs_BC = np.array(stopped), np.zeros(shape, np.float32)
    return Rollout(prompts.tokens_BP, completion, logprobs_BC, stopped_B, prompts.rows_B)


SPOKEN = spoken(["no", "maybe yes no", "who knows", ""], [True, False, True, True])


@pytest.mark.parametrize("lie", [None, float("nan"), float("inf"), 1e39, "a lot", [1.0, 2.0]])
def test_a_score_that_is_no_number_names_its_row(lie, capsys):
    """Break it: let `_number` raise, or drop the line that is printed."""
    rollout = SPOKEN._replace(rows_B=np.array([10, 11, 12, 13]))
    scores = HostReward(lambda rollout: [0.5, 1, lie, np.float64(-2)], name="honest")(rollout)
    np.testing.assert_array_equal(scores, np.float32([0.5, 1, np.nan, -2]))
    assert scores.dtype == np.float32
    said = capsys.readouterr().err
    assert said == (
        f"the reward honest gave {lie!r} for the prompt of row 12: this completion is left out, "
        "as all such are (val/dropped_rows counts them)\n"
    )


def test_a_reward_that_cannot_be_used_is_one_sentence():
    def fails(record, text, stopped):
        return record["answer"]

    for reward, sentence in (
        (HostReward(lambda rollout: [1.0], "short"), "reward short gave 1 scores for 4 comp"),
        (
            record_reward(fails, RECORDS, TOKENIZER),
            "gave none of the 4 .*KeyError: 'answer'",
        ),
    ):
        with pytest.raises(UserError, match=sentence):
            reward(SPOKEN)


def test_rules_see_the_record_and_the_text_without_padding():
    seen = []

    def rule(record, text, stopped):
        seen.append((record, text, stopped))
        return 0.7

    # The second row is of the fourth record.
    rollout = SPOKEN._replace(rows_B=np.array([0, 3, 2, 1]))
    scores = record_reward(rule, RECORDS, TOKENIZER)(rollout)
    np.testing.assert_array_equal(scores, np.float32([0.7] * 4))
    assert seen[0] == (RECORDS[0], "no", True)
    assert seen[1] == (RECORDS[3], "maybe yes no", False)
    assert seen[3] == (RECORDS[1], "", True)


@pytest.mark.parametrize("likelihood", [None, 0.3])
def test_a_reward_that_reads_text_scores_what_one_that_reads_tokens_does(likelihood):
    """Break: leave the stop token out of `Rollout.mask_BT`."""
    params = init(SMALL, jax.random.key(1))
    scorer = init_scorer(SMALL, params, jax.random.key(2), likelihood=likelihood)
    read = retokenized_reward(ModelFiles(SMALL, TOKENIZER), scorer, RECORDS, TOKENIZER)(SPOKEN)
    np.testing.assert_allclose(read, model_reward(SMALL, scorer)(SPOKEN), atol=1e-5)
    other = retokenized_reward(ModelFiles(SMALL, OTHER), scorer, RECORDS, TOKENIZER)(SPOKEN)
    assert np.isfinite(other).all() and np.abs(other - read).max() > 1e-3


def test_not_stopping_never_pays():
    """Whatever the scale of the scores. Break it: give the missing stop a score of its own."""
    config = PPOConfig(episodes=4, minibatches=1)
    assert config.missing_stop_score == -1
    for scale, shift in ((1, 0), (0.1, -30), (5, 100)):
        rng = np.random.default_rng(0)
        scores = np.float32(rng.normal(size=4) * scale + shift)
        scores[2] = np.nan
        rollout = SPOKEN._replace(stopped_B=np.array([True, False, False, False]))
        _, final = final_scores(config, rollout, jnp.asarray(scores))
        average = np.nanmean(scores)
        assert final[0] == scores[0] and final[2] == 0
        for b in (1, 3):
            assert final[b] == pytest.approx(min(scores[b], average) - 1, rel=1e-5)


MODEL = ActorCritic(tiny.MODEL, tiny.MODEL)
CONFIG = PPOConfig(episodes=8, epochs=1, minibatches=1, max_new_tokens=6, kl_coef=0.2)


def random_rollout():
    """Eight rows of random tokens of the tiny model's vocabulary."""
    rng = np.random.default_rng(0)
    prompts = tiny.prompts(rng, 8, 12)
    lengths = rng.integers(1, 7, 8)
    segments = (np.arange(6) < lengths[:, None]).astype(np.int32)
    starts = (prompts.tokens_BP.segment_ids > 0).sum(1)
    completion = Tokens(
        rng.integers(5, 32, (8, 6)).astype(np.int32) * segments,
        (starts[:, None] + np.arange(6)).astype(np.int32) * segments,
        segments,
    )
    logprobs_BC = np.zeros((8, 6), np.float32)
    stopped_B = rng.random(8) < 0.7
    return Rollout(prompts.tokens_BP, completion, logprobs_BC, stopped_B, prompts.rows_B)


def test_a_row_left_out_is_as_if_it_had_not_been_sampled():
    """Break `drop_rows`, or let the dropped row's 0 into the mean of the scores."""
    policy, scorer = tiny.params(), init_scorer(tiny.MODEL, tiny.params(seed=1), jax.random.key(2))
    frozen = {"reference": tiny.params(seed=3)}
    optimizer = optax.sgd(0.1)
    rollout = random_rollout()
    scores = np.linspace(-3, 2, 8, dtype=np.float32)
    scores[3] = np.nan

    def learned(rollout, scores):
        config = dataclasses.replace(CONFIG, episodes=len(scores))
        state = init_state(config, MODEL, optimizer, 0, policy, scorer)
        scored = (rollout, jnp.asarray(scores), None)
        state, metrics = jax.jit(
            lambda state: learn(ppo(config, MODEL, tiny.ENDS), optimizer, state, scored, frozen)
        )(state)
        return state.params, mean(jax.device_get(metrics))

    params, metrics = learned(rollout, scores)
    fewer = jax.tree.map(lambda x: np.delete(x, 3, axis=0), rollout)
    expected, without = learned(fewer, np.delete(scores, 3))
    chex.assert_trees_all_close(params, expected, atol=1e-5)
    assert metrics.pop("val/dropped_rows") == 1 and without.pop("val/dropped_rows") == 0
    metrics.pop("episode"), without.pop("episode")
    assert metrics == pytest.approx(without, rel=1e-3, abs=1e-5)
    moved = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), params["policy"], policy)
    assert max(jax.tree.leaves(moved)) > 1e-3


@pytest.mark.slow
def test_frozen_parameters_on_the_host_make_the_same_update():
    mesh = make_mesh(MeshConfig(data=1, fsdp=2))
    check_offload(mesh)
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-3, eps=1e-5), 10, axes_of(*MODEL))
    with jax.set_mesh(mesh):
        policy = states.create(tiny.params, mesh=mesh, axes=tiny.AXES)
        scorer = states.create(
            lambda: init_scorer(tiny.MODEL, tiny.params(seed=1), jax.random.key(2)),
            mesh=mesh,
            axes=tiny.AXES,
        )
        frozen, ends = {"reference": policy, "reward": scorer}, []
        for offloaded in (False, True):
            step = make_iteration(
                ppo(CONFIG, MODEL, tiny.ENDS),
                optimizer,
                model_reward(tiny.MODEL, scorer),
                offloaded,
            )
            if offloaded:
                frozen = to_host(frozen)
                kinds = {x.sharding.memory_kind for x in jax.tree.leaves(frozen)}
                assert kinds == {HOST}
            state = init_state(CONFIG, MODEL, optimizer, 0, policy, scorer)
            state, _ = step(state, Inputs(tiny.prompts(np.random.default_rng(0), 8)), frozen)
            ends.append(jax.device_get(state.params))
    chex.assert_trees_all_equal(*ends)


def save_stage(folder, model, tokenizer, params):
    """A stage's folder, as if it had been trained."""
    save_model_files(folder, model, tokenizer)
    checkpoints = Checkpoints(folder)
    checkpoints.save(1, TrainState.create(params, optax.identity()))
    checkpoints.close()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A finetuned model, reward models of another shape and of another tokenizer, and prompts."""
    root = tmp_path_factory.mktemp("stages")
    save_stage(root / "sft", SMALL, TOKENIZER, init(SMALL, jax.random.key(0)))
    for name, tokenizer in (("shape", TOKENIZER), ("tokenizer", OTHER)):
        scorer = init_scorer(WIDE, init(WIDE, jax.random.key(1)), jax.random.key(2))
        save_stage(root / name, WIDE, tokenizer, scorer)
    rows = (json.dumps({"prompt": f"who knows {n}"}) for n in range(80))
    (root / "prompts.jsonl").write_text("\n".join(rows) + "\n")
    return root


def train(folders, run_dir, reward_from, reward=None, reward_spec=None, **more):
    smoke = experiment.smoke().ppo
    steps = dataclasses.replace(smoke.train, steps=2)
    config = experiment.Config(
        preset="smoke",
        mesh=MeshConfig(data=1),
        data=DataConfig(prompts=f"{folders}/prompts.jsonl"),
        run_dir=str(run_dir),
        init_from=f"{folders}/sft",
        **({"reward_from": f"{folders}/{reward_from}"} if reward_from else {}),
        reward=reward_spec,
        **more,
        ppo=dataclasses.replace(smoke, train=steps),
    )
    experiment.main(config, reward=reward)
    rows = read_metrics(run_dir)
    assert [row["step"] for row in rows] == [1, 2]
    assert all(np.isfinite(row["objective/scores"]) and not row["skipped"] for row in rows)
    return load_params(run_dir)


@pytest.mark.slow
def test_a_reward_model_of_another_shape(folders, tmp_path):
    """The value model starts as it, and so has its shape."""
    params = train(folders, tmp_path, "shape")
    assert params["policy"]["final_norm"]["scale"].shape == (16,)
    assert params["value"]["backbone"]["final_norm"]["scale"].shape == (24,)


@pytest.mark.slow
def test_a_reward_model_with_another_tokenizer(folders, tmp_path):
    """It is refused before anything is written, unless it may read the text."""
    with pytest.raises(UserError, match="another tokenizer than the policy.*--retokenize"):
        train(folders, tmp_path / "run", "tokenizer")
    assert not (tmp_path / "run").exists()
    params = train(folders, tmp_path / "run", "tokenizer", retokenize=True)
    assert params["value"]["backbone"]["final_norm"]["scale"].shape == (16,)


def test_a_weighted_sum_of_models_and_rules(folders, tmp_path, capfd):
    """A rule that now and then raises costs rows, which are counted, and not the run."""
    model, odd = f"model:{folders}/shape", "tests.rl.test_workers:raises_on_odd"
    spec = f"0.5*{model} - 0.1*variance({model}, model:{folders}/tokenizer) + {odd}"
    params = train(folders, tmp_path, None, reward_spec=spec, retokenize=True)
    # The value model starts as the first reward model.
    assert params["value"]["backbone"]["final_norm"]["scale"].shape == (24,)
    rows = read_metrics(tmp_path)
    assert 0 < sum(row["val/dropped_rows"] for row in rows) < 16
    assert {f"objective/scores/{term}" for term in (model, odd)} < rows[0].keys()
    assert capfd.readouterr().err.count(f"the reward {odd} raised ValueError: odd") == 1
    assert json.loads((tmp_path / "inputs.json").read_text()).keys() > {f"the reward {model}"}


@pytest.mark.parametrize(
    "spec, sentence",
    [
        ("model:{}/nowhere + rule:brevity", "nowhere: there is no"),
        ("rule:brevity + 2*model:{}/sft", "sft holds a language model, where a reward model"),
        ("model:{}/shape + model:{}/tokenizer", "has another tokenizer.*--retokenize"),
        ("verifier:gsm8k", "the prompt of row 0 has no `answer`"),
        ("rule:refusal", "the prompt of row 0 has no `refuse`"),
        ("task:microworld", "the prompt of row 0 is no question of microworld"),
        ("verifier:tests(60)", "may take 61 s for a row by itself; give more --rule-seconds"),
    ],
)
def test_a_reward_is_looked_at_before_the_first_step(folders, tmp_path, spec, sentence):
    """Invariant 13. Break it: load models, or read records, when they are first asked for."""
    if "tests(" in spec and None in sandbox.protections().values():
        pytest.skip("this machine cannot confine what is run")
    with pytest.raises(UserError, match=sentence):
        train(folders, tmp_path / "run", None, reward_spec=spec.replace("{}", str(folders)))
    assert not (tmp_path / "run").exists()


def test_a_reward_of_ones_own_needs_no_reward_model(folders, tmp_path):
    train(folders, tmp_path, "nowhere", reward=lambda rollout: rollout.mask_BC.sum(1))


def rollout_of(rows):
    """As much of a rollout as a reward that looks at nothing needs."""
    return Rollout(None, None, None, stopped_B=np.ones(rows, bool), rows_B=np.arange(rows))


@pytest.mark.parametrize(
    "found",
    [{0: 1.0, 1: 2.0}, {1.0, 2.0}, "12", b"12", np.ones((2, 1)), np.float32(1.0), 3],
    ids=["mapping", "set", "string", "bytes", "column", "scalar", "number"],
)
def test_what_is_no_list_of_numbers_is_no_reward(found):
    """Break it: take `list` of whatever a reward gives."""
    with pytest.raises(UserError, match="the reward odd failed: TypeError"):
        HostReward(lambda rollout: found, "odd")(rollout_of(2))


def test_an_integer_too_large_for_a_float_leaves_its_row_out(capsys):
    scores_B = HostReward(lambda rollout: [10**400, 1.0], "large")(rollout_of(2))
    assert np.isnan(scores_B[0]) and scores_B[1] == 1.0
    assert "row 0: this completion is left out" in capsys.readouterr().err


@pytest.mark.parametrize("shape", [(), (2, 1), (3,)])
def test_a_compiled_reward_of_another_shape_is_one_sentence(shape):
    """Break it: trace `reward.score`, which nobody looks at."""
    with pytest.raises(UserError, match=r"for 2 completions; it must give one number for each"):
        DeviceReward(lambda params, rollout: jnp.zeros(shape))(rollout_of(2))
    assert DeviceReward(lambda params, rollout: [1, 2])(rollout_of(2)).dtype == jnp.float32
