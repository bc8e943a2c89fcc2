"""The ``sparsewright`` command, also as ``python -m sparsewright``."""

from __future__ import annotations

import sys

from sparsewright.extras import explain_missing


def main() -> None:
    """Run the command line; without its dependencies, say how to get them and exit with 2."""
    try:
        from sparsewright.cli import app
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except ModuleNotFoundError as error:
        sentence = explain_missing(error)
        if sentence is None:
            raise
        print(f"error: {sentence}", file=sys.stderr)
        sys.exit(2)
    app(prog_name="sparsewright")


if __name__ == "__main__":
    main()
