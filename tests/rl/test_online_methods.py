"""What must hold for every method that learns from its own samples, and has no value model."""

import functools

import chex
import jax
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_jax.data import pipeline
from gpt_jax.errors import UserError
from gpt_jax.metrics import mean
from gpt_jax.models.heads import axes_of
from gpt_jax.parallel.mesh import MeshConfig, make_mesh
from gpt_jax.rl.critic_free import init_state
from gpt_jax.rl.iteration import Inputs, learn, make_iteration
from gpt_jax.rl.online_dpo import OnlineDPOConfig
from gpt_jax.rl.rejection import RejectionConfig
from gpt_jax.rl.rewards import DeviceReward
from gpt_jax.train import state as states
from gpt_jax.train.optim import OptimizerConfig, make_optimizer
from tests import tiny
from tests.rl import methods

ADAM = OptimizerConfig(learning_rate=3e-2, weight_decay=0.0)
OPTIMIZER = make_optimizer(ADAM, 100, axes_of(methods.MODEL))
SGD = optax.sgd(0.1)
REFERENCE = {"reference": methods.params(3)}
MOVED = {"policy": jax.tree.map(lambda p, q: p + 0.1 * q, methods.params(), methods.params(2))}


@functools.cache
def measuring(name):
    return jax.jit(functools.partial(methods.measure, methods.algorithm(name)))


@functools.cache
def expected(name):
    return jax.device_get(measuring(name)(MOVED, (methods.rollout(), scores(name)), REFERENCE))


def scores(name):
    """Where the best completion is learned, the first of equals is, whatever the order."""
    return methods.scores(ties=name != "rejection")


def assert_same(ours, theirs):
    """Metrics and losses as means, gradients divided alike."""
    for a, b in zip(ours[1:], theirs[1:], strict=True):
        chex.assert_trees_all_close(a[3], b[3], atol=3e-5 * float(a[1]))
        means = [
            mean({"loss": of[:2]} | of[2] | first) for of, first in ((a, ours[0]), (b, theirs[0]))
        ]
        assert means[0] == pytest.approx(means[1], rel=1e-4, abs=1e-5, nan_ok=True)


@pytest.mark.parametrize("name", methods.METHODS)
def test_how_rows_are_divided_changes_nothing(name):
    """Invariant 5: two minibatches add up to the whole, and are half of what is learned from."""
    metrics, whole, halves = expected(name)
    assert_same((metrics, whole), (metrics, halves))
    assert any(np.any(leaf) for leaf in jax.tree.leaves(whole[3]))


@pytest.mark.parametrize("name", methods.METHODS)
@settings(max_examples=5, deadline=None)
@given(st.permutations(range(4)), st.permutations(range(4)), st.sampled_from([0, 7]))
def test_padding_and_order_change_nothing(name, order, within, padding):
    """Invariant 1: wider prompts; groups in another order, and rows within each."""
    rows = np.add.outer(4 * np.array(order), within).reshape(-1)
    rollout = jax.tree.map(lambda x: x[rows], methods.rollout(12 + padding))
    found = measuring(name)(MOVED, (rollout, scores(name)[rows]), REFERENCE)
    assert_same(jax.device_get(found), expected(name))


@pytest.mark.parametrize("name", methods.METHODS)
def test_eight_devices_change_nothing(name):
    """Invariant 5: two rows on each, so that every group lies on two devices; the halves have less
    than one. Break it: let `whole_if_uneven` give all rows back as they are, and the gradient of
    token 0 is that of XLA's fillings."""
    mesh = make_mesh(MeshConfig(data=8))
    with jax.set_mesh(mesh):
        rollout = pipeline.place(methods.rollout(), mesh)
        (scores_B,) = pipeline.place({"scores_B": scores(name)}, mesh).values()
        found = measuring(name)(MOVED, (rollout, scores_B), REFERENCE)
    assert_same(jax.device_get(found), expected(name))


@pytest.mark.parametrize("name", methods.WITH_RATIO)
def test_the_first_minibatch_is_on_policy(name):
    """Invariant 3. Break the temperature of any of the three `completion_logprobs` calls."""
    method = methods.algorithm(name, temperature=0.7)
    policy = methods.params()
    given = (methods.rollout(), methods.scores())
    start, (*_, first, _), _ = jax.jit(functools.partial(methods.measure, method))(
        {"policy": policy}, given, {"reference": policy}
    )
    start, first = mean(start), mean(first)
    assert first["val/ratio"] == pytest.approx(1, abs=1e-6)
    assert first["policy/approxkl_avg"] == pytest.approx(0, abs=1e-10)
    assert first["policy/clipfrac_avg"] == 0
    for metric in ("kl/k1", "kl/k2", "kl/k3", "objective/kl", "objective/non_score_reward"):
        assert start[metric] == pytest.approx(0, abs=1e-6)
    assert first.get("loss/kl_avg", 0.0) == pytest.approx(0, abs=1e-10)
    if "zero_std" in "".join(start):
        assert start["val/zero_std_groups"] == 1


