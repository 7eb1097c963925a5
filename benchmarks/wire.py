"""Measures the wire: a graph of one op over HTTP beside a bare echo, and beside Tesseract.

    python benchmarks/wire.py                       everything, about two minutes
    python benchmarks/wire.py small large           only these sections
    python benchmarks/wire.py tesseract --quick     a trial of one
    python benchmarks/wire.py --json FILE --write   keep the figures, also in the README

The graph is `scale`: y = 3 x, so that next to nothing is computed. Sections:

small      16 elements, one request after the other: what a run costs above an echo of the same
           bytes (a uvicorn with uvloop, httptools and a Starlette route that returns the body).
large      4 MB and 400 MB of float32 each way against the echo, and how far the memory of the
           server rises above what it has when idle, in times of the 400 MB.
tesseract  1,000, 100,000 and 10,000,000 elements from array to array, our client and server
           against those of tesseract-core, in each of its encodings
           (`pip install 'tesseract-core[runtime]'`; without it this section is left out).

In `small` and `large` both servers have the same client, http.client. Who is measured takes turns,
and a ratio is the median of those of neighbouring turns. Every answer is compared with what it has
to be. Exit status: 0; 1 when something that is wanted is missed; 2 for arguments without sense.
"""

from __future__ import annotations

import argparse
import http.client
import importlib.util
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import numpy as np  # noqa: E402
from bench.figures import Figures  # noqa: E402
from bench.progress import progress  # noqa: E402
from bench.servers import echo, forget_peak, peak, resident  # noqa: E402

import gradwire as gw  # noqa: E402
from gradwire.wire import safetensors  # noqa: E402
from gradwire.wire.messages import BINARY, JSON  # noqa: E402
from tests.service.serving import Server  # noqa: E402

README = HERE / "README.md"
BEGIN, END = "<!-- figures: wire.py --write -->\n", "<!-- end of wire figures -->\n"

FACTOR = 3.0
Array = np.ndarray[Any, np.dtype[np.float32]]


def data(count: int) -> Array:
    """Numbers to be scaled."""
    return np.random.default_rng(count).standard_normal(count, dtype=np.float32)


# -- one client for both servers -------------------------------------------------------------------


class Line:
    """A connection to one server, and memory for its answers."""

    def __init__(self, port: int, room: int = 2**16) -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        self._memory = np.zeros(room, np.uint8).data

    def post(
        self, path: str, chunks: Sequence[bytes | memoryview], kind: str
    ) -> tuple[float, memoryview]:
        """Seconds of one exchange, and the answer, to be looked at before the next."""
        size = sum(len(chunk) for chunk in chunks)
        began = time.perf_counter()
        self._http.putrequest("POST", path, skip_accept_encoding=True)
        self._http.putheader("Content-Type", kind)
        self._http.putheader("Content-Length", str(size))
        if size < 2**16:  # together with the headers
            self._http.endheaders(b"".join(chunks))
        else:
            self._http.endheaders()
            for chunk in chunks:
                self._http.send(chunk)
        answer = self._http.getresponse()
        length = int(answer.headers["Content-Length"])
        filled = 0
        while filled < length:
            filled += answer.readinto(self._memory[filled:length])
        answer.read()
        seconds = time.perf_counter() - began
        if answer.status >= 300:
            sys.exit(f"the answer is {answer.status}: {bytes(self._memory[:500])!r}")
        return seconds, self._memory[:length]


class Graph:
    """The graph `scale` on our server, for tensors of one size, as the raw API has it."""

    def __init__(self, server: Server, count: int) -> None:
        spec = {"inputs": [{"name": "x", "shape": [count]}]}
        id = server.http.post("/v1/sessions", json=spec).json()["id"]
        node = {"op": "scale", "inputs": ["x"], "attrs": {"c": FACTOR}, "name": "y"}
        server.http.post(f"/v1/sessions/{id}/nodes", json={"nodes": [node]}).raise_for_status()
        self.path = f"/v1/sessions/{id}/forward"
        self.x = data(count)

    def binary(self) -> list[bytes | memoryview]:
        """A request in safetensors."""
        return list(safetensors.pack({"inputs/x": self.x}, None, "request"))

    def text(self) -> list[bytes | memoryview]:
        """A request in JSON."""
        return [json.dumps({"inputs": {"x": self.x.tolist()}}).encode()]

    def check(self, body: memoryview, kind: str) -> None:
        """Compare an answer with what it has to be."""
        if kind == BINARY:
            found = safetensors.unpack(body, "response")[0]["outputs/y"]
        else:
            found = np.array(json.loads(bytes(body))["outputs"]["y"]["data"], np.float32)
        same(found, self.x)


