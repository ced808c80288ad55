"""Entry point of `terrafuse` and of `python -m terrafuse`, as torchrun and srun start it."""

from __future__ import annotations

import signal


def main() -> None:
    """Run the command line."""
    # Until it listens to signals itself, Ctrl-C is no reason for a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from terrafuse.cli import main as run

    run()


if __name__ == "__main__":
    main()
