"""One sandbox process for each module; each test begins with an empty ledger and captchas that are solved at once."""

from collections.abc import Iterator

import pytest

from tests.sandbox.talk import Client
from tests.support.sandbox import Sandbox

AT_ONCE = "[solve]\nseconds = 0\n"


@pytest.fixture(scope="module")
def process() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(process: Sandbox) -> Sandbox:
    process.set_scenario(AT_ONCE)
    process.reset()
    return process


@pytest.fixture
def client(sandbox: Sandbox) -> Iterator[Client]:
    client = Client(sandbox)
    yield client
    client.session.close()
