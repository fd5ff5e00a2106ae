"""Read the main loop of a compiled NVIDIA kernel: its instructions by kind."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass

import triton

_LINE = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)([^;]*);")

# kind -> the opcodes' first parts; what is in none of them counts as "other"
KINDS = {
    "matrix": ("HMMA", "HGMMA", "IMMA", "QGMMA", "DMMA", "UTCHMMA", "UTCQMMA", "UTCMMA"),
    "mufu": ("MUFU",),
    "float": ("FFMA", "FFMA2", "FMUL", "FMUL2", "FADD", "FADD2", "FMNMX", "FMNMX3", "FSETP", "FSET", "HADD2", "HFMA2"),
    "convert": ("F2F", "F2FP", "I2F", "F2I"),
    "select": ("SEL", "FSEL", "USEL"),
    "load": ("LDG", "LDGSTS", "LDS", "LDSM", "LDTM", "LD", "UTMALDG", "LDGDEPBAR"),
    "store": ("STG", "STS", "STSM", "STTM", "ST"),
    "barrier": ("BAR", "DEPBAR", "WARPGROUP", "WARPSYNC", "SYNCS", "ARRIVES", "FENCE", "MEMBAR", "UTCBAR"),
    "shuffle": ("SHFL", "PRMT", "MOVM"),
    "spill": ("LDL", "STL"),
    "address": (
        *("IMAD", "IADD3", "IADD", "IADD64", "LEA", "LOP3", "SHF", "ISETP", "IMNMX", "VIADD", "VIMNMX", "MOV", "PLOP3"),
        *("UIADD3", "ULEA", "USHF", "ULOP3", "UIMAD", "UISETP", "UMOV", "R2UR", "S2R", "S2UR", "CS2R", "BMSK", "SGXT"),
        *("R2P", "P2R", "UPLOP3", "UIADD", "UVIADD", "SHL", "SHR", "IABS"),
    ),
    "branch": ("BRA", "BSSY", "BSYNC", "EXIT", "CALL", "RET", "NOP", "BREAK", "UBRA"),
}
_KIND_OF = {opcode: kind for kind, opcodes in KINDS.items() for opcode in opcodes}


@dataclass(frozen=True)
class Loop:
    """Instructions of one loop body by kind; `opcodes` counts the full names."""

    instructions: int
    kinds: dict[str, int]
    opcodes: dict[str, int]


def disassemble(cubin: bytes) -> str:
    """SASS of a cubin by the nvdisasm that Triton ships."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        tool = triton.knobs.nvidia.nvdisasm.path
        return subprocess.run([tool, "-c", "-hex", file.name], check=True, capture_output=True, text=True).stdout


def main_loop(cubin: bytes) -> Loop:
    """The innermost loop with matrix instructions and the fewest instructions: that over full tiles, as the loops
    over short tiles carry bounds masks besides. Raises ValueError where no loop has matrix instructions."""
    loops = [loop for loop in _innermost(disassemble(cubin)) if loop.kinds.get("matrix")]
    if not loops:
        raise ValueError("the kernel has no loop with matrix instructions")
    return min(loops, key=lambda loop: loop.instructions)


def _innermost(sass: str) -> list[Loop]:
    labels: dict[str, int] = {}
    program: list[tuple[str, str]] = []
    for line in sass.splitlines():
        label = re.match(r"\s*(\.L_x?_?\d+):", line)
        if label:
            labels[label[1]] = len(program)
        instruction = _LINE.search(line)
        if instruction:
            program.append((instruction[2], instruction[3]))
    spans = []
    for place, (opcode, operands) in enumerate(program):
        target = re.search(r"`\((\.L\w*)\)", operands)
        if opcode.split(".")[0] == "BRA" and target and labels.get(target[1], place + 1) <= place:
            spans.append((labels[target[1]], place))
    inner = [s for s in spans if not any(s != o and s[0] <= o[0] and o[1] <= s[1] for o in spans)]
    return [_loop([opcode for opcode, _ in program[start : stop + 1]]) for start, stop in inner]


def _loop(opcodes: list[str]) -> Loop:
    opcodes = [opcode for opcode in opcodes if opcode != "NOP"]
    kinds = Counter(_KIND_OF.get(opcode.split(".")[0], "other") for opcode in opcodes)
    return Loop(len(opcodes), dict(kinds), dict(Counter(opcodes)))
