"""Notebooks run cell by cell with Python alone, as Jupyter would in its folder.

`python tests/helpers/notebooks.py NOTEBOOK FOLDER` runs one. The cells hold Python and nothing of
IPython, so that no kernel is needed for this: nbclient and its server are thirty distributions more
than these thirty lines.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any


def code_cells(path: Path) -> list[str]:
    """Sources of the cells with code."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def run_notebook(path: Path, folder: Path) -> None:
    """Run every cell in turn, in one namespace; an error names the cell."""
    sources = code_cells(path)
    os.chdir(folder)
    sys.path.insert(0, "")  # modules in the working directory are found, as in a kernel
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for number, source in enumerate(sources, 1):
        code = compile(source, f"{path.name}, cell {number}", "exec")
        exec(code, namespace)


if __name__ == "__main__":
    run_notebook(Path(sys.argv[1]).resolve(), Path(sys.argv[2]))
