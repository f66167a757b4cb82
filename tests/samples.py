"""What the tests of objectives give them to look at: pairs that offer everything, and every way to set options."""

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from oracles import batch_losses, losses, token_losses
from oracles.losses import OF_THE_POLICY, Pair

from didsim._checks import Interval
from didsim.objectives import OBJECTIVES, NextTokens, Pairs, Responses, Tokens

EPS = {torch.float32: 2.0**-23, torch.float64: 2.0**-52}


def rest_of(log_p):
    """log(1 − p) of log p, −inf for p = 1, with gradients that are finite wherever the true ones are."""
    inside = log_p < 0
    safe = torch.where(inside, log_p, -1.0)
    near = torch.log(-torch.expm1(safe.clamp(min=-1.0)))
    far = torch.log1p(-torch.exp(safe.clamp(max=-0.5)))
    return torch.where(inside, torch.where(safe > -0.7, near, far), -torch.inf)


def one_token(log_pi, log_ref):
    """A response of one token, out of a vocabulary of two."""
    tables = [torch.stack([part, rest_of(part)], dim=-1) for part in (log_pi, log_ref)]
    if log_pi.dim() < 2:
        vocabulary = NextTokens(*(part[..., None, :] for part in tables))
    else:
        # as the engine does: hyperparameters [R, 1, 1] meet distributions [R, K, V], whose sums are then laid out
        vocabulary = NextTokens(*(part.flatten(-3, -2) for part in tables)).map(
            lambda sums: sums.reshape(*sums.shape[:-1], *log_pi.shape[-2:], 1)
        )
    mask = torch.ones_like(log_pi, dtype=torch.bool)[..., None]
    return Tokens(log_pi[..., None], mask, log_ref[..., None], vocabulary)


def responses(log_pi, log_ref, length, log_marginal=None, log_zeta=None, mean_kl=None):
    """Responses that offer whatever an objective may need."""
    return Responses(
        log_pi,
        log_ref,
        length,
        one_token(log_pi, log_ref),
        0.5 * log_pi - 0.25 if log_marginal is None else log_marginal,
        0.75 * log_ref - 0.125 if log_zeta is None else log_zeta,
        torch.tensor(0.25, dtype=log_pi.dtype) if mean_kl is None else mean_kl,
    )


def without(y, need):
    """The same responses, which no longer offer what `NEEDS` calls so."""
    match need:
        case "reference":
            vocabulary = replace(y.tokens.vocabulary, log_ref=None)
            return replace(y, log_ref=None, tokens=replace(y.tokens, log_ref=None, vocabulary=vocabulary))
        case "vocabulary":
            return replace(y, tokens=replace(y.tokens, vocabulary=None))
        case _:
            names = {"marginal": "log_marginal", "prior": "log_zeta"}
            return replace(y, **{names.get(need, need): None})


def table(dtype=torch.float64, k=4):
    """log π, log π_ref and the length of K responses."""
    generator = torch.Generator().manual_seed(1)
    log_pi = torch.log_softmax(torch.randn(k, generator=generator, dtype=torch.float64), dim=0).to(dtype)
    log_ref = torch.log_softmax(torch.randn(k, generator=generator, dtype=torch.float64), dim=0).to(dtype)
    return log_pi, log_ref, torch.arange(1, k + 1, dtype=dtype)


def as_table(log_pi, log_ref, length, runs=None):
    """All pairs of K responses, chosen ones as rows and rejected ones as columns; repeated for so many runs."""
    sides = [[part.reshape(shape) for part in (log_pi, log_ref, length)] for shape in ((-1, 1), (1, -1))]
    weights = torch.rand(len(log_pi), len(log_pi), generator=torch.Generator().manual_seed(2)).to(log_pi.dtype)
    if runs is None:
        return Pairs(*(responses(*parts) for parts in sides), weights)
    sides = [[part.expand(runs, -1, -1) for part in parts] for parts in sides]
    return Pairs(*(responses(*parts) for parts in sides), weights.expand(runs, -1, -1), rows_per_run=1)


def is_number(parameter):
    return isinstance(parameter.domain, Interval)


def activating(name, key):
    """The option under which a hyperparameter is read, at a value at which it is."""
    when = OBJECTIVES[name].parameters[key].when
    return {} if when is None else {when[0]: when[1][0]}


def options_of(name):
    """Every combination of the named options, those outside the search grid too."""
    record = OBJECTIVES[name]
    keys = [key for key, parameter in record.parameters.items() if not is_number(parameter)]
    points = (dict(zip(keys, point, strict=True)) for point in product(*(record.parameters[k].domain for k in keys)))
    read = ({key: point[key] for key in record.active(point) if key in point} for point in points)
    return list({tuple(point.items()): point for point in read}.values())


