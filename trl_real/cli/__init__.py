"""
The command line: `trl-real generate`, `score`, `select`, `label`, `tasks`, `apply` and `dpo`, with flags or a YAML recipe.

To train with several processes: `accelerate launch --multi_gpu -m trl_real.cli dpo --config recipe.yaml`.
"""

import argparse
import sys
from importlib import import_module

from .. import __version__
from .errors import UserError


# Each command is a function in a module of the same name. The module is imported when the command runs.
COMMANDS = ("generate", "score", "select", "label", "tasks", "apply", "dpo")


def main(argv: list[str] | None = None) -> int:
    """Run a command. A user error prints one line and returns exit code 1; wrong flags exit with code 2."""
    parser = argparse.ArgumentParser(
        prog="trl-real", description="Label only the response pairs that are worth a label, then train with DPO."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument(
        "command",
        choices=COMMANDS,
        help="`generate` samples responses to prompts; `score` scores them; `select` writes the pairs of a dataset; `label` "
        "serves a page to label them; `tasks` writes them for another label tool; `apply` applies the labels; `dpo` selects "
        "pairs and trains on them. For the options of a command, run `trl-real <command> --help`.",
    )
    arguments = sys.argv[1:] if argv is None else argv
    name = parser.parse_args(arguments[:1]).command
    command = getattr(import_module(f".{name}", __name__), name)
    try:
        command(arguments[1:])
    except UserError as error:
        print("trl-real: error:", error, file=sys.stderr)
        return 1
    return 0
