"""The command line: one module per group of commands, config files, messages and the console.

In: words of a shell, YAML files. Out: calls of the rooms below, lines on stdout and stderr, an exit code.
Nothing heavy is imported before a command is chosen.
"""

from unet4d.cli.datasets import CONVERT, PHANTOM, PROPAGATE, VERIFY
from unet4d.cli.evaluation import COMPARE, EVALUATE, REPORT
from unet4d.cli.export import EXPORT
from unet4d.cli.options import Command
from unet4d.cli.orthanc import ORTHANC
from unet4d.cli.prediction import POSTPROCESS, PREDICT
from unet4d.cli.training import INFO, PLAN, TRAIN

COMMANDS: dict[str, Command] = {
    "phantom": PHANTOM,
    "convert": CONVERT,
    "verify": VERIFY,
    "propagate": PROPAGATE,
    "plan": PLAN,
    "train": TRAIN,
    "info": INFO,
    "postprocess": POSTPROCESS,
    "export": EXPORT,
    "predict": PREDICT,
    "orthanc": ORTHANC,
    "evaluate": EVALUATE,
    "compare": COMPARE,
    "report": REPORT,
}
"""By name, in the order of work."""
