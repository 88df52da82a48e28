"""A plan run with a fake reader: what is measured, and how a run resumes after an interruption."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.helpers.models import tiny, tokens
from tests.helpers.readers import PROSE, Letters, Reader
from transom import Context, SlidingWindow
from transom.errors import InputError, PolicyError
from transom.evaluate.measures import Bench, Hooks, RecomputedLoss
from transom.evaluate.plan import EvaluationPlan, carry_out, known_tasks
from transom.evaluate.record import ResultLog
from transom.evaluate.rows import LossRow, RecallRow, SpeedRow, from_json, to_json
from transom.policies import parse

SETTINGS = {"model": "fake", "seed": 0}
POLICIES = (parse("full"), parse("window:700"))
PLAN = EvaluationPlan(POLICIES, lengths=(900, 1800), depths=(0.0, 1.0), trials=2, recompute=256)


def bench(made: list[Reader] | None = None) -> Bench:
    def reader(policy: str) -> Reader:
        one = Reader(policy)
        if made is not None:
            made.append(one)
        return one

    return Bench.of(reader, Letters(), PROSE)


def timeless(rows):
    """Rows without what depends on the clock."""
    return [
        replace(row, **{name: 0 for name in vars(row) if name.endswith("seconds")}) for row in rows
    ]


def recorded(path) -> ResultLog:
    return ResultLog(path, SETTINGS)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> ResultLog:
    """The record of the plan, run without interruption."""
    record = recorded(tmp_path_factory.mktemp("whole") / "rows.jsonl")
    assert carry_out(PLAN, bench(), record)
    return record


def test_there_is_a_row_for_everything(whole):
    found = {
        kind: [r for r in whole.rows if r.kind == kind] for kind in ("recall", "loss", "speed")
    }
    assert len(found["recall"]) == 2 * 2 * (3 * 4 + 8)  # policies, lengths, tasks and trials
    policies = {"full", "window:700", "recompute:256"}
    assert {row.policy for row in found["loss"]} == policies
    assert {(row.policy, row.length) for row in found["speed"]} == {
        (policy, length) for policy in policies for length in (900, 1800)
    }
    assert all(row.tokens == 1800 and row.loss == 1.0 for row in found["loss"])


def test_a_window_is_right_exactly_where_it_still_sees_the_answer(whole):
    for row in whole.rows:
        if isinstance(row, RecallRow):
            assert row.right == (row.policy == "full" or row.depth == 1.0), row


def test_bytes_are_those_at_the_question(whole):
    for row in whole.rows:
        if row.policy == "window:700":
            assert row.hot_bytes == 7000
        if isinstance(row, RecallRow):
            assert row.hot_bytes + 10 * row.cold_bytes == 10 * row.tokens
    for row in whole.rows:
        if isinstance(row, SpeedRow) and row.policy == "full":
            assert row.hot_bytes == 10 * row.length


@pytest.mark.parametrize("after", [0, 1, 7, 30, 61])
def test_a_resumed_evaluation_equals_one_that_was_never_interrupted(after, whole, tmp_path):
    path = tmp_path / "rows.jsonl"
    record, seen = recorded(path), []
    done = carry_out(PLAN, bench(), record, on_row=seen.append, stop=lambda: len(seen) >= after)
    assert not done
    assert after <= len(seen) <= after + 1
    with path.open("a") as file:
        file.write('{"kind": "recall", "pol')  # as if it had then been killed
    again = recorded(path)
    more = []
    assert carry_out(PLAN, bench(), again, on_row=more.append)
    assert not {row.key for row in seen} & {row.key for row in more}
    assert timeless(again.rows) == timeless(whole.rows)
    assert recorded(path).rows == again.rows


def test_an_evaluation_asks_often_whether_to_stop(tmp_path):
    """At most two passes run between two questions whether to stop."""
    happened: list[int | str] = []

    class Noted(Reader):
        def append(self, ids):
            happened.append(len(ids))
            return super().append(ids)

    def made(policy: str) -> Noted:
        happened.append("made")
        return Noted(policy)

    def stop() -> bool:
        happened.append("asked")
        return False

    told = Bench.of(made, Letters(), PROSE)
    assert carry_out(PLAN, told, recorded(tmp_path / "rows.jsonl"), stop=stop)
    since: list[int | str] = []
    for one in happened:
        since = [] if one == "asked" else [*since, one]
        assert sum(isinstance(each, int) for each in since) <= 2
        assert since.count("made") <= 2
        assert one in ("asked", "made") or one <= 64

    class Stopped(Noted):
        def append(self, ids):
            assert not stopped
            return super().append(ids)

    for asked in range(1, happened.count("asked"), 37):
        stopped: list[bool] = []
        left = iter(range(asked))

        def stop_later() -> bool:
            if next(left, None) is None:  # noqa: B023
                stopped.append(True)  # noqa: B023
            return bool(stopped)  # noqa: B023

        record = recorded(tmp_path / f"{asked}.jsonl")
        assert not carry_out(PLAN, Bench.of(Stopped, Letters(), PROSE), record, stop=stop_later)


def test_a_recorded_result_is_not_measured_again(whole):
    made: list[Reader] = []
    assert carry_out(PLAN, bench(made), whole)
    assert made == []
    wider = replace(PLAN, lengths=(900, 1800, 2000), tasks=("passkey",))
    assert carry_out(wider, bench(made), ResultLog(whole.path, SETTINGS))
    assert {len(one.ids) // 900 for one in made if one.ids} == {2}


def test_short_measurements_come_first_and_progress_adds_up(tmp_path):
    states, keys = [], []
    carry_out(
        PLAN,
        bench(),
        recorded(tmp_path / "rows.jsonl"),
        on_state=states.append,
        on_row=lambda row: keys.append(row.key),
    )
    assert states[0].measure.tokens(bench()) < states[-1].measure.tokens(bench())
    assert [state.done for state in states] == sorted(state.done for state in states)
    assert len({state.total for state in states}) == 1
    assert 0.8 * states[0].total < states[-1].done <= states[0].total
    assert states[-1].number == states[-1].measures
    policies = [key[1] for key in keys if key[0] == "recall" and key[2:4] == ("kv-recall", 900)]
    assert policies == ["full"] * 4 + ["window:700"] * 4


@pytest.mark.parametrize("size", [24, 25, 64, 200])
def test_the_loss_of_a_recomputed_window_is_the_strided_loss(size):
    model, ids = tiny("llama"), tokens(150).numpy()
    of = Bench(lambda policy: Context(model, policy=policy, chunk=64), ids, None)
    rows = []
    RecomputedLoss("recompute", 150, size).run(of, set(), Hooks(rows.append))
    window = SlidingWindow(size, max(1, size // 2))
    expected = Context(model, policy="full", chunk=64).score(ids, window=window)
    [row] = rows
    assert row.tokens == 150
    assert row.loss == pytest.approx(float(expected[1:].mean()), abs=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ("neddle",)}, "unknown task 'neddle'; known tasks: loss, passkey"),
        ({"tasks": ()}, "there are no tasks"),
        ({"policies": ()}, "there are no policies"),
        ({"lengths": (0,)}, "must be at least 1"),
        ({"trials": 0}, "must be at least 1"),
        ({"recompute": 0}, "must be at least 1"),
        ({"depths": (1.5,)}, r"depths are \(1.5,\)"),
    ],
)
def test_invalid_plans_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        replace(PLAN, **changes)


def test_an_impossible_measurement_is_refused_before_the_first_one(tmp_path):
    record = recorded(tmp_path / "rows.jsonl")
    with pytest.raises(InputError, match="give a longer one"):
        carry_out(replace(PLAN, lengths=(900, 90_000)), bench(), record)

    def refusing(policy):
        if policy != "full":
            raise PolicyError(f"{policy} is refused")
        return Reader(policy)

    with pytest.raises(PolicyError, match="window:700 is refused"):
        carry_out(PLAN, Bench.of(refusing, Letters(), PROSE), record)
    assert record.rows == []
    assert not record.path.exists()


def test_every_known_task_makes_a_measure():
    for name in known_tasks():
        [one] = EvaluationPlan(POLICIES[:1], tasks=(name,), lengths=(900,)).measures(bench())
        assert one.title.startswith(name)
    assert set(EvaluationPlan.tasks) < set(known_tasks())


def test_rows_come_back_from_json(whole):
    for row in whole.rows:
        assert from_json(json.loads(json.dumps(to_json(row)))) == row


def test_a_record_of_something_else_is_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    row = LossRow("full", 1, None, ((0, 1, None),), 0.1, 1, 0)
    ResultLog(path, {"model": "one", "seed": 0}).add([row])
    with pytest.raises(InputError, match="model 'one'; this one has model 'two'"):
        ResultLog(path, {"model": "two", "seed": 0})
    assert ResultLog(path, {"model": "one", "seed": 0}).rows == [row]


@pytest.mark.parametrize("text", ["no json\n", "[1]\n", '{"kind": "recall"}\n', "{}\n"])
def test_a_file_that_is_not_a_record_is_refused(tmp_path, text):
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match="not a record of an evaluation"):
        ResultLog(path, SETTINGS)
    assert path.read_text() == text


@pytest.mark.parametrize("text", ["", '{"settings": {"mo'])
def test_a_record_cut_off_in_its_first_line_is_begun_again(tmp_path, text):
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    row = LossRow("full", 1, None, ((0, 1, None),), 0.1, 1, 0)
    ResultLog(path, SETTINGS).add([row])
    assert ResultLog(path, SETTINGS).rows == [row]


def test_a_row_is_recorded_once(tmp_path):
    record = recorded(tmp_path / "rows.jsonl")
    row = LossRow("full", 1, 1.0, ((0, 1, None),), 0.1, 1, 0)
    record.add([row])
    record.add([row, replace(row, policy="window:2")])
    assert len(recorded(record.path).rows) == 2
