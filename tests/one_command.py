"""What each process of test_shares.py does: gives `segue` one command after another."""

from unittest import mock

from segue.cli import commands as cli
from segue.figures import figure


def run(commands: list[list[str]]) -> None:
    """Runs commands as the command line would, on to the next where one ends in an error."""
    # Processes join once and stay together until the last command; pictures take long.
    with mock.patch.object(cli, "leave_processes"), mock.patch.object(figure, "save"):
        for command in commands:
            try:
                cli.main(command)
            except SystemExit as ended:
                print(f"{command[0]} ended with {ended.code}", flush=True)
    cli.leave_processes()
