"""Each objective that TRL 1.16 has too, against TRL's own loss code: the mean loss, and its gradient by every logit.

TRL's trainers are made without their `__init__`, and asked for the loss of a batch by the method that training calls.
What stands in for the language model answers with given logits. Where TRL means something else by a name, a test states
the exact relation between the two.
"""

import re
import warnings
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch

from didsim.objectives import NextTokens, Pairs, Responses, Tokens, objective
from didsim.objectives._registry import BUILT_IN

IN_TRL = {
    "dpo": ("DPOTrainer: sigmoid",),
    "hinge": ("DPOTrainer: hinge", "CPOTrainer: hinge, without reference"),
    "ipo": ("DPOTrainer: ipo, which is aggregation='mean'", "CPOTrainer: ipo, the same without reference"),
    "exo": ("DPOTrainer: exo_pair",),
    "nca": ("DPOTrainer: nca_pair",),
    "robust_dpo": ("DPOTrainer: robust",),
    "bco": ("DPOTrainer: bco_pair",),
    "sppo": ("DPOTrainer: sppo_hard",),
    "aot": ("DPOTrainer: aot",),
    "aot_unpaired": ("DPOTrainer: aot_unpaired",),
    "apo_zero": ("DPOTrainer: apo_zero", "KTOTrainer: apo_zero_unpaired, a mean over responses"),
    "apo_down": ("DPOTrainer: apo_down",),
    "discopop": ("DPOTrainer: discopop",),
    "dpo_norm": ("DPOTrainer: sigmoid_norm",),
    "f_dpo": ("DPOTrainer: sigmoid, f_divergence_type",),
    "ld_dpo": ("DPOTrainer: sigmoid, ld_alpha",),
    "wpo": ("DPOTrainer: sigmoid, use_weighting",),
    "cal_dpo": ("DPOTrainer: sigmoid, with sppo_hard beside it, for β = 1 only",),
    "cdpo": (
        "CPOTrainer: sigmoid, label_smoothing, without reference",
        "DPOTrainer: aot, label_smoothing, of one pair",
    ),
    "log_pi": ("CPOTrainer: sigmoid, cpo_alpha=0",),
    "entropy_probe": ("CPOTrainer: sigmoid, cpo_alpha=0, beta=1",),
    "cpo": ("CPOTrainer: sigmoid, whose likelihood term is a mean over the tokens of the batch",),
    "slic": ("CPOTrainer: hinge, which is β times ours, with the same likelihood term as cpo",),
    "simpo": ("CPOTrainer: simpo, cpo_alpha=0",),
    "alphapo": ("CPOTrainer: alphapo",),
    "orpo": ("ORPOTrainer, whose likelihood term is a mean over the tokens of the batch, prompts included",),
    "kto": ("KTOTrainer: kto, a mean over responses",),
}
"""Where TRL has each objective: the trainer, its loss_type, and in what it differs."""

NO_PREFERENCE = {"DPOTrainer: sft"}
"""What TRL has and we do not: the likelihood of chosen responses, which compares nothing."""

NOT_IN_TRL = {
    *("exponential", "r_dpo", "dpop", "h_dpo", "chi_po", "mi_dpo", "repo", "simper"),
    *("tdpo1", "tdpo2", "tis_dpo", "sparse_po", "epsilon_dpo", "alpha_dpo", "beta_dpo", "rmipo", "dpo_pg"),
}

ROUNDING = {torch.float64: 1e-12, torch.float32: 2e-5}
"""Of the largest entry of a gradient, or of the loss: a hundred or more roundings, for sums of up to 126 tokens; what
is seen is below a tenth of it. TRL computes ORPO's odds and α-divergences in float32 only."""

BETAS = (0.05, 0.3, 2.0)

VOCABULARY_SIZE = 5


