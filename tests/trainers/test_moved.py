"""How far the policy is from the reference: by hand, and from a model's own tokens."""

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM

from alignment.trainers.cdpo_metrics import PairRecord
from alignment.trainers.moved import moved_by
from alignment.trainers.pair_confidence import Judged
from tests.trainers.test_cdpo import folder, new_trainer, pairs, train  # noqa: F401 (a fixture)

ALONE = SimpleNamespace(gather=lambda rows: rows)


def test_log_ratios_are_in_nats_a_token_and_kl_is_half_their_mean_square():
    """Two pairs: chosen answers of 2 and 1 tokens, rejected ones of 1 and 2, whose log-ratios are these."""
    ratios = torch.tensor([-1.0, -3.0, 0.5, 1.0, 2.0, -4.0])
    batch = {"answer_row": torch.zeros(4), "target_answer": torch.tensor([0, 0, 1, 2, 3, 3])}
    reference = torch.full((6,), -2.0)
    whole = torch.tensor([-4.0, -2.0, -2.0, -4.0])
    moved = moved_by(torch.tensor([-4.0, 0.5, 1.0, -2.0]), whole, reference + ratios, reference, batch)
    assert moved.tokens.tolist() == [2, 1, 1, 2] and moved.squares.tolist() == [1 + 9 + 1, 0.25 + 4 + 16]
    record, judged = PairRecord(), Judged(torch.tensor([-5.0, 2.5]), torch.tensor([0.5, 0.75]), moved=moved)
    record.add(judged, 0.1, None)
    found = record.summary(ALONE)
    assert found["chosen_log_ratio"] == pytest.approx(-3.5 / 3)
    assert found["rejected_log_ratio"] == pytest.approx(-1.0 / 3)
    assert found["kl"] == pytest.approx((1 + 9 + 0.25 + 1 + 4 + 16) / 2 / 6)
    assert found["dpo_gap"] == pytest.approx(0.1 * (-5 + 2.5) / 2)
    record.add(judged, 0.1, 1)  # the second pair is filler
    assert record.summary(ALONE)["chosen_log_ratio"] == pytest.approx(-2.0)


def test_quantiles_of_the_confidence_are_the_10_50_and_90_percent_ones():
    batch = {"answer_row": torch.zeros(22), "target_answer": torch.arange(22)}
    moved = moved_by(torch.zeros(22), torch.zeros(22), torch.zeros(22), None, batch)
    record = PairRecord()
    record.add(Judged(torch.zeros(11), torch.arange(11) / 10, moved=moved), 0.1, None)
    found = record.summary(ALONE)
    assert [found[f"confidence_q{level}"] for level in (10, 50, 90)] == pytest.approx([0.1, 0.5, 0.9])
    assert "kl" not in found, "the reference's tokens aren't known"


def test_a_policy_that_moved_is_measured_token_by_token(folder, tmp_path):  # noqa: F811
    """Against transformers' own logits, one answer at a time."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    plain = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    for parameter in model.parameters():
        parameter.data *= 1.05
    trainer, _ = new_trainer(folder, tmp_path, model=model, confidence="fixed", fixed_confidence=1.0)
    rows = [trainer.train_dataset[i] for i in range(4)]
    with torch.no_grad():
        moved = trainer.judge(trainer.model, trainer.data_collator(rows)).moved
        ratios = [
            _ratios(model, plain, row["prompt_ids"], row[side])
            for side in ("chosen_ids", "rejected_ids")
            for row in rows
        ]
    assert moved.log_ratios.tolist() == pytest.approx([float(one.sum()) for one in ratios], abs=1e-4)
    assert moved.tokens.tolist() == [len(one) for one in ratios]
    squares = [float((one**2).sum() + (other**2).sum()) for one, other in zip(ratios[:4], ratios[4:], strict=True)]
    assert moved.squares.tolist() == pytest.approx(squares, rel=1e-4)


def _ratios(model, plain, prompt: list[int], answer: list[int]) -> torch.Tensor:
    ids = torch.tensor([prompt + answer])
    logs = [one(ids).logits[0].log_softmax(-1)[len(prompt) - 1 : -1] for one in (model, plain)]
    return (logs[0] - logs[1]).gather(1, torch.tensor(answer)[:, None])[:, 0]


def test_what_is_known_of_the_reference_by_answers_alone_has_no_kl(folder, tmp_path):  # noqa: F811
    settings = {"confidence": "fixed", "fixed_confidence": 1.0, "max_steps": 2}
    _, whole = train(folder, tmp_path / "a", pairs(), **settings)
    _, before = train(folder, tmp_path / "b", pairs(), precompute_ref_log_probs=True, **settings)
    assert whole.of("kl")[1] > 0 and "kl" not in before.logs[1]
    assert before.of("chosen_log_ratio")[1] == pytest.approx(whole.of("chosen_log_ratio")[1], abs=1e-5)
