"""Across the papers: where every objective leads, and under which pairs it recovers the target."""

from didsim.claims._claim import Claim

CLAIMS: tuple[Claim, ...] = ()
