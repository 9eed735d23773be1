"""Stages that learn from their own samples: what PPO, GRPO and the like have in common."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from gpt_jax.data.batches import Prompts
from gpt_jax.data.left_out import LeftOut
from gpt_jax.data.packing import pad_prompt_records
from gpt_jax.data.pipeline import make_batch_at, share
from gpt_jax.data.rows import language_rows
from gpt_jax.errors import UserError
from gpt_jax.generate.text import Layout
from gpt_jax.models.lora import has_adapters
from gpt_jax.models.quantized import keep_as
from gpt_jax.parallel import distributed, rules
from gpt_jax.parallel.offload import check_offload, to_host
from gpt_jax.ranges import PositiveFloat
from gpt_jax.rl.groups import GroupedPrompts
from gpt_jax.rl.iteration import Inputs, RolloutConfig
from gpt_jax.rl.reward_spec import Term, of_model, parse
from gpt_jax.rl.scoring import Scoring, of_adapters, spec_scoring, value_start
from gpt_jax.rl.workers import SECONDS
from gpt_jax.tasks.sandbox import PROTECTIONS
from gpt_jax.text import chat
from gpt_jax.train.checkpoint import ModelFiles
from gpt_jax.train.optim import OptimizerConfig, rate_at
from gpt_jax.train.origin import load_model_files
from gpt_jax.train.served import open_run
from gpt_jax.train.stage import Functions, LoopConfig, Parameters, Stage, resolve_steps
from gpt_jax.train.tuning import Start, Tuned

REWARD_FROM = "runs/reward/default"
RENDER = {"chat": chat.render_prompt, "document": chat.render_beginning}


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnlineRecipe(RolloutConfig):
    """A method's configuration with its optimizer and its length."""

    optimizer: OptimizerConfig
    train: LoopConfig
    offload_frozen: bool = False
    """Keep the reference and the reward model in the host's memory between their uses."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnlineConfig(Tuned):
    """What such an experiment takes besides its recipe."""

    init_from: str = "runs/sft/default"
    """Where the policy starts and what it is held close to: a run folder, a Hugging Face folder,
    hf:ORG/NAME or gguf:FILE."""
    policy_from: str | None = None
    """An earlier run's folder, from whose policy this one goes on instead."""
    reward: str | None = None
    """What is learned from: a weighted sum of model:RUN, rule:NAME, verifier:NAME, task:NAME and
    MODULE:FUNCTION, such as "model:runs/reward/default + 0.5*rule:brevity + verifier:gsm8k" (see
    gpt_jax/rl/reward_spec.py). None: the model in `reward_from`."""
    reward_from: str = REWARD_FROM
    """Short for --reward model:RUN: a reward model's run folder, or one from elsewhere; its shape
    may be another than the policy's."""
    retokenize: bool = False
    """Let a reward model with another tokenizer than the policy's read the text, on the host."""
    rule_seconds: PositiveFloat = SECONDS
    """The most that a rule may take for a row, which then has no score and is left out."""
    layout: Layout = "chat"
    """How prompts are given: as a user's turns, or as the beginnings of documents to go on with, as
    to a model that knows no chat (Ziegler et al. 2019)."""
    unconfined: bool = False
    """Run the code that verifier:tests tries out also where this machine cannot confine it."""

    def __post_init__(self):
        super().__post_init__()
        if self.reward is not None and self.reward_from != REWARD_FROM:
            raise UserError(
                f"--reward {self.reward!r} and --reward-from {self.reward_from} both say what is "
                "learned from; add model:RUN to the former"
            )
        self.reward_terms()

    def check_policy(self, start: ModelFiles) -> None:
        """Raises a UserError if `policy_from` did not come from where the policy starts."""
        if self.policy_from and load_model_files(self.policy_from) != start:
            raise UserError(
                f"{self.policy_from} has another model or tokenizer than {self.init_from}; "
                "give the folder of a policy that came from it"
            )

    def reward_terms(self) -> tuple[Term, ...]:
        """What is learned from, read."""
        return of_model(self.reward_from) if self.reward is None else parse(self.reward)

    def reward_models(self) -> dict[str, str]:
        """{what: folder} of the reward models that it names."""
        if self.reward is None:
            return {"reward_from": self.reward_from}
        atoms = [atom for term in self.reward_terms() for atom in term.atoms]
        return {f"the reward {atom.text}": atom.name for atom in atoms if atom.kind == "model"}

    def scoring(self, start: ModelFiles) -> Scoring:
        """What scores the completions of a policy, once all that it needs has been looked at.

        Args:
          start: the policy's shape and tokenizer.
        """
        return spec_scoring(
            self.reward_terms(),
            start,
            self.data.read("prompts", "train"),
            retokenize=self.retokenize,
            seconds=self.rule_seconds,
            allow=tuple(PROTECTIONS) if self.unconfined else (),
        )


