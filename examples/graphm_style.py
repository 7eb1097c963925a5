"""A program as a GraphM user would write it: arguments by position, checked, ops by its names.

GraphM builds `sum(tanh(W x + b))` from `args`, `linear`, `tanh` and `sum`, and reads the JVP's
availability before asking for one. `docs/graphm.md` maps every declaration.
"""

from __future__ import annotations

from local_server import server

import gradwire as gw


def main() -> None:
    """Build, check, run."""
    with server() as url, gw.connect(url) as client:
        g = client.session({"w": (2, 3), "b": (2,), "x": (3,)})
        w, b, x = g.args
        assert g.arg(0, (2, 3)) is w  # GraphM's `arg` with its shape
        y = g.sum(g.tanh(g.linear(w, b, x)))
        print(f"context length {g.context_length}, result {y!r}")

        # The catalogue takes GraphM's names; a handle is checked as its `Var` is.
        attrs = {"axis": 0}
        (rows,) = g.append(
            [{"op": "reduceSum", "inputs": [{"id": w.id, "shape": [2, 3]}], "attrs": attrs}]
        )
        print(f"reduceSum gives {rows!r}")
        try:
            g.append([{"op": "tanh", "inputs": [{"id": w.id, "shape": [3, 2]}]}])
        except gw.errors.VarShapeMismatch as error:
            print(f"refused: {error.detail}")

        print("JVP availability:", g.jvp_availability())
        f = g.function(y)
        tangents = {"x": [1, 0, 0]}
        result = f.jvp(tangents, w=[[1, 0, 0], [0, 1, 0]], b=[0, 0], x=[0.5, -0.5, 2.0])
        print("value", result.outputs, "tangent", result.tangents)


if __name__ == "__main__":
    main()
