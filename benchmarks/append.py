"""Measures appends: the store alone, over HTTP beside a bare echo, batches, loads, several workers.

    python benchmarks/append.py               everything, about two minutes
    python benchmarks/append.py --quick       the same with few repetitions
    python benchmarks/append.py --json FILE   the figures for a machine, too

Each server is a process of its own, and so is the load. Appends and the echo take turns with the
same generator, connections and bodies, and a ratio is the median of those of neighbouring turns.
Beside the rate stands the processor time that the server took for a request: on a machine that does
other things too, the ratio of those says more than that of the rates. The echo has one process
whatever the number of workers. PostgreSQL, where it is
installed, runs with everything synced, as in production.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import uvloop  # noqa: E402
from bench.figures import Figures  # noqa: E402
from bench.servers import echo, processor  # noqa: E402

from gradwire_service.sqlite_store import SqliteStore  # noqa: E402
from gradwire_service.store import Append, Line, LogEntry, NewSession, Store, now  # noqa: E402
from tests.load import Connection, Timing, crowd, post  # noqa: E402
from tests.postgres import Cluster, programs  # noqa: E402
from tests.service.serving import Server  # noqa: E402

CLIENTS = 32
NODE = '{"nodes":[{"op":"tanh","inputs":["x"],"name":"block%d/h%d","source":"model.py:%d"}]}'


# -- the store alone -------------------------------------------------------------------------------


def store_alone(figures: Figures, name: str, store: Store, seconds: float) -> None:
    """Durable appends by threads that wait for each."""
    for writers in (1, CLIENTS):
        timing = threads(store, writers, seconds)
        label = f"{name} store, {writers} writer{'s' * (writers > 1)}"
        least = 5000.0 if writers > 1 and name == "SQLite" else 0.0
        figures.add(f"{label}: appends", timing.rate, "/s", least=least)
        figures.add(f"{label}: p50", timing.quantile(0.5) * 1e3, "ms")
        figures.add(f"{label}: p99", timing.quantile(0.99) * 1e3, "ms")


def threads(store: Store, writers: int, seconds: float) -> Timing:
    """As many threads, each appending to a session of its own."""
    entry = LogEntry(b'{"op": "tanh", "inputs": [0]}'.ljust(300))
    timing = Timing()
    end = time.perf_counter() + seconds

    def write(number: int) -> None:
        version, line = 0, Line(0)
        while (began := time.perf_counter()) < end:
            append = Append(number, version, [entry], None, line)
            store.append(append).result()
            version += 1
            timing.seconds.append(time.perf_counter() - began)

    numbers = []
    for k in range(writers):
        id = f"ses_{writers}_{k}"
        store.create(NewSession("bench", id, None, [], {}, now()), [], 10**6, None)
        row = store.find("bench", id)
        assert row is not None
        numbers.append(row.number)
    running = [threading.Thread(target=write, args=(number,)) for number in numbers]
    began = time.perf_counter()
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    timing.whole = time.perf_counter() - began
    return timing


# -- over HTTP -------------------------------------------------------------------------------------


def load(port: int, paths: list[str], count: int, connections: int) -> Timing:
    """`count` POSTs of one node each, from a process of its own."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        numbers = (str(port), str(count), str(connections))
        subprocess.run(
            [sys.executable, __file__, "--load", file.name, *numbers, *paths], check=True
        )
        found = json.loads(Path(file.name).read_text())
    return Timing(found["seconds"], found["whole"])


def generate(file: Path, port: int, count: int, connections: int, paths: list[str]) -> None:
    """The process behind `load`."""
    left = iter(range(count))
    tag = time.time_ns()

    async def exchange(connection: Connection, number: int) -> bool:
        k = next(left, None)
        if k is None:
            return False
        body = NODE % (number, tag + k, k % 500)
        answer = await connection.send(post(paths[number % len(paths)], body.encode()))
        if not 200 <= answer.status < 300:
            sys.exit(f"the answer is {answer.status}: {answer.body[:500]!r}")
        return True

    timing = uvloop.run(crowd("127.0.0.1", port, connections, exchange))
    timing.seconds.sort()
    del timing.seconds[:connections]  # the last look of each connection, which sent nothing
    file.write_text(json.dumps({"seconds": timing.seconds, "whole": timing.whole}))


def create(server: Server, sessions: int) -> list[str]:
    """New sessions; the paths to append to."""
    spec = {"inputs": [{"name": "x", "shape": [4]}]}
    made = [server.http.post("/v1/sessions", json=spec).json()["id"] for _ in range(sessions)]
    return [f"/v1/sessions/{id}/nodes" for id in made]


def against_echo(figures: Figures, server: Server, turns: int, count: int) -> None:
    """Appends and the echo in turns."""
    port = int(server.url.rpartition(":")[2])
    workers = server.workers()
    ours_by = f"{len(workers)} workers" if workers else "1 worker"
    with echo() as (echo_port, echo_pid):

        def turn(port: int, pids: list[int], paths: list[str]) -> tuple[float, float]:
            before = sum(map(processor, pids))
            timing = load(port, paths, count, CLIENTS)
            return timing.rate, (sum(map(processor, pids)) - before) / count * 1e6

        for sessions in (CLIENTS, 1):
            where = "a session each" if sessions > 1 else "one session"
            rates, costs = [], []
            for _ in range(turns):
                bare = turn(echo_port, [echo_pid], ["/echo"])
                ours = turn(port, [server.process.pid, *workers], create(server, sessions))
                rates.append((ours[0], bare[0], ours[0] / bare[0]))
                costs.append((ours[1], bare[1], bare[1] / ours[1]))
            label = f"HTTP, {ours_by}, {CLIENTS} connections, {where}"
            for name, k in (("appends", 0), ("echoes", 1)):
                figures.add(f"{label}: {name}", statistics.median(r[k] for r in rates), "/s")
            figures.add(f"{label}: rate / echo", _median(rates), "", least=0.5)
            figures.add(f"{label}: echo's processor time / ours", _median(costs), "")


