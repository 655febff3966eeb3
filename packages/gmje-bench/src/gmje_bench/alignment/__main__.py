"""``python -m gmje_bench.alignment``: the ``align`` command alone."""

import sys

import typer

from gmje_bench.align_cli import align
from gmje_bench.errors import BenchError


def main(arguments: list[str] | None = None) -> int:
    """Run the command and give its exit status: 0 done, 1 a method failed, 2 a mistake of the user's.

    Args:
        arguments: Of the command line; the process's own where missing.
    """
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(align)
    try:
        status = app(arguments, standalone_mode=False)
        return status if isinstance(status, int) else 0
    except BenchError as error:
        typer.echo(f"error: {error}", err=True)
        return 2


if __name__ == "__main__":
    sys.exit(main())
