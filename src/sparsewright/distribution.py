"""How a global sparsity is shared among layers, and how fractions become exact counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase

Shapes = Mapping[str, Sequence[int]]
Densities = dict[str, float]


def kept_budget(sparsity: float, weights: int) -> int:
    """Number of weights kept at a sparsity: ``round((1 - sparsity) * weights)``, the promise of every method."""
    return round((1 - sparsity) * weights)


def uniform(shapes: Shapes, density: float) -> Densities:
    """The same density in every layer."""
    return dict.fromkeys(shapes, density)


def erdos_renyi(shapes: Shapes, density: float) -> Densities:
    """Densities proportional to (inputs + outputs) / (inputs * outputs) (SET, arXiv 1707.04780, equation 3)."""
    return _scaled(shapes, density, {name: sum(shape[:2]) / math.prod(shape[:2]) for name, shape in shapes.items()})


def erdos_renyi_kernel(shapes: Shapes, density: float) -> Densities:
    """ERK: as ER with the kernel's sizes counted in (RigL, arXiv 1911.11134, section 3).

    A layer whose density would pass 1 is made dense and the rest is shared among the others.
    """
    return _scaled(shapes, density, {name: sum(shape) / math.prod(shape) for name, shape in shapes.items()})


def explicit(shapes: Shapes, density: float, layers: Mapping[str, float]) -> Densities:
    """Densities from a mapping of glob patterns to sparsities; layers that match nothing share the rest evenly.

    Args:
        shapes: layer name -> shape.
        density: the overall density that the layers must add up to.
        layers: pattern -> sparsity; the first pattern that matches a layer counts.

    Raises:
        ValueError: a pattern matches no layer, or the mapping contradicts the overall density.
    """
    for pattern in layers:
        if not any(fnmatchcase(name, pattern) for name in shapes):
            raise ValueError(f"distribution pattern {pattern!r} matches no layer in scope: {', '.join(shapes)}")
    fixed: Densities = {}
    for name in shapes:
        sparsity = next((value for pattern, value in layers.items() if fnmatchcase(name, pattern)), None)
        if sparsity is not None:
            fixed[name] = 1.0 - sparsity
    return with_fixed(shapes, density, fixed, uniform)


def with_fixed(
    shapes: Shapes, density: float, fixed: Mapping[str, float], rule: Callable[[Shapes, float], Densities]
) -> Densities:
    """Hold some layers at given densities and share what is left of the overall density by ``rule``.

    Raises:
        ValueError: what is left is negative or more than the other layers hold; both numbers are named.
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    budget = density * sum(sizes.values())
    taken = sum(fixed[name] * sizes[name] for name in fixed)
    others = {name: shape for name, shape in shapes.items() if name not in fixed}
    room = sum(sizes[name] for name in others)
    slack = len(shapes)
    if taken > budget + slack or taken + room < budget - slack:
        total = sum(sizes.values())
        bound = "at least" if taken > budget else "at most"
        reached = taken if taken > budget else taken + room
        raise ValueError(
            f"the layers given ({', '.join(fixed)}) make the overall density {bound} {reached / total:.6g}, but "
            f"a sparsity of {1 - density:.6g} needs {density:.6g}"
        )
    if not others:
        return dict(fixed)
    shared = rule(others, min(max((budget - taken) / room, 0.0), 1.0))
    return {name: fixed[name] if name in fixed else shared[name] for name in shapes}


RULES: dict[str, Callable[[Shapes, float], Densities]] = {
    "uniform": uniform,
    "er": erdos_renyi,
    "erk": erdos_renyi_kernel,
}


def allocate(
    ideal: Mapping[str, float], total: int, lower: Mapping[str, int], upper: Mapping[str, int]
) -> dict[str, int]:
    """Whole numbers that add up to exactly ``total``, as near to the ideal ones as the bounds allow.

    Within the bounds a surplus or shortfall is spread in proportion to the ideal numbers (evenly if they are all
    zero), then rounded by the largest remainder; equal remainders go to the earlier layer.

    Args:
        ideal: name -> wanted number, not negative.
        total: the sum to reach.
        lower, upper: name -> bounds, ``lower <= upper``.

    Raises:
        ValueError: the total lies outside the sum of the bounds.
    """
    least, most = sum(lower.values()), sum(upper.values())
    if not least <= total <= most:
        raise ValueError(f"{total} weights cannot be shared among layers that take between {least} and {most}")
    shares = _water_fill(ideal, total, lower, upper)
    counts = {name: min(max(math.floor(share), lower[name]), upper[name]) for name, share in shares.items()}
    missing = total - sum(counts.values())
    by_remainder = sorted(shares, key=lambda name: -round(shares[name] - counts[name], 9))
    while missing > 0:
        for name in by_remainder:
            if missing > 0 and counts[name] < upper[name]:
                counts[name] += 1
                missing -= 1
    return counts


def _water_fill(
    ideal: Mapping[str, float], total: int, lower: Mapping[str, int], upper: Mapping[str, int]
) -> dict[str, float]:
    """Scale the ideal numbers by one common factor, clipped to the bounds, so that they add up to ``total``."""
    weights = {name: max(value, 0.0) for name, value in ideal.items()}
    wanted = sum(weights.values())
    # Rounding the sum first keeps an ideal that already fits exactly as it is, free of a factor like 0.9999999.
    if abs(wanted - total) < 1 and all(lower[name] <= weights[name] <= upper[name] for name in weights):
        return weights
    shares: dict[str, float] = {}
    free = dict(weights)
    while free:
        left = total - sum(shares.values())
        scale_by = sum(free.values())
        trial = {name: left * value / scale_by if scale_by > 0 else left / len(free) for name, value in free.items()}
        excess = sum(max(trial[n] - upper[n], 0.0) for n in free)
        lack = sum(max(lower[n] - trial[n], 0.0) for n in free)
        # Fixing only the side that is violated more keeps the other side's layers free to take up the difference.
        if excess >= lack:
            clipped = {n: float(upper[n]) for n in free if trial[n] > upper[n]}
        else:
            clipped = {n: float(lower[n]) for n in free if trial[n] < lower[n]}
        if not clipped:
            return {name: (shares | trial)[name] for name in ideal}
        shares |= clipped
        free = {name: value for name, value in free.items() if name not in clipped}
    return {name: shares[name] for name in ideal}


def _scaled(shapes: Shapes, density: float, raw: Mapping[str, float]) -> Densities:
    """Densities proportional to ``raw``, at most 1, that add up to the overall density."""
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    budget = density * sum(sizes.values())
    dense: set[str] = set()
    while True:
        free = [name for name in shapes if name not in dense]
        if not free:
            return dict.fromkeys(shapes, 1.0)
        left = budget - sum(sizes[name] for name in dense)
        factor = left / sum(raw[name] * sizes[name] for name in free)
        highest = max(raw[name] for name in free)
        if factor * highest <= 1:
            return {name: 1.0 if name in dense else factor * raw[name] for name in shapes}
        dense |= {name for name in free if raw[name] == highest}
