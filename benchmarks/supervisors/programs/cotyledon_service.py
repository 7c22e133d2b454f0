"""A service for cotyledon whose workers do nothing but be alive. Argument: how many."""

import sys
import threading

import cotyledon
from note import begin


class Idle(cotyledon.Service):
    """Its `run` is what a worker does."""

    def run(self) -> None:
        begin()
        threading.Event().wait()


if __name__ == "__main__":
    manager = cotyledon.ServiceManager()
    manager.add(Idle, workers=int(sys.argv[1]))
    manager.run()
