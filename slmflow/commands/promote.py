"""Make a version champion: the challenger, or the version that is named.

    mlflow run . -e promote --env-manager local -P model=smollm2-135m-onnx
    mlflow run . -e promote --env-manager local -P model=smollm2-135m-onnx -P version=3

For `gate.promote=manual`, and for going further back than `-e rollback` does. The former champion becomes
`previous`. A challenger that missed the gate is promoted only when its version is named.
"""

from __future__ import annotations

import re
import sys

from slmflow.errors import SlmflowError, exit_status
from slmflow.words import read_words

PARAMETERS = ("model", "version")


def run(argv: list[str]) -> int:
    """Promote, and say what was done. Raises SlmflowError for a version that is not there or not whole."""
    arguments = read_words("promote", argv, PARAMETERS).declared
    number = arguments.get("version", "")
    if number and not re.fullmatch("[1-9][0-9]*", number):
        raise SlmflowError(f"version={number}: must be a number as the registry writes it, such as 3")
    from slmflow.registry.aliases import promote, repair, standing
    from slmflow.workflow.command import command_run
    from slmflow.workflow.evidence import is_intact, registered_model

    with command_run("promote"), registered_model(arguments.get("model", "")) as (client, name):
        for line in repair(client, name, is_intact):
            print(line)
        now = standing(client, name)
        target = number or now.challenger
        if target is None:
            raise SlmflowError(f"model={name}: it has no challenger: name a version by -P version=<number>")
        version = client.get_model_version(name, target)
        target = str(version.version)
        if not number and version.tags.get("gate") == "miss":
            raise SlmflowError(
                f"model={name}: challenger v{target} missed the gate; to promote it all the same give "
                f"version={target}"
            )
        if not is_intact(version):
            raise SlmflowError(f"version={target}: its model is gone or damaged; run the workflow again")
        if now.champion == target:
            print(f"{name}: v{target} is champion already")
            return 0
        promote(client, name, target, now.champion, is_intact)
        former = standing(client, name).previous
        print(f"{name}: v{target} is champion{f', previous is v{former}' if former else ''}")
    return 0


if __name__ == "__main__":
    sys.exit(exit_status("promote", lambda: run(sys.argv[1:])))
