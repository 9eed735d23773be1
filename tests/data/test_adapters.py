"""Rows of data sets that people know by name."""

import json

import pytest

from gpt_jax.data import sources
from gpt_jax.data.schemas import (
    NotADemonstration,
    to_comparison,
    to_demonstration,
    to_document,
    to_prompt,
)
from gpt_jax.errors import UserError


def chat(*texts):
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def system(text, *texts):
    return [{"role": "system", "content": text}, *chat(*texts)]


def moss(asked, reply, thoughts="None", commands="None", results="None"):
    return {
        "Human": f"<|Human|>: {asked}<eoh>\n",
        "Inner Thoughts": f"<|Inner Thoughts|>: {thoughts}<eot>\n",
        "Commands": f"<|Commands|>: {commands}<eoc>\n",
        "Tool Responses": f"<|Results|>:\n{results}\n<eor>\n",
        "MOSS": f"<|MOSS|>: {reply}<eom>\n",
    }


@pytest.mark.parametrize(
    ("row", "turns"),
    [
        ({"question": "1+1?", "answer": "<<1+1=2>>2\n#### 2"}, chat("1+1?", "<<1+1=2>>2\n#### 2")),
        (
            {"instruction": "Who?", "context": "Ada.", "response": "Ada", "category": "closed_qa"},
            chat("Who?\n\nAda.", "Ada"),
        ),
        (
            {"instruction": "Why?", "context": "", "response": "So.", "category": "open_qa"},
            chat("Why?", "So."),
        ),
        (
            {"post": "I ran.", "title": "Run", "subreddit": "running", "summary": "Ran."},
            chat("SUBREDDIT: r/running\nTITLE: Run\nPOST: I ran.\nTL;DR:", "Ran."),
        ),
        ({"prompt": "POST: I ran. TL;DR:", "label": "Ran."}, chat("POST: I ran. TL;DR:", "Ran.")),
        (
            {"meta_instruction": "Be good.\n", "chat": {"turn_1": moss("a", "b")}},
            system("Be good.", "a", "b"),
        ),
        (
            {"chat": {"turn_1": moss("a", "b", "hm"), "turn_2": moss("c", "d", "oh", "f(x)", "7")}},
            chat(
                "a",
                "<|Inner Thoughts|>: hm\n<|MOSS|>: b",
                "c",
                "<|Inner Thoughts|>: oh\n<|Commands|>: f(x)",
                "<|Results|>: 7",
                "d",
            ),
        ),
        (["a", "b", "c", "d"], chat("a", "b", "c", "d")),
        (
            {
                "instruction": "Why?",
                "completions": [
                    {"response": "bad", "overall_score": 2.0, "fine-grained_score": 1.5},
                    {"response": "good", "overall_score": 1.0, "fine-grained_score": 4.5},
                ],
            },
            chat("Why?", "good"),
        ),
        ({"prompt": "a", "completion": "b", "label": True}, chat("a", "b")),
        (
            {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
            chat("a", "b"),
        ),
    ],
)
def test_demonstrations(row, turns):
    assert to_demonstration(row) == {"messages": turns}
    end = turns[:-1]
    assert to_prompt(row)["prompt"] == end


@pytest.mark.parametrize("label", [False, 0, "False", "false", "0"])
def test_a_reply_that_is_marked_as_bad(label):
    """Also in a table, whose cells are all text."""
    with pytest.raises(NotADemonstration):
        to_demonstration({"prompt": "a", "completion": "b", "label": label})


@pytest.mark.parametrize(
    ("row", "prompt", "completions", "ranks"),
    [
        (
            {
                "instruction": "Why?",
                "models": ["x", "y", "z"],
                "completions": [
                    {"response": "a", "overall_score": 2},
                    {"response": "b", "overall_score": 7.5},
                    {"response": "c", "overall_score": 2.0},
                ],
            },
            chat("Why?"),
            ["a", "b", "c"],
            [1, 0, 1],
        ),
        (
            {
                "prompt": "Why?",
                "chosen": chat("Why?", "a"),
                "rejected": chat("Why?", "b"),
                "score_chosen": 8.0,
                "messages": chat("Why?", "a"),
            },
            chat("Why?"),
            ["a", "b"],
            [0, 1],
        ),
        (
            {
                "info": {"id": "t3_x", "post": "I ran.", "title": "Run", "subreddit": "running"},
                "summaries": [{"text": "No.", "policy": "sup"}, {"text": "Ran.", "policy": "ref"}],
                "choice": 1,
                "worker": "w",
            },
            chat("SUBREDDIT: r/running\nTITLE: Run\nPOST: I ran.\nTL;DR:"),
            ["No.", "Ran."],
            [1, 0],
        ),
        (
            {
                "question": "1+1?",
                "ground_truth": "2",
                "6b": {"is_correct": False, "solution": "3"},
                "175b": {"is_correct": True, "solution": "2!"},
            },
            chat("1+1?"),
            ["3", "2!"],
            [1, 0],
        ),
    ],
)
def test_comparisons(row, prompt, completions, ranks):
    found = to_comparison(row)
    assert (found["prompt"], found["completions"], found["ranks"]) == (prompt, completions, ranks)


def test_poems_are_documents():
    row = {"title": "春", "author": "无名", "paragraphs": ["春来。", "花开。"]}
    assert to_document(row) == {"text": "春\n无名\n春来。\n花开。"}


@pytest.mark.parametrize(
    ("convert", "row", "said"),
    [
        (
            to_comparison,
            {"instruction": "a", "completions": [{"response": "b"}] * 2},
            "completion 1",
        ),
        (
            to_comparison,
            {"instruction": "a", "completions": [{"response": "b", "overall_score": float("nan")}]},
            "not nan",
        ),
        (to_comparison, {"instruction": "a", "completions": []}, "is empty"),
        (to_comparison, {"post": "a", "summaries": ["b", "c"], "choice": 2}, "`choice` must be"),
        (to_comparison, {"post": "a", "summaries": ["b", "c"], "choice": True}, "`choice` must be"),
        (to_demonstration, {"chat": {"turn_2": moss("a", "b")}}, "`turn_1`, `turn_2`"),
        (to_demonstration, {"chat": {"turn_1": "a"}}, "`turn_1` of `chat` must be"),
        (to_demonstration, {"chat": {"turn_1": {"Human": 3, "MOSS": "b"}}}, "not int"),
        (
            to_demonstration,
            {"chat": {"turn_1": moss("", "b")}},
            "`content` in turn 1 of `messages` is empty",
        ),
        (to_document, {"paragraphs": [1]}, "list of strings"),
        (to_prompt, {"question": 3, "answer": "4"}, "not int"),
    ],
)
def test_broken_rows(convert, row, said):
    with pytest.raises(UserError, match=said):
        convert(row)


# OpenAssistant.

TREE = [
    ("r", None, "prompter", "Hello?", None),
    ("a", "r", "assistant", "Hi, better.", 0),
    ("b", "r", "assistant", "Hi.", 1),
    ("c", "a", "prompter", "And?", None),
    ("d", "c", "assistant", "Well.", None),
    ("e", "b", "prompter", "Lost.", None),
]


def flat(rows):
    keys = ("message_id", "parent_id", "role", "text", "rank")
    return [dict(zip(keys, row, strict=True)) for row in rows]


def nested(rows):
    nodes = {row["message_id"]: {**row, "replies": []} for row in flat(rows)}
    for node in nodes.values():
        if node["parent_id"]:
            nodes[node["parent_id"]]["replies"].append(node)
    return [{"message_tree_id": "r", "prompt": nodes["r"]}]


def read(tmp_path, rows, kind):
    path = tmp_path / "oasst.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return sources.read_counted(str(path), kind, "all")


@pytest.mark.parametrize("layout", [flat, nested])
def test_trees(tmp_path, layout):
    rows, left_out = read(tmp_path, layout(TREE), "demonstrations")
    assert rows == [{"messages": chat("Hello?", "Hi, better.", "And?", "Well.")}]
    assert left_out == {"replies that another is ranked above": 1}
    [row] = read(tmp_path, layout(TREE), "comparisons").rows
    assert row["prompt"] == chat("Hello?") and row["ranks"] == [0, 1]
    assert row["completions"] == ["Hi, better.", "Hi."]
    prompts = [row["prompt"] for row in read(tmp_path, layout(TREE), "prompts").rows]
    assert prompts == [chat("Hello?"), chat("Hello?", "Hi, better.", "And?")]


def test_a_conversation_whose_last_question_has_no_reply_ends_before_it(tmp_path):
    """Break: end a demonstration only at a reply that nothing follows."""
    rows = read(tmp_path, flat(TREE[:2] + TREE[3:4]), "demonstrations").rows
    assert rows == [{"messages": chat("Hello?", "Hi, better.")}]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"message_id": "a"}, "`message_id` a stands twice"),
        ({"parent_id": "zzz"}, "its `parent_id` zzz is not in the file"),
        ({"parent_id": "d", "message_id": "x"}, None),
        ({"role": "robot"}, "a message needs a `role`"),
        ({"role": ["prompter"]}, "a message needs a `role`"),
        ({"message_id": 3}, "must be strings"),
    ],
)
def test_broken_trees(tmp_path, change, said):
    rows = flat(TREE)
    rows[3] |= change
    if said is None:  # c hangs below d, and d below c
        rows[4]["parent_id"] = "x"
        said = "its parents form a circle"
    with pytest.raises(UserError, match=said):
        read(tmp_path, rows, "demonstrations")


