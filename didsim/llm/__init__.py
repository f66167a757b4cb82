"""Language models under the losses of the laboratory: the same functions that the engine and the solver use.

Distributed training, data preparation, chat templates, adapters and checkpoints are TRL's and accelerate's.
"""

from didsim._extras import missing
from didsim.errors import MissingExtraError

if lacking := missing("llm"):
    raise MissingExtraError(f"Language models need {lacking[0]}: pip install 'didsim[llm]'")

from didsim.llm._chatter import without_chatter
from didsim.llm._checkpoints import Stage, stages
from didsim.llm._data import PairData, load_pairs, load_prompts
from didsim.llm._doctor_data import examine_data
from didsim.llm._doctor_log import examine_log, load_log
from didsim.llm._doctor_start import examine_start
from didsim.llm._drawn_pairs import DrawnData, DrawnPair, draw_pairs, pair_rows
from didsim.llm._entropy import DidEntropy, EntropyEstimate, did_entropy, response_entropy
from didsim.llm._evaluation import Estimate, PairScores, score_pairs
from didsim.llm._models import load_model, load_tokenizer, to_accelerator
from didsim.llm._reports import Evaluation, EvaluationSettings
from didsim.llm._responses import Drawn, Rewards, read_rewards, response_lines
from didsim.llm._sampling import Sample, sample_responses
from didsim.llm._sequences import enumerate_policy, sequence_transformer, train_transformer
from didsim.llm._settings import PRECISIONS, Run, check_training
from didsim.llm._tilt import Draws, Fit, Tilt, fit_within, nearest_tilt
from didsim.llm._trainer import TESTED_TRL, PairCollator, PreferenceTrainer
from didsim.llm._training import fit, is_finite, last_checkpoint, make_trainer, read_log, save, steps_of
from didsim.llm._vocabulary import HiddenTokens

__all__ = [
    "PRECISIONS",
    "TESTED_TRL",
    "DidEntropy",
    "Drawn",
    "DrawnData",
    "DrawnPair",
    "Draws",
    "EntropyEstimate",
    "Estimate",
    "Evaluation",
    "EvaluationSettings",
    "Fit",
    "HiddenTokens",
    "PairCollator",
    "PairData",
    "PairScores",
    "PreferenceTrainer",
    "Rewards",
    "Run",
    "Sample",
    "Stage",
    "Tilt",
    "check_training",
    "did_entropy",
    "draw_pairs",
    "enumerate_policy",
    "examine_data",
    "examine_log",
    "examine_start",
    "fit",
    "fit_within",
    "is_finite",
    "last_checkpoint",
    "load_log",
    "load_model",
    "load_pairs",
    "load_prompts",
    "load_tokenizer",
    "make_trainer",
    "nearest_tilt",
    "pair_rows",
    "read_log",
    "read_rewards",
    "response_entropy",
    "response_lines",
    "sample_responses",
    "save",
    "score_pairs",
    "sequence_transformer",
    "stages",
    "steps_of",
    "to_accelerator",
    "train_transformer",
    "without_chatter",
]
