"""The ledger of theorems and claims: each with its check, its negative control, and a counterexample where one is."""

from didsim.claims._claim import VERDICTS, Claim, Control, Result
from didsim.claims._ledger import CLAIMS, select, verify
from didsim.claims._search import search, shrink
from didsim.claims._verify import DRAWS, check_claim

__all__ = [
    "CLAIMS",
    "DRAWS",
    "VERDICTS",
    "Claim",
    "Control",
    "Result",
    "check_claim",
    "search",
    "select",
    "shrink",
    "verify",
]