# --- batches ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """Chosen and, below them, rejected sequences: a prompt, a completion, padding.

    Attributes:
        input_ids: the tokens, 0 where there is padding, [2B, L].
        attention_mask: 1 on prompt and completion, [2B, L].
        completion_mask: 1 on the completion, [2B, L].
        logits: the policy's, a leaf, [2B, L, V].
        ref_logits: the reference's, [2B, L, V].
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    completion_mask: torch.Tensor
    logits: torch.Tensor
    ref_logits: torch.Tensor

    def sides(self):
        """The chosen and the rejected sequences, as responses."""
        half = len(self.input_ids) // 2
        return responses(self, slice(None, half)), responses(self, slice(half, None))


def make_batch(size, seed=0, dtype=torch.float64, prompts=(1, 4), spread=0.7):
    """Random pairs whose prompts and completions differ in length, and whose two policies differ by the spread."""
    generator = torch.Generator().manual_seed(seed)
    prompt = torch.randint(*prompts, (size,), generator=generator).repeat(2)[:, None]
    completion = torch.randint(1, 10, (2 * size, 1), generator=generator)
    position = torch.arange(int((prompt + completion).max()))
    attention_mask = (position < prompt + completion).long()
    shape = (2 * size, len(position), VOCABULARY_SIZE)
    logits, change = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    ref_logits = logits + spread * change
    return Batch(
        input_ids=torch.randint(1, VOCABULARY_SIZE, shape[:2], generator=generator) * attention_mask,
        attention_mask=attention_mask,
        completion_mask=attention_mask * (position >= prompt),
        logits=logits.to(dtype).requires_grad_(),
        ref_logits=ref_logits.to(dtype),
    )


def responses(batch, rows):
    """What didsim's losses see of some sequences of a batch."""
    mask = batch.completion_mask[rows, 1:].bool()
    taken = batch.input_ids[rows, 1:, None]
    log_pi, log_ref = (logits[rows, :-1].log_softmax(-1) for logits in (batch.logits, batch.ref_logits))
    tokens = Tokens(
        log_pi.gather(-1, taken).squeeze(-1), mask, log_ref.gather(-1, taken).squeeze(-1), NextTokens(log_pi, log_ref)
    )
    return Responses(tokens.total(tokens.log_pi), tokens.total(tokens.log_ref), mask.sum(-1), tokens)


def our_loss(batch, name, **hyperparameters):
    return objective(name, **hyperparameters)(Pairs(*batch.sides())).mean()


def our_loss_without_reference(batch, name, **hyperparameters):
    """The loss of an objective on log-ratios, when log π_ref is 0."""
    sides = (replace(side, log_ref=torch.zeros_like(side.log_pi)) for side in batch.sides())
    return objective(name, **hyperparameters)(Pairs(*sides)).mean()


def assert_same(ours, trls, batch, dtype=None):
    """Hold two losses, and their gradients by the logits of every token, against each other."""
    gradients = [torch.autograd.grad(loss, batch.logits)[0] for loss in (ours, trls)]
    assert all(gradient.isfinite().all() for gradient in gradients)
    for got, want in ((ours, trls), gradients):
        scale = float(want.detach().abs().max())
        torch.testing.assert_close(got, want.to(got.dtype), rtol=0.0, atol=ROUNDING[dtype or trls.dtype] * scale)


TOGETHER = (make_batch(7),)
ALONE = tuple(make_batch(1, seed) for seed in range(1, 8))
AT_THE_REFERENCE = (make_batch(7, spread=0.0),)
FAR_AWAY = (make_batch(7, spread=5.0),)

on_batches = pytest.mark.parametrize(
    "batches",
    [TOGETHER, ALONE, AT_THE_REFERENCE, FAR_AWAY],
    ids=["seven_pairs_together", "each_pair_alone", "at_the_reference", "far_from_the_reference"],
)
every_beta = pytest.mark.parametrize("beta", BETAS)


# --- TRL --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trl():
    """The parts of TRL that are compared; imported when first needed, as it takes seconds."""
    pytest.importorskip("trl", minversion="1.16", reason="TRL comes with the extra 'parity'")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="You are importing from 'trl.experimental'")
        from trl import DPOTrainer, KTOConfig, KTOTrainer
        from trl.experimental.cpo import CPOConfig, CPOTrainer
        from trl.experimental.orpo import ORPOTrainer
        from trl.trainer.utils import add_fused_lm_head
    trainers = {kind.__name__: kind for kind in (DPOTrainer, CPOTrainer, ORPOTrainer, KTOTrainer)}
    return SimpleNamespace(**trainers, configs=(CPOConfig, KTOConfig), add_fused_lm_head=add_fused_lm_head)


