"""The runtime that travels with a packaged ONNX model: template, tokenizer, engine, OpenAI shapes.

Shipped by MLflow's `code_paths`, so it must not import anything else of the project. Two versions of it
never live in one process: MLflow would import the second model's copy as the first's.
"""

import os

# Before onnxruntime_genai is imported: its official wheel reports usage unless told not to.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
