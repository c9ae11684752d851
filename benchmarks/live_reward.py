"""What the live hybrid reward costs inside a confidence-DPO step: python -m benchmarks.live_reward

A Llama of 6 layers x 512 with GPT-2's 50,257 tokens, pairs of 256 tokens a side: a full training step with reference
pass and optimiser, in float32 on the CPU. Inside one run: seconds in hooks, in scoring, and in the reward's backward
pass and step. Beside it: the difference to the same step with a fixed confidence, steps in turn, with a 95% interval.
"""

import json
import os
import tempfile
import time
from collections import defaultdict
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import numpy as np
import torch
from datasets import Dataset
from scipy.stats import t as student
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from alignment.models import activations
from alignment.models.hybrid_reward import HybridReward
from alignment.trainers.cdpo import ConfidenceDPOTrainer
from alignment.trainers.cdpo_config import ConfidenceDPOConfig
from alignment.trainers.live_reward import LiveReward

LAYERS, WIDTH, TOKENS, VOCABULARY = 6, 512, 256, 50257
BATCH, STEPS, WARM_UP = 2, 12, 2
RESULTS = Path(__file__).parent / "results" / "live_reward.json"


def main() -> None:
    spent: dict[str, float] = defaultdict(float)
    _time(activations.Reader, "record", spent, "hooks")
    _time(LiveReward, "rewards", spent, "scoring")
    _time(LiveReward, "add", spent, "backward")
    _time(LiveReward, "step", spent, "step")
    with tempfile.TemporaryDirectory() as folder:
        live, fixed = _trainer(Path(folder) / "live", True), _trainer(Path(folder) / "fixed", False)
        seconds: dict[str, list[float]] = {"live": [], "fixed": []}
        parts: list[dict[str, float]] = []
        for number in range(STEPS + WARM_UP):
            order = (("live", live), ("fixed", fixed)) if number % 2 else (("fixed", fixed), ("live", live))
            for name, trainer in order:
                spent.clear()
                took = _one_step(trainer)
                if number >= WARM_UP:
                    seconds[name].append(took)
                    if name == "live":
                        parts.append(dict(spent))
        held = _bytes_held(live)
    steps = np.array(seconds["live"])
    inside = {name: float(np.median([part[name] for part in parts])) for name in parts[0]}
    share = float(np.median([sum(part.values()) for part in parts] / steps))
    difference = steps - np.array(seconds["fixed"])
    half = student.ppf(0.975, len(difference) - 1) * difference.std(ddof=1) / len(difference) ** 0.5
    found = {
        "settings": {"layers": LAYERS, "width": WIDTH, "tokens": TOKENS, "vocabulary": VOCABULARY, "batch": BATCH},
        "threads": torch.get_num_threads(),
        "step_seconds": float(np.median(steps)),
        "inside_seconds": inside,
        "share_of_step": share,
        "difference_to_fixed": [
            float(x / np.median(steps)) for x in (difference.mean(), difference.mean() - half, difference.mean() + half)
        ],
        "bytes_held": held,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")
    print(f"a step takes {found['step_seconds']:.2f} s; the live reward's parts of it:")
    for name, value in inside.items():
        print(f"  {name:<9} {1000 * value:8.2f} ms")
    print(f"  together  {100 * share:8.3f} % of the step; {held / 1e6:.2f} MB held")
    mean, low, high = (100 * x for x in found["difference_to_fixed"])
    print(f"  against a fixed confidence, end to end: {mean:+.2f}% [{low:+.2f}, {high:+.2f}]")


def _time(owner: type, name: str, spent: dict[str, float], what: str) -> None:
    inner = getattr(owner, name)

    def timed(*args, **kwargs):
        started = time.perf_counter()
        try:
            return inner(*args, **kwargs)
        finally:
            spent[what] += time.perf_counter() - started

    setattr(owner, name, timed)


def _trainer(folder: Path, live: bool) -> ConfidenceDPOTrainer:
    random = torch.Generator().manual_seed(0)

    def ids(count: int) -> list[int]:
        return torch.randint(10, VOCABULARY, (count,), generator=random).tolist()

    rows = [
        {"prompt_ids": ids(96), "chosen_ids": [*ids(TOKENS - 97), 1], "rejected_ids": [*ids(TOKENS - 97), 1]}
        for _ in range(BATCH * 40)
    ]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=LAYERS,
        num_attention_heads=8, max_position_embeddings=TOKENS, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    tokenizer = PreTrainedTokenizerFast(  # its words are never used
        tokenizer_object=Tokenizer(WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2}, unk_token="<unk>")),
        pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
    )  # fmt: skip
    source = {} if live else {"confidence": "fixed", "fixed_confidence": 0.9}
    arguments = ConfidenceDPOConfig(
        output_dir=str(folder), per_device_train_batch_size=BATCH, max_steps=1000, learning_rate=1e-5, bf16=False,
        use_cpu=True, report_to="none", activation_checkpointing=False, save_strategy="no", disable_tqdm=True,
        dataloader_pin_memory=False, **source,
    )  # fmt: skip
    reward = None
    if live:
        chosen, rejected = (torch.randn(40, LAYERS, WIDTH, generator=random) + shift for shift in (0.1, -0.1))
        reward = HybridReward.fit(chosen, rejected)
    model = LlamaForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    trainer = ConfidenceDPOTrainer(
        model=model, args=arguments, train_dataset=Dataset.from_list(rows), reward=reward, processing_class=tokenizer
    )
    trainer.create_optimizer_and_scheduler(1000)
    trainer.accelerator.gradient_state._set_sync_gradients(True)
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def _one_step(trainer: ConfidenceDPOTrainer) -> float:
    """What Trainer does in a step: forward, reference, backward, the reward's step, clipping, the optimiser."""
    start = trainer.state.global_step * BATCH
    rows = [trainer.train_dataset[i % len(trainer.train_dataset)] for i in range(start, start + BATCH)]
    batch = trainer.data_collator(rows)
    started = time.perf_counter()
    trainer.training_step(trainer.model, batch)
    torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)
    trainer.optimizer.step()
    trainer.optimizer.zero_grad()
    trainer.state.global_step += 1
    return time.perf_counter() - started


def _bytes_held(trainer: ConfidenceDPOTrainer) -> int:
    """The reward's parameters, its gradient sums, AdamW's state, and the states of one batch."""
    live = trainer.live
    tensors = [*live.reward.state_dict().values(), *live._sums]
    tensors += [value for state in live._optimiser.state.values() for value in state.values()]
    return sum(tensor.nbytes for tensor in tensors) + 2 * BATCH * LAYERS * WIDTH * 4


if __name__ == "__main__":
    main()
