"""Starts trainers that need not import torch again: reads a JSON list of arguments a line, answers with the process id, then the exit code.

Each trainer is a process of its own in every other respect; it is forked before anything but imports has happened.
"""

import json
import os
import sys


def tell(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def main() -> None:
    os.environ["DS_ACCELERATOR"] = "cpu"
    import trainer.cli
    import trainer.engine
    import trainer.train

    trainer.engine._deepspeed()
    for line in sys.stdin:
        arguments = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os.dup2(2, 1)
            sys.argv = ["trainer", *arguments]
            trainer.cli.main()
        tell(pid)
        _, status = os.waitpid(pid, 0)
        tell(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
