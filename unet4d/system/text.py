"""Text from outside made safe to print: control characters, bidirectional overrides and lone surrogates become visible escapes."""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import re
import reprlib
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TextIO

_CURSOR_MOVES = re.compile(r"\r?\n*(?:\x1b\[A)*\r?")
"""Characters that a progress bar writes to move the cursor."""

_SHORT = reprlib.Repr()  # of lists that repeat one another, str() may be larger than any memory
_SHORT.maxlevel, _SHORT.maxlong = 3, 80
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = 12
_SHORT.maxstring = _SHORT.maxother = 200
_LONGEST_SUGGESTED = 200
"""Characters of the longest name for which similar names are looked up."""


def printable(text: str, keep: str = "") -> str:
    r"""Return the text with each character that is not visible as an escape: "\x1b", "\u202e", "\udcff".

    Args:
        text: any text, such as a file name or a value of a DICOM header.
        keep: characters that stay as they are, such as "\n".
    """
    if text.isprintable():
        return text
    return "".join(one if one in keep or _is_visible(one) else _escape(one) for one in text)


def shortened(text: str, most: int = 60) -> str:
    """Return a printable text of at most `most` characters; what is cut out of the middle becomes "...".

    Args:
        text: any text.
        most: number of characters, 5 or more.
    """
    text = printable(text)
    end = (most - 3) // 2
    return text if len(text) <= most else f"{text[: most - 3 - end]}...{text[len(text) - end :]}"


def short_repr(value: object, most: int = 200) -> str:
    """Return the representation of a value of any kind, however large it is, shortened to at most `most` characters."""
    if isinstance(value, str):
        return shortened(repr(value), most)
    try:
        return shortened(_SHORT.repr(value), most)
    except (ValueError, RecursionError):  # Python writes no integer of more than 4,300 digits
        return f"{type(value).__name__} that is too large to show"


def count(n: int, one: str, many: str = "") -> str:
    """Return a number with its noun: "1 study", "2 studies", "0 frames"; without `many` the plural ends in -s."""
    return f"{n} {one if n == 1 else many or f'{one}s'}"


def shorten_list(names: Iterable[object], most: int = 5, separator: str = ", ") -> str:
    """Return the first names, and the number of the others: "a, b and 3 more", or "a; b; and 3 more"."""
    known = [str(name) for name in names]
    more = f"{separator.strip(', ')} and {len(known) - most} more" if len(known) > most else ""
    return separator.join(known[:most]) + more


def format_number(value: float | None, digits: int) -> str:
    """Return a number with this many digits after the point; a dash for None."""
    return "-" if value is None else f"{value:.{digits}f}"


def format_significant(value: float | None, digits: int) -> str:
    """Return a number with this many significant digits, and with all of those before the point; a dash for None."""
    return "-" if value is None else f"{value:.{digits}g}" if abs(value) < 10 ** (digits - 1) else f"{value:.0f}"


def _is_visible(character: str) -> bool:
    return character.isprintable() or unicodedata.category(character) == "Zs"


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


class PrintableStream:
    """A text stream that escapes what must not reach a terminal, and that never raises because its reader is gone.

    Attributes:
        failure: the first error of the stream, such as a closed pipe or a full disk; None so far. Later output is dropped.
    """

    def __init__(self, stream: TextIO, moves_cursor: bool = False):
        self._stream, self._keep, self._moves_cursor = stream, "\n\t", moves_cursor
        self.failure: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write the text with its unprintable characters escaped; return its length."""
        if self.failure is None:
            with self._noting_failure():
                self._stream.write(self._safe(text))
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        if self.failure is None:
            with self._noting_failure():
                self._stream.flush()

    def _safe(self, text: str) -> str:
        start = ""
        if self._moves_cursor and (found := _CURSOR_MOVES.match(text)):
            start, text = found[0], text[found.end() :]
            end = "\r" * text.endswith("\r")
            text = printable(text.removesuffix("\r"), self._keep) + end
        else:
            text = printable(text, self._keep)
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        return start + text.encode(encoding, "backslashreplace").decode(encoding)

    @contextlib.contextmanager
    def _noting_failure(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failure = error
            self._drop()
        except ValueError:  # the stream is closed
            self.failure = OSError(errno.EBADF, os.strerror(errno.EBADF))

    def _drop(self) -> None:
        """Let what is still buffered go nowhere, or the end of the process would try to write it again."""
        with contextlib.suppress(OSError, ValueError):
            descriptor = os.open(os.devnull, os.O_WRONLY)
            os.dup2(descriptor, self._stream.fileno())
            os.close(descriptor)


@contextlib.contextmanager
def printable_output() -> Iterator[tuple[PrintableStream, PrintableStream]]:
    """Give stdout and stderr that escape what must not reach a terminal, in place of the process's own."""
    before = sys.stdout, sys.stderr
    out = PrintableStream(before[0] or open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - None where the descriptor was closed
    error = PrintableStream(before[1] or open(os.devnull, "w", encoding="utf-8"), moves_cursor=True)  # noqa: SIM115
    sys.stdout, sys.stderr = out, error
    try:
        yield out, error
    finally:
        out.flush()
        error.flush()
        sys.stdout, sys.stderr = before


def open_standard_descriptors() -> None:
    """Open the descriptors 0, 1 and 2 on the null device where they are closed, so that no file of ours gets their numbers."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)


def suggest_names(name: str, known: Iterable[str]) -> str:
    """Return the most similar known names in brackets, to append to a name that is unknown; empty where none is similar."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5) if len(name) <= _LONGEST_SUGGESTED else []
    return f" (near: {', '.join(near)})" if near else ""


def describe_frames(frames: Sequence[int], word: str = "frame") -> str:
    """Return "frame 3", "frames 3 and 7" or "frames 0, 2 to 5 and 9", with `word` in place of "frame"."""
    runs: list[list[int]] = []
    for frame in frames:
        if runs and frame == runs[-1][-1] + 1:
            runs[-1].append(frame)
        else:
            runs.append([frame])
    parts = [part for run in runs for part in ([f"{run[0]} to {run[-1]}"] if len(run) > 2 else map(str, run))]
    listed = " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else parts[0]
    return f"{word}{'s' * (len(frames) > 1)} {listed}"
