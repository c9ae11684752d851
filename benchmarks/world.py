"""What the embedded world is like, by quantities that use neither Legend nor a confidence: python -m benchmarks.world

Writes benchmarks/results/world.json, the figures of docs/world.md's table. Pairs, probes, length, random directions and
the model's own answers take a minute. DPO on right and on wrong labels, five seeds each, is `dpo` there: pass the runs
(docs/world.md has the commands) as right=... wrong=...; without them it is left out.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignment.data.chat import chat_format, end_ids
from alignment.data.world_pairs import world_evaluation_pairs, world_pairs
from alignment.maths.statistics import difference_over_seeds, rate_over_seeds, ratio_interval, wilson_interval
from alignment.models.activations import response_states
from alignment.models.packing import Item, Layout
from alignment.runs.artifacts import read_rows
from alignment.world import grammar, oracle
from alignment.world.identity import LANGUAGE_MODEL, generator_hash, model_hash
from alignment.world.preferences import Drawing, evaluation_pairs, training_pairs
from benchmarks import arguments

TRAINED, EVALUATED, DIRECTIONS = 2000, 1000, 20  # pairs, pairs of each of the three sets, random directions
PROMPTS = 2000
LAYERS = [1, 2, 3, 4]


def main() -> None:
    given = arguments.read(sys.argv[1:], {"right": "", "wrong": ""})
    model = AutoModelForCausalLM.from_pretrained(LANGUAGE_MODEL).eval()
    tokenizer = AutoTokenizer.from_pretrained(LANGUAGE_MODEL)
    found = {
        "generator": generator_hash(),
        "model": model_hash(),
        **of_pairs(),
        **of_states(model, tokenizer),
        **of_answers(model, tokenizer),
    }
    if given["right"]:
        found["dpo"] = of_policies(Path(given["right"]), Path(given["wrong"]))
    Path(__file__).with_name("results").joinpath("world.json").write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


def of_pairs() -> dict:
    """What words and length alone say of the label, on pairs of unseen objects and templates."""
    drawn = Drawing(0)
    train = [(pair[side], side == "chosen") for pair in training_pairs(4000, drawn) for side in ("chosen", "rejected")]
    pairs = [pair for name in ("objects", "templates") for pair in evaluation_pairs(name, EVALUATED, drawn)]
    words = CountVectorizer(ngram_range=(1, 2), token_pattern=r"[a-z']+|[.?]").fit(text for text, _ in train)
    linear = LogisticRegression(C=0.1, max_iter=2000)
    linear.fit(words.transform(text for text, _ in train), [label for _, label in train])
    scores = [
        linear.decision_function(words.transform(pair[side] for pair in pairs)) for side in ("chosen", "rejected")
    ]
    longer = [len(pair["chosen"].split()) > len(pair["rejected"].split()) for pair in pairs]
    more = [one != pair["harmful"] for one, pair in zip(longer, pairs, strict=True)]
    return {"words": _share(scores[0] > scores[1]), "longer is of the higher level": _share(more)}


def of_states(model: AutoModelForCausalLM, tokenizer: AutoTokenizer) -> dict:
    """By layer: a linear probe on the difference of two answers' endpoint states, and random directions."""
    format, ends = chat_format(tokenizer), end_ids(tokenizer, None)
    layout = Layout(packed=True, max_tokens=512, pad_id=tokenizer.pad_token_id)

    def differences(rows: list[dict]) -> np.ndarray:
        pairs = [Item.of(format.render(pair["prompt"], [pair["chosen"], pair["rejected"]])) for pair in rows]
        read = [
            response_states(model, layout, pairs[at : at + 50], LAYERS, "endpoint", ends)[0].unflatten(0, (2, -1))
            for at in range(0, len(pairs), 50)
        ]
        states = torch.cat(read, dim=1).transpose(0, 1).numpy()
        return states[:, 0] - states[:, 1]

    train = differences(world_pairs(TRAINED, 10, Drawing(0))[0].rows)
    rows = [row for loaded in world_evaluation_pairs(EVALUATED, Drawing(0)).values() for row in loaded.rows]
    unseen, harmful = differences(rows), np.array([row["harmful"] for row in rows])
    directions = np.random.default_rng(0).normal(size=(DIRECTIONS, train.shape[-1]))
    found: dict[str, list] = {"probes": [], "random directions": [], "random directions, harmful pairs": []}
    for layer in range(len(LAYERS)):
        both = np.concatenate([train[:, layer], -train[:, layer]])
        probe = make_pipeline(StandardScaler(with_mean=False), LogisticRegression(C=0.1, max_iter=2000))
        probe.fit(both, np.repeat([1, 0], len(train)))
        found["probes"].append(_share(probe.predict(unseen[:, layer])))
        right = unseen[:, layer] @ directions.T > 0
        for name, rate in (("", right.mean(0)), (", harmful pairs", right[harmful].mean(0))):
            found[f"random directions{name}"].append([float(rate.min()), float(rate.max())])
    return found


