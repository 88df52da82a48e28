"""`transom chat`: restarts change nothing, stopping takes nothing along, files are respected."""

from __future__ import annotations

import io
import os
import signal
import string
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.letters import tokenizer_of
from tests.helpers.models import tiny
from transom import Context
from transom.cli import conversation, main
from transom.cli.commands import ChatCommands
from transom.cli.conversation import RECENT, Conversation, Reply
from transom.cli.repl import Talk
from transom.cli.session import Session
from transom.cli.wrapping import Wrapping
from transom.errors import InputError, StateError
from transom.state import remove_leftovers

SMALL = "sinks:3,window=40"
QUESTIONS = ["abc", "d e", "c", "Who? f", "xyz"]
ENDS, LONG = "c", "i"  # the model ends its answer to the one at once, to the other not so soon


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a random Llama that chats, a letter a token."""
    path = tmp_path_factory.mktemp("model")
    tiny("llama").save_pretrained(path)
    tokenizer().save_pretrained(path)
    return str(path)


def never_ending() -> Any:
    """The same model, but that it does not come to an end."""
    model = tiny("llama")
    with torch.no_grad():
        model.lm_head.weight[2] = 0  # as likely as nothing in particular
    return model


@pytest.fixture(scope="session")
def endless(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("endless")
    never_ending().save_pretrained(path)
    tokenizer().save_pretrained(path)
    return str(path)


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


def tokenizer() -> Any:
    return tokenizer_of(string.ascii_letters + string.digits + "?.,!'-")


def context(policy: str = SMALL) -> Context:
    return Context(tiny("llama"), tokenizer(), policy)


class Piped:
    """Runs the command with questions on standard input, in this process."""

    def __init__(self, folder: str, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder, self._capsys, self._patch = folder, capsys, monkeypatch

    def __call__(self, questions: list[str], *options: str, code: int = 0) -> tuple[str, str]:
        data = "".join(f"{question}\n" for question in questions).encode()
        self._patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["chat", self._folder, "--max-new-tokens", "12", *options])
        assert (ended.value.code or 0) == code
        return self._capsys.readouterr()


@pytest.fixture
def piped(folder: str, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> Piped:
    return Piped(folder, capsys, monkeypatch)


@pytest.mark.parametrize("system", [None, "Be brief."])
def test_the_answers_are_those_of_a_context(piped: Piped, system: str | None) -> None:
    options = () if system is None else ("--system", system)
    out, err = piped([*QUESTIONS, "", "  "], "--policy", SMALL, *options)
    alone, answers, meters = context(), [], []
    for index, question in enumerate(QUESTIONS):
        first = [{"role": "system", "content": system}] if system and not index else []
        messages = [*first, {"role": "user", "content": question}]
        answers.append(alone.generate(messages, max_new_tokens=12))
        if alone.unfinished:
            meters.append("cut at 12 tokens; --max-new-tokens allows more")
        seen, kept, _, size = alone.usage[:4]
        meters.append(f"seen {seen}, kept {kept} of 43, {size / 1000:.3g} kB")
    assert out == "\n\n".join(answers) + "\n"
    lines = err.splitlines()
    if system is not None:
        assert lines.pop(0).endswith("--policy sinks:10,window=33 keeps it for ever")
    assert lines == [*meters, "nothing was saved; --session FILE keeps a conversation"]


@pytest.mark.parametrize("policy", [SMALL, "full", "snapkv:40,kv=int8"])
@pytest.mark.parametrize("sampling", [(), ("--temperature", "1", "--top-p", "0.9", "--seed", "3")])
def test_a_restart_changes_nothing(
    piped: Piped, tmp_path: Path, policy: str, sampling: tuple[str, ...]
) -> None:
    file = tmp_path / "talk"
    at_once, _ = piped(QUESTIONS, "--policy", policy, *sampling)
    answers = []
    for index, question in enumerate(QUESTIONS):
        given = ("--policy", policy) if index < 2 else ()  # later on it is known
        answer, err = piped([question], "--session", str(file), *given, *sampling)
        answers.append(answer)
        if index:
            assert f"goes on from {file}: {index} turn" in err
            assert f"under {policy.partition(',')[0]}" in err
        assert f"{index + 1} turn{'s' if index else ''} in {file}\n" in err
    assert "\n".join(answers) == at_once
    assert [path.name for path in tmp_path.iterdir()] == ["talk"]


def test_it_is_bounded_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "CHARACTERS", 50)
    session = Session(tmp_path / "talk")
    talk = Conversation(context(), "tiny", session=session)
    sizes, bytes_held = set(), set()
    for _ in range(3 * RECENT):
        reply = talk.ask("abc" * 50 if talk.turns > RECENT else "abc", max_new_tokens=3)
        list(reply)
        talk.keep(reply)
        if talk.turns > 2 * RECENT + 1:
            sizes.add((tmp_path / "talk").stat().st_size // 1000)
            bytes_held.add(talk.usage.kv_bytes)
    assert len(bytes_held) == 1
    assert max(sizes) - min(sizes) <= 1
    assert talk.turns == 3 * RECENT
    assert len(talk.recent) == RECENT
    assert max(len(turn.question) for turn in talk.recent) < 60


def test_what_is_not_kept_has_not_happened() -> None:
    """An answer dropped half-way, and one taken back, leave the next as if they had never been."""
    talk, alone = Conversation(context(), "tiny"), Conversation(context(), "tiny")

    def answer(to: Conversation, question: str) -> str:
        reply = to.ask(question, max_new_tokens=20)
        text = "".join(reply)
        to.keep(reply)
        return text

    assert answer(talk, "abc") == answer(alone, "abc")
    dropped = iter(talk.ask(LONG * 50, max_new_tokens=20))
    next(dropped)
    next(dropped)
    assert talk.turns == 1
    answer(talk, "Z" * 60)  # evicts all there was
    assert talk.held == talk.usage.kv_bytes
    assert talk.undo()
    assert not talk.undo()
    assert (talk.usage, talk.recent) == (alone.usage, alone.recent)
    talk.reset()
    assert (talk.turns, talk.usage.seen, talk.recent) == (0, 0, ())
    talk.undo()
    assert answer(talk, "de") == answer(alone, "de")
    assert talk.usage == alone.usage
    talk.reset()
    assert answer(talk, "abc") == answer(Conversation(context(), "tiny"), "abc")


def test_a_stopped_answer_is_kept_as_far_as_it_came() -> None:
    talk = Conversation(context("full"), "tiny")
    reply = talk.ask(LONG, max_new_tokens=50)
    pieces = iter(reply)
    text = next(pieces) + next(pieces) + next(pieces)
    assert reply.unfinished
    talk.keep(reply)
    assert talk.recent[-1].answer == text
    alone = context("full")
    asked = [{"role": "user", "content": LONG}]
    assert alone.generate(asked, max_new_tokens=3) == text
    question = [{"role": "user", "content": "d"}]
    expected = alone.generate(question, max_new_tokens=20)
    assert "".join(talk.ask("d", max_new_tokens=20)) == expected


def test_files_that_are_no_conversation_are_left_alone(piped: Piped, tmp_path: Path) -> None:
    for content in (b"my thesis, of which there is no other copy", bytes(1000), b"PK\3\4" * 9):
        (tmp_path / "file").write_bytes(content)
        _, err = piped(["abc"], "--session", str(tmp_path / "file"), code=2)
        assert "is no saved context: it begins with b'" in err
        assert "a name that is not taken" in err
        assert (tmp_path / "file").read_bytes() == content
    for content in (b"", b"thesis"):
        (tmp_path / "file").write_bytes(content)
        _, err = piped(["abc"], "--session", str(tmp_path / "file"), code=2)
        assert f"is damaged: it ends after {len(content)} bytes" in err
        assert (tmp_path / "file").read_bytes() == content
    assert "is a folder" in piped(["abc"], "--session", str(tmp_path), code=2)[1]
    _, err = piped(["abc"], "--session", str(tmp_path / "no" / "file"), code=2)
    assert "not a folder open to writing" in err


def test_what_differs_is_refused_by_name(
    piped: Piped, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path / "talk"
    options = ("--session", str(file))
    piped(["abc"], *options, "--policy", SMALL, "--system", "Be brief.")
    before = file.read_bytes()
    _, err = piped(["abc"], *options, "--policy", "window:9", code=2)
    assert f"the policy {SMALL} (here window:9)" in err
    _, err = piped(["abc"], *options, "--system", "Be long.", code=2)
    assert "the system prompt 'Be brief.' (here 'Be long.')" in err
    other = tmp_path_factory.mktemp("other")
    tiny("qwen3").save_pretrained(other)
    tokenizer().save_pretrained(other)
    piped._folder, mine = str(other), piped._folder
    _, err = piped(["abc"], *options, code=2)
    assert "was saved with something else: the model's config: " in err
    assert file.read_bytes() == before
    piped._folder = mine
    piped(["d"], *options, "--policy", SMALL, "--system", "Be brief.")


def test_the_dtype_is_that_of_the_session(piped: Piped, tmp_path: Path) -> None:
    options = ("--session", str(tmp_path / "talk"))
    piped(["abc"], *options, "--dtype", "bfloat16", "--device", "cpu")
    piped(["d"], *options)
    _, err = piped(["d"], *options, "--dtype", "float32", code=2)
    assert "the dtype bfloat16 (here float32)" in err
    assert "start anew, take another file" in err
    assert "Context" not in err


def test_the_model_is_found_again_without_being_named(
    piped: Piped, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(folder).parent)
    piped._folder = Path(folder).name
    piped(["abc"], "--session", str(tmp_path / "talk"))
    monkeypatch.chdir(tmp_path)
    piped._folder = "--session=talk"
    assert f"1 turn, 19 tokens seen, 19 kept, {folder} under" in piped([])[1]


def test_a_budget_in_bytes_is_the_same_again(piped: Piped, tmp_path: Path) -> None:
    options = ("--session", str(tmp_path / "talk"), "--policy", "snapkv:48KiB")
    piped(["abc"], *options)
    assert "goes on" in piped(["abc"], *options)[1]


def test_a_context_that_was_saved_by_itself(piped: Piped, tmp_path: Path) -> None:
    alone = context()
    alone.append("abc def")
    alone.save(tmp_path / "state")
    out, err = piped(["d"], "--session", str(tmp_path / "state"))
    assert "0 turns, 7 tokens seen" in err
    assert out == alone.generate([{"role": "user", "content": "d"}], max_new_tokens=12) + "\n"


def test_a_file_that_something_else_has_written_is_not_overwritten(tmp_path: Path) -> None:
    session = Session(tmp_path / "talk")
    one, other = context(), context()
    other.append("ab")
    session.save(one, {})
    session.save(one, {})
    other.save(tmp_path / "talk")
    with pytest.raises(StateError, match="something else has changed"):
        session.save(one, {})
    assert Context.load(tmp_path / "talk", one.model).usage.seen == 2


def test_a_pipe_or_device_is_no_session(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # from which nothing would ever come
    for path in (tmp_path / "pipe", Path(os.devnull)):
        with pytest.raises(InputError, match="is no regular file"):
            Session(path)


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "talk")
    Session(tmp_path / "link").save(context(), {"turns": 0})
    assert (tmp_path / "link").is_symlink()
    assert Session(tmp_path / "link").note == {"turns": 0}


def test_what_killed_writers_left_is_removed(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    names = {f".talk.{ended.pid}.tmp", f".talk.{os.getpid()}.tmp", ".talk.x.tmp", "talk.1.tmp"}
    for name in names:
        (tmp_path / name).touch()
    remove_leftovers(tmp_path / "talk")
    assert {path.name for path in tmp_path.iterdir()} == names - {f".talk.{ended.pid}.tmp"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-new-tokens", "0"], "expected at least 1 token"),
        (["--top-p", "0.5"], "temperature is 0"),
        (["--temperature", "-1"], "expected 0 or more"),
        (["--temperature", "1", "--top-p", "1.5"], "top_p"),
        (["--policy", "windw:5"], "windw"),
    ],
)
def test_mistakes(piped: Piped, options: list[str], message: str) -> None:
    out, err = piped(["abc"], *options, code=2)
    assert message in err
    assert not out


def test_a_model_that_does_not_chat(piped: Piped, tmp_path: Path) -> None:
    silent = tokenizer()
    silent.chat_template = None
    tiny("llama").save_pretrained(tmp_path)
    silent.save_pretrained(tmp_path)
    piped._folder = str(tmp_path)
    assert "has none" in piped(["abc"], code=2)[1]


def test_losses_are_announced(piped: Piped) -> None:
    _, err = piped(["a" * 50], "--policy", SMALL)
    assert "the question has 50 tokens, more than the 43" in err


def test_bytes_that_are_no_text(
    piped: Piped, folder: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"abc\n\xff\n")))
    with pytest.raises(SystemExit):
        main(["chat", folder, "--max-new-tokens", "3"])
    out, err = capsys.readouterr()
    assert "line 2 of standard input is not UTF-8" in err
    assert out


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
    assert command(f"/save {tmp_path / 'copy'}")  # our own may be written again
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
        ("/undo", "brought back: 1 turn"),
        ("/undo", "nothing to take back"),
    ]:
        assert command(line)
        assert reported in said[-1]
    assert not command("/exit")
    assert not command("/quit")


def shown(text: str, width: int) -> list[str]:
    written: list[str] = []
    wrapped = Wrapping(written.append, lambda: width)
    for character in text:
        wrapped(character)
    wrapped.end()
    return "".join(written).split("\n")


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
        assert f"under {SMALL}; /help lists" in " ".join(screen.expect("> ").split())
        screen.type(ENDS + "\n")
        said = screen.expect("> ")
        meter = f"seen {6}, kept {6} of 43, {alone.usage.kv_bytes or 16.5:.3g} kB"
        assert answer(ENDS) in said
        assert meter.rpartition(",")[0] in said
        assert max(map(len, said.splitlines())) <= 60

        screen.type("never mind\n")
        screen.expect("> ")
        screen.type("/undo\n")
        assert "the last turn is taken back; 1 turn left" in screen.expect("> ")

        # Pasted between brackets, with a line that would be a command: one question.
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
        screen.type("\x1b[A")  # the arrow up: the same again
        screen.type("\n")
        assert answer("c\nd") in " ".join(screen.expect("kB").split())
        screen.expect("> ")
        screen.type("/nothing\n")
        assert "no command '/nothing'" in screen.expect("> ")
        screen.type("/reset\n")
        assert "4 turns forgotten" in screen.expect("> ")
        screen.type("/undo\n")
        assert "brought back: 4 turns" in screen.expect("> ")
        screen.type("half a question")
        screen.expect("half a question")
        time.sleep(0.3)  # or Python sees the signal only with the next key
        screen.interrupt()
        assert "Ctrl-C again ends" in screen.expect("> ")
        time.sleep(0.3)
        screen.interrupt()
        assert screen.end() == 130
        assert "4 turns in" in screen.shown

    with Terminal(*command, *options) as screen:
        resumed = screen.expect("\n\n> ")
        assert "4 turns" in " ".join(resumed.split())  # it has paths, and wraps by their length
        assert "> c\nd\n" in resumed + screen.expect("\n\n> ")
        screen.type(ENDS + "\n")
        assert answer(ENDS) in " ".join(screen.expect("kB").split())
        screen.expect("> ")
        screen.type("\x04")
        assert screen.end() == 0
        assert "5 turns in" in screen.shown


def test_ctrl_c_stops_an_answer_and_once_more_ends(
    command: list[str], endless: str, tmp_path: Path
) -> None:
    from tests.helpers.terminal import Terminal

    command[4] = endless
    with Terminal(*command, "--session", str(tmp_path / "talk"), *ENDLESS) as screen:
        screen.expect("> ")
        screen.type("abc\n")
        screen.expect("\n")
        screen.expect("\n")  # a whole line of the answer
        screen.interrupt()
        assert "stopped; what there is of the answer is kept" in screen.expect("> ")
        assert Session(tmp_path / "talk").note["turns"] == 1
        time.sleep(0.3)
        screen.interrupt()
        assert screen.end() == 130
        assert "1 turn in" in screen.shown


class Typing:
    """Types what is listed, then Ctrl-D."""

    spaced = False

    def __init__(self, *lines: str) -> None:
        self._lines = iter(lines)

    def __call__(self) -> str:
        try:
            return next(self._lines)
        except StopIteration:
            raise EOFError from None


def talk_of(monkeypatch: pytest.MonkeyPatch, *lines: str) -> Talk:
    monkeypatch.setattr("transom.cli.repl.Prompt", lambda earlier: Typing(*lines))
    talk = Talk(Conversation(context(), "tiny"), {"max_new_tokens": 5})
    talk.typed = True
    return talk


def test_two_interrupts_within_an_answer_end_and_take_it_back(
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


def test_an_interrupt_while_the_question_is_read_takes_it_back(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """In the middle of a forward pass of the second question."""
    talk = talk_of(monkeypatch, "abc", "Z" * 60, "d")
    layer = talk.conversation.context.model.model.layers[1]
    passes = iter(range(1000))

    def interrupt(*args: Any) -> None:
        if talk.conversation.turns == 1 and next(passes) == 0:
            signal.raise_signal(signal.SIGINT)

    layer.register_forward_pre_hook(interrupt)
    assert talk.at_terminal()
    assert "stopped; the question was not taken in" in capsys.readouterr().err
    assert [turn.question for turn in talk.conversation.recent] == ["abc", "d"]
    expected = context()
    for question in "abc", "d":
        messages = [{"role": "user", "content": question}]
        answer = expected.generate(messages, max_new_tokens=5)
    assert talk.conversation.usage == expected.usage
    assert talk.conversation.recent[-1].answer == answer


def test_what_could_not_be_saved_is_said_and_the_conversation_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path
) -> None:
    talk = talk_of(monkeypatch, "abc", "d")
    talk.conversation.session = Session(tmp_path / "talk")
    (tmp_path / "talk").write_text("somebody else's")
    assert talk.at_terminal()
    talk.close()
    err = capsys.readouterr().err
    assert err.count("was not written: something else has changed, made or removed it") == 2
    assert "does not have the last of this" in err
    assert talk.conversation.turns == 2
    assert (tmp_path / "talk").read_text() == "somebody else's"


@pytest.mark.parametrize("waits", [0.0, 0.3])
def test_a_killed_turn_leaves_the_turns_before_it(
    command: list[str], endless: str, tmp_path: Path, piped: Piped, waits: float
) -> None:
    """With SIGKILL, in the middle of an answer."""
    file = tmp_path / "talk"
    command[4] = piped._folder = endless
    piped(["abc"], "--session", str(file), "--policy", SMALL)
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
    assert piped(["d"], "--session", str(file))[0] == expected + "\n"


def test_killed_between_and_while_saving(command: list[str], tmp_path: Path) -> None:
    """Whenever it is killed, the file has a whole number of turns, and nothing is left beside."""
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
    session = Session(file)
    assert session.note["turns"] >= 9
    alone = context()
    for _ in range(session.note["turns"]):
        alone.generate([{"role": "user", "content": "abc"}], max_new_tokens=1)
    loaded = Context.load(file, alone.model, alone.tokenizer)
    assert loaded.usage == alone.usage
    assert loaded.generate(max_new_tokens=9) == alone.generate(max_new_tokens=9)
    assert [path.name for path in tmp_path.iterdir()] == ["talk"]  # once it has been opened


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


@given(st.lists(st.text("ab \n\t漢\x1bé", max_size=9)), st.integers(1, 12))
def test_it_does_not_matter_how_text_comes(pieces: list[str], width: int) -> None:
    written: list[str] = []
    wrapped = Wrapping(written.append, lambda: width)
    for piece in pieces:
        wrapped(piece)
    wrapped.end()
    assert "".join(written).split("\n") == shown("".join(pieces), width)


@given(st.text("ab  \n", max_size=80), st.integers(3, 12))
def test_lines_break_between_words(text: str, width: int) -> None:
    lines = shown(text, width)
    assert " ".join(" ".join(lines).split()) == " ".join(text.split())
    for line in lines:
        for at in range(width, len(line), width):  # where the terminal breaks it
            word = line[:at].rpartition(" ")[2] + line[at:].partition(" ")[0]
            assert len(word) > width


@given(st.text(st.characters(categories=["L", "Nd", "P", "Zs"]), max_size=50))
def test_nothing_is_broken_where_all_fits(text: str) -> None:
    assert "".join(shown(text, 1000)).rstrip() == text.rstrip()


def test_a_paragraph_is_wrapped_as_textwrap_does() -> None:
    text = "The quick brown fox jumps over the lazy dog, twice. " * 5
    assert shown(text, 30) == [*textwrap.wrap(text, 30), ""]


def test_scripts_without_spaces_break_anywhere() -> None:
    assert shown("漢字" * 5, 8) == ["漢字漢字", "漢字漢字", "漢字", ""]


def test_nothing_moves_the_cursor() -> None:
    assert shown("a\x1b[2J\x9bb\r\n", 20) == ["a\ufffd[2J\ufffdb", ""]


@pytest.mark.model
def test_smollm2_remembers_across_a_restart(smollm2: Any, tmp_path: Path) -> None:
    name, question = "The secret word is walrus.", "Repeat the secret word."
    fresh = Context(smollm2.model, smollm2.tokenizer)
    session = Session(tmp_path / "talk")
    talk = Conversation(fresh, "smollm2", session=session)
    reply = talk.ask(name, max_new_tokens=12)
    list(reply)
    talk.keep(reply)
    expected = "".join(talk.ask(question, max_new_tokens=12))
    again = Session(tmp_path / "talk")
    loaded = Conversation(again.load(smollm2, None), "smollm2", session=again)
    assert loaded.recent == talk.recent
    assert "".join(loaded.ask(question, max_new_tokens=12)) == expected
    assert "walrus" in expected.lower()
