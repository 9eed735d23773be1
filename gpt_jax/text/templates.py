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

import re

from gpt_jax.errors import UserError
from gpt_jax.text.template import Template, Turn


def _at_lines(names: str) -> re.Pattern:
    """The beginning of a line where one of these names stands."""
    return re.compile(rf"(?<=[\r\n\v\f\x1c-\x1e\x85\u2028\u2029])(?=(?:{names}):)")


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
        " 'commands': ['Commands', '<eoc>'],"
        " 'assistant': ['MOSS', '<eom>']} %}"
        "{% for message in messages %}"
        "{% if message['role'] == 'system' %}{{ message['content'] | trim + '\\n' }}"
        "{% elif message['role'] == 'results' %}"
        "{{ '<|Results|>:\\n' + message['content'] + '\\n<eor>\\n' }}"
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
        "results": Turn("<|Results|>:\n", "\n<eor>\n"),
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