def grid_of(name):
    """The search grid, and every combination of options at the defaults, the last values of the grid, and others."""
    record = OBJECTIVES[name]
    points = record.grid()
    for options in options_of(name):
        numbers = [key for key in record.active(options) if is_number(record.parameters[key])]
        defaults, last = (
            {key: getattr(record.parameters[key], what) for key in numbers} for what in ("default", "grid")
        )
        last = {key: grid[-1] for key, grid in last.items()}
        # the grid of MI-DPO's α is 1 alone, at which an exponent of α would not be seen
        others = {key: 0.625 * value or last[key] for key, value in defaults.items()}
        for values in (defaults, last, others):
            point = {**options, **values}
            points.append({key: point[key] for key in record.active(options)})
    return list({tuple(point.items()): point for point in points}.values())


def label(name, point):
    return "-".join([name, *(f"{key}={value}" for key, value in point.items())])


SAME_FORMULA = 4
"""Two routes through the same few operations may round differently, by so many units in the last place."""


def float32_number(x):
    """Round to float32, so that both precisions are given the same number."""
    return float(np.float32(x))


LOG_PROBS = tuple(map(float32_number, (-1e-12, -0.013, -1.7, -33.3, -1e4)))
REFERENCES = tuple(map(float32_number, (-3e-12, -0.0171, -2.3, -21.7, -7e3)))
KLS = tuple(map(float32_number, (0.0, 1e-9, 0.4, 17.0)))
LATTICE = tuple(
    # the other numbers run through their values at another pace than the policy's does
    Pair(
        *(LOG_PROBS[i], LOG_PROBS[j], REFERENCES[(2 * i + j + 1) % 5], REFERENCES[(i + 3 * j + 2) % 5]),
        *((1.0, 1.0), (7.0, 2.0), (3.0, 1000.0))[(i + j) % 3],
        *(REFERENCES[(i + 2 * j) % 5], REFERENCES[(3 * i + j) % 5]),
        *(REFERENCES[(4 * i + j + 1) % 5], REFERENCES[(i + 4 * j + 3) % 5]),
        KLS[(i + 2 * j) % 4],
    )
    for i in range(5)
    for j in range(5)
)
"""Log-probabilities from −1e-12 to −1e4, with equal and unequal lengths."""


def make_pairs(points, dtype=torch.float64, weights=None):
    """Pairs that offer everything; whatever moves with what is trained requires gradients."""
    columns = {
        key: torch.tensor([getattr(y, key) for y in points], dtype=dtype).requires_grad_(key in OF_THE_POLICY)
        for key in vars(points[0])
    }
    chosen, rejected = (
        responses(*(columns[f"{key}{side}"] for key in "lrnmz"), mean_kl=columns["kl"]) for side in ("w", "l")
    )
    return Pairs(chosen, rejected, weights)


def one_pair(*parts):
    return make_pairs([Pair(*parts)])


def moving(pairs):
    """The parts of pairs that move with what is trained, by the oracle's names."""
    chosen, rejected = pairs.chosen, pairs.rejected
    return {
        **{"lw": chosen.log_pi, "ll": rejected.log_pi, "mw": chosen.log_marginal, "ml": rejected.log_marginal},
        **{"zw": chosen.log_zeta, "zl": rejected.log_zeta, "kl": chosen.mean_kl},
    }


def value_and_gradients(loss, pairs):
    """The loss of each pair, and its derivatives by all that moves, as lists of floats."""
    values, leaves = loss(pairs), moving(pairs)
    gradients = torch.autograd.grad(values.sum(), leaves.values(), materialize_grads=True)
    return values.tolist(), {key: gradient.tolist() for key, gradient in zip(leaves, gradients, strict=True)}


def values_and_gradients(loss, pairs):
    """The loss of each pair and its derivatives by both log-probabilities, as lists of floats."""
    values, gradients = value_and_gradients(loss, pairs)
    return values, gradients["lw"], gradients["ll"]


def assert_same(got, want, units=SAME_FORMULA):
    """Two tensors agree to a few units in the last place of the larger of 1 and their entries."""
    assert got.dtype == want.dtype
    tolerance = units * EPS[got.dtype]
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)


def kind_of(name, point):
    """Which oracle knows a loss: that of whole responses, of tokens, or of batches."""
    if name in batch_losses.LOSSES:
        return "batch"
    if name in token_losses.LOSSES or point.get("prior") in token_losses.LOG_PRIORS:
        return "tokens"
    if name in losses.LOSSES and point.get("prior", "reference") in losses.LOG_PRIORS:
        return "responses"
    return "unknown"


