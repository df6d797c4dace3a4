"""Runs the embedded Redis server, and ends it once no process uses it, even if all were killed.

A script, watchdog.py FOLDER DESCRIPTOR SERVER OPTION... FOLDER has the locks of `embedded`; the server
inherits the descriptor of its own. It imports little, because every first command waits for it to start.
"""

import fcntl
import os
import select
import signal
import sys
from io import BufferedWriter

INTERVAL = 1.0
"""Seconds between two checks for users."""
STOP_SECONDS = 10.0


def main(folder: str, lock: str, *command: str) -> None:
    """Run the server in a process of its own, and return."""
    if os.fork():
        return
    ended, held_by_server = os.pipe()
    os.set_inheritable(held_by_server, True)
    server = os.posix_spawn(command[0], command, os.environ)
    os.close(held_by_server)
    os.close(int(lock))
    watch(server, ended, folder)


def watch(server: int, ended: int, folder: str) -> None:
    """End the process `server` once the users' lock is free; the pipe `ended` breaks at its end."""
    # pathlib takes longer to import than all else
    start, users = (open(f"{folder}/{name}.lock", "ab") for name in ("start", "users"))  # noqa: PTH123, SIM115
    while not select.select([ended], [], [], INTERVAL)[0]:
        fcntl.flock(start, fcntl.LOCK_EX)
        if try_lock(users):
            os.kill(server, signal.SIGTERM)
            select.select([ended], [], [], STOP_SECONDS)
            fcntl.flock(users, fcntl.LOCK_UN)
        fcntl.flock(start, fcntl.LOCK_UN)


def try_lock(file: BufferedWriter) -> bool:
    """Lock `file` exclusively unless another process holds a lock; closing the file opens it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


if __name__ == "__main__":
    main(*sys.argv[1:])
