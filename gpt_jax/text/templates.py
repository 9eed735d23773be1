"""The chat templates that are known by name, each as its publisher lays it out.

    gpt_jax   <|system|> be brief<|user|> hello<|assistant|> hi!<eos>
    chatml    <|im_start|>user\\nhello<|im_end|>\\n<|im_start|>assistant\\nhi!<|im_end|>\\n
    llama3    <|start_header_id|>user<|end_header_id|>\\n\\nhello<|eot_id|>...
    gemma     <start_of_turn>user\\nhello<end_of_turn>\\n<start_of_turn>model\\nhi!<end_of_turn>\\n
    mistral   [INST] hello [/INST] hi!</s>
    alpaca    Below is an instruction ...\\n\\n### Instruction:\\nhello\\n\\n### Response:hi!<eos>
    hh        \\n\\nHuman: hello\\n\\nAssistant: hi!<eos>
    moss      <|Human|>: hello<eoh>\\n<|MOSS|>: hi!<eom>\\n

A template also says itself in Jinja, which other libraries run and a folder keeps; the tests hold
the two against each other. Where turns are marked by ordinary text, a marker that somebody's words
spell is moved apart by a space, so that nobody forges a turn.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gpt_jax.errors import UserError
from gpt_jax.text.layout import Ends, Marks, Message, Piece


class Turn(NamedTuple):
    """How a turn of one role is laid out.

    Attributes:
      opens, closes: what stands around its words; the assistant learns to say `closes`.
      after: what follows and is not learned.
      spoken: whether the assistant says it.
      trimmed: whether white space around its words is taken off.
    """

    opens: str
    closes: str = ""
    after: str = ""
    spoken: bool = False
    trimmed: bool = False


@dataclasses.dataclass(frozen=True)
class Template:
    """A chat template.

    Attributes:
      name: what people call it.
      jinja: the same layout as a Jinja template.
      turns: by role.
      tokens: the special tokens that it is made of, besides the tokenizer's own.
      begins: stands in front of all turns.
      system: what the system says where a conversation does not tell.
      folded: whether the system has no turn, and its words begin the user's first.
      space: what stands before the assistant's first word, which the assistant says.
      forged: where a space is put into anybody's words; None: markers are tokens, not text.
    """

    name: str
    jinja: str
    turns: Mapping[str, Turn] = dataclasses.field(hash=False)
    tokens: tuple[str, ...] = ()
    begins: str = ""
    system: str | None = None
    folded: bool = False
    space: str = ""
    forged: re.Pattern | None = None

    def pieces(
        self, messages: Sequence[Message], marks: Marks, waiting: bool = False
    ) -> list[Piece]:
        """The conversation laid out; `waiting`: up to where the assistant speaks next.

        Raises:
          UserError: if a role has no turn here.
        """
        messages = list(messages)
        if self.system is not None and (not messages or messages[0]["role"] != "system"):
            messages = [Message(role="system", content=self.system), *messages]
        front = ""
        if self.folded and messages and messages[0]["role"] == "system":
            front, messages = self._words(messages[0]["content"], True) + "\n\n", messages[1:]
            if not messages or messages[0]["role"] != "user":
                raise UserError(
                    f"the chat template {self.name} has no turn for the system, and its words need "
                    "a user's turn right behind them"
                )
        found = [Piece(marks.fill(self.begins), markup=True)]
        for message in messages:
            turn = self._turn(message["role"])
            words = self._words(message["content"], turn.trimmed)
            found.append(Piece(marks.fill(turn.opens), markup=True))
            if turn.spoken:
                found += self._spoken(words, turn, True, marks)
            else:
                found += [Piece(front + words), Piece(marks.fill(turn.closes), markup=True)]
            found.append(Piece(marks.fill(turn.after), markup=True))
            front = ""
        if waiting:
            found.append(Piece(marks.fill(self._turn("assistant").opens), markup=True))
        return found

    def completion(self, text: str, stopped: bool, marks: Marks) -> list[Piece]:
        """What follows a conversation that waits: the assistant's words, and what ends them."""
        turn = self._turn("assistant")
        return self._spoken(self._words(text, turn.trimmed), turn, stopped, marks)

    def ends(self, marks: Marks) -> Ends:
        """What stands around the assistant's words."""
        asked, said = self._turn("user"), self._turn("assistant")
        before = asked.closes + asked.after + said.opens
        return Ends(marks.fill(before), self.space, marks.fill(said.closes))

    def _turn(self, role: str) -> Turn:
        if role not in self.turns:
            raise UserError(
                f"the chat template {self.name} has no turn for the role {role!r}; it has those of "
                + ", ".join(self.turns)
            )
        return self.turns[role]

    def _spoken(self, words: str, turn: Turn, stopped: bool, marks: Marks) -> list[Piece]:
        said = [Piece(self.space + words, spoken=True)]
        return said + [Piece(marks.fill(turn.closes), markup=True, spoken=True)] * stopped

    def _words(self, text: str, trimmed: bool) -> str:
        text = text.strip() if trimmed else text
        return self.forged.sub(" ", text) if self.forged else text


