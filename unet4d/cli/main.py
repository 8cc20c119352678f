"""The command line: parse, dispatch, report failures, return exit codes."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import yaml
from jsonargparse import ArgumentParser, Namespace

from unet4d.cli import COMMANDS
from unet4d.cli.config_files import put_files_first, setting_types, take_option
from unet4d.cli.console import start_logging
from unet4d.cli.help import HelpFormatter
from unet4d.cli.messages import check_values_by_name, reword
from unet4d.cli.options import configured
from unet4d.errors import InputError, ReportedByOtherRank, Stopped, Unet4DError, not_installed
from unet4d.system.cuda_allocator import use_expandable_segments
from unet4d.system.distributed import is_first_process, process_count
from unet4d.system.failures import REPORT, is_bad_path, os_failure, show_traceback
from unet4d.system.memory_errors import is_out_of_gpu_memory, is_out_of_main_memory, memory_error_reason
from unet4d.system.old_names import describe_renamed
from unet4d.system.signals import check_stop, stop_signals
from unet4d.system.text import PrintableStream, open_standard_descriptors, printable, printable_output

DESCRIPTION = """Segment 4D MRI (3D + time) with a CLSTM-UNet: train on your own studies, get 4D label maps back.

Try it without data:
  unet4d phantom --out hearts --subjects 8 --frames 10 --labelled two
  unet4d phantom --out new --subjects 2 --frames 10 --seed 1
  unet4d train --dataset hearts --out run --train.epochs 5
  unet4d predict run -i new -o predicted
  unet4d evaluate --reference new --prediction predicted --out scores

Every command explains itself:  unet4d COMMAND --help"""

INTERRUPTED = 130


class _Parser(ArgumentParser):
    """Ends on wrong usage with one line on stderr and exit code 2."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        options = [name for action in self._actions for name in action.option_strings]
        raise InputError(f"{reword(str(message), options, setting_types())}; see {self.prog} --help")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line; ends the process with 0, 1 (failure), 2 (usage, input), 75 (stopped) or 130 (interrupted)."""
    open_standard_descriptors()
    code = run(sys.argv[1:] if arguments is None else arguments)
    threads = sys.modules.get("unet4d.system.threads")
    # Other processes may wait for an exchange with this one, and an orderly end of it would wait for them. A thread that is still
    # inside PyTorch aborts the process in an orderly end, and the exit code is lost.
    if (code and process_count() > 1) or (threads and threads.are_running()):
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):  # its reader is gone
                stream.flush()
        os._exit(code)
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; a mistake of the user ends in one line on stderr."""
    with printable_output() as (out, _):
        code = _code(arguments)
        sys.stdout.flush()
        return _after_output(out, code, arguments)