class StandIn(torch.nn.Module):
    """Answers with given logits: as they are, or with what TRL's fused head makes of them when labels are given."""

    is_gradient_checkpointing = False

    def __init__(self, *known):
        super().__init__()
        self.known = known

    def forward(self, input_ids, labels=None, **_):
        [logits] = [logits for ids, logits in self.known if torch.equal(ids, input_ids)]
        return SimpleNamespace(logits=logits) if labels is None else fused_head(logits, labels)


def fused_head(logits, labels):
    """TRL's `FusedCausalLMOutput`, in the precision of the logits: TRL's own is of float32."""
    scored, taken = labels[:, 1:] != -100, labels[:, 1:, None].clamp(min=0)
    logits = logits[:, :-1]
    log_p = logits.log_softmax(-1)
    fields = {
        "log_probs": log_p.gather(-1, taken).squeeze(-1),
        "log_sum_sq_probs": (2 * log_p).logsumexp(-1),
        "entropy": -(log_p.exp() * log_p).sum(-1),
        "mean_logits": logits.mean(-1),
        "is_top1": logits.argmax(-1) == taken.squeeze(-1),
    }
    return SimpleNamespace(**{name: field.masked_fill(~scored, 0) for name, field in fields.items()})


def bare(trainer_class, **settings):
    """A trainer without its `__init__`, with no more than its loss reads."""
    trainer = object.__new__(trainer_class)
    alone = SimpleNamespace(device=torch.device("cpu"), gather=lambda x: x, gather_for_metrics=lambda x: x)
    vars(trainer).update(
        accelerator=alone,
        aux_loss_enabled=False,
        precompute_ref_logps=False,
        is_encoder_decoder=False,
        pad_token_id=0,
        padding_value=0,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
        **settings,
    )
    return trainer


@contextmanager
def exact_constants():
    """Let TRL hold numbers such as EXO's ε, of which it makes tensors, in float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def dpo_loss(trl, batch, *loss_types, loss_weights=None, discopop_tau=0.05, **settings):
    trainer = bare(
        trl.DPOTrainer,
        model=StandIn((batch.input_ids, batch.logits)),
        ref_model=StandIn((batch.input_ids, batch.ref_logits)),
        args=SimpleNamespace(discopop_tau=discopop_tau, gradient_checkpointing_kwargs=None),
        loss_types=loss_types,
        loss_weights=loss_weights or [1.0] * len(loss_types),
        **{
            "beta": 0.1,
            "label_smoothing": 0.0,
            "f_divergence_type": "reverse_kl",
            "f_alpha_divergence_coef": 0.5,
            "ld_alpha": None,
            "use_weighting": False,
            **settings,
        },
    )
    names = ("input_ids", "attention_mask", "completion_mask")
    with exact_constants():
        return trainer._compute_loss(trainer.model, {name: getattr(batch, name) for name in names}, False)


def side_inputs(batch, side, rows):
    """What TRL's collator makes of one side of a batch: padded to the longest of its own sequences."""
    width = int(batch.attention_mask[rows].sum(-1).max())
    ids, scored = batch.input_ids[rows, :width], batch.completion_mask[rows, :width].bool()
    return {
        f"{side}_input_ids": ids,
        f"{side}_attention_mask": batch.attention_mask[rows, :width],
        f"{side}_labels": torch.where(scored, ids, -100),
    }


def reference_free_loss(trainer, batch):
    """The loss of a CPO or ORPO trainer."""
    half = len(batch.input_ids) // 2
    chosen = side_inputs(batch, "chosen", slice(None, half))
    rejected = side_inputs(batch, "rejected", slice(half, None))
    return trainer.get_batch_loss_metrics(StandIn((batch.input_ids, batch.logits)), {**chosen, **rejected})[0]


