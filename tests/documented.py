"""The commands that README.md and docs/ show, in a form that two wordings of one command share.

python -m tests.documented     # every command with its form, to write an entry of tests/test_documented.py
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT

PROGRAMS = ("mlflow", "make", "python", "curl", "databricks", "docker", "pip", "apt-get", "uv", "conda")
NAMES = {*PROGRAMS, "mlflow run", "mlflow models"}
"""What a text calls a program by, which is no command."""
CHOICES = {"model", "export"}
"""Parameters that every step takes: another value is no other command."""
STEPS_ALONE = re.compile(r"python -m (steps|benchmarks)\.\S+")


@dataclass(frozen=True)
class Command:
    """One command of a page, as it stands there."""

    page: str
    text: str


def pages() -> list[Path]:
    """What users read; LOG.md tells what was, CHANGELOG.md what changed."""
    return [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").glob("*.md") if p.name != "LOG.md")]


def commands() -> list[Command]:
    """Every command of a code block, of its comments, and of the text, once a page."""
    found = [Command(page.name, text) for page in pages() for text in commands_of(page.read_text())]
    return list(dict.fromkeys(found))


def commands_of(text: str) -> list[str]:
    """The commands of one page."""
    text = text.replace("\\\n", " ")
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.S | re.M)
    rest = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    indented = [line[4:] for line in rest.splitlines() if line.startswith("    ")]
    lines = [line for block in fenced for line in block.splitlines()] + indented
    rest = "\n".join(line for line in [*rest.splitlines(), *lines] if not line.startswith("    "))
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", rest)]
    parts = [part.strip() for line in lines for part in without_comment(line).split(" && ")]
    return [part for part in [*parts, *spans] if is_command(part)]


def without_comment(line: str) -> str:
    """A line of a shell without the remark at its end."""
    return re.sub(r"(^|\s+)#\s.*$", "", line)


def is_command(text: str) -> bool:
    """Whether a text begins with one of the programs, and is more than its name."""
    words = [word for word in text.split() if not re.match(r"[A-Z_]+=", word)]
    return bool(words) and words[0] in PROGRAMS and " ".join(words) not in NAMES


def form(text: str) -> str:
    """What tells one command from another: program, entry point, manager, and the kinds of its parameters."""
    text = re.sub(r"<git[^>]*>", "git://x", text)
    text = re.sub(r"<[^>]*>", "x", text).replace("…", "")
    words = [word for word in shlex.split(without_comment(text)) if not re.match(r"[A-Z_]+=", word)]
    if words[:2] == ["mlflow", "run"]:
        return run_form(words[2:])
    if words[:1] == ["python"] and words[1:2] == ["driver.py"]:
        return driver_form(words[2:])
    if match := STEPS_ALONE.match(text):
        return f"python -m {match[1]}.*"
    known = []
    for word in words:
        if (word.startswith("-") and word != "-m") or not re.fullmatch(r"-m|[a-zA-Z][\w.-]*", word):
            break
        known.append(word)
    if words[:2] == ["mlflow", "models"]:
        known = words[:3] + (["--env-manager", managed(words)] if "--env-manager" in words else [])
    return " ".join(known)


def managed(words: list[str]) -> str:
    return words[words.index("--env-manager") + 1]


def run_form(words: list[str]) -> str:
    """Of `mlflow run`: place, entry point, version, backend, manager, parameters; in this order."""
    place = next((word for word in words if not word.startswith("-")), ".")
    options: dict[str, list[str]] = {}
    rest = iter(words[1:] if words[:1] == [place] else words)
    for word in rest:
        if word.startswith("-"):
            options.setdefault(word, []).append(next(rest, ""))
    parts = ["mlflow run", place_form(place)]
    for name in ("-e", "-v", "-b", "--env-manager"):
        if name in options:
            parts += [name] if name == "-v" else [name, options[name][0]]
    given = {kind for value in options.get("-P", []) for kind in kinds(*value.partition("=")[::2])}
    return " ".join([*parts, *(f"-P {kind}" for kind in sorted(given))])


def driver_form(words: list[str]) -> str:
    """Of `python driver.py`: its options, and the kinds of its overrides."""
    options = [word for word in words if word.startswith("-")]
    given = {kind for word in words if "=" in word for kind in kinds(*word.partition("=")[::2])}
    return " ".join(["python driver.py", *options, *sorted(given)])


def place_form(place: str) -> str:
    """`.`, `<git>`, `<git>#<folder>`, `<zip>` or `<folder>`."""
    if "://" in place:
        return "<git>#<folder>" if "#" in place else "<git>"
    if place == ".":
        return place
    return "<zip>" if place.endswith(".zip") else "<folder>"


def kinds(key: str, value: str) -> list[str]:
    """The kinds of a parameter: one, or those of the words of `overrides`."""
    if key == "overrides":
        words = shlex.split(value)
        pairs = [word.lstrip("+").partition("=")[::2] for word in words if word != "-m"]
        return [*(["sweep"] if "-m" in words else []), *(kind for pair in pairs for kind in kinds(*pair))]
    if key in CHOICES and "," in value:
        return ["sweep"]
    if (key == "model" and (value[:1] in "/.~" or value.endswith(".gguf"))) or key == "model.source.path":
        return ["model:path"]
    if (key == "model" and value.startswith(("models:/", "runs:/"))) or key == "model.source.uri":
        return ["model:mlflow"]
    if (key == "model" and "/" in value) or key in ("model.source.repo", "model.source.file"):
        return ["model:hub"]
    if key in CHOICES:
        return []
    if key.partition(".")[0] in ("backend", "experiment", "adapter"):
        return [key.partition(".")[0]]
    return ["override"] if "." in key or key in GROUPS else [key]


GROUPS = {path.name for path in (ROOT / "conf").iterdir() if path.is_dir()}


if __name__ == "__main__":
    for command in commands():
        print(f"{form(command.text):75} {command.page}: {command.text}")
