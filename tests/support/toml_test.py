"""The invalid documents of the public toml-test collection: tests/config/toml-test/README.md says whence they are."""

__all__ = ["INVALID"]

import json
from pathlib import Path

_FILE = Path(__file__).resolve().parents[1] / "config" / "toml-test" / "invalid.json"

#: Name to bytes.
INVALID = {name: text.encode("latin-1") for name, text in json.loads(_FILE.read_text(encoding="ascii")).items()}
