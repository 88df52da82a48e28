"""Chat messages to text, one turn at a time, through the model's own chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from transom.chat.literals import literals
from transom.errors import InputError

__all__ = ["Message", "Turns"]

Message = Mapping[str, Any]

QUESTION, ANSWER = "transom-question", "transom-answer"
TURNS = 16  # that a template is tried with; some show only the newest few
NOT_ASKED = ("system", "developer", "assistant")  # roles after which a user speaks
CALL = {"name": "transom_call", "arguments": {}}
INSTEAD = (
    "append the ids of the whole conversation to a new context each time "
    "(tokenizer.apply_chat_template)."
)
CALLED = {"id": "transom00", "type": "function", "function": CALL}


class Turns:
    """Renders new messages as they continue a conversation, without the conversation at hand.

    A chat template renders a whole conversation. Rendering stand-ins for the earlier turns with
    and without the new messages gives the text of the new ones alone, in memory that does not grow.
    This is right as long as the template leaves alone what came before; `opening` tries that out
    before anything is answered.

    Args:
        tokenizer: a transformers tokenizer with a chat template.

    Raises:
        InputError: when it has none.
    """

    def __init__(self, tokenizer: Any) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise InputError(
                "chat messages need a model with a chat template, and this tokenizer has none; "
                "append plain text instead, or use an instruction-tuned model."
            )
        self._tokenizer = tokenizer

    def whole(self, messages: Sequence[Message], reply: bool) -> str:
        """A conversation that nothing follows; with `reply`, up to where the answer starts.

        Raises:
            InputError: when the template refuses the messages, or would not show their contents.
        """
        for message in messages:
            form = type(message.get("content"))
            if form in (str, list) and form not in self._forms:
                raise InputError(
                    f"a message's content is {form.__name__}, which this model's chat template "
                    "does not show; expected "
                    + ("text." if form is list else "a list such as [{'type': 'text', 'text': …}].")
                )
        return self._rendered(messages, reply)

    def opening(self, messages: Sequence[Message], reply: bool) -> str:
        """The first messages of a conversation, with the template's default system prompt.

        With `reply`, up to where the model's answer starts.

        Raises:
            InputError: when later turns could not be appended to these and to their answers,
                because the template would then render those differently.
        """
        text = self.whole(messages, reply)
        asked = list(messages)
        if not reply and messages[-1].get("role") in NOT_ASKED:
            asked.append(self._said("user", QUESTION))
        shown = self.whole(asked, reply=True)
        if not shown.startswith(text):
            raise _changes("earlier messages")
        again = self._said("user", QUESTION)
        closing = self.after_answer([again], reply=True)
        for _ in range(TURNS):
            asked += [self._said("assistant", ANSWER), again]
            later = self.whole(asked, reply=True)
            if not _follows(later, shown, ANSWER, closing):
                raise _changes("earlier messages")
            shown = later
        self._check_answers(closing)
        return text

    def after_answer(self, messages: Sequence[Message], reply: bool) -> str:
        """What follows an answer of the model, from its end token on."""
        earlier = [self._said("user", QUESTION), self._said("assistant", ANSWER)]
        text = self.whole([*earlier, *messages], reply)
        return text.partition(ANSWER)[2]

    def after(self, role: str, messages: Sequence[Message], reply: bool) -> str:
        """What follows a message of this role that was itself appended.

        Raises:
            InputError: when the template renders that message differently once others follow.
        """
        before = self.whole(self._ending_with(role), reply=False)
        text = self.whole([*self._ending_with(role), *messages], reply)
        if not text.startswith(before):
            raise _changes(f"a message of the role {role!r}")
        return text[len(before) :]

    def _check_answers(self, closing: str) -> None:
        """Refuse a template that would not leave an answer as the model gave it."""
        asked = [self._said("user", QUESTION)]
        shown = self.whole(asked, reply=True)
        marks = literals(self._tokenizer.chat_template)
        # Together first: some look for the end of a stretch only where there is its start.
        for mark in ("".join(marks), *marks):
            answer = f"{QUESTION}{mark}{ANSWER}"
            turns = [*asked, self._said("assistant", answer), *asked]
            if not _follows(self.whole(turns, reply=True), shown, answer, closing):
                raise _changes(f"answers in which there is {mark if mark in marks else '…'!r}")
        for answer in (ANSWER, f"{ANSWER}."):
            if self._ids(answer + closing) != self._ids(answer) + self._ids(closing):
                raise InputError(
                    f"this model's chat template closes an answer with {closing[:12]!r}, which "
                    "becomes other tokens when it is tokenized together with the answer, so turns "
                    f"cannot be appended one by one; {INSTEAD}"
                )

    def _ending_with(self, role: str) -> list[Message]:
        """A stand-in for a conversation whose newest message has this role."""
        if role in ("system", "developer"):
            return [self._said(role, QUESTION)]
        asked = self._said("user", QUESTION)
        if role == "user":
            return [asked]
        if role == "assistant":
            return [asked, self._said(role, ANSWER)]
        called = {**self._said("assistant", ANSWER), "tool_calls": [CALLED]}
        result = {**self._said(role, ANSWER), "name": CALL["name"], "tool_call_id": CALLED["id"]}
        return [asked, called, result]

    def _said(self, role: str, text: str) -> Message:
        content = text if str in self._forms else [{"type": "text", "text": text}]
        return {"role": role, "content": content}

    @cached_property
    def _forms(self) -> frozenset[type]:
        """In which forms the template shows a content: as text, as a list of parts, or both."""
        parts = [{"type": "text", "text": QUESTION}]
        forms: set[type] = set()
        for content in (QUESTION, parts):
            try:
                text = self._rendered([{"role": "user", "content": content}], reply=True)
            except InputError:
                continue
            if QUESTION in text and "'type'" not in text:
                forms.add(type(content))
        return frozenset(forms or {str})

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        return ids

    def _rendered(self, messages: Sequence[Message], reply: bool) -> str:
        try:
            text = self._tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=reply
            )
        except Exception as error:  # templates are programs and raise whatever they like
            raise InputError(
                f"the chat template refused the messages: {error}. Expected a list of "
                "{'role': ..., 'content': ...} with the roles that this model knows."
            ) from error
        return str(text)


def _follows(later: str, shown: str, answer: str, closing: str) -> bool:
    """Whether a rendering is what was shown, the answer and what closes it.

    White space before the answer may be the template's: a model writes it itself.
    """
    rest = later.removeprefix(shown).lstrip()
    return later.startswith(shown) and rest == answer + closing


def _changes(what: str) -> InputError:
    return InputError(
        f"this model's chat template changes {what} when new messages follow, so turns cannot be "
        f"appended one by one; {INSTEAD}"
    )
