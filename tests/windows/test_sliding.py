from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from transom.errors import InputError
from transom.policies import Chunked
from transom.tokens import TokenRuns
from transom.windows import Batch, Cut, SlidingWindow, TokenWindow, TokenWindows

PAD = 0


class Case(NamedTuple):
    """Settings, and documents whose ids differ from each other and from padding."""

    settings: dict[str, Any]
    documents: list[list[int]]

    @property
    def ids(self) -> list[int]:
        return [i for document in self.documents for i in document]

    @property
    def ends(self) -> list[int]:
        return [*itertools.accumulate(len(document) for document in self.documents)]

    def window(self) -> SlidingWindow:
        return SlidingWindow(**self.settings, pad_id=PAD, vocab_size=60_000)


@st.composite
def cases(draw: Any, packed: bool | None = None) -> Case:
    special = {
        name: draw(st.sampled_from([None, value]))
        for name, value in (("bos_id", 50_001), ("eos_id", 50_002))
    }
    content = draw(st.integers(1, 9))
    settings = {
        "window_size": content + sum(value is not None for value in special.values()),
        "stride": draw(st.integers(1, content)),
        "padding_side": draw(st.sampled_from(["left", "right"])),
        "drop_last": draw(st.booleans()),
        "packed": draw(st.booleans()) if packed is None else packed,
        **special,
    }
    next_id = itertools.count(1)
    lengths = draw(st.lists(st.integers(1, 30), max_size=5))
    return Case(settings, [[next(next_id) for _ in range(length)] for length in lengths])


def reference(case: Case) -> list[tuple[list[int], list[int], list[int], int]]:
    """The ids, both masks and the start of every window, computed token by token."""
    cut = {"bos_id": None, "eos_id": None, **case.settings}
    bos = [cut["bos_id"]] if cut["bos_id"] is not None else []
    eos = [cut["eos_id"]] if cut["eos_id"] is not None else []
    content = cut["window_size"] - len(bos) - len(eos)
    firsts = {document[0] for document in case.documents}
    made, scored = [], set(firsts)
    for unit in [case.ids] if cut["packed"] else case.documents:
        done: set[int] = set()
        for start in range(0, len(unit), cut["stride"]):
            tokens = unit[start : start + content]
            if done >= set(tokens) or (cut["drop_last"] and len(tokens) < content):
                continue
            done |= set(tokens)
            ids = bos + tokens + eos
            pads = [PAD] * (cut["window_size"] - len(ids))
            score = [0] * len(bos) + [int(t not in scored) for t in tokens] + [0] * len(eos)
            scored |= set(tokens)
            left = cut["padding_side"] == "left"
            rows = [
                pads * left + ids + pads * (not left),
                [0] * len(pads) * left + [1] * len(ids) + [0] * len(pads) * (not left),
                [0] * len(pads) * left + score + [0] * len(pads) * (not left),
            ]
            made.append((*rows, tokens[0] - 1))
    return made


def plain(windows: Any) -> list[tuple[list[int], list[int], list[int], int]]:
    return [
        (w.ids.tolist(), w.attention_mask.tolist(), w.score_mask.tolist(), w.start) for w in windows
    ]


@given(cases())
def test_windows_are_the_references(case: Case) -> None:
    window = case.window()
    window.add_tokens(case.ids, documents=case.ends)
    expected = reference(case)
    windows = window.get_windows()
    assert plain(windows) == expected
    assert len(windows) == len(expected)
    assert plain(windows[i] for i in range(len(windows))) == expected
    assert plain(windows[::-2]) == expected[::-2]
    if expected:
        assert plain([windows[-1]]) == expected[-1:]
    with pytest.raises(IndexError):
        windows[len(windows)]


@given(cases())
def test_every_token_is_there_and_counts_once(case: Case) -> None:
    window = case.window()
    window.add_tokens(case.ids, documents=case.ends)
    shown: list[int] = []
    counted: list[int] = []
    for w in window.get_windows():
        tokens = w.ids[w.attention_mask == 1]
        shown += tokens[tokens <= len(case.ids)].tolist()
        counted += w.ids[w.score_mask == 1].tolist()
        assert ((w.ids != PAD) == w.attention_mask).all()
    firsts = {document[0] for document in case.documents}
    assert len(counted) == len(set(counted))
    if not case.settings["drop_last"]:
        assert set(shown) == set(case.ids)
        assert set(counted) == set(case.ids) - firsts


