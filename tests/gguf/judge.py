"""The ids that llama.cpp gives for tiny files of every tokenizer, which the tests hold ours against.

    npm install --prefix <folder> node-llama-cpp@3.22.1
    python -m tests.gguf.judge <folder>

Writes `llama_cpp_ids.json` beside this file.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from slmflow.export.proofs import CORPUS
from slmflow.files import write_json
from slmflow.gguf.tokenizer import PRE_TOKENIZERS
from slmflow.text import shipped_text
from tests.gguf_maker import byte_level, sentence_piece, write_gguf

IDS = Path(__file__).parent / "llama_cpp_ids.json"
TOKENIZERS = {pre: lambda writer, pre=pre: byte_level(writer, pre) for pre in PRE_TOKENIZERS} | {
    "sentencepiece": sentence_piece,
    "sentencepiece without a leading space": lambda writer: sentence_piece(writer, spaced=False),
}
TEXTS = (
    *CORPUS,
    shipped_text()[:2000],
    "I'll THEY'RE it'S 1234567 a1b22c333 x\n\n\ny \n z\t\tw!!?",
    "héé 中文字 Ωμέγα",
)


def main(folder):
    judged = {"made_by": "node-llama-cpp 3.22.1, model.tokenize(text, true)", "ids": {}}
    script = Path(__file__).parents[2] / "benchmarks" / "llama_cpp.mjs"
    for name, tokenizer in TOKENIZERS.items():
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "m.gguf"
            write_gguf(path, tokenizer=tokenizer)
            request = {"model": str(path), "threads": 2, "prompt": [5, 6, 7], "newTokens": 2, "repeats": 1}
            write_json(Path(scratch) / "request.json", {**request, "texts": list(TEXTS)})
            done = subprocess.run(
                ["node", str(script), f"{scratch}/request.json"], cwd=folder, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr
            judged["ids"][name] = json.loads(done.stdout)["ids"]
            print(name, [len(ids) for ids in judged["ids"][name]])
    IDS.write_text(json.dumps(judged, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