def online_stage(
    config: OnlineConfig,
    recipe: OnlineRecipe,
    start: ModelFiles,
    scoring: Scoring,
    mesh: Mesh,
    *,
    functions: Callable[[int], Functions],
    from_scorer: bool = False,
    ptx_rows: int = 0,
    group: int = 1,
) -> Stage:
    """The finetuned model as policy and as reference, on prompts.

    Args:
      config: of the experiment.
      recipe: a part of it.
      start: shape and tokenizer of the finetuned model.
      scoring: of its completions.
      mesh: over which the episodes are split.
      functions: `steps -> Functions`, whose `init` takes the seed, the policy and what a value
        model starts from.
      from_scorer: whether that is the reward model; else it is the policy.
      ptx_rows: pretraining rows per iteration.
      group: completions of each prompt.

    Raises:
      UserError: if the completions leave no room for a prompt, or the devices cannot offload.
    """
    model, tokenizer = start
    room = model.context_length - recipe.max_new_tokens - scoring.readout
    if room < 1:
        raise UserError(
            f"max_new_tokens {recipe.max_new_tokens} leaves no room for a prompt in the model's "
            f"context of {model.context_length} tokens; lower it"
        )
    begin = Start(config, model)
    begin.check(frozen=True)
    if config.policy_from and begin.adapts:
        begin.check_adapters(config.policy_from)
    if recipe.offload_frozen:
        if begin.adapts:
            raise UserError(
                "the backbone under adapters is read by every update, so that offloading it spares "
                "nothing; leave --ppo.offload-frozen or --lora.rank out"
            )
        check_offload(mesh)
    scoring = of_adapters(scoring, config)
    left_out = LeftOut()
    records, render = config.data.read("prompts", "train"), RENDER[config.layout]
    prompts = pad_prompt_records(records, tokenizer, room, left_out, render=render)
    _say_unseen(prompts, recipe.max_new_tokens, scoring.longest)
    asked = recipe.episodes // group
    prompts_at = GroupedPrompts(make_batch_at(prompts, asked, config.seed, share(mesh)), group)
    train = resolve_steps(recipe.train, len(prompts.rows_B), asked)
    ptx_at = _pretraining_batches(config, start, ptx_rows, mesh)
    updates = recipe.passes.updates
    made = functions(train.steps)
    made = made._replace(init=begin.first(made.init))
    keep = functools.partial(keep_as, axes=made.axes, dtype=config.frozen_dtype)

    def load(mesh: Mesh) -> Parameters:
        (policy,), frozen = begin.load(mesh, reference=True)
        if config.policy_from and begin.adapts:
            policy = begin.adapters_in(config.policy_from, mesh)
        elif config.policy_from:
            policy = open_run(config.policy_from, mesh=mesh).params
        scorer = scoring.load(config, mesh)
        origin = policy, value_start(scoring, config, scorer, mesh) if from_scorer else policy
        frozen = kept(frozen | {"reward": scorer})
        if recipe.offload_frozen:
            frozen = to_host(frozen)
        return Parameters(origin, frozen)

    def shapes() -> Parameters:
        (policy,), frozen = begin.shapes(reference=True)
        scorer = scoring.shapes()
        value = value_start(scoring, config, scorer) if from_scorer else policy
        frozen = {
            name: jax.eval_shape(keep, tree) if is_whole(name, tree) else tree
            for name, tree in (frozen | {"reward": scorer}).items()
        }
        return Parameters((policy, value), frozen)

    def kept(frozen: dict) -> dict:
        """What is frozen beside a backbone, which is kept so already."""
        if config.frozen_dtype is None:
            return frozen
        whole = {name: tree for name, tree in frozen.items() if is_whole(name, tree)}
        places = rules.shardings(jax.eval_shape(keep, whole), mesh, made.axes)
        return frozen | jax.jit(keep, out_shardings=places)(whole)

    return Stage(
        model=model,
        tokenizer=tokenizer,
        train=train,
        functions=made,
        load=load,
        shapes=shapes(),
        adapter_file=begin.adapter_file,
        batch_at=lambda step: Inputs(prompts_at(step), ptx_at(step)),
        row_numbers=lambda step: prompts.rows_B[prompts_at.numbers(step)],
        learning_rate=lambda step: rate_at(
            recipe.optimizer, train.steps * updates, recipe.optimizer.learning_rate, step * updates
        ),
        derive=lambda values: {"eps": recipe.episodes / values["seconds_per_step"]},
        headline=("objective/scores", "objective/kl"),
        kinds=("prompts", "text") if ptx_rows else ("prompts",),
        left_out=left_out,
    )


def is_whole(name: str, tree: Any) -> bool:
    """Whether something frozen is a whole model whose matrices are still to be made small."""
    return name in ("reference", "reward") and not has_adapters(tree)


def _say_unseen(prompts: Prompts, new_tokens: int, longest: int | None) -> None:
    """Says how many prompts leave room for more tokens than the reward model was trained on."""
    lengths_B = (prompts.tokens_BP.segment_ids > 0).sum(axis=1) + new_tokens
    unseen = int((lengths_B > (longest or lengths_B.max())).sum())
    if unseen:
        distributed.say(
            f"{unseen:,} of {len(lengths_B):,} prompts with an answer may be longer than the "
            f"{longest} tokens that the reward model was trained on ({lengths_B.max()} at most); "
            "--reward.longest raises those, --ppo.max-new-tokens limits the answers"
        )


def _pretraining_batches(config: OnlineConfig, start: ModelFiles, rows: int, mesh: Mesh):
    """`batch_at(step)` of so many packed documents, or of None where they are not mixed in."""
    if not rows:
        return lambda step: None
    packed = language_rows(config.data, "train", start.tokenizer, start.model.context_length)
    return make_batch_at(packed, rows, config.seed, share(mesh))
