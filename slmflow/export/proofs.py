"""What is proven of an exported folder before the step says done.

Wrong is refused here; lossy is judged by `evaluate`. Everything runs through the code that ships.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slmflow.config import ExportConfig, GgufExport, Level, Precision
from slmflow.errors import SlmflowError, first_line
from slmflow.export.graph import valid_graph
from slmflow.files import read_json
from slmflow.models.slm_runtime.engine import Engine
from slmflow.models.slm_runtime.open_engine import open_engine
from slmflow.models.slm_runtime.tokenizer import TextTokenizer
from slmflow.quality.fidelity import kl_divergence, log_softmax
from slmflow.quality.reference import reference_logits
from slmflow.text import shipped_text

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

CORPUS = (
    "Hello, world! It's a dog's life: they're, we'll, I'd.",
    "def f(x):\n\treturn {'a': x ** 2, \"b\": [1, 2.50, 0xFF]}  # done\n",
    "1234567890 3.14159 10,000 ½ ² Ⅷ ١٢٣",
    "naïve café Ångström façade Straße ΑΒΓ привет",
    "你好,世界。こんにちは 안녕하세요",
    "🙂👩‍👩‍👧 🇪🇸 ❤️ \u200b\u00a0\ufeff",
    "  two  spaces\n\n\n three lines \t tab   \r\n end  ",
    "",
    "{{ template }} {% raw %} </s> <s> [INST] <|end|> <|im_end|> <|im_start|>user\nhi<|im_end|>",
    "a" * 300,
)
"""Texts on which a mislabelled tokenizer shows: digits, code, scripts, emoji, white space, markers."""

CHATS: tuple[list[dict[str, Any]], ...] = (
    [{"role": "user", "content": "What is the capital of Spain?"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi\n  there <|end|>"}],
    [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ],
)

WRONG_KL: dict[Precision | Level, float] = {
    Level.exact: 1e-5,
    Level.precise: 1e-5,
    Level.fast: 0.3,
    Precision.fp32: 1e-4,
    Precision.fp16: 0.01,
    Precision.int8: 0.3,
    Precision.int4: 3.0,
    Precision.source: 3.0,
}
"""Mean KL divergence (nats) above which a graph is wrong, not lossy: int4 of a 135 M model has 0.7,
a graph with one layer's weights mixed up more than 5."""

PREFILL_TOKENS, DECODE_TOKENS = 96, 24
GREEDY_TOKENS = 8
STARTS = (0, 3, 7)
"""Where in the text the prompts begin on which the engines must agree, token for token."""
BATCH_SHARE = 0.1
"""A row in a batch may be this far (KL divergence) from the same row alone, as a share of the distance
between different rows: more is no rounding."""


def arithmetic(config: ExportConfig) -> Precision | Level:
    """What decides how far logits may be from the source's: a GGUF export's level, else the precision."""
    return config.level if isinstance(config, GgufExport) else config.precision


def prove(folder: Path, huggingface: Path | None, precision: Precision | Level) -> dict[str, Any]:
    """Load, generate, and compare with the Hugging Face folder it was made from, where there is one.

    The exported model is gone from memory when the reference comes. Returns what was proven, with figures.
    Raises SlmflowError naming the first thing that is wrong.
    """
    graph = valid_graph(folder / _graph_name(folder))
    try:
        engine = open_engine(folder)
        tokenizer = TextTokenizer(folder)
        prompt = tokenizer.encode(shipped_text())[: min(PREFILL_TOKENS, engine.description.context_length)]
        prompts = [prompt[start : start + 16] for start in STARTS]
        greedy = [_greedy(engine, one) for one in prompts]
    except Exception as error:  # the runtime raises bare exceptions of its own
        raise SlmflowError(f"the exported folder does not load or generate: {first_line(error)}") from error
    if any(not 0 <= token < engine.description.vocabulary for said in greedy for token in said):
        raise SlmflowError(f"the exported model generates ids outside its vocabulary: {greedy}")
    continuous = _continuous(folder, prompts, greedy)
    proofs: dict[str, Any] = {
        "graph": graph,
        "generates": True,
        "engines": ["generate", *(["continuous"] if continuous else [])],
        **continuous,
        "reference": huggingface is not None,
    }
    if huggingface is not None:
        from transformers import AutoTokenizer

        theirs = AutoTokenizer.from_pretrained(huggingface)
        proofs["tokenizer"] = _same_ids(tokenizer, theirs)
        proofs["template"] = _same_template(tokenizer, theirs)
        paths = {
            "prefill": log_softmax(engine.score(prompt)),
            "decode": log_softmax(engine.score(prompt[:DECODE_TOKENS], chunk=1)),
        }
        del engine
        proofs["logits"] = _right_logits(paths, huggingface, prompt, precision)
    return proofs


