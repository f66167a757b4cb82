"""Where it was read what other libraries compute: one maker of rows for each place."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Implementation:
    """What one library computes under the name of an objective.

    Attributes:
        library: the library, or the repository.
        name: what it calls the loss: a class, a function, or the value of an option.
        computes: in what it differs, or how its arguments map to ours.
        same: whether it is the formula that didsim computes by default, or None where nobody looked.
        source: where that was read: a package or repository, a file, and the version or commit.
    """

    library: str
    name: str
    computes: str
    same: bool | None
    source: str


def _read(library: str, source: str) -> Callable[[str, bool | None, str], Implementation]:
    """Return a maker of rows that were read in one place."""
    return lambda name, same, computes: Implementation(library, name, computes, same, source)


TRL_DPO = _read("TRL", "trl 1.16.0, trainer/dpo_trainer.py, DPOTrainer._compute_loss")
TRL_KTO = _read("TRL", "trl 1.16.0, trainer/kto_trainer.py, KTOTrainer._compute_loss")
TRL_CPO = _read("TRL", "trl 1.16.0, experimental/cpo/cpo_trainer.py, CPOTrainer.cpo_loss and get_batch_loss_metrics")
TRL_ORPO = _read("TRL", "trl 1.16.0, experimental/orpo/orpo_trainer.py, ORPOTrainer.get_batch_loss_metrics")
TRL_ONLINE = _read("TRL", "trl 1.16.0, experimental/online_dpo/online_dpo_trainer.py, OnlineDPOTrainer")
TORCHTUNE = _read("torchtune", "torchtune 0.6.1, rlhf/loss/dpo.py")
LIGER = _read("Liger-Kernel", "liger-kernel 0.8.5, chunked_loss/dpo_loss.py, preference_loss_fn")
LIGER_NLL = _read("Liger-Kernel", "liger-kernel 0.8.5, chunked_loss, the loss's file and fused_linear_preference.py")
LIGER_KTO = _read("Liger-Kernel", "liger-kernel 0.8.5, chunked_loss/kto_loss.py")
LLAMA_FACTORY = _read("LLaMA-Factory", "llamafactory 0.9.5, train/dpo/trainer.py")
OPENRLHF = _read("OpenRLHF", "openrlhf 0.11.2, models/loss.py and trainer/dpo_trainer.py")
PADDLE = _read("PaddleNLP", "PaddlePaddle/PaddleNLP, paddlenlp/trl/dpo_criterion.py at 214cbf3")
OPEN_INSTRUCT = _read("open-instruct", "allenai/open-instruct, open_instruct/dpo_utils.py at 008fc86")
SAMPO = _read("LuJunru/SamPO", "LuJunru/SamPO, dpo_trainer.py at 58e1765")


def oxrl(file: str) -> Callable[[str, bool | None, str], Implementation]:
    """Return a maker of rows that were read in a file of oxRL."""
    return _read("oxRL", f"warlockee/oxRL, oxrl/algs/{file} at d4e8a4b")


MITCHELL = _read(
    "eric-mitchell/direct-preference-optimization",
    "eric-mitchell/direct-preference-optimization, trainers.py at 8a4023f, preference_loss",
)
DPO_AUTHORS = _read(
    "eric-mitchell/direct-preference-optimization (authors)",
    "eric-mitchell/direct-preference-optimization, trainers.py at 8a4023f, preference_loss",
)
HALOS = _read("ContextualAI/HALOs", "ContextualAI/HALOs, train/trainers.py at 320a8c6")
HALOS_FIRST = _read("ContextualAI/HALOs (earlier)", "ContextualAI/HALOs, trainers.py at a52b5ee")
HALOS_AUTHORS = _read("ContextualAI/HALOs (authors)", "ContextualAI/HALOs, train/trainers.py at 320a8c6")
EXO_AUTHORS = _read(
    "haozheji/exact-optimization (authors)", "haozheji/exact-optimization, src/align_stage/loss.py at 1278978"
)
DISCOPOP_AUTHORS = _read("luchris429/DiscoPOP (authors)", "luchris429/DiscoPOP, src/alignment/gpo.py at 7c30efa")
F_DPO_AUTHORS = _read("alecwangcq/f-divergence-dpo (authors)", "alecwangcq/f-divergence-dpo, trainers.py at 07d9369")
CAL_DPO_AUTHORS = _read("tengxiao1/Cal-DPO (authors)", "tengxiao1/Cal-DPO, scripts/dpo_trainer.py at 646a754")
CAL_DPO_FIRST = _read("Cal-DPO/Cal-DPO (authors)", "Cal-DPO/Cal-DPO, Pythia-2.8b-exp/trainers.py at 127d76e")
NCA_AUTHORS = _read(
    "thu-ml/Noise-Contrastive-Alignment (authors)",
    "thu-ml/Noise-Contrastive-Alignment, preference_trainer.py at 3669906",
)
NCA_ELSEWHERE = _read(
    "thu-ml/Noise-Contrastive-Alignment", "thu-ml/Noise-Contrastive-Alignment, preference_trainer.py at 3669906"
)
SPPO_AUTHORS = _read("uclaml/SPPO (authors)", "uclaml/SPPO, sppo/trainer.py at e524519, dpo_loss")
CPO_AUTHORS = _read("fe1ixxu/ALMA (authors)", "fe1ixxu/ALMA, utils/cpo_trainer.py at 28997eb")
ORPO_AUTHORS = _read("xfactlab/orpo (authors)", "xfactlab/orpo, src/orpo_trainer.py at 0f0abfe")
SIMPO_AUTHORS = _read("princeton-nlp/SimPO (authors)", "princeton-nlp/SimPO, scripts/simpo_trainer.py at 15c4ff8")
REPO_AUTHORS = _read("junkangwu/RePO (authors)", "junkangwu/RePO, scripts/simpo_trainer.py at 11bf85d")
SIMPER_AUTHORS = _read("tengxiao1/SimPER (authors)", "tengxiao1/SimPER, scripts/simper_trainer.py at c93e966")
TDPO_AUTHORS = _read(
    "Vance0124/Token-level-Direct-Preference-Optimization (authors)",
    "Vance0124/Token-level-Direct-Preference-Optimization, trainers.py at 4a36a00",
)
TIS_DPO_COPY = _read("PhiVanDat123/TIS-DPO", "PhiVanDat123/TIS-DPO, trainers.py at bd59cd6; the authors' was not found")
SPARSE_PO_AUTHORS = _read(
    "huawei-noah/HEBO, SparsePO (authors)", "huawei-noah/HEBO, SparsePO/src/trainers/sparse_trainer.py at 04f4ece"
)
EPSILON_DPO_AUTHORS = _read("oddqueue/e-dpo (authors)", "oddqueue/e-dpo, trainer.py at 3b9b4cd")
WPO_AUTHORS = _read("wzhouad/WPO (authors)", "wzhouad/WPO, scripts/run_wpo.py at 3353ef6")
ALPHA_DPO_AUTHORS = _read("junkangwu/alpha-DPO (authors)", "junkangwu/alpha-DPO, scripts/dpo_trainer.py at f6a8102")
ALPHA_DPO_BASELINES = _read("junkangwu/alpha-DPO", "junkangwu/alpha-DPO, scripts/dpo_trainer.py at f6a8102")
BETA_DPO_AUTHORS = _read("junkangwu/beta-DPO (authors)", "junkangwu/beta-DPO, trainers.py at 6f3abb8")
