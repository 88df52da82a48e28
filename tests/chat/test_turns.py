from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from transom.chat import Turns
from transom.errors import InputError

CHATML = (
    "{% if messages[0]['role'] != 'system' %}<s>system\nBe good.<e>\n{% endif %}"
    "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] }}<e>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
LAST_ONLY = "{% for m in messages %}{% if loop.last %}* {% endif %}{{ m['content'] }}\n{% endfor %}"
STRICT = "{% if messages[0]['role'] == 'tool' %}{{ raise_exception('no tools') }}{% endif %}x"


def turns(template: str | None) -> Turns:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<e>": 0}, unk_token="<e>")), eos_token="<e>"
    )
    tokenizer.chat_template = template
    return Turns(tokenizer)


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def test_a_conversation_turn_by_turn_is_the_conversation_at_once() -> None:
    chat = turns(CHATML)
    pieces = [
        chat.opening([user("a")], reply=True),
        "b<e>",
        chat.closing(ended=True),
        chat.next([user("c")], reply=True),
        "d",
        chat.closing(ended=False),
        chat.next([user("e"), {"role": "assistant", "content": "f"}], reply=False),
    ]
    assert "".join(pieces) == (
        "<s>system\nBe good.<e>\n<s>user\na<e>\n<s>assistant\nb<e>\n<s>user\nc<e>\n"
        "<s>assistant\nd<e>\n<s>user\ne<e>\n<s>assistant\nf<e>\n"
    )


def test_a_template_that_changes_earlier_turns_is_refused() -> None:
    with pytest.raises(InputError, match="changes earlier turns"):
        turns(LAST_ONLY).next([user("a")], reply=True)


def test_a_template_that_refuses_is_quoted() -> None:
    with pytest.raises(InputError, match="no tools"):
        turns(STRICT).opening([{"role": "tool", "content": "a"}], reply=True)


def test_no_template() -> None:
    with pytest.raises(InputError, match="chat template"):
        turns(None)


@pytest.mark.model
def test_the_real_template(smollm2: Any) -> None:
    chat = Turns(smollm2.tokenizer)
    whole = smollm2.tokenizer.apply_chat_template(
        [user("a"), {"role": "assistant", "content": "b"}, user("c")],
        tokenize=False,
        add_generation_prompt=True,
    )
    first = chat.opening([user("a")], reply=True) + "b<|im_end|>" + chat.closing(ended=True)
    assert first + chat.next([user("c")], reply=True) == whole
