"""The exact world of transformers: the same losses, gradients and policies as the engine's and the solver's."""

import copy

import pytest

pytest.importorskip("trl", reason="language models need the extra 'llm'")

import numpy as np
import test_llm
import torch
from test_llm import largest_difference, loss_and_gradient

import didsim as ds
from didsim import OBJECTIVES, objective
from didsim.llm import enumerate_policy, sequence_transformer, train_transformer
from didsim.llm._sequences import exact_pairs, population_trainer
from didsim.llm._trainer import SERVED

pytestmark = test_llm.pytestmark

SPACE = ds.Sequences(vocabulary=3, max_length=3)
PROMPTS = [0.3, 0.7]


@pytest.fixture(scope="module")
def model():
    return sequence_transformer(SPACE)


@pytest.fixture(scope="module")
def problem(model):
    reference = enumerate_policy(model, SPACE, 2)
    target = ds.Policy.from_logits(reference.log_probs / 2.0)
    return ds.Problem.from_policies(reference, target, prompts=PROMPTS, space=SPACE)


def moved(model, size=0.05):
    """The model, a step away from itself."""
    other = copy.deepcopy(model)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(size * torch.randn_like(parameter))
    return other


def next_logits(model):
    """The logits after each prefix by a pass over that prefix alone, [X, N, A], differentiable."""
    rows = [
        [model(input_ids=torch.tensor([[3, prompt, *SPACE.tokens(prefix)]])).logits[0, -1] for prefix in range(13)]
        for prompt in range(2)
    ]
    return torch.stack([torch.stack(row) for row in rows])


def test_enumeration_is_the_product_of_next_token_distributions(model):
    policy = enumerate_policy(model, SPACE, 2)
    with torch.no_grad():
        tokens = next_logits(copy.deepcopy(model).double()).log_softmax(-1)
    wanted = np.array(
        [
            [sum(tokens[x, context, action].item() for context, action in decisions(y)) for y in range(40)]
            for x in range(2)
        ]
    )
    assert policy.log_probs == pytest.approx(wanted, abs=1e-5)
    assert policy.probs.sum(-1) == pytest.approx(1.0, abs=1e-12)


def decisions(response):
    """The prefixes and actions that make up a response, counted by hand."""
    tokens = SPACE.tokens(response)
    made = [(SPACE.index(tokens[:step]), token) for step, token in enumerate(tokens)]
    return made if len(tokens) == SPACE.max_length else [*made, (SPACE.index(tokens), SPACE.vocabulary)]


def test_the_transformer_is_far_from_uniform_and_no_response_is_out_of_reach(problem):
    probs = problem.reference.probs
    assert probs.max() / probs.min() > 20.0
    assert probs.min() > 1e-4
    assert ds.js(problem.reference.probs[0], problem.reference.probs[1]) > 0.01


def test_the_random_state_is_left_as_it_was():
    torch.manual_seed(5)
    want = torch.rand(3)
    torch.manual_seed(5)
    sequence_transformer(SPACE, seed=9)
    assert torch.equal(torch.rand(3), want)


def test_exact_pairs_weigh_what_they_should(problem):
    data = exact_pairs(problem)
    assert len(data) == 2 * 40 * 40
    assert sum(data["weight"]) == pytest.approx(1.0, abs=1e-12)
    row = data[1600 + 5 * 40 + 17]
    want = 0.7 * problem.reference.probs[1, 5] * problem.rejected.probs[1, 17]
    assert row["weight"] == pytest.approx(want, rel=1e-12)


def test_exact_pairs_of_a_joint_law_weigh_what_it_says():
    world = ds.worlds.length_bias(vocabulary=2, max_length=2, num_prompts=2)
    data = exact_pairs(world)
    place = [row["weight"] for row in data][49 + 3 * 7 + 5]
    assert place == pytest.approx(0.5 * world.pairs[1, 3, 5], rel=1e-12)
    assert world.pairs[1, 3, 5] != pytest.approx(world.chosen.probs[1, 3] * world.rejected.probs[1, 5], rel=1e-2)