def same(found: Any, x: Array) -> None:
    """Whether an answer is three times the input, exactly."""
    if not np.array_equal(np.asarray(found), x * np.float32(FACTOR)):
        sys.exit("an answer is wrong")


def port_of(server: Server) -> int:
    """The port that a server listens on."""
    return int(server.url.rpartition(":")[2])


# -- sections --------------------------------------------------------------------------------------


def small(figures: Figures, quick: bool) -> None:
    """What a run of 16 elements costs above an echo."""
    turns, block = (3, 20) if quick else (15, 100)
    with ours() as server, echo() as (port, _):
        graph = Graph(server, 16)
        run, bare = Line(port_of(server)), Line(port)
        for name, kind, request in (
            ("JSON", JSON, graph.text()),
            ("safetensors", BINARY, graph.binary()),
        ):
            above, shares = [], []
            for _ in progress(range(turns), f"16 elements, {name}"):
                spent = [bare.post("/echo", request, kind)[0] for _ in range(block)]
                echoed = statistics.median(spent)
                spent.clear()
                for _ in range(block):
                    seconds, body = run.post(graph.path, request, kind)
                    spent.append(seconds)
                graph.check(body, kind)
                above.append(statistics.median(spent) - echoed)
                shares.append(echoed)
            label = f"16 elements, {name}"
            figures.add(f"{label}: echo, p50", statistics.median(shares) * 1e3, "ms")
            figures.add(f"{label}: above it, p50", statistics.median(above) * 1e3, "ms", most=1.0)
            figures.add(f"{label}: above it, best turn", min(above) * 1e3, "ms")


def large(figures: Figures, quick: bool) -> None:
    """Megabytes each way."""
    sizes = {"4 MB": (10**6, 5, 10), "400 MB": (10**8, 1, 5)}
    for label, (count, block, turns) in sizes.items():
        with ours() as server, echo() as (port, _):
            graph = Graph(server, count)
            request = graph.binary()
            room = 4 * count + 2**16
            run, bare = Line(port_of(server), room), Line(port, room)
            ratios, times, echoes, grown = [], [], [], []
            _, body = run.post(graph.path, request, BINARY)  # the first is compiled on
            graph.check(body, BINARY)
            time.sleep(0.2)
            for _ in progress(range(2 if quick else turns), label):
                echoed = statistics.median(
                    bare.post("/echo", request, BINARY)[0] for _ in range(block)
                )
                idle = resident(server.process.pid)
                forget_peak(server.process.pid)
                spent = []
                for _ in range(block):
                    seconds, body = run.post(graph.path, request, BINARY)
                    spent.append(seconds)
                grown.append((peak(server.process.pid) - idle) / (4 * count))
                graph.check(body, BINARY)
                times.append(statistics.median(spent))
                echoes.append(echoed)
                ratios.append(times[-1] / echoed)
            figures.add(f"{label} each way: echo", statistics.median(echoes) * 1e3, "ms")
            figures.add(f"{label} each way: ours", statistics.median(times) * 1e3, "ms")
            figures.add(f"{label} each way: ours / echo", statistics.median(ratios), "", most=1.5)
            figures.add(f"{label} each way: ours / echo, best turn", min(ratios), "")
            if count >= 10**8:
                figures.add(f"{label} each way: growth of memory", max(grown), "x", most=2.2)


ENCODINGS = {"json": 10**5, "json+base64": 10**9, "json+binref": 10**9}
"""Tesseract's encodings, each with the most elements that it is tried with."""


