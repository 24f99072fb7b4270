"""What was measured on this machine, so that it is not measured again for each model."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from txgraph.cache.fingerprint import machine
from txgraph.cache.store import default_folder

log = logging.getLogger(__name__)


class Measurements:
    """Seconds by the text that says what was measured, in a file for this machine, this torch and these sources.

    Args:
        folder: the cache's; by default where the environment says.
        of: what else they depend on: such measurements are in a file of their own.
    """

    def __init__(self, folder: Path | None = None, of: str = "") -> None:
        names = "-".join(("measured", machine()[:16], *filter(None, [of])))
        self.path = (folder or default_folder()) / f"{names}.json"

    def all(self) -> dict[str, dict[str, float]]:
        """Everything, by what it is about."""
        return self._read()

    def find(self, about: str) -> dict[str, float]:
        """The seconds of each way; empty if it was not measured."""
        return self._read().get(about, {})

    def keep(self, about: str, seconds: Mapping[str, float]) -> None:
        """Add a measurement; a folder that cannot be written to is a warning."""
        everything = {**self._read(), about: dict(seconds)}  # again: another process may have written since
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.path.parent, prefix="writing-")
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(everything, file, indent=1, sort_keys=True)
            os.replace(name, self.path)
        except OSError as error:
            log.warning("measurements cannot be kept in %s: %s", self.path, error)

    def _read(self) -> dict[str, dict[str, float]]:
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
            if not isinstance(found, dict):
                raise TypeError(f"expected an object, found {type(found).__name__}")
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError) as error:
            log.warning("measurements cannot be read from %s: %s", self.path, error)
            return {}
        return found
