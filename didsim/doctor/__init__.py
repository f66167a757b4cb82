"""The step-0 doctor: what is wrong with a preference loss, said before a single step of training.

`check_loss` calls anyone's loss function on a few made-up pairs, compares it with every registered objective that looks
at log π, log π_ref and lengths, and says in words what it sees:

>>> from didsim.doctor import check_loss, example_loss
>>> report = check_loss(example_loss)
>>> report.ok, report.equals[0].name, report.equals[0].aggregation
(True, 'dpo', 'mean')

A loss that squares β by accident is recognised by name:

>>> def careless(policy_chosen_logps, policy_rejected_logps, ref_chosen_logps, ref_rejected_logps, beta=0.1):
...     reward = beta * (policy_chosen_logps - ref_chosen_logps) - beta * (policy_rejected_logps - ref_rejected_logps)
...     return -(beta * reward).sigmoid().log()
>>> print(next(f.sentence for f in check_loss(careless).findings if f.name == "objective"))
β enters twice: the loss equals dpo at β² = 0.01 in place of β = 0.1. ...
"""

from didsim.doctor._check import check_loss
from didsim.doctor._load import example_loss, load_loss
from didsim.doctor._report import Finding, Match, Report, by_severity, in_words

__all__ = ["Finding", "Match", "Report", "by_severity", "check_loss", "example_loss", "in_words", "load_loss"]
