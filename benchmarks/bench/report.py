"""Figures as text: the tables that the command prints, and the same ones in the README."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from .cases import BOUND_FAMILIES, MODES
from .peers import PEERS

Row = Mapping[str, Any]

TOO_SLOW, BOUND, TOO_LARGE = 1.2, 0.7, 1.1


# -- what the rows say together --------------------------------------------------------------------


def geometric_mean(values: Sequence[float]) -> float | None:
    """None of nothing."""
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Geometric means of the ratios, the cases that miss a target, and the wrong answers."""
    rated = [row for row in rows if row["ratio"] is not None]

    def names(which: Callable[[Row], bool]) -> list[str]:
        return [f"{row['case']} {row['mode']}" for row in rows if which(row)]

    def slower(than: float, families: Collection[str]) -> dict[str, float]:
        found = (row for row in rated if row["ratio"] > than and row["family"] in families)
        return {f"{row['case']} {row['mode']}": row["ratio"] for row in found}

    def means(key: str, names: Iterable[str]) -> dict[str, float | None]:
        return {
            name: geometric_mean([row["ratio"] for row in rated if row[key] == name])
            for name in names
        }

    families = dict.fromkeys(row["family"] for row in rated)
    return {
        "geometric_mean": geometric_mean([row["ratio"] for row in rated]),
        "modes": means("mode", MODES),
        "families": means("family", families),
        "above_1.2": slower(TOO_SLOW, families),
        "bound_above_0.7": slower(BOUND, BOUND_FAMILIES),
        "different_answers": names(lambda row: any(d > 1 for d in row["differences"].values())),
        "noisy": names(lambda row: row["noisy"]),
    }


# -- text ------------------------------------------------------------------------------------------


def number(value: float | None, digits: int = 3) -> str:
    """Three significant digits without an exponent; a dash for None."""
    if value is None:
        return "-"
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{places}f}"


