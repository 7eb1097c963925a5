"""Ours and the peers on every case, taking turns: the ratio to the best peer, and its spread.

A complete run goes through all cases once. Within a case the turns go round several times; in a
turn one process runs a block (`turns.block`) while the others sleep, and the order rotates, so that
a machine that slows down slows everybody. A median is over all blocks of a process in one complete
run. If others used our cores meanwhile the case is measured again, and the quietest attempt counts.
After the last block of every complete run, ours and every peer's answer of the last timed call are
compared. The ratio is ours over the fastest of torch, torch.compile and jax in the same complete
run; of the complete runs, its median and its extremes are kept.

A peer that is several times slower than the fastest cannot be the best one: it gets a few runs, for
the table, so that the time goes to those who can.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from . import compare, limits, probe
from .cases import Case, select
from .child import Child, ChildError
from .peers import RIVALS
from .progress import progress
from .turns import Block, median

OURS = "ours"
FAR_BEHIND = 3.0
OTHERS_SHARE, OTHERS_SECONDS = 0.12, 0.03
"""More of our cores' time than both together, used by others, makes a moment noisy."""


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        peers: Names of the peers, ours not among them.
        cases: Beginnings of case names; empty: all.
        modes: Some of `cases.MODES`.
        shapes: ``round`` or ``odd``.
        tier: Which tier of ours.
        threads: For each process.
        seed: For the data.
        runs: Least runs behind a median.
        rounds: In how many turns they are made.
        repeats: Complete runs.
        tries: How often a noisy moment is measured again.
        seconds: What all runs of a quick case should take together, per process.
    """

    peers: tuple[str, ...]
    cases: tuple[str, ...] = ()
    modes: tuple[str, ...] = ("forward", "vjp", "jvp")
    shapes: str = "round"
    tier: str = "compiled"
    threads: int = 2
    seed: int = 0
    runs: int = 21
    rounds: int = 3
    repeats: int = 3
    tries: int = 3
    seconds: float = 0.15

    def child_options(self) -> dict[str, Any]:
        """What a child is started with."""
        return {
            "threads": self.threads,
            "shapes": self.shapes,
            "seed": self.seed,
            "tier": self.tier,
        }


@dataclass
class Contest:
    """One case in one mode: who takes part, and what was found.

    Attributes:
        loaded: By process: how it does the case, and about how many seconds a run takes.
        failed: By process: why it does not take part.
        complete: For each complete run: milliseconds and number of runs by process, and `others`,
            the share of our cores' time that others used.
        differences: By peer: the worst difference to ours, over what is allowed.
    """

    case: Case
    mode: str
    loaded: dict[str, dict[str, Any]]
    failed: dict[str, str]
    complete: list[dict[str, Any]]
    differences: dict[str, float]

    def runs(self, name: str, settings: Settings) -> int:
        """Runs per turn: few for who is far behind."""
        rivals = [self.loaded[n]["seconds"] for n in RIVALS if n in self.loaded]
        behind = name != OURS and self.loaded[name]["seconds"] > FAR_BEHIND * min(rivals, default=0)
        return 2 if behind and rivals else math.ceil(settings.runs / settings.rounds)


def measure(settings: Settings) -> dict[str, Any]:
    """All cases and modes: rows for the report, what they were measured with, what failed."""
    children, absent = start(settings)
    try:
        loaded = _load(children, settings)
        contests = [contest for contest in loaded if OURS in contest.loaded]
        found: list[dict[str, Any]] = []
        for repeat in range(settings.repeats):
            asked = {"threads": settings.threads, "tier": settings.tier}
            found.append(probe.run("limits:anchors", asked, settings.threads))
            bar = progress(contests, f"complete run {repeat + 1} of {settings.repeats}")
            for contest in bar:
                bar.set_postfix_str(f"{contest.case.name} {contest.mode}", refresh=False)
                _compete(children, contest, settings)
        best = {key: max(machine[key] for machine in found) for key in found[0]}
        best["call"] = min(machine["call"] for machine in found)
        versions = {k: v for child in children.values() for k, v in child.versions.items()}
    finally:
        for child in children.values():
            child.stop()
    return {
        "rows": [_row(contest, limits.Anchors(**best)) for contest in contests],
        "broken": {f"{c.case.name} {c.mode}": c.failed[OURS] for c in loaded if OURS in c.failed},
        "anchors": best,
        "versions": versions,
        "absent": absent,
    }


def start(settings: Settings) -> tuple[dict[str, Child], dict[str, str]]:
    """A process for ours and for each peer whose library is there; the others, with the reason."""
    options = settings.child_options()
    children = {name: Child(name, options) for name in (OURS, *settings.peers)}
    absent: dict[str, str] = {}
    for name, child in list(children.items()):
        try:
            child.start()
        except ChildError as error:
            absent[name] = str(error)
            children.pop(name).stop()
    if OURS in absent:
        raise ChildError(absent[OURS])
    return children, absent


def _load(children: Mapping[str, Child], settings: Settings) -> list[Contest]:
    pairs = [(c, m) for c in select(settings.shapes, settings.cases) for m in settings.modes]
    contests = []
    bar = progress(pairs, "compiling and warming up")
    for case, mode in bar:
        contest = Contest(case, mode, {}, {}, [], {})
        for name, child in children.items():
            bar.set_postfix_str(f"{case.name} {mode}: {name}", refresh=False)
            answer = child.ask("load", case.name, mode)
            if "way" in answer:
                contest.loaded[name] = answer
            elif answer["failed"]:
                contest.failed[name] = "; ".join(f"{w}: {r}" for w, r in answer["failed"].items())
        contests.append(contest)
    return contests


def _compete(children: Mapping[str, Child], contest: Contest, settings: Settings) -> None:
    """One case of a complete run: the quietest of a few attempts, and the answers compared."""
    attempts: list[dict[str, Any]] = []
    for _ in range(settings.tries):
        blocks = _turns(children, contest, settings)
        attempts.append(_summary(blocks))
        if not attempts[-1]["noisy"]:
            break
    contest.complete.append(min(attempts, key=lambda attempt: attempt["others"]))
    ours = children[OURS].ask("answer")
    for name in contest.loaded:
        if name != OURS:
            difference = compare.worst(ours, children[name].ask("answer"))
            contest.differences[name] = max(difference, contest.differences.get(name, 0.0))


def _turns(
    children: Mapping[str, Child], contest: Contest, settings: Settings
) -> dict[str, list[Block]]:
    names = list(contest.loaded)
    blocks: dict[str, list[Block]] = {name: [] for name in names}
    for turn in range(settings.rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            runs = contest.runs(name, settings)
            seconds = settings.seconds / settings.rounds
            blocks[name].append(
                children[name].ask("time", contest.case.name, contest.mode, runs, seconds)
            )
            children[name].rest()
    return blocks


def _summary(blocks: Mapping[str, Sequence[Block]]) -> dict[str, Any]:
    """Medians by process, and whether others were busy in anyone's blocks."""
    found: dict[str, Any] = {"times": {}, "noisy": False, "others": 0.0}
    for name, made in blocks.items():
        seconds = sorted(_flat(block.seconds for block in made))
        wall, others = sum(b.wall for b in made), sum(b.others for b in made)
        found["times"][name] = {
            "median_ms": median(seconds) * 1e3,
            "min_ms": seconds[0] * 1e3,
            "p90_ms": seconds[int(0.9 * (len(seconds) - 1))] * 1e3,
            "runs": len(seconds),
        }
        found["noisy"] |= others > OTHERS_SHARE * wall + OTHERS_SECONDS
        found["others"] = max(found["others"], others / wall)
    return found


