"""Prompt chains: the answer to one prompt is a part of the next."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence

from gpt_jax.errors import UserError
from gpt_jax.generate.sampling import Sampling
from gpt_jax.prompting.context import GREEDY, few_shot
from gpt_jax.prompting.strategy import Ask, Steps


def check(links: Sequence[tuple[str, str]], given: Sequence[str]) -> None:
    """Raises a UserError if a link needs what no link before it has made."""
    known = set(given)
    for name, template in links:
        needed = {field for _, field, _, _ in string.Formatter().parse(template) if field}
        if missing := sorted(needed - known):
            raise UserError(
                f"the link {name!r} needs {missing[0]!r}, which nothing before it makes; there is "
                f"{', '.join(sorted(known))}"
            )
        known.add(name)


def chain(
    values: Mapping[str, str],
    links: Sequence[tuple[str, str]],
    sampling: Sampling = GREEDY,
) -> Steps:
    """Asks one prompt after another.

    Args:
      values: what is known at first, by name.
      links: (name, template) pairs: the answer to the template is known by the name from then on.
      sampling: of the answers.

    Returns:
      All values.
    """
    check(links, list(values))
    known = dict(values)
    for name, template in links:
        (found,) = yield Ask([few_shot(template.format(**known))], sampling)
        known[name] = found.text.strip()
    return known