def cpo_loss(trl, batch, loss_type, **settings):
    defaults = {"beta": 0.1, "label_smoothing": 0.0, "cpo_alpha": 0.0, "simpo_gamma": 0.5, "alpha": 0.0}
    return reference_free_loss(bare(trl.CPOTrainer, loss_type=loss_type, **{**defaults, **settings}), batch)


def orpo_loss(trl, batch, beta):
    return reference_free_loss(bare(trl.ORPOTrainer, beta=beta), batch)


def kto_loss(trl, batch, labels, loss_type, mismatched=None, **settings):
    """The loss of responses that are desirable or not; the mismatched ones estimate the KL divergence."""
    shown = {"": batch} if mismatched is None else {"": batch, "KL_": mismatched}
    trainer = bare(
        trl.KTOTrainer,
        model=StandIn(*((part.input_ids, part.logits) for part in shown.values())),
        ref_model=StandIn(*((part.input_ids, part.ref_logits) for part in shown.values())),
        args=SimpleNamespace(gradient_checkpointing_kwargs=None),
        loss_type=loss_type,
        calculate_KL=mismatched is not None,
        **{"desirable_weight": 1.0, "undesirable_weight": 1.0, **settings},
    )
    names = ("input_ids", "attention_mask", "completion_mask")
    inputs = {f"{kind}{name}": getattr(part, name) for kind, part in shown.items() for name in names}
    return trainer._compute_loss(trainer.model, {**inputs, "label": labels}, False)


# --- the names ---------------------------------------------------------------------------------------------


def test_every_objective_is_known_to_be_in_trl_or_not_to_be():
    assert not NOT_IN_TRL & set(IN_TRL)
    assert NOT_IN_TRL | set(IN_TRL) == {record.name for record in BUILT_IN}


def test_every_loss_type_of_trl_is_ours_under_some_name(trl):
    with pytest.raises(ValueError, match="Should be one of") as refusal:
        dpo_loss(trl, TOGETHER[0], "unknown")
    theirs = {f"DPOTrainer: {name}" for name in re.findall(r"'(\w+)'", str(refusal.value))}
    for config in trl.configs:
        trainer = config.__name__.replace("Config", "Trainer")
        theirs |= {f"{trainer}: {name}" for name in config.__dataclass_fields__["loss_type"].metadata["choices"]}
    ours = {place.partition(",")[0] for places in IN_TRL.values() for place in places}
    assert ours - {"ORPOTrainer"} == theirs - NO_PREFERENCE


def test_the_stand_in_answers_as_the_fused_head_of_a_language_model(trl):
    batch = make_batch(7, dtype=torch.float32)
    labels = batch.input_ids.masked_fill(batch.completion_mask == 0, -100)
    names = ("log_probs", "log_sum_sq_probs", "entropy", "mean_logits", "is_top1")
    model = LanguageModel(batch.logits)
    trl.add_fused_lm_head(model, outputs=names)
    want = model.forward(labels=labels, fused_lm_head=True)
    for name in names:
        torch.testing.assert_close(getattr(fused_head(batch.logits, labels), name), getattr(want, name))


class LanguageModel:
    """What TRL's `add_fused_lm_head` asks of a model: here a head that passes on the logits that it is given."""

    def __init__(self, logits):
        self.config = SimpleNamespace(get_text_config=lambda: self.config)
        self.base_model = lambda **_: SimpleNamespace(last_hidden_state=logits)
        self.get_output_embeddings = lambda: SimpleNamespace(weight=torch.eye(VOCABULARY_SIZE), bias=None)

    def forward(self):
        raise NotImplementedError


# --- DPOTrainer -------------------------------------------------------------------------------------------

