"""Go back to the former champion: swap `champion` and `previous` of a registered model.

    mlflow run . -e rollback --env-manager local -P model=smollm2-135m-onnx

What is rolled back stays so: a run that makes the same content again does not promote it, `-e promote` does.
Rolling back twice returns to where it was.
"""

from __future__ import annotations

import sys

from slmflow.errors import exit_status
from slmflow.words import read_words

PARAMETERS = ("model",)


def run(argv: list[str]) -> int:
    """Swap, and say what was done. Raises SlmflowError when there is nothing whole to go back to."""
    arguments = read_words("rollback", argv, PARAMETERS).declared
    from slmflow.registry.aliases import roll_back, standing
    from slmflow.workflow.command import command_run
    from slmflow.workflow.evidence import is_intact, registered_model

    with command_run("rollback"), registered_model(arguments.get("model", "")) as (client, name):
        for line in roll_back(client, name, is_intact):
            print(line)
        champion = standing(client, name).champion
        if champion and client.get_model_version(name, champion).tags.get("gate") == "miss":
            print(f"{name}: v{champion} missed the gate when it was last judged")
    return 0


if __name__ == "__main__":
    sys.exit(exit_status("rollback", lambda: run(sys.argv[1:])))
