"""The console: what the package logs, on the terminal above the progress bars, warnings and errors on stderr."""

from __future__ import annotations

import logging
import sys

from unet4d.system.progress_bar import RESULT, print_line

LOGGER = "unet4d"


class ConsoleHandler(logging.Handler):
    """Prints the package's log: warnings and errors to stderr, all else to stdout, or everything to stderr.

    Args:
        to_stderr: whether stdout is kept for something else.
    """

    def __init__(self, to_stderr: bool = False):
        super().__init__()
        self.to_stderr = to_stderr

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record; a stream that fails is reported by the command at its end."""
        to_stderr = self.to_stderr or record.levelno >= logging.WARNING
        print_line(self.format(record), sys.stderr if to_stderr else sys.stdout)


def start_logging(verbose: bool = False, quiet: bool = False, silent: bool = False, to_stderr: bool = False) -> None:
    """Print what the package logs from now on; a later call replaces an earlier one.

    Args:
        verbose: also details, each line with its time and module.
        quiet: results, warnings and errors only, and no progress bars.
        silent: nothing at all, as in all but the first of several processes.
        to_stderr: everything on stderr, because stdout is for one JSON document.
    """
    logger = logging.getLogger(LOGGER)
    for handler in [one for one in logger.handlers if isinstance(one, ConsoleHandler)]:
        logger.removeHandler(handler)
    handler = ConsoleHandler(to_stderr)
    if verbose:
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s", "%H:%M:%S"))
    logger.addHandler(handler)
    level = logging.DEBUG if verbose else RESULT if quiet else logging.INFO
    logger.setLevel(logging.CRITICAL + 1 if silent else level)