@given(cases(), st.data())
def test_batches_are_the_windows(case: Case, data: Any) -> None:
    window = case.window()
    window.add_tokens(case.ids, documents=case.ends)
    windows = window.get_windows()
    expected = plain(windows)
    count = len(windows)
    start, stop = data.draw(st.integers(0, count)), data.draw(st.integers(0, count + 2))
    numbers = data.draw(st.lists(st.integers(0, count - 1))) if count else []
    for batch, wanted in (
        (window.batch(start, stop), expected[start:stop]),
        (windows.batch(numbers), [expected[i] for i in numbers]),
    ):
        assert batch.ids.tolist() == [ids for ids, _, _, _ in wanted]
        assert batch.attention_mask.tolist() == [mask for _, mask, _, _ in wanted]
        assert batch.score_mask.tolist() == [mask for _, _, mask, _ in wanted]
        assert batch.ids.dtype == np.int32
    starts, documents = windows.origins(slice(None))
    assert starts.tolist() == [start for _, _, _, start in expected]
    assert documents.tolist() == [w.document for w in windows]
    assert documents.tolist() == [int(np.searchsorted(case.ends, at, "right")) for at in starts]


@given(cases(), st.lists(st.integers(0, 120)), st.data())
def test_ids_in_several_arrays_make_the_same_windows(
    case: Case, cuts: list[int], data: Any
) -> None:
    window = case.window()
    window.add_tokens(case.ids, documents=case.ends)
    wanted = window.get_windows()
    ids = np.array(case.ids, dtype=np.uint16)
    arrays = [piece.copy() for piece in np.split(ids, sorted(at for at in cuts if at < len(ids)))]
    edges = np.array([0, *case.ends], dtype=np.int64)
    windows = TokenWindows(window.cut, TokenRuns(arrays, ids.dtype), edges)
    assert plain(windows) == plain(wanted)
    count = len(wanted)
    numbers = data.draw(st.lists(st.integers(0, count - 1))) if count else []
    for which in (numbers, slice(None)):
        for one, other in zip(windows.batch(which), wanted.batch(which), strict=True):
            assert (one is None and other is None) or one.tolist() == other.tolist()


@given(cases(), st.data())
def test_documents_without_tokens_have_no_windows_but_numbers(case: Case, data: Any) -> None:
    window = case.window()
    window.add_tokens(case.ids, documents=case.ends)
    wanted = window.get_windows()
    edges = np.array([0, *case.ends], dtype=np.int64)
    empty = data.draw(st.lists(st.integers(0, len(case.ends)), max_size=4))
    more = np.sort(np.append(edges, edges[empty]))
    windows = TokenWindows(window.cut, TokenRuns([np.array(case.ids)], np.dtype(int)), more)
    assert plain(windows) == plain(wanted)
    for one, other in zip(windows, wanted, strict=True):
        before = sum(at <= other.document for at in empty)
        assert one.document == other.document + before
        assert np.array_equal(one.cu_seqlens, other.cu_seqlens)


@given(cases(), st.lists(st.integers(0, 20), min_size=1, max_size=6), st.booleans())
def test_a_stream_gives_the_same_windows(case: Case, lengths: list[int], lazy: bool) -> None:
    window = case.window()
    streamed: list[TokenWindow] = []
    for document in case.documents:
        rest, turns = document, itertools.cycle(lengths)
        while rest:
            length = next(turns) or 1
            piece, rest = rest[:length], rest[length:]
            streamed += window.feed(iter(piece) if lazy else piece)
            unit = window.seen if case.settings["packed"] else len(document) - len(rest)
            assert len(window) == window.policy.kept(unit)
        window.end_document()
    streamed += window.flush()
    whole = case.window()
    whole.add_tokens(case.ids, documents=case.ends)
    assert plain(streamed) == plain(whole.get_windows())
    assert [w.document for w in streamed] == [w.document for w in whole.get_windows()]
    for a, b in zip(streamed, whole.get_windows(), strict=True):
        if case.settings["packed"]:
            assert a.position_ids.tolist() == b.position_ids.tolist()
            assert a.cu_seqlens.tolist() == b.cu_seqlens.tolist()
    assert len(window) == 0
    assert window.seen == len(case.ids)
    if not case.settings["packed"]:  # it starts again from 0 after the end
        again = [*window.feed(case.ids), *window.flush()]
        fresh = case.window()
        fresh.add_tokens(case.ids)
        assert [w[:3] for w in plain(again)] == [w[:3] for w in plain(fresh.get_windows())]


def test_windows_left_untaken_come_with_the_next_feed() -> None:
    window = SlidingWindow(4, 2)
    first = next(window.feed(range(100)))
    rest = [*window.feed(range(100, 103)), *window.flush()]
    whole = SlidingWindow(4, 2)
    whole.add_tokens(range(103))
    assert plain([first, *rest]) == plain(whole.get_windows())


def test_an_endless_stream_is_read_as_windows_are_taken() -> None:
    window = SlidingWindow(8, 4, vocab_size=10)
    stream = window.feed(itertools.cycle(range(10)))
    for w in itertools.islice(stream, 20_000):
        assert w.ids[0] == w.start % 10
    assert window.nbytes < 40_000
    assert window.seen < 20_000 * 4 + 8192 + 8


