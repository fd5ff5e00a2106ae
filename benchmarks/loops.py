"""The loops of a compiled kernel, and their instructions by kind, from SASS (NVIDIA) or AMD assembly."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import triton

# kind -> first parts of opcodes; any other opcode counts as "other"
_SASS_KINDS = {
    "matrix": ("HMMA", "HGMMA", "IMMA", "QGMMA", "DMMA", "UTCHMMA", "UTCQMMA", "UTCMMA"),
    "mufu": ("MUFU",),
    "fma": ("FFMA", "FFMA2", "FMUL", "FMUL2", "FADD", "FADD2", "HADD2", "HFMA2"),
    "minmax": ("FMNMX", "FMNMX3", "FSETP", "FSET"),
    "convert": ("F2F", "F2FP", "I2F", "F2I", "I2FP"),
    "select": ("SEL", "FSEL", "USEL"),
    "load": ("LDG", "LDGSTS", "LDS", "LDSM", "LDTM", "LD", "UTMALDG", "LDGDEPBAR", "LDC", "ULDC"),
    "store": ("STG", "STS", "STSM", "STTM", "ST"),
    "barrier": ("BAR", "DEPBAR", "WARPGROUP", "WARPSYNC", "SYNCS", "ARRIVES", "FENCE", "MEMBAR", "UTCBAR"),
    "shuffle": ("SHFL", "PRMT", "MOVM"),
    "spill": ("LDL", "STL"),
    "address": (
        *("IMAD", "IADD3", "IADD", "IADD64", "LEA", "LOP3", "SHF", "ISETP", "IMNMX", "VIADD", "VIMNMX", "MOV", "PLOP3"),
        *("UIADD3", "ULEA", "USHF", "ULOP3", "UIMAD", "UISETP", "UMOV", "R2UR", "S2R", "S2UR", "CS2R", "BMSK", "SGXT"),
        *("R2P", "P2R", "UPLOP3", "UIADD", "UVIADD", "SHL", "SHR", "IABS", "USGXT", "VIADDMNMX"),
    ),
    "branch": ("BRA", "BSSY", "BSYNC", "EXIT", "CALL", "RET", "BREAK", "UBRA"),
}
_SASS_KIND = {opcode: kind for kind, opcodes in _SASS_KINDS.items() for opcode in opcodes}
_SASS_LINE = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)([^;]*);")

Program = list[tuple[str, str | None]]  # opcode of each instruction, and the label that it branches to

# AMD: the first pattern that an opcode starts with
_AMD_KINDS = (
    ("matrix", r"v_s?mfmac?_|v_wmma_"),
    ("mufu", r"v_(exp|log|rcp|sqrt|rsq)_"),
    ("fma", r"v_(pk_)?(fma|fmac|mul|add|sub|fmamk|fmaak)_f"),
    ("minmax", r"v_(pk_)?(max|min|max3|min3|cmp)_|v_cmp"),
    ("convert", r"v_cvt_"),
    ("select", r"v_cndmask|s_cselect"),
    ("load", r"(global|buffer|flat|ds|s)_(load|read)"),
    ("store", r"(global|buffer|flat|ds)_(store|write)"),
    ("spill", r"scratch_"),
    ("barrier", r"s_barrier|s_waitcnt"),
    ("shuffle", r"ds_(bpermute|permute|swizzle)|v_(permlane|readlane|writelane|perm|mov_b32_dpp)"),
    ("branch", r"s_(cbranch|branch|endpgm)"),
    ("address", r"[vs]_(add|sub|mul|lshl|lshr|ashr|mad|and|or|xor|mov|bfe|bfi|not|lshl_add|addc)"),
)


@dataclass(frozen=True)
class Loop:
    """One loop body: its number of instructions, and their numbers by kind and by full opcode."""

    instructions: int
    kinds: dict[str, int]
    opcodes: dict[str, int]


def matrix_loops(compiled: Any, target: str) -> list[Loop]:
    """The innermost loops with matrix instructions, the shortest first.

    Empty where no matrix units are used, as in float32 in full precision.
    """
    program, labels = _sass(compiled.asm["cubin"]) if target.startswith("sm_") else _amd(compiled.asm["amdgcn"])
    kind_of = _sass_kind if target.startswith("sm_") else _amd_kind
    loops = [_loop(body, kind_of) for body in _innermost(program, labels)]
    return sorted((loop for loop in loops if loop.kinds.get("matrix")), key=lambda loop: loop.instructions)


def disassemble(cubin: bytes) -> str:
    """The SASS of a cubin, by the nvdisasm that Triton ships."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        tool = triton.knobs.nvidia.nvdisasm.path
        return subprocess.run([tool, "-c", "-hex", file.name], check=True, capture_output=True, text=True).stdout


def _sass(cubin: bytes) -> tuple[Program, dict[str, int]]:
    """The instructions, and the index of the instruction after each label."""
    program: Program = []
    labels: dict[str, int] = {}
    for line in disassemble(cubin).splitlines():
        label, instruction = re.match(r"\s*(\.L_x?_?\d+):", line), _SASS_LINE.search(line)
        if label:
            labels[label[1]] = len(program)
        if instruction and instruction[2] != "NOP":
            branch = re.search(r"`\((\.L\w*)\)", instruction[3]) if instruction[2].startswith("BRA") else None
            program.append((instruction[2], branch[1] if branch else None))
    return program, labels


def _amd(text: str) -> tuple[Program, dict[str, int]]:
    """As _sass, of AMD assembly."""
    program: Program = []
    labels: dict[str, int] = {}
    for line in text.splitlines():
        label, instruction = re.match(r"(\.LBB\w+):", line), re.match(r"\s+([a-z]\w+)(.*)", line)
        if label:
            labels[label[1]] = len(program)
        elif instruction and instruction[1] not in ("s_nop",):
            branch = re.search(r"(\.LBB\w+)", instruction[2]) if "branch" in instruction[1] else None
            program.append((instruction[1], branch[1] if branch else None))
    return program, labels


def _innermost(program: Program, labels: dict[str, int]) -> list[list[str]]:
    """Opcodes of each loop that contains no other: from a label to the last branch back to it."""
    ends: dict[int, int] = {}
    for index, (_, label) in enumerate(program):
        if label is not None and labels.get(label, index + 1) <= index:
            ends[labels[label]] = index
    spans = list(ends.items())
    inner = [s for s in spans if not any(s != o and s[0] <= o[0] and o[1] <= s[1] for o in spans)]
    return [[opcode for opcode, _ in program[start : stop + 1]] for start, stop in inner]


def _loop(opcodes: list[str], kind_of: Callable[[str], str]) -> Loop:
    return Loop(len(opcodes), dict(Counter(map(kind_of, opcodes))), dict(Counter(opcodes)))


def _sass_kind(opcode: str) -> str:
    return _SASS_KIND.get(opcode.split(".")[0], "other")


def _amd_kind(opcode: str) -> str:
    return next((kind for kind, pattern in _AMD_KINDS if re.match(pattern, opcode)), "other")
