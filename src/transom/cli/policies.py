"""`transom policies`: what there is to choose from."""

from __future__ import annotations

from transom.cli.tables import print_table, result_console
from transom.policies import Policy, known, parameters

__all__ = ["policies"]


def policies() -> None:
    """List the policies: what may be kept."""
    print_table(
        result_console(),
        "",
        ("name", "spelling", "parameters", "what it does"),
        [
            (
                name,
                str(policy()),
                _listed(policy),
                policy.summary,
            )
            for name, policy in known().items()
        ],
        left=4,
    )
    result_console().print(
        "\nEvery policy also takes kv=int8 or kv=int4: all but the newest tokens in fewer bits."
        "\nThose that have heads and layers also take heads=adaptive, to share a layer's tokens out"
        "\namong its heads by score, and layers=pyramid, to give lower layers more of them."
    )


def _listed(policy: type[Policy]) -> str:
    """Parameters with their defaults, but for `kv`; those that depend on others by name only."""
    own = {key: value for key, value in parameters(policy).items() if key != "kv"}
    return ", ".join(k if v is None else f"{k}={v}" for k, v in own.items()) or "none"
