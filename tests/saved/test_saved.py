"""Files that earlier releases saved still open: states, corpora and stores."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.saved.make import CONTEXTS, DOCUMENTS, MORE, READ, STATE, STATES, model
from transom import Context
from transom.corpus import TokenCorpus
from transom.memory import ContextMemoryManager
from transom.policies import parse

HERE = Path(__file__).parent
RELEASES = sorted(path.name for path in HERE.iterdir() if (path / "scores.npz").exists())


def test_there_are_saved_files() -> None:
    assert RELEASES


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("release", RELEASES)
def test_a_saved_state_goes_on(release: str, name: str) -> None:
    context = Context.load(HERE / release / f"{name}.state", model())
    assert (context.policy, context.usage.seen) == (parse(STATES[name]), len(READ))
    expected = np.load(HERE / release / "scores.npz")[name]
    np.testing.assert_allclose(context.score(MORE), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("release", RELEASES)
def test_a_saved_corpus_opens(release: str, tmp_path: Path) -> None:
    corpus = TokenCorpus.open(HERE / release / "corpus")
    assert [corpus.document(i).tolist() for i in range(corpus.documents)] == DOCUMENTS
    shutil.copytree(HERE / release / "corpus", tmp_path / "corpus")
    with TokenCorpus.append(tmp_path / "corpus") as writer:
        writer.add_document([1, 2])
    assert TokenCorpus.open(tmp_path / "corpus").document(len(DOCUMENTS)).tolist() == [1, 2]


@pytest.mark.parametrize("release", RELEASES)
def test_a_saved_store_opens(release: str, tmp_path: Path) -> None:
    shutil.copytree(HERE / release / "store", tmp_path / "store")
    with ContextMemoryManager(2**22, disk=tmp_path / "store") as manager:
        assert manager.get_context("a", namespace="tenant") is None
        for name in ("a/longer", "b"):
            held = manager.get_context(name, namespace="tenant")
            assert held is not None
            assert held.tolist() == list(CONTEXTS[name])
        state = manager.get_state("b", namespace="tenant")
        assert state is not None
        assert state.tobytes() == STATE
        assert not manager.verify().problems
