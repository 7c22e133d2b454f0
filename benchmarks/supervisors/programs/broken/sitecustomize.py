"""Python imports this by itself when its folder is in PYTHONPATH: a disk on which no worker of captchad can start.

captchad's workers cannot be given a broken program, so a real fault does it: making a side file fails, as it does on
a directory without permission. An audit hook, since root has permission everywhere.
"""

import os
import sys

from note import note


def refuse(event: str, arguments: tuple) -> None:
    """Fail whoever makes a file among the side files; each worker does that once, when it starts."""
    if event != "open" or not isinstance(arguments[0], str | os.PathLike):
        return
    if os.path.basename(os.path.dirname(arguments[0])) == "workers" and arguments[2] & os.O_CREAT:
        note()
        raise PermissionError(13, "no worker can start here", str(arguments[0]))


sys.addaudithook(refuse)