def megabytes(count: float | None) -> str:
    """Bytes as MB; a dash for None."""
    return number(None if count is None else count / 1e6)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table that lines up as plain text; all columns but the first to the right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]

    def text(line: Sequence[str]) -> str:
        first = line[0].ljust(widths[0])
        rest = [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        return "| " + " | ".join([first, *rest]) + " |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([text(lines[0]), text(rule), *map(text, lines[1:])])


def speed(part: Mapping[str, Any]) -> str:
    """The ratios, row by row and together."""
    rows: Sequence[Row] = part["rows"]
    peers = [name for name in PEERS if any(name in row["times_ms"] for row in rows)]
    header = ["case", "mode", *(f"{name} ms" for name in peers), "ratio", "spread", "limit"]

    def cells(row: Row) -> list[str]:
        times = [number(row["times_ms"].get(name)) for name in peers]
        spread = (
            f"{number(row['ratio_low'], 2)}-{number(row['ratio_high'], 2)}"
            if row["ratio"] is not None
            else "-"
        )
        limit = f"{row['limit_reached']:.0%} of {row['limit']}"
        return [row["case"], row["mode"], *times, number(row["ratio"], 2), spread, limit]

    return "\n\n".join([table(header, map(cells, rows)), _together(summary(rows)), _machine(part)])


def _together(found: Mapping[str, Any]) -> str:
    lines = []
    if found["geometric_mean"] is not None:
        groups = {"all": found["geometric_mean"], **found["modes"], **found["families"]}
        cells = [[name, number(value)] for name, value in groups.items() if value is not None]
        lines.append(table(["geometric mean of the ratios", "ours / best peer"], cells))
    missed = {
        "above_1.2": f"Above {TOO_SLOW} of the best peer",
        "bound_above_0.7": f"Above {BOUND} among {', '.join(BOUND_FAMILIES)}",
    }
    for key, title in missed.items():
        named = [f"{name} ({number(ratio)})" for name, ratio in found[key].items()]
        lines.append(f"{title}: {', '.join(named) or 'none'}.")
    lines.append(f"Measured while others used the cores: {', '.join(found['noisy']) or 'none'}.")
    if found["different_answers"]:
        lines.append(f"ANSWERS THAT DIFFER FROM A PEER'S: {', '.join(found['different_answers'])}.")
    return "\n\n".join(lines)


def _machine(part: Mapping[str, Any]) -> str:
    a = part["anchors"]
    cells = [
        ["DRAM, c = a + b", f"{number(a['add'] / 1e9)} GB/s"],
        ["DRAM, copy", f"{number(a['copy'] / 1e9)} GB/s"],
        [f"L3 ({a['cache'] >> 20} MiB), c = a + b", f"{number(a['l3'] / 1e9)} GB/s"],
        ["sgemm, 2048 x 2048", f"{number(a['gemm'] / 1e9)} GFLOP/s"],
        ["our public call, one addition", f"{number(a['call'] * 1e6)} us"],
    ]
    absent = [f"Measured without {n}: {why}." for n, why in part["absent"].items()]
    broken = [f"OURS FAILED ON {case}: {why}" for case, why in part["broken"].items()]
    return "\n\n".join([table(["limit", "measured"], cells), *absent, *broken])


def tiers(part: Mapping[str, Any]) -> str:
    """How soon answers come."""
    tiny, first = part["tiny_call"], part["first_answer"]
    cells = [
        ["20-op graph on 16 elements, forward, public call", _us(tiny["median_us"]), "15 us"],
        ["first answer of a new 50-op graph", _ms(first["median_ms"]), "50 ms"],
        ["... the slowest of eleven", _ms(first["worst_ms"]), ""],
        ["... the first graph of a process", _ms(first["process_first_ms"]), ""],
    ]
    if "compiles" in part:
        during, compiles = part["during_compile"], part["compiles"]
        allowed = max(2 * during["idle_p99_us"], 1000.0)
        cells += [
            ["compiled tier ready, empty cache", _s(part["ready_cold"]["seconds"]), "10 s"],
            [
                "compiled tier ready, full cache, new process",
                _s(part["ready_warm"]["seconds"]),
                "0.3 s",
            ],
            ["small requests, idle: p50", _us(during["idle_p50_us"]), ""],
            ["small requests, idle: p99", _us(during["idle_p99_us"]), ""],
            ["small requests, while compiling: p50", _us(during["compiling_p50_us"]), ""],
            ["small requests, while compiling: p99", _us(during["compiling_p99_us"]), _us(allowed)],
            ["objects compiled for a graph, forward and VJP", str(compiles["first_graph"]), ""],
            [
                "... for 99 that differ in constants and seeds",
                str(compiles["99_other_constants"]),
                "0",
            ],
            ["... for four other batch sizes", str(compiles["4_other_batches"]), "0"],
        ]
    return table(["", "measured", "at most"], cells)


def _us(value: float) -> str:
    return f"{number(value)} us"


def _ms(value: float) -> str:
    return f"{number(value)} ms"


def _s(value: float) -> str:
    return f"{number(value)} s"


def memory(part: Mapping[str, Any]) -> str:
    """Plans beside JAX's, and growth."""
    plans = table(
        ["case", "mode", "our plan MB", "jax MB", "ratio"],
        (
            [
                row["case"],
                row["mode"],
                megabytes(row.get("ours")),
                megabytes(row.get("jax")),
                number(row["ratio"], 3),
            ]
            for row in part["rows"]
        ),
    )
    growth = table(
        ["one run in a fresh process", "mode", "plan MB", "growth MB", "ratio"],
        (
            [
                row["name"],
                row["mode"],
                megabytes(row["planned"]),
                megabytes(row["grown"]),
                number(row["ratio"], 3),
            ]
            for row in part["growth"]
        ),
    )
    failed = [
        f"FAILED, {name}: {row['case']} {row['mode']}: {why}"
        for row in part["rows"]
        for name, why in row["failed"].items()
    ]
    larger = [
        f"{row['case']} {row['mode']} ({number(row['ratio'])})"
        for row in part["rows"]
        if row["ratio"] is not None and row["ratio"] > TOO_LARGE
    ]
    reduced = part["reduced"]
    return "\n\n".join(
        [
            plans,
            *failed,
            f"Geometric mean of the ratios: {number(part['geometric_mean'])}. "
            f"Above {TOO_LARGE}: {', '.join(larger) or 'none'}.",
            growth,
            f"A mean gradient of {megabytes(reduced['parameter_bytes'])} MB of parameters through "
            f"vmap: {number(reduced['bytes_per_sample'] / 1e3)} kB for each further sample.",
            f"The peak of a VJP grows with the power {part['linear']['exponent']:.2f} of its data.",
        ]
    )


def planning(part: Mapping[str, Any]) -> str:
    """Seconds by number of nodes."""
    header = ["nodes", "mode", "build s", "prepare s", "plan s", "all s", "schedule s"]
    keys = ("build", "prepare", "plan", "total", "schedule")
    cells = [
        [str(nodes), mode, *(number(row[key]) for key in keys)]
        for mode in ("forward", "vjp")
        for nodes, row in zip(part["sizes"], part[mode]["rows"], strict=True)
    ]
    exponents = ", ".join(
        f"{mode} {'all' if key == 'total' else key} {value:.2f}"
        for mode in ("forward", "vjp")
        for key, value in part[mode]["exponents"].items()
    )
    return f"{table(header, cells)}\n\nTime grows with this power of the nodes: {exponents}."


SECTIONS: Mapping[str, tuple[str, Callable[[Mapping[str, Any]], str]]] = {
    "speed/round": ("Speed, round sizes", speed),
    "speed/odd": ("Speed, odd sizes and batches", speed),
    "tiers": ("How soon answers come", tiers),
    "memory": ("Memory", memory),
    "planning": ("Planning", planning),
}


def section(key: str, part: Mapping[str, Any]) -> str:
    """One section with its title and what it was measured with."""
    title, render = SECTIONS[key]
    made = part["made"]
    versions = ", ".join(f"{n} {v}" for n, v in part.get("versions", {}).items())
    with_ = f"{made['when']}, {made['machine']}, {made['threads']} threads, tier {made['tier']}"
    return f"### {title}\n\n{with_}{f'; {versions}' if versions else ''}.\n\n{render(part)}\n"


def document(results: Mapping[str, Any]) -> str:
    """All sections that were measured."""
    return "\n".join(section(key, results[key]) for key in SECTIONS if key in results)
