"""Newton's method without a Hessian: each step solves H d = -g by conjugate gradients.

A Hessian-vector product is the tangent of a gradient. The server derives it from the graph of the
loss, so all that this program says is `f.hvp(v)`. The loss is Rosenbrock's function, which is least
at (1, ..., 1).
"""

from __future__ import annotations

import numpy as np
from local_server import server
from numpy.typing import NDArray

import gradwire as gw

Vector = NDArray[np.float64]


def solve(f: gw.Function[Vector], x: Vector, gradient: Vector) -> Vector:
    """Conjugate gradients for H d = -gradient; stops where the curvature is not positive."""
    d, residual = np.zeros_like(x), -gradient
    direction = residual
    for _ in range(2 * x.size):
        if np.linalg.norm(residual) < 1e-10 * np.linalg.norm(gradient):
            break
        product = f.hvp({"x": direction}, x=x)["x"]
        curvature = float(direction @ product)
        if curvature <= 0.0:
            return d if d.any() else -gradient
        step = float(residual @ residual) / curvature
        d, previous = d + step * direction, residual
        residual = residual - step * product
        direction = residual + float(residual @ residual) / float(previous @ previous) * direction
    return d


def main() -> None:
    """Minimise, printing every step."""
    with server() as url, gw.connect(url) as client:
        g = client.session({"x": ((4,), "float64")})
        head, tail = g.inputs.x[:-1], g.inputs.x[1:]
        f = g.function(((tail - head**2) ** 2 * 100.0 + (1.0 - head) ** 2).sum())
        x = np.full(4, -1.0)
        for step in range(100):
            value, gradients = f.value_and_grad(x=x)
            slope = gradients["x"]
            print(f"step {step:2d}  f = {float(value):.3e}  |g| = {np.linalg.norm(slope):.1e}")
            if np.linalg.norm(slope) < 1e-9:
                break
            d, rate = solve(f, x, slope), 1.0
            while float(f(x=x + rate * d)) > float(value) and rate > 1e-6:
                rate /= 2
            x = x + rate * d
        print("minimum at", np.round(x, 6))


if __name__ == "__main__":
    main()
