"""``python -m treadle``, and the ``treadle`` command."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line, or say how to get it."""
    try:
        from treadle._cli.main import cli
    except ModuleNotFoundError as error:
        if error.name not in ("click", "rich"):
            raise
        sys.exit(f"treadle: the command line needs {error.name}: pip install 'treadle[cli]'")
    except KeyboardInterrupt:
        sys.exit(130)
    cli(prog_name="treadle")


if __name__ == "__main__":
    main()
