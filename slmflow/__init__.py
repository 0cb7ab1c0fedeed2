"""slmflow: from a model id to served, gated MLflow models.

Importing the package switches off the telemetry of every library below it, unless the user has set the
variable. It must happen before those libraries are imported: ONNX Runtime GenAI reports by default.
"""

import os

TELEMETRY_OFF = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}
"""Variables that switch telemetry off; a value that the user has set is kept."""

for _name, _value in TELEMETRY_OFF.items():
    os.environ.setdefault(_name, _value)

from slmflow.tracking import uncover  # noqa: E402 a variable above must be set before anything is imported

uncover(os.environ)