def test_a_bad_id_in_a_stream_keeps_what_came_before_its_block() -> None:
    window = SlidingWindow(4, 4, vocab_size=9)
    stream = window.feed(itertools.chain([1] * 8192, [9]))
    assert len([*itertools.islice(stream, 2048)]) == 2048
    with pytest.raises(InputError, match="from 9 to 9"):
        next(stream)
    assert window.seen == 8192
    with pytest.raises(InputError):
        window.feed([9])  # raised at once, not at the first window


@given(cases(packed=True))
def test_packed_windows_know_their_documents(case: Case) -> None:
    window = case.window()
    window.add_tokens(case.ids, documents=case.ends)
    number = {i: n for n, document in enumerate(case.documents) for i in document}
    batch = window.batch(0, 1000)
    assert batch.position_ids is not None
    for row, w in enumerate(window.get_windows()):
        assert w.cu_seqlens is not None
        assert w.position_ids is not None
        assert w.cu_seqlens.dtype == w.position_ids.dtype == np.int32
        real = np.flatnonzero(w.attention_mask)
        assert (w.cu_seqlens[0], w.cu_seqlens[-1]) == (real[0], real[-1] + 1)
        positions = np.zeros_like(w.ids, dtype=np.int32)
        for a, b in itertools.pairwise(w.cu_seqlens.tolist()):
            assert b > a
            assert len({number[i] for i in w.ids[a:b].tolist() if i in number}) == 1
            positions[a:b] = range(b - a)
        documents = [number[i] for i in w.ids.tolist() if i in number]
        assert len(set(documents)) == len(w.cu_seqlens) - 1
        assert w.position_ids.tolist() == positions.tolist()
        assert batch.position_ids[row].tolist() == positions.tolist()


@given(cases(), st.integers(0, 3))
def test_offsets_lead_back_to_the_text(case: Case, after: int) -> None:
    text = "".join(f"<{i}>{' ' * after}" for i in case.ids)
    found = [(text.index(f"<{i}>"), text.index(f"<{i}>") + len(f"<{i}>")) for i in case.ids]
    window = case.window()
    for a, b in itertools.pairwise([0, *case.ends]):
        window.add_tokens(case.ids[a:b], documents=[b - a], offsets=found[a:b])
    windows = window.get_windows()
    if not case.ids:
        return
    for w, (start, stop) in zip(windows, windows.spans(slice(None)).tolist(), strict=True):
        tokens = []
        for i, (a, b) in zip(w.ids.tolist(), w.offsets.tolist(), strict=True):
            if i in case.ids:
                assert text[a:b] == f"<{i}>"
                tokens.append(i)
            else:
                assert (a, b) == (0, 0)
        shown = text[start:stop].replace(" ", "")
        assert shown == "".join(f"<{i}>" for i in tokens)


def test_policy_is_what_the_newest_window_shows() -> None:
    assert SlidingWindow(512, 256).policy == Chunked(512, chunk=256)
    assert SlidingWindow(512, 256, bos_id=1).policy == Chunked(511, chunk=256)
    assert SlidingWindow(512, overlap=100).cut.stride == 412
    assert SlidingWindow(512, overlap=0, bos_id=1, eos_id=2).cut.stride == 510
    assert SlidingWindow().cut == Cut(size=512, stride=256)
    assert SlidingWindow(1).cut.stride == 1


def test_full_windows_are_views() -> None:
    window = SlidingWindow(4, 2, vocab_size=256)
    window.add_tokens(range(100))
    a, b, *_ = window.get_windows()
    assert np.shares_memory(a.ids, b.ids)
    assert a.ids.dtype == window.get_windows()[-1].ids.dtype == np.uint8
    for array in (a.ids, a.attention_mask, a.score_mask):
        assert not array.flags.writeable


def test_windows_stay_as_they_were_when_more_is_added() -> None:
    window = SlidingWindow(4, 2)
    window.add_tokens(range(7))
    windows = window.get_windows()
    before = plain(windows)
    window.add_tokens(range(100))
    assert plain(windows) == before
    window.clear()
    assert plain(windows) == before