SAME_PARAMETERS = {
    # ours: (TRL's loss_type, what ours calls TRL's beta, other hyperparameters of ours)
    "dpo": ("sigmoid", "beta", {}),
    "hinge": ("hinge", "beta", {}),
    "ipo": ("ipo", "tau", {"aggregation": "mean"}),
    "nca": ("nca_pair", "beta", {}),
    "bco": ("bco_pair", "beta", {}),
    "sppo": ("sppo_hard", "beta", {}),
    "aot": ("aot", "beta", {}),
    "aot_unpaired": ("aot_unpaired", "beta", {}),
    "apo_zero": ("apo_zero", "beta", {}),
    "apo_down": ("apo_down", "beta", {}),
    "dpo_norm": ("sigmoid_norm", "beta", {}),
}


@on_batches
@every_beta
@pytest.mark.parametrize("name", SAME_PARAMETERS)
def test_dpo_trainer_has_the_same_loss_and_gradient(trl, name, beta, batches):
    loss_type, scale, options = SAME_PARAMETERS[name]
    for batch in batches:
        assert_same(
            our_loss(batch, name, **{scale: beta}, **options), dpo_loss(trl, batch, loss_type, beta=beta), batch
        )


@on_batches
@every_beta
@pytest.mark.parametrize("label_smoothing", [1e-3, 0.1, 0.4])
@pytest.mark.parametrize(("name", "loss_type"), [("exo", "exo_pair"), ("robust_dpo", "robust")])
def test_dpo_trainer_smooths_labels_in_the_same_way(trl, name, loss_type, label_smoothing, beta, batches):
    for batch in batches:
        ours = our_loss(batch, name, beta=beta, label_smoothing=label_smoothing)
        assert_same(ours, dpo_loss(trl, batch, loss_type, beta=beta, label_smoothing=label_smoothing), batch)


@on_batches
@every_beta
@pytest.mark.parametrize("tau", [0.05, 1.0])
def test_discopop_is_the_same(trl, tau, beta, batches):
    for batch in batches:
        ours = our_loss(batch, "discopop", beta=beta, tau=tau)
        assert_same(ours, dpo_loss(trl, batch, "discopop", beta=beta, discopop_tau=tau), batch)


@on_batches
@every_beta
@pytest.mark.parametrize(
    ("ours", "trls"), [("reverse_kl", "reverse_kl"), ("forward_kl", "forward_kl"), ("js", "js_divergence")]
)
def test_f_divergences_are_the_same(trl, ours, trls, beta, batches):
    for batch in batches:
        loss = our_loss(batch, "f_dpo", beta=beta, divergence=ours)
        assert_same(loss, dpo_loss(trl, batch, "sigmoid", beta=beta, f_divergence_type=trls), batch)


@on_batches
@every_beta
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 1.5])
def test_alpha_divergences_are_the_same_in_the_single_precision_that_trl_asks_for(trl, alpha, beta, batches):
    for batch in batches:
        single = replace(
            batch, logits=batch.logits.detach().float().requires_grad_(), ref_logits=batch.ref_logits.float()
        )
        ours = our_loss(single, "f_dpo", beta=beta, divergence="alpha", alpha=alpha)
        settings = {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": alpha}
        assert_same(ours, dpo_loss(trl, single, "sigmoid", beta=beta, **settings), single)


@on_batches
@every_beta
@pytest.mark.parametrize("ld_alpha", [0.0, 0.3, 1.0])
def test_length_desensitised_dpo_is_the_same(trl, ld_alpha, beta, batches):
    for batch in batches:
        ours = our_loss(batch, "ld_dpo", beta=beta, ld_alpha=ld_alpha)
        assert_same(ours, dpo_loss(trl, batch, "sigmoid", beta=beta, ld_alpha=ld_alpha), batch)


@on_batches
@every_beta
def test_weighted_preference_optimisation_is_the_same(trl, beta, batches):
    for batch in batches:
        assert_same(
            our_loss(batch, "wpo", beta=beta), dpo_loss(trl, batch, "sigmoid", beta=beta, use_weighting=True), batch
        )


@on_batches
@pytest.mark.parametrize("weight", [0.5, 1.0])
def test_calibrated_dpo_is_sigmoid_and_sppo_hard_together_when_beta_is_1(trl, weight, batches):
    for batch in batches:
        trls = dpo_loss(trl, batch, "sigmoid", "sppo_hard", beta=1.0, loss_weights=[1.0, weight])
        assert_same(our_loss(batch, "cal_dpo", beta=1.0, calibration_weight=weight), trls, batch)


def test_dpo_trainer_smooths_labels_of_four_losses_and_ignores_it_for_the_others(trl):
    [batch] = TOGETHER
    types = {place.split()[1].strip(",") for places in IN_TRL.values() for place in places if place.startswith("DPO")}
    smoothed = {
        name
        for name in types
        if dpo_loss(trl, batch, name, label_smoothing=0.1) != dpo_loss(trl, batch, name, label_smoothing=0.3)
    }
    assert smoothed == {"exo_pair", "robust", "aot", "aot_unpaired"}


@every_beta
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 0.4])
@pytest.mark.parametrize("loss_type", ["aot", "aot_unpaired"])
def test_smoothed_aot_is_conservative_dpo_of_sorted_margins(trl, loss_type, label_smoothing, beta):
    [batch] = TOGETHER
    chosen, rejected = batch.sides()
    above, below = chosen.log_ratio, rejected.log_ratio
    if loss_type == "aot":
        above, below = chosen.log_pi - rejected.log_pi, chosen.reference - rejected.reference
    zeros = torch.zeros_like(above)
    coupled = Pairs(Responses(above.sort().values, zeros), Responses(below.sort().values, zeros))
    ours = objective("cdpo", beta=beta, label_smoothing=label_smoothing)(coupled).mean()
    assert_same(ours, dpo_loss(trl, batch, loss_type, beta=beta, label_smoothing=label_smoothing), batch)


