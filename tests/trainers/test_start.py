"""What happens before the first step, by hand: which pairs a reward is fitted on, and what the checks find."""

from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset, concatenate_datasets
from torch.nn.functional import logsigmoid

from alignment.maths.losses import confidence_dpo_loss
from alignment.models.hybrid_reward import HybridReward
from alignment.runs.ranks import Ranks
from alignment.trainers.objectives import Objective
from alignment.trainers.pair_confidence import Judged
from alignment.trainers.start import check_objective, check_reference, fit_reward
from alignment.types import StageFailed, UserError

LONG = (2, 7)  # pairs that max_length cuts
PAIRS = Dataset.from_list(
    [{"prompt_ids": [n], "chosen_ids": [n] * (9 if n in LONG else 3), "rejected_ids": [n]} for n in range(40)]
)


class Gathering:
    """Batches of 2 on so many ranks, one after the other: the second time around each finds what all ranks gave."""

    def __init__(self, ranks: int) -> None:
        self.ranks, self.gave = ranks, [[] for _ in range(ranks)]

    def fit(self, rank: int, pairs: Dataset = PAIRS, **settings) -> HybridReward:
        args = SimpleNamespace(
            pooling=None, gate=None, max_length=5, reward_pairs=21, per_device_train_batch_size=2, seed=0,
            world_size=self.ranks, process_index=rank, **settings,
        )  # fmt: skip
        self.gave[rank] = []
        others = [list(given) for given in self.gave]

        def gather(states: torch.Tensor) -> torch.Tensor:
            self.gave[rank].append(states)
            number = len(self.gave[rank]) - 1
            return torch.cat([given[number] if given else states for given in others])

        accelerator = SimpleNamespace(gather=gather, num_processes=self.ranks, process_index=rank)
        return fit_reward(pairs, args, accelerator, self.states_of)

    @staticmethod
    def states_of(rows, pooling: str) -> torch.Tensor:
        """A chosen answer's state is the number of its pair, a rejected one's the same below zero."""
        assert pooling == "endpoint"
        return torch.tensor([[[[float(row["prompt_ids"][0])]], [[-float(row["prompt_ids"][0])]]] for row in rows])


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_a_reward_is_fitted_on_the_first_whole_pairs_in_their_order_on_any_ranks(ranks, monkeypatch):
    """21 pairs in rounds of 2, 4 or 6: the last one has filler, and of several ranks one has no pair in it."""
    monkeypatch.setattr(HybridReward, "fit", lambda chosen, rejected, **more: (chosen, rejected, more))
    monkeypatch.setattr(Ranks, "from_main", lambda self, decide: decide())
    gathering = Gathering(ranks)
    for _ in range(2):
        found = [gathering.fit(rank) for rank in range(ranks)]
    expected = [float(n) for n in range(40) if n not in LONG][:21]
    for chosen, rejected, more in found:
        assert chosen.shape == (21, 1, 1) and chosen.flatten().tolist() == expected
        assert torch.equal(rejected, -chosen) and more.pop("prompts").tolist() == list(range(21))
        assert more == {"seed": 0, "pooling": "endpoint"}


def turns(*contents: str) -> list[dict]:
    return [{"role": role, "content": content} for role, content in zip(("user", "assistant") * 2, contents)]  # noqa: B905


@pytest.mark.parametrize(
    "prompts",
    [
        {"prompt": ["Why rats?", "why  rats", "Why cats?", "why  rats"], "prompt_ids": [[1], [2], [3], [4]]},
        {"prompt": [turns("Why rats?"), turns("why rats", "They gnaw.", "So?"), turns("Hm?"), turns("Why rats!")]},
        {"prompt_ids": [[1, 2], [1, 2], [2, 1], [1, 2]]},
    ],
    ids=["text", "messages", "token ids"],
)
def test_a_reward_is_fitted_by_folds_of_prompts(prompts, monkeypatch):
    """Prompts of the same words, a conversation and its later turns, and where there is no text the same token ids."""
    monkeypatch.setattr(HybridReward, "fit", lambda chosen, rejected, **more: more["prompts"].tolist())
    first = PAIRS.select(range(8, 12))
    same = Dataset.from_dict({name: first[name] for name in first.column_names if name not in prompts} | prompts)
    others = PAIRS.select(range(12, 40))
    if "prompt" in prompts:
        text = [turns(f"{n}?") if isinstance(prompts["prompt"][0], list) else f"{n}?" for n in range(len(others))]
        others = others.add_column("prompt", text)
    found = Gathering(1).fit(0, concatenate_datasets([same, others]))
    assert found == [0, 0, 1, 0, *range(2, 19)]


def test_too_few_prompts_are_refused_before_a_state_is_read():
    few = PAIRS.map(lambda row: {"prompt_ids": [row["prompt_ids"][0] % 4]})
    with pytest.raises(UserError, match=r"train_dataset: the 21 pairs .* have 4 prompts; give pairs of 5 prompts or m"):
        fit_reward(few, SimpleNamespace(pooling=None, max_length=5, reward_pairs=21), None, None)


def test_too_few_whole_pairs_are_refused():
    with pytest.raises(UserError, match="train_dataset: 18 pairs fit into max_length"):
        Gathering(1).fit(0, PAIRS.select(range(20)))


def test_a_reference_that_is_not_the_policy_is_found():
    """A hundredth of a nat may be lost; in half precision one for each of 30 tokens."""
    check_reference(torch.tensor([0.0, -0.009]), 30, False, None)
    check_reference(torch.tensor([0.0, -0.29]), 30, True, None)
    for half, off, kept in ((False, -0.011, None), (True, 0.31, "references")):
        with pytest.raises(StageFailed, match=f"reach {abs(off):.2g}, not 0") as problem:
            check_reference(torch.tensor([0.0, off]), 30, half, kept)
        assert ("or remove references" in str(problem.value)) is (kept is not None)


class Given(Objective):
    reads_confidence = True

    def __init__(self, losses) -> None:
        self._losses = losses

    def losses(self, judged, beta, real, learning):
        return self._losses(judged.log_ratio_difference, judged.confidence, beta)


@pytest.mark.parametrize(
    "losses, problem",
    [
        (lambda difference, gamma, beta: -logsigmoid(beta * difference), "the confidence does not change"),
        (lambda difference, gamma, beta: -gamma * logsigmoid(difference), "beta does not change"),
        (lambda difference, gamma, beta: gamma * beta * difference / 0, "not a finite number"),
        (lambda difference, gamma, beta: confidence_dpo_loss(beta * difference, gamma), None),
    ],
)
def test_an_objective_that_reads_neither_beta_nor_gamma_is_found(losses, problem):
    """At step 0, where the loss is log 2 for each of them."""
    judged = Judged(torch.zeros(3), torch.tensor([0.0, 0.5, 1.0]))
    if problem is None:
        check_objective(judged, 0.1, Given(losses))
        return
    with pytest.raises(StageFailed, match=problem):
        check_objective(judged, 0.1, Given(losses))