def _flat(parts: Iterable[Sequence[float]]) -> list[float]:
    return [value for part in parts for value in part]


def _row(contest: Contest, machine: limits.Anchors) -> dict[str, Any]:
    """A contest as a row of the report."""
    names = list(contest.loaded)
    times = {
        name: median([run["times"][name]["median_ms"] for run in contest.complete])
        for name in names
    }
    needed = limits.work(contest.case, contest.mode)
    limit, reached = limits.nearest(needed, machine, times[OURS] / 1e3)
    rivals = [name for name in RIVALS if name in names]
    ratios = sorted(
        run["times"][OURS]["median_ms"] / min(run["times"][r]["median_ms"] for r in rivals)
        for run in contest.complete
        if rivals
    )
    return {
        "case": contest.case.name,
        "mode": contest.mode,
        "family": contest.case.family,
        "times_ms": times,
        "best": min(rivals, key=lambda name: times[name]) if rivals else None,
        "ratio": median(ratios) if ratios else None,
        "ratio_low": ratios[0] if ratios else None,
        "ratio_high": ratios[-1] if ratios else None,
        "limit": limit,
        "limit_reached": reached,
        "work": asdict(needed),
        "differences": contest.differences,
        "ways": {name: answer["way"] for name, answer in contest.loaded.items()},
        "ways_failed": {n: a["failed"] for n, a in contest.loaded.items() if a["failed"]},
        "failed": contest.failed,
        "noisy": any(run["noisy"] for run in contest.complete),
        "complete_runs": contest.complete,
    }