@every_beta
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 0.4])
def test_smoothed_aot_of_a_single_pair_is_conservative_dpo(trl, label_smoothing, beta):
    for batch in ALONE:
        ours = our_loss(batch, "cdpo", beta=beta, label_smoothing=label_smoothing)
        assert_same(ours, dpo_loss(trl, batch, "aot", beta=beta, label_smoothing=label_smoothing), batch)


@pytest.mark.parametrize(
    ("name", "loss_type", "settings"),
    [("ipo", "ipo", {"tau": 0.3, "aggregation": "mean"}), ("dpo_norm", "sigmoid_norm", {"beta": 0.3})],
)
def test_without_a_prompt_trl_divides_by_one_token_more_than_it_scores(trl, name, loss_type, settings):
    batch = make_batch(7, prompts=(0, 1))
    chosen, rejected = (replace(side, length=side.length + 1) for side in batch.sides())
    ours = objective(name, **settings)(Pairs(chosen, rejected)).mean()
    assert_same(ours, dpo_loss(trl, batch, loss_type, beta=0.3), batch)


# --- CPOTrainer and ORPOTrainer ---------------------------------------------------------------------------


def mean_length(side):
    return float(side.length.double().mean())


@on_batches
@every_beta
def test_cpo_trainer_without_likelihood_term_is_our_log_pi(trl, beta, batches):
    for batch in batches:
        assert_same(our_loss(batch, "log_pi", beta=beta), cpo_loss(trl, batch, "sigmoid", beta=beta), batch)


@on_batches
def test_cpo_trainer_at_beta_1_has_the_loss_of_the_entropy_probe(trl, batches):
    for batch in batches:
        assert_same(our_loss(batch, "entropy_probe"), cpo_loss(trl, batch, "sigmoid", beta=1.0), batch)


@on_batches
@every_beta
@pytest.mark.parametrize("cpo_alpha", [0.5, 1.0])
def test_cpo_trainers_likelihood_weight_is_ours_times_the_mean_chosen_length(trl, cpo_alpha, beta, batches):
    for batch in batches:
        lam = cpo_alpha / mean_length(batch.sides()[0])
        trls = cpo_loss(trl, batch, "sigmoid", beta=beta, cpo_alpha=cpo_alpha)
        assert_same(our_loss(batch, "cpo", beta=beta, lam=lam), trls, batch)


