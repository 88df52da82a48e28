"""Chat templates in the manner of model families, and a tokenizer of one id per character."""

from __future__ import annotations

from typing import Any, NamedTuple

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<unk>", "<bos>", "<eos>", "<start>", "<end>", "<user>", "<bot>", "<tool>"]
CHARACTERS = [chr(10), *map(chr, range(32, 127)), "…"]
WORDS = [*SPECIAL, *CHARACTERS]


class Family(NamedTuple):
    """A template, what ends a turn, and how a model of that kind would answer."""

    template: str
    end: str
    answer: str = "yes"


CHATML = (
    "{% if messages[0]['role'] != 'system' %}<start>system\nBe good.<end>\n{% endif %}"
    "{% for m in messages %}<start>{{ m['role'] }}\n{{ m['content'] }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<start>assistant\n{% endif %}"
)
APPENDABLE = {
    "chatml": Family(CHATML, "<end>"),
    "llama3": Family(
        "{{ bos_token }}{% for m in messages %}<start>{{ m['role'] }}\n\n"
        "{% if loop.first and m['role'] == 'system' %}Today is {{ strftime_now('%d %b') }}\n"
        "{% endif %}{{ m['content'] | trim }}<end>{% endfor %}"
        "{% if add_generation_prompt %}<start>assistant\n\n{% endif %}",
        "<end>",
    ),
    "gemma": Family(
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
        "{{ raise_exception('no system role') }}{% endif %}"
        "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}"
        "<start>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
        "{{ m['content'] | trim }}<end>\n{% endfor %}"
        "{% if add_generation_prompt %}<start>model\n{% endif %}",
        "<end>",
    ),
    "phi3": Family(
        "{% for m in messages %}{% if m['role'] == 'user' %}<user>\n{{ m['content'] }}<end>\n"
        "{% elif m['role'] == 'system' %}<start>\n{{ m['content'] }}<end>\n"
        "{% else %}<bot>\n{{ m['content'] }}<end>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<bot>\n{% else %}{{ eos_token }}{% endif %}",
        "<eos>",
    ),
    "mistral": Family(
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}<user> "
        "{{ m['content'] }}<tool>"
        "{% else %} {{ m['content'] | trim }}{{ eos_token }}{% endif %}{% endfor %}",
        "<eos>",
        " yes",
    ),
    "glm": Family(
        "{% for m in messages %}"
        "<{{ {'user': 'user', 'assistant': 'bot'}.get(m['role'], 'tool') }}>\n"
        "{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<bot>\n{% endif %}",
        "<user>",
    ),
    "zephyr": Family(
        "{% for m in messages %}<{{ 'bot' if m['role'] == 'assistant' else m['role'] }}>\n"
        "{{ m['content'] }}{{ eos_token }}\n"
        "{% if loop.last and add_generation_prompt %}<bot>\n{% endif %}{% endfor %}",
        "<eos>",
    ),
    "command": Family(
        "{{ bos_token }}{% for m in messages %}<start>{{ '<bot>' if m['role'] == 'assistant' else "
        "'<user>' }}{{ m['content'].strip() }}<end>{% endfor %}"
        "{% if add_generation_prompt %}<start><bot>{% endif %}",
        "<end>",
    ),
    "parts": Family(
        "{% for m in messages %}<user>{% for part in m['content'] %}{% if part['type'] == 'text' %}"
        "{{ part['text'] }}{% endif %}{% endfor %}<end>{% endfor %}"
        "{% if add_generation_prompt %}<user>{% endif %}",
        "<end>",
    ),
    "kept-reasoning": Family(
        "{% for m in messages %}<start>{{ m['role'] }}\n{{ m['content'].lstrip('\n') }}<end>\n"
        "{% endfor %}{% if add_generation_prompt %}<start>assistant\n{% endif %}",
        "<end>",
        "<think>\nhm\n</think>\nyes",
    ),
}
REASONING = (
    "{% if m['role'] == 'assistant' and '</think>' in content %}"
    "{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}"
)
REFUSED = {
    "r1": "{% for m in messages %}{% set content = m['content'] %}"
    + REASONING
    + "<{{ m['role'][:4] }}>{{ content }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<assi><think>\n{% endif %}",
    "qwen3": "{% for m in messages %}{% set content = m['content'] %}"
    + REASONING
    + "<start>{{ m['role'] }}\n{{ content }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<start>assistant\n{% endif %}",
    "empty-reasoning": "{% for m in messages %}<start>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and '<think>' not in m['content'] %}<think>\n\n</think>\n"
    "{% endif %}{{ m['content'] }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<start>assistant\n{% endif %}",
    "cut-between": "{% for m in messages %}{% set c = m['content'] %}"
    "{% if '[THINK]' in c and '[/THINK]' in c %}{% set c = c.split('[/THINK]')[1] %}{% endif %}"
    "<start>{{ m['role'] }}\n{{ c }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<start>assistant\n{% endif %}",
    "marks-the-last": "{% for m in messages %}"
    "{% if loop.last %}* {% endif %}{{ m['content'] }}<end>"
    "{% endfor %}{% if add_generation_prompt %}<bot>{% endif %}",
    "shows-the-newest": "{% for m in messages[-9:] %}<start>{{ m['role'] }}\n"
    "{{ m['content'] }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<start>assistant\n{% endif %}",
    "shows-one-line": CHATML.replace("m['content']", "m['content'].split('\n')[0]"),
    "lower-case": CHATML.replace("m['content']", "m['content'] | lower"),
    "escapes": CHATML.replace("m['content']", "m['content'] | e"),
    "cuts": CHATML.replace("m['content']", "m['content'][:99]"),
    "forgets-reasoning-later": CHATML.replace(
        "m['content']",
        "(m['content'].split('</think>')[-1] if messages | length > loop.index + 3 "
        "else m['content'])",
    ),
    "counts-turns": "{% for m in messages %}"
    "<user>{{ loop.index }}{{ m['content'] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<bot>{% endif %}",
}

# MERGING puts a system prompt into the first question; HOISTING puts it before everything.
MERGING = (
    "{{ bos_token }}{% set rest = messages %}{% set first = '' %}"
    "{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\n\n' %}"
    "{% set rest = messages[1:] %}{% endif %}{% for m in rest %}<start>{{ m['role'] }}\n"
    "{{ first if loop.first }}{{ m['content'] }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<start>assistant\n{% endif %}"
)
HOISTING = (
    "{{ bos_token }}{% for m in messages if m['role'] == 'system' %}{{ m['content'] }}{% endfor %}"
    "{% for m in messages if m['role'] != 'system' %}<start>{{ m['role'] }}\n"
    "{{ m['content'] }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<start>assistant\n{% endif %}"
)


def tokenizer_of(template: str | None) -> Any:
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens([AddedToken(word, normalized=False) for word in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        chat_template=template,
    )
