"""Time and memory of `PreferenceTrainer` with DPO against TRL's own trainer, on one model and the same data.

    python benchmarks/bench_llm.py [--rounds 3] [--steps 12]

Each run is a process of its own, alternating, so that the peak of its memory is its own; a warm-up step does not count.
On a GPU the model has 0.55 billion parameters in bfloat16, and sequences 1024 tokens. Ratios are what carries over.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback

SMALL = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4, "num_attention_heads": 8}
LARGE = {"hidden_size": 1536, "intermediate_size": 4096, "num_hidden_layers": 16, "num_attention_heads": 16}
WORDS = [f"w{number}" for number in range(2000)]


def tokenizer():
    """Train a tokenizer of whole words."""
    inner = Tokenizer(models.WordLevel(unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["<unk>", "<pad>", "<s>", "</s>"]
    inner.train_from_iterator([" ".join(WORDS)], trainers.WordLevelTrainer(special_tokens=special))
    names = {"unk_token": "<unk>", "pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, **names)


def data(count, length):
    """Draw pairs of unequal lengths."""
    from datasets import Dataset

    draws = torch.Generator().manual_seed(0)

    def text(size):
        return " ".join(WORDS[i] for i in torch.randint(len(WORDS), (size,), generator=draws).tolist())

    def completion():
        return " " + text(int(torch.randint(length // 2, length - length // 4, (1,), generator=draws)))

    rows = ({"prompt": text(length // 4), "chosen": completion(), "rejected": completion()} for _ in range(count))
    return Dataset.from_list(list(rows))


class Clock(TrainerCallback):
    """Times all steps but the first."""

    def on_step_end(self, args, state, control, **kwargs):
        """Start after the first step, and look again after each."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.start = now if state.global_step == 1 else self.start
        self.seconds = now - self.start


def one_run(which, steps):
    """Train for some steps; return seconds, tokens and the peak of memory in bytes."""
    from trl import DPOConfig, DPOTrainer

    from didsim.llm import PreferenceTrainer

    warnings.simplefilter("ignore")
    gpu = torch.cuda.is_available()
    length, batch = (1024, 4) if gpu else (128, 4)
    words = tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=32000 if gpu else len(words), **(LARGE if gpu else SMALL))
    model, reference = (LlamaForCausalLM(config).to(torch.bfloat16 if gpu else torch.float32) for _ in range(2))
    reference.load_state_dict(model.state_dict())
    rows, clock = data(batch * steps, length), Clock()
    with tempfile.TemporaryDirectory() as folder:
        args = DPOConfig(
            folder, max_steps=steps, per_device_train_batch_size=batch, optim="sgd", report_to=[], bf16=gpu,
            use_cpu=not gpu, save_strategy="no", disable_tqdm=True, logging_steps=steps, gradient_checkpointing=False,
        )  # fmt: skip
        given = {"args": args, "train_dataset": rows, "processing_class": words, "callbacks": [clock]}
        if which == "trl":
            trainer = DPOTrainer(model, reference, **given)
        else:
            trainer = PreferenceTrainer(model, reference, objective="dpo", **given)
        trainer.train()
        tokens = next(row["num_tokens"] for row in trainer.state.log_history if "num_tokens" in row)
    peak = torch.cuda.max_memory_allocated() if gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": clock.seconds, "tokens": tokens * (steps - 1) / steps, "peak": peak}


def main():
    """Alternate both trainers, and print medians and ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--one", choices=("trl", "didsim"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one_run(options.one, options.steps)))
        return
    found = {"trl": [], "didsim": []}
    for _ in range(options.rounds):
        for which, runs in found.items():
            command = [sys.executable, __file__, "--one", which, "--steps", str(options.steps)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            runs.append(json.loads(output.splitlines()[-1]))
    speed = {which: statistics.median(run["tokens"] / run["seconds"] for run in runs) for which, runs in found.items()}
    peak = {which: statistics.median(run["peak"] for run in runs) / 2**20 for which, runs in found.items()}
    for which in found:
        print(f"{which:7} {speed[which]:9.0f} tokens per second, peak {peak[which]:7.0f} MiB")
    print(
        f"ratio   {speed['didsim'] / speed['trl']:9.2f} of the speed, {peak['didsim'] / peak['trl']:.2f} of the memory"
    )


if __name__ == "__main__":
    main()
