"""A worker for supervisord and circus that does nothing but be alive."""

import os
import signal

from note import PORT_VARIABLE, begin

BEAT_S = 0.5


def beat(port: int) -> None:
    """Tell the watchdog again and again that this process lives, in the form that it reads by default."""
    import socket
    import time

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        while True:
            sender.sendto(f"{os.getpid()};{time.time()}".encode(), ("127.0.0.1", port))
            time.sleep(BEAT_S)


if __name__ == "__main__":
    begin()
    if PORT_VARIABLE in os.environ:
        beat(int(os.environ[PORT_VARIABLE]))
    while True:
        signal.pause()
