"""Cut a file into tasks without parsing it: lines of a `.jsonl`, the object or the array's elements of a `.json`.

Both cutters are generators over chunks of bytes that give a `Piece` for each task and None for each chunk, so that
whoever drives them decides how long a slice lasts. They need memory for one task, whatever the size of the file, and
time that is linear in it, whatever stands in it.
"""

__all__ = ["IncompleteError", "Piece", "cut_document", "cut_lines"]

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from captchad.model.errors import TaskError
from captchad.model.task import MAX_DEPTH, MAX_TASK_BYTES

_BLANKS = b" \t\r\n"
_NOT_BLANK = re.compile(rb"[^ \t\r\n]")
_STRING_REST = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
#: What need not be looked at: all up to the next bracket, comma, or string that does not end here.
_PLAIN = re.compile(rb'(?:[^"\[\]{},]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
_PLAIN_INSIDE = re.compile(rb'(?:[^"\[\]{}]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
_CLOSER = {ord("["): ord("]"), ord("{"): ord("}")}
_BOM = b"\xef\xbb\xbf"
_EXAMPLE = 'write a task, {"sitekey": …, "pageurl": …}, or an array of tasks'
_QUOTE, _COMMA = ord('"'), ord(",")


class IncompleteError(TaskError):
    """The file ends before its JSON does. More may come."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One task of a file, not parsed yet."""

    number: int  # line of a .jsonl, 1-based index in an array, 0 for a file that is one object
    line: int  # where it begins in the file, 1-based
    column: int  # in characters, 1-based
    start: int  # offsets of its bytes in the file
    end: int
    raw: bytes
    problem: TaskError | None = None  # found while cutting; `raw` is empty then


def cut_lines(chunks: Iterable[bytes]) -> Iterator[Piece | None]:
    """The lines that are not blank. One that is too long carries its problem."""
    number, start, length = 1, 0, 0
    held: list[bytes] = []
    for chunk in chunks:
        yield None
        first, *others = chunk.split(b"\n")
        length = _hold(held, first, length)
        for part in others:
            yield _line_piece(number, start, length, held)
            number, start = number + 1, start + length + 1
            held.clear()
            length = _hold(held, part, 0)
    yield _line_piece(number, start, length, held)


def _hold(held: list[bytes], part: bytes, length: int) -> int:
    """Keep the part of a line unless the line is too long already; its new length."""
    length += len(part)
    if length > MAX_TASK_BYTES:
        held.clear()
    else:
        held.append(part)
    return length


def _line_piece(number: int, start: int, length: int, held: list[bytes]) -> Piece | None:
    if length > MAX_TASK_BYTES:
        problem = TaskError(f"a line of {length} bytes; a task has at most {MAX_TASK_BYTES}", line=number, column=1)
        return Piece(number, number, 1, start, start + length, b"", problem)
    # A \r stays before the \n and strip does not move column 1; blanks before the object are the parser's to count.
    raw = b"".join(held).rstrip(_BLANKS)
    return Piece(number, number, 1, start, start + len(raw), raw) if raw.strip(_BLANKS) else None


def cut_document(chunks: Iterable[bytes]) -> Iterator[Piece | None]:
    """The elements of an array, or the one object; cut at brackets and commas, what is between them is not checked.

    Raises IncompleteError at the end of the chunks when a bracket or string is open, TaskError when more cannot help.
    """
    cutter = _Cutter()
    for chunk in chunks:
        yield None
        yield from cutter.feed(chunk)
    cutter.finish()


class _Cutter:
    """Where the scan of a document stands between two chunks."""

    def __init__(self) -> None:
        self._text = bytearray()  # the file from offset `_base` on
        self._base = 0
        self._start = 0  # index of what is not given out yet
        self._line, self._column = 1, 1  # of `_start`
        self._at = 0  # what lies before this index is scanned
        self._open = bytearray()  # the closing brackets that are due
        self._in_string = False
        self._mode: Callable[[], Piece | None] = self._before
        self._array = False
        self._count = 0

    def feed(self, chunk: bytes) -> Iterator[Piece]:
        self._forget()
        self._text += chunk
        before = None
        while before != (before := (self._mode, self._at)):
            piece = self._mode()
            if piece is not None:
                yield piece
        if len(self._text) - self._start > MAX_TASK_BYTES:
            raise self._error(f"a task of more than {MAX_TASK_BYTES} bytes", self._start)

    def finish(self) -> None:
        if self._mode == self._before:
            raise self._error("it holds nothing", self._at, hint=_EXAMPLE, kind=IncompleteError)
        if self._mode == self._inside:
            what = "a string" if self._in_string else "an object" if self._open[-1:] == b"}" else "an array"
            hint = "the file is not whole: write it under a dot-name, then rename it"
            raise self._error(f"it ends within {what}", len(self._text), hint=hint, kind=IncompleteError)
        if not self._count:
            raise self._error("it holds no task", self._at, hint=_EXAMPLE)

    # Each mode scans on from `_at` and gives a piece when one ended.

    def _before(self) -> Piece | None:
        if self._text.startswith(_BOM):
            raise self._error("it begins with a byte order mark", 0, hint="save it as UTF-8 without BOM")
        first = self._pass_blanks()
        if first is None:
            return None
        if first not in _CLOSER:
            raise self._error("neither an object nor an array", self._at, hint=_EXAMPLE)
        self._array = first == ord("[")
        self._at += self._array
        self._move(self._at)
        self._mode = self._inside
        return None

    def _after(self) -> Piece | None:
        if self._pass_blanks() is not None:
            raise self._error("something stands behind the end", self._at, hint="several tasks go into an array")
        return None

    def _inside(self) -> Piece | None:
        if self._in_string:
            self._pass(_STRING_REST)
            if self._text[self._at : self._at + 1] == b'"':
                self._at += 1
                self._in_string = False
            return None
        self._pass(_PLAIN_INSIDE if self._open else _PLAIN)
        if self._at == len(self._text):
            return None
        self._at += 1
        return self._stop(self._at - 1)

    def _pass(self, pattern: re.Pattern[bytes]) -> None:
        found = pattern.match(self._text, self._at)
        self._at = found.end() if found else self._at

    def _pass_blanks(self) -> int | None:
        """Move on to the next byte that is not blank; None when there is none yet."""
        found = _NOT_BLANK.search(self._text, self._at)
        self._at = found.start() if found else len(self._text)
        if found is None:
            self._move(self._at)
            return None
        return self._text[self._at]

    def _stop(self, at: int) -> Piece | None:
        sign = self._text[at]
        if sign == _QUOTE:
            self._in_string = True
        elif sign == _COMMA:
            return self._element(at)
        elif sign in _CLOSER:
            self._open.append(_CLOSER[sign])
            if len(self._open) > MAX_DEPTH:
                raise self._error(f"more than {MAX_DEPTH} levels deep", at, hint="a task needs two levels")
        else:
            return self._close(sign, at)
        return None

    def _close(self, sign: int, at: int) -> Piece | None:
        ends_array = not self._open
        expected = ord("]") if ends_array else self._open.pop()
        if sign != expected:
            hint = "each bracket is closed by its like, the innermost first"
            raise self._error(f"{chr(sign)} where {chr(expected)} is due", at, hint=hint)
        if ends_array:
            self._mode = self._after
            return self._last_element(at)
        if self._open or self._array:
            return None
        self._mode = self._after
        return self._cut(self._start, at + 1, 0)

    def _last_element(self, at: int) -> Piece | None:
        if self._count or _NOT_BLANK.search(self._text, self._start, at):
            return self._element(at)
        return None  # an empty array; `finish` says so

    def _element(self, at: int) -> Piece:
        """The text before the comma or bracket at `at`."""
        first = _NOT_BLANK.search(self._text, self._start, at)
        if first is None:
            raise self._error("a value is missing here", at, hint="take away the comma before it")
        piece = self._cut(first.start(), at, self._count + 1)
        self._move(at + 1)
        return piece

    def _cut(self, start: int, end: int, number: int) -> Piece:
        """Give out the text between two indices, without blanks at its end."""
        self._move(start)
        raw = bytes(self._text[start:end]).rstrip(_BLANKS)
        if len(raw) > MAX_TASK_BYTES:
            raise self._error(f"a task of more than {MAX_TASK_BYTES} bytes", start)
        offset = self._base + start
        piece = Piece(number, self._line, self._column, offset, offset + len(raw), raw)
        self._move(end)
        self._count += 1
        return piece

    def _move(self, to: int) -> None:
        """What stands before index `to` is given out."""
        self._line, self._column = self._place(to)
        self._start = to

    def _forget(self) -> None:
        del self._text[: self._start]
        self._base += self._start
        self._at -= self._start
        self._start = 0

    def _place(self, at: int) -> tuple[int, int]:
        """Line and column of an index that is not before `_start`."""
        newlines = self._text.count(b"\n", self._start, at)
        column, start = self._column, self._start
        if newlines:
            column, start = 1, self._text.rfind(b"\n", start, at) + 1
        passed = self._text[start:at]
        return self._line + newlines, column + (len(passed) if passed.isascii() else _characters(passed))

    def _error(self, message: str, at: int, *, hint: str = "", kind: type[TaskError] = TaskError) -> TaskError:
        line, column = self._place(at)
        return kind(message, line=line, column=column, hint=hint)


def _characters(text: bytes | bytearray) -> int:
    return len(text.decode("utf-8", "replace"))
