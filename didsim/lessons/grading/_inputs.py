"""Random inputs with few digits: a student can copy the one that fails into a shell."""

import numpy as np

GRAINS = 100


def numbers(rng: np.random.Generator, *shape: int, scale: float = 2.0) -> np.ndarray:
    """Return normal numbers of two decimals."""
    return np.round(rng.normal(0.0, scale, shape), 2)


def positive(rng: np.random.Generator, low: float = 0.1, high: float = 4.0) -> float:
    """Return a positive number of two decimals."""
    return round(float(rng.uniform(low, high)), 2)


def size(rng: np.random.Generator) -> int:
    """Return a number of classes from 2 to 6."""
    return int(rng.integers(2, 7))


def probabilities(rng: np.random.Generator, classes: int) -> np.ndarray:
    """Return positive probabilities in hundredths, [K]."""
    spare = rng.multinomial(GRAINS - classes, rng.dirichlet(np.ones(classes)))
    return (1 + spare) / GRAINS


def pair(rng: np.random.Generator, first: str, second: str) -> dict[str, np.ndarray]:
    """Return two distributions over the same classes."""
    classes = size(rng)
    return {first: probabilities(rng, classes), second: probabilities(rng, classes)}


__all__ = ["numbers", "pair", "positive", "probabilities", "size"]
