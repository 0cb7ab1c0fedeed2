"""slmflow: from a model id to served, gated MLflow models.

Importing the package switches off the telemetry of every library below it, unless the user has set the
variable. It must happen before those libraries are imported: ONNX Runtime GenAI reports by default.
What makes MLflow's client more patient is set in the same way.
"""

import os

TELEMETRY_OFF = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}
"""Variables that switch telemetry off; a value that the user has set is kept."""

PATIENT = {"MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "10"}
"""Seconds at random on top of MLflow's waits of 0, 4, 8 … s, which alone can meet a server down each time."""

for _name, _value in {**TELEMETRY_OFF, **PATIENT}.items():
    os.environ.setdefault(_name, _value)

from slmflow.tracking import uncover  # noqa: E402 a variable above must be set before anything is imported

uncover(os.environ)
