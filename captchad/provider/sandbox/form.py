"""Request decoding: one dictionary of fields, whatever encoding the client has chosen.

Query and body are merged, the body wins (as in PHP). A field named twice keeps its last value.
"""

__all__ = ["BadForm", "Form", "Upload", "decode"]

import json
import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from captchad.model.errors import FixInput
from captchad.provider.sandbox.http1 import Request

#: Most fields of a request, PHP's own limit.
_FIELDS = 1000

_BOUNDARY = re.compile(r'boundary=(?:"([^"]{1,200})"|([^\s;,"]{1,200}))', re.IGNORECASE)
_DISPOSITION = re.compile(rb"^content-disposition:(.*)$", re.IGNORECASE | re.MULTILINE)
_NAME = re.compile(rb'[;\s]name="((?:[^"\\]|\\.)*)"')
_FILENAME = re.compile(rb"[;\s]filename(?:\*=([^;\s]*)|=\"((?:[^\"\\]|\\.)*)\")")


class BadForm(FixInput):
    """A body that is not what its Content-Type says."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A file of a multipart body."""

    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Form:
    """The fields of a request, all as text, and its files."""

    fields: dict[str, str] = field(default_factory=dict)
    files: dict[str, Upload] = field(default_factory=dict)

    def get(self, name: str) -> str:
        """The value of a field, or "" when it is missing."""
        return self.fields.get(name, "")

    @property
    def wants_json(self) -> bool:
        """True for `json=1`."""
        return self.fields.get("json") == "1"


def decode(request: Request) -> Form:
    """All fields and files of a request. Raises BadForm."""
    form = Form()
    if request.query:
        form.fields.update(_pairs(request.query))
    if request.body:
        _decode_body(request.headers.get("content-type", ""), request.body, form)
    return form


def _decode_body(content_type: str, body: bytes, form: Form) -> None:
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        _decode_multipart(content_type, body, form)
    elif kind == "application/json" or (kind in ("", "text/plain") and body.lstrip()[:1] == b"{"):
        form.fields.update(_json_fields(body))
    else:
        # Clients that send no or a wrong type mean the usual one.
        form.fields.update(_pairs(body.decode("utf-8", "replace")))


def _pairs(text: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(text, keep_blank_values=True, errors="replace", max_num_fields=_FIELDS)
    except ValueError as error:
        raise BadForm("too many fields") from error


def _json_fields(body: bytes) -> dict[str, str]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadForm("body is not JSON") from error
    if not isinstance(document, dict):
        raise BadForm("JSON body is not an object")
    if len(document) > _FIELDS:
        raise BadForm("too many fields")
    return {name: _json_text(value) for name, value in document.items() if value is not None}


def _json_text(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "1" if value else "0"
    return json.dumps(value)


def _decode_multipart(content_type: str, body: bytes, form: Form) -> None:
    match = _BOUNDARY.search(content_type)
    if match is None:
        raise BadForm("multipart body without boundary")
    delimiter = b"\r\n--" + (match[1] or match[2]).encode("latin-1")
    parts = (b"\r\n" + body).split(delimiter, _FIELDS + 2)
    if len(parts) > _FIELDS + 2:
        raise BadForm("too many fields")
    # The first piece stands before the first delimiter, the last one after the closing one, which ends in `--`.
    if len(parts) < 2 or not parts[-1].startswith(b"--"):
        raise BadForm("multipart body without its end")
    for part in parts[1:-1]:
        _take_part(part, form)


def _take_part(part: bytes, form: Form) -> None:
    head, blank, content = part.partition(b"\r\n\r\n")
    disposition = _DISPOSITION.search(head)
    name = _NAME.search(disposition[1]) if disposition else None
    if not blank or disposition is None or name is None:
        raise BadForm("multipart part without a name")
    label = _unquote(name[1])
    filename = _FILENAME.search(disposition[1])
    if filename is None:
        form.fields[label] = content.decode("utf-8", "replace")
    else:
        form.files[label] = Upload(_unquote(filename[1] or filename[2] or b""), content)


def _unquote(raw: bytes) -> str:
    return re.sub(rb"\\(.)", rb"\1", raw).decode("utf-8", "replace")
