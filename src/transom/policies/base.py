"""The interface of policies: frozen values that say which past tokens a new token may see."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields
from typing import ClassVar, Self

from transom.errors import InputError, PolicyError
from transom.policies.precision import EXACT, FIRST, Precision
from transom.policies.shape import ModelShape
from transom.units import to_bytes
from transom.validation import check_keywords, whole_number

__all__ = ["PRECISIONS", "Policy"]

PRECISIONS = ("auto", "int8", "int4")
PINNED_KEY_BYTES = 4  # pinned keys are also kept once in float32, to be rotated from there


@dataclass(frozen=True)
class Policy(ABC):
    """Which past tokens a new token may see, and how exactly they are kept.

    There are three kinds: `Positional` policies decide by position alone, `Scored` ones by what the
    model attends to, and `Hierarchical` with recall brings old blocks back. All are plain values
    without tensors. Each computes its own cost: `layer_bytes` and `visible_pairs`.

    Attributes:
        kv: how keys and values are stored: `"auto"` as the model computes them; `"int8"` or
            `"int4"` quantized to that many bits, except for the most recent tokens.
    """

    kv: str = field(default="auto", kw_only=True)

    name: ClassVar[str]
    summary: ClassVar[str]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.__repr__ = Policy.__repr__  # type: ignore[method-assign]  # or dataclass writes its own

    def __new__(cls, *args: object, **kwargs: object) -> Self:
        known = [item.name for item in fields(cls)]
        check_keywords(cls.__name__, kwargs, known, error=PolicyError)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        if self.kv not in PRECISIONS:
            raise PolicyError(
                f"{self.name}: kv is {self.kv!r}; expected one of {', '.join(PRECISIONS)}."
            )
        self.check()

    def check(self) -> None:  # noqa: B027 - some policies have nothing to check
        """Raise `PolicyError` on parameters that make no sense; called for every new policy."""

    @property
    @abstractmethod
    def capacity(self) -> int | None:
        """The most tokens visible at once, with the query's own; None without a bound."""

    @property
    def pinned(self) -> int:
        """How many tokens at the start of the text are never evicted."""
        return 0

    @abstractmethod
    def kept(self, seen: int) -> int:
        """How many of `seen` tokens are still visible."""

    @property
    def decides_by(self) -> str:
        """What decides which tokens stay: `"position"`, `"score"` or `"recall"`.

        There is a kind of cache for each (see `transom.kv.build`). A policy of a new kind names
        that kind here. With `""` its cost is known, but no cache can hold it.
        """
        return ""

    def on(self, shape: ModelShape) -> Policy:
        """The same policy on a model of these sizes: a budget in bytes becomes one in tokens."""
        return self

    def by_layer(self, layers: int) -> tuple[Policy, ...]:
        """The policy of each of the model's `layers` layers, from the first to the last."""
        return (self,) * layers

    @property
    def exact_tokens(self) -> int:
        """How many of the newest tokens are not quantized under `kv="int8"` or `"int4"`."""
        return EXACT if self.capacity is None else min(EXACT, self.capacity - self.pinned)

    @property
    def exact_first(self) -> int:
        """How many of the first tokens are not quantized, as long as the policy keeps them."""
        return FIRST if self.capacity is None else min(FIRST, self.capacity)

    def layer_bytes(self, shape: ModelShape, tokens: int) -> int:
        """Bytes of one layer that holds `tokens` tokens, at least one, in each kv head.

        Every token has a slot in the storage, so the newest tokens have a slot among the quantized
        ones as well. Pinned keys are stored a second time, in float32.
        """
        precision = Precision.of(self)
        if precision is None:
            head = tokens * shape.head_bytes
        else:
            head = precision.head_bytes(shape, tokens, min(tokens, precision.exact))
        return shape.kv_heads * (head + self.pinned * shape.head_dim * PINNED_KEY_BYTES)

    def visible_pairs(self, start: int, stop: int) -> int:
        """How many tokens the queries at positions `start` to `stop` see in all, in one head.

        It is counted query by query; kinds of policies with a closed form override it.
        """
        return sum(self.kept(query + 1) for query in range(start, stop))

    def __repr__(self) -> str:
        """The call that makes this policy; `kv` is left out if it is the default."""
        own = sorted(fields(self), key=lambda item: bool(item.kw_only))
        shown = [item.name for item in own if item.name != "kv" or self.kv != "auto"]
        return f"{type(self).__name__}({', '.join(f'{x}={getattr(self, x)!r}' for x in shown)})"

    def __str__(self) -> str:
        """The policy's spelling, which `parse` reads back to an equal policy."""
        own = [item for item in fields(self) if not item.kw_only]
        named = {item.name: f"{spelled(item.name)}={getattr(self, item.name)}" for item in own}
        unsaid = {item.name for item in own if isinstance(item.default, (str, type(None)))}
        items = [
            text
            for item, text in zip(own, named.values(), strict=True)
            if item.name not in unsaid or getattr(self, item.name) != item.default
        ]
        if items:
            items[0] = items[0].partition("=")[2]
        if self.kv != "auto":
            items.append(f"kv={self.kv}")
        return f"{self.name}:{','.join(items)}" if items else self.name


def spelled(field: str) -> str:
    """A field's key in a policy's text: Python's trailing underscore is left out."""
    return field.rstrip("_")


def at_least(policy: Policy, field: str, minimum: int) -> None:
    """Check an integer parameter of `policy` in its `check`.

    Raises:
        PolicyError: naming the policy, the parameter, what came and what was expected.
    """
    whole_number(policy.name, spelled(field), getattr(policy, field), minimum, error=PolicyError)


def bytes_of(policy: Policy, field: str, example: str) -> int:
    """The number of bytes of a parameter that is given as text with a unit.

    Args:
        example: such a text, for the error.

    Raises:
        PolicyError: naming the policy, the parameter, what came and what was expected.
    """
    name, text = spelled(field), getattr(policy, field)
    if not text[-1:].isalpha():
        raise PolicyError(
            f"{policy.name}: {name} is {text!r}; expected tokens as a number, or bytes with their "
            f"unit, such as {example}."
        )
    try:
        return to_bytes(text, f"{policy.name}: {name}")
    except InputError as error:
        raise PolicyError(str(error)) from None


def tokens_of(policy: Policy, field: str) -> int:
    """The number of tokens of a parameter that could also be given in bytes.

    Raises:
        PolicyError: when it is given in bytes.
    """
    value = getattr(policy, field)
    if isinstance(value, str):
        raise PolicyError(
            f"{policy}: the {spelled(field)} is in bytes, and how many tokens that is depends on "
            "the model; use policy.on(ModelShape.from_config(model.config))."
        )
    return int(value)
