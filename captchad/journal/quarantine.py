"""Keep bytes aside that were taken out of a segment, or that are bad inside one.

A name says the place and the checksum of the bytes, so that a recovery which is killed and begun anew writes the same
file again, and never over another one.
"""

__all__ = ["save_hole", "save_torn"]

import base64
import json
import os
import zlib
from pathlib import Path

from captchad.journal.osio import Os, make_directory, read_file, read_path, sync_directory, write_all
from captchad.journal.segments import QUARANTINE_NAME, Hole, segment_path


def save_torn(osio: Os, directory: Path, number: int, offset: int, data: bytes) -> None:
    """Keep `data`, which will be cut off from segment `number`, as it is. Durable on return; raises OSError."""
    _save(osio, directory, f"{number:08d}-{offset:010d}-{zlib.crc32(data):08x}.torn", data)


def save_hole(osio: Os, directory: Path, hole: Hole) -> None:
    """Keep a copy of what stands in `hole`, as JSON (bytes in base64). Durable on return; raises OSError."""
    whole = read_path(osio, segment_path(directory, hole.segment), hole.offset + hole.length)
    data = whole[hole.offset :]
    name = f"{hole.segment:08d}-{hole.offset:010d}-{zlib.crc32(data):08x}.json"
    text = json.dumps(
        {
            "segment": hole.segment,
            "offset": hole.offset,
            "length": hole.length,
            "reason": hole.reason,
            "bytes": base64.b64encode(data).decode("ascii"),
        }
    )
    _save(osio, directory, name, text.encode("ascii") + b"\n")


def _save(osio: Os, directory: Path, name: str, data: bytes) -> None:
    place = directory / QUARANTINE_NAME
    make_directory(osio, place)
    fd = osio.open(place / name, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    try:
        if read_file(osio, fd, len(data) + 1) != data:
            osio.ftruncate(fd, 0)
            write_all(osio, fd, data)
        osio.fsync(fd)  # also what a process wrote that was killed before its sync
    finally:
        osio.close(fd)
    sync_directory(osio, place)