@pytest.mark.parametrize("kind", ["arrays", "tensors", "batch"])
def test_batch_writes_into_the_callers_buffers(kind: str) -> None:
    window = SlidingWindow(8, 4, vocab_size=50_000)
    window.add_tokens(range(1000))
    wanted = window.batch(3, 20)
    buffers: Any = window.buffers(64)
    if kind == "arrays":
        buffers = (np.zeros((64, 8), np.int64), np.zeros((64, 8), bool), np.zeros((64, 8), int))
    elif kind == "tensors":
        buffers = tuple(torch.zeros(64, 8, dtype=torch.int64) for _ in range(3))
    made = window.batch(3, 20, out=buffers)
    for name, given_buffer, array in zip(Batch._fields, buffers, made, strict=False):
        if array is not None:
            assert np.shares_memory(np.asarray(given_buffer), array)
            assert (array == getattr(wanted, name)).all()
            assert array.shape == (17, 8)


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ((np.zeros((2, 8), int),) * 3, r"ids has shape \(2, 8\); expected \(3, 8\)"),
        ((np.zeros((3, 7), int),) * 3, r"ids has shape \(3, 7\)"),
        ((np.zeros((3, 8), int),) * 2, "2 buffers were given; expected ids, attention_mask"),
        ((np.zeros((3, 8), np.int16), *(np.zeros((3, 8), int),) * 2), "ids is of int16"),
        ((np.zeros((3, 8), bool), *(np.zeros((3, 8), int),) * 2), "ids is of bool"),
        ((np.zeros((3, 8)),) * 3, "ids is ndarray of float64"),
        (([[0] * 8] * 3,) * 3, "ids is list of no dtype"),
        ((torch.zeros(3, 8, requires_grad=True),) * 3, "ids is not in CPU memory|float"),
    ],
)
def test_buffers_are_checked(out: Any, message: str) -> None:
    window = SlidingWindow(8, 4, vocab_size=50_000)
    window.add_tokens(range(100))
    with pytest.raises(InputError, match=message):
        window.batch(0, 3, out=out)


def test_windows_are_asked_for_by_number() -> None:
    window = SlidingWindow(8, 4)
    window.add_tokens(range(100))
    windows = window.get_windows()
    assert repr(windows) == "<24 windows of 8 ids, 4 apart>"
    for bad in ([1.5], [[1]], [True]):
        with pytest.raises(InputError, match="asked for by"):
            windows.batch(bad)
    for bad in ([-1], [24]):
        with pytest.raises(IndexError, match="there are 24"):
            windows.batch(bad)
    with pytest.raises(InputError, match="no offsets"):
        windows.spans(slice(None))


def test_tensors_share_memory(recwarn: pytest.WarningsRecorder) -> None:
    window = SlidingWindow(8, 4, packed=True)
    window.add_tokens(range(100))
    batch = window.batch(0, 5)
    tensors = batch.torch()
    tensors.ids[0, 0] = 77
    assert batch.ids[0, 0] == 77
    assert torch.equal(tensors.position_ids, torch.from_numpy(batch.position_ids))
    one = SlidingWindow(8, 4)
    one.add_tokens(range(100))
    w = one.get_windows()[1]
    assert w.torch().ids.data_ptr() == w.ids.ctypes.data
    assert w.torch().start == 4
    assert not recwarn.list


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stride": 513}, "stride is 513 and a window has 512 tokens"),
        ({"stride": 512, "bos_id": 1}, "stride is 512 and a window has 511"),
        ({"overlap": 512}, "overlap is 512 and a window has 512"),
        ({"overlap": -1}, "overlap is -1"),
        ({"stride": 3, "overlap": 3}, "expected one of them"),
        ({"padding_side": "both"}, "'both'; expected 'left' or 'right'"),
        ({"pad_id": -1}, "pad_id is -1"),
        ({"pad_id": 2**31}, "pad_id is 2147483648"),
        ({"pad_id": None}, "pad_id is None"),
        ({"eos_id": 0.5}, "eos_id is 0.5"),
        ({"window_size": 2, "bos_id": 1, "eos_id": 2}, "room for a token"),
    ],
    ids=str,
)
def test_hostile_settings(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SlidingWindow(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"documents": [5]}, "documents must end at 0 to 4"),
        ({"documents": [2, 2]}, "ascending"),
        ({"documents": [3, 2]}, "ascending"),
        ({"documents": [1.5]}, "documents must end"),
        ({"offsets": [(0, 1)] * 3}, r"expected whole numbers, \(4, 2\)"),
        ({"offsets": [(0.0, 1.0)] * 4}, "offsets are float64"),
        ({}, "offsets were given before and are not now"),
    ],
    ids=str,
)
def test_hostile_documents_and_offsets_change_nothing(
    arguments: dict[str, Any], message: str
) -> None:
    window = SlidingWindow(4, 2)
    window.add_tokens([1, 2], offsets=[(0, 1), (1, 2)])
    before = plain(window.get_windows())
    if "documents" in arguments:
        arguments = {**arguments, "offsets": [(0, 1)] * 4}
    with pytest.raises(InputError, match=message):
        window.add_tokens(range(4), **arguments)
    assert plain(window.get_windows()) == before
    assert window.seen == 2
