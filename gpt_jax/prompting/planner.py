"""A task planner: tasks, what they depend on, and their results, as in HuggingGPT and AutoGPT.

The model writes a plan as JSON, each task with a tool and the tasks whose results it needs; the
tools are used in that order; the model then answers from the results, or plans more.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import NamedTuple

from gpt_jax.generate.sampling import Sampling
from gpt_jax.prompting.context import GREEDY, few_shot
from gpt_jax.prompting.strategy import Ask, Steps
from gpt_jax.prompting.tools import Tool, described, use

PLAN = (
    "{request}\nTools:\n{tools}\n{results}"
    'Plan what is still to be done as a JSON list of {{"id": 1, "tool": "...", "argument": "...", '
    '"needs": []}}; in an argument <1> stands for the result of task 1. If all is done, give [].'
)
REPLY = "{request}\nThe results of the tasks:\n{results}\nAnswer from them."
RESULT = re.compile(r"<(\d+)>")


class Task(NamedTuple):
    """One task of a plan."""

    id: int
    tool: str
    argument: str
    needs: tuple[int, ...]


def read_plan(text: str) -> list[Task]:
    """The tasks that a text plans, each after those that it needs.

    Raises:
      ValueError: saying what is wrong with the plan.
    """
    start, end = text.find("["), text.rfind("]")
    if start < 0 or end < start:
        raise ValueError("there is no JSON list")
    try:
        found = json.loads(text[start : end + 1])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the plan is no JSON ({error})") from error
    tasks = {}
    for one in found:
        well = isinstance(one, dict) and isinstance(one.get("id"), int)
        if not well or not all(isinstance(one.get(key), str) for key in ("tool", "argument")):
            raise ValueError(f"a task needs an id, a tool and an argument, not {one!r}")
        needs = one.get("needs", [])
        if not isinstance(needs, list) or not all(isinstance(need, int) for need in needs):
            raise ValueError(f"a task needs a list of numbers, not {needs!r}")
        needs = sorted({*needs, *map(int, RESULT.findall(one["argument"]))})
        tasks[one["id"]] = Task(one["id"], one["tool"], one["argument"], tuple(needs))
    ordered: dict[int, Task] = {}
    while len(ordered) < len(tasks):
        ready = [t for t in tasks.values() if t.id not in ordered and not _open(t, tasks, ordered)]
        if not ready:
            circle = sorted(set(tasks) - set(ordered))
            raise ValueError(f"tasks {circle} wait for each other")
        ordered |= {task.id: task for task in ready}
    return list(ordered.values())


def _open(task: Task, tasks: dict[int, Task], done: dict[int, Task]) -> bool:
    """Whether it waits for another of the plan; what earlier plans did is done."""
    return any(need in tasks and need not in done for need in task.needs)


def plan_and_do(
    request: str,
    tools: Sequence[Tool],
    *,
    plan: str = PLAN,
    reply: str = REPLY,
    plans: int = 3,
    limit: int = 12,
    sampling: Sampling = GREEDY,
) -> Steps:
    """Plans, does, and answers.

    Args:
      request: what is to be done.
      tools: that may be used.
      plan: the prompt for a plan, with places for the request, the tools and the results.
      reply: the prompt for the answer, with places for the request and the results.
      plans: the most times that it is planned.
      limit: the most tasks that are done.
      sampling: of plans and answer.

    Returns:
      (answer, {id: result}).
    """
    results: dict[int, str] = {}
    for _ in range(plans):
        done = "".join(f"Task {i} gave: {result}\n" for i, result in results.items())
        asked = plan.format(request=request, tools=described(tools), results=done)
        (found,) = yield Ask([few_shot(asked)], sampling)
        try:
            tasks = [task for task in read_plan(found.text) if task.id not in results]
        except ValueError as error:
            results[-1] = f"your last plan could not be read: {error}"
            continue
        results.pop(-1, None)
        if not tasks:
            break
        for task in tasks[: limit - len(results)]:
            argument = RESULT.sub(lambda m: results.get(int(m.group(1)), m.group(0)), task.argument)
            results[task.id] = use(tools, task.tool, argument)
        if len(results) >= limit:
            break
    done = "\n".join(f"Task {i}: {result}" for i, result in results.items() if i > 0)
    (found,) = yield Ask([few_shot(reply.format(request=request, results=done))], sampling)
    return found.text.strip(), {i: result for i, result in results.items() if i > 0}
