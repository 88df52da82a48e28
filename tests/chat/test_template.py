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


def test_turns_rendered_one_by_one_join_to_the_whole_conversation() -> None:
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
def test_turns_join_to_what_the_template_itself_renders(family: str, roles: str) -> None:
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
def test_a_template_that_changes_earlier_turns_is_refused(template: str) -> None:
    with pytest.raises(InputError, match=r"changes .* when new messages follow.*apply_chat_templ"):
        turns(REFUSED[template]).opening([user("a")], reply=True)
    assert "a" in turns(REFUSED[template]).whole([user("a")], reply=True)


def test_a_template_that_moves_the_system_prompt_is_refused_if_there_is_one() -> None:
    """Mistral's template puts the system prompt before the newest question."""
    chat = turns(
        "{% set given = messages | selectattr('role', 'equalto', 'system') | list %}"
        "{% for m in messages if m['role'] != 'system' %}{% if m['role'] == 'user' %}<user>"
        "{% if loop.last and given %}{{ given[0]['content'] }}\n{% endif %}{{ m['content'] }}<bot>"
        "{% else %}{{ m['content'] }}<eos>{% endif %}{% endfor %}"
    )
    assert chat.opening([user("a")], reply=True) == "<user>a<bot>"
    with pytest.raises(InputError, match="changes earlier messages"):
        chat.opening([{"role": "system", "content": "s"}, user("a")], reply=True)


def test_a_system_prompt_inside_the_first_question_needs_that_question() -> None:
    chat, system = turns(MERGING), {"role": "system", "content": "s"}
    assert chat.opening([system, user("a")], reply=False) == "<bos><start>user\ns\n\na<end>\n"
    with pytest.raises(InputError, match="changes earlier messages"):
        chat.opening([system], reply=False)
    with pytest.raises(InputError, match="changes earlier messages"):
        chat.after("system", [user("a")], reply=True)


def test_a_system_prompt_cannot_follow_other_messages() -> None:
    chat, system = turns(HOISTING), {"role": "system", "content": "s"}
    assert chat.opening([system, user("a")], reply=False) == "<bos>s<start>user\na<end>\n"
    for late in (
        lambda: chat.after_answer([system, user("a")], reply=True),
        lambda: chat.after("user", [system], reply=False),
    ):
        with pytest.raises(InputError, match="when new messages follow"):
            late()


@pytest.mark.parametrize("wrong", ["b", None, {"content": "b"}, {"role": None, "content": "b"}])
def test_a_value_that_is_not_a_message_is_refused(wrong: Any) -> None:
    with pytest.raises(InputError, match=r"is not a message; expected .*'role'"):
        turns(CHATML).opening([user("a"), wrong], reply=True)


def test_tool_results_that_a_template_joins_cannot_be_appended_one_by_one() -> None:
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


def test_a_template_that_lets_tokens_span_two_messages_is_refused() -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {letter: place for place, letter in enumerate("?abcdefghijklmnopqrstuvwxyz-\n #")}
    backend = Tokenizer(models.BPE({**vocabulary, "\n#": 50}, [("\n", "#")], unk_token="?"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="?")
    tokenizer.chat_template = "{% for m in messages %}# {{ m['content'] }}\n{% endfor %}"
    with pytest.raises(InputError, match=r"after a message of the role 'user'.* other tokens"):
        Turns(tokenizer).after("user", [user("a")], reply=False)


def test_a_template_that_ends_answers_with_plain_text_is_refused() -> None:
    """A token could then span the end of an answer and the text after it."""
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


def test_content_that_the_template_leaves_out_is_refused() -> None:
    parts = [{"type": "text", "text": "a"}]
    with pytest.raises(InputError, match=r"content is list.*expected text"):
        turns(CHATML.replace("m['content']", "m['content'] | string")).opening(
            [{"role": "user", "content": parts}], reply=True
        )
    with pytest.raises(InputError, match=r"content is str.*expected a list"):
        turns(APPENDABLE["parts"].template).opening([user("a")], reply=True)


def test_the_error_of_a_template_is_quoted() -> None:
    with pytest.raises(InputError, match="no tools"):
        turns(STRICT).opening([{"role": "tool", "content": "a"}], reply=True)


def test_a_tokenizer_without_a_template_is_refused() -> None:
    with pytest.raises(InputError, match="chat template"):
        turns(None)


def test_the_state_of_a_dialogue() -> None:
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
