"""The ledger: all claims by name, and what is asked of it."""

import fnmatch
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from didsim._checks import did_you_mean, message
from didsim.claims import (
    _across,
    _alpha,
    _did_displacement,
    _did_entropy,
    _did_margins,
    _did_probe,
    _did_rejected,
    _did_reward,
    _did_theory,
    _did_training,
    _mi,
    _mi_extended,
    _mi_prior,
    _mi_recovers,
    _recovery,
    _rmipo,
    _stationary,
)
from didsim.claims._claim import Claim, Result
from didsim.claims._search import search as search_claim
from didsim.claims._verify import DRAWS, check_claim

GROUPS = (
    _did_theory,
    _did_reward,
    _did_margins,
    _did_rejected,
    _did_entropy,
    _did_displacement,
    _did_training,
    _did_probe,
    _mi,
    _mi_recovers,
    _mi_prior,
    _mi_extended,
    _alpha,
    _rmipo,
    _stationary,
    _recovery,
    _across,
)
"""One module for each group of theorems, in the order of the papers."""

CLAIMS: Mapping[str, Claim] = MappingProxyType({claim.name: claim for group in GROUPS for claim in group.CLAIMS})
"""All claims by name."""


def verify(name: str, *, draws: int = DRAWS, seed: int = 0, search: bool = False) -> Result:
    """Check a theorem or claim of the papers numerically, and say what was found.

    Random instances that meet the assumptions are drawn, the saved counterexample is replayed, and a negative control
    shows that the check can fail. A verdict of "holds" means that no counterexample was found.

    Args:
        name: of the claim, a key of `CLAIMS`.
        draws: how many random instances; of a costly claim a share of them.
        seed: of the draws.
        search: whether to search for further counterexamples too, by optimising the violation.

    Raises:
        ValueError, TypeError: if an argument is not acceptable.

    >>> verify("did.thm-3.3", draws=20).verdict
    'holds'
    """
    if name not in CLAIMS:
        hint = f"{did_you_mean(str(name), CLAIMS)} See CLAIMS, or `didsim list claims`."
        raise ValueError(message("claim", "the name of a claim", name, hint.strip()))
    claim = CLAIMS[name]
    found = search_claim(claim, draws, seed) if search else None
    return check_claim(claim, draws, seed, more=[] if found is None else [found])


def select(patterns: Sequence[str]) -> list[str]:
    """Return the names of claims that match any of some names or globs, in the order of the ledger; all for none.

    Raises:
        ValueError: if a pattern matches nothing.
    """
    for pattern in patterns:
        if not fnmatch.filter(CLAIMS, pattern):
            hint = f"{did_you_mean(pattern, CLAIMS)} See `didsim list claims`."
            raise ValueError(message("claim", "a name or a glob that matches claims", pattern, hint.strip()))
    return [name for name in CLAIMS if not patterns or any(fnmatch.fnmatchcase(name, p) for p in patterns)]