@pytest.fixture(scope="module")
def trainer(problem, tmp_path_factory):
    """A trainer whose model has left the reference; in float64, which Llama's norms leave at 1e-7 all the same."""
    model = sequence_transformer(SPACE).double()
    trainer = population_trainer(problem, model, objective("dpo"), tmp_path_factory.mktemp("trainer"))
    model.load_state_dict(moved(model).state_dict())
    return trainer


@pytest.fixture(scope="module")
def batch(trainer):
    return next(iter(trainer.get_train_dataloader()))


def test_the_batch_holds_every_pair_token_by_token(batch):
    pairs = [(x, i, j) for x in range(2) for i in range(40) for j in range(40)]
    rows = [(x, i) for x, i, _ in pairs] + [(x, j) for x, _, j in pairs]
    order = batch["weight"].numel()
    assert order == len(pairs)
    got = sorted(
        tuple(ids[: int(shown.sum())].tolist()) + tuple(scored.tolist())
        for ids, shown, scored in zip(
            batch["input_ids"], batch["attention_mask"], batch["completion_mask"], strict=True
        )
    )
    want = []
    for x, y in rows:
        actions = [action for _, action in decisions(y)]
        want.append((3, x, *actions, *(int(2 <= place < 2 + len(actions)) for place in range(5))))
    assert got == sorted(want)


DIFFERENT = frozenset({"marginal", "mean_kl", "prior", "masks"})
"""Needs that a language model meets in another way than a table; `test_llm_objectives` looks at them."""


COMPARABLE = [name for name in OBJECTIVES if name != "dpo_pg" and objective(name).needs <= SERVED - DIFFERENT]


@pytest.mark.parametrize("name", COMPARABLE)
def test_loss_and_gradient_are_the_engines_on_the_enumerated_space(name, problem, trainer, batch):
    """The engine's gradient in the logits of prefixes is read off a plain step of it, and pulled back by the model."""
    trainer.objective = loss = objective(name)
    value, gradient = loss_and_gradient(trainer, batch)
    start = enumerate_policy(trainer.model, SPACE, 2)
    history = ds.train(
        problem, loss, mode="population", steps=1, learning_rate=1.0, optimiser="sgd", clip=None, dtype="float64",
        initial_policy=start, metrics=("loss",),
    )  # fmt: skip
    assert value == pytest.approx(history.metrics["loss"][0], rel=1e-6, abs=1e-6)
    step = torch.as_tensor(SPACE.next_log_probs(history.policy.log_probs) - SPACE.next_log_probs(start.log_probs))
    by_logits = step.mean(-1, keepdim=True) - step
    exact = sequence_transformer(SPACE).double()  # of its own: TRL's head is bound to the trainer's
    exact.load_state_dict(trainer.model.state_dict())
    (by_logits * next_logits(exact)).sum().backward()
    wanted = {name: parameter.grad for name, parameter in exact.named_parameters()}
    assert largest_difference(gradient, wanted) <= 1e-6


def test_training_ends_where_the_solver_says(problem):
    loss = objective("simpo")
    solution = ds.solve(problem, loss)
    trained = train_transformer(problem, sequence_transformer(SPACE), loss, steps=400)
    assert float(ds.js(trained, solution.policy).max()) <= 1e-3
    assert float(ds.js(problem.reference, solution.policy).max()) > 0.05


def test_a_problem_with_another_reference_is_refused(problem):
    with pytest.raises(ValueError, match="log π_ref of problem"):
        train_transformer(problem, sequence_transformer(SPACE, seed=3), objective("dpo"), steps=1)


def test_a_problem_of_classes_is_refused(model):
    with pytest.raises(ValueError, match="Sequences"):
        train_transformer(ds.Problem.from_temperature(4, 2.0), model, objective("dpo"), steps=1)


def test_too_many_prompts_are_refused(model):
    problem = ds.Problem.from_temperature(space=SPACE, tau=2.0, num_prompts=4)
    with pytest.raises(ValueError, match="at most 3"):
        train_transformer(problem, model, objective("dpo"), steps=1)
