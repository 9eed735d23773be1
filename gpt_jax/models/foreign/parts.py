"""What the configurations of families are made of: parts that read their keys and write them.

A part is a pair of functions. `read(keys, fields)` takes keys and gives fields of `ModelConfig`,
having seen the fields of the parts before it; `write(config)` gives the keys back, from a resolved
configuration.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from gpt_jax.errors import UserError
from gpt_jax.models.config import ModelConfig
from gpt_jax.models.foreign import rope
from gpt_jax.models.foreign.keys import Keys

# Their activations that we have: our name for a layer without and with a gate, theirs that is
# written first.
PLAIN = {
    "gelu_new": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "gelu_fast": "gelu",
    "gelu": "gelu_exact",
    "relu": "relu",
}
GATED = {"silu": "swiglu", "swish": "swiglu", "gelu_pytorch_tanh": "geglu", "gelu_new": "geglu"}

FULL, SLIDING = "full_attention", "sliding_attention"


class Part(NamedTuple):
    read: Callable[[Keys, dict[str, Any]], dict[str, Any]]
    write: Callable[[ModelConfig], dict[str, Any]]


def plain(ours: str, theirs: str, kind: type, *default: Any) -> Part:
    """One field that is one key; without a default it must be there. Null is the default."""
    return Part(
        lambda keys, fields: {ours: keys.take(theirs, kind, *default)},
        lambda config: {theirs: getattr(config, ours)},
    )


def nullable(ours: str, theirs: str, kind: type, default: Any) -> Part:
    """One field that is one key, where null means None, whatever the default is."""
    return Part(
        lambda keys, fields: {ours: keys.take_or_null(theirs, kind, default)},
        lambda config: {theirs: getattr(config, ours)},
    )


def fixed(**ours: Any) -> Part:
    """Fields that all models of a family have in common."""
    return Part(lambda keys, fields: ours, lambda config: {})


def needed(theirs: str, value: Any, default: Any) -> Part:
    """A key that must have one value, `default` where it is absent."""

    def read(keys, fields):
        found = keys.take(theirs, type(value), default)
        if found != value:
            keys.refuse(theirs, found, f"only {value!r} can")
        return {}

    return Part(read, lambda config: {theirs: value})


def written(theirs: str, kind: type, ours: str) -> Part:
    """A key that says a field and changes no logits: it is written, and not read."""

    def read(keys, fields):
        keys.left.pop(theirs, None)
        return {}

    return Part(read, lambda config: {theirs: kind(getattr(config, ours))})


def activation(theirs: str, default: str, known: dict[str, str]) -> Part:
    """The activation of the feed-forward layer; `known` is PLAIN, GATED or a part of it."""

    def read(keys, fields):
        name = keys.take(theirs, str, default)
        if name not in known:
            keys.refuse(theirs, name, f"{', '.join(known)} can be loaded")
        return {"mlp": known[name]}

    def write(config):
        return {theirs: next((name for name in known if known[name] == config.mlp), default)}

    return Part(read, write)


def heads_of_their_own_size(default: int | None) -> Part:
    """`head_dim`, which is written only where it does not follow from the width."""

    def write(config):
        follows = config.head_size * config.heads == config.width
        return {} if follows and default is None else {"head_dim": config.head_size}

    return Part(lambda keys, fields: {"head_size": keys.take("head_dim", int, default)}, write)


def query_scale(theirs: str, default: float) -> Part:
    """A number whose inverse square root multiplies the scores."""

    def write(config):
        scale = config.query_scale or config.head_size**-0.5
        number = round(scale**-2)
        return {theirs: number if abs(number**-0.5 - scale) < 1e-6 * scale else scale**-2}

    return Part(
        lambda keys, fields: {"query_scale": keys.take(theirs, float, default) ** -0.5}, write
    )


def rotary(**options: Any) -> Part:
    """Rotary positions, the same in every layer; the options are `rope.read`'s."""
    share, beside = options.get("share"), options.get("beside", "rope_theta")

    def read(keys, fields):
        found = rope.read(keys, rope.settings(keys), fields["context_length"], **options)
        return dict(positions="rope", rope_theta_local=None) | found

    def write(config):
        part = {} if share is None else {share[0]: config.rope_share}
        return rope.write(config, beside) | part

    return Part(read, write)


