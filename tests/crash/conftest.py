"""What the crash tests share."""

import logging
from collections.abc import Iterator

import pytest

from tests.journal.conftest import fast_dir

__all__ = ["fast_dir"]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """A story ends thousands of tasks badly, and every one of them is worth a warning elsewhere."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)
