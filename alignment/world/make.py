"""Trains the world's language model again, and says by how much it differs from the one that is shipped.

`python -m alignment.world.make` compares; with --ship, the new one takes the other's place. The same processor and
versions give the same bytes; others round otherwise, and where a model learns something all at once, much follows from
a rounding.
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

PAIRS = 200  # whose answers both models read


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ship", action="store_true", help="the new model takes the place of the one that is shipped")
    ship = parser.parse_args().ship
    with tempfile.TemporaryDirectory() as folder:
        made, started = Path(folder) / "model", time.perf_counter()
        language_model.pretrain(made)
        seconds = time.perf_counter() - started
        print(f"trained in {seconds:.0f} s on {language_model.THREADS} threads, torch {torch.__version__}")
        if (LANGUAGE_MODEL / "model.safetensors").exists():
            print(difference(made, LANGUAGE_MODEL))
        if ship:
            shutil.rmtree(LANGUAGE_MODEL, ignore_errors=True)
            shutil.copytree(made, LANGUAGE_MODEL)
            (LANGUAGE_MODEL / "model.safetensors").chmod(0o644)
            print(f"now shipped: {LANGUAGE_MODEL}")


def difference(made: Path, shipped: Path) -> str:
    """Of two models, in weights and in what they expect to be written."""
    new, old = (load_file(folder / "model.safetensors") for folder in (made, shipped))
    if {name: one.shape for name, one in new.items()} != {name: one.shape for name, one in old.items()}:
        return "it has other weights than the shipped model: another vocabulary or shape"
    if all(torch.equal(new[name], old[name]) for name in new):
        return "the same weights as the shipped model, to the last bit"
    apart = sum(float((new[name] - old[name]).square().sum()) for name in new) ** 0.5
    size = sum(float(old[name].square().sum()) for name in new) ** 0.5
    first, second = (_log_probabilities(folder) for folder in (made, shipped))
    return (
        f"the weights differ from the shipped model's by {apart / size:.3g} of their length; a word of an answer is on "
        f"average {(first - second).abs().mean():.3g} nats more or less likely"
    )


@torch.inference_mode()
def _log_probabilities(folder: Path) -> torch.Tensor:
    """Of every token of some preferred answers."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    found = []
    for row in preferences.training_pairs(PAIRS, preferences.Drawing(0)):
        request = tokenizer(row["prompt"]).input_ids
        ids = [*request, *tokenizer(f"{language_model.ANSWER}{row['chosen']}", add_special_tokens=False).input_ids]
        likely = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        found.append(likely.gather(1, torch.tensor(ids)[1:, None])[len(request) :, 0])
    return torch.cat(found)


if __name__ == "__main__":
    main()
