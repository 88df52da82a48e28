"""The page: the values that the template shows, computed from the results."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from transom.evaluate.report.charts import HELD, Style, against_bytes, by_length, loss_along
from transom.evaluate.report.grids import grids
from transom.evaluate.results import Results
from transom.evaluate.rows import RecallRow
from transom.evaluate.summary import Held, PolicySummary
from transom.units import plain_seconds, plain_size

__all__ = ["page"]

COLOURS = 8  # colours of the style; further policies share them, dashed
MISSES = 60  # wrong answers that are listed


def page(results: Results) -> str:
    """The report as HTML; styles, charts and all figures are inside."""
    environment = Environment(
        loader=PackageLoader("transom.evaluate.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(size=plain_size, seconds=plain_seconds, breakable=_breakable)
    styles = _styles(results)

    def style(policy: str) -> str:
        return styles[policy]

    tasks = list(dict.fromkeys(row.task for one in results.policies for row in one.recall))
    longest = _longest(results.policies)
    full_bytes = longest * results.facts["token_bytes"]
    return environment.get_template("page.html.jinja").render(
        results=results,
        facts=results.facts,
        settings=results.settings,
        policies=results.policies,
        tasks=tasks,
        longest=longest,
        of_full={one.policy: _of_full(one, longest, full_bytes) for one in results.policies},
        best=_best(results, tasks),
        said=_in_words(results, longest, full_bytes),
        styles=styles,
        timed=[one for one in results.policies if any(r.prefill_seconds for r in one.speeds)],
        recomputed=[
            one.speeds[0]
            for one in results.policies
            if one.speeds and one.speeds[0].prefill_seconds is None
        ],
        grids=grids(results.policies),
        misses=_misses(results),
        most_misses=MISSES,
        loss_chart=Markup(loss_along(results, style)),
        cold=any(one.cold_bytes for one in results.policies),
        fronts=_fronts(results, style),
        decode_chart=Markup(by_length(results, "decode", style)),
        prefill_chart=Markup(by_length(results, "prefill", style)),
        figures=Markup(_embedded(results)),
    )


def _fronts(results: Results, style: Style) -> list[dict[str, object]]:
    """Charts of quality against hot bytes and, where there are cold ones, against all bytes."""
    cold = any(one.cold_bytes for one in results.policies)
    whats = {
        "recall": "Questions answered rightly, all tasks and lengths together",
        "loss": "Loss over the whole text; lower is better",
    }
    drawn: list[dict[str, object]] = []
    helds: tuple[Held, ...] = ("hot_bytes", "total_bytes") if cold else ("hot_bytes",)
    for held in helds:
        charts = [
            {
                "chart": Markup(chart),
                "what": f"{what}, against {HELD[held]} bytes" if cold else what,
                "front": results.front(quality, held),
            }
            for quality, what in whats.items()
            if (chart := against_bytes(results, quality, style, held))
        ]
        if charts:
            drawn.append({"held": held, "charts": charts})
    return drawn


def _breakable(policy: str) -> Markup:
    """A policy's text that may break after `:` and `,` in a narrow column."""
    return Markup(re.sub(r"([:,])", r"\1<wbr>", str(escape(policy))))


def _styles(results: Results) -> dict[str, str]:
    """A style class for each policy: a colour, or grey for the baselines."""
    styles: dict[str, str] = {}
    coloured = 0
    for one in results.policies:
        if one.policy == "full":
            styles[one.policy] = "full"
        elif one.policy.startswith("recompute:"):
            styles[one.policy] = "recomputed"
        else:
            again = " again" if coloured >= COLOURS else ""
            styles[one.policy] = f"c{coloured % COLOURS}{again}"
            coloured += 1
    return styles


def _longest(found: Sequence[PolicySummary]) -> int:
    """The tokens of the longest prompt or reading."""
    lengths = [0]
    for one in found:
        lengths += [row.length for row in one.recall] + [row.length for row in one.speeds]
        lengths += [one.loss.tokens] if one.loss else []
    return max(lengths)


def _best(results: Results, tasks: list[str]) -> dict[str, float | None]:
    """The best figure of every column of the summary, which the page sets in bold."""

    def least(values: Iterable[float | None]) -> float | None:
        return min((value for value in values if value is not None), default=None)

    found = results.policies
    scores = {task: [one.of(task) for one in found] for task in tasks}
    return {
        "hot_bytes": least([one.hot_bytes for one in found]),
        "total_bytes": least([one.total_bytes for one in found]),
        "loss": least([one.loss.loss for one in found if one.loss]),
        "decode": least([one.speeds[-1].decode_seconds for one in found if one.speeds]),
        **{
            task: max((score.rate for score in of if score is not None), default=None)
            for task, of in scores.items()
        },
    }


def _of_full(one: PolicySummary, longest: int, full_bytes: int) -> float | None:
    """The hot bytes of a policy divided by those of full attention at the longest prompt.

    None where the policy had no such prompt, or has room for more tokens than that. 1 for full
    attention itself, whose storage grows in steps.
    """
    if one.policy == "full":
        return 1.0
    if _longest([one]) < longest or one.hot_bytes > full_bytes:
        return None
    return one.hot_bytes / full_bytes


def _in_words(results: Results, longest: int, full_bytes: int) -> list[str]:
    """The result in a few sentences."""
    found = results.policies
    if not found:
        return ["Nothing has been measured alike under several policies yet."]
    first = (
        f"At {longest:,} tokens full attention keeps {plain_size(full_bytes)} of keys and values"
    )
    shares = {one.policy: _of_full(one, longest, full_bytes) or 1 for one in found}
    least = min(found, key=lambda one: (shares[one.policy], one.hot_bytes))
    if shares[least.policy] < 1:
        said = [f"{first}; {least.policy} keeps {plain_size(least.hot_bytes)}, "]
        said[0] += f"{shares[least.policy]:.1%} of that."
    else:
        said = [f"{first}; no policy was seen to keep less."]
    said += [
        f"{one.policy} keeps {plain_size(one.hot_bytes)} hot, "
        f"{one.hot_bytes / full_bytes:.1%} of what full attention does, and in all "
        f"{plain_size(one.total_bytes)}, {one.total_bytes / full_bytes:.1%}: with the cold blocks "
        "and the table that finds them."
        for one in found
        if one.cold_bytes
    ]
    read = [one for one in found if one.loss and one.loss.loss is not None]
    if read:
        best = min(read, key=_loss)
        text = f"The lowest loss over {best.loss.tokens if best.loss else 0:,} tokens is "
        text += f"{_loss(best):.3f}, under {best.policy}"
        full = next((one for one in read if one.policy == "full"), None)
        if full is not None and full is not best:
            text += f"; with full attention it is {_loss(full):.3f}"
        said.append(text + ".")
    asked = [one for one in found if one.recalled is not None]
    if asked:
        best = max(asked, key=lambda one: one.recalled.rate if one.recalled else 0)
        score = best.recalled
        assert score is not None
        low, high = score.interval
        said.append(
            f"{best.policy} answered the most questions rightly, {score.right} of {score.total} "
            f"({score.rate:.0%}; the true share is likely between {low:.0%} and {high:.0%})."
        )
    return said


def _loss(one: PolicySummary) -> float:
    assert one.loss is not None and one.loss.loss is not None
    return one.loss.loss


def _misses(results: Results) -> list[RecallRow]:
    return [row for one in results.policies for row in one.recall if not row.right]


def _embedded(results: Results) -> str:
    """All figures as JSON, escaped for a script element."""
    text = json.dumps(results.to_json(), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
