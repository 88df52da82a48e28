"""The `transom` command, and `python -m transom`."""

from __future__ import annotations

import sys

_CLI_EXTRA = {"rich", "typer"}


def main() -> None:
    """Run the command line; exits with 2 where the `cli` extra is not installed."""
    try:
        from transom.cli import main as run
    except ModuleNotFoundError as error:
        if error.name not in _CLI_EXTRA:
            raise
        print(
            f"transom: the command line needs {error.name}: pip install 'transom[cli]'",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    except KeyboardInterrupt:  # while it starts, which takes a moment
        raise SystemExit(130) from None
    run()


if __name__ == "__main__":
    main()
