"""A conversation at a terminal or through a pipe, and what Ctrl-C does to it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable
from typing import Required, TypedDict

from transom.cli.commands import ChatCommands, count, transcript
from transom.cli.interrupt import Interrupt
from transom.cli.prompt import Prompt
from transom.cli.tables import result_console
from transom.cli.wrapping import WordWrapper
from transom.errors import TransomError
from transom.policies import Sinks
from transom.sessions import Conversation, Reply
from transom.units import plain_size

__all__ = ["AskSettings", "ChatRepl"]

SHOWN_AGAIN = 2  # turns that are shown when a conversation goes on


class AskSettings(TypedDict, total=False):
    """Keyword arguments of `Conversation.ask`."""

    max_new_tokens: Required[int]
    temperature: float
    top_p: float | None
    seed: int | None


class ChatRepl:
    """Asks the questions of a user and shows the answers.

    Args:
        conversation: is asked.
        settings: how to ask it.

    Attributes:
        typed: whether a user types the questions at a terminal.
    """

    def __init__(self, conversation: Conversation, settings: AskSettings) -> None:
        self.conversation = conversation
        self.typed = sys.stdin.isatty()
        self._settings = settings
        self._console = result_console(stderr=True)
        self._commands = ChatCommands(conversation, self._say)

    def introduce(self) -> None:
        """Say which conversation goes on, or under which policy a new one starts."""
        now = self.conversation
        policy = now.context.policy
        if now.session is not None and now.session.note is not None:
            usage = now.usage
            self._say(
                f"goes on from {now.session.path}: {count(now.turns, 'turn')}, "
                f"{count(usage.seen, 'token')} seen, {usage.kept:,} kept, {now.model} under "
                f"{policy}"
            )
            if self.typed and now.recent:
                self._say("\n" + transcript(now, SHOWN_AGAIN))
        elif self.typed:
            self._say(f"{now.model} under {policy}; type /help for commands, Ctrl-D to end")
        if not now.turns:
            self._warn_of_system_prompt()
        if self.typed:
            self._say("")

    def at_terminal(self) -> bool:
        """Answer until Ctrl-D or /exit; false when Ctrl-C ended it."""
        prompt = Prompt(turn.question for turn in self.conversation.recent)
        stopped = False
        while True:
            try:
                line = prompt()
            except EOFError:
                self._say("")
                return True
            except KeyboardInterrupt:
                self._say("")
                if stopped:
                    return False
                stopped = True
                self._say("press Ctrl-C again to end; Ctrl-D and /exit end, too")
                continue
            if not line:
                continue
            stopped = False
            try:
                if not line.startswith("/") or prompt.spaced:
                    stopped = not self._answer(line)
                elif not self._commands(line):
                    return True
            except KeyboardInterrupt:
                return False
            except TransomError as error:
                self._say(str(error))
            self._say("")

    def through(self, questions: Iterable[str]) -> bool:
        """Answer all of these questions; false when Ctrl-C ended it."""
        separator = ""
        for question in questions:
            sys.stdout.write(separator)
            try:
                if not self._answer(question):
                    return False
            except KeyboardInterrupt:
                return False
            separator = "\n"
        return True

    def close(self) -> None:
        """Say what was saved, and where."""
        now = self.conversation
        if now.session is None:
            since = " since /save" if self._commands.copies else ""
            if now.unsaved or not since:
                self._say(f"nothing was saved{since}; --session FILE keeps a conversation")
        elif now.unsaved:
            self._say(f"could not save the last change; {now.session.path} does not have it")
        elif now.turns:
            self._say(f"{count(now.turns, 'turn')} in {now.session.path}")

    def _answer(self, question: str) -> bool:
        """Show an answer and keep it; false when Ctrl-C stopped it.

        A first Ctrl-C while the model reads the question withdraws it. Later it ends the answer
        where it is. A stopped answer is kept only at a terminal, where a user has seen it.

        Raises:
            KeyboardInterrupt: on a second Ctrl-C. The conversation is as it was before.
        """
        self._warn_of_length(question)
        try:
            reply = self.conversation.ask(question, **self._settings)
        except KeyboardInterrupt:
            self._say("\nstopped; the question was withdrawn")
            return False
        with Interrupt() as interrupt:
            self._show(reply, interrupt)
            if interrupt.requested and not self.typed:
                return False
            self.conversation.keep(reply)
        if interrupt.requested:
            self._say("stopped; the answer is kept as far as it came; /undo removes the turn")
        elif reply.unfinished:
            longest = self._settings["max_new_tokens"]
            self._say(f"cut at {count(longest, 'token')}; --max-new-tokens allows more")
        usage, capacity = self.conversation.usage, self.conversation.context.policy.capacity
        bound = "" if capacity is None else f" of {capacity:,}"
        size = plain_size(usage.kv_bytes)
        if usage.cold_bytes:
            size += f" hot, {plain_size(usage.total_bytes)} with cold blocks"
        self._say(f"seen {usage.seen:,}, kept {usage.kept:,}{bound}, {size}")
        return not interrupt.requested

    def _show(self, reply: Reply, interrupt: Interrupt) -> None:
        show = WordWrapper(_write, _width) if sys.stdout.isatty() else None
        for piece in reply:
            if show is None:
                _write(piece)
            else:
                show(piece)
            if interrupt.requested:
                break
        if show is None:
            _write("\n")
        else:
            show.end()
        if not reply.text.strip() and not interrupt.requested:
            self._say("(the model said nothing)")

    def _warn_of_length(self, question: str) -> None:
        context = self.conversation.context
        tokens, capacity = len(context.encode(question)), context.policy.capacity
        if capacity is not None and tokens > capacity:
            self._say(
                f"the question has {count(tokens, 'token')}, more than the {capacity:,} that "
                f"{context.policy} keeps: the model will answer without seeing all of it"
            )
        elif tokens > context.chunk and self.typed:
            self._say(f"reading {count(tokens, 'token')} ...")

    def _warn_of_system_prompt(self) -> None:
        context = self.conversation.context
        tokens, capacity = self.conversation.system_tokens, context.policy.capacity
        if tokens > context.policy.pinned and capacity is not None:
            example = Sinks(tokens, window=max(1, capacity - tokens))
            self._say(
                f"the system prompt takes {count(tokens, 'token')}; the model may no longer see it "
                f"after {capacity:,} tokens. --policy {example} keeps it"
            )

    def _say(self, text: str) -> None:
        sys.stdout.flush()
        self._console.print(text, style="dim")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _width() -> int:
    return shutil.get_terminal_size().columns
