"""A conversation in a context has exactly the ids of the chat template's own rendering."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.helpers.chat_templates import APPENDABLE, REFUSED, WORDS, Family, tokenizer_of
from tests.helpers.models import tiny
from transom import Context
from transom.errors import InputError


class Scripted:
    """A model that gives scripted answers and records the ids that it is fed."""

    def __init__(self, answers: list[list[str]]) -> None:
        self.model = tiny("llama", vocab_size=len(WORDS), eos_token_id=None)
        ends = ["<end>", "<eos>", "<user>", "<tool>"]
        self.model.generation_config.eos_token_id = [WORDS.index(end) for end in ends]
        self.answers = answers
        self.fed: list[int] = []
        self._inside = self.model.forward
        self._answer, self._place = -1, 0
        self.model.forward = self._forward

    def _forward(self, input_ids: Any = None, **kwargs: Any) -> Any:
        self.fed += input_ids[0].tolist()
        output = self._inside(input_ids=input_ids, **kwargs)
        if input_ids.shape[1] > 1:
            self._answer, self._place = self._answer + 1, 0
        else:
            self._place += 1
        answer = self.answers[min(self._answer, len(self.answers) - 1)]
        token = WORDS.index(answer[min(self._place, len(answer) - 1)])
        output.logits[0, -1] = 9.0 * F.one_hot(torch.tensor(token), len(WORDS))
        return output


def said(role: str, text: str, family: str = "") -> dict[str, Any]:
    content = [{"type": "text", "text": text}] if family == "parts" else text
    return {"role": role, "content": content}


def rendered(family: Family, messages: list[dict[str, Any]]) -> str:
    tokenizer = tokenizer_of(family.template)
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    return shown(ids if isinstance(ids, list) else ids["input_ids"])


def shown(ids: list[int]) -> str:
    return "".join(WORDS[i] for i in ids)


@pytest.mark.parametrize("name", APPENDABLE)
@pytest.mark.parametrize("end", ["own", "<eos>", "cut"])
def test_the_ids_fed_are_those_of_the_whole_conversation(name: str, end: str) -> None:
    family = APPENDABLE[name]
    close = "<eos>" if end == "<eos>" else family.end
    scripted = Scripted([[*family.answer, close]])
    context = Context(scripted.model, tokenizer_of(family.template), "full", chunk=64)
    spoken: list[dict[str, Any]] = []
    for question in ("abc", "de", "fghi"):
        asked = said("user", question, name)
        limit = len(family.answer) if end == "cut" else 50
        answer = context.generate([asked], max_new_tokens=limit)
        assert answer == family.answer
        assert context.unfinished == (end == "cut")
        spoken.append(asked)
        assert shown(scripted.fed) == rendered(family, spoken) + answer
        assert context.usage.seen == len(scripted.fed)
        spoken.append(said("assistant", answer, name))


def test_an_answer_in_pieces_is_closed_once() -> None:
    family = APPENDABLE["gemma"]
    scripted = Scripted([[*"yes", "<end>"]])
    context = Context(scripted.model, tokenizer_of(family.template), "full")
    assert context.generate([said("user", "a")], max_new_tokens=0) == ""
    assert context.unfinished
    assert context.generate(max_new_tokens=1) + context.generate(max_new_tokens=9) == "yes"
    context.append([said("user", "b")])
    whole = rendered(family, [said("user", "a"), said("assistant", "yes"), said("user", "b")])
    assert shown(scripted.fed) == whole.removesuffix("<start>model\n")


@pytest.mark.parametrize("template", REFUSED)
def test_refused_before_the_first_answer(template: str) -> None:
    scripted = Scripted([["y", "<end>"]])
    context = Context(scripted.model, tokenizer_of(REFUSED[template]), "full")
    for call in (context.append, context.score, context.generate):
        with pytest.raises(InputError, match="when new messages follow"):
            call([said("user", "a")])
    assert scripted.fed == []


def test_the_end_token_is_fed_before_content_that_is_not_a_message() -> None:
    family = APPENDABLE["chatml"]
    for go_on in (lambda c: c.append("x"), lambda c: c.append(iter("x")), lambda c: c.score("x")):
        scripted = Scripted([[*"no", "<end>"]])
        context = Context(scripted.model, tokenizer_of(family.template), "full")
        context.generate([said("user", "a")])
        before = shown(scripted.fed)
        assert before.endswith("\nno")
        assert context.append("") == context.append([]) == 0
        count = go_on(context)
        assert count == 1 or len(count) == 1
        assert shown(scripted.fed) == before + "<end>x"
        assert not context.unfinished


def test_a_saved_answer_is_closed_after_loading(tmp_path: Path) -> None:
    family = APPENDABLE["gemma"]
    tokenizer = tokenizer_of(family.template)
    scripted = Scripted([[*"yes", "<eos>"]])
    context = Context(scripted.model, tokenizer, "full")
    context.generate([said("user", "a")])
    context.save(tmp_path / "state")
    fed = shown(scripted.fed)
    loaded = Context.load(tmp_path / "state", scripted.model, tokenizer)
    loaded.generate([said("user", "b")])
    whole = rendered(family, [said("user", "a"), said("assistant", "yes"), said("user", "b")])
    assert shown(scripted.fed) == whole + "yes"
    assert whole.startswith(fed)


def test_messages_one_by_one_without_answers() -> None:
    family = APPENDABLE["llama3"]
    scripted = Scripted([[*"yes", "<end>"]])
    context = Context(scripted.model, tokenizer_of(family.template), "full")
    spoken = [said("system", "s"), said("user", "a"), said("assistant", "b"), said("user", "c")]
    for message in spoken[:3]:
        context.append([message])
    context.generate(spoken[3:])
    assert shown(scripted.fed) == rendered(family, spoken) + "yes"


@pytest.mark.parametrize("name", ["chatml", "llama3", "mistral", "zephyr"])
def test_messages_that_were_appended_are_answered(name: str) -> None:
    """Also if the template puts nothing between a question and its answer (Mistral)."""
    family = APPENDABLE[name]
    scripted = Scripted([[*family.answer, family.end]])
    context = Context(scripted.model, tokenizer_of(family.template), "full")
    spoken = [said("user", "abc")]
    context.append(spoken)
    for _ in range(2):
        assert context.generate(max_new_tokens=50) == family.answer
        spoken += [said("assistant", family.answer), said("user", "de")]
        assert shown(scripted.fed) == rendered(family, spoken[:-2]) + family.answer
        context.append(spoken[-1:])


def test_messages_after_a_trim() -> None:
    family = APPENDABLE["chatml"]
    scripted = Scripted([[*"yes", "<end>"]])
    context = Context(scripted.model, tokenizer_of(family.template), "full")
    context.generate([said("user", "a")])
    context.trim_to(context.usage.seen - 2)
    with pytest.raises(InputError, match=r"was trimmed.*fork\(\)"):
        context.append([said("user", "b")])
    assert context.append("b") == 1
    context.trim_to(0)
    scripted.fed.clear()
    context.generate([said("user", "c")])
    assert shown(scripted.fed) == rendered(family, [said("user", "c")]) + "yes"


@pytest.mark.parametrize("name", [name for name in APPENDABLE if name != "parts"])
def test_a_begun_answer_goes_on_as_transformers_renders_it(name: str) -> None:
    family = APPENDABLE[name]
    begun, rest = family.answer[:-1], family.answer[-1:]
    scripted = Scripted([[*rest, family.end]])
    tokenizer = tokenizer_of(family.template)
    context = Context(scripted.model, tokenizer, "full")
    spoken = [said("user", "abc"), said("assistant", begun)]
    assert context.generate(spoken, continue_final_message=True) == rest
    whole = tokenizer.apply_chat_template(spoken, tokenize=False, continue_final_message=True)
    assert shown(scripted.fed) == whole + rest
    spoken = [spoken[0], said("assistant", family.answer), said("user", "d")]
    context.generate(spoken[2:], max_new_tokens=0)
    assert shown(scripted.fed) == rendered(family, spoken)


@pytest.mark.parametrize("name", ["chatml", "llama3", "mistral", "zephyr"])
def test_an_answer_to_appended_messages_may_be_begun(name: str) -> None:
    family = APPENDABLE[name]
    begun, rest = family.answer[:-1], family.answer[-1:]
    scripted = Scripted([[*rest, family.end]])
    context = Context(scripted.model, tokenizer_of(family.template), "full")
    context.append([said("user", "abc")])
    steps = context.steps([said("assistant", begun)], continue_final_message=True)
    assert "".join(step.text for step in steps) == rest
    assert shown(scripted.fed) == rendered(family, [said("user", "abc")]) + family.answer


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (None, "goes on with an answer that was begun"),
        ("text", "goes on with an answer that was begun"),
        ([said("user", "a")], "goes on with an answer that was begun"),
        ([said("user", "a"), said("assistant", "")], "goes on with an answer that was begun"),
        ([said("user", "a"), said("assistant", "b", "parts")], "goes on with an answer"),
        ([said("assistant", "b")], "an answer and no question"),
    ],
)
def test_what_is_no_begun_answer_is_refused(prompt: Any, message: str) -> None:
    scripted = Scripted([[*"yes", "<end>"]])
    context = Context(scripted.model, tokenizer_of(APPENDABLE["chatml"].template), "full")
    for call in (context.generate, context.steps):
        with pytest.raises(InputError, match=message):
            call(prompt, continue_final_message=True)
    assert scripted.fed == []
