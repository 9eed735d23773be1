"""What --reward may say, and where it says so when it is wrong."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_jax.errors import UserError
from gpt_jax.rl.reward_spec import look_at, of_model, parse, rule_of
from gpt_jax.rl.stage import OnlineConfig


def read(spec):
    """(weight, fold, [(kind, name, arguments)]) of every term."""
    return [
        (term.weight, term.fold, [(a.kind, a.name, a.arguments) for a in term.atoms])
        for term in parse(spec)
    ]


@pytest.mark.parametrize(
    "spec, terms",
    [
        ("model:runs/a/reward", [(1, None, [("model", "runs/a/reward", None)])]),
        ("model:hf:ORG/a-b@main", [(1, None, [("model", "hf:ORG/a-b@main", None)])]),
        ('model:"my runs/a (1)"', [(1, None, [("model", "my runs/a (1)", None)])]),
        (
            "model:RUN + 0.5*rule:brevity - 2 * verifier:gsm8k",
            [
                (1, None, [("model", "RUN", None)]),
                (0.5, None, [("rule", "brevity", None)]),
                (-2, None, [("verifier", "gsm8k", None)]),
            ],
        ),
        ("-rule:brevity", [(-1, None, [("rule", "brevity", None)])]),
        ("+ 1e-1*rule:safety", [(0.1, None, [("rule", "safety", None)])]),
        (
            ".5*rule:a+rule:b-rule:c",
            [(w, None, [("rule", n, None)]) for w, n in ((0.5, "a"), (1, "b"), (-1, "c"))],
        ),  # fmt: skip
        ("a.b_c:D.e", [(1, None, [("function", "a.b_c:D.e", None)])]),
        (
            "mean(model:A, model:B) - 0.5*variance(model:A,model:B)",
            [
                (1, "mean", [("model", "A", None), ("model", "B", None)]),
                (-0.5, "variance", [("model", "A", None), ("model", "B", None)]),
            ],
        ),
        (
            "2*min( model:A , verifier:number(answer, 0.1) )",
            [(2, "min", [("model", "A", None), ("verifier", "number", "answer, 0.1")])],
        ),
        ("verifier:regex(^a(b|c)$)", [(1, None, [("verifier", "regex", "^a(b|c)$")])]),
        (r"verifier:regex(\)[(]{1,2})", [(1, None, [("verifier", "regex", r"\)[(]{1,2}")])]),
        ('verifier:regex("a)b \\" c")', [(1, None, [("verifier", "regex", 'a)b " c')])]),
        ("verifier:schema(a/b c.json)", [(1, None, [("verifier", "schema", "a/b c.json")])]),
    ],
)
def test_what_can_be_said(spec, terms):
    assert read(spec) == terms


@pytest.mark.parametrize(
    "spec, sentence",
    [
        ("", "column 1: model:RUN, rule:NAME"),
        ("brevity", "column 1: model:RUN, rule:NAME"),
        ("rule:brevity +", "column 15: model:RUN"),
        ("rule:brevity rule:safety", r"column 14: a \+ or - must stand here"),
        ("rule:brevity * 2", r"column 14: a \+ or -"),
        ("rule:", "column 6: the name of a rule"),
        ("os:", "column 4: the name of a function"),
        ("model:", "column 7: the name of a model"),
        ("2*3*rule:brevity", "column 3: model:RUN"),
        ("0*rule:brevity", "column 1: the weight 0 is no number above 0"),
        ("rule:a + 1e50*rule:brevity", "column 10: the weight 1e50 is no number"),
        ("min(model:A)", "column 1: min.* needs at least two"),
        ("min(model:A, model:B", r"column 21: a , or the \) of min\("),
        ("min(min(model:A, model:B), model:C)", "column 5: model:RUN"),
        ("verifier:regex((a)", r"column 15: this \( has no \)"),
        ("rule:brevity + rule:brevity", "has rule:brevity twice; add up its weights"),
    ],
)
def test_what_cannot_be_said(spec, sentence):
    with pytest.raises(UserError, match=sentence):
        parse(spec)


@given(st.text(max_size=60) | st.text('mrv:.*()+-, "\\ab0[]', max_size=60))
def test_every_text_is_read_or_refused_in_a_sentence(spec):
    try:
        terms = parse(spec)
    except UserError as error:
        assert "--reward" in str(error)
    else:
        assert terms and all(term.weight for term in terms)


@pytest.mark.parametrize(
    "spec, sentence",
    [
        ("rule:breifity", "no rule 'breifity'; known are brevity, repetition, refusal, safety"),
        ("verifier:gms8k", "no verifier 'gms8k'; known are exact, number, gsm8k, regex"),
        ("task:nothing", "no task 'nothing' with a score"),
        ("task:verifiers", "no task 'verifiers' with a score"),
        ("rule:safety(3)", "rule:safety.3.: safety takes no arguments"),
        ("rule:brevity(many)", "'many' is no number of words"),
        ("verifier:number(a, 1, 2)", r"number takes \(FIELD, TOLERANCE\)"),
        ("verifier:regex", r"regex takes \(PATTERN\)"),
        ('verifier:regex("(")', "no regular expression"),
        ("verifier:schema(nowhere.json)", "nowhere.json: no JSON Schema can be read"),
        ("nowhere.module:function", "cannot be imported .ModuleNotFoundError"),
        ("os:nothing", "cannot be imported .AttributeError"),
        ("os.path:basename", "must be a function of .record, text, stopped."),
        ("os:name", "must be a function of"),
        ("tests.rl.broken_module:f", "cannot be imported"),
    ],
)
def test_what_is_not_there(spec, sentence):
    with pytest.raises(UserError, match=sentence):
        rule_of(parse(spec)[0].atoms[0])


@pytest.mark.parametrize(
    "spec",
    ["rule:brevity(9)", "verifier:regex(a,b)", "task:microworld", "tests.rl.test_workers:good"],
)
def test_every_rule_can_be_sent_to_another_process(spec):
    rule = rule_of(parse(spec)[0].atoms[0])
    record = {"prompt": [{"role": "user", "content": "2 + 2 = ?"}], "plus": 1}
    rule.look(record)
    again = pickle.loads(pickle.dumps(rule.score))
    assert again(record, "a,b", True) == rule.score(record, "a,b", True)


def test_records_are_looked_at():
    """Invariant 13."""
    [atom] = parse("verifier:gsm8k")[0].atoms
    rows = [{"record": {"answer": "#### 1"}}, {"record": {"answer": "none"}}]
    with pytest.raises(UserError, match="verifier:gsm8k: the prompt of row 1 has no number in"):
        look_at(atom, rule_of(atom), rows)
    [atom] = parse("task:microworld")[0].atoms
    with pytest.raises(UserError, match="row 0 is no question of microworld"):
        look_at(atom, rule_of(atom), [{"prompt": [{"role": "user", "content": "hello there?"}]}])


def test_the_two_ways_to_name_a_model():
    short, long = (
        OnlineConfig(run_dir="a", reward_from="B"),
        OnlineConfig(run_dir="a", reward="model:B"),
    )
    assert short.reward_terms() == long.reward_terms() == of_model("B")
    assert list(short.reward_models().values()) == list(long.reward_models().values()) == ["B"]
    assert OnlineConfig(run_dir="a", reward="rule:brevity").reward_models() == {}
    with pytest.raises(UserError, match="both say what is learned from"):
        OnlineConfig(run_dir="a", reward="rule:brevity", reward_from="B")
    with pytest.raises(UserError, match="column 6"):
        OnlineConfig(run_dir="a", reward="rule:")
