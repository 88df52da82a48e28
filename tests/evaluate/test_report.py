"""The page shows the figures, loads nothing from elsewhere, and escapes text."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transom.cli.live_table import columns, lines
from transom.evaluate.front import front
from transom.evaluate.report import page
from transom.evaluate.report.svg import Axis, Chart
from transom.evaluate.results import Results
from transom.evaluate.rows import LossRow, RecallRow, SpeedRow
from transom.evaluate.summary import Score, summaries
from transom.units import plain_seconds, plain_size

LENGTHS = (1000, 2000)
DEPTHS = (0.0, 0.5, 1.0)
HOT = {"full": 20_000_000, "sinks:4,window=508": 5_000_000, "window:512": 5_100_000}
LOSS = {"full": 2.5, "sinks:4,window=508": 2.25, "window:512": 3.0}
FACTS = {
    **{"parameters": 134_515_008, "dtype": "float32", "trained_length": 1024},
    **{"token_bytes": 10_000, "date": "2026-01-02", "cpu": "A chip", "cores": 2},
    **{"device": "cpu", "versions": {"transom": "0.1.0"}, "command": "transom evaluate 'a;b'"},
}
SETTINGS = {"model": "fake", "text": "<b>book</b>.txt", "seed": 0, "chunk": 512}


def rows_of(policy: str):
    hot, loss = HOT[policy], LOSS[policy]
    points = tuple((at, at + 500, loss) for at in range(0, 2000, 500))
    yield LossRow(policy, 2000, loss, points, 9.0, hot, 0)
    for length in LENGTHS:
        yield SpeedRow(policy, length, length / 250, 0.0425, hot, 0)
        for depth in DEPTHS:
            for trial in range(2):
                right = policy == "full" or depth == 1.0 or (depth == 0.5 and trial == 0)
                yield RecallRow(
                    *(policy, "needle", length, depth, trial, length - 5, "12345"),
                    *(" 12345." if right else "</script><i>no&", right, hot, 0),
                )


def results(**changes) -> Results:
    rows = [row for policy in HOT for row in rows_of(policy)]
    recomputed = SpeedRow("recompute:512", 2000, None, 2.0, 5_000_000, 0)
    return replace(Results(SETTINGS, FACTS, [*rows, recomputed], tuple(HOT)), **changes)


class Page(HTMLParser):
    """A parsed page: the text of each cell by its row and column, and all attributes."""

    VOID = ("meta", "br", "wbr", "link", "img", "path", "circle")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[tuple[str, dict[str, str | None]]] = []
        self.cells: dict[tuple[str, str], str] = {}
        self.heat: dict[tuple[str, str], list[list[str]]] = {}
        self.attributes: list[tuple[str, str, str]] = []
        self.figures = ""
        self.text = ""
        self.unclosed: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.attributes += [(tag, name, value or "") for name, value in attributes]
        if tag not in self.VOID:
            self.open.append((tag, values))
        heat = self._heat()
        if heat is not None and tag == "tr":
            heat.append([])
        if heat and tag == "td":
            heat[-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.attributes += [(tag, name, value or "") for name, value in attributes]

    def handle_endtag(self, tag):
        if self.open and self.open[-1][0] == tag:
            self.open.pop()
        elif tag not in self.VOID:
            self.unclosed.append(tag)

    def handle_data(self, data):
        tags = [tag for tag, _ in self.open]
        if "script" in tags:
            self.figures += data
            return
        if "style" not in tags:
            self.text += data
        row = next((of["data-policy"] for tag, of in self.open if tag == "tr" and of), "")
        cell = next((of.get("data-is") for tag, of in self.open if tag == "td"), None)
        if row and cell:
            self.cells[row, cell] = self.cells.get((row, cell), "") + data.strip()
        heat = self._heat()
        if heat and "td" in tags:
            heat[-1][-1] += data

    def _heat(self):
        for tag, values in self.open:
            if tag == "table" and "data-task" in values:
                return self.heat.setdefault((values["data-task"], values["data-policy"]), [])
        return None


@pytest.fixture(scope="module")
def shown() -> Page:
    return Page(page(results()))


def test_the_page_says_what_the_figures_say(shown):
    figures = json.loads(shown.figures)
    assert figures == json.loads(results().dumps())
    for one in figures["policies"]:
        cell = {key[1]: text for key, text in shown.cells.items() if key[0] == one["policy"]}
        assert cell["hot_bytes"] == plain_size(one["hot_bytes"])
        if one["loss"] is None:
            assert cell["loss"] == "–"
            continue
        assert cell["loss"] == f"{one['loss']:.3f}"
        assert cell["flatness"] == f"{one['flatness']:.2f}"
        scores = one["recall"]["needle"].values()
        right, total = (sum(score[key] for score in scores) for key in ("right", "total"))
        assert cell["needle"] == f"{right}/{total}"
        heat = [row for row in shown.heat["needle", one["policy"]] if row]
        assert len(heat) == len(DEPTHS)
        for column, length in enumerate(LENGTHS):
            counted = [row[column].partition("/")[0] for row in heat]
            assert sum(map(int, counted)) == one["recall"]["needle"][str(length)]["right"]
        assert heat[1] == (["2/2"] * 2 if one["policy"] == "full" else ["1/2"] * 2)
        assert plain_seconds(0.0425) in shown.text


def test_hot_bytes_and_all_bytes_are_told_apart():
    cold = {"window:512": 30_000_000}
    rows = [
        replace(row, cold_bytes=cold.get(row.policy, 0))
        for policy in HOT
        for row in rows_of(policy)
    ]
    found = results(rows=rows)
    shown = Page(page(found))
    recalls = next(one for one in found.policies if one.policy == "window:512")
    assert (recalls.hot_bytes, recalls.total_bytes) == (5_100_000, 35_100_000)
    assert shown.cells["window:512", "hot_bytes"] == "5.1 MB"
    assert shown.cells["window:512", "total_bytes"] == "35.1 MB"
    assert shown.cells["full", "hot_bytes"] == shown.cells["full", "total_bytes"] == "20 MB"
    assert (
        "window:512 keeps 5.1 MB hot, 25.5% of what full attention does, and in all 35.1 MB, "
        "175.5%" in shown.text
    )
    # With cold bytes counted, full attention is as good with fewer bytes.
    assert found.front("recall") == ["sinks:4,window=508", "full"]
    assert found.front("recall", "total_bytes") == ["sinks:4,window=508", "full"]
    titles = [value for tag, name, value in shown.attributes if name == "aria-label"]
    for quality in ("recall", "loss"):
        for held in ("hot", "hot and cold"):
            assert f"{quality} against bytes of keys and values, {held}" in titles
    assert columns(found.policies)[:3] == ["policy", "KV hot", "KV in all"]
    assert lines(found.policies)[2][1:3] == ["5.1 MB", "35.1 MB"]
    figures = json.loads(found.dumps())
    assert [one["total_bytes"] for one in figures["policies"]] == [20e6, 5e6, 35.1e6]
    assert set(figures["front_in_all"]) == {"loss", "recall"}


def test_without_cold_blocks_there_is_one_figure(shown):
    assert not [key for key in shown.cells if key[1] == "total_bytes"]
    assert columns(results().policies)[:2] == ["policy", "KV"]
    fronts = [v for tag, name, v in shown.attributes if name == "data-held"]
    assert fronts == ["hot_bytes"]


def test_the_front_changes_where_cold_bytes_count():
    quality = {"a": 0.9, "b": 0.8, "c": 0.1}
    rows = [
        RecallRow(p, "needle", 100, 0.0, at, 95, "1", "1", at < 10 * q, hot, cold)
        for (p, q), hot, cold in zip(quality.items(), (10, 20, 5), (90, 0, 0), strict=True)
        for at in range(10)
    ]
    found = results(rows=rows, order=tuple(quality))
    assert found.front("recall") == ["c", "a"]
    assert found.front("recall", "total_bytes") == ["c", "b", "a"]


def test_the_page_needs_nothing_from_anywhere(shown):
    for tag, name, value in shown.attributes:
        assert name not in ("src", "srcset", "data", "poster"), (tag, name, value)
        assert not (name == "href" and not value.startswith("#")), (tag, value)
        assert "url(" not in value
    html = page(results())
    assert "@import" not in html
    assert "url(" not in html
    assert "http" not in html


def test_every_element_is_closed_and_text_is_text(shown):
    assert shown.unclosed == []
    assert shown.open == []
    assert "<b>book</b>.txt" in shown.text  # escaped, so it is not markup
    assert "</script><i>no&" in shown.text
    assert not [tag for tag, _, _ in shown.attributes if tag == "i"]


def test_the_result_in_words(shown):
    assert "At 2,000 tokens full attention keeps 20 MB" in shown.text
    assert "sinks:4,window=508 keeps 5 MB, 25.0% of that" in shown.text
    assert "2.250, under sinks:4,window=508; with full attention it is 2.500" in shown.text
    assert "full answered the most questions rightly, 12 of 12 (100%" in shown.text
    assert "interrupted" not in shown.text
    assert "interrupted" in Page(page(results(complete=False))).text


@pytest.mark.parametrize("kind", ["recall", "loss", "speed"])
def test_a_page_of_one_kind_of_figures(kind):
    rows = [row for row in results().rows if row.kind == kind]
    shown = Page(page(results(rows=rows)))
    assert (shown.unclosed, shown.open) == ([], [])
    sections = [value for tag, name, value in shown.attributes if (tag, name) == ("section", "id")]
    expected = {
        "recall": ["recall", "front", "misses", "how"],
        "loss": ["loss", "front", "how"],
        "speed": ["speed", "how"],
    }
    assert sections == expected[kind]


def test_an_unknown_figure_is_a_dash():
    rows = [LossRow("full", 1, None, ((0, 1, None),), 0.1, 100, 0)]
    shown = Page(page(results(rows=rows, facts={**FACTS, "trained_length": None})))
    assert shown.open == []


def test_the_front_is_marked():
    assert results().front("loss") == ["sinks:4,window=508"]
    assert results().front("recall") == ["sinks:4,window=508", "full"]
    html = page(results())
    assert (
        html.count('class="dot best c0"') == 2 * 2
    )  # in both charts: for wide and for narrow pages
    assert html.count('class="dot best full"') == 2
    assert html.count('class="dot c1"') >= 4


points = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12)


@given(points)
def test_no_point_beats_one_on_the_front(found):
    def beaten(a):
        return any(b[0] <= a[0] and b[1] >= a[1] and b != a for b in found)

    assert sorted(front(found)) == [i for i, one in enumerate(found) if not beaten(one)]


def test_flatness_is_the_last_quarter_over_the_second():
    points = tuple((at, at + 100, float(at // 400 + 1)) for at in range(0, 1600, 100))
    row = LossRow("full", 1600, 2.5, points, 1.0, 1, 0)
    assert summaries([row])[0].flatness == pytest.approx(4 / 2)
    assert summaries([replace(row, points=points[:1], tokens=100)])[0].flatness is None


def test_confidence_intervals_are_wilsons():
    assert Score(0, 10).interval == pytest.approx((0.0, 0.2775), abs=1e-3)
    assert Score(29, 30).interval == pytest.approx((0.8333, 0.9941), abs=1e-3)


@given(
    st.floats(-1e6, 1e6),
    st.floats(1e-3, 1e6),
    st.integers(1, 12),
)
def test_ticks_are_round_and_between_the_ends(low, extent, count):
    axis = Axis("", low, low + extent, str)
    ticks = axis.ticks(count)
    assert len(ticks) <= 2.6 * count + 2
    for tick in ticks:
        assert -0.001 <= axis.place(tick) <= 1.001


@pytest.mark.parametrize(("low", "high"), [(1e6, 2e6), (3e7, 2e9), (1.0, 1e12), (5e6, 5.2e6)])
def test_ticks_of_a_logarithmic_axis(low, high):
    axis = Axis("", low, high, str, log=True)
    assert axis.place(low) == 0
    assert axis.place(high) == pytest.approx(1)
    assert all(0 <= axis.place(tick) <= 1 for tick in axis.ticks(4))
    assert len(axis.ticks(4)) <= 14


def test_a_chart_escapes_names():
    chart = Chart(Axis("x", 0, 1, str), Axis("y", 0, 1, str), 'a "title"')
    chart.dot(0.5, 0.5, "c0", "<a&b>")
    chart.rule(0.2, "<rule>")
    markup = chart.markup()
    assert "&lt;a&amp;b&gt;" in markup
    assert "&lt;rule&gt;" in markup
    assert 'aria-label="a &quot;title&quot;"' in markup


def interrupted() -> Results:
    """`full` has all results, `sinks` lacks the trials at one length, `window` has few."""
    kept = []
    for row in results().rows:
        if row.policy == "sinks:4,window=508" and row.kind == "recall" and row.length == 2000:
            continue
        few = row.kind == "recall" and (row.length, row.depth) == (1000, 0.0)
        if row.policy != "window:512" or few:
            kept.append(row)
    return results(rows=kept, complete=False)


def test_policies_are_compared_by_what_all_were_asked():
    found = interrupted()
    shown = Page(page(found))
    asked = {policy: shown.cells[policy, "needle"] for policy in HOT}
    assert asked == {"full": "2/2", "sinks:4,window=508": "0/2", "window:512": "0/2"}
    assert "full answered the most questions rightly, 2 of 2" in shown.text
    assert (
        shown.cells["sinks:4,window=508", "loss"] == "2.250"
    )  # among the policies that have a loss
    assert shown.cells["window:512", "loss"] == "–"
    left_out = 12 - 2 + 6 - 2
    assert f"{left_out} of {len(found.rows)} results exist for some policies only" in shown.text
    assert len(json.loads(shown.figures)["rows"]) == len(found.rows)  # all rows are in the page
    assert "exist for some policies only" not in Page(page(results(complete=False))).text


def test_rows_of_other_policies_do_not_narrow_the_comparison():
    earlier = [replace(row, policy="window:9") for row in rows_of("full") if row.kind == "speed"]
    found = results(rows=[*results().rows, earlier[0]])
    assert found.compared == list(found.rows)
    assert len(results(rows=[*results().rows, earlier[0]], order=()).compared) < len(found.rows)


def test_a_report_says_if_policies_have_no_measurement_in_common():
    rows = [row for row in rows_of("full") if row.kind == "speed" and row.length == 1000]
    rows += [row for row in rows_of("window:512") if row.kind == "speed" and row.length == 2000]
    shown = Page(page(results(rows=rows, complete=False)))
    assert "Nothing has been measured alike" in shown.text
    assert (shown.unclosed, shown.open) == ([], [])


def test_full_attention_takes_100_percent_although_its_storage_grows_in_steps():
    rows = [replace(row, hot_bytes=34_000_000) for row in results().rows
            if row.policy == "full" and row.kind == "speed" and row.length == 1000]  # fmt: skip
    assert rows
    found = Page(page(results(rows=rows, complete=False)))
    assert found.cells["full", "of_full"] == "100.0%"
    assert "340.0%" not in found.text


def test_shares_of_full_attention_count_only_prompts_that_fill_the_budget(shown):
    assert shown.cells["sinks:4,window=508", "of_full"] == "25.0%"
    short = [row for row in results().rows if row.kind == "speed" and row.length == 1000]
    roomy = [replace(row, hot_bytes=10_000_000 if row.policy == "full" else row.hot_bytes * 4)
             for row in short]  # fmt: skip
    found = Page(page(results(rows=roomy, complete=False)))
    assert found.cells["full", "of_full"] == "100.0%"
    assert found.cells["sinks:4,window=508", "of_full"] == "–"
    assert "200.0%" not in found.text
    assert "no policy was seen to keep less" in found.text
    # A policy that was not given the longest prompt has no share of full attention there.
    shown = Page(page(interrupted()))
    assert shown.cells["sinks:4,window=508", "of_full"] == "25.0%"
    assert shown.cells["window:512", "of_full"] == "–"


def test_on_a_narrow_page_every_figure_has_its_name():
    """There each row is a card, without the head of the table."""
    html = page(results())
    head = re.search(r'<table class="cards" id="summary">.*?</thead>', html, re.DOTALL)
    row = re.search(r"<tr data-policy=.*?</tr>", html, re.DOTALL)
    assert head is not None
    assert row is not None
    named = re.findall(r"<th>([^<]*)</th>", head[0])
    assert named[0] == "policy"
    assert re.findall(r'data-label="([^"]*)"', row[0]) == named[1:]
    assert row[0].count("<td") == len(named) - 1
