"""The command line."""

from __future__ import annotations

import sys
from typing import Any

import click

import treadle
from treadle._cli.demo import demo
from treadle._cli.diagnose import diagnose
from treadle._cli.map_command import map_command
from treadle._cli.standard_error import EXIT_INTERRUPTED, say


class _Commands(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        """Call the command; Ctrl-C that it does not take itself ends it with the status of all others."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            say("treadle: interrupted")
            sys.exit(EXIT_INTERRUPTED)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(treadle.__version__, prog_name="treadle")
def cli() -> None:
    """Make many calls of a plain Python function at once, with an account of every one."""


cli.add_command(map_command)
cli.add_command(diagnose)
cli.add_command(demo)