def tesseract(figures: Figures, quick: bool) -> None:
    """Ours against Tesseract's, from array to array."""
    if importlib.util.find_spec("tesseract_core") is None:
        print("tesseract-core is not installed: its figures are left out.", file=sys.stderr)
        return
    blocks = {1000: 30, 100_000: 10, 10_000_000: 1}
    with ours() as server, gw.connect(server.url) as client, peers() as served:
        for count, block in blocks.items():
            x = data(count)
            g = client.session({"x": (count,)})
            ways: dict[str, Callable[[], Any]] = {"ours": run_of(g.function(g.x.scale(FACTOR)), x)}
            for encoding, most in ENCODINGS.items():
                if count <= most:
                    ways[encoding] = applied(served[encoding], x)
            for way in ways.values():
                same(way(), x)
            times: dict[str, list[float]] = {name: [] for name in ways}
            for _ in progress(range(2 if quick else 10), f"{count:,} elements"):
                for name, way in ways.items():
                    found = None
                    spent = []
                    for _ in range(block):
                        began = time.perf_counter()
                        found = way()
                        spent.append(time.perf_counter() - began)
                    same(found, x)
                    times[name].append(statistics.median(spent))
            compare(figures, f"{count:,} elements", times)


def compare(figures: Figures, label: str, times: Mapping[str, Sequence[float]]) -> None:
    """The times of each way, and how many times as fast as the best of the others ours is."""
    for name, turns in times.items():
        whose = name if name == "ours" else f"Tesseract, {name}"
        figures.add(f"{label}: {whose}", statistics.median(turns) * 1e3, "ms")
    ratios = {
        name: statistics.median(b / a for a, b in zip(times["ours"], turns, strict=True))
        for name, turns in times.items()
        if name != "ours"
    }
    wire = min(ratio for name, ratio in ratios.items() if name != "json+binref")
    figures.add(f"{label}: Tesseract's best over the wire / ours", wire, "", least=3.0)
    figures.add(f"{label}: Tesseract's best, files included / ours", min(ratios.values()), "")


def run_of(function: Any, x: Array) -> Callable[[], Any]:
    """One run through our client."""
    return lambda: function(x=x)


def applied(served: Any, x: Array) -> Callable[[], Any]:
    """One run through Tesseract's."""
    return lambda: served.apply({"x": x})["y"]


@contextmanager
def ours() -> Iterator[Server]:
    """Our server as it comes, but for the room that 400 MB need."""
    with tempfile.TemporaryDirectory() as folder, Server(Path(folder) / "data", compile=True) as s:
        yield s


@contextmanager
def peers() -> Iterator[Mapping[str, Any]]:
    """Tesseract's own server with its own client, by encoding; files lie in memory."""
    from tesseract_core import Tesseract

    memory = Path("/dev/shm")
    place = str(memory) if memory.is_dir() else None
    with (
        tempfile.TemporaryDirectory(dir=place) as given,
        tempfile.TemporaryDirectory(dir=place) as made,
        Tesseract.from_source(
            HERE / "tesseract" / "tesseract_api.py",
            input_path=Path(given),
            output_path=Path(made),
            output_format="json+binref",
            python_executable=sys.executable,
        ) as served,
    ):
        yield {name: served.with_encoding(output_format=name) for name in ENCODINGS}


SECTIONS = {"small": small, "large": large, "tesseract": tesseract}


# -- all together ----------------------------------------------------------------------------------


def main() -> int:
    """Run; the exit status is 1 where something that is wanted is missed."""
    about, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=about, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ", ".join(SECTIONS)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"{names} (default: all)")
    parser.add_argument("--quick", action="store_true", help="few repetitions")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--write", action="store_true", help="update the figures in the README")
    given = parser.parse_args()
    for section in given.sections:
        if section not in SECTIONS:
            parser.error(f"no section is called {section!r}; there are {names}")
    if given.write and (given.sections or given.quick):
        parser.error("--write is for all sections, and not for --quick")
    figures = Figures()
    for section in given.sections or SECTIONS:
        SECTIONS[section](figures, given.quick)
    if given.json is not None:
        figures.write(given.json)
    if given.write:
        before, _, after = README.read_text().partition(BEGIN)
        made = time.strftime("%Y-%m-%d %H:%M")
        text = f"{made}\n\n{figures.table()}"
        README.write_text(f"{before}{BEGIN}\n{text}\n\n{END}{after.partition(END)[2]}")
    return int(figures.missed)


if __name__ == "__main__":
    sys.exit(main())
