"""Which reward scores the completions of a run: trained models, rules, or anything else."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from gpt_jax import files
from gpt_jax.errors import UserError
from gpt_jax.generate.sampler import Rollout
from gpt_jax.models.contract import Model
from gpt_jax.models.heads import HeadOptions, axes_of, head_options, scorer_shapes
from gpt_jax.models.lora import ON_REWARD, LoraConfig, adapted_shapes, rescaled, zero_adapters
from gpt_jax.parallel import distributed
from gpt_jax.rl.reward_spec import Term, look_at, rule_of
from gpt_jax.rl.rewards import (
    DeviceReward,
    HostReward,
    Reward,
    Rule,
    model_score,
    record_reward,
    retokenized_reward,
)
from gpt_jax.rl.weighted import HostParts, Weighted
from gpt_jax.rl.workers import SECONDS, RuleProcess
from gpt_jax.train import checkpoint
from gpt_jax.train import state as states
from gpt_jax.train.adapters import read_adapter_file
from gpt_jax.train.checkpoint import ModelFiles, param_shapes_in
from gpt_jax.train.origin import is_foreign, load_model_files, load_params
from gpt_jax.train.tuning import Tuned, shares_backbone


class Scorer(NamedTuple):
    """A reward model whose parameters are still to be loaded.

    Attributes:
      model: its shape.
      options: what its head has beside a linear map.
      longest: the most tokens of a prompt with a completion that it was trained on, if known.
      folder: where its parameters lie; None where nobody will load them.
      lora: of its adapters, where it is a head and adapters on the policy's own backbone; None:
        it has weights of its own.
    """

    model: Model
    options: HeadOptions = HeadOptions()
    longest: int | None = None
    folder: str | None = None
    lora: LoraConfig | None = None

    def shapes(self) -> Any:
        """Of its parameters, as ShapeDtypeStructs."""
        whole = scorer_shapes(self.model, self.options)
        return adapted_shapes(self.lora, self.model, whole) if self.lora else whole

    def load(self, config: Tuned, mesh: Mesh) -> Any:
        """Its parameters, over the mesh; see `Scoring.load`."""
        if self.lora is None:
            return load_params(self.folder, mesh)
        if not shares_backbone(self.folder, config.init_from):
            raise UserError(
                f"{self.folder} holds no adapters on what {config.init_from} stands on; train the "
                "reward model from it, with --lora.rank"
            )
        adapters = checkpoint.load_params(self.folder, mesh, axes=axes_of(self.model))
        return rescaled(adapters, self.lora.scale, config.lora.scale)


class Scoring(NamedTuple):
    """How completions are scored.

    Attributes:
      reward: what scores them.
      scorers: the reward models whose parameters the reward is given when the stage starts; a value
        model may start as the first.
    """

    reward: Reward | Weighted
    scorers: tuple[Scorer, ...] = ()

    @property
    def scorer(self) -> Model | None:
        """The shape of the first reward model, if there is one."""
        return self.scorers[0].model if self.scorers else None

    @property
    def models(self) -> tuple[Model, ...]:
        """Of the reward models."""
        return tuple(scorer.model for scorer in self.scorers)

    @property
    def longest(self) -> int | None:
        """The most tokens that every reward model was trained on, if known."""
        return min((s.longest for s in self.scorers if s.longest is not None), default=None)

    @property
    def readout(self) -> int:
        """How many tokens a reward model reads behind a completion."""
        return max((int(scorer.options.readout) for scorer in self.scorers), default=0)

    def shapes(self) -> Any:
        """Of the reward's parameters, as ShapeDtypeStructs."""
        return self._tree([scorer.shapes() for scorer in self.scorers])

    def load(self, config: Tuned, mesh: Mesh) -> Any:
        """The reward's parameters, over the mesh; of adapters on the policy's backbone these alone.

        Args:
          config: of the stage.
          mesh: over which they lie.
        """
        return self._tree([scorer.load(config, mesh) for scorer in self.scorers])

    def first(self, params: Any) -> Any:
        """Of the reward's parameters those of the first model."""
        return params["0"] if isinstance(self.reward, Weighted) else params

    def _tree(self, each: list[Any]) -> Any:
        if isinstance(self.reward, Weighted):
            return {str(n): one for n, one in enumerate(each)}
        if each:
            return each[0]
        params = self.reward.params if isinstance(self.reward, DeviceReward) else ()
        return params


def model_scoring(
    model: Model,
    longest: int | None = None,
    options: HeadOptions = HeadOptions(),
    folder: str | None = None,
    lora: LoraConfig | None = None,
) -> Scoring:
    """A reward model of this shape, with the policy's tokenizer."""
    scorer = Scorer(model, options, longest, folder, lora)
    return Scoring(DeviceReward(model_score(model)), (scorer,))


def of_adapters(scoring: Scoring, config: Tuned) -> Scoring:
    """The same scoring, by adapters on the policy's backbone where a reward model is that.

    Args:
      scoring: by any reward.
      config: of the stage.
    """
    if not config.lora.rank:
        return scoring

    def one(scorer: Scorer) -> Scorer:
        if scorer.lora or scorer.folder is None:
            return scorer
        if shares_backbone(scorer.folder, config.init_from):
            return scorer._replace(lora=read_adapter_file(scorer.folder).lora)
        distributed.say(
            f"the reward model in {scorer.folder} is no adapter on the policy's backbone: its "
            "weights are held beside these"
        )
        return scorer

    return scoring._replace(scorers=tuple(map(one, scoring.scorers)))


