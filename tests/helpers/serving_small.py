"""`terrafuse serve` with small units and short leases: `python serving_small.py serve RUN …`.

`TERRAFUSE_TEST_HOST` names the machine that it takes itself to be on.
"""

from __future__ import annotations

import os
import socket
import sys
from functools import partial

from small_units import make_units_small

LEASE_SECONDS = 3.0


def main() -> None:
    """Run the command, or a worker of its."""
    host = os.environ.get("TERRAFUSE_TEST_HOST")
    if host:
        socket.gethostname = lambda: host
    if sys.argv[1:] == ["worker"]:
        make_units_small()
        from terrafuse.web.service import working

        working.main()
        return
    from terrafuse.cli import main as command
    from terrafuse.web.service import settings, workers

    workers.WORKER = (sys.executable, __file__, "worker")
    settings.ServiceSettings = partial(  # type: ignore[misc, assignment]
        settings.ServiceSettings, lease_seconds=LEASE_SECONDS
    )
    command()


if __name__ == "__main__":
    main()
