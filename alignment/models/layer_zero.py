"""What the token embeddings of an answer alone say: margins of layer 0, the mean of its tokens' embeddings.

They are a baseline: a direction that says no more than they do has not read the answers. No model is run: projected on
one direction, every token of the vocabulary is one number, and an answer's is the mean of its tokens' numbers.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from alignment.data.chat import Rendered

AT_ONCE = 2**14  # tokens of the vocabulary that are held in float32


def embedding_margins(
    model: PreTrainedModel, induced: Sequence[Sequence[Rendered]], pairs: Sequence[Sequence[Rendered]]
) -> np.ndarray:
    """The margin of each pair along the mean difference of the induced pairs, both of mean embeddings."""
    embeddings = model.get_input_embeddings().weight.detach()
    count = torch.zeros(len(embeddings), dtype=torch.float64)  # of each token, how often y+ has it more than y-
    for positive, negative in induced:
        for answer, sign in ((positive, 1.0), (negative, -1.0)):
            tokens = torch.from_numpy(_tokens(answer).astype(np.int64))
            count.index_add_(0, tokens, torch.full((len(tokens),), sign / len(tokens), dtype=torch.float64))
    direction = sum(count[part] @ embeddings[part].cpu().double() for part in _parts(embeddings))
    direction = direction / direction.norm().clamp(min=1e-30)
    scores = torch.cat([embeddings[part].cpu().double() @ direction for part in _parts(embeddings)]).numpy()
    margins = [scores[_tokens(chosen)].mean() - scores[_tokens(rejected)].mean() for chosen, rejected in pairs]
    return np.array(margins)


def _parts(embeddings: Tensor) -> list[slice]:
    return [slice(start, start + AT_ONCE) for start in range(0, len(embeddings), AT_ONCE)]


def _tokens(answer: Rendered) -> np.ndarray:
    return answer.ids[answer.prompt_length :]
