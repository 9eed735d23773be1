"""Answers in odd dress that are right, and wrong ones that mention the right one."""

import gzip
import json
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_jax.errors import UserError
from gpt_jax.tasks import sandbox, verifiers
from gpt_jax.tasks.reading import answer_in, number_in, plain
from gpt_jax.tasks.verifiers import exact, gsm8k, number, regex, schema

GOLD = {"prompt": [], "record": {"question": "?", "answer": "9 * 2 = <<9*2=18>>18\n#### 18"}}
RIGHT = """
18
18.
 18
+18
18.0
18.00
18,
$18
$ 18.00
18 dollars
18%
36/2
#### 18
####18
#### $18
#### 18.
#### 18 eggs
The answer is 18.
The answer is **18**.
the ANSWER: 18
Answer: $18
**Answer:** 18
**Answer: 18**
The final answer is $\\boxed{18}$.
\\boxed{18}
So it is $\\frac{36}{2}$
9 + 9 = 18
The answer is 9 + 9 = 18.
The result is 18
The answer was 18 eggs
It is 17 + 1 = 18, so she has 18
It was 20. No: the answer is 18.
#### 20\\n#### 18
1.8e1
1.8 x 10^1
1.8 \\times 10^{1}
35 1/2 less 17 1/2 is 18
１８
٠18
18 ($18.00)
Of 100 she gave 82, which leaves 18
*18*
`18`
""".strip("\n").split("\n")
WRONG = """

eighteen
no number
17
180
1.8
-18
−18
$-18
-$18
18.5
118
x18
1,8
18,00
18.0.0
1/18
18/0
1e18
18e1
18e99999999999
1e999999999
18 or 19
The answer is 18 or 19.
The answer is not 18.
The answer is not 18, it is 20.
The answer isn't 18
The answer is 20, not 18.
Not 18
It is never 18.
#### 20
#### 18 or 20
#### 18, 20
####
18\\n#### 20
#### 18\\n#### 20
\\boxed{18} \\boxed{20}
\\boxed{}
The answer is 18.\\nThe answer is 20.
The answer is 18. No, the answer is 20.
18 20
18 = 20
9 + 9 = 18 = 20
The answer is 18 = 20.
She has 18 eggs and sells 5
18 17 16
1 8
5²
the answer is between 10 and 18
answer: 18 (or 20)
""".strip("\n").split("\n")


def texts(lines):
    return [line.replace("\\n", "\n") for line in lines]


@pytest.mark.parametrize("text", texts(RIGHT))
def test_a_right_number_in_odd_dress(text):
    assert gsm8k().score(GOLD, text, True) == 1.0


@pytest.mark.parametrize("text", texts(WRONG))
def test_a_wrong_number_that_mentions_the_right_one(text):
    """Break it: look for the number anywhere in the text."""
    assert gsm8k().score(GOLD, text, True) == 0.0


@pytest.mark.parametrize(
    "text, value",
    [
        ("1,234,567.50", Fraction(2469135, 2)),
        ("10\u202f000", 10000),
        ("10{,}000", 10000),
        ("10\\,000", 10000),
        ("½", Fraction(1, 2)),
        ("1½ cups", Fraction(3, 2)),
        ("1 1/2", Fraction(3, 2)),
        ("-3/4", Fraction(-3, 4)),
        ("\\dfrac{1}{3}", Fraction(1, 3)),
        (".5", Fraction(1, 2)),
        ("-.5", Fraction(-1, 2)),
        ("COVID-19", 19),
        ("10-5", 5),
        ("£1,000", 1000),
        ("0.1", Fraction(1, 10)),
        ("12,34", None),
        ("9" * 100, None),
    ],
)
def test_numbers_are_read_exactly(text, value):
    assert number_in(text) == value


@given(
    st.integers(-(10**12), 10**12), st.sampled_from(["{}", "{:,}", "so {:,}.", "#### {}", "${}"])
)
def test_every_integer_is_read(value, dress):
    assert number_in(dress.format(value)) == value


