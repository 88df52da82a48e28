"""`transom policies`: the policies and their parameters."""

from __future__ import annotations

from transom.cli.tables import print_table, result_console
from transom.policies import Policy, known, parameters

__all__ = ["policies"]


def policies() -> None:
    """List the policies and what each of them keeps."""
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
        "\nEvery policy takes kv=int8 or kv=int4, which stores all but the newest tokens in fewer"
        "\nbits. A policy with the parameters heads and layers takes heads=adaptive, which shares a"
        "\nlayer's tokens among its heads by score, and layers=pyramid, which gives lower layers"
        "\nmore tokens."
    )


def _listed(policy: type[Policy]) -> str:
    """The parameters without `kv`, each with its default unless that depends on another one."""
    own = {key: value for key, value in parameters(policy).items() if key != "kv"}
    return ", ".join(k if v is None else f"{k}={v}" for k, v in own.items()) or "none"
