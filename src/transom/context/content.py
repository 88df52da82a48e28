"""What a user gives a context (text, token ids or chat messages) as token ids to be fed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, TypeAlias, TypeGuard, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from transom.chat import Message, Turns
from transom.context.runner import Incoming, ModelRunner
from transom.errors import InputError
from transom.tokens.special import special_before
from transom.tokens.whole import as_whole, in_chunks

__all__ = ["Content", "ContentEncoder", "are_messages"]

TokenIds: TypeAlias = Sequence[int] | NDArray[np.integer] | Tensor
Content: TypeAlias = str | TokenIds | Sequence[Message]


@dataclass(frozen=True)
class ContentEncoder:
    """Encodes content as the next thing in a context.

    Attributes:
        runner: what the content will be fed to.
        tokenizer: for text and messages; None where only ids come.
        chunk: tokens that are fed at once.
    """

    runner: ModelRunner
    tokenizer: Any
    chunk: int

    def text(self, text: str, *, special: bool) -> list[int]:
        """Token ids of a text; with the special ones that come before a text, if `special`.

        Raises:
            InputError: without a tokenizer.
        """
        if self.tokenizer is None:
            raise InputError("text needs a tokenizer; pass one to Context, or append token ids.")
        before = special_before(self.tokenizer) if special else []
        plain = self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        return [*before, *plain]

    def next_text(self, text: str) -> list[int]:
        """Token ids of a text as the next thing: with special ones at the very start only."""
        return self.text(text, special=self.runner.cache.seen == 0)

    def content(self, content: Content, *, reply: bool) -> Incoming:
        """Any content; `reply` says whether messages are to be answered by the model.

        Raises:
            InputError: when the content cannot be used.
        """
        if are_messages(content):
            return self.messages(content, reply=reply)
        if isinstance(content, (PathLike, bytes)):
            raise InputError(
                f"cannot use {type(content).__name__} as content; expected text, token ids or "
                "messages. For the text in a file give the open file: append(path.open())."
            )
        given = self.next_text(content) if isinstance(content, str) else cast("TokenIds", content)
        ids = self.runner.ids(given)
        return Incoming(self._chunks(ids), self.runner.dialogue.left(), plain=True)

    def messages(self, messages: Sequence[Message], *, reply: bool) -> Incoming:
        """Messages, as the chat template continues the conversation with them."""
        dialogue = self.runner.dialogue
        text = dialogue.text(Turns(self.tokenizer), messages, reply)
        ids = self.runner.ids(self.text(text, special=False))
        return Incoming(self._chunks(ids), dialogue.then(messages, reply), plain=False)

    def begun_answer(self, messages: Content | None) -> Incoming:
        """Messages of which the last is the start of an answer, for the model to go on with.

        Raises:
            InputError: when the last is no such start, or nothing was asked before it.
        """
        runner, dialogue = self.runner, self.runner.dialogue
        if not are_messages(messages) or not _begins_answer(messages[-1]):
            raise InputError(
                "continue_final_message=True goes on with an answer that was begun; expected "
                "messages of which the last is {'role': 'assistant', 'content': 'its first words'}."
            )
        before = messages[:-1]
        if not before and not dialogue.asked:
            raise InputError(
                "continue_final_message=True has an answer and no question; give the messages "
                "before the answer too, or append them first."
            )
        text = dialogue.text(Turns(self.tokenizer), before, reply=True) + messages[-1]["content"]
        ids = runner.ids(self.text(text, special=False))
        return Incoming(self._chunks(ids), dialogue.then(before, reply=True), plain=False)

    def pieces(self, pieces: Iterator[str]) -> Incoming:
        """A text in pieces of any size, tokenized as the one text that they are.

        Its chunks are an iterator, which reads no more pieces than the next chunk needs.
        """
        arrays = in_chunks(as_whole(pieces, self.next_text, self.tokenizer), self.chunk)
        chunks = (self.runner.ids(array) for array in arrays)
        return Incoming(chunks, self.runner.dialogue.left(), plain=True)

    def prompt(self, prompt: Content | None) -> Incoming:
        """What to feed before a model generates: the prompt, or what its absence asks for.

        Without a prompt a model answers the messages that were appended, goes on with an answer
        that was cut short, or goes on with the text.

        Raises:
            InputError: when there is nothing to go on from.
        """
        runner, dialogue = self.runner, self.runner.dialogue
        incoming = self.content([] if prompt is None else prompt, reply=True)
        if incoming.chunks:
            return incoming
        if dialogue.asked:
            incoming = self.messages([], reply=True)
            if not incoming.chunks:  # a template that puts nothing before an answer
                runner.dialogue = incoming.after
            return incoming
        if runner.cache.seen == 0:
            raise InputError("the context is empty, so nothing can be continued; append first.")
        if runner.logits is None:
            raise InputError(
                "the newest tokens were trimmed, so what comes next is not known; append first."
            )
        if dialogue.end is not None:  # what comes next is not part of that answer
            return Incoming([runner.ids([dialogue.end])], dialogue.left(), plain=False)
        return incoming

    def _chunks(self, ids: Tensor) -> tuple[Tensor, ...]:
        return ids.split(self.chunk) if len(ids) else ()


def _begins_answer(message: Message) -> bool:
    content = message.get("content")
    return message.get("role") == "assistant" and isinstance(content, str) and content != ""


def are_messages(content: object) -> TypeGuard[Sequence[Message]]:
    """Whether content is chat messages."""
    return (
        isinstance(content, Sequence)
        and not isinstance(content, str)
        and len(content) > 0
        and isinstance(content[0], Mapping)
    )
