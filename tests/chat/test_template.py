from __future__ import annotations

from typing import Any

import pytest

from tests.helpers.chat_templates import (
    APPENDABLE,
    CHATML,
    HOISTING,
    MERGING,
    REFUSED,
    tokenizer_of,
)
from transom.chat import Dialogue, Turns
from transom.errors import InputError

STRICT = "{% if messages[0]['role'] == 'tool' %}{{ raise_exception('no tools') }}{% endif %}x"


def turns(template: str | None) -> Turns:
    return Turns(tokenizer_of(template))


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def test_a_conversation_turn_by_turn_is_the_conversation_at_once() -> None:
    chat = turns(CHATML)
    pieces = [
        chat.opening([user("a")], reply=True),
        "b",
        chat.after_answer([user("c")], reply=True),
        "d",
        chat.after_answer([user("e"), {"role": "assistant", "content": "f"}], reply=False),
        chat.after("assistant", [user("g")], reply=False),
    ]
    assert "".join(pieces) == (
        "<start>system\nBe good.<end>\n<start>user\na<end>\n<start>assistant\nb<end>\n"
        "<start>user\nc<end>\n<start>assistant\nd<end>\n<start>user\ne<end>\n"
        "<start>assistant\nf<end>\n<start>user\ng<end>\n"
    )


@pytest.mark.parametrize("family", APPENDABLE)
@pytest.mark.parametrize("roles", ["u", "su", "uau", "suauau"])
def test_every_appendable_template_gives_its_own_rendering(family: str, roles: str) -> None:
    template, _, answer = APPENDABLE[family]
    tokenizer = tokenizer_of(template)
    chat = Turns(tokenizer)

    def said(role: str, text: str) -> dict[str, Any]:
        name = {"s": "system", "u": "user", "a": "assistant"}[role]
        parts = family == "parts"
        return {"role": name, "content": [{"type": "text", "text": text}] if parts else text}

    first = [said(role, f"t{place}") for place, role in enumerate(roles)]
    if family == "gemma" and roles.startswith("s"):
        with pytest.raises(InputError, match="no system role"):
            chat.opening(first, reply=True)
        return
    text, spoken = chat.opening(first, reply=True), list(first)
    for place in range(3):
        new = [said("u", f"q{place}")]
        text += answer + chat.after_answer(new, reply=True)
        spoken += [said("a", answer), *new]
    assert text == tokenizer.apply_chat_template(spoken, tokenize=False, add_generation_prompt=True)


@pytest.mark.parametrize("template", REFUSED)
def test_a_template_that_changes_what_came_before_is_refused(template: str) -> None:
    with pytest.raises(InputError, match=r"changes .* when new messages follow.*apply_chat_templ"):
        turns(REFUSED[template]).opening([user("a")], reply=True)
    assert "a" in turns(REFUSED[template]).whole([user("a")], reply=True)


def test_a_system_prompt_that_moves_along_is_refused_where_there_is_one() -> None:
    """Mistral's: it stands before the newest question."""
    chat = turns(
        "{% set given = messages | selectattr('role', 'equalto', 'system') | list %}"
        "{% for m in messages if m['role'] != 'system' %}{% if m['role'] == 'user' %}<user>"
        "{% if loop.last and given %}{{ given[0]['content'] }}\n{% endif %}{{ m['content'] }}<bot>"
        "{% else %}{{ m['content'] }}<eos>{% endif %}{% endfor %}"
    )
    assert chat.opening([user("a")], reply=True) == "<user>a<bot>"
    with pytest.raises(InputError, match="changes earlier messages"):
        chat.opening([{"role": "system", "content": "s"}, user("a")], reply=True)


def test_a_system_prompt_that_becomes_part_of_a_question_comes_with_it() -> None:
    chat, system = turns(MERGING), {"role": "system", "content": "s"}
    assert chat.opening([system, user("a")], reply=False) == "<bos><start>user\ns\n\na<end>\n"
    with pytest.raises(InputError, match="changes earlier messages"):
        chat.opening([system], reply=False)
    with pytest.raises(InputError, match="changes earlier messages"):
        chat.after("system", [user("a")], reply=True)


