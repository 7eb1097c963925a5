"""The compile subprocess: ``python -m gradwire_engine.codegen.worker``.

It reads requests from stdin and answers on stdout, one at a time, in frames: a length (eight bytes,
little-endian), then so many bytes. A request is source text. An answer is a JSON line and, after
it, the object file: ``{"toolchain", "symbol"}``, or ``{"toolchain", "error"}`` and nothing more.
It runs at a low priority, and ends when its stdin does, even in the middle of a compilation: its
parent has died, or wants it no longer.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from typing import BinaryIO

NICE = 10
"""What is added to its niceness. Beside a busy server that leaves it a tenth of a processor; at 19
it would hardly get on."""


def send(stream: BinaryIO, content: bytes) -> None:
    """Write one frame."""
    stream.write(len(content).to_bytes(8, "little") + content)
    stream.flush()


def receive(stream: BinaryIO) -> bytes | None:
    """Read one frame; None at the end of the stream."""
    head = stream.read(8)
    size = int.from_bytes(head, "little")
    content = stream.read(size) if len(head) == 8 else b""
    return content if len(head) == 8 and len(content) == size else None


def answer(text: str, toolchain: str) -> bytes:
    """Compile, and say what came of it."""
    said = {"toolchain": toolchain}
    try:
        from .compile import to_object

        symbol, image = to_object(text)
    except Exception as error:  # whatever a compiler may raise is an answer
        said["error"] = f"{type(error).__name__}: {error}"
        return json.dumps(said).encode() + b"\n"
    said["symbol"] = symbol
    return json.dumps(said).encode() + b"\n" + image


def _read_on(requests: queue.SimpleQueue[str]) -> None:
    while (content := receive(sys.stdin.buffer)) is not None:
        requests.put(content.decode())
    os._exit(0)


def main() -> None:
    """Answer requests until stdin ends."""
    from .cache import toolchain

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    os.nice(NICE)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a compiler prints is no answer
    requests: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read_on, args=(requests,), daemon=True).start()
    mine = toolchain()
    while True:
        send(answers, answer(requests.get(), mine))


if __name__ == "__main__":
    main()
