"""What other libraries compute under the name of an objective: data, each row of it read from a source.

Read in November 2026: TRL 1.16.0 as installed; the wheels of torchtune 0.6.1, Liger-Kernel 0.8.5, LLaMA-Factory 0.9.5
and OpenRLHF 0.11.2; and, in a stored copy of public repositories, the files and commits that `Implementation.source`
names, which need not be the newest. The methods' own repositories are marked as the authors'.

A row says `same` when, under didsim's default options and at equal hyperparameters, the library computes the same
function of the same log-probabilities, whatever it calls them and however it averages pairs. Default values of numbers
do not count, nor do options that are off unless asked for: label smoothing, a likelihood term of weight 0.

An objective has no row when no public implementation was found: then it is not known that there is none. DPOP's
authors (abacusai/smaug) publish a text and models, no loss.

>>> [(row.library, row.same) for row in IMPLEMENTATIONS["ipo"][:2]]
[('TRL', False), ('TRL', False)]
"""

from collections.abc import Mapping
from types import MappingProxyType

from didsim.objectives import _sources as at
from didsim.objectives._sources import Implementation

IMPLEMENTATIONS: Mapping[str, tuple[Implementation, ...]] = MappingProxyType(
    {
        "dpo": (
            at.TRL_DPO(
                "DPOTrainer: loss_type='sigmoid'", True, "S(β(h_w − h_l)); label_smoothing is accepted and not read"
            ),
            at.DPO_AUTHORS("preference_loss", True, "S(β(h_w − h_l)); reference_free=True drops π_ref"),
            at.HALOS("DPOTrainer", True, "S(β h_w − β h_l)"),
            at.OPENRLHF("DPOLoss", True, "S(β(h_w − h_l))"),
            at.TORCHTUNE("DPOLoss", True, "S(β(h_w − h_l))"),
            at.LIGER("LigerFusedLinearDPOLoss", True, "S(β(h_w − h_l)), summed and divided by the number of pairs"),
            at.PADDLE("loss_type='sigmoid'", True, "S(β(h_w − h_l)), times pref_loss_ratio"),
            at.OPEN_INSTRUCT("loss_type='dpo'", True, "S(β(h_w − h_l))"),
        ),
        "cdpo": (
            at.TRL_CPO(
                "CPOTrainer: label_smoothing",
                False,
                "without π_ref, and with the token-mean NLL; DPOTrainer's 'sigmoid' does not read label_smoothing",
            ),
            at.DPO_AUTHORS("label_smoothing", True, "(1−ε) S(βD) + ε S(−βD)"),
            at.HALOS("CDPOTrainer", True, "(1−ε) S(βD) + ε S(−βD); ε is loss.epsilon"),
            at.OPENRLHF("DPOLoss(label_smoothing=…)", True, "(1−ε) S(βD) + ε S(−βD)"),
            at.TORCHTUNE("DPOLoss(label_smoothing=…)", True, "(1−ε) S(βD) + ε S(−βD)"),
            at.PADDLE("label_smoothing", True, "(1−ε) S(βD) + ε S(−βD)"),
            at.OPEN_INSTRUCT("label_smoothing", True, "(1−ε) S(βD) + ε S(−βD)"),
        ),
        "robust_dpo": (
            at.TRL_DPO("DPOTrainer: loss_type='robust'", True, "[(1−ε) S(βD) − ε S(−βD)] / (1−2ε)"),
            at.LIGER("loss_type='robust'", True, "[(1−ε) S(βD) − ε S(−βD)] / (1−2ε)"),
            at.oxrl("robust_dpo.py")(
                "RobustDPO",
                False,
                "[(1−ε) S(βD) + ε S(−βD)] / (1−2ε): with a plus it is cdpo rescaled, and not unbiased",
            ),
        ),
        "ipo": (
            at.TRL_DPO(
                "DPOTrainer: loss_type='ipo'", False, "(h_w/|y_w| − h_l/|y_l| − 1/(2β))²: aggregation='mean'; τ is beta"
            ),
            at.TRL_CPO(
                "CPOTrainer: loss_type='ipo'",
                False,
                "(a_w − a_l − 1/(2β))² plus the token-mean NLL: means, and no π_ref",
            ),
            at.TRL_ONLINE(
                "OnlineDPOTrainer: loss_type='ipo'", True, "(D − 1/(2β))²: sums, unlike DPOTrainer; τ is beta"
            ),
            at.MITCHELL("preference_loss(ipo=True)", True, "(D − 1/(2β))²: sums; τ is beta"),
            at.HALOS("IPOTrainer", False, "(h_w/|y_w| − h_l/|y_l| − 1/(2τ))²: aggregation='mean'"),
            at.OPENRLHF("DPOLoss(ipo=True)", True, "(D − 1/(2β))²: sums; τ is beta"),
            at.PADDLE("loss_type='ipo'", False, "(h_w/|y_w| − h_l/|y_l| − 1/(2β))²: aggregation='mean'; τ is beta"),
            at.SAMPO("loss_type='ipo'", True, "(D − 1/(2β))²: sums; τ is beta"),
        ),
        "hinge": (
            at.TRL_DPO("DPOTrainer: loss_type='hinge'", True, "max(0, 1 − βD)"),
            at.TORCHTUNE("RSOLoss", True, "max(0, 1 − βD); β is gamma"),
            at.LIGER("loss_type='hinge'", True, "max(0, 1 − βD)"),
            at.PADDLE("loss_type='hinge'", True, "max(0, 1 − βD)"),
            at.SAMPO("loss_type='hinge'", True, "max(0, 1 − βD), under the name of SLiC"),
        ),
        "exponential": (at.oxrl("gpo.py")("GPO, gpo_loss_type='exponential'", True, "e^{−βD}"),),
        "exo": (
            at.TRL_DPO(
                "DPOTrainer: loss_type='exo_pair'", True, "q log(q/(1−ε)) + (1−q) log((1−q)/ε); ε is label_smoothing"
            ),
            at.EXO_AUTHORS(
                "exact_loss, loss_type='exo-pref'",
                False,
                "q log q + (1−q)(log(1−q) + 10): the label's log-probabilities are 0 and −10, whatever ε",
            ),
            at.LIGER("loss_type='exo_pair'", True, "q log(q/(1−ε)) + (1−q) log((1−q)/ε); ε is label_smoothing"),
        ),
        "discopop": (
            at.TRL_DPO(
                "DPOTrainer: loss_type='discopop'", True, "(1−m) S(βD) + m e^{−βD}, m = σ(βD/τ); τ is discopop_tau"
            ),
            at.DISCOPOP_AUTHORS(
                "loss_type='lrml'", True, "the same with τ = 0.05; an older function there takes m = σ(D)"
            ),
            at.LIGER("loss_type='discopop'", True, "(1−m) S(βD) + m e^{−βD}, m = σ(βD/τ); τ is discopop_tau"),
        ),
        "r_dpo": (
            at.SAMPO("loss_type='lenN'", True, "S(βD + α(|y_w| − |y_l|)); α is lenN_lambda"),
            at.ALPHA_DPO_BASELINES(
                "loss_type='rDPO'",
                False,
                "S(β[D − α(B − B)]): the sign is minus, and both 'lengths' are the batch size, so that DPO is left",
            ),
            at.oxrl("rdpo.py")("RDPO", False, "S(βD − α(|y_w| − |y_l|)): the opposite sign"),
        ),
        "dpop": (
            at.PADDLE("loss_type='dpop'", True, "S(β[D − λ max(0, −h_w)]); λ is dpop_lambda"),
            at.SAMPO("loss_type='dpop'", True, "S(β[D − λ max(0, −h_w)]); λ is dpop_lambda"),
            at.oxrl("dpop.py")("DPOP", True, "S(β[D − λ max(0, −h_w)]); λ = 5 by default"),
        ),
        "h_dpo": (at.oxrl("hdpo.py")("HDPO", True, "S(αβ(log π_w − log π_l) − β(log π_ref,w − log π_ref,l)); α is η"),),
        "dpo_norm": (
            at.TRL_DPO("DPOTrainer: loss_type='sigmoid_norm'", True, "S(β(h_w/|y_w| − h_l/|y_l|))"),
            at.OPEN_INSTRUCT("loss_type='dpo_norm'", True, "S(β(h_w/|y_w| − h_l/|y_l|))"),
        ),
        "f_dpo": (
            at.TRL_DPO(
                "DPOTrainer: f_divergence_type",
                True,
                "all four divergences; the exponent of α's is cut at 80 in float32",
            ),
            at.F_DPO_AUTHORS(
                "loss.divergence",
                False,
                "as here but for alpha_divergence: its f′ is −e^{−αh}/α up to a constant, so its α is 1 − α here",
            ),
        ),
        "chi_po": (
            at.oxrl("chipo.py")(
                "ChiPO", False, "S(β[φ(e^{h_w}) − φ(e^{h_l})]), not cut to ±2R; h in e^h is cut to ±20"
            ),
        ),
        "mi_dpo": (),
        "cal_dpo": (
            at.CAL_DPO_AUTHORS(
                "loss_type='Cal-DPO'", False, "calibration_weight=0.5, and squares averaged over the batch"
            ),
            at.CAL_DPO_FIRST("loss.name='cal_dpo', shift=0.5", True, "S(D) + (h_w − 1/(2β))² + (h_l + 1/(2β))²"),
            at.oxrl("caldpo.py")("CalDPO", True, "S(D) + λ[(h_w − 1/(2β))² + (h_l + 1/(2β))²]; λ = 1 by default"),
        ),
        "sppo": (
            at.TRL_DPO("DPOTrainer: loss_type='sppo_hard'", True, "(h_w − 1/(2β))² + (h_l + 1/(2β))²"),
            at.SPPO_AUTHORS(
                "loss_type='sppo'",
                False,
                "½[(h_w − (P_w − ½)/β)² + (h_l − (P_l − ½)/β)²], P from a preference model: half of ours at P = 1, 0",
            ),
            at.LIGER("loss_type='sppo_hard'", True, "(h_w − 1/(2β))² + (h_l + 1/(2β))²"),
            at.PADDLE("loss_type='sppo_hard'", True, "(h_w − 1/(2β))² + (h_l + 1/(2β))²"),
            at.SAMPO("loss_type='sppo_hard'", True, "(h_w − 1/(2β))² + (h_l + 1/(2β))²"),
        ),
        "kto": (
            at.TRL_KTO(
                "KTOTrainer: loss_type='kto'",
                True,
                "z is the mean log-ratio of mismatched pairs, detached, at least 0; a mean over responses, not pairs",
            ),
            at.HALOS_AUTHORS(
                "KTOTrainer",
                True,
                "z is the mean log-ratio of mismatched pairs, detached, at least 0; unpaired responses",
            ),
            at.LIGER_KTO("LigerFusedLinearKTOLoss", True, "λ_w = λ_l = 1; z is an argument, taken as 0 if left out"),
            at.PADDLE(
                "loss_type='kto_pair'",
                False,
                "z is max(0, mean h) of the other side's own responses, and gradient flows through it; no λ",
            ),
        ),
        "bco": (
            at.TRL_DPO("DPOTrainer: loss_type='bco_pair'", True, "S(β h_w) + S(−β h_l): no reward shift δ"),
            at.LIGER("loss_type='bco_pair'", True, "S(β h_w) + S(−β h_l): no reward shift δ"),
            at.NCA_ELSEWHERE("loss_type='biasedNCA'", True, "S(β h_w) + S(−β h_l)"),
            at.LLAMA_FACTORY(
                "pref_bco_weight",
                False,
                "S(β h_w − δ) + S(δ − β h_l), δ the running mean of rewards; blended with the DPO loss",
            ),
            at.SAMPO("loss_type='bco_pair'", False, "S(β h_w − δ) + S(δ − β h_l), δ the running mean of rewards"),
        ),
        "nca": (
            at.TRL_DPO("DPOTrainer: loss_type='nca_pair'", True, "S(c) + ½ S(−c) + ½ S(−r)"),
            at.NCA_AUTHORS("loss_type='NCA'", True, "S(c) + ½ S(−c) + ½ S(−r)"),
            at.LIGER("loss_type='nca_pair'", True, "S(c) + ½ S(−c) + ½ S(−r)"),
            at.PADDLE("loss_type='nca_pair'", True, "S(c) + ½ S(−c) + ½ S(−r)"),
            at.SAMPO("loss_type='nca_pair'", True, "S(c) + ½ S(−c) + ½ S(−r)"),
        ),
        "apo_zero": (
            at.TRL_DPO("DPOTrainer: loss_type='apo_zero'", True, "1 − σ(c) + σ(r)"),
            at.TRL_KTO(
                "KTOTrainer: loss_type='apo_zero_unpaired'",
                True,
                "1 − σ(c) or σ(r) of each response; a mean over responses",
            ),
            at.LIGER("loss_type='apo_zero'", True, "1 − σ(c) + σ(r)"),
        ),
        "apo_down": (
            at.TRL_DPO("DPOTrainer: loss_type='apo_down'", True, "σ(c) + 1 − σ(c − r)"),
            at.LIGER("loss_type='apo_down'", True, "σ(c) + 1 − σ(c − r)"),
        ),
        "log_pi": (
            at.TRL_CPO("CPOTrainer: loss_type='sigmoid', cpo_alpha=0", True, "S(β(log π_w − log π_l))"),
            at.MITCHELL("reference_free=True", True, "S(β(log π_w − log π_l)): a uniform reference"),
            at.LIGER_NLL("LigerFusedLinearCPOLoss, compute_nll_loss=False", True, "S(β(log π_w − log π_l))"),
        ),
        "entropy_probe": (),
        "slic": (
            at.HALOS(
                "SLiCTrainer",
                False,
                "max(0, δ − log π_w + log π_l) of a pair, plus −λ log π_w of each token, not summed: arrays broadcast",
            ),
            at.HALOS_FIRST(
                "SLiCTrainer", True, "max(0, δ − log π_w + log π_l) − λ log π_w; δ is beta, λ is lambda_coef"
            ),
            at.TRL_CPO(
                "CPOTrainer: loss_type='hinge'",
                False,
                "max(0, 1 − β(log π_w − log π_l)) plus the token-mean NLL: δ is 1/β",
            ),
        ),
        "cpo": (
            at.TRL_CPO(
                "CPOTrainer", False, "S(β(log π_w − log π_l)) + cpo_alpha × NLL per token, mean over the batch's tokens"
            ),
            at.CPO_AUTHORS(
                "CPOTrainer", False, "S(β(log π_w − log π_l)) + NLL per token, mean over the batch's tokens"
            ),
            at.LIGER_NLL(
                "LigerFusedLinearCPOLoss",
                False,
                "S(β(log π_w − log π_l)) + alpha × NLL per token, mean over the batch's tokens",
            ),
        ),
        "orpo": (
            at.TRL_ORPO(
                "ORPOTrainer", False, "the NLL is a mean over all tokens of the batch, prompts included; λ is beta"
            ),
            at.ORPO_AUTHORS(
                "ORPOTrainer",
                False,
                "the NLL is a mean over the batch's tokens, prompts included unless disable_prompt_loss; λ is alpha",
            ),
            at.LIGER_NLL(
                "LigerFusedLinearORPOLoss",
                False,
                "the NLL is a mean over the batch's tokens; 1 − p by log1p(−e^a); λ is beta",
            ),
            at.LLAMA_FACTORY("pref_loss='orpo'", True, "−a_w + λ S(log odds); 1 − p by log1p(−e^a); λ is pref_beta"),
            at.HALOS_FIRST("ORPOTrainer", True, "−a_w + λ S(log odds); 1 − p by log(1 − e^a); λ is OR_scale"),
            at.PADDLE(
                "loss_type='or'",
                False,
                "pref_loss_ratio × S(log odds) + sft_loss_ratio × NLL, a mean over the batch's tokens",
            ),
        ),
        "simpo": (
            at.TRL_CPO(
                "CPOTrainer: loss_type='simpo'",
                False,
                "γ is absolute (simpo_gamma), but the token-mean NLL is added unless cpo_alpha=0",
            ),
            at.SIMPO_AUTHORS("SimPOTrainer", False, "S(β(a_w − a_l) − γ) with γ = β × gamma_beta_ratio: the ratio γ/β"),
            at.HALOS("SimPOTrainer", False, "S(β(a_w − a_l) − γ) with γ = β × gamma_beta_ratio: the ratio γ/β"),
            at.LLAMA_FACTORY("pref_loss='simpo'", True, "S(β(a_w − a_l) − γ); γ is simpo_gamma"),
            at.LIGER_NLL(
                "LigerFusedLinearSimPOLoss",
                False,
                "γ is absolute, but the token-mean NLL is added unless compute_nll_loss=False",
            ),
            at.PADDLE("loss_type='simpo'", True, "S(β(a_w − a_l) − γ); γ is simpo_gamma"),
            at.OPEN_INSTRUCT(
                "loss_type='simpo'", False, "S(β(a_w − a_l) − γ) with γ = β × gamma_beta_ratio: the ratio γ/β"
            ),
        ),
        "alphapo": (
            at.TRL_CPO(
                "CPOTrainer: loss_type='alphapo'",
                True,
                "S(β(r_w − r_l) − γ), r = (1 − e^{−α a})/α; α = 0 by default: SimPO",
            ),
            at.oxrl("alphapo.py")("AlphaPO", True, "S(β(r_w − r_l) − γ), r = (1 − e^{−α a})/α; −α a is cut at 50"),
        ),
        "repo": (at.REPO_AUTHORS("loss_type='repo'", True, "max(0, γ − (a_w − a_l)); γ is gamma_beta_ratio"),),
        "simper": (at.SIMPER_AUTHORS("loss_type='SimPER'", True, "−e^{a_w} + e^{a_l}"),),
        "tdpo1": (
            at.TDPO_AUTHORS("tdpo_loss(if_tdpo2=False)", True, "S(β[D − (K_l − K_w)]), gradient through both K"),
        ),
        "tdpo2": (
            at.TDPO_AUTHORS("tdpo_loss", True, "S(β[D − α(K_l − sg K_w)])"),
            at.SAMPO("loss_type='tdpo'", True, "S(β[D − α(K_l − sg K_w)]); α is tdpo_alpha"),
        ),
        "tis_dpo": (
            at.TIS_DPO_COPY(
                "tisdpo_loss(token_level=True)", True, "S(β[Σ w h_w − Σ w h_l − α(K′_w − K′_l)]); α = 0.5 by default"
            ),
        ),
        "sparse_po": (
            at.SPARSE_PO_AUTHORS(
                "SparseTrainer", True, "the same; λ is two numbers, l1_norm_param_u for μ₁ and l1_norm_param_d for μ₂"
            ),
        ),
        "epsilon_dpo": (
            at.EPSILON_DPO_AUTHORS(
                "EpsilonDPOTrainer", True, "S(β/(1+εs) D); label_smoothing has no effect: its terms have the same sign"
            ),
        ),
        "wpo": (
            at.TRL_DPO("DPOTrainer: use_weighting=True", True, "sg[w_w w_l] S(βD), not cut"),
            at.WPO_AUTHORS("WPOTrainer", False, "sg[min(1, w_w w_l)] S(βD): the weight of the pair is cut at 1"),
            at.OPEN_INSTRUCT(
                "loss_type='wpo'",
                False,
                "min(1, w_w w_l) S(βD) without Σ_v π(v)² in w, cut at 1, and gradient flows through the weight",
            ),
        ),
        "ld_dpo": (
            at.TRL_DPO("DPOTrainer: ld_alpha", True, "S(β(h′_w − h′_l)); α is ld_alpha"),
            at.LLAMA_FACTORY(
                "ld_alpha", False, "only the policy's tokens beyond the shared length count by α, not the reference's"
            ),
        ),
        "alpha_dpo": (
            at.ALPHA_DPO_AUTHORS(
                "AlphaDPOTrainer, loss_type='alpha-dpo'",
                False,
                "S(β[a_w − a_l − γ/β − α z]): α counts β times; z of D per token, by a running mean and std from 0",
            ),
            at.oxrl("alpha_dpo.py")(
                "AlphaDPO",
                False,
                "S(β[a_w − a_l − γ/β − α z]): α counts β times; z of D per token, by running statistics",
            ),
        ),
        "beta_dpo": (
            at.BETA_DPO_AUTHORS(
                "mode_loss='beta_DPO'",
                False,
                "margin='raw', level='batch', pairs kept by a draw, a running mean from 0, β at least 0.001",
            ),
            at.oxrl("betadpo.py")(
                "BetaDPO",
                False,
                "margin='raw', a running mean of earlier batches, β at least 0.001, and gradient through β_i",
            ),
        ),
        "rmipo": (),
        "aot": (
            at.TRL_DPO(
                "DPOTrainer: loss_type='aot'",
                True,
                "S of β times the difference of sorted margins; label_smoothing is read",
            ),
            at.oxrl("aot.py")("AOT", False, "S(β(sort h_w − sort h_l)): that is aot_unpaired"),
        ),
        "aot_unpaired": (
            at.TRL_DPO(
                "DPOTrainer: loss_type='aot_unpaired'", True, "S(β(sort h_w − sort h_l)); label_smoothing is read"
            ),
            at.oxrl("aot.py")("AOT", True, "S(β(sort h_w − sort h_l))"),
        ),
        "dpo_pg": (),
    }
)
"""What other libraries compute, by the name of each of didsim's own objectives."""

__all__ = ["IMPLEMENTATIONS", "Implementation"]
