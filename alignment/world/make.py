"""Trains the world's language model again, and says by how much it differs from the shipped model.

`python -m alignment.world.make` compares; with --ship, the new model takes the other's place. The same processor and
versions give the same bytes; others round differently, and where a model learns something all at once, a rounding can
change much.
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignment.world import language_model, preferences
from alignment.world.identity import LANGUAGE_MODEL

PAIRS = 200  # both models read the preferred answers of so many pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ship", action="store_true", help="the new model takes the place of the one that is shipped")
    ship = parser.parse_args().ship
    with tempfile.TemporaryDirectory() as folder:
        trained, started = Path(folder) / "model", time.perf_counter()
        language_model.pretrain(trained)
        seconds = time.perf_counter() - started
        print(f"trained in {seconds:.0f} s on {language_model.THREADS} threads, torch {torch.__version__}")
        if (LANGUAGE_MODEL / "model.safetensors").exists():
            print(difference(trained, LANGUAGE_MODEL))
        if ship:
            shutil.rmtree(LANGUAGE_MODEL, ignore_errors=True)
            shutil.copytree(trained, LANGUAGE_MODEL)
            (LANGUAGE_MODEL / "model.safetensors").chmod(0o644)
            print(f"now shipped: {LANGUAGE_MODEL}")


def difference(trained: Path, shipped: Path) -> str:
    """How far two models differ, in weights and in the answers that they expect."""
    new, old = (load_file(folder / "model.safetensors") for folder in (trained, shipped))
    if {name: tensor.shape for name, tensor in new.items()} != {name: tensor.shape for name, tensor in old.items()}:
        return "it has other weights than the shipped model: another vocabulary or shape"
    if all(torch.equal(new[name], old[name]) for name in new):
        return "the same weights as the shipped model, to the last bit"
    distance = sum(float((new[name] - old[name]).square().sum()) for name in new) ** 0.5
    size = sum(float(old[name].square().sum()) for name in new) ** 0.5
    first, second = (_log_probabilities(folder) for folder in (trained, shipped))
    return (
        f"the weights differ from the shipped model's by {distance / size:.3g} of their length; a word of an answer is "
        f"on average {(first - second).abs().mean():.3g} nats more or less likely"
    )


@torch.inference_mode()
def _log_probabilities(folder: Path) -> torch.Tensor:
    """The log-probabilities of all tokens of PAIRS preferred answers."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    by_answer = []
    for row in preferences.training_pairs(PAIRS, preferences.Drawing(0)):
        request = tokenizer(row["prompt"]).input_ids
        ids = [*request, *tokenizer(f"{language_model.ANSWER}{row['chosen']}", add_special_tokens=False).input_ids]
        log_probabilities = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        by_answer.append(log_probabilities.gather(1, torch.tensor(ids)[1:, None])[len(request) :, 0])
    return torch.cat(by_answer)


if __name__ == "__main__":
    main()