def rotary_by_kind() -> Part:
    """Gemma 3's: of global layers and of local ones; older files have them flat."""

    def read(keys, fields):
        found, context = keys.take("rope_parameters", dict, {}), fields["context_length"]
        scaling = keys.take("rope_scaling", dict, {})
        if found and scaling:
            keys.refuse("rope_scaling", scaling, "rope_parameters is there too")
        kinds = Keys(found, f"{keys.where}: rope_parameters")
        whole, local = kinds.take(FULL, dict, scaling), kinds.take(SLIDING, dict, {})
        kinds.finish()
        ours = rope.read(keys, whole, context, default=1e6)
        beside = dict(beside="rope_local_base_freq", kinds=("default",))
        theta = rope.read(keys, local, context, **beside)["rope_theta"]
        return dict(positions="rope", rope_theta_local=theta) | ours

    def write(config):
        return rope.write(config) | {"rope_local_base_freq": config.rope_theta_local or 0.0}

    return Part(read, write)


def window_everywhere(default: int | None) -> Part:
    """Mistral's and Phi-3's: every layer has it; null is none."""

    def read(keys, fields):
        window = keys.take_or_null("sliding_window", int, default)
        return {"window": window, "global_every": None}

    return Part(read, lambda config: {"sliding_window": config.window})


def window_if_used() -> Part:
    """Qwen's: none without `use_sliding_window`; by `layer_types`, or from a layer on."""

    def read(keys, fields):
        used = keys.take("use_sliding_window", bool, False)
        window = keys.take_or_null("sliding_window", int, 4096) if used else None
        keys.left.pop("sliding_window", None)
        first = keys.take_or_zero("max_window_layers", 28)
        kinds = [FULL if window is None or i < first else SLIDING for i in range(fields["layers"])]
        return layer_pattern(keys, "layer_types", kinds, window, fields["layers"])

    def write(config):
        used = config.window is not None
        return dict(
            use_sliding_window=used,
            sliding_window=config.window,
            max_window_layers=config.layers,
            layer_types=layer_types(config),
        )

    return Part(read, write)


def window_in_turns(default: int, every: int, pattern_key: str | None = None) -> Part:
    """Gemma's: every so manyth layer is global.

    Args:
      default: the window where the key is absent.
      every: which layers are global where nothing says it.
      pattern_key: the key that older files say it with.
    """

    def read(keys, fields):
        window = keys.take_or_null("sliding_window", int, default)
        given = keys.take(pattern_key, int, None) if pattern_key else None
        period, layers = given or every, fields["layers"]
        kinds = [SLIDING if (i + 1) % period else FULL for i in range(layers)]
        types = keys.left.get("layer_types", kinds)
        if given and types != kinds:
            keys.refuse("layer_types", types, f"{pattern_key} is {given}")
        return layer_pattern(keys, pattern_key or "layer_types", kinds, window, layers)

    def write(config):
        return dict(sliding_window=config.window or default, layer_types=layer_types(config))

    return Part(read, write)


def layer_pattern(
    keys: Keys, key: str, kinds: list[str], window: int | None, layers: int
) -> dict[str, Any]:
    """The fields of the window and of which layers are global.

    Args:
      keys: the file's, whose `layer_types` go before `kinds`.
      key: which key `kinds` come from.
      kinds: of every layer, where there are no `layer_types`.
      window: of the local layers.
      layers: how many there are.
    """
    types = keys.take("layer_types", list, None)
    key, kinds = (key, kinds) if types is None else ("layer_types", types)
    if len(kinds) != layers:
        keys.refuse(key, kinds, f"num_hidden_layers is {layers}")
    whole = [i for i, kind in enumerate(kinds, start=1) if kind == FULL]
    every = whole[0] if whole else None
    expected = [SLIDING if every is None or i % every else FULL for i in range(1, layers + 1)]
    if kinds != expected:
        keys.refuse(key, kinds, f"by its start every {every}th layer alone would be {FULL}")
    if every == 1:
        return {"window": None}
    if window is None:
        raise UserError(
            f"{keys.where}: sliding_window is missing, or use_sliding_window is off, but by {key} "
            "not all layers are global"
        )
    return {"window": window, "global_every": every}


def layer_types(config: ModelConfig) -> list[str]:
    """What `layer_types` says of every layer."""
    return [FULL if window is None else SLIDING for window in config.windows()]