def test_refused_messages_are_left_out(tmp_path):
    rows = flat(TREE)
    rows[1]["deleted"] = True
    found, left_out = read(tmp_path, rows, "demonstrations")
    assert found == [{"messages": chat("Hello?", "Hi.")}] and left_out.total() == 1


# Real files, where they are at hand.

REAL = [
    ("alpaca/alpaca_first10k.jsonl.gz", "demonstrations", 10_000),
    ("alpaca/alpaca_zh.jsonl.gz", "demonstrations", 9_251),
    ("books-en/books_core.txt.xz", "text", 59),
    ("chinese-poetry/lunyu_simp.jsonl.xz", "text", 20),
    ("chinese-poetry/shijing_chuci_simp.jsonl.xz", "text", 370),
    ("chinese-poetry/song_ci_simp.jsonl.xz", "text", 21_050),
    ("chinese-poetry/yuan_qu_simp.jsonl.xz", "text", 11_057),
    ("gsm8k/train.jsonl", "demonstrations", 7_473),
    ("gsm8k/example_model_solutions.jsonl.gz", "comparisons", 1_319),
    ("gsm8k/test.jsonl", "prompts", 1_319),
    ("gsm8k/test_socratic.jsonl", "demonstrations", 1_319),
    ("hh-rlhf/harmless-base-test.jsonl.gz", "comparisons", 2_312),
    ("hh-rlhf/helpful-base-test.jsonl.gz", "comparisons", 2_352),
    ("hh-rlhf/split_train.jsonl.gz", "comparisons", 3_727),
    ("hh-rlhf/split_eval.jsonl.gz", "comparisons", 929),
    ("hh-rlhf/split_train.jsonl.gz", "prompts", 3_727),
    ("lambada/lambada_test.jsonl.gz", "text", 5_153),
    ("moss-sft/conversations_with_plugins.jsonl.gz", "demonstrations", 500),
    ("moss-sft/conversations_without_plugins.jsonl.gz", "demonstrations", 620),
    ("moss-sft/moss-rlhf_ppo_train.json", "prompts", 31),
    ("moss-sft/moss-rlhf_ppo_valid.json", "prompts", 31),
    ("moss-sft/user_prompts.jsonl.gz", "prompts", 620),
    ("preference-small/dpo_zh_500.jsonl.gz", "comparisons", 500),
    ("preference-small/llamafactory_alpaca_en_demo.json.gz", "demonstrations", 999),
    ("preference-small/llamafactory_alpaca_zh_demo.json.gz", "demonstrations", 1_000),
    ("preference-small/llamafactory_dpo_en_demo.json.gz", "comparisons", 300),
    ("preference-small/llamafactory_dpo_zh_demo.json.gz", "comparisons", 300),
    ("preference-small/llamafactory_kto_en_demo.json.gz", "demonstrations", 300),
    ("preference-small/rasbt_instruction-data-with-preference.json", "comparisons", 1_100),
    ("preference-small/rasbt_instruction-data-with-preference.json", "demonstrations", 1_100),
    ("self-instruct/seed_tasks.jsonl", "demonstrations", 175),
    ("self-instruct/user_oriented_instructions.jsonl", "prompts", 252),
]


