"""The parts of a build join to the corpus that one process would make, on Ray and elsewhere."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models

from tests.helpers.corpora import content
from tests.helpers.corpus_builds import Killed, kill_after, stop_after, tokenizer, write
from transom.corpus import Done, TokenCorpus, Watch, append_files, build
from transom.corpus.job import inputs_of
from transom.corpus.parts import PARTS, join, make_part, plan
from transom.corpus.reading import ReadTask
from transom.errors import CorpusError, InputError, MissingExtraError

WORKERS = 2


def here(task: ReadTask) -> Done:
    """An engine that makes each part twice, the last one first, and fails during one of them."""
    parts = plan(task.inputs, task.job.inputs, size=1)
    folder = task.writer.folder / PARTS
    (folder / f"{parts[0].name}.0").mkdir(parents=True, exist_ok=True)
    for part in [*reversed(parts), *parts]:
        made = make_part(folder, part, tokenizer().to_str(), task.field)
    assert made.parent == folder
    join(task.writer, [folder / part.name for part in parts])
    return Done(len(task.inputs), 0, 0, 0, len(task.inputs), 0, complete=True)


def test_parts_join_in_order(tmp_path: Path) -> None:
    files = write(tmp_path / "texts")
    build(tmp_path / "whole", files, tokenizer())
    whole = TokenCorpus.open(tmp_path / "whole")
    folder = tmp_path / "books"
    build(folder, files, tokenizer(), engine=here)
    corpus = TokenCorpus.open(folder, verified=True)
    assert content(corpus) == content(whole)
    assert [*corpus.sources()] == [*whole.sources()]
    assert corpus.manifest.job is None
    assert not (folder / PARTS).exists()
    append_files(folder, files, tokenizer(), engine=here, again=True)
    assert content(TokenCorpus.open(folder, verified=True)) == 2 * content(whole)
    assert [*TokenCorpus.open(folder).sources()][-1]["documents"] == [23, 24]


def test_a_part_cut_short_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [part] = plan(inputs_of(write(tmp_path / "texts")), "")

    def killed(task: ReadTask) -> Done:
        raise Killed

    monkeypatch.setattr("transom.corpus.parts.read_inputs", killed)
    with pytest.raises(Killed):
        make_part(tmp_path / "parts", part, tokenizer().to_str(), "text")
    assert not [*(tmp_path / "parts").iterdir()]
    monkeypatch.undo()
    made = make_part(tmp_path / "parts", part, tokenizer().to_str(), "text")
    assert TokenCorpus.open(made, verified=True).documents == 12
    changed = made.stat().st_mtime_ns
    assert make_part(tmp_path / "parts", part, "no tokenizer is needed", "text") == made
    assert made.stat().st_mtime_ns == changed


def test_a_join_that_is_killed_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write(tmp_path / "texts")
    folder = tmp_path / "books"
    build(tmp_path / "whole", files, tokenizer())

    def killed(*arguments: object) -> None:
        raise Killed

    for name in ("transom.corpus.writer.sync_folder", "transom.corpus.parts._moved"):
        monkeypatch.setattr(name, killed)
        with pytest.raises(Killed):
            build(folder, files, tokenizer(), engine=here)
        monkeypatch.undo()
    build(folder, files, tokenizer(), engine=here)
    assert content(TokenCorpus.open(folder, verified=True)) == (
        content(TokenCorpus.open(tmp_path / "whole"))
    )


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from transom.corpus.ray import RayEngine

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'transom\[ray\]'"):
        RayEngine()


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    import ray

    ray.init(num_cpus=WORKERS, log_to_driver=False, logging_level="error", include_dashboard=False)
    yield
    ray.shutdown()


def workers_at_work() -> list[int]:
    """The worker processes of this process's Ray that are running a task now."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            title = (path / "cmdline").read_bytes()
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            above = int(Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if title.startswith(b"ray::Map") and above == os.getpid():
            found.append(int(path.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds workers in /proc")
def test_a_worker_of_ray_is_killed(tmp_path: Path, local_ray: None) -> None:
    from transom.corpus.ray import RayEngine

    files = []
    for number in range(6):
        files.append(tmp_path / f"{number}.jsonl")
        rows = (" ".join(f"w{(k * number + n) % 299}" for k in range(n % 90)) for n in range(9000))
        files[-1].write_text("".join(f'{{"text": "{row}"}}\n' for row in rows))
    killed: list[int] = []

    def kill_one() -> None:
        until = time.monotonic() + 60
        while not killed and time.monotonic() < until:
            time.sleep(0.05)
            for process in workers_at_work()[:1]:
                time.sleep(0.2)  # in the middle of a part
                os.kill(process, signal.SIGKILL)
                killed.append(process)

    thread = threading.Thread(target=kill_one)
    thread.start()
    folder = tmp_path / "books"
    done = build(folder, files, tokenizer(), engine=RayEngine(part_bytes=1, workers=WORKERS))
    thread.join()
    assert killed
    assert (done.complete, done.documents, done.files) == (True, 54_000, 6)
    build(tmp_path / "whole", files, tokenizer())
    corpus, whole = TokenCorpus.open(folder, verified=True), TokenCorpus.open(tmp_path / "whole")
    assert [ids.tobytes() for ids in corpus.pieces()] == [ids.tobytes() for ids in whole.pieces()]
    assert corpus.edges.tolist() == whole.edges.tolist()
    assert [*corpus.sources()] == [*whole.sources()]
    assert not (folder / PARTS).exists()


@pytest.mark.slow
def test_a_build_on_ray_resumes_and_names_what_failed(tmp_path: Path, local_ray: None) -> None:
    from transom.corpus.ray import RayEngine

    files = write(tmp_path / "texts")
    engine = RayEngine(part_bytes=1, workers=WORKERS)
    folder = tmp_path / "books"
    told: list[Done] = []
    stopped = build(folder, files, tokenizer(), engine=engine, watch=stop_after(2))
    assert not stopped.complete
    assert TokenCorpus.open(folder).documents == 0
    assert len([path for path in (folder / PARTS).iterdir() if "." not in path.name]) >= 2
    again = build(folder, files, tokenizer(), engine=engine)
    assert (again.complete, again.documents) == (True, 12)
    assert not (folder / PARTS).exists()
    folder = tmp_path / "others"
    build(folder, files[:3], tokenizer(), engine=engine, watch=stop_after(1))
    build(folder, files, tokenizer(), engine=engine, watch=Watch(told.append))
    assert not (folder / PARTS).exists()
    assert told[-1].documents == TokenCorpus.open(folder).documents == 12
    broken = tmp_path / "broken.jsonl"
    broken.write_text("not JSON\n")
    with pytest.raises(CorpusError, match=r"a task of Ray failed: .*broken\.jsonl:1 is not JSON"):
        append_files(folder, [broken], tokenizer(), engine=engine)
    append_files(folder, files, tokenizer(), engine=engine, again=True)
    assert TokenCorpus.open(folder).documents == 24
    begun = tmp_path / "begun"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transom.corpus.reading.COMMIT_SECONDS", -1)
        with pytest.raises(Killed):
            build(begun, files, tokenizer(), watch=kill_after(3))
    with pytest.raises(CorpusError, match="was begun without Ray"):
        build(begun, files, tokenizer(), engine=engine)


@pytest.mark.slow
def test_a_tokenizer_that_would_change_on_its_way_to_a_worker_is_refused(
    tmp_path: Path, local_ray: None
) -> None:
    """The library's JSON drops the last digits of some numbers."""
    from transom.corpus.ray import RayEngine

    rng = random.Random(0)
    scores = [(f"w{number}", -20 * rng.random()) for number in range(500)]
    unigram = Tokenizer(models.Unigram([("?", 0.0), *scores], unk_id=0))
    with pytest.raises(InputError, match="is not the same after being written and read"):
        build(tmp_path / "books", write(tmp_path / "texts"), unigram, engine=RayEngine())
