"""What is read back from the page: nothing broken, and nothing of other answers."""

import json

import pytest

from gpt_jax.errors import UserError
from gpt_jax.labels.people import answers_number, read_ranks, write_page
from tests.labels.rows import ROWS, row


def saved(folder, ranks, answers=None):
    path = folder / "ranks.json"
    answers = answers_number(ROWS) if answers is None else answers
    path.write_text(json.dumps({"answers": answers, "ranks": ranks}))
    return path


def test_a_part_of_the_ranks_is_enough(tmp_path):
    """Gaps in them are closed."""
    path = saved(tmp_path, {"0": [5, 0, 5, 2], "3": [1, 0]})
    assert read_ranks(path, ROWS) == {0: [2, 0, 2, 1], 3: [1, 0]}


@pytest.mark.parametrize(
    ("ranks", "sentence"),
    [
        ({}, "`ranks` has no entry"),
        ([[0, 1]], "`ranks` has no entry"),
        ({"9": [0, 1]}, r"ranks\['9'\] is of no prompt"),
        ({"one": [0, 1]}, r"ranks\['one'\] is of no prompt"),
        ({"-1": [0, 1]}, r"ranks\['-1'\] is of no prompt"),
        ({"3": [0, 1, 2]}, r"ranks\['3'\] must be 2 whole numbers"),
        ({"3": [0, 0.5]}, r"ranks\['3'\] must be 2 whole numbers"),
        ({"3": [0, True]}, r"ranks\['3'\] must be 2 whole numbers"),
        ({"3": [0, -1]}, r"ranks\['3'\] must be 2 whole numbers"),
        ({"3": None}, r"ranks\['3'\] must be 2 whole numbers"),
        ({"0": [0, 1, 1, 2]}, r"ranks\['0'\] gives two ranks to equal answers"),
    ],
)
def test_a_broken_entry_is_named(tmp_path, ranks, sentence):
    with pytest.raises(UserError, match=f"ranks.json: {sentence}"):
        read_ranks(saved(tmp_path, ranks), ROWS)


def test_ranks_of_other_answers_are_refused(tmp_path):
    path = saved(tmp_path, {"0": [0, 1]}, answers=answers_number([row(0, "a", "b")]))
    with pytest.raises(UserError, match="ranks other answers than those of this folder"):
        read_ranks(path, ROWS)
    path.write_text("[")
    with pytest.raises(UserError, match="ranks.json is damaged"):
        read_ranks(path, ROWS)


def test_the_order_on_the_page_is_the_seeds_and_mixes_the_splits(tmp_path):
    rows = [row(n, "a", "b", "c", "d", split="train" if n < 40 else "test") for n in range(50)]

    def shown(seed):
        text = write_page(tmp_path, rows, seed).read_text()
        start = text.index('id="data">') + len('id="data">')
        return json.loads(text[start : text.index("</script>", start)])["items"]

    assert shown(0) == shown(0) != shown(1)
    first = [item["row"] for item in shown(0)][:25]
    assert 0 < sum(number >= 40 for number in first) < 25
    assert len({tuple(a["text"] for a in item["answers"]) for item in shown(0)}) > 10
