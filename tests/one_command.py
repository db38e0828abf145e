"""Started by test_shares.py: gives `segue` one command after another, as many processes at once.

The processes are forked from one that has imported everything, which takes most of the time where
torchrun starts each of them anew (test_distributed.py does); what torchrun tells them is the same.
"""

import json
import os
import socket
import sys
from pathlib import Path
from unittest import mock

from segue import cli
from segue.stages import pseudo_label


def main(folder: Path, work: dict[str, list[list[str]]]) -> None:
    """Runs each list of commands by so many processes; what they say is left in `folder`."""
    for size, commands in work.items():
        port = free_port()
        # Forked by a process without threads: none of torch's has been needed so far.
        ranks = [fork(folder, int(size), rank, port, commands) for rank in range(int(size))]
        codes = [os.waitstatus_to_exitcode(os.waitpid(rank, 0)[1]) for rank in ranks]
        if any(codes):
            sys.exit(f"{size} processes ended with {codes}")


def fork(folder: Path, size: int, rank: int, port: int, commands: list[list[str]]) -> int:
    """Starts one of several processes, and gives its id."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        for number, kind in ((1, "out"), (2, "err")):
            path = folder / f"{size}.{kind}"
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ |= {name: str(value) for name, value in {**told, **where}.items()}
        run(commands)
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run(commands: list[list[str]]) -> None:
    """Runs commands as the command line would, on to the next where one ends in an error."""
    # Processes join once and stay together until the last command; pictures take long.
    with mock.patch.object(cli, "leave_processes"), mock.patch.object(pseudo_label, "save"):
        for command in commands:
            try:
                cli.main(command)
            except SystemExit as ended:
                print(f"{command[0]} ended with {ended.code}", flush=True)
    cli.leave_processes()


def free_port() -> int:
    """A port of this machine that no one listens at."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
