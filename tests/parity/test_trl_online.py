"""GRPO and RLOO against TRL's own losses, on the same tensors.

Their trainers' `_compute_loss` is called on a stand-in that has what it reads and no model. Ours is
kept in float32, theirs in float64.
"""

from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

import collections  # noqa: E402

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from trl.trainer.grpo_trainer import GRPOTrainer  # noqa: E402
from trl.trainer.rloo_trainer import RLOOTrainer  # noqa: E402
from trl.trainer.utils import nanstd  # noqa: E402

from gpt_jax.losses.surrogate import Surrogate, surrogate_loss  # noqa: E402
from gpt_jax.rl import kl  # noqa: E402
from gpt_jax.rl.groups import group_advantages, leave_one_out  # noqa: E402

LIMIT, ROWS, GROUP = 11, 12, 4
# (their loss_type, their importance_sampling_level, our ratio, our average). What TRL calls "dapo"
# is the mean over the tokens of the whole generation; over those of one minibatch it is "bnpo".
LOSSES = [
    ("grpo", "token", "token", "sequences"),
    ("bnpo", "token", "token", "tokens"),
    ("dapo", "token", "token", "tokens"),
    ("dr_grpo", "token", "token", "limit"),
    ("grpo", "sequence", "geometric", "sequences"),  # GSPO
]


def tensors(seed=0):
    rng = np.random.default_rng(seed)
    mask = np.arange(LIMIT) < rng.integers(1, LIMIT + 1, ROWS)[:, None]
    old = -rng.exponential(1.0, (ROWS, LIMIT))
    new, reference = old + rng.normal(0, 0.2, (2, ROWS, LIMIT))
    return mask.astype(np.float64), old, new, reference, rng.normal(size=ROWS)


def stand_in(new, **fields):
    """A trainer that has only what its loss reads."""
    accelerator = SimpleNamespace(
        num_processes=1,
        gather=lambda x: x,
        gather_for_metrics=lambda x: x,
        reduce=lambda x, reduction: x,
    )
    defaults = dict(
        accelerator=accelerator,
        args=SimpleNamespace(use_bias_correction_kl=False, delta=None, steps_per_generation=1),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=False,
        model=SimpleNamespace(training=True),
        current_gradient_accumulation_steps=1,
        max_completion_length=LIMIT,
        _entropy_bonus_enabled=False,
        _metrics={"train": collections.defaultdict(list)},
        _get_per_token_logps_and_entropies=lambda *_, **__: (new, torch.zeros_like(new), None),
    )
    return SimpleNamespace(**(defaults | fields))


def inputs(mask, **fields):
    ids = torch.zeros(mask.shape, dtype=torch.int64)
    return dict(
        prompt_ids=ids[:, :1],
        prompt_mask=ids[:, :1],
        completion_ids=ids,
        completion_mask=torch.tensor(mask),
        num_items_in_batch=torch.tensor(mask).sum(),
        **{name: torch.tensor(value) for name, value in fields.items()},
    )


def assert_same(ours, new, theirs, their_new):
    """The loss, and its gradient for every log-probability."""

    def loss(new):
        total, count, _ = ours(new)
        return total / count

    value, gradient = jax.value_and_grad(loss)(jnp.float32(new))
    assert float(value) == pytest.approx(theirs.item(), rel=1e-6, abs=1e-6)
    theirs.backward()
    np.testing.assert_allclose(gradient, their_new.grad.numpy(), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize(("kind", "level", "ratio", "average"), LOSSES)
def test_grpo_is_their_loss(kind, level, ratio, average, beta):
    mask, old, new, reference, advantages = tensors()
    low, high = (0.2, 0.28) if level == "token" else (0.01, 0.02)
    theirs_new = torch.tensor(new, requires_grad=True)
    trainer = stand_in(
        theirs_new,
        loss_type=kind,
        importance_sampling_level=level,
        beta=beta,
        epsilon_low=low,
        epsilon_high=high,
    )
    given = inputs(
        mask, advantages=advantages, old_per_token_logps=old, ref_per_token_logps=reference
    )
    theirs = GRPOTrainer._compute_loss(trainer, None, given)
    how = Surrogate(ratio, average, (low, high), LIMIT)
    mask32, old32, reference32 = map(jnp.float32, (mask, old, reference))
    advantages32 = jnp.float32(advantages)[:, None] * mask32

    def ours(new):
        penalties = beta * kl.estimators(new, reference32)["k3"]
        return surrogate_loss(how, new, old32, advantages32, mask32, penalties)

    assert_same(ours, new, theirs, theirs_new)


def test_rloo_is_their_loss():
    mask, old, new, _, advantages = tensors(1)
    theirs_new = torch.tensor(new, requires_grad=True)
    trainer = stand_in(theirs_new, epsilon_low=0.2, epsilon_high=0.2)
    given = inputs(mask, advantages=advantages, old_logps=(old * mask).sum(1))
    theirs = RLOOTrainer._compute_loss(trainer, None, given)
    how = Surrogate("sequence", "sequences", (0.2, 0.2), LIMIT)
    mask32, old32 = jnp.float32(mask), jnp.float32(old)

    def ours(new):
        advantages32 = jnp.float32(advantages)[:, None] * mask32
        return surrogate_loss(how, new, old32, advantages32, mask32)

    assert_same(ours, new, theirs, theirs_new)


def test_advantages_are_theirs():
    """Their lines are within a method of hundreds; these repeat them with their `nanstd`."""
    scores = np.random.default_rng(2).normal(size=ROWS)
    scores[5] = np.nan  # a completion that no reward could score
    grouped = torch.tensor(scores).view(-1, GROUP)
    above = grouped - torch.nanmean(grouped, dim=1, keepdim=True)
    std = nanstd(grouped, dim=1)[:, None]
    count = (~torch.isnan(grouped)).sum(1, keepdim=True)
    others = (torch.nansum(grouped, 1, keepdim=True) - grouped) / (count - 1)
    kept = jnp.float32(np.isfinite(scores))
    given = jnp.float32(np.nan_to_num(scores)), kept, GROUP
    for ours, theirs in (
        (group_advantages(*given, "std"), above / (std + 1e-4)),
        (group_advantages(*given, "none"), above),
        (leave_one_out(*given), grouped - others),
    ):
        theirs = torch.nan_to_num(theirs, nan=0.0).view(-1).numpy()
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=1e-6)