@pytest.mark.parametrize(("file", "kind", "count"), REAL)
def test_every_training_file_loads_by_its_path_alone(shared_data, file, kind, count):
    """Every row is read, or counted among those that nothing can be learned from; and the number is
    the one that SOURCE.md says."""
    found = sources.read_counted(str(shared_data / file), kind, "all")
    assert len(found.rows) + found.left_out.total() == count
    source = (shared_data / file).parent / "SOURCE.md"
    [line] = [
        line for line in source.read_text().splitlines() if f"| {file.split('/')[1]} |" in line
    ]
    assert line.split("|")[3].split()[0].replace(",", "") == str(count)


def test_moss_in_two_languages(shared_data):
    files = ["moss-sft/conversations_without_plugins.jsonl.gz"]
    rows = sources.read(str(shared_data / files[0]), "demonstrations", "all")
    assert all(row["messages"][0]["role"] == "system" for row in rows)
    chinese = sum(any("一" <= c <= "鿿" for c in row["messages"][1]["content"]) for row in rows)
    assert 200 < chinese < 500
    said = [turn["content"] for row in rows for turn in row["messages"]]
    assert not any("<eo" in text[-6:] or text.startswith("<|") for text in said)


def test_trees_in_tables(tmp_path):
    """A .csv has texts only, a .parquet file no key where a cell is empty."""
    columns = list(flat(TREE)[0])
    path = tmp_path / "oasst.csv"
    lines = [columns, *([str("" if v is None else v) for v in row] for row in TREE)]
    path.write_text("\n".join(",".join(f'"{cell}"' for cell in line) for line in lines))
    expected = [{"messages": chat("Hello?", "Hi, better.", "And?", "Well.")}]
    assert sources.read(str(path), "demonstrations", "all") == expected
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(
        pyarrow.Table.from_pylist(flat(TREE)), tmp_path / "oasst.parquet"
    )
    assert sources.read(str(tmp_path / "oasst.parquet"), "demonstrations", "all") == expected