def test_pairs_begin_without_a_margin():
    """Invariant 3 where there is no ratio: what samples is the reference, and the loss log 2."""
    same = {"policy": methods.params()}, {"reference": methods.params()}
    given = (methods.rollout(), methods.scores())
    _, (_, count, metrics, _), _ = measuring("online dpo")(same[0], given, same[1])
    found = mean(jax.device_get(metrics))
    assert found["loss"] == pytest.approx(np.log(2), rel=1e-6)
    assert found["margin"] == pytest.approx(0, abs=1e-6)
    assert float(count) == 3, "the pair of equal scores is not one"


@pytest.mark.parametrize("name", ["grpo", "rloo", "reinforce++", "rejection", "online dpo"])
def test_every_method_learns_a_rule(name):
    """Rewarding one token makes that token frequent: the sign of every term is right."""
    method = methods.algorithm(name)

    def wants_token_nine(_, rollout):
        hits = (rollout.completion_BC.ids == 9) * rollout.mask_BC
        return hits.sum(1) / rollout.mask_BC.sum(1)

    step = make_iteration(method, OPTIMIZER, DeviceReward(wants_token_nine))
    state, scores = init_state(method.config, OPTIMIZER, 0, methods.params()), []
    for _ in range(40):
        frozen = {"reference": methods.params(), "reward": ()}
        state, metrics = step(state, Inputs(methods.prompts()), frozen)
        scores.append(mean(jax.device_get(metrics))["objective/scores"])
    assert np.mean(scores[-5:]) > np.mean(scores[:5]) + 0.15


def test_updates_of_fewer_rows_than_devices():
    """Invariant 5: minibatches of two kept completions on eight devices."""
    method = methods.algorithm("rejection")

    def params_after(mesh):
        with jax.set_mesh(mesh):
            rollout = pipeline.place(methods.rollout(), mesh)
            (scores_B,) = pipeline.place({"scores_B": scores("rejection")}, mesh).values()
            state = init_state(method.config, SGD, 0, methods.params())
            step = jax.jit(functools.partial(learn, method, SGD))
            return jax.device_get(step(state, (rollout, scores_B, None), REFERENCE)[0].params)

    one, eight = (params_after(make_mesh(MeshConfig(data=n))) for n in (1, 8))
    chex.assert_trees_all_close(one, eight, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["grpo", "reinforce++", "rejection", "online dpo"])
def test_a_whole_iteration_on_a_mesh(name):
    """Invariant 5: rollout, scores and updates, with parameters that are split."""
    method = methods.algorithm(name, tiny.MODEL)
    adam = OptimizerConfig(learning_rate=1e-3, weight_decay=0.0, eps=1e-5)
    optimizer = make_optimizer(adam, 100, tiny.AXES)
    reward = DeviceReward(lambda _, rollout: (rollout.completion_BC.ids * rollout.mask_BC).sum(1))

    def metrics_of(mesh):
        with jax.set_mesh(mesh):
            policy = states.create(tiny.params, mesh=mesh, axes=tiny.AXES)
            init = functools.partial(init_state, method.config, optimizer)
            state = states.create(init, np.uint32(0), policy, mesh=mesh, axes=tiny.AXES)
            prompts = pipeline.place(methods.prompts(), mesh)
            iteration = make_iteration(method, optimizer, reward)
            for _ in range(2):
                frozen = {"reference": policy, "reward": ()}
                state, metrics = iteration(state, Inputs(prompts), frozen)
            return mean(jax.device_get(metrics))

    one = metrics_of(make_mesh(MeshConfig(data=1)))
    eight = metrics_of(make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)))
    assert one == pytest.approx(eight, rel=1e-3, abs=1e-4)


def test_defaults_are_those_of_the_papers():
    """See the configurations."""
    grpo, rloo = methods.GRPO, methods.METHODS["rloo"][1]
    assert (grpo.scale, grpo.ratio, grpo.average, grpo.kl_in) == (
        *("std", "token", "sequences", "loss"),
    )
    assert (grpo.clip, grpo.clip_high, type(grpo)().kl_coef) == (0.2, 0.2, 0.04)
    assert (rloo.level, rloo.clip, type(rloo)().group) == ("sequence", 0.2, 4)
    assert methods.METHODS["dapo"][1].clip_high == 0.28
    gspo = methods.METHODS["gspo"][1]
    assert (gspo.ratio, gspo.clip, gspo.clip_high) == ("geometric", 3e-4, 4e-4)
    with pytest.raises(UserError, match="4 minibatches do not divide 2 pairs"):
        OnlineDPOConfig(episodes=4, minibatches=4)
    with pytest.raises(UserError, match="3 minibatches do not divide 4 kept completions"):
        RejectionConfig(episodes=12, minibatches=3, group=3)
    with pytest.raises(UserError, match="give round_length"):
        RejectionConfig(staleness=1)


def test_no_value_model_is_held():
    for name in methods.METHODS:
        state = init_state(methods.algorithm(name).config, OPTIMIZER, 0, methods.params())
        assert state.params.keys() == {"policy"}
