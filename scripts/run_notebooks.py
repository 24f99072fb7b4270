"""Run every notebook of examples/ from top to bottom; they are stored without what they show.

python scripts/run_notebooks.py
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 300  # for one cell


def findings(path: Path) -> list[str]:
    """What is wrong with a notebook."""
    name = path.relative_to(ROOT)
    notebook = nbformat.read(path, as_version=4)
    if any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells):
        return [f"{name} is stored with outputs: clear them"]
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": folder}}
        )
        try:
            client.execute()
        except CellExecutionError as error:
            return [f"{name}: {error}"]
    return []


def main() -> int:
    """Print what is wrong; 0 when nothing is."""
    found = [each for path in sorted((ROOT / "examples").glob("*.ipynb")) for each in findings(path)]
    for each in found:
        print(each, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
