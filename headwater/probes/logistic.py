"""Multinomial logistic regression, to convergence: L-BFGS from zero, the same bits every time.

Minimised is the mean cross entropy + l2/2 |W|^2 over standardised rows, the bias free: strictly convex in W, so it has one answer, and no learning rate.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

GRID = tuple(10.0**power for power in range(0, -6, -1))
TOLERANCE = 1e-7  # of the gradient's largest entry
MEMORY = 20  # pairs of L-BFGS (Nocedal and Wright 2006, chapter 7)
MOST = 1000  # iterations

Objective = Callable[[Tensor], tuple[Tensor, Tensor]]


def objective(x: Tensor, y: Tensor, classes: int, l2: float) -> Objective:
    """Parameters (C, D + 1), the bias last -> the value and its gradient (C, D + 1). x: (N, D) float64, standardised; y: (N,) classes."""
    rows = torch.arange(len(y), device=y.device)

    def value_and_gradient(parameters: Tensor) -> tuple[Tensor, Tensor]:
        weight, bias = parameters[:, :-1], parameters[:, -1]
        logs = torch.log_softmax(torch.addmm(bias, x, weight.T), 1)
        value = -logs[rows, y].mean() + 0.5 * l2 * (weight * weight).sum()
        errors = logs.exp_()
        errors[rows, y] -= 1.0
        errors /= len(y)
        return value, torch.cat([errors.T @ x + l2 * weight, errors.sum(0)[:, None]], 1)

    return value_and_gradient


def minimise(function: Objective, start: Tensor, tolerance: float = TOLERANCE, most: int = MOST) -> tuple[Tensor, bool]:
    """L-BFGS with a line search by Armijo and Wolfe. Returns where it ended, and whether the gradient is within `tolerance` there."""
    point = start.clone()
    value, gradient = function(point)
    steps: list[tuple[Tensor, Tensor, Tensor]] = []
    for _ in range(most):
        if float(gradient.abs().max()) <= tolerance:
            return point, True
        direction = -_inverse_hessian(steps, gradient)
        found = _search(function, point, value, gradient, direction, 1.0 if steps else _first_length(gradient))
        if found is None and steps:
            # The curvature that is remembered misleads: forget it and go down the slope.
            steps.clear()
            continue
        if found is None:
            break
        length, new_value, new_gradient = found
        step, change = length * direction, new_gradient - gradient
        curvature = (step * change).sum()
        if float(curvature) > 0:
            steps = [*steps[-(MEMORY - 1) :], (step, change, 1 / curvature)]
        point, value, gradient = point + step, new_value, new_gradient
    return point, float(gradient.abs().max()) <= tolerance


def logistic(x: Tensor, y: Tensor, classes: int, l2: float, start: Tensor | None = None) -> tuple[Tensor, bool]:
    """Parameters (C, D + 1) of standardised rows x (N, D) float64, the bias last; and whether they converged."""
    if start is None:
        start = x.new_zeros(classes, x.shape[1] + 1)
    return minimise(objective(x, y, classes, l2), start)


def _first_length(gradient: Tensor) -> float:
    return min(1.0, 1.0 / float(gradient.abs().sum()))


def _inverse_hessian(steps: list[tuple[Tensor, Tensor, Tensor]], gradient: Tensor) -> Tensor:
    """The two loops of L-BFGS: the gradient times the remembered inverse of the curvature."""
    result, shares = gradient.clone(), []
    for step, change, rate in reversed(steps):
        share = rate * (step * result).sum()
        result -= share * change
        shares.append(share)
    if steps:
        step, change, rate = steps[-1]
        result *= 1 / (rate * (change * change).sum())
    for (step, change, rate), share in zip(steps, reversed(shares), strict=True):
        result += (share - rate * (change * result).sum()) * step
    return result


def _search(
    function: Objective, point: Tensor, value: Tensor, gradient: Tensor, direction: Tensor, length: float
) -> tuple[float, Tensor, Tensor] | None:
    """A step length that lowers the value and the slope enough (weak Wolfe conditions, by bisection), with value and gradient there."""
    slope = float((gradient * direction).sum())
    if slope >= 0:
        return None
    low, high = 0.0, float("inf")
    # Near the end, differences of the value drown in rounding: what is equal to that is no rise.
    slack = 1e-14 * (1.0 + abs(float(value)))
    for _ in range(50):
        new_value, new_gradient = function(point + length * direction)
        if not float(new_value) <= float(value) + 1e-4 * length * slope + slack:
            high = length
        elif float((new_gradient * direction).sum()) < 0.9 * slope:
            low = length
        else:
            return length, new_value, new_gradient
        length = (low + high) / 2 if high < float("inf") else 2 * length
    return None
