"""Runs the front with the stand-in for its worker; words `worker.<name>=<value>` go to the stand-in, `version`
names a file with the number that the alias stands on, `memory` is what seems to be free, in bytes.
"""

import sys
from pathlib import Path

from slmflow.errors import SlmflowError, exit_status
from slmflow.serving.__main__ import run
from slmflow.serving.follow import Target
from slmflow.serving.pool import PoolSettings

STAND_IN = str(Path(__file__).with_name("stand_in_worker.py"))


def main() -> int:
    words = [word for word in sys.argv[1:] if word.startswith("worker.")]
    own = dict(
        word.split("=", 1) for word in sys.argv[1:] if word.startswith(("version=", "memory=", "hold="))
    )
    rest = [word for word in sys.argv[1:] if word not in words and word.split("=")[0] not in own]
    options = dict(word.removeprefix("worker.").split("=", 1) for word in words)
    memory = int(own.get("memory", 1 << 40))

    def resolve() -> Target:
        number = Path(own["version"]).read_text().strip()
        if not number.isdigit():
            raise SlmflowError(f"the registry says: {number}")
        return Target(f"models:/echo/{number}", "echo", number)

    settings = PoolSettings(
        command=(sys.executable, STAND_IN),
        options=options,
        memory=lambda: memory,
        hold_seconds=float(own.get("hold", 60)),
    )
    return run(rest, settings, resolve if "version" in own else None)


if __name__ == "__main__":
    sys.exit(exit_status("serving", main))