def _logits(engine: Engine, prompts: list[list[int]], tokens: list[list[int]]) -> NDArray[np.float32]:
    """Logits after each prompt and each of its tokens but the last, all prompts decoded together.

    Shape (prompts, tokens, vocabulary).
    """
    import numpy as np

    caches = [engine.open(len(prompt) + GREEDY_TOKENS) for prompt in prompts]
    steps = [np.stack([engine.prefill(cache, prompt) for cache, prompt in zip(caches, prompts, strict=True)])]
    steps += [engine.decode(caches, list(said)) for said in list(zip(*tokens, strict=True))[:-1]]
    for cache in caches:
        engine.close(cache)
    return np.stack(steps, axis=1)


def _mean_kl(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Mean KL divergence (nats) over logits of any shape that ends with the vocabulary."""
    width = one.shape[-1]
    return float(
        kl_divergence(log_softmax(one.reshape(-1, width)), log_softmax(other.reshape(-1, width))).mean()
    )


def _greedy(engine: Engine, prompt: list[int]) -> list[int]:
    """The most probable tokens after a prompt."""
    cache = engine.open(len(prompt) + GREEDY_TOKENS)
    tokens = [int(engine.prefill(cache, prompt).argmax())]
    while len(tokens) < GREEDY_TOKENS:
        tokens.append(int(engine.decode([cache], tokens[-1:])[0].argmax()))
    engine.close(cache)
    return tokens


def _continuous(folder: Path, prompts: list[list[int]], greedy: list[list[int]]) -> dict[str, float]:
    """Whether the engine `continuous` may serve this graph: how far a batch is from single rows, or nothing.

    A row alone must give the tokens of generate(). In a batch, 4-bit kernels round otherwise, which is lossy
    (KL 0.003 for int4 of the default model); rows that are mixed up are as far apart as their texts.
    """
    import numpy as np

    try:
        engine = open_engine(folder, "continuous")
        alone = [_logits(engine, [prompt], [said]) for prompt, said in zip(prompts, greedy, strict=True)]
        together = _logits(engine, prompts, greedy)
    except Exception as error:  # a graph that it cannot feed is no fault of the export
        print(f"  engine continuous: no, {first_line(error)}")
        return {}
    single = np.concatenate(alone)
    if single.argmax(axis=-1).tolist() != greedy:
        print("  engine continuous: no, its tokens are not those of generate()")
        return {}
    kl, apart = _mean_kl(single, together), _mean_kl(single, np.roll(single, 1, axis=0))
    if not kl <= BATCH_SHARE * apart:
        print(
            f"  engine continuous: no, a batch is {kl:.3g} nats from its single rows, they {apart:.3g} apart"
        )
        return {}
    return {"batch_kl": kl}


def _graph_name(folder: Path) -> str:
    try:
        return str(read_json(folder / "genai_config.json")["model"]["decoder"]["filename"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SlmflowError(f"genai_config.json does not name the decoder's graph: {error!r}") from None


def _same_ids(tokenizer: TextTokenizer, reference: Any) -> dict[str, int]:
    texts = [*CORPUS, shipped_text()]
    for text in texts:
        ours, theirs = tokenizer.encode(text), reference(text)["input_ids"]
        if ours != list(theirs):
            at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), 0)
            raise SlmflowError(
                f"tokenizer ids differ from the source's at token {at} of {text[:40]!r}: "
                f"{ours[at : at + 4]} instead of {theirs[at : at + 4]}, "
                f"as {type(reference).__name__} reads it"
            )
    return {"texts": len(texts), "differences": 0}


def _same_template(tokenizer: TextTokenizer, reference: Any) -> dict[str, int]:
    if reference.chat_template is None:
        return {"chats": 0, "differences": 0}
    compared = 0
    for chat in CHATS:
        try:
            theirs = reference.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        except Exception:  # a template may refuse a role, then ours must refuse it as well
            theirs = None
        try:
            ours = tokenizer.prompt_of(chat)
        except ValueError:
            ours = None
        if ours != theirs:
            raise SlmflowError(f"the chat template renders {ours!r} instead of {theirs!r}")
        compared += 1
    return {"chats": compared, "differences": 0}


def _right_logits(
    paths: dict[str, NDArray[np.float32]], huggingface: Path, ids: list[int], precision: Precision | Level
) -> dict[str, float]:
    """Mean KL divergence to the fp32 reference on both paths: many tokens at once, and one by one."""
    reference = log_softmax(next(reference_logits(huggingface, [ids])))
    figures = {}
    for name, candidate in paths.items():
        figures[f"{name}_kl"] = kl = float(kl_divergence(reference[: len(candidate)], candidate).mean())
        if not kl <= WRONG_KL[precision]:
            raise SlmflowError(
                f"logits of the exported {precision.value} graph are wrong on the {name} path: "
                f"mean KL {kl:.4g}, more than {WRONG_KL[precision]:g} is no rounding"
            )
    return figures
