"""Entry point of `terrafuse` and of `python -m terrafuse`, as torchrun and srun start it."""

from __future__ import annotations

import os
import signal
from types import FrameType


def main() -> None:
    """Run the command line."""
    # Until it listens to signals itself, Ctrl-C is no reason for a traceback, and SIGTERM is told.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, _end)
    # Where a process of a run has gone, torch's network code prints its stack beside our message.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from terrafuse.cli import main as run

    try:
        run()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end(number: int, frame: FrameType | None) -> None:
    """End while libraries are imported; nothing has been begun."""
    del frame
    os.write(2, b"stopped by SIGTERM: nothing was begun\n")
    os._exit(128 + number)


if __name__ == "__main__":
    main()
