"""The model builder as it is, in whatever environment runs this file: the peer of `benchmarks.export`.

python benchmarks/_stock_builder.py <source> <folder> <precision> key=value …
"""

import sys

import onnxruntime_genai
from onnxruntime_genai.models import builder


def main() -> None:
    """Parse and build, as the builder's own command does."""
    source, folder, precision, *options = sys.argv[1:]
    # As its wheel has it, not the commit of the repository that it is installed in: the bytes are compared.
    builder.Model.get_genai_commit = classmethod(lambda cls: onnxruntime_genai.__commit__)
    arguments = ("", source, folder, precision, "cpu", f"{folder}-cache")
    builder.create_model(*arguments, **builder.parse_extra_options(*arguments, options))


if __name__ == "__main__":
    main()
