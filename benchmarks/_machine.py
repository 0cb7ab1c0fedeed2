"""The machine that a figure is of."""

from __future__ import annotations

from pathlib import Path

from slmflow.machine import machine

INSTRUCTIONS = (
    *("avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16"),
    *("avx512_fp16", "amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme"),
)
"""Instruction sets by which onnxruntime, torch and llama.cpp choose their kernels, as Linux names them."""


def of_this_machine() -> dict[str, str]:
    """Processor, the cores and threads that this process may use, system, instruction sets ("" if unknown).

    Nothing in it changes from one run to the next, so that it tells whether two figures are of one machine.
    """
    info = Path("/proc/cpuinfo")
    known = machine()
    return {
        **{name: known[name] for name in ("cpu", "cores", "threads", "system")},
        "instructions": " ".join(instructions(info.read_text() if info.exists() else "")),
    }


def instructions(cpuinfo: str) -> list[str]:
    """Those of INSTRUCTIONS that the text of `/proc/cpuinfo` names: `flags` on x86, `Features` on ARM."""
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip().lower() in ("flags", "features"):
            found = set(value.split())
            return [name for name in INSTRUCTIONS if name in found]
    return []
