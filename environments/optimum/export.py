"""Trace a Hugging Face folder with optimum's exporter: fp32, with past.

    <python of this folder's environment> export.py SOURCE FOLDER

Run by slmflow/export/optimum_onnx.py in the environment of requirements.txt beside this file, whose
transformers is older than the project's: it imports nothing of the project.
"""

import sys

from optimum.exporters.onnx import main_export

source, folder = sys.argv[1:]
main_export(
    source,
    output=folder,
    task="text-generation-with-past",
    device="cpu",
    dtype="fp32",
    do_validation=False,
    local_files_only=True,
)
