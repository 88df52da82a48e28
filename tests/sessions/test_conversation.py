"""A conversation and its file, without a terminal."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.helpers.chats import LONG, context
from transom import Context
from transom.errors import InputError, StateError
from transom.sessions import SessionFile, conversation
from transom.sessions.conversation import RECENT, Conversation
from transom.state import remove_leftovers


def test_a_conversation_never_exceeds_its_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation, "CHARACTERS", 50)
    session = SessionFile(tmp_path / "talk")
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


def test_an_answer_that_is_not_kept_leaves_no_trace() -> None:
    """After an abandoned or undone answer, the next one is as if that had never been."""
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
    answer(talk, "Z" * 60)  # evicts all earlier tokens
    assert talk.undo_bytes == talk.usage.kv_bytes
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


def test_undo_that_could_not_be_saved_is_not_taken_back_by_the_next(tmp_path: Path) -> None:
    talk = Conversation(context(), "tiny", session=SessionFile(tmp_path / "talk"))
    for question in "abc", "de":
        reply = talk.ask(question, max_new_tokens=5)
        list(reply)
        talk.keep(reply)
    one = talk.recent[:1]
    (tmp_path / "talk").unlink()  # so that nothing can be saved any more
    with pytest.raises(StateError, match="was not written"):
        talk.undo()
    assert (talk.turns, talk.recent, talk.unsaved, talk.undo_bytes) == (1, one, True, 0)
    assert not talk.undo()  # before, this brought the turn back
    assert (talk.turns, talk.recent) == (1, one)
    with pytest.raises(StateError, match="was not written"):
        talk.reset()
    assert (talk.turns, talk.recent) == (0, ())
    with pytest.raises(StateError, match="was not written"):
        talk.undo()
    assert (talk.turns, talk.recent) == (1, one)
    assert not talk.undo()


def test_a_stopped_answer_is_kept_up_to_where_it_stopped() -> None:
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


def test_a_file_that_somebody_else_has_written_is_not_overwritten(tmp_path: Path) -> None:
    session = SessionFile(tmp_path / "talk")
    one, other = context(), context()
    other.append("ab")
    session.save(one, {})
    session.save(one, {})
    other.save(tmp_path / "talk")
    with pytest.raises(StateError, match="something else has changed"):
        session.save(one, {})
    assert Context.load(tmp_path / "talk", one.model).usage.seen == 2


def test_a_pipe_or_device_is_no_session(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # reading it would wait for ever
    for path in (tmp_path / "pipe", Path(os.devnull)):
        with pytest.raises(InputError, match="is no regular file"):
            SessionFile(path)


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "talk")
    SessionFile(tmp_path / "link").save(context(), {"turns": 0})
    assert (tmp_path / "link").is_symlink()
    assert SessionFile(tmp_path / "link").note == {"turns": 0}


def test_leftovers_of_killed_writers_are_removed(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    names = {f".talk.{ended.pid}.tmp", f".talk.{os.getpid()}.tmp", ".talk.x.tmp", "talk.1.tmp"}
    for name in names:
        (tmp_path / name).touch()
    remove_leftovers(tmp_path / "talk")
    assert {path.name for path in tmp_path.iterdir()} == names - {f".talk.{ended.pid}.tmp"}
