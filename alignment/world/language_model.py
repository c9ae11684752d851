"""The world's language model: a Llama of half a million parameters, and its pretraining in 90 seconds on two cores.

Training always uses two threads and a seed of its own, so that the weights don't depend on how the caller was launched.
They do depend on the processor and on torch: the weights that everybody uses are shipped (identity.py, make.py).
"""

import random
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordLevel
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from alignment.world import lexicon, pretraining

SEED = 0
STEPS, BATCH, WARMUP, DECAY_FROM = 810, 64, 30, 0.7  # constant rate after the warm-up, then linear to zero
BLURRED_FROM = 0.8  # of the steps
SHORT = 40  # how many documents of a batch are computed apart from the longer ones, so that little is padding
LEARNING_RATE, MATRIX_LEARNING_RATE = 2e-3, 1e-2  # AdamW for embeddings and norms, Muon for the matrices
# Weights of a token's loss. Most words of a request are chance; a blurred reaction tells little, so it weighs more.
TEXT_WEIGHT, ANSWER_WEIGHT, VERDICT_WEIGHT = 0.1, 1.0, 5.0
CLEAR_WEIGHT, BLURRED_WEIGHT = 5.0, 15.0  # of a reaction
THREADS = 2

BOS, PAD, UNKNOWN, ANSWER, END = "<s>", "<pad>", "<unk>", "<|answer|>", "<|end|>"
# A request, the answer after its marker, the end of the turn, and at once the user's next words.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<|answer|>{{ message['content'] }}<|end|>"
    "{% else %}{{ message['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|answer|>{% endif %}"
)


def pretrain(folder: Path) -> None:
    """Writes model and tokenizer as `from_pretrained` loads them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            tokenizer = build_tokenizer()
            model = _new_model(tokenizer)
            _train(model, tokenizer)
    finally:
        torch.set_num_threads(threads)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of whole words in lower case; what the grammar writes is decoded to the same text."""
    words = sorted(_vocabulary())
    vocabulary = {token: i for i, token in enumerate([BOS, PAD, UNKNOWN, ANSWER, END, ".", "?", *words])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Replace("’", "'")])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Split(Regex(r"[^\w▁']"), "isolated")]
    )
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 0)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        unk_token=UNKNOWN,
        additional_special_tokens=[ANSWER],
        model_max_length=256,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def _vocabulary() -> set[str]:
    text = " ".join(
        [
            *lexicon.TEMPLATES, lexicon.BESIDE, *lexicon.HURT, *lexicon.CARE, *lexicon.PEOPLE, *lexicon.PESTS,
            *lexicon.COMPLY, *lexicon.REFUSE, lexicon.FIRST, *lexicon.BETWEEN, lexicon.LAST, *lexicon.ACTIONS,
            *sum(_style_words(), ()), *sum(lexicon.ALARM + lexicon.THANKS, ()),
            *lexicon.HARM_VERDICTS, *lexicon.FIT_VERDICTS, *lexicon.AIM_KINDS, *lexicon.TARGET_KINDS,
            "the belongs to are means is in", *lexicon.CATEGORIES,
            *(word for groups in lexicon.CATEGORIES.values() for group in groups for word in group),
        ]
    )  # fmt: skip
    for slot in ("{object}", "{aim}", "{target}"):
        text = text.replace(slot, " ")
    return {f"▁{word}" for word in text.replace(".", " ").replace("?", " ").split()}


def _style_words() -> list[tuple[str, ...]]:
    """The words of each tone."""
    return [(lead, *manners, *echoes) for lead, manners, echoes in lexicon.STYLES.values()]


def _new_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    _group_words(model, tokenizer)
    return model


@torch.no_grad()
def _group_words(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Words of one kind start as neighbours: their vectors share a random part, as word vectors of any corpus do."""
    embedding = model.get_input_embeddings().weight
    objects, parts = zip(*lexicon.CATEGORIES.values(), strict=True)
    kinds = [lexicon.HURT, lexicon.CARE, lexicon.PEOPLE, lexicon.PESTS, sum(objects, ()), sum(parts, ())]
    for words in kinds + _style_words() + [o + p for o, p in zip(objects, parts, strict=True)]:
        ids = tokenizer.convert_tokens_to_ids([f"▁{word}" for word in words])
        embedding[ids] += torch.randn(embedding.shape[1]) * model.config.initializer_range


def _train(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim == 1 or "embed" in name]
    optimizers = [
        torch.optim.Muon(matrices, lr=MATRIX_LEARNING_RATE, weight_decay=0.0),
        torch.optim.AdamW(others, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    schedulers = [torch.optim.lr_scheduler.LambdaLR(optimizer, _schedule) for optimizer in optimizers]
    model.train()
    for step in tqdm(range(STEPS), desc="pretraining the world's language model", unit="step"):
        clear = step < BLURRED_FROM * STEPS
        phase, weight = (pretraining.CLEAR, CLEAR_WEIGHT) if clear else (pretraining.BLURRED, BLURRED_WEIGHT)
        documents = [pretraining.document(random.Random(f"{SEED}/{step}/{i}"), phase) for i in range(BATCH)]
        rows = sorted((_weighted_ids(text, tokenizer, weight) for text in documents), key=_length)
        total = sum(sum(weights[1:]) for _, weights in rows)
        for part in (rows[:SHORT], rows[SHORT:]):
            ids, weights = _batch(part, tokenizer)
            logits = model(input_ids=ids, use_cache=False).logits  # causal, and padding comes last
            losses = cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
            ((losses * weights[:, 1:].flatten()).sum() / total).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
    model.eval()


def _schedule(step: int) -> float:
    return min(1.0, step / WARMUP, (1 - step / STEPS) / (1 - DECAY_FROM))


Row = tuple[list[int], list[float]]  # token ids, and the weight of each token's loss


def _length(row: Row) -> int:
    return len(row[0])


def _batch(rows: list[Row], tokenizer: PreTrainedTokenizerFast) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows padded on the right, with weight 0."""
    width = max(map(_length, rows))
    ids = torch.full((len(rows), width), tokenizer.pad_token_id)
    weights = torch.zeros(len(rows), width)
    for i, (row, row_weights) in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        weights[i, : len(row)] = torch.tensor(row_weights)
    return ids, weights


def _weighted_ids(document: list[str], tokenizer: PreTrainedTokenizerFast, reaction_weight: float) -> Row:
    encode = tokenizer.backend_tokenizer.encode
    request = encode(document[0]).ids
    end = tokenizer.eos_token_id
    if len(document) == 1:  # general knowledge: the last word of each sentence matters
        stop = tokenizer.convert_tokens_to_ids(".")
        weights = [VERDICT_WEIGHT if after == stop else TEXT_WEIGHT for after in [*request[1:], None]]
        return [*request, end], [*weights, ANSWER_WEIGHT]
    answer = encode(document[1], add_special_tokens=False).ids
    *taken_up, reaction, stop = encode(document[2], add_special_tokens=False).ids
    ids = [*request, tokenizer.convert_tokens_to_ids(ANSWER), *answer, end, *taken_up, reaction, stop, end]
    weights = (
        [TEXT_WEIGHT] * (len(request) + 1)
        + [ANSWER_WEIGHT] * (len(answer) + 1 + len(taken_up))
        + [reaction_weight] * 2
        + [ANSWER_WEIGHT]
    )
    return ids, weights
