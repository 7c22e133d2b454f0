"""Code that breaks captchad's processes from within, in a module that Python loads as it starts."""

__all__ = ["NO_WORKER"]

#: As long as the file $BROKEN is there, no worker boots: for a fault of its own or, where the file says "disk", as on a
#: directory without permission.
NO_WORKER = """
import os, sys
def refuse(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, os.PathLike)) and arguments[2] & os.O_CREAT:
        if os.path.basename(os.path.dirname(arguments[0])) == "workers" and os.path.exists(os.environ["BROKEN"]):
            with open(os.environ["BROKEN"]) as file:
                disk = file.read() == "disk"
            raise PermissionError(13, "no side file") if disk else RuntimeError("no worker can start here")
sys.addaudithook(refuse)
"""