def value_start(scoring: Scoring, config: Tuned, reward: Any, mesh: Mesh | None = None) -> dict:
    """What a value model starts from that starts as the first reward model.

    Args:
      scoring, config: of the stage.
      reward: the reward's parameters.
      mesh: over which they lie; None: they are shapes.

    Returns:
      Those of the model, be they weights or adapters; or, where only adapters are learned, but not
      by the reward model, new ones on its weights, with its head.

    Raises:
      UserError: if the weights are those of one of several reward models.
    """
    scorer, first = scoring.first(reward), scoring.scorers[0]
    if not config.lora.rank or first.lora:
        return scorer
    if isinstance(scoring.reward, Weighted):
        raise UserError(
            "a value model of adapters cannot stand on one of several reward models; give "
            "--ppo.value-init zero, or reward models that are adapters on the policy's backbone"
        )
    zeros = functools.partial(zero_adapters, config.lora, first.model)
    if mesh is None:
        adapters = jax.eval_shape(zeros)
    else:
        adapters = states.create(zeros, mesh=mesh, axes=axes_of(first.model))
    return {"backbone": {ON_REWARD: adapters}, "head": scorer["head"]}


def trained_length(folder: str | Path) -> int | None:
    """The most tokens that the reward model in a folder was trained on, if `data.json` says it."""
    path = Path(folder) / "data.json"
    if not path.is_file():
        return None
    mend = "remove it, if the reward model is to read whatever fits its context"
    longest = files.read_json(path, mend).get("longest")
    if not isinstance(longest, int | None):
        raise UserError(f"{path}: longest is {longest!r}, but must be a number of tokens; {mend}")
    return longest


def _head_options(folder: str) -> HeadOptions:
    """What the head of the reward model in a folder has."""
    return HeadOptions() if is_foreign(folder) else head_options(param_shapes_in(folder))


def reward_files(folder: str) -> ModelFiles:
    """Shape and tokenizer of the reward model in a folder.

    Raises:
      UserError: if there is none.
    """
    return load_model_files(folder, functools.partial(scorer_shapes, options=_head_options(folder)))


def trained_scorer(
    folder: str, start: ModelFiles, retokenize: bool
) -> tuple[Scorer, ModelFiles | None]:
    """The reward model in a folder.

    Args:
      folder: of the reward stage, or a model from elsewhere.
      start: the policy's shape and tokenizer.
      retokenize: whether a reward model with another tokenizer is given the text.

    Returns:
      The scorer; and, where it has another tokenizer, its shape with that.

    Raises:
      UserError: if it has another tokenizer, and that is not allowed for.
    """
    options = _head_options(folder)
    judge = reward_files(folder)
    scorer = Scorer(judge.model, options, trained_length(folder), folder)
    if judge.tokenizer == start.tokenizer:
        return scorer, None
    if not retokenize:
        raise UserError(
            f"{folder} has another tokenizer than the policy; train the reward model from the "
            "policy's run, or give --retokenize to let it read text"
        )
    return scorer, judge


def spec_scoring(
    terms: Sequence[Term],
    start: ModelFiles,
    records: Sequence[dict],
    *,
    retokenize: bool = False,
    seconds: float = SECONDS,
    allow: Collection[str] = (),
) -> Scoring:
    """What the terms of a `--reward` say, once all that they need has been looked at.

    Args:
      terms: see `reward_spec`.
      start: the policy's shape and tokenizer.
      records: of all prompts, by their row numbers.
      retokenize: whether a reward model with another tokenizer is given the text.
      seconds: the most that a rule may take for a row.
      allow: the sandbox's protections that may be missing.

    Raises:
      UserError: if a model is not there, a rule is not known, or a record lacks what it reads.
    """
    models, rules, rewards, scorers = {}, {}, {}, []
    for atom in {atom.text: atom for term in terms for atom in term.atoms}.values():
        if atom.kind != "model":
            rule = rule_of(atom, tuple(allow))
            if rule.seconds >= seconds:
                raise UserError(
                    f"--reward {atom.text} may take {rule.seconds:g} s for a row by itself; give "
                    "more --rule-seconds"
                )
            look_at(atom, rule, records)
            rules[atom.text] = rule.score
            continue
        scorer, judge = trained_scorer(atom.name, start, retokenize)
        if judge is None:
            models[atom.text] = model_score(scorer.model)
            scorers.append(scorer)
        else:
            params = load_params(atom.name)
            rewards[atom.text] = retokenized_reward(judge, params, records, start.tokenizer)
    if not rules and len(terms) == 1 and terms[0].weight == 1 and terms[0].fold is None:
        [reward] = rewards.values() or [DeviceReward(model) for model in models.values()]
        return Scoring(reward, tuple(scorers))
    host = None
    if rules or rewards:
        ask = RuleProcess(list(rules.values()), seconds)
        host = HostParts(tuple(rules), ask, rewards, records, start.tokenizer, set())
    return Scoring(Weighted(tuple(terms), models, host), tuple(scorers))


def own_scoring(
    reward: Reward | Callable[[Rollout], Sequence[float]] | None,
    rule: Rule | None,
    start: ModelFiles,
    records: Sequence[dict],
) -> Scoring:
    """A reward of one's own: a Reward, a function of rollouts, or a rule on records and text."""
    if rule is not None:
        return Scoring(record_reward(rule, records, start.tokenizer))
    if isinstance(reward, DeviceReward | HostReward):
        return Scoring(reward)
    return Scoring(HostReward(reward, getattr(reward, "__name__", repr(reward))))