@given(st.text(max_size=200))
def test_no_text_breaks_a_reader(text):
    for check in (gsm8k(), exact("question"), number("question", "0.5")):
        record = {"question": "1", "answer": "#### 1"}
        assert check.score(record, text, True) in (0.0, 1.0)
    answer_in(text), plain(text)


def test_a_tolerance():
    check = number("x", "0.01")
    for text, score in (("3.14", 1), ("3.15", 1), ("3.16", 0), ("3.13", 0), ("pi", 0)):
        assert check.score({"x": 3.1416}, text, True) == score, text
    for wrong in ("a", "-1", "1/0"):
        with pytest.raises(UserError, match="tolerance"):
            number("x", wrong)


EXACT_RIGHT = """
Paris
paris
PARIS.
 Paris
"Paris"
“Paris”
'Paris'
**Paris**
*Paris*
`Paris`
Paris!
Paris,
(Paris)
The answer is Paris.
the answer is: Paris
Answer: Paris
Answer: **Paris**
**Answer:** Paris
Final answer: Paris
#### Paris
\\boxed{Paris}
\\boxed{\\text{Paris}}
$\\boxed{\\text{Paris}}$
I thought of Rome.\\n#### Paris
The answer is Rome. No, the answer is Paris.
Ｐａｒｉｓ
Paris\\n
\\nParis
the  city   of light
The city of light
The answer is the city of light.
«Paris»
""".strip("\n").split("\n")
EXACT_WRONG = """

.
Rome
Parisian
Paris, Texas
Paris or Rome
Paris and Rome
Not Paris
not paris
The answer is not Paris.
The answer is not Paris but Rome.
The answer is Paris or Rome.
The answer is Rome, not Paris.
The answer is Paris? No, Rome.
It is Paris, I think
Paris is the answer to another question
Is it Paris?
#### Rome
#### Paris Rome
Paris\\n#### Rome
#### Paris\\n#### Rome
\\boxed{Paris}\\n\\boxed{Rome}
The answer is Paris.\\nThe answer is Rome.
Paris Paris
P a r i s
Pari
aris
Paris.Rome
Answer: Rome (not Paris)
I do not know
Paris\\nRome
Rome\\nParis
""".strip("\n").split("\n")


def test_exact_answers():
    """Break it: take an answer for right that only begins or ends as it should."""
    check, record = exact(), {"record": {"answer": ["Paris", "the city of light"]}}
    assert len(EXACT_RIGHT) >= 30 and len(EXACT_WRONG) >= 30
    for text in texts(EXACT_RIGHT):
        assert check.score(record, text, True) == 1.0, text
    for text in texts(EXACT_WRONG):
        assert check.score(record, text, True) == 0.0, text


def test_what_a_record_lacks_is_said():
    for check, record, sentence in (
        (exact("a"), {"record": {"b": 1}}, "has no `a` .it has b."),
        (exact("a"), {"record": "text"}, "has no `a` .it has str."),
        (exact("a"), {"a": " "}, "empty `a`"),
        (gsm8k(), {"record": {"answer": "none"}}, "no number in `answer`"),
        (verifiers.Verifier(None, verifiers._test_parts), {"record": {}}, "has no `test_list`"),
        (verifiers.Verifier(None, verifiers._test_parts), {"test_list": ["assert"]}, "no Python"),
        (verifiers.Verifier(None, verifiers._test_parts), {"test_list": ["1"]}, "no function"),
    ):
        with pytest.raises(UserError, match=sentence):
            check.look(record)


REGEX = [
    ("yes", "yes", 1), ("yes", "oh yes!", 1), ("yes", "yesterday", 1), ("yes", "no", 0),
    ("yes", "YES", 0), ("(?i)yes", "YES", 1), (r"\byes\b", "yesterday", 0), (r"\byes\b", "yes.", 1),
    ("^yes$", "yes", 1), ("^yes$", "yes\n", 1), (r"\Ayes\Z", "yes\n", 0), ("^yes$", "yes no", 0),
    ("^yes$", "no\nyes", 0), ("(?m)^yes$", "no\nyes", 1), (r"^\d{1,3}$", "123", 1),
    (r"^\d{1,3}$", "1234", 0), (r"^\d+$", "１２", 1), (r"^[0-9]+$", "１２", 0), ("", "", 1),
    ("x", "", 0), ("a.c", "a\nc", 0), ("(?s)a.c", "a\nc", 1), (r"\.", "a", 0), (r"[(]", "(", 1),
    ("^(?!.*no).*$", "yes", 1), ("^(?!.*no).*$", "yes, no", 0), ("a|b", "b", 1), ("é", "é", 1),
    ("é", "e\u0301", 0), ("😀", "😀", 1), (r"(\w+) \1", "the the", 1), (r"(\w+) \1", "the cat", 0),
]  # fmt: skip