def test_a_system_prompt_that_goes_before_everything_cannot_come_later() -> None:
    chat, system = turns(HOISTING), {"role": "system", "content": "s"}
    assert chat.opening([system, user("a")], reply=False) == "<bos>s<start>user\na<end>\n"
    for late in (
        lambda: chat.after_answer([system, user("a")], reply=True),
        lambda: chat.after("user", [system], reply=False),
    ):
        with pytest.raises(InputError, match="when new messages follow"):
            late()


@pytest.mark.parametrize("wrong", ["b", None, {"content": "b"}, {"role": None, "content": "b"}])
def test_what_is_no_message_is_refused(wrong: Any) -> None:
    with pytest.raises(InputError, match=r"is no message; expected .*'role'"):
        turns(CHATML).opening([user("a"), wrong], reply=True)


def test_tool_results_that_are_joined_cannot_come_one_by_one() -> None:
    joined = (
        "{% for m in messages %}{% if m['role'] == 'tool' %}{{ m['content'] }}"
        "{% if loop.last or messages[loop.index]['role'] != 'tool' %}<end>{% endif %}"
        "{% else %}<start>{{ m['role'] }}\n{{ m['content'] }}<end>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<start>assistant\n{% endif %}"
    )
    tool = {"role": "tool", "content": "9"}
    chat = turns(joined)
    assert chat.after_answer([tool, tool], reply=True) == "<end>99<end><start>assistant\n"
    assert chat.after("tool", [user("a")], reply=False) == "<start>user\na<end>"
    with pytest.raises(InputError, match="a message of the role 'tool'"):
        chat.after("tool", [tool], reply=True)


def test_messages_whose_tokens_grow_together_are_refused() -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {letter: place for place, letter in enumerate("?abcdefghijklmnopqrstuvwxyz-\n #")}
    backend = Tokenizer(models.BPE({**vocabulary, "\n#": 50}, [("\n", "#")], unk_token="?"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="?")
    tokenizer.chat_template = "{% for m in messages %}# {{ m['content'] }}\n{% endfor %}"
    with pytest.raises(InputError, match=r"after a message of the role 'user'.* other tokens"):
        Turns(tokenizer).after("user", [user("a")], reply=False)


def test_an_answer_that_is_closed_by_plain_text_is_refused() -> None:
    """Where tokens may span the end of an answer and what follows it."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {letter: place for place, letter in enumerate("?abcdefghijklmnopqrstuvwxyz-\n #")}
    backend = Tokenizer(
        models.BPE({**vocabulary, "r\n": 50}, [("r", "\n")], unk_token="?"),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="?")
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    with pytest.raises(InputError, match="becomes other tokens"):
        Turns(tokenizer).opening([user("a")], reply=True)


def test_a_content_that_the_template_does_not_show_is_refused() -> None:
    parts = [{"type": "text", "text": "a"}]
    with pytest.raises(InputError, match=r"content is list.*expected text"):
        turns(CHATML.replace("m['content']", "m['content'] | string")).opening(
            [{"role": "user", "content": parts}], reply=True
        )
    with pytest.raises(InputError, match=r"content is str.*expected a list"):
        turns(APPENDABLE["parts"].template).opening([user("a")], reply=True)


def test_a_template_that_refuses_is_quoted() -> None:
    with pytest.raises(InputError, match="no tools"):
        turns(STRICT).opening([{"role": "tool", "content": "a"}], reply=True)


def test_no_template() -> None:
    with pytest.raises(InputError, match="chat template"):
        turns(None)


def test_where_a_dialogue_stands() -> None:
    asked = Dialogue().then([user("a")], reply=True)
    assert asked == Dialogue("assistant", answering=True)
    assert asked.unfinished
    assert not asked.ended(3).unfinished
    assert asked.ended(3).left() == Dialogue("assistant")
    assert Dialogue().then([user("a")], reply=False) == Dialogue("user", asked=True)
    assert asked.cut(0) == Dialogue() == Dialogue().cut(3)
    with pytest.raises(InputError, match=r"was trimmed.*fork\(\)"):
        asked.cut(3).left().text(turns(CHATML), [user("a")], reply=True)


@pytest.mark.model
def test_the_real_template(smollm2: Any) -> None:
    chat = Turns(smollm2.tokenizer)
    whole = smollm2.tokenizer.apply_chat_template(
        [user("a"), {"role": "assistant", "content": "b"}, user("c")],
        tokenize=False,
        add_generation_prompt=True,
    )
    first = chat.opening([user("a")], reply=True) + "b"
    assert first + chat.after_answer([user("c")], reply=True) == whole
