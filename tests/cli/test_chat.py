"""`transom chat`: restarts change nothing, interrupts lose nothing, other files are left alone."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.chats import QUESTIONS, SMALL, PipedChat, context, tokenizer
from tests.helpers.models import tiny
from transom import Context
from transom.cli import main
from transom.sessions import SessionFile
from transom.sessions.conversation import Conversation

pytestmark = pytest.mark.usefixtures("plain")


@pytest.mark.parametrize("system", [None, "Be brief."])
def test_the_answers_are_those_of_a_context(piped_chat: PipedChat, system: str | None) -> None:
    options = () if system is None else ("--system", system)
    out, err = piped_chat([*QUESTIONS, "", "  "], "--policy", SMALL, *options)
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
        assert lines.pop(0).endswith("--policy sinks:10,window=33 keeps it")
    assert lines == [*meters, "nothing was saved; --session FILE keeps a conversation"]


@pytest.mark.parametrize("policy", [SMALL, "full", "snapkv:40,kv=int8"])
@pytest.mark.parametrize("sampling", [(), ("--temperature", "1", "--top-p", "0.9", "--seed", "3")])
def test_a_restart_changes_nothing(
    piped_chat: PipedChat, tmp_path: Path, policy: str, sampling: tuple[str, ...]
) -> None:
    file = tmp_path / "talk"
    at_once, _ = piped_chat(QUESTIONS, "--policy", policy, *sampling)
    answers = []
    for index, question in enumerate(QUESTIONS):
        given = ("--policy", policy) if index < 2 else ()  # later runs take it from the session
        answer, err = piped_chat([question], "--session", str(file), *given, *sampling)
        answers.append(answer)
        if index:
            assert f"goes on from {file}: {index} turn" in err
            assert f"under {policy.partition(',')[0]}" in err
        assert f"{index + 1} turn{'s' if index else ''} in {file}\n" in err
    assert "\n".join(answers) == at_once
    assert [path.name for path in tmp_path.iterdir()] == ["talk"]


def test_files_that_are_not_conversations_are_left_alone(
    piped_chat: PipedChat, tmp_path: Path
) -> None:
    for content in (b"my thesis, of which there is no other copy", bytes(1000), b"PK\3\4" * 9):
        (tmp_path / "file").write_bytes(content)
        _, err = piped_chat(["abc"], "--session", str(tmp_path / "file"), code=2)
        assert "is no saved context: it begins with b'" in err
        assert "a name that is not taken" in err
        assert (tmp_path / "file").read_bytes() == content
    for content in (b"", b"thesis"):
        (tmp_path / "file").write_bytes(content)
        _, err = piped_chat(["abc"], "--session", str(tmp_path / "file"), code=2)
        assert f"is damaged: it ends after {len(content)} bytes" in err
        assert (tmp_path / "file").read_bytes() == content
    assert "is a folder" in piped_chat(["abc"], "--session", str(tmp_path), code=2)[1]
    _, err = piped_chat(["abc"], "--session", str(tmp_path / "no" / "file"), code=2)
    assert "not a folder open to writing" in err


def test_what_differs_is_refused_by_name(
    piped_chat: PipedChat, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path / "talk"
    options = ("--session", str(file))
    piped_chat(["abc"], *options, "--policy", SMALL, "--system", "Be brief.")
    before = file.read_bytes()
    _, err = piped_chat(["abc"], *options, "--policy", "window:9", code=2)
    assert f"the policy {SMALL} (here window:9)" in err
    _, err = piped_chat(["abc"], *options, "--system", "Be long.", code=2)
    assert "the system prompt 'Be brief.' (here 'Be long.')" in err
    other = tmp_path_factory.mktemp("other")
    tiny("qwen3").save_pretrained(other)
    tokenizer().save_pretrained(other)
    piped_chat._folder, mine = str(other), piped_chat._folder
    _, err = piped_chat(["abc"], *options, code=2)
    assert "was saved with something else: the model's config: " in err
    assert file.read_bytes() == before
    piped_chat._folder = mine
    piped_chat(["d"], *options, "--policy", SMALL, "--system", "Be brief.")


def test_the_dtype_is_that_of_the_session(piped_chat: PipedChat, tmp_path: Path) -> None:
    options = ("--session", str(tmp_path / "talk"))
    piped_chat(["abc"], *options, "--dtype", "bfloat16", "--device", "cpu")
    piped_chat(["d"], *options)
    _, err = piped_chat(["d"], *options, "--dtype", "float32", code=2)
    assert "the dtype bfloat16 (here float32)" in err
    assert "start anew, take another file" in err
    assert "Context" not in err


def test_a_restart_finds_the_model_of_the_session(
    piped_chat: PipedChat, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(folder).parent)
    piped_chat._folder = Path(folder).name
    piped_chat(["abc"], "--session", str(tmp_path / "talk"))
    monkeypatch.chdir(tmp_path)
    piped_chat._folder = "--session=talk"
    assert f"1 turn, 19 tokens seen, 19 kept, {folder} under" in piped_chat([])[1]


def test_a_restart_keeps_a_budget_in_bytes(piped_chat: PipedChat, tmp_path: Path) -> None:
    options = ("--session", str(tmp_path / "talk"), "--policy", "snapkv:48KiB")
    piped_chat(["abc"], *options)
    assert "goes on" in piped_chat(["abc"], *options)[1]


def test_a_saved_context_can_start_a_session(piped_chat: PipedChat, tmp_path: Path) -> None:
    alone = context()
    alone.append("abc def")
    alone.save(tmp_path / "state")
    out, err = piped_chat(["d"], "--session", str(tmp_path / "state"))
    assert "0 turns, 7 tokens seen" in err
    assert out == alone.generate([{"role": "user", "content": "d"}], max_new_tokens=12) + "\n"


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
def test_mistakes(piped_chat: PipedChat, options: list[str], message: str) -> None:
    out, err = piped_chat(["abc"], *options, code=2)
    assert message in err
    assert not out


def test_a_model_that_does_not_chat(piped_chat: PipedChat, tmp_path: Path) -> None:
    silent = tokenizer()
    silent.chat_template = None
    tiny("llama").save_pretrained(tmp_path)
    silent.save_pretrained(tmp_path)
    piped_chat._folder = str(tmp_path)
    assert "has none" in piped_chat(["abc"], code=2)[1]


def test_losses_are_announced(piped_chat: PipedChat) -> None:
    _, err = piped_chat(["a" * 50], "--policy", SMALL)
    assert "the question has 50 tokens, more than the 43" in err


def test_bytes_that_are_not_text(
    piped_chat: PipedChat, folder: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"abc\n\xff\n")))
    with pytest.raises(SystemExit):
        main(["chat", folder, "--max-new-tokens", "3"])
    out, err = capsys.readouterr()
    assert "line 2 of standard input is not UTF-8" in err
    assert out


@pytest.mark.model
def test_smollm2_remembers_across_a_restart(smollm2: Any, tmp_path: Path) -> None:
    name, question = "The secret word is walrus.", "Repeat the secret word."
    fresh = Context(smollm2.model, smollm2.tokenizer)
    session = SessionFile(tmp_path / "talk")
    talk = Conversation(fresh, "smollm2", session=session)
    reply = talk.ask(name, max_new_tokens=12)
    list(reply)
    talk.keep(reply)
    expected = "".join(talk.ask(question, max_new_tokens=12))
    again = SessionFile(tmp_path / "talk")
    loaded = Conversation(again.load(smollm2, None), "smollm2", session=again)
    assert loaded.recent == talk.recent
    assert "".join(loaded.ask(question, max_new_tokens=12)) == expected
    assert "walrus" in expected.lower()
