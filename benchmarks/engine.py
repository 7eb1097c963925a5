"""Measures the engine: speed beside PyTorch, JAX and ONNX Runtime, first answers, memory, planning.

    python benchmarks/engine.py                         everything, about 20 minutes
    python benchmarks/engine.py speed                   ours and the peers on every case
    python benchmarks/engine.py speed --shapes odd      the same at sizes that nothing is tuned to
    python benchmarks/engine.py speed --cases d1,h --modes vjp --peers torch,jax
    python benchmarks/engine.py speed --quick --peers none --tier interpreted
    python benchmarks/engine.py tiers memory planning   the other sections

Peers: torch, torch.compile, jax, onnxruntime (`pip install '.[bench]'`); one that is not installed
is left out with a message. The first run waits for torch.compile (10 to 40 s a case); later runs
find its work in ~/.cache/gradwire-benchmarks. A case is named by the beginning of its name; cases,
figures and how they are taken: benchmarks/README.md. On a busy machine noisy moments are measured
again and reported; --tries 1 saves the time.

Exit status: 0; 1 when ours fails or differs from a peer; 2 for arguments that make no sense.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import memory, planning, report, speed, tiers
from bench.cases import MODES, SHAPES, select
from bench.child import ChildError
from bench.peers import PEERS
from bench.probe import ProbeError

HERE = Path(__file__).resolve().parent
RESULTS, README = HERE / "results.json", HERE / "README.md"
BEGIN, END = "<!-- figures: engine.py --write -->\n", "<!-- end of figures -->\n"

SECTIONS = ("speed", "tiers", "memory", "planning")
RIVALS = tuple(name for name in PEERS if name != speed.OURS)


def arguments() -> tuple[argparse.Namespace, speed.Settings]:
    """The command line, and what it means for the measurement."""
    about, _, examples = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=about, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = speed.Settings(RIVALS)
    parser.add_argument(
        "sections", nargs="*", metavar="SECTION", help=f"{', '.join(SECTIONS)} (default: all)"
    )
    parser.add_argument("--cases", default="", help="beginnings of case names, by comma")
    parser.add_argument("--modes", default=",".join(MODES), help="of %(default)s")
    parser.add_argument("--shapes", choices=tuple(SHAPES), default="round", help="sizes to use")
    parser.add_argument("--peers", default=",".join(RIVALS), help="of %(default)s; or none")
    parser.add_argument(
        "--tier", choices=("compiled", "auto", "interpreted"), default="compiled", help="of ours"
    )
    parser.add_argument("--runs", type=int, default=default.runs, help="least runs per median")
    parser.add_argument("--rounds", type=int, default=default.rounds, help="turns they are made in")
    parser.add_argument("--repeats", type=int, default=default.repeats, help="complete runs")
    parser.add_argument("--tries", type=int, default=default.tries, help="at a noisy moment")
    parser.add_argument("--threads", type=int, default=default.threads, help="for each process")
    parser.add_argument("--seed", type=int, default=default.seed, help="of the data")
    parser.add_argument("--quick", action="store_true", help="a few runs, to see that all works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write (or update) the figures")
    parser.add_argument(
        "--write", action="store_true", help="update benchmarks/results.json and the README"
    )
    given = parser.parse_args()
    for name, words, known in (
        ("section", given.sections, SECTIONS),
        ("mode", words_of(given.modes), MODES),
        ("peer", words_of(given.peers), RIVALS),
    ):
        for word in words:
            if word not in known:
                parser.error(f"no {name} is called {word!r}; there are {', '.join(known)}")
    settings = speed.Settings(
        peers=words_of(given.peers),
        cases=words_of(given.cases),
        modes=words_of(given.modes),
        **{k: getattr(given, k) for k in ("shapes", "tier", "threads", "seed", "tries")},
        **{k: getattr(given, k) for k in ("runs", "rounds", "repeats")},
    )
    try:
        select(settings.shapes, settings.cases)
    except ValueError as error:
        parser.error(str(error))
    if given.write and (settings.cases or given.quick or settings.modes != MODES):
        parser.error("--write is for all cases and modes, not for --cases, --modes or --quick")
    if given.quick:
        settings = replace(settings, runs=3, rounds=1, repeats=1, tries=1, seconds=0.01)
    return given, settings


def words_of(text: str) -> tuple[str, ...]:
    """The words of a list with commas; ``none`` and nothing are no words."""
    return () if text in ("", "none") else tuple(text.split(","))


def measure(section: str, settings: speed.Settings) -> tuple[str, dict[str, Any]]:
    """One section: its key among the figures, and the figures."""
    if section == "speed":
        return f"speed/{settings.shapes}", speed.measure(settings)
    if section == "tiers":
        return "tiers", tiers.measure(settings.tier, settings.threads, settings.seed)
    if section == "memory":
        peers = tuple(name for name in settings.peers if name == "jax")
        return "memory", memory.measure(replace(settings, peers=peers))
    return "planning", planning.measure(settings.threads, settings.tier)


def machine() -> str:
    """The processor, as Linux calls it, and how many of its cores there are."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def merged(path: Path, found: dict[str, Any]) -> dict[str, Any]:
    """The figures in a file, those just found in place of older ones; written back."""
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    results |= found
    path.write_text(json.dumps(results, indent=1) + "\n")
    return results


def wrong(part: dict[str, Any]) -> bool:
    """Whether an answer of ours is not what it should be."""
    return bool(part["broken"] or report.summary(part["rows"])["different_answers"])


def main() -> int:
    """Measure, print, write."""
    given, settings = arguments()
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[: settings.threads])  # children inherit it
    found: dict[str, Any] = {}
    failed = False
    for section in given.sections or SECTIONS:
        try:
            key, part = measure(section, settings)
        except (ChildError, ProbeError) as error:
            print(f"{section} failed: {error}", file=sys.stderr)
            failed = True
            continue
        when = time.strftime("%Y-%m-%d %H:%M")
        made = {"when": when, "machine": machine(), "threads": settings.threads}
        found[key] = part | {"made": made | {"tier": settings.tier, "seed": settings.seed}}
        print(report.section(key, found[key]), flush=True)
    if given.json:
        merged(given.json, found)
    if given.write:
        text = report.document(merged(RESULTS, found))
        before, _, rest = README.read_text().partition(BEGIN)
        README.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}")
    rated = (part for key, part in found.items() if key.startswith("speed"))
    return int(failed or any(map(wrong, rated)))


if __name__ == "__main__":
    sys.exit(main())