def test_regular_expressions():
    for pattern, text, score in REGEX:
        assert regex(pattern).score({}, text, True) == score, (pattern, text)
    with pytest.raises(UserError, match="no regular expression"):
        regex("(")


def test_an_expression_that_explodes_is_ended():
    """Break it: leave `time_limit` out of `_regex`."""
    with pytest.raises(TimeoutError):
        regex("(a+)+$").score({}, "a" * 50 + "b", True)


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "age": {"type": "integer", "minimum": 0},
        "next": {"$ref": "#"},
    },
    "required": ["name"],
    "additionalProperties": False,
}
JSON_RIGHT = [
    '{"name": "a"}', ' {"name": "a"} ', '{"name":"a","age":3}', '{"age": 0, "name": "a"}',
    '```json\n{"name": "a"}\n```', '```\n{"name": "a"}\n```', '\n```JSON\n{"name": "a"}```\n',
    '{\n  "name": "a"\n}', '{"name": "\\u00e9"}', '{"name": "é"}', '{"name": "a", "age": 3.0}',
    '{"name": "a", "next": {"name": "b"}}', '{"name": "}"}', '{"name": "```"}', '{"name": "NaN"}',
]  # fmt: skip
JSON_WRONG = [
    "", "{", "}", "null", "[]", '"name"', "{}", '{"name": ""}', '{"name": 3}', "{'name': 'a'}",
    '{"name": "a",}', '{"name": "a"} and more', 'Here: {"name": "a"}', '{"name": "a"}{"name": "a"}',
    '{"name": "a", "age": -1}', '{"name": "a", "age": "3"}', '{"name": "a", "age": 3.5}',
    '{"name": "a", "age": true}', '{"name": "a", "age": NaN}', '{"name": "a", "age": Infinity}',
    '{"name": "a", "age": 1e400}', '{"name": "a", "other": 1}', '{"name": null}',
    '{"name": "a", "name": "b"}', '{"name": 3, "name": "b"}', '// hi\n{"name": "a"}',
    '```json\n{"name": "a"}\n``` \n more', '{"name": "a"', '{name: "a"}', '{"Name": "a"}',
    '{"name": "a", "next": {}}', '{"name": "a", "next": null}', "[" * 100_000,
    '{"name": "a", "next": ' * 5000, '{"name": "a\nb"}', '\ufeff{"name": "a"}', "9" * 5000,
]  # fmt: skip


def test_json_schemas(tmp_path):
    pytest.importorskip("jsonschema", reason="the extra rewards is not installed")
    (tmp_path / "s.json").write_text(json.dumps(SCHEMA))
    check = schema(str(tmp_path / "s.json"))
    assert len(JSON_RIGHT + JSON_WRONG) >= 30
    for text in JSON_RIGHT:
        assert check.score({}, text, True) == 1.0, text
    for text in JSON_WRONG:
        assert check.score({}, text, True) == 0.0, text[:50]
    for found, sentence in (
        ("{", "no JSON Schema can be read"),
        ('{"type": "thing"}', "no JSON Schema can be read .'thing'"),
        ('{"items": {"$ref": "https://example.org/a.json"}}', "refers to https://example.org"),
    ):
        (tmp_path / "s.json").write_text(found)
        with pytest.raises(UserError, match=sentence):
            schema(str(tmp_path / "s.json"))


