"""The installed program, and `python -m blockreplica`. Ctrl-C while it is being loaded ends it without a traceback."""

from __future__ import annotations

import os


def main() -> None:
    """What the installed program `blockreplica` calls."""
    try:
        from .cli.main import main as program

        program()
    except KeyboardInterrupt:
        os._exit(130)  # nothing was begun, or all is done


if __name__ == "__main__":
    main()
