"""The page of all settings, from the docstrings of their sections: name, type, unit, default, meaning."""

from __future__ import annotations

from generate.commands import SECTIONS
from generate.text import prose, unit, value
from unet4d.cli.main import command_parser
from unet4d.config import Config
from unet4d.system.checks import describe_type

BEFORE = """\
# Settings

Every setting of a run: its type, its default and what it means. `unset` is `null` in a YAML file, and is derived from the
studies and the device, as the text says. Give settings as options (`--train.epochs 100`), or in a YAML file with `--config`:

```yaml
train:
  epochs: 100
model:
  direction: forward
```

`unet4d train --print_config` prints all of them as such a file; `RUN/config.yaml` keeps those that a run used, resolved. The same
settings are the fields of `unet4d.config.Config` in Python.
"""


def page() -> str:
    """Return the page as Markdown."""
    parser, defaults = command_parser("train"), Config().as_dict()
    actions = {action.dest: action for action in parser._actions}
    parts = [BEFORE, "## Of the whole run\n"]
    parts += [_setting(name, actions[name], defaults[name]) for name in ("fold", "seed")]
    for section in SECTIONS:
        [group] = [group for group in parser._action_groups if any(a.dest == section for a in group._group_actions)]
        parts.append(f"## {section} {{ #{section} }}\n\n{prose(group.title or '')}.\n")
        parts += [
            _setting(f"{section}.{name}", actions[f"{section}.{name}"], default)
            for name, default in defaults[section].items()
        ]
    return "\n".join(parts)


def _setting(name, action, default) -> str:
    about = [describe_type(getattr(action, "_typehint", None) or action.type), unit(name)]
    about.append("default: unset" if default is None else f"default: `{value(default)}`")
    return f"### `{name}` {{ #{name} }}\n\n*{' · '.join(filter(None, about))}*\n\n{prose(action.help)}\n"
