"""Pictures: every character and every pixel of a cell is what the positions in it say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.image import imread

from tests.helpers.patterns import LENGTH, anything
from transom.attention.patterns import (
    Pattern,
    causal,
    dilated,
    documents,
    everything,
    head_groups,
    padding,
    pattern,
    prefix_lm,
    random_blocks,
    sinks,
    sliding,
)
from transom.attention.patterns import cells as cells_module
from transom.attention.patterns.cells import cells
from transom.attention.patterns.picture import SHORTEST, draw, shown_length, sketch
from transom.errors import InputError

NOTHING, ALL = (0xF1, 0xF2, 0xF4), (0x00, 0x4C, 0x7A)


def counted(pattern: Pattern, length: int, side: int) -> torch.Tensor:
    """Visible pairs of each cell, from the whole mask."""
    mask = pattern.mask(length)[0, 0].long()
    count = -(-length // side)
    padded = torch.zeros(count * side, count * side, dtype=torch.int64)
    padded[:length, :length] = mask
    return padded.view(count, side, count, side).sum((1, 3))


@given(anything, st.integers(1, LENGTH), st.integers(1, LENGTH + 3))
def test_cells_count_what_the_mask_shows(some: Pattern, length: int, most: int) -> None:
    shown = cells(some, length, most)
    assert len(shown.visible) <= most
    assert shown.side == -(-length // most)
    assert torch.equal(shown.visible, counted(some, length, shown.side))
    assert torch.equal(shown.size, counted(everything(), length, shown.side))
    assert shown.fraction == pytest.approx(some.mask(length)[0, 0].float().mean().item())


@pytest.mark.parametrize(
    "some",
    [
        sinks(4) | sliding(200),
        causal() & ~dilated(70, 3),
        random_blocks(3, block=50) | prefix_lm(33),
        causal() & documents([100, 371, 1, 529]),
    ],
    ids=repr,
)
@pytest.mark.parametrize("most", [1, 2, 7, 32, 512])
def test_large_cells_are_cut_into_smaller_ones(some: Pattern, most: int) -> None:
    shown = cells(some, 1001, most)
    assert torch.equal(shown.visible, counted(some, 1001, shown.side))


def test_few_positions_are_looked_at_together(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    look = cells_module._look

    def counting(some: Pattern, q: cells_module._Edges, k: cells_module._Edges) -> torch.Tensor:
        looked.append(len(q.first) * int(q.lengths.max()) * int(k.lengths.max()))
        return look(some, q, k)

    monkeypatch.setattr(cells_module, "_look", counting)
    shown = cells(sinks(4) | sliding(5000), 50_000, 32)
    assert max(looked) <= cells_module.AT_ONCE
    assert sum(looked) < 50_000 * 200
    assert int(shown.visible.sum()) == int(torch.arange(1, 50_001).clamp(max=5004).sum())


@pytest.mark.parametrize(
    ("some", "length", "count", "expected"),
    [
        (sliding(2), 5, 32, ["#....", "##...", ".##..", "..##.", "...##"]),
        (sliding(2), 5, 5, ["#....", "##...", ".##..", "..##.", "...##"]),
        (sliding(2), 5, 4, ["+..", "++.", ".+#"]),  # the last cell is cut off
        (causal(), 8, 4, ["+...", "#+..", "##+.", "###+"]),
        (causal() | ~causal(), 9, 2, ["##", "##"]),
        (~everything(), 3, 32, ["...", "...", "..."]),
        (prefix_lm(4), 8, 4, ["##..", "##..", "##+.", "###+"]),
        (sinks(1) | sliding(2), 6, 3, ["+..", "++.", "+++"]),
        (documents([3, 3]), 6, 2, ["#.", ".#"]),
        (pattern("sinks:2,window=2"), 8, 4, ["+...", "#+..", "#++.", "#.++"]),
        (causal(), 1, 32, ["#"]),
    ],
)
def test_sketches(some: Pattern, length: int, count: int, expected: list[str]) -> None:
    assert sketch(some, length, count).splitlines() == expected
    assert some.sketch(length, count) == sketch(some, length, count)


def test_rows_and_heads_that_differ_are_named() -> None:
    some = head_groups([sliding(1), causal()], [0, 1]) & padding(torch.eye(3))
    assert sketch(some).splitlines() == ["#..", "...", "...", "row 0 of 3", "head 0 of 2"]


@pytest.mark.parametrize(
    ("some", "length"),
    [
        (causal(), SHORTEST),
        (sliding(512), 1024),
        (dilated(8, 16), 256),
        (pattern("sinks:4,window=508"), 1024),
        (documents([3, 2]), 5),
        (causal() & documents([3, 2]), 5),
        (sliding(10**9), 65_536),
    ],
    ids=repr,
)
def test_as_much_is_shown_as_shows_what_it_looks_like(some: Pattern, length: int) -> None:
    assert shown_length(some) == length
    assert str(some) == f"{some!r}, {length:,} tokens\n{sketch(some, length)}"


def test_lengths_that_cannot_be_shown(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="length is 0; expected at least 1"):
        causal().sketch(0)
    with pytest.raises(InputError, match="cells is 0; expected at least 1"):
        causal().sketch(8, 0)
    with pytest.raises(InputError, match=r"length is 6 and .* is made for 5 tokens"):
        documents([5]).draw(tmp_path / "p.png", 6)
    assert not list(tmp_path.iterdir())


def pixels(path: Path) -> np.ndarray:
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    return (imread(path)[:, :, :3] * 255).round().astype(int)


@pytest.mark.parametrize(
    ("some", "length", "cell"),
    [
        (sliding(2), 4, 256),
        (sinks(2) | sliding(30), 100, 10),
        (sliding(700), 1000, 2),  # two positions to a cell, and a scale beside it
    ],
    ids=repr,
)
def test_a_picture_shows_every_cell(some: Pattern, length: int, cell: int, tmp_path: Path) -> None:
    some.draw(tmp_path / "p.png", length)
    image = pixels(tmp_path / "p.png")
    shown = cells(some, length, 512)
    span = len(shown.visible) * cell
    # The cells are below the headline and right of the labels; the rest is the same for all.
    left, top = 108, image.shape[0] - 28 - span
    assert image.shape[1] == left + span + (28 if shown.side == 1 else 136)
    assert top == 64 + 2 * 30
    middles = np.arange(len(shown.visible)) * cell + cell // 2
    middle = image[top:, left:][middles][:, middles]
    nothing, everything = (np.abs(middle - colour).max(-1) <= 1 for colour in (NOTHING, ALL))
    assert np.array_equal(nothing, (shown.visible == 0).numpy())
    assert np.array_equal(everything, (shown.visible == shown.size).numpy())


@pytest.mark.parametrize(("words", "more"), [(15, 2), (200, 3)])
def test_a_long_title_takes_more_lines(words: int, more: int, tmp_path: Path) -> None:
    draw(causal(), tmp_path / "short.png", 8, "a title with $ and _")
    draw(causal(), str(tmp_path / "long.png"), 8, "a longer title " * words)
    short, long = pixels(tmp_path / "short.png"), pixels(tmp_path / "long.png")
    assert long.shape[1] == short.shape[1]
    assert long.shape[0] == short.shape[0] + more * 30


def test_the_words_of_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: saved.append(figure))
    some = head_groups([sinks(4) | sliding(100)], [0, 0])
    some.draw(tmp_path / "p.png", 2048)
    some.draw(tmp_path / "p.png", 2048, title="another")
    one, two = saved
    share = f"2,048 tokens, {some.fraction(2048):.2%} of all pairs visible, head 0 of 2"
    assert [text.get_text() for text in one.texts] == [repr(some), share]
    assert [text.get_text() for text in two.texts] == ["another", share]
    axes, scale = one.axes
    assert (axes.get_xlim(), axes.get_ylim()) == ((0, 512), (512, 0))  # the first query on top
    for axis in (axes.xaxis, axes.yaxis):
        assert [label.get_text() for label in axis.get_ticklabels()][:3] == ["0", "256", "512"]
        assert axis.get_ticklocs()[:3].tolist() == [0.125, 64.125, 128.125]
    assert scale.get_ylabel() == "visible in a cell of 4 x 4"


def test_drawing_does_not_touch_pyplot_and_says_what_is_missing(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from transom.attention.patterns import causal\n"
        "assert 'matplotlib' not in sys.modules\n"
        f"causal().draw({str(tmp_path / 'p.png')!r})\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "for name in [*sys.modules]:\n"
        "    if name.startswith('matplotlib'): sys.modules[name] = None\n"
        "causal().draw('p.png')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    assert "MissingExtraError: pictures of patterns need matplotlib" in result.stderr
    assert "pip install 'transom[cli]'" in result.stderr
    assert (tmp_path / "p.png").exists()