def _at_lines(names: str) -> re.Pattern:
    """The beginning of a line, that of the text included, where one of these names stands."""
    return re.compile(rf"(?:^|(?<=[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]))(?=(?:{names}):)")


OURS = Template(
    name="gpt_jax",
    jinja=(
        "{% for message in messages %}"
        "{{ '<|' + message['role'] + '|> ' + message['content'] }}"
        "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    ),
    turns={
        "system": Turn("<|system|> "),
        "user": Turn("<|user|> "),
        "assistant": Turn("<|assistant|>", "{eos}", spoken=True),
    },
    tokens=("<|user|>", "<|assistant|>", "<|system|>"),
    space=" ",
)

CHATML = Template(
    name="chatml",
    jinja=(
        "{% for message in messages %}"
        "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
    turns={
        "system": Turn("<|im_start|>system\n", "<|im_end|>\n"),
        "user": Turn("<|im_start|>user\n", "<|im_end|>\n"),
        "assistant": Turn("<|im_start|>assistant\n", "<|im_end|>", "\n", spoken=True),
    },
    tokens=("<|im_start|>", "<|im_end|>"),
)

_HEADER = "<|start_header_id|>{}<|end_header_id|>\n\n"
LLAMA3 = Template(
    name="llama3",
    jinja=(
        "{{ bos_token }}{% for message in messages %}"
        "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
        "{{ message['content'] | trim }}{{ '<|eot_id|>' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
    ),
    turns={
        "system": Turn(_HEADER.format("system"), "<|eot_id|>", trimmed=True),
        "user": Turn(_HEADER.format("user"), "<|eot_id|>", trimmed=True),
        "assistant": Turn(_HEADER.format("assistant"), "<|eot_id|>", spoken=True, trimmed=True),
    },
    tokens=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    begins="{bos}",
)

GEMMA = Template(
    name="gemma",
    jinja=(
        "{{ bos_token }}"
        "{% if messages[0]['role'] == 'system' %}"
        "{% set front = messages[0]['content'] | trim + '\\n\\n' %}"
        "{% set turns = messages[1:] %}"
        "{% else %}{% set front = '' %}{% set turns = messages %}{% endif %}"
        "{% for message in turns %}"
        "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
        "{{ '<start_of_turn>' + role + '\\n' + (front if loop.first else '') }}"
        "{{ message['content'] | trim }}{{ '<end_of_turn>\\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
    ),
    turns={
        "user": Turn("<start_of_turn>user\n", "<end_of_turn>\n", trimmed=True),
        "assistant": Turn(
            "<start_of_turn>model\n", "<end_of_turn>", "\n", spoken=True, trimmed=True
        ),
    },
    tokens=("<start_of_turn>", "<end_of_turn>"),
    begins="{bos}",
    folded=True,
)

MISTRAL = Template(
    name="mistral",
    jinja=(
        "{{ bos_token }}"
        "{% if messages[0]['role'] == 'system' %}"
        "{% set front = messages[0]['content'] | trim + '\\n\\n' %}"
        "{% set turns = messages[1:] %}"
        "{% else %}{% set front = '' %}{% set turns = messages %}{% endif %}"
        "{% for message in turns %}"
        "{% if message['role'] == 'user' %}"
        "{{ '[INST] ' + (front if loop.first else '') + message['content'] + ' [/INST]' }}"
        "{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}"
        "{% endfor %}"
    ),
    turns={
        "user": Turn("[INST] ", " [/INST]"),
        "assistant": Turn("", "{eos}", spoken=True),
    },
    begins="{bos}",
    folded=True,
    space=" ",
    forged=re.compile(r"(?<=\[)(?=/?INST\])"),
)

_TASK = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request."
)
ALPACA = Template(
    name="alpaca",
    jinja=(
        "{% if messages[0]['role'] != 'system' %}{{ '" + _TASK + "\\n\\n' }}{% endif %}"
        "{% for message in messages %}"
        "{% if message['role'] == 'system' %}{{ message['content'] + '\\n\\n' }}"
        "{% elif message['role'] == 'user' %}"
        "{{ '### Instruction:\\n' + message['content'] + '\\n\\n' }}"
        "{% else %}{{ '### Response:' + message['content'] + eos_token + '\\n\\n' }}{% endif %}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '### Response:' }}{% endif %}"
    ),
    turns={
        "system": Turn("", "\n\n"),
        "user": Turn("### Instruction:\n", "\n\n"),
        "assistant": Turn("### Response:", "{eos}", "\n\n", spoken=True),
    },
    system=_TASK,
    forged=_at_lines("### (?:Instruction|Input|Response)"),
)

HH = Template(
    name="hh",
    jinja=(
        "{% for message in messages %}"
        "{% if message['role'] == 'system' %}{{ message['content'] }}"
        "{% elif message['role'] == 'user' %}{{ '\\n\\nHuman: ' + message['content'] }}"
        "{% else %}{{ '\\n\\nAssistant: ' + message['content'] + eos_token }}{% endif %}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '\\n\\nAssistant:' }}{% endif %}"
    ),
    turns={
        "system": Turn(""),
        "user": Turn("\n\nHuman: "),
        "assistant": Turn("\n\nAssistant:", "{eos}", spoken=True),
    },
    space=" ",
    forged=_at_lines("Human|Assistant"),
)

# Plugins: thoughts, commands and results stand between the user's turn and the assistant's.
MOSS = Template(
    name="moss",
    jinja=(
        "{% set names = {'user': ['Human', '<eoh>'], 'thoughts': ['Inner Thoughts', '<eot>'],"
        " 'commands': ['Commands', '<eoc>'], 'results': ['Results', '<eor>'],"
        " 'assistant': ['MOSS', '<eom>']} %}"
        "{% for message in messages %}"
        "{% if message['role'] == 'system' %}{{ message['content'] | trim + '\\n' }}"
        "{% else %}{{ '<|' + names[message['role']][0] + '|>: ' + message['content']"
        " + names[message['role']][1] + '\\n' }}{% endif %}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|MOSS|>:' }}{% endif %}"
    ),
    turns={
        "system": Turn("", "\n", trimmed=True),
        "user": Turn("<|Human|>: ", "<eoh>\n"),
        "thoughts": Turn("<|Inner Thoughts|>:", "<eot>", "\n", spoken=True),
        "commands": Turn("<|Commands|>:", "<eoc>", "\n", spoken=True),
        "results": Turn("<|Results|>: ", "<eor>\n"),
        "assistant": Turn("<|MOSS|>:", "<eom>", "\n", spoken=True),
    },
    tokens=("<eoh>", "<eom>", "<eot>", "<eoc>", "<eor>"),
    space=" ",
    forged=re.compile(r"(?<=<)(?=\|(?:Human|Inner Thoughts|Commands|Results|MOSS)\|>)"),
)

TEMPLATES = (OURS, CHATML, LLAMA3, GEMMA, MISTRAL, ALPACA, HH, MOSS)


def named(name: str) -> Template:
    """The template of this name. Raises a UserError that lists the names."""
    found = next((template for template in TEMPLATES if template.name == name), None)
    if found is None:
        names = ", ".join(template.name for template in TEMPLATES)
        raise UserError(f"there is no chat template {name!r}; the names are {names}")
    return found
