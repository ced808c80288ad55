"""SIGTERM before the command line listens to signals."""

from __future__ import annotations

import subprocess
import sys

# The signal arrives while `terrafuse.cli` is imported.
EARLY = """
import os, signal, sys

class Early:
    def find_spec(self, name, path=None, target=None):
        if name == "terrafuse.cli":
            os.kill(os.getpid(), signal.SIGTERM)

from terrafuse.__main__ import main
sys.meta_path.insert(0, Early())
main()
"""


def test_it_is_told_by_line_and_exit_code() -> None:
    done = subprocess.run([sys.executable, "-c", EARLY], capture_output=True, text=True)
    assert done.returncode == 143
    assert done.stderr == "stopped by SIGTERM: nothing was begun\n"
