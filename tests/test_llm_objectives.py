"""Every objective on a language model, against whole next-token distributions in double precision.

The other side of each comparison shares no code with the trainer: each sequence goes through the model alone, without
padding, and what comes out is laid out as the tabular losses want it.
"""

import pytest
import test_llm
import torch
from samples import label, options_of
from test_llm import batch_of, language_model, largest_difference, loss_and_gradient, reference_model, trainer_of

from didsim import OBJECTIVES, objective
from didsim.llm._trainer import SERVED
from didsim.objectives import NextTokens, Pairs, Responses, Tokens

pytestmark = test_llm.pytestmark

LEARNED = frozenset({"prior", "masks"})
"""Needs that `test_llm_beside` looks at."""

PAIRS = 6

VALUE = 1e-6
"""Of the loss, or of 1 if that is more: single precision against double."""

GRADIENT = 2e-5
"""Of the largest entry of a gradient."""

BOS = 2


def next_tokens(model, prompt, response):
    """Whole log-distributions before each token of a response, [n, V]."""
    logits = model(input_ids=torch.tensor([[*prompt, *response]])).logits[0]
    return logits[len(prompt) - 1 : -1].log_softmax(-1)


def log_prob(model, prompt, response):
    return next_tokens(model, prompt, response).gather(-1, torch.tensor(response)[:, None]).sum()


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    return trainer_of("dpo", tmp_path_factory.mktemp("trainer"), reference=reference_model())


@pytest.fixture(scope="module")
def truth(trainer):
    """The model in double precision, and all pairs with whatever a batch can offer."""
    model, reference = language_model().double().train(), reference_model().double().requires_grad_(False)
    data = list(trainer.train_dataset.select(range(PAIRS)))
    width = max(len(row[side]) for row in data for side in ("chosen_ids", "rejected_ids"))
    prompts = [row["prompt_ids"] for row in data]
    ratios, sides = [], []
    for side in ("chosen_ids", "rejected_ids"):
        answers = [row[side] for row in data]
        both = list(zip(prompts, answers, strict=True))
        tables = [
            torch.stack([filled(next_tokens(which, *pair), width) for pair in both]) for which in (model, reference)
        ]
        mask = torch.arange(width) < torch.tensor([len(answer) for answer in answers])[:, None]
        taken = torch.tensor([[*answer, *[0] * (width - len(answer))] for answer in answers])[..., None]
        log_pi, log_ref = (table.gather(-1, taken).squeeze(-1) for table in tables)
        tokens = Tokens(log_pi, mask, log_ref, NextTokens(*tables))
        total = [torch.where(mask, part, 0.0).sum(-1) for part in (log_pi, log_ref)]
        marginal = torch.stack([log_prob(model, [BOS], answer) for answer in answers])
        sides.append((*total, mask.sum(-1), tokens, marginal))
        with torch.no_grad():
            for row in range(PAIRS):
                pair = (prompts[row], answers[(row + 1) % PAIRS])
                ratios.append(log_prob(model, *pair) - log_prob(reference, *pair))
    mean_kl = torch.stack(ratios).mean().clamp(min=0.0)
    chosen, rejected = (Responses(*side, mean_kl=mean_kl) for side in sides)
    return model, Pairs(chosen, rejected)


def filled(table, width):
    """Pad to so many positions with anything."""
    return torch.cat([table, torch.full((width - len(table), table.shape[1]), -1.5, dtype=table.dtype)])


def served():
    """Every objective with every combination of options for which a batch is enough."""
    return [
        pytest.param(name, options, id=label(name, options))
        for name in OBJECTIVES
        if name != "dpo_pg"
        for options in options_of(name)
        if objective(name, **options).needs <= SERVED - LEARNED
    ]


@pytest.mark.parametrize(("name", "options"), served())
def test_loss_and_gradient_are_the_tabular_ones_of_whole_distributions(name, options, trainer, truth):
    loss = objective(name, **options)
    trainer.objective = loss
    value, gradient = loss_and_gradient(trainer, batch_of(trainer, PAIRS))
    model, pairs = truth
    want = loss(pairs).mean()
    leaves = dict(model.named_parameters())
    wanted = dict(zip(leaves, torch.autograd.grad(want, leaves.values(), retain_graph=True), strict=True))
    assert value == pytest.approx(float(want.detach()), rel=VALUE, abs=VALUE)
    assert largest_difference(gradient, wanted) <= GRADIENT


def test_the_pairs_tell_objectives_apart(truth):
    """No margin is 0, lengths differ, and the estimate of KTO's z is not clamped away."""
    _, pairs = truth
    assert bool((pairs.chosen.length != pairs.rejected.length).any())
    assert float((pairs.chosen.log_ratio - pairs.rejected.log_ratio).detach().abs().min()) > 1e-3
    assert float(pairs.chosen.mean_kl) > 0.0


def test_the_estimate_of_ktos_z_is_never_negative(tmp_path, truth):
    """With the two models exchanged, all log-ratios change their sign."""
    exchanged = trainer_of("kto", tmp_path, model=reference_model(), reference=language_model())
    value, _ = loss_and_gradient(exchanged, batch_of(exchanged, PAIRS))
    _, pairs = truth
    swapped = (
        Responses(side.log_ref, side.log_pi.detach(), mean_kl=torch.zeros((), dtype=torch.float64))
        for side in (pairs.chosen, pairs.rejected)
    )
    assert value == pytest.approx(float(objective("kto")(Pairs(*swapped)).mean()), rel=VALUE)
