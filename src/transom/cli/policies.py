"""`transom policies`: what there is to choose from."""

from __future__ import annotations

from transom.cli.tables import print_table, result_console
from transom.policies import known, parameters

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
                ", ".join(f"{key}={value}" for key, value in parameters(policy).items()) or "none",
                policy.summary,
            )
            for name, policy in known().items()
        ],
        left=4,
    )
