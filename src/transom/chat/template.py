"""Chat messages as text, one turn at a time, through the model's own chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

from transom.chat.literals import literals
from transom.errors import InputError

__all__ = ["Message", "Turns"]

Message = Mapping[str, Any]

QUESTION, ANSWER = "transom-question", "transom-answer"
EARLIER = (
    "transom-earlier"  # stands for an earlier message; must not show up in the text of new ones
)
ANY = "Aa  bC\n\n d\t<&>'\"{{x}} é, " + "and so on, " * 500  # an answer that is hard to keep intact
BORDER = 100  # characters at the start of a text; tokens across the border depend on no more
TURNS = 16  # turns to test a template with; some templates show only the newest few
NOT_ASKED = ("system", "developer", "assistant")  # roles that a user message follows
CALL = {"name": "transom_call", "arguments": {}}
INSTEAD = (
    "append the ids of the whole conversation to a new context each time "
    "(tokenizer.apply_chat_template)."
)
CALLED = {"id": "transom00", "type": "function", "function": CALL}


class Encoded(Protocol):
    """What a tokenizer returns for a text."""

    input_ids: list[int]


class ChatTokenizer(Protocol):
    """The part of a transformers tokenizer that chats need."""

    chat_template: Any

    def __call__(self, text: str, *, add_special_tokens: bool, verbose: bool) -> Encoded:
        """The ids of a text."""

    def apply_chat_template(
        self, conversation: list[Message], *, tokenize: bool, add_generation_prompt: bool
    ) -> Any:
        """The text of a whole conversation."""


class Turns:
    """Renders new messages as the next turns of a conversation, without its earlier turns.

    A chat template renders a whole conversation. This class renders short stand-ins for the
    earlier turns, once with and once without the new messages. The difference is the text of the
    new messages, and memory does not grow with the conversation. It is right only if the template
    does not change earlier turns. `opening` tests that before the first answer.

    Args:
        tokenizer: has a chat template.

    Raises:
        InputError: when it has none.
    """

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise InputError(
                "chat messages need a model with a chat template, and this tokenizer has none; "
                "append plain text instead, or use an instruction-tuned model."
            )
        self._tokenizer = tokenizer

    def whole(self, messages: Sequence[Message], reply: bool) -> str:
        """A whole conversation; with `reply`, up to the start of the answer.

        Raises:
            InputError: when the template refuses the messages, or leaves out their contents.
        """
        for message in messages:
            if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
                raise InputError(
                    f"{message!r:.80} is not a message; expected {{'role': ..., 'content': ...}} "
                    "with a role such as 'user'."
                )
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

        With `reply`, up to the start of the model's answer.

        Raises:
            InputError: when later turns cannot be appended, because the template would then render
                these messages or their answers differently.
        """
        text = self.whole(messages, reply)
        again = self._said("user", QUESTION)
        asked, following = list(messages), [] if reply else [again]
        newest = str(messages[-1]["role"])
        if following and newest in NOT_ASKED:
            asked.append(again)
        shown = self.whole(asked, reply=True)
        if not shown.startswith(text):
            raise _changes("earlier messages")
        if len(asked) > len(messages) and shown != text + self.after(newest, following, reply=True):
            raise _changes(f"a message of the role {newest!r}")
        closing = self.after_answer([again], reply=True)
        for _ in range(TURNS):
            asked += [self._said("assistant", ANSWER), again]
            later = self.whole(asked, reply=True)
            if _rest(later, shown) != ANSWER + closing:
                raise _changes("earlier messages")
            shown = later
        self._check_answers(closing)
        return text

    def after_answer(self, messages: Sequence[Message], reply: bool) -> str:
        """The text of messages after an answer of the model, from its end token on.

        Raises:
            InputError: when the template puts some of the messages before the answer.
        """
        asked = [self._said("user", EARLIER)]
        shown = self.whole(asked, reply=True)
        text = self.whole([*asked, self._said("assistant", ANSWER), *messages], reply)
        before, _, new = text.partition(ANSWER)
        if before.strip() != shown.strip() or not before.startswith(shown):
            raise _changes("earlier messages")
        return _new(new)

    def after(self, role: str, messages: Sequence[Message], reply: bool) -> str:
        """The text of messages after an appended message of this role.

        Raises:
            InputError: when the template renders that message differently if others follow it.
        """
        before = self.whole(self._ending_with(role), reply=False)
        text = self.whole([*self._ending_with(role), *messages], reply)
        new = text[len(before) :]
        if not text.startswith(before):
            raise _changes(f"a message of the role {role!r}")
        self._check_cut(before, new[:BORDER], f"a message of the role {role!r}")
        return _new(new)

    def _check_answers(self, closing: str) -> None:
        """Refuse a template that changes answers of the model."""
        asked = [self._said("user", QUESTION)]
        shown = self.whole(asked, reply=True)
        marks = literals(self._tokenizer.chat_template)
        rest = [self._said("assistant", ANSWER), *asked] * TURNS
        # All marks together first: some templates look for an end mark only after its start mark.
        for mark in ("".join(marks), ANY, *marks):
            answer = f"{QUESTION}{mark}{ANSWER}"
            turns = [*asked, self._said("assistant", answer), *asked, *rest]
            later = self.whole(turns, reply=True)
            if not _rest(later, shown).startswith(answer + closing):
                raise _changes(f"answers that contain {mark if mark in marks else '…'!r}")
        for answer in (ANSWER, f"{ANSWER}."):
            self._check_cut(answer, closing, "an answer")

    def _check_cut(self, before: str, after: str, what: str) -> None:
        """Refuse two texts whose tokens change when they are tokenized together."""
        if self._ids(before + after) != self._ids(before) + self._ids(after):
            raise InputError(
                f"the text that this model's chat template puts after {what}, {after[:12]!r}, "
                "becomes other tokens when it is tokenized together with the text before it, so "
                f"turns cannot be appended one by one; {INSTEAD}"
            )

    def _ending_with(self, role: str) -> list[Message]:
        """A short conversation whose newest message has this role."""
        if role in ("system", "developer"):
            return [self._said(role, EARLIER)]
        asked = self._said("user", EARLIER)
        if role == "user":
            return [asked]
        if role == "assistant":
            return [asked, self._said(role, EARLIER)]
        called = {**self._said("assistant", EARLIER), "tool_calls": [CALLED]}
        result = {**self._said(role, EARLIER), "name": CALL["name"], "tool_call_id": CALLED["id"]}
        return [asked, called, result]

    def _said(self, role: str, text: str) -> Message:
        content = text if str in self._forms else [{"type": "text", "text": text}]
        return {"role": role, "content": content}

    @cached_property
    def _forms(self) -> frozenset[type]:
        """The types of content that the template shows: text, a list of parts, or both."""
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
        return self._tokenizer(text, add_special_tokens=False, verbose=False).input_ids

    def _rendered(self, messages: Sequence[Message], reply: bool) -> str:
        try:
            text = self._tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=reply
            )
        except Exception as error:  # a template is a program and may raise anything
            raise InputError(
                f"the chat template refused the messages: {error}. Expected a list of "
                "{'role': ..., 'content': ...} with the roles that this model knows."
            ) from error
        return str(text)


def _rest(later: str, shown: str) -> str:
    """The text that `later` adds to `shown`; empty when it does not start with `shown`.

    White space at its start is left out: where a template puts it before an answer, the model
    writes it itself.
    """
    return later[len(shown) :].lstrip() if later.startswith(shown) else ""


def _new(text: str) -> str:
    """The text of new messages, after a check that no stand-in is in it."""
    if EARLIER in text or ANSWER in text:
        raise _changes("earlier messages")
    return text


def _changes(what: str) -> InputError:
    return InputError(
        f"this model's chat template changes {what} when new messages follow, so turns cannot be "
        f"appended one by one; {INSTEAD}"
    )
