"""Lists, numbers and sums: questions whose answer is worked out from what the prompt shows."""

from gpt_jax.data.microworld.facts import Facts
from gpt_jax.data.microworld.language import NOTE_OBJECTS, SUM_QUESTIONS, VALUES
from gpt_jax.data.microworld.question import Question, pattern

LISTED = NOTE_OBJECTS + VALUES["pet"] + VALUES["good"]  # what lists are made of
LARGEST_NUMBER = 20
LARGEST_TERM, MOST_STEPS = 12, 4  # a sum is counted out: from the first term, so many steps

# What is wanted of a list -> (questions, the plain answer). `{v}` is the answer.
LISTS = {
    "count": (
        ("How many things are in the list?", "How many things are there?", "Count the list."),
        "There are {v}.",
    ),
    "first": (
        ("What is the first thing?", "What comes first?", "Tell me the first of the list."),
        "The first is {v}.",
    ),
    "last": (
        ("What is the last thing?", "What comes last?", "Tell me the last of the list."),
        "The last is {v}.",
    ),
    "after": (
        ("What comes after {after}?", "What is next after {after}?", "What follows {after}?"),
        "After {after} comes {v}.",
    ),
}
NUMBERS = {
    "largest": (
        ("Which is the largest?", "What is the largest number?", "Tell me the largest of them."),
        "The largest is {v}.",
    ),
    "smallest": (
        ("Which is the smallest?", "What is the smallest number?", "Tell me the smallest of them."),
        "The smallest is {v}.",
    ),
    "sort": (
        ("Sort them.", "Put them in order.", "What is their order?"),
        "In order: {v}.",
    ),
}


def draw(facts: Facts, kind: str, rng) -> Question:
    """A random list, some numbers, or a sum, and a question about them."""
    if kind == "arithmetic":
        return _draw_sum(facts, rng)
    asks = LISTS if kind == "list" else NUMBERS
    wanted = rng.choice(list(asks))
    if kind == "list":
        items = rng.sample(LISTED, rng.randint(2, 4))
    else:
        items = [str(n) for n in rng.sample(range(1, LARGEST_NUMBER + 1), rng.randint(2, 3))]
    after = rng.choice(items[:-1]) if wanted == "after" else ""
    text = rng.choice(asks[wanted][0]).format(after=after)
    return _question(
        facts, kind, f"{_TITLES[kind]}{', '.join(items)}. {text}", items, wanted, after
    )


def steps(question: Question) -> list[int]:
    """A sum counted out: every number from the first term on, without it."""
    start, count = question.terms
    sign = 1 if question.operator == "+" else -1
    return [start + sign * step for step in range(1, count + 1)]


def read(facts: Facts, prompt: str) -> Question | None:
    """The list, the numbers or the sum that a prompt asks about."""
    for operator, texts in _SUMS.items():
        for template in texts:
            if match := template.fullmatch(prompt):
                terms = (int(match["a"]), int(match["b"]))
                return _sum(facts, prompt, terms, operator)
    for kind, title in _TITLES.items():
        listed, _, asked = prompt.removeprefix(title).partition(". ")
        items = listed.split(", ")
        known = LISTED if kind == "list" else [str(n) for n in range(100)]
        if not prompt.startswith(title) or len(set(items)) != len(items) or set(items) - {*known}:
            continue
        for wanted, template in _ASKED[kind]:
            match = template.fullmatch(asked)
            after = (match.groupdict().get("after") or "") if match else ""
            if match and (wanted != "after" or after in items[:-1]):
                return _question(facts, kind, prompt, items, wanted, after)
    return None


_TITLES = {"list": "List: ", "numbers": "Numbers: "}
_ASKED = {
    kind: [
        (wanted, pattern(text, {"after": "[a-z]+"})) for wanted in asks for text in asks[wanted][0]
    ]
    for kind, asks in (("list", LISTS), ("numbers", NUMBERS))
}
_SUMS = {
    operator: [pattern(text, {"a": "[0-9]+", "b": "[0-9]+"}) for text in texts]
    for operator, texts in SUM_QUESTIONS.items()
}


def _question(facts: Facts, kind, prompt, items, wanted, after) -> Question:
    numbers = sorted(items, key=int) if kind == "numbers" else items
    answer = {
        "count": lambda: str(len(items)),
        "first": lambda: items[0],
        "last": lambda: items[-1],
        "after": lambda: items[items.index(after) + 1],
        "largest": lambda: numbers[-1],
        "smallest": lambda: numbers[0],
        "sort": lambda: ", ".join(numbers),
    }[wanted]()
    held_out = facts.is_held_out(*sorted(items))  # in whatever order
    return Question(
        kind, prompt, answer, items=tuple(items), wanted=wanted, after=after, held_out=held_out
    )


def _sum(facts: Facts, prompt: str, terms: tuple[int, int], operator: str) -> Question:
    a, b = terms
    answer = a + b if operator == "+" else a - b
    held_out = facts.is_held_out_sum(a, operator, b)
    return Question(
        "arithmetic", prompt, str(answer), terms=terms, operator=operator, held_out=held_out
    )


def _draw_sum(facts: Facts, rng) -> Question:
    operator = rng.choice("+-")
    a, b = rng.randint(1, LARGEST_TERM), rng.randint(1, MOST_STEPS)
    a = max(a, b) if operator == "-" else a
    text = rng.choice(SUM_QUESTIONS[operator])
    return _sum(facts, text.format(a=a, b=b), (a, b), operator)
