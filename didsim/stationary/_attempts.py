"""All runs of a plan, each from its own start, settled in one batch for each objective."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from didsim._arrays import BoolArray, FloatArray, IntArray
from didsim._checks import message
from didsim.engine import MOST_TABLED, Group, Plan, ProductWeights, TableWeights, Weights
from didsim.stationary._by_scores import settle_by_scores
from didsim.stationary._corners import settle_corners
from didsim.stationary._dense import DenseField, lowest_eigenvalues
from didsim.stationary._field import ResponseField, is_shift_free
from didsim.stationary._large import LargeField, reason_against_large
from didsim.stationary._march import RESIDUAL, STEP, relative_residual
from didsim.stationary._plain import PlainField
from didsim.stationary._settle import Rest, settle
from didsim.torch_bridge import to_array

SPREAD = 2.0
"""The standard deviation of the logits of random starts around the first one."""

MOST_STARTS = 1000


@dataclass(frozen=True)
class Attempt:
    """Where one run ended from one start.

    Attributes:
        log_probs: log π, [X, K]; −inf for responses that have died out.
        log_prior: log ζ of what is learned beside the policy, [K], or None.
        settled: whether the field is zero there, and a Newton step small.
        residual: max |g_i|/(a_i + b_i).
        newton_step: the largest change of log π by a Newton step, in nats.
        iterations: how many steps it took.
        continuum: the number of directions in which the field stays zero.
        eigenvalue: the smallest (real part of an) eigenvalue of the Jacobian off the shifts, or None.
        corners: kinks and jumps at which it stands: (prompt, chosen, rejected or −1), [N, 3].
    """

    log_probs: FloatArray
    log_prior: FloatArray | None
    settled: bool
    residual: float
    newton_step: float
    iterations: int
    continuum: int
    eigenvalue: float | None
    corners: IntArray

    @property
    def survivors(self) -> BoolArray:
        """True for responses that keep probability, [X, K]."""
        return self.log_probs > -math.inf


def attempts(plan: Plan, weights: Weights, starts: int, seed: int) -> dict[int, Attempt]:
    """Settle all runs of a plan, in which each job stands once for each start; return them by their position.

    Raises:
        ValueError: if there is no table of pairs, and a loss that cannot be solved without.
    """
    found: dict[int, Attempt] = {}
    for group in plan.groups:
        numbers = [plan.order[run] % starts for run in range(group.runs.start, group.runs.stop)]
        initial = plan.initial[group.runs]
        if isinstance(weights, TableWeights):
            free = group.policies.features is None
            settled = _by_response if group.loss.sees_responses_only and free else _by_decision
            parts = settled(group, weights, initial, numbers, seed)
        else:
            assert isinstance(weights, ProductWeights)  # there are no others of a whole population
            parts = _by_sums(group, weights, initial, numbers, seed)
        found.update({plan.order[group.runs.start + run]: part for run, part in enumerate(parts)})
    return found


def _by_response(
    group: Group, weights: TableWeights, initial: Tensor, numbers: list[int], seed: int
) -> Iterator[Attempt]:
    """Settle runs in the logits of responses, where every prompt stands for itself."""
    policies, prompts = group.policies, group.policies.num_prompts
    size = policies.space.num_responses
    excluded = policies.log_ref.flatten(0, 1) <= LOWEST
    field = ResponseField(
        group.loss,
        weights.joint[group.streams.index],
        group.log_ref.reshape(-1, size, 1),
        group.length.reshape(-1, size, 1),
        ~excluded,
    )
    first = policies.log_pi(policies.next_log_pi(initial[:, : policies.num_parameters])).flatten(0, 1)
    starts = _spread(first, [number for number in numbers for _ in range(prompts)], field.allowed, seed)
    rest = settle_corners(field, starts) if field.has_corners else settle(field, starts)
    if is_shift_free(group.loss) and not field.has_corners:
        rest = settle_by_scores(field, rest)
    log_pi = torch.where(rest.dead | excluded, -torch.inf, field.log_pi(rest.march.unknowns))
    corners = None
    if field.has_corners:
        row, chosen, rejected = field.at_corners(rest.march.unknowns).unbind(1)
        corners = torch.stack([row // prompts, row % prompts, chosen, rejected], dim=1)
    eigenvalues = _eigenvalues(field, rest)
    for run in range(len(initial)):
        rows = slice(run * prompts, (run + 1) * prompts)
        yield _attempt(rest, rows, log_pi[rows], None, eigenvalues[rows], _of_run(corners, run))


def _look_beside(field: PlainField, rest: Rest, seed: int) -> None:
    """Find out whether zeros of a field with a rule are isolated: it need not have a derivative there.

    A rule projects or not, by a sign: the field has two smooth pieces, and a direction and its opposite lead into one
    each. If zeros go on into a piece, they do so where its Jacobian is weakest: there the field is looked at.
    """
    rows = torch.nonzero((rest.march.residual <= RESIDUAL) & (rest.continuum == 0))[:, 0]
    if len(rows) == 0:
        return
    unknowns, rng = rest.march.unknowns[rows], torch.Generator().manual_seed(seed)
    aside = torch.randn(unknowns.shape[1], generator=rng, dtype=unknowns.dtype).expand_as(unknowns)
    frozen = field.freeze(rest.march.unknowns, rest.dead)
    pieces, part = frozen.take(rows.repeat(2)), frozen.take(rows.repeat(4))
    weakest = pieces.equations(_on_both_sides(unknowns, aside, pieces.allowed)).weakest_directions()
    beside = _on_both_sides(unknowns.repeat(2, 1), weakest, part.allowed)
    at = part.log_pi(unknowns.repeat(4, 1))
    moved = torch.where(at > LOWEST, part.log_pi(beside) - at, 0.0).abs().amax(1) > STEP
    zero = moved & (relative_residual(part, part.gradient(beside)) <= RESIDUAL)
    rest.continuum[rows] = zero.reshape(4, -1).any(0).to(torch.int64)
    rest.march.settled &= rest.continuum == 0


def _on_both_sides(unknowns: Tensor, direction: Tensor, allowed: Tensor) -> Tensor:
    """Return the places beside unknowns [L, D] in a direction and against it, [2 L, D], where they may move."""
    aside = BESIDE * torch.cat([direction, -direction])
    return unknowns.repeat(2, 1) + torch.where(allowed, aside, 0.0)


BESIDE = 1e-6
"""How far beside a zero, in nats, the field is looked at: along a continuum it is of the order of its square."""


def _of_run(corners: Tensor | None, run: int) -> IntArray:
    """Return the corners of a run, [N, 3], out of those of all runs: (run, prompt, chosen, rejected), [M, 4]."""
    found = torch.empty(0, 4, dtype=torch.int64) if corners is None else corners
    return to_array(found[found[:, 0] == run][:, 1:])


def _by_decision(
    group: Group, weights: TableWeights, initial: Tensor, numbers: list[int], seed: int
) -> Iterator[Attempt]:
    """Settle runs in the parameters of their policies, and of what is learned beside."""
    field, policies = PlainField(group, weights), group.policies
    starts = _spread(initial[:, : field.scale.shape[1]], numbers, field.allowed, seed)
    rest = settle_corners(field, starts) if field.has_corners else settle(field, starts)
    if group.loss.objective.gradient_rule is not None:
        _look_beside(field, rest, seed)
    snapshot = group.snapshot(torch.where(rest.dead, -torch.inf, rest.march.unknowns))
    log_pi = policies.log_pi(torch.where(policies.excluded, -torch.inf, snapshot.next_log_pi))
    corners = None
    if field.has_corners:
        run_, row, rejected = field.at_corners(rest.march.unknowns).unbind(1)
        size = policies.space.num_responses
        corners = torch.stack([run_, row // size, row % size, rejected], dim=1)
    eigenvalues = _eigenvalues(field, rest)
    for run in range(len(initial)):
        rows, prior = slice(run, run + 1), None
        if "prior" in snapshot.companions:
            shape = (policies.space.num_contexts, policies.space.num_actions)
            logits = torch.log_softmax(snapshot.companions["prior"][run].reshape(shape), dim=-1)
            prior = to_array(policies.log_pi(logits[None, None])[0, 0])
        yield _attempt(rest, rows, log_pi[run], prior, eigenvalues[rows], _of_run(corners, run))


def _by_sums(
    group: Group, weights: ProductWeights, initial: Tensor, numbers: list[int], seed: int
) -> Iterator[Attempt]:
    """Settle runs one by one in the logits of responses, without a table of pairs."""
    if (reason := reason_against_large(group)) is not None:
        accepted = f"solved where X·K² is at most {MOST_TABLED}"
        raise ValueError(
            message(group.loss.name, accepted, str(group.policies.space), f"{reason[0].upper()}{reason[1:]}.")
        )
    for run, number in enumerate(numbers):
        part = group.take(torch.tensor([run]))
        policies = part.policies
        excluded = (policies.log_ref[0] <= LOWEST).reshape(1, -1)
        field = LargeField.of(part, weights, excluded)
        first = policies.log_pi(policies.next_log_pi(initial[run : run + 1, : policies.num_parameters]))
        rest = settle(field, _spread(first.reshape(1, -1), [number], field.allowed, seed))
        log_pi = torch.where(rest.dead | excluded, -torch.inf, field.log_pi(rest.march.unknowns))
        unknown = torch.full((1,), torch.nan, dtype=log_pi.dtype)
        yield _attempt(rest, slice(0, 1), log_pi.reshape(first.shape[1:]), None, unknown, _of_run(None, 0))


def _attempt(
    rest: Rest, rows: slice, log_pi: Tensor, prior: FloatArray | None, eigenvalues: Tensor, corners: IntArray
) -> Attempt:
    march = rest.march
    lowest = float(eigenvalues.min())
    return Attempt(
        log_probs=to_array(log_pi - torch.logsumexp(log_pi, dim=1, keepdim=True)),
        log_prior=prior,
        settled=bool(march.settled[rows].all()),
        residual=float(march.residual[rows].max()),
        newton_step=float(march.newton_step[rows].max()),
        iterations=int(march.iterations[rows].max()),
        continuum=int(rest.continuum[rows].sum()),
        eigenvalue=None if math.isnan(lowest) else lowest,
        corners=corners,
    )


def _spread(first: Tensor, numbers: list[int], allowed: Tensor, seed: int) -> Tensor:
    """Return the start of each row by its number: the first one, the uniform policy, and random ones around it."""
    starts = first.clone()
    for row, number in enumerate(numbers):
        if number == 1:
            starts[row] = torch.where(allowed[row], 0.0, first[row])
        elif number > 1:
            rng = torch.Generator().manual_seed((seed * MOST_STARTS + number) % 2**63)
            noise = SPREAD * torch.randn(first.shape[1], generator=rng, dtype=first.dtype)
            starts[row] = torch.where(allowed[row], first[row] + noise, first[row])
    return starts


def _eigenvalues(field: DenseField, rest: Rest) -> Tensor:
    """Return the smallest eigenvalue of the Jacobian of each row that has settled; NaN elsewhere, and at kinks."""
    values = torch.full_like(rest.march.residual, torch.nan)
    rows = torch.nonzero(rest.march.settled)[:, 0]
    if len(rows) and not field.has_corners:
        frozen = field.freeze(rest.march.unknowns, rest.dead)
        values[rows] = lowest_eigenvalues(frozen.take(rows), rest.march.unknowns[rows])
    return values


LOWEST = -1e3
"""A reference of a lower log-probability stands for one that excludes the response."""