@on_batches
@every_beta
@pytest.mark.parametrize("label_smoothing", [0.1, 0.4])
def test_smoothed_cpo_is_conservative_dpo_without_reference(trl, label_smoothing, beta, batches):
    for batch in batches:
        ours = our_loss_without_reference(batch, "cdpo", beta=beta, label_smoothing=label_smoothing)
        assert_same(ours, cpo_loss(trl, batch, "sigmoid", beta=beta, label_smoothing=label_smoothing), batch)


@on_batches
@every_beta
@pytest.mark.parametrize(("name", "scale", "options"), [("hinge", "beta", {}), ("ipo", "tau", {"aggregation": "mean"})])
def test_hinge_and_ipo_of_cpo_trainer_are_ours_without_reference(trl, name, scale, options, beta, batches):
    for batch in batches:
        ours = our_loss_without_reference(batch, name, **{scale: beta}, **options)
        assert_same(ours, cpo_loss(trl, batch, name, beta=beta, label_smoothing=0.3), batch)


@on_batches
@every_beta
@pytest.mark.parametrize("cpo_alpha", [0.0, 0.5])
def test_hinge_of_cpo_trainer_is_beta_times_slic_with_a_margin_of_1_over_beta(trl, cpo_alpha, beta, batches):
    for batch in batches:
        lam = cpo_alpha / (beta * mean_length(batch.sides()[0]))
        ours = beta * our_loss(batch, "slic", delta=1.0 / beta, lam=lam)
        assert_same(ours, cpo_loss(trl, batch, "hinge", beta=beta, cpo_alpha=cpo_alpha), batch)


@on_batches
@every_beta
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.6])
def test_the_margin_of_simpo_is_absolute_in_both(trl, gamma, beta, batches):
    for batch in batches:
        ours = our_loss(batch, "simpo", beta=beta, gamma=gamma)
        assert_same(ours, cpo_loss(trl, batch, "simpo", beta=beta, simpo_gamma=gamma), batch)


@on_batches
@every_beta
@pytest.mark.parametrize("label_smoothing", [0.1, 0.4])
def test_smoothed_simpo_is_conservative_dpo_of_means_per_token(trl, label_smoothing, beta, batches):
    for batch in batches:
        chosen, rejected = (Responses(side.mean_log_pi, torch.zeros_like(side.log_pi)) for side in batch.sides())
        asked = replace(chosen, log_ref=chosen.reference + 0.5 / beta)
        ours = objective("cdpo", beta=beta, label_smoothing=label_smoothing)(Pairs(asked, rejected)).mean()
        trls = cpo_loss(trl, batch, "simpo", beta=beta, simpo_gamma=0.5, label_smoothing=label_smoothing)
        assert_same(ours, trls, batch)


@on_batches
@every_beta
@pytest.mark.parametrize("alpha", [-0.25, 0.1, 0.25])
def test_alphapo_is_the_same(trl, alpha, beta, batches):
    # CPOConfig turns loss_type="alphapo" into "simpo" with cpo_alpha=0
    for batch in batches:
        ours = our_loss(batch, "alphapo", beta=beta, gamma=0.3, alpha=alpha)
        assert_same(ours, cpo_loss(trl, batch, "simpo", beta=beta, simpo_gamma=0.3, alpha=alpha), batch)


def prompt_and_chosen_nll(batch):
    """The negative log-likelihood of every token but the first of prompts and chosen responses, as one mean."""
    half = len(batch.input_ids) // 2
    rows = slice(None, half)
    everything = replace(batch, completion_mask=batch.attention_mask)
    whole = responses(everything, rows)
    return -whole.log_pi.sum() / whole.length.sum()


@on_batches
@pytest.mark.parametrize("lam", [0.1, 1.0])
def test_orpo_has_the_same_odds_ratio_beside_the_likelihood_of_prompts_and_chosen_responses(trl, lam, batches):
    for batch in batches:
        odds_ratio = our_loss(batch, "orpo", lam=lam) - our_loss(batch, "orpo", lam=0.0)
        assert_same(odds_ratio + prompt_and_chosen_nll(batch), orpo_loss(trl, batch, beta=lam), batch, torch.float32)


