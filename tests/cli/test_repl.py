"""`transom chat` at a terminal: commands, Ctrl-C, and processes that are killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.chats import ENDS, LONG, SMALL, PipedChat, context, never_ending, tokenizer
from transom import Context
from transom.cli.commands import ChatCommands
from transom.cli.repl import ChatRepl
from transom.errors import InputError, StateError
from transom.sessions import SessionFile
from transom.sessions.conversation import Conversation, Reply

pytestmark = pytest.mark.usefixtures("plain")


def test_commands(tmp_path: Path) -> None:
    said: list[str] = []
    talk = Conversation(context(), "tiny")
    command = ChatCommands(talk, said.append)
    reply = talk.ask("abc", max_new_tokens=3)
    list(reply)
    talk.keep(reply)
    assert command("/usage")
    assert "turns   1\nseen    10 tokens\nkept    10 of at most 43\nbytes" in said[-1]
    assert command(f"/save {tmp_path / 'copy'}")
    assert command(f"/save {tmp_path / 'copy'}")  # a file that this command wrote may be replaced
    assert Context.load(tmp_path / "copy", talk.context.model).usage == talk.usage
    (tmp_path / "other").write_text("mine")
    for line, match in [
        (f"/save {tmp_path / 'other'}", "exists and was left as it is"),
        (f"/save {tmp_path / 'no' / 'other'}", "not a folder"),
        ("/save", "needs the name"),
        ("/usage now", "no command '/usage now'"),
        ("/etc/passwd?", "put a space in front"),
    ]:
        with pytest.raises(InputError, match=match):
            command(line)
    assert (tmp_path / "other").read_text() == "mine"
    for line, reported in [
        ("/help", "/undo"),
        ("/history", "> abc"),
        ("/reset", "1 turn forgotten"),
        ("/history", "nothing has been said"),
        ("/undo", "the reset is undone: 1 turn"),
        ("/undo", "nothing to undo"),
    ]:
        assert command(line)
        assert reported in said[-1]
    assert not command("/exit")
    assert not command("/quit")


def test_what_is_undone_or_reset_but_could_not_be_saved_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    talk = Conversation(context(), "tiny", session=SessionFile(tmp_path / "talk"))
    command = ChatCommands(talk, said.append)
    reply = talk.ask("abc", max_new_tokens=3)
    list(reply)
    talk.keep(reply)
    (tmp_path / "talk").write_text("somebody else's")
    for line, reported, turns in [
        ("/undo", "the last turn is undone; 0 turns left", 0),
        ("/reset", "0 turns forgotten", 0),
        ("/undo", "the reset is undone: 0 turns", 0),
    ]:
        with pytest.raises(StateError, match="was not written"):
            command(line)
        assert reported in said[-1]
        assert talk.turns == turns
    assert (tmp_path / "talk").read_text() == "somebody else's"


@pytest.fixture
def command(folder: str) -> list[str]:
    pytest.importorskip("termios", reason="pseudo-terminals are of Unix")
    return [sys.executable, "-m", "transom", "chat", folder, "--policy", SMALL]


ENDLESS = ("--max-new-tokens", "1000000")


def test_at_a_terminal(command: list[str], tmp_path: Path) -> None:
    from tests.helpers.terminal import Terminal

    file = tmp_path / "talk"
    alone = context()

    def answer(question: str) -> str:
        messages = [{"role": "user", "content": question}]
        return " ".join(alone.generate(messages, max_new_tokens=30).split())

    options = ("--session", str(file), "--max-new-tokens", "30")
    with Terminal(*command, *options, columns=60) as screen:
        assert f"under {SMALL}; type /help for commands" in " ".join(screen.expect("> ").split())
        screen.type(ENDS + "\n")
        said = screen.expect("> ")
        meter = f"seen {6}, kept {6} of 43, {alone.usage.kv_bytes or 16.5:.3g} kB"
        assert answer(ENDS) in said
        assert meter.rpartition(",")[0] in said
        assert max(map(len, said.splitlines())) <= 60

        screen.type("never mind\n")
        screen.expect("> ")
        screen.type("/undo\n")
        assert "the last turn is undone; 1 turn left" in screen.expect("> ")

        # Bracketed paste is one question, even with a line that looks like a command.
        screen.type("\x1b[200~ab\n/exit\nc\x1b[201~")
        screen.type("\n")
        said = screen.expect("kB")
        pasted = answer("ab\n/exit\nc")
        assert pasted in " ".join(said.split())
        screen.expect("> ")
        screen.type("c\\\n")
        screen.type("d\n")
        assert answer("c\nd") in " ".join(screen.expect("kB").split())
        screen.expect("> ")
        screen.type("\x1b[A")  # arrow up: the last question again
        screen.type("\n")
        assert answer("c\nd") in " ".join(screen.expect("kB").split())
        screen.expect("> ")
        screen.type("/nothing\n")
        assert "no command '/nothing'" in screen.expect("> ")
        screen.type("/reset\n")
        assert "4 turns forgotten" in screen.expect("> ")
        screen.type("/undo\n")
        assert "the reset is undone: 4 turns" in screen.expect("> ")
        screen.type("half a question")
        screen.expect("half a question")
        time.sleep(0.3)  # otherwise Python sees the signal only at the next key
        screen.interrupt()
        assert "press Ctrl-C again to end" in screen.expect("> ")
        time.sleep(0.3)
        screen.interrupt()
        assert screen.end() == 130
        assert "4 turns in" in screen.shown

    with Terminal(*command, *options) as screen:
        resumed = screen.expect("\n\n> ")
        assert "4 turns" in " ".join(
            resumed.split()
        )  # the line has paths, so it wraps at different places
        assert "> c\nd\n" in resumed + screen.expect("\n\n> ")
        screen.type(ENDS + "\n")
        assert answer(ENDS) in " ".join(screen.expect("kB").split())
        screen.expect("> ")
        screen.type("\x04")
        assert screen.end() == 0
        assert "5 turns in" in screen.shown


def test_ctrl_c_stops_an_answer_and_a_second_one_ends_the_chat(
    command: list[str], endless: str, tmp_path: Path
) -> None:
    from tests.helpers.terminal import Terminal

    command[4] = endless
    with Terminal(*command, "--session", str(tmp_path / "talk"), *ENDLESS) as screen:
        screen.expect("> ")
        screen.type("abc\n")
        screen.expect("\n")
        screen.expect("\n")  # until a whole line of the answer has come
        screen.interrupt()
        assert "stopped; the answer is kept as far as it came" in screen.expect("> ")
        assert SessionFile(tmp_path / "talk").note["turns"] == 1
        time.sleep(0.3)
        screen.interrupt()
        assert screen.end() == 130
        assert "1 turn in" in screen.shown


class Typing:
    """A prompt at which a user types some lines, then Ctrl-D."""

    spaced = False

    def __init__(self, *lines: str) -> None:
        self._lines = iter(lines)

    def __call__(self) -> str:
        try:
            return next(self._lines)
        except StopIteration:
            raise EOFError from None


def talk_of(monkeypatch: pytest.MonkeyPatch, *lines: str) -> ChatRepl:
    monkeypatch.setattr("transom.cli.repl.Prompt", lambda earlier: Typing(*lines))
    talk = ChatRepl(Conversation(context(), "tiny"), {"max_new_tokens": 5})
    talk.typed = True
    return talk


def test_two_interrupts_during_an_answer_end_the_chat_and_undo_the_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    talk = talk_of(monkeypatch, "abc", LONG, "d")
    iterate = Reply.__iter__

    def interrupted(reply: Reply) -> Any:
        yield from iterate(reply)
        if reply.question == LONG:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Reply, "__iter__", interrupted)
    assert not talk.at_terminal()
    assert [turn.question for turn in talk.conversation.recent] == ["abc"]
    expected = context()
    expected.generate([{"role": "user", "content": "abc"}], max_new_tokens=5)
    assert talk.conversation.usage == expected.usage


def test_an_interrupt_while_the_model_reads_a_question_withdraws_it(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """The interrupt comes in the middle of a forward pass over the second question."""
    talk = talk_of(monkeypatch, "abc", "Z" * 60, "d")
    layer = talk.conversation.context.model.model.layers[1]
    passes = iter(range(1000))

    def interrupt(*args: Any) -> None:
        if talk.conversation.turns == 1 and next(passes) == 0:
            signal.raise_signal(signal.SIGINT)

    layer.register_forward_pre_hook(interrupt)
    assert talk.at_terminal()
    assert "stopped; the question was withdrawn" in capsys.readouterr().err
    assert [turn.question for turn in talk.conversation.recent] == ["abc", "d"]
    expected = context()
    for question in "abc", "d":
        messages = [{"role": "user", "content": question}]
        answer = expected.generate(messages, max_new_tokens=5)
    assert talk.conversation.usage == expected.usage
    assert talk.conversation.recent[-1].answer == answer


def test_a_failed_save_is_reported_and_the_conversation_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path
) -> None:
    talk = talk_of(monkeypatch, "abc", "d")
    talk.conversation.session = SessionFile(tmp_path / "talk")
    (tmp_path / "talk").write_text("somebody else's")
    assert talk.at_terminal()
    talk.close()
    err = capsys.readouterr().err
    assert err.count("was not written: something else has changed, made or removed it") == 2
    assert "could not save the last change" in err
    assert talk.conversation.turns == 2
    assert (tmp_path / "talk").read_text() == "somebody else's"


@pytest.mark.parametrize("waits", [0.0, 0.3])
def test_a_kill_during_a_turn_keeps_the_earlier_turns(
    command: list[str], endless: str, tmp_path: Path, piped_chat: PipedChat, waits: float
) -> None:
    """SIGKILL comes in the middle of an answer."""
    file = tmp_path / "talk"
    command[4] = piped_chat._folder = endless
    piped_chat(["abc"], "--session", str(file), "--policy", SMALL)
    before = file.read_bytes()
    alone = Context(never_ending(), tokenizer(), SMALL)
    alone.generate([{"role": "user", "content": "abc"}], max_new_tokens=12)
    with subprocess.Popen(
        [*command, "--session", str(file), *ENDLESS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as talking:
        talking.stdin.write(b"c\n")
        talking.stdin.flush()
        talking.stdout.read(20)
        time.sleep(waits)
        talking.kill()
    assert talking.returncode == -signal.SIGKILL
    assert file.read_bytes() == before
    expected = alone.generate([{"role": "user", "content": "d"}], max_new_tokens=12)
    assert piped_chat(["d"], "--session", str(file))[0] == expected + "\n"


def test_a_kill_while_saving_leaves_a_whole_file(command: list[str], tmp_path: Path) -> None:
    """Whenever the process is killed, the file has whole turns only, and no other file is left."""
    file = tmp_path / "talk"
    with subprocess.Popen(
        [*command, "--session", str(file), "--max-new-tokens", "1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as talking:
        talking.stdin.write(b"abc\n" * 2000)
        talking.stdin.flush()
        for _ in range(20):
            talking.stdout.readline()
        talking.kill()
    session = SessionFile(file)
    assert session.note["turns"] >= 9
    alone = context()
    for _ in range(session.note["turns"]):
        alone.generate([{"role": "user", "content": "abc"}], max_new_tokens=1)
    loaded = Context.load(file, alone.model, alone.tokenizer)
    assert loaded.usage == alone.usage
    assert loaded.generate(max_new_tokens=9) == alone.generate(max_new_tokens=9)
    assert [path.name for path in tmp_path.iterdir()] == [
        "talk"
    ]  # opening the file removed what the killed process left


def test_pasting_without_readline(command: list[str]) -> None:
    from tests.helpers.terminal import Terminal

    start = "import sys; sys.modules['readline'] = None; from transom.cli import main; main()"
    with Terminal(command[0], "-c", start, *command[3:], "--max-new-tokens", "30") as screen:
        screen.expect("> ")
        screen.type("ab\nc\n")
        alone = context()
        messages = [{"role": "user", "content": "ab\nc"}]
        expected = alone.generate(messages, max_new_tokens=30)
        assert " ".join(expected.split()) in " ".join(screen.expect("kB").split())
        screen.expect("> ")
        screen.type("/exit\n")
        assert screen.end() == 0
        assert "nothing was saved; --session FILE keeps a conversation" in screen.shown