HUMAN = {
    "record": {
        "prompt": "import math\n\n\ndef root(x):\n    '''The square root.\n    >>> root(4)\n"
        "    2.0\n    '''\n",
        "entry_point": "root",
        "test": "def check(candidate):\n"
        "    assert candidate(4) == 2\n    assert candidate(9) == 3\n",
    }
}
LISTED = {"record": {"test_list": ["assert double(2) == 4", "assert double('a') == 'aa'"]}}
BODY = "    return math.sqrt(x)\n"
WHOLE = "def root(x):\n    return math.sqrt(x)\n"
CODE_RIGHT = [
    BODY, BODY.strip(), "y = math.sqrt(x)\nreturn y", "y = x ** 0.5\n    return y",
    f"\n{BODY}", f"{BODY}\n\nprint(root(4))\n", f"{BODY}\nThis is the square root.", WHOLE,
    f"import math\n{WHOLE}", f"```python\n{WHOLE}```", f"```\n{WHOLE}```", f"```py\n{WHOLE}\n```",
    f"Sure! Here it is:\n\n```python\n{WHOLE}```\n\nIt takes the root.",
    f"First try:\n```python\nprint(1)\n```\nThen:\n```python\n{WHOLE}```",
    f"```python\n{BODY}```", "root = lambda x: x ** 0.5", "from math import sqrt as root",
    f"{WHOLE}\nif __name__ == '__main__':\n    raise SystemExit(1)",
    "def helper(x):\n    return x ** 0.5\n\ndef root(x):\n    return helper(x)",
    "    if x == 4:\n        return 2\n    return 3\n", f"```python\n{WHOLE}",
]  # fmt: skip
CODE_WRONG = [
    "", "    return x\n", "    pass\n", "    return 2\n", "    return None\n", "2", "def root(x):",
    "def square_root(x):\n    return x ** 0.5", "```python\n```", "I cannot write code.", "    (\n",
    "def root(x):\n    return math.sqrt(x) + 1e-3", "    return str(math.sqrt(x))\n", "\x00",
    "    import sys; sys.exit(0)\n", "    import os; os._exit(0)\n", "import sys\nsys.exit(0)",
    "def check(candidate):\n    pass\n\ndef root(x):\n    return 0",
    "class root:\n    def __init__(self, x): pass\n    def __eq__(self, other): return True",
    "    raise AssertionError\n", "    while True: pass\n", "    return [2, 3]\n", "root = 2",
    "    return float('nan')\n", f"'''\n{WHOLE}'''", "    return 2 if x else 3\n",
    "def root(x, y):\n    return x ** 0.5", "async def root(x):\n    return x ** 0.5",
    "def root(x):\n    yield x ** 0.5", "def root(x):\n    print(x ** 0.5)", "    yield 2\n",
]  # fmt: skip


@pytest.mark.skipif(
    None in sandbox.protections().values(), reason="this machine cannot confine what is run"
)
def test_programs():
    """Break it: take the text for the program whatever it defines."""
    check = verifiers.tests("3")
    assert len(CODE_RIGHT + CODE_WRONG) >= 30
    check.look(HUMAN), check.look(LISTED)
    for text in CODE_RIGHT:
        assert check.score(HUMAN, text, True) == 1.0, text
    for text in CODE_WRONG:
        assert check.score(HUMAN, text, True) == 0.0, text
    for text, score in (("double = lambda x: x * 2", 1), ("double = lambda x: x + x + 0", 0)):
        assert check.score(LISTED, text, True) == score
    with pytest.raises(UserError, match="no number of seconds"):
        verifiers.tests("soon")


def test_gsm8k_itself(shared_data):
    """The labels of the authors' own verifier, on 5,276 solutions of four of their models."""
    check = gsm8k()
    with gzip.open(shared_data / "gsm8k" / "example_model_solutions.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file][:400]
    for row in rows:
        record = {"answer": row["ground_truth"]}
        check.look(record)
        for name in ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification"):
            one = row[name]
            assert check.score(record, one["solution"], True) == float(one["is_correct"])


@pytest.mark.slow
def test_humaneval_itself(shared_data):
    check = verifiers.tests()
    with gzip.open(shared_data / "humaneval" / "HumanEval.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    for row in rows:
        check.look(row)
        assert check.score(row, row["canonical_solution"], True) == 1.0, row["task_id"]
        assert check.score(row, "    return None\n", True) == 0.0, row["task_id"]