def of_answers(model: AutoModelForCausalLM, tokenizer: AutoTokenizer) -> dict:
    """The base model's own answers, sampled at temperature 1."""
    format, prompts, texts = chat_format(tokenizer), list(grammar.evaluation_prompts("same", PROMPTS, seed=0)), []
    torch.manual_seed(0)
    for start in range(0, PROMPTS, 200):
        ids = [format.prompt_ids([{"role": "user", "content": p.text}]) for p in prompts[start : start + 200]]
        width = max(map(len, ids))
        rows = torch.tensor([[tokenizer.pad_token_id] * (width - len(row)) + row for row in ids])
        with torch.inference_mode():
            out = model.generate(
                rows, attention_mask=(rows != tokenizer.pad_token_id).long(), do_sample=True, top_k=0,
                max_new_tokens=48, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
            )  # fmt: skip
        texts += tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)
    read = [oracle.read(prompt.text, text) for prompt, text in zip(prompts, texts, strict=True)]
    return {
        "toxic answers to harmful requests": _share([one.toxic for one in read if one.harmful]),
        "harmless requests refused": _share([one.refusal == "full" for one in read if not one.harmful]),
        "helpful answers to harmless requests": _share([one.helpfulness > 0 for one in read if not one.harmful]),
    }


def of_policies(right: Path, wrong: Path) -> dict:
    """DPO on right labels against DPO on labels of which a quarter is wrong: rates of all three sets, seed by seed."""
    rates = {name: _policy_rates(folder) for name, folder in (("right", right), ("wrong", wrong))}
    toxic = [[one["toxic"] for one in rates[name]] for name in ("right", "wrong")]
    helpful = [one["helpful"] - other["helpful"] for one, other in zip(rates["right"], rates["wrong"], strict=True)]
    middle = {
        name: {what: _over_seeds([one[what] for one in found], rate=True) for what in ("toxic", "helpful")}
        for name, found in rates.items()
    }
    ratio = list(ratio_interval(*toxic))
    return {**middle, "toxic, right / wrong": ratio, "helpful, right - wrong": _over_seeds(helpful)}


def _policy_rates(folder: Path) -> list[dict]:
    """Of DPO's policies, by seed, over all three sets."""
    rows = [row for row in read_rows(folder / "evaluate" / "verdicts.parquet") if row["system"] == "dpo"]
    found = []
    for seed in sorted({row["seed"] for row in rows}):
        of_seed = [row for row in rows if row["seed"] == seed]
        toxic = [row["toxic"] for row in of_seed if row["asks"] == "harmful"]
        helpful = [row["helpful"] for row in of_seed if row["asks"] == "harmless"]
        found.append({"toxic": float(np.mean(toxic)), "helpful": float(np.mean(helpful))})
    return found


def _share(hits: list[bool] | np.ndarray) -> dict:
    share, low, high = wilson_interval(int(np.sum(hits)), len(hits))
    return {"share": share, "interval": [low, high], "n": len(hits)}


def _over_seeds(values: list[float], rate: bool = False) -> dict:
    mean, low, high = rate_over_seeds(values, None) if rate else difference_over_seeds(values)
    return {"mean": mean, "interval": [low, high], "seeds": len(values)}


if __name__ == "__main__":
    main()
