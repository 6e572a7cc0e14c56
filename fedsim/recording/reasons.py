"""What became of a client that sent no reply, from the text that Flower makes of it."""

from __future__ import annotations

import itertools
import re

SILENT = "no reply before the round's deadline"

_RAY = re.compile(r"<class 'ray\.exceptions\.(\w+)'>")
"""What Ray itself raises; what a client raised is named `RayTaskError(<its own>)`."""


def why(text: str) -> str:
    """What happened to a client, in one line: it raised something, or its process died."""
    if died(text):
        memory = "memory" in text.lower() and "kill" in text.lower()
        return "the client's process died: " + (
            "it was killed for lack of memory" if memory else "killed, out of memory, or a crash in native code"
        )
    return f"the client raised {raised(text)}"


def died(text: str) -> bool:
    """Whether it is Ray that speaks, of a client's process that is no more."""
    return _RAY.match(text) is not None


def passing(text: str) -> bool:
    """Whether it may go well another time: a process that died, a deadline, a system that gave no memory or file."""
    return died(text) or re.match(r"(\w+\.)*(Overdue|MemoryError|OutOfMemoryError|OSError)\b", raised(text)) is not None


def raised(text: str) -> str:
    """What a client raised, in one line: the end of its own traceback.

    Ray reports a traceback in colour; Flower raises an exception of its own from the client's, and puts type and text
    of the whole around it.
    """
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    text = re.sub(r"^<class '[^>]*>:<'(.*)'>$", r"\1", text, flags=re.DOTALL)
    parts = text.split("The above exception was the direct cause of the following exception:")
    own = parts[-2] if len(parts) > 1 and "ClientAppException" in parts[-1] else parts[-1]
    lines = [line for line in own.splitlines() if line.strip()]
    frames = [number for number, line in enumerate(lines) if line.startswith(('  File "', "ray::", "Traceback"))]
    said = itertools.dropwhile(lambda line: line.startswith("    "), lines[frames[-1] + 1 :] if frames else lines)
    return " ".join(" ".join(said).split())[:300] or "something that says nothing of itself"
