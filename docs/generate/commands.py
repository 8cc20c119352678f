"""One page per command, from its parser: purpose, usage, examples, arguments, options."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator

from generate.text import code, definition
from unet4d.cli import COMMANDS
from unet4d.cli.main import DESCRIPTION, command_parser
from unet4d.system.checks import describe_type

FOLDER = "reference/commands"
SECTIONS = ("data", "model", "train", "inference", "recompute")
DOCUMENTS = {
    "info": "info", "verify": "verification", "plan": "plan", "evaluate": "evaluation", "compare": "comparison",
}  # fmt: skip
"""Command to the schema of the document that it prints with `--json`."""
FOR_PROGRAMS = """
## For programs

With `--json` a command prints one JSON document on stdout, and all else on stderr. The exit code is the same. Each document names
its schema and the version of it.

    unet4d evaluate --reference DATASET --prediction predicted --out scores --json > scores.json

| command | schema |
|---|---|
"""
ON_CONFIG_FILES = """\
Settings of a run are options, too, such as `--train.epochs 100`, or come from a YAML file with `--config`:
[all settings](../settings.md).
"""


def pages() -> dict[str, str]:
    """Return the pages of all commands, and their index, as Markdown by path."""
    rows = "".join(f"| [`unet4d {name}`]({name}.md) | {command.about} |\n" for name, command in COMMANDS.items())
    trial = "\n".join(line for line in DESCRIPTION.splitlines() if line.startswith("  "))
    index = (
        f"# Commands\n\n{DESCRIPTION.splitlines()[0]}\n\n| command | what it does |\n|---|---|\n{rows}\n"
        f"Without data of your own:\n\n{code(trial)}\n"
        "Dashes and underscores are the same in every option. `unet4d COMMAND --help` prints what its page here says. "
        f"[Exit codes and messages](../messages.md) are the same for all commands.\n{FOR_PROGRAMS}"
    ) + "".join(
        f"| `unet4d {name}` | [{schema}](../files.md#schema-{schema}) |\n" for name, schema in DOCUMENTS.items()
    )
    return {f"{FOLDER}/index.md": index} | {f"{FOLDER}/{name}.md": _page(name) for name in COMMANDS}


def _page(name: str) -> str:
    command, parser = COMMANDS[name], command_parser(name)
    actions = [action for action in parser._actions if action.dest != "help" and action.help != argparse.SUPPRESS]
    own = [action for action in actions if action.dest.partition(".")[0] not in SECTIONS]
    parts = [
        f"# unet4d {name}\n\n{command.about[0].upper()}{command.about[1:]}.\n",
        code(f"unet4d {name} {command.usage}", "text"),
        f"## Examples\n\n{code(_commented(command.examples))}",
        *_group("Arguments", [action for action in own if not action.option_strings]),
        *_group("Options", [action for action in own if action.option_strings]),
    ]
    if len(own) < len(actions):
        parts.append(f"## Settings\n\n{ON_CONFIG_FILES}")
    return "\n".join(parts)


def _commented(examples: str) -> str:
    """Return examples with their remarks in brackets as comments of a shell."""
    return re.sub(r"  \((.+)\)$", r"  # \1", examples, flags=re.M)


def _group(title: str, actions: list[argparse.Action]) -> Iterator[str]:
    if actions:
        yield f"## {title}\n\n" + "\n".join(
            definition(", ".join(action.option_strings) or action.dest, about(action), action.help)
            for action in actions
        )


def about(action: argparse.Action) -> list[str]:
    """Return the kind of an option's value, whether it is required, and its default."""
    kind = getattr(action, "_typehint", None) or action.type
    if action.nargs == 0:
        return []
    described = [" or ".join(f"`{choice}`" for choice in action.choices)] if action.choices else []
    if kind is not None:
        described = [describe_type(kind)]
    if action.nargs not in (None, "?"):
        described.append("several are allowed")
    if action.required:
        described.append("required")
    elif action.default not in (None, [], argparse.SUPPRESS):
        described.append(f"default `{action.default}`")
    return described