def _median(triples: list[tuple[float, float, float]]) -> float:
    return statistics.median(ratio for _, _, ratio in triples)


def alone(figures: Figures, server: Server, count: int) -> None:
    """One client that waits for each answer, and batches."""
    port = int(server.url.rpartition(":")[2])
    timing = load(port, create(server, 1), count, 1)
    figures.add("HTTP, one client: p50", timing.quantile(0.5) * 1e3, "ms", most=2.0)
    figures.add("HTTP, one client: p99", timing.quantile(0.99) * 1e3, "ms")
    body = json.dumps({"nodes": nodes(1000)}).encode()

    def batch(path: str) -> float:
        return _milliseconds(lambda: server.http.post(path, content=body, headers=_JSON))

    took = [batch(path) for path in create(server, 9)]
    figures.add("HTTP, 1,000 ops in one batch: p50", statistics.median(took), "ms", most=50.0)


_JSON = {"Content-Type": "application/json"}


def nodes(count: int) -> list[Any]:
    """As many nodes to append."""
    return [json.loads(NODE % (k, k, k))["nodes"][0] for k in range(count)]


def loading(figures: Figures, data: Path) -> None:
    """A session of 10,000 ops in a server that has just been started."""
    with Server(data) as server:
        (path,) = create(server, 1)
        server.http.post(path, json={"nodes": nodes(10_000)}).raise_for_status()
    with Server(data) as server:
        _load(figures, server, path.removesuffix("/nodes"))


def _load(figures: Figures, server: Server, session: str) -> None:
    run = {"inputs": {"x": [0, 0, 0, 0]}, "outputs": ["block5/h5"]}
    first = _milliseconds(lambda: server.http.post(f"{session}/forward", json=run))
    whole = _milliseconds(lambda: server.http.get(session))
    value = server.http.get(f"{session}/values/block9/h9")
    value.raise_for_status()
    figures.add("a 10,000-op session after a restart: first run", first / 1e3, "s", most=1.0)
    figures.add("a 10,000-op session: read whole", whole / 1e3, "s", most=1.0)


def _milliseconds(request: Callable[[], Any]) -> float:
    began = time.perf_counter()
    request().raise_for_status()
    return (time.perf_counter() - began) * 1e3


def shared(figures: Figures, name: str, data: Path, store: str, count: int) -> None:
    """Two workers on one store: the tail is what differs."""
    with Server(data, workers=2, store=store, max_nodes=10**6) as server:
        port = int(server.url.rpartition(":")[2])
        for sessions in (CLIENTS, 1):
            timing = load(port, create(server, sessions), count, CLIENTS)
            where = "a session each" if sessions > 1 else "one session"
            label = f"{name}, 2 workers, {CLIENTS} connections, {where}"
            figures.add(f"{label}: appends", timing.rate, "/s")
            for quantile, text in ((0.5, "p50"), (0.99, "p99"), (1.0, "slowest")):
                figures.add(f"{label}: {text}", timing.quantile(quantile) * 1e3, "ms")


# -- all together ----------------------------------------------------------------------------------


def measure(quick: bool) -> Figures:
    """Every figure."""
    figures = Figures()
    turns, count, seconds = (1, 500, 0.5) if quick else (5, 6000, 4.0)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        store = SqliteStore(place / "store")
        store_alone(figures, "SQLite", store, seconds)
        store.close()
        limits = {"max_nodes": 10**6, "max_sessions": 10**6}
        with Server(place / "data", **limits) as server:
            against_echo(figures, server, turns, count)
            alone(figures, server, count // 4)
        with Server(place / "two", workers=2, **limits) as server:
            against_echo(figures, server, turns, count)
        loading(figures, place / "data")
        shared(figures, "SQLite", place / "shared", "sqlite", count)
        bin = programs()
        if bin is None:
            print("PostgreSQL is not installed here: its figures are left out.", file=sys.stderr)
            return figures
        from gradwire_service.postgres_store import PostgresStore

        with Cluster(bin, durable=True) as cluster:
            opened = PostgresStore(cluster.schema(), place / "copies")
            store_alone(figures, "PostgreSQL", opened, seconds)
            opened.close()
            shared(figures, "PostgreSQL", place / "pg", cluster.schema(), count)
    return figures


def main() -> int:
    """Run; the exit status is 1 where something that is wanted is missed."""
    about, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=about, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few repetitions")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--load", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.load:
        file, port, count, connections, *paths = given.load
        generate(Path(file), int(port), int(count), int(connections), paths)
        return 0
    figures = measure(given.quick)
    if given.json is not None:
        figures.write(given.json)
    return int(figures.missed)


if __name__ == "__main__":
    sys.exit(main())