@pytest.mark.parametrize("lam", [0.1, 1.0])
def test_orpo_of_a_single_pair_is_the_same_when_the_prompt_is_a_start_token(trl, lam):
    for seed in range(7):
        batch = make_batch(1, seed, prompts=(1, 2))
        assert_same(our_loss(batch, "orpo", lam=lam), orpo_loss(trl, batch, beta=lam), batch, torch.float32)


def test_orpo_has_a_gradient_where_a_probability_rounds_to_1_and_trl_has_none(trl):
    batch = make_batch(1, prompts=(1, 2), dtype=torch.float32)
    with torch.no_grad():
        batch.logits[:, :-1].scatter_(-1, batch.input_ids[:, 1:, None], 25.0)
    ours, trls = (
        torch.autograd.grad(loss, batch.logits)[0]
        for loss in (our_loss(batch, "orpo", lam=0.1), orpo_loss(trl, batch, beta=0.1))
    )
    assert ours.isfinite().all()
    assert trls.isnan().any()


# --- KTOTrainer -------------------------------------------------------------------------------------------

LABELS = {
    "balanced": [True, False, False, True, True, False],
    "mostly_rejected": [False, False, True, False, True, False],
}


def every_pair_of(batch, labels, mean_kl):
    """All pairs of a desirable and an undesirable response."""
    shown = responses(batch, slice(None))
    sides = (
        Responses(shown.log_pi[row], shown.log_ref[row], mean_kl=mean_kl)
        for row in (labels.nonzero(), (~labels).nonzero().T)
    )
    return Pairs(*sides)


def shares(labels):
    """The weights of desirable and undesirable responses in a mean over all of them."""
    return float(labels.double().mean()), float((~labels).double().mean())


@every_beta
@pytest.mark.parametrize("labels", [torch.tensor(labels) for labels in LABELS.values()], ids=LABELS)
@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.0, 1.5)])
@pytest.mark.parametrize("positive_kl", [True, False], ids=["positive_kl", "kl_clamped_at_0"])
def test_kto_is_a_mean_over_responses_of_ours(trl, positive_kl, weights, labels, beta):
    batch, mismatched = make_batch(3), estimates(positive=positive_kl)
    z = responses(mismatched, slice(None)).log_ratio.mean().clamp(min=0.0).detach()
    assert (z > 0) == positive_kl
    lam_w, lam_l = (weight * share for weight, share in zip(weights, shares(labels), strict=True))
    ours = objective("kto", beta=beta, lam_w=lam_w, lam_l=lam_l)(every_pair_of(batch, labels, z)).mean()
    desirable, undesirable = weights
    settings = {"beta": beta, "desirable_weight": desirable, "undesirable_weight": undesirable}
    assert_same(ours, kto_loss(trl, batch, labels, "kto", mismatched, **settings), batch)


def estimates(positive):
    """Mismatched responses whose mean log-ratio is positive, or negative."""
    batch = make_batch(3, seed=9)
    is_positive = responses(batch, slice(None)).log_ratio.mean() > 0
    if is_positive == positive:
        return batch
    return replace(batch, logits=batch.ref_logits.requires_grad_(), ref_logits=batch.logits.detach())


@every_beta
def test_kto_of_as_many_chosen_as_rejected_responses_is_half_of_ours(trl, beta):
    batch, mismatched = make_batch(3), estimates(positive=True)
    z = responses(mismatched, slice(None)).log_ratio.mean().detach()
    sides = (replace(side, mean_kl=z) for side in batch.sides())
    ours = 0.5 * objective("kto", beta=beta)(Pairs(*sides)).mean()
    labels = torch.tensor([True] * 3 + [False] * 3)
    assert_same(ours, kto_loss(trl, batch, labels, "kto", mismatched, beta=beta), batch)


@every_beta
def test_unpaired_apo_zero_is_half_of_ours(trl, beta):
    batch = make_batch(3)
    labels = torch.tensor([True] * 3 + [False] * 3)
    trls = kto_loss(trl, batch, labels, "apo_zero_unpaired", beta=beta)
    assert_same(0.5 * our_loss(batch, "apo_zero", beta=beta), trls, batch)
