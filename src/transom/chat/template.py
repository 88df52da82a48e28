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
EARLIER = "transom-earlier"  # a message of which nothing may come back in the text of new ones
ANY = "Aa  bC\n\n d\t<&>'\"{{x}} é, " + "and so on, " * 500  # what an answer may also be like
BORDER = 100  # characters of a text that decide whether tokens span its start
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
            if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
                raise InputError(
                    f"{message!r:.80} is no message; expected {{'role': ..., 'content': ...}} with "
                    "a role such as 'user'."
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

        With `reply`, up to where the model's answer starts.

        Raises:
            InputError: when later turns could not be appended to these and to their answers,
                because the template would then render those differently.
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
        """What follows an answer of the model, from its end token on.

        Raises:
            InputError: when the template would put some of the messages elsewhere.
        """
        asked = [self._said("user", EARLIER)]
        shown = self.whole(asked, reply=True)
        text = self.whole([*asked, self._said("assistant", ANSWER), *messages], reply)
        before, _, new = text.partition(ANSWER)
        if before.strip() != shown.strip() or not before.startswith(shown):
            raise _changes("earlier messages")
        return _new(new)

    def after(self, role: str, messages: Sequence[Message], reply: bool) -> str:
        """What follows a message of this role that was itself appended.

        Raises:
            InputError: when the template renders that message differently once others follow.
        """
        before = self.whole(self._ending_with(role), reply=False)
        text = self.whole([*self._ending_with(role), *messages], reply)
        new = text[len(before) :]
        if not text.startswith(before):
            raise _changes(f"a message of the role {role!r}")
        self._check_cut(before, new[:BORDER], f"a message of the role {role!r}")
        return _new(new)

    def _check_answers(self, closing: str) -> None:
        """Refuse a template that would not leave an answer as the model gave it."""
        asked = [self._said("user", QUESTION)]
        shown = self.whole(asked, reply=True)
        marks = literals(self._tokenizer.chat_template)
        rest = [self._said("assistant", ANSWER), *asked] * TURNS
        # Together first: some look for the end of a stretch only where there is its start.
        for mark in ("".join(marks), ANY, *marks):
            answer = f"{QUESTION}{mark}{ANSWER}"
            turns = [*asked, self._said("assistant", answer), *asked, *rest]
            later = self.whole(turns, reply=True)
            if not _rest(later, shown).startswith(answer + closing):
                raise _changes(f"answers in which there is {mark if mark in marks else '…'!r}")
        for answer in (ANSWER, f"{ANSWER}."):
            self._check_cut(answer, closing, "an answer")

    def _check_cut(self, before: str, after: str, what: str) -> None:
        """Refuse texts that are other tokens together than one by one."""
        if self._ids(before + after) != self._ids(before) + self._ids(after):
            raise InputError(
                f"what this model's chat template puts after {what}, {after[:12]!r}, becomes other "
                "tokens when it is tokenized together with what is before it, so turns cannot be "
                f"appended one by one; {INSTEAD}"
            )

    def _ending_with(self, role: str) -> list[Message]:
        """A stand-in for a conversation whose newest message has this role."""
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


def _rest(later: str, shown: str) -> str:
    """What a rendering adds to what was shown, an answer and what closes it.

    White space before the answer may be the template's: a model writes it itself.
    """
    return later[len(shown) :].lstrip() if later.startswith(shown) else ""


def _new(text: str) -> str:
    """The text of new messages, once nothing of the stand-ins for earlier ones is in it."""
    if EARLIER in text or ANSWER in text:
        raise _changes("earlier messages")
    return text


def _changes(what: str) -> InputError:
    return InputError(
        f"this model's chat template changes {what} when new messages follow, so turns cannot be "
        f"appended one by one; {INSTEAD}"
    )
