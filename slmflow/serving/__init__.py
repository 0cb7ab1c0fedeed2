"""The HTTP front: one process that loads no model, and one worker process for each model version.

python -m slmflow.serving model_uri=models:/smollm2-135m-onnx@champion
"""