def grid(*kinds):
    """Every objective with every point of its grid, those of some kinds of losses."""
    return [
        pytest.param(name, point, id=label(name, point))
        for name in sorted(OBJECTIVES)
        for point in grid_of(name)
        if kind_of(name, point) in kinds
    ]


def every_option(*names):
    """Every objective with every combination of its named options, its numbers at their defaults."""
    return [pytest.param(name, options, id=label(name, options)) for name in names for options in options_of(name)]


SUMMED = 64
"""A loss sums some thirty terms, of tokens or of pairs, each of which is rounded once or twice; the roundings count in
units of the largest number that enters it."""

NEGLIGIBLE = SUMMED * EPS[torch.float64]


def random_numbers(seed, *shape, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(*shape, generator=generator, dtype=torch.float64)).tolist()


def random_tokens(seed, length, scale=1.0, taken=None):
    """A response of so many tokens out of a vocabulary of three."""
    weights = [[0.5 + abs(x) for x in row] for row in random_numbers(seed + 2, 3, length)]
    taken = [int(abs(x) * 100) % 3 for x in random_numbers(seed + 3, length)] if taken is None else taken
    logits, ref_logits = (random_numbers(seed + i, length, 3, scale=scale) for i in (0, 1))
    return token_losses.Tokens(logits, ref_logits, taken, *weights)


def without_token(y, v):
    """The same response when a token has probability 0 everywhere, under both policies."""
    logits, ref_logits = ([[-math.inf if i == v else x for i, x in enumerate(row)] for row in y.logits] for y in [y, y])
    return replace(y, logits=logits, ref_logits=ref_logits)


def at_the_reference(y):
    """The same response where training starts, with π = π_ref."""
    return replace(y, ref_logits=y.logits)


TOKEN_PAIRS = (
    (random_tokens(10, 3), random_tokens(20, 2)),
    (random_tokens(30, 1), random_tokens(40, 4)),
    (random_tokens(50, 4, scale=3.0), random_tokens(60, 4, scale=3.0)),
    (random_tokens(81, 2), random_tokens(90, 1)),
    # π = π_ref, where training starts
    # for any ε the margin rises, and for any −ε too
    (random_tokens(410, 1), random_tokens(415, 2)),
    (at_the_reference(random_tokens(1, 2)), at_the_reference(random_tokens(5, 3))),
    (without_token(random_tokens(110, 2, taken=[0, 2]), 1), without_token(random_tokens(120, 3, taken=[1, 0, 1]), 2)),
    # some tokens certain, others all but impossible
    (random_tokens(130, 2, scale=5e3), random_tokens(140, 3, scale=5e3)),
    (random_tokens(150, 1, scale=1e-12), random_tokens(160, 1, scale=1e-12)),
)

T = 4
"""Every response is padded to so many positions."""


def padded(rows, fill):
    return [*rows, *(fill for _ in range(T - len(rows)))]


def as_responses(samples, padding=0.7):
    """Lay samples out as padded tensors; return them with the tensors that are differentiated by."""
    leaves = {
        what: torch.tensor([padded(getattr(y, what), 1.5) for y in samples], dtype=torch.float64).requires_grad_()
        for what in ("w", "mu1", "mu2")
    }
    tables = [
        torch.tensor([padded(getattr(y, what), [padding] * 3) for y in samples], dtype=torch.float64)
        for what in ("logits", "ref_logits")
    ]
    leaves["logits"] = tables[0].requires_grad_()
    log_pi, log_ref = (torch.log_softmax(table, dim=-1) for table in tables)
    taken = torch.tensor([padded(y.taken, 0) for y in samples])[..., None]
    mask = torch.tensor([[t < len(y.taken) for t in range(T)] for y in samples])
    tokens = Tokens(
        *(log_pi.gather(-1, taken).squeeze(-1), mask, log_ref.gather(-1, taken).squeeze(-1)),
        *(NextTokens(log_pi, log_ref), leaves["w"], leaves["mu1"], leaves["mu2"]),
    )
    whole = Responses(tokens.total(tokens.log_pi), tokens.total(tokens.log_ref), mask.sum(-1), tokens)
    return whole, leaves


def random_pair(seed):
    lw, ll, rw, rl = (-abs(x) - 0.01 for x in random_numbers(seed, 4, scale=2.0))
    return Pair(lw, ll, rw, rl, 1.0 + seed % 3, 1.0 + seed % 5)
