"""Whatever lies in a file: rows, or one sentence. Never another exception."""

import gzip
import json
import lzma

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt_jax.data import sources
from gpt_jax.errors import UserError

ROWS = [
    {"text": "a document"},
    {"prompt": "what?", "completion": "this."},
    {"prompt": "what?", "chosen": "this.", "rejected": "that."},
    {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]},
    {"instruction": "do it", "input": "", "output": "done"},
    "a bare string",
    7,
    None,
    [],
]
PIECES = st.one_of(
    st.sampled_from(ROWS).map(lambda row: json.dumps(row).encode()),
    st.sampled_from([b"\xef\xbb\xbf", b"\r", b"\x00", b"\xff", b"{", b"]", b"NaN", b"1" * 5000]),
    st.binary(max_size=12),
    st.text(max_size=12).map(lambda text: text.encode("utf-8", "surrogatepass")),
)
ENDS = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}


@settings(
    max_examples=600,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    pieces=st.lists(PIECES, max_size=6),
    between=st.sampled_from([b"\n", b"\r\n", b",", b""]),
    name=st.sampled_from(["a.jsonl", "a.json", "a.txt", "a.csv"]),
    end=st.sampled_from(list(ENDS)),
    cut=st.integers(0, 40),
    kind=st.sampled_from(list(sources.TO_CANONICAL)),
    skip=st.booleans(),
)
def test_any_file_is_rows_or_a_sentence(
    tmp_path, capsys, pieces, between, name, end, cut, kind, skip
):
    content = between.join(pieces)
    if name == "a.json":
        content = b"[" + content + b"]"
    packed = ENDS[end](content)
    path = tmp_path / f"{name}{end}"
    path.write_bytes(packed[: max(0, len(packed) - cut)] if cut < 8 else packed)
    try:
        rows = sources.read(str(path), kind, "all", skip_broken=skip)
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:
        assert rows and all(isinstance(row, dict) for row in rows)
