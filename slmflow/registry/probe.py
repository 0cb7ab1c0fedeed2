"""Load a packaged model and ask it for a few tokens; run by path, in an environment that has nothing of ours.

python -I slmflow/registry/probe.py <folder of the model>
"""

from __future__ import annotations

import sys


def main(folder: str) -> None:
    """Print the answer. Raises whatever loading or answering raises, and TypeError for another answer."""
    import mlflow

    mlflow.tracing.disable()  # a trace would make a store in the working directory
    model = mlflow.pyfunc.load_model(folder)
    question = {"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 4}
    (answer,) = model.predict(question)
    text = answer["choices"][0]["message"]["content"]
    if not isinstance(text, str):
        raise TypeError(f"the answer is no text: {answer!r}")
    print(repr(text))


if __name__ == "__main__":
    main(sys.argv[1])
