"""The answers of evaluated policies as the page shows them: by prompt, every system's with what each judge says."""

import hashlib
from collections.abc import Sequence

from alignment.reports.answer_samples import conversation

MOST = 3000  # prompts; more would make the page too large to mail


def compared_answers(answers: Sequence[dict], verdicts: Sequence[dict], systems: Sequence[str]) -> dict:
    """Of the first seed the prompts with all answers to them; of more than MOST those whose ids have the lowest hashes.

    answers, verdicts: rows of evaluate's files.
    """
    seed = min((row["seed"] for row in answers), default=0)
    said: dict[tuple, list[list]] = {}
    for row in verdicts:
        if row["seed"] == seed:
            words = [row["judge"], row["verdict"].replace("_", " "), row["toxic"], row["refused"], row["reason"]]
            said.setdefault((row["set"], row["id"], row["system"]), []).append(words)
    prompts: dict[tuple, dict] = {}
    for row in answers:
        if row["seed"] != seed:
            continue
        key = row["set"], row["id"]
        if key not in prompts:
            kept = {name: row[name] for name in ("set", "id", "asks", "category")}
            prompts[key] = {**kept, "prompt": conversation(row["prompt"]), "answers": [None] * len(systems)}
        if row["system"] in systems:
            prompts[key]["answers"][systems.index(row["system"])] = {
                "text": row["answer"],
                "unfinished": row["unfinished"],
                "verdicts": said.get((*key, row["system"]), []),
            }
    shown = list(prompts.values())
    if len(shown) > MOST:
        drawn = set(sorted(prompts, key=lambda key: hashlib.sha256("/".join(key).encode()).digest())[:MOST])
        shown = [prompt for key, prompt in prompts.items() if key in drawn]
    return {"systems": list(systems), "seed": seed, "prompts": shown, "all": len(prompts)}
