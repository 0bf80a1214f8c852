"""What is in a compiled library or program."""

import re
import shutil
import subprocess
from functools import lru_cache


@lru_cache
def functions(path: str, objdump: str = "objdump") -> dict[str, list[str]]:
    """Instructions by function name (demangled)."""
    assert shutil.which(objdump), f"{objdump} is needed: install binutils"
    text = subprocess.run(
        [objdump, "-d", "-C", "--no-show-raw-insn", path], capture_output=True, text=True, check=True
    ).stdout
    found: dict[str, list[str]] = {}
    body: list[str] = []
    for line in text.splitlines():
        if match := re.match(r"[0-9a-f]+ <(.+)>:$", line):
            body = found.setdefault(match[1], [])
        elif "\t" in line:
            body.append(line.split("\t", 1)[1].split("<")[0])
    return found