def _code(arguments: Sequence[str]) -> int:
    """Run one command, report its failure, and return its exit code."""
    try:
        with stop_signals(passed_on=False):
            _dispatch(arguments)
    except ReportedByOtherRank as error:
        return error.exit_code
    except (Unet4DError, Stopped) as error:
        return _report(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _report("interrupted; whatever is written is whole", INTERRUPTED)
    except OSError as error:  # of the machine or its disk, or a path that cannot be
        show_traceback(error)
        if is_bad_path(error):
            return _report(os_failure(error), InputError.exit_code)
        return _report(f"{os_failure(error)}; {REPORT}", 1)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and not (error.name or "unet4d").startswith("unet4d"):
            return _report(not_installed(error), InputError.exit_code)
        if is_out_of_gpu_memory(error):
            advice = COMMANDS[arguments[0]].when_gpu_is_full
            return _report(f"the GPU is out of memory ({memory_error_reason(error)}); {advice}", 1)
        if is_out_of_main_memory(error):
            return _report(f"the main memory is too small ({memory_error_reason(error)}); use a machine with more", 1)
        if process_count() > 1:
            traceback.print_exc()
            return 1
        raise
    return 0


def _after_output(out: PrintableStream, code: int, arguments: Sequence[str]) -> int:
    """Return the exit code after all output; where the result is what is printed, output that is lost is a failure."""
    if out.failure is None or isinstance(out.failure, BrokenPipeError):  # who closes a pipe has read enough
        return code
    _report(f"could not write to the standard output: {out.failure.strerror}; the rest of it is lost", 1)
    prints_result = "--json" in arguments or (arguments[0] in COMMANDS and COMMANDS[arguments[0]].prints_result)
    return code or int(prints_result)


def _dispatch(arguments: Sequence[str]) -> None:
    # MONAI asks for a user's name when it is imported; in a container a uid may have none.
    os.environ.setdefault("USER", "unet4d")
    use_expandable_segments()  # before torch is imported
    try:
        command, options = _parse(arguments)
        as_json = getattr(options, "json", False)
        start_logging(options.verbose, options.quiet, silent=not is_first_process(), to_stderr=as_json)
        COMMANDS[command].check(options)
    except SystemExit:  # --help and the like
        return
    except Unet4DError as error:
        if not is_first_process():  # the first one reports it
            raise ReportedByOtherRank(error.exit_code) from error
        raise
    check_stop()
    COMMANDS[command].run(options)


def _report(message: str, code: int) -> int:
    if bars := sys.modules.get("unet4d.system.progress_bar"):  # or no bar was made
        bars.close_bars()
    print(f"unet4d: {printable(' '.join(message.split()))}", file=sys.stderr)
    return code


def _parse(arguments: Sequence[str]) -> tuple[str, Namespace]:
    """Return the command and its options; only the chosen command's parser is built."""
    names = ", ".join(COMMANDS)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        sys.exit(0)
    if arguments[0] == "--version":
        from unet4d import __version__

        print(f"unet4d {__version__}")
        sys.exit(0)
    name = arguments[0]
    if name not in COMMANDS:
        expected = describe_renamed(name) or f", expected one of {names}"
        raise InputError(f"{name!r} is not a command{expected}; see unet4d --help")
    command, parser = COMMANDS[name], command_parser(name)
    given = list(arguments[1:])
    if any("\0" in word for word in given):
        raise InputError("got an argument with a null byte, expected a text without; remove it")
    if "" in given or any(word.startswith("--") and word.endswith("=") for word in given):
        raise InputError("got an empty argument, expected a value; a shell variable in the command may be unset")
    given = _with_underscores(_join_negatives(given))
    options = [option for action in parser._actions for option in action.option_strings]
    if "--config" in options:
        given = put_files_first(given, options)
    for option in command.values_by_name:
        for text in take_option(given, option)[1]:
            check_values_by_name(option, text)
    is_config_printed = "--print_config" in options and "--print_config" in given
    if is_config_printed:
        given.remove("--print_config")
        _allow_missing(parser)
    try:
        args = parser.parse_args(given)
    except RecursionError as error:
        raise InputError(
            "got a value that is nested too deep, expected a plain value or a list; remove the brackets"
        ) from error
    if is_config_printed:
        print(yaml.safe_dump(configured(args).as_dict(), sort_keys=False), end="")
        sys.exit(0)
    return name, args


def command_parser(name: str) -> ArgumentParser:
    """Return the parser of a command, with the options that every command has."""
    command = COMMANDS[name]
    parser = _Parser(
        prog=f"unet4d {name}",
        usage=f"unet4d {name} {command.usage}",
        description=f"{command.about[0].upper()}{command.about[1:]}.\n\n{command.examples}",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    command.options(parser)
    parser.add_argument("--verbose", action="store_true", help="print details, each line with its time and module")
    parser.add_argument(
        "--quiet", action="store_true", help="print results, warnings and errors only: no progress, no notes"
    )
    return parser


def _allow_missing(parser: ArgumentParser) -> None:
    """Let a command line do without the dataset and the folder that the parser requires."""
    for action in parser._actions:
        if action.dest in ("dataset", "out") and action.default is None:
            parser.set_defaults({action.dest: ""})
            if not action.option_strings:
                action.nargs = "?"


def _join_negatives(given: Sequence[str]) -> list[str]:
    """Return a command line in which values that begin with a minus and a digit are joined to their option: --a=-3m.

    The parser would take "-3m" for an option, and report that the other one has no value.
    """
    joined: list[str] = []
    for word in given:
        if re.match(r"-\.?\d", word) and joined and re.fullmatch(r"--[^=]+", joined[-1]):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _with_underscores(given: Sequence[str]) -> list[str]:
    """Return a command line with underscores for the dashes in the names of options."""
    parts = [part.partition("=") if part.startswith("--") else (part, "", "") for part in given]
    return [
        f"--{name[2:].replace('-', '_')}{equals}{value}" if name.startswith("--") else name
        for name, equals, value in parts
    ]


def _overview() -> str:
    rows = "\n".join(f"  {name:<11} {command.about}" for name, command in COMMANDS.items())
    return f"usage: unet4d COMMAND [options]\n\n{DESCRIPTION}\n\ncommands:\n{rows}\n\n  --version  print the version"
