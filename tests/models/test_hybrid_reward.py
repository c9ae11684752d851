"""HybridReward as a user has it: fit, score, save, load, and what it refuses."""

import io
import json

import numpy as np
import pytest
import torch
from sklearn.svm import LinearSVC
from tqdm import tqdm

from alignment import HybridReward
from alignment.maths.hybrid import GATES
from alignment.maths.probes import standard
from alignment.models.hybrid_quality import RELEASED_BATCH, describe
from alignment.types import UserError

LAYERS = 3


def states(pairs: int = 40, width: int = 20, seed: int = 0, strength: float = 1.5) -> tuple[torch.Tensor, torch.Tensor]:
    """(pair, layer, width) with scales and offsets of their own; layer 2 tells the answers apart best."""
    generator = torch.Generator().manual_seed(seed)
    chosen, rejected = torch.randn(2, pairs, LAYERS, width, generator=generator)
    shift = strength * torch.tensor([0.2, 1.0, 0.4])
    chosen[:, :, 0] += shift
    rejected[:, :, 0] -= shift
    scales = torch.linspace(1, 30, width)
    return chosen * scales + 100, rejected * scales + 100


@pytest.fixture(scope="module")
def fitted() -> dict[str, HybridReward]:
    return HybridReward.fit_gates(*states())


@pytest.mark.parametrize("gate", GATES)
def test_a_fitted_reward_orders_unseen_pairs(fitted, gate):
    chosen, rejected = states(seed=1)
    right = (fitted[gate].score(chosen) > fitted[gate].score(rejected)).double().mean()
    assert right > (0.55 if gate == "last_layer" else 0.8)


@pytest.mark.parametrize("width", [20, 200])
def test_the_score_is_the_formula_written_out(width):
    """R = sum_l w_l s_l with s_l = z_l . weight_l / width + bias_l, one row and layer after the other."""
    reward = HybridReward.fit(*states(width=width), gate="sigmoid_scores")
    rows = states(width=width, seed=1)[0][:5]
    scores = [
        [
            ((row[i].double() - reward.mean[i]) / reward.scale[i] @ reward.weight[i] / width + reward.bias[i]).item()
            for i in range(LAYERS)
        ]
        for row in rows
    ]
    np.testing.assert_allclose(reward.layer_scores(rows).detach(), scores, rtol=1e-9, atol=1e-9)
    weights = torch.sigmoid(torch.tensor(scores).double() @ reward.vote.T)
    torch.testing.assert_close(reward(rows), (weights * torch.tensor(scores).double()).sum(dim=1))
    torch.testing.assert_close(reward.gate_weights(reward.layer_scores(rows)), weights)


@pytest.mark.parametrize("width", [20, 200])
def test_probes_that_the_gate_leaves_alone_are_scikit_learns(width):
    """Under last_layer the first layer's probe stays the SVM it was, up to the scale of R."""
    chosen, rejected = states(width=width)
    reward = HybridReward.fit(chosen, rejected, gate="last_layer")
    rows = torch.cat([chosen, rejected])
    z = (rows[:, 0].double() - reward.mean[0]) / reward.scale[0] / width**0.5
    svm = LinearSVC(C=float(reward.meaning["cost"]), loss="squared_hinge", dual=False, tol=1e-10, max_iter=100000)
    svm.fit(z.numpy(), np.repeat([1, -1], 40))
    both = np.stack([reward.layer_scores(rows)[:, 0].detach().numpy(), svm.decision_function(z.numpy())])
    assert np.corrcoef(both)[0, 1] == pytest.approx(1, abs=1e-7)


def test_parameters_are_float64_and_get_gradient():
    reward = HybridReward.fit(*states(), gate="sigmoid_scores")
    assert {value.dtype for value in reward.state_dict().values()} == {torch.float64}
    assert {name for name, _ in reward.named_parameters()} == {"weight", "bias", "vote"}
    chosen, rejected = states(seed=1)
    chosen.requires_grad_()
    (reward(chosen) - reward(rejected)).sum().backward()
    assert all((parameter.grad.abs() > 0).any(dim=-1).all() for parameter in reward.parameters())
    assert chosen.grad.abs().amax(dim=(0, 2)).min() > 0


@pytest.mark.parametrize("gate", GATES)
def test_gradients_are_numerically_right(fitted, gate):
    reward, rows = fitted[gate], states(seed=2)[0][:2].double()
    names = [name for name, _ in reward.named_parameters()]

    def score(*values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(reward, dict(zip(names, values, strict=True)), (rows,))

    assert torch.autograd.gradcheck(score, tuple(reward.parameters()))


def test_any_float_dtype_scores_alike_and_in_any_batch(fitted, monkeypatch):
    reward, rows = fitted["sigmoid_scores"], states(seed=1)[0]
    half = rows.to(torch.float16)
    expected = reward.score(rows)
    assert expected.dtype == torch.float64 and not expected.requires_grad
    torch.testing.assert_close(reward.score(rows.double()), expected)
    torch.testing.assert_close(reward.score(half), reward.score(half.double()))
    monkeypatch.setattr("alignment.models.hybrid_reward.CHUNK", 200)
    torch.testing.assert_close(reward.score(rows), expected)
    assert reward.score(rows[:0]).shape == (0,)


@pytest.mark.parametrize("gate", GATES)
def test_what_is_saved_comes_back_to_the_byte(fitted, gate, tmp_path):
    reward = fitted[gate]
    reward.save(tmp_path / "one")
    back = HybridReward.load(tmp_path / "one")
    back.save(str(tmp_path / "two"))
    for name in ("reward.safetensors", "reward.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    rows = states(seed=1)[0]
    assert torch.equal(back.score(rows), reward.score(rows))
    assert (back.gate, back.layer, back.pooling, back.alpha) == (gate, reward.layer, "endpoint", reward.alpha)


def test_fitting_is_the_same_every_time_and_takes_no_global_randomness():
    torch.manual_seed(3)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    first = HybridReward.fit(*states(width=100))
    assert torch.equal(torch.get_rng_state(), before) and torch.get_num_threads() == threads
    try:
        torch.set_num_threads(2)
        second = HybridReward.fit(*states(width=100))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, second.state_dict()[name]) for name, one in first.state_dict().items())
    assert first.alpha == second.alpha
    other = HybridReward.fit(*states(width=100), seed=1)
    assert other.alpha != first.alpha  # other folds


@pytest.mark.parametrize("gate", ["sigmoid_scores", "last_layer"])
def test_many_dimensions_are_fitted_as_few_are(monkeypatch, gate):
    """From products of answers, or as they are: the same reward, but for float32."""
    few, unseen = HybridReward.fit(*states(), gate=gate), states(seed=1)[0]
    monkeypatch.setattr("alignment.models.fit_heads.MANY", 19)
    many = HybridReward.fit(*states(), gate=gate)
    assert not torch.equal(many.weight, few.weight), "both ways were taken"
    torch.testing.assert_close(many.score(unseen), few.score(unseen), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(many.weight, few.weight, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(many.cross_fitted.gaps, few.cross_fitted.gaps, rtol=1e-3, atol=1e-4)
    assert (many.meaning["cost"], many.layer) == (few.meaning["cost"], few.layer)


def test_products_have_all_digits_whatever_training_is_set_to(monkeypatch):
    found = []
    monkeypatch.setattr(
        "alignment.models.fit_heads.standard",
        lambda *given: found.append(torch.get_float32_matmul_precision()) or standard(*given),
    )
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        HybridReward.fit(*states(pairs=20, width=60), gate="uniform")
        assert set(found) == {"highest"} and torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("width", [20, 100])
def test_a_bar_shows_layers_and_gates(monkeypatch, width):
    shown = []

    def bar(items, what, total, unit):
        shown.append(tqdm(items, total=total, disable=False, file=io.StringIO()))
        return shown[0]

    monkeypatch.setattr("alignment.models.fit_heads.bar", bar)
    HybridReward.fit_gates(*states(width=width), gates=["uniform", "last_layer"])
    assert len(shown) == 1 and shown[0].n == shown[0].total == LAYERS + 2


def test_fitting_leaves_gradients_and_inputs_alone():
    chosen, rejected = states()
    copies = chosen.clone(), rejected.clone()
    with torch.inference_mode():
        reward = HybridReward.fit(*(side.clone() for side in (chosen, rejected)))
    assert torch.equal(chosen, copies[0]) and torch.equal(rejected, copies[1]) and torch.is_grad_enabled()
    reward(chosen).sum().backward()
    assert reward.weight.grad is not None


def test_the_calibrated_slope_is_a_probability_on_unseen_pairs():
    """A quarter of the labels turned round, here and there: calibrated, gamma says so; the paper's doesn't."""
    chosen, rejected = states(pairs=3300, strength=1.0)
    turned = torch.arange(3300) % 4 == 0
    chosen[turned], rejected[turned] = rejected[turned], chosen[turned].clone()
    reward = HybridReward.fit(chosen[:300], rejected[:300])
    found = describe(reward, chosen[300:], rejected[300:])
    assert found["ece"]["calibrated"] < 0.07 < 0.15 < found["ece"]["paper"]
    assert found["saturated_share"]["calibrated"] < 0.05 < 0.5 < found["saturated_share"]["paper"]


def test_the_description_is_what_the_scores_say(fitted):
    """The slow way, row by row."""
    reward, (chosen, rejected) = fitted["sigmoid_scores"], states(pairs=20, seed=1)
    found = describe(reward, chosen, rejected, seed=5)
    c, r = reward.score(chosen).tolist(), reward.score(rejected).tolist()
    assert found["hard"] == pytest.approx(np.mean([x > 0 for x in c] + [x < 0 for x in r]))
    assert found["soft"] == pytest.approx(np.mean([x > y for x, y in zip(c, r, strict=True)]))
    assert found["true"] == pytest.approx(np.mean([x > 0 > y for x, y in zip(c, r, strict=True)]))
    s_c, s_r = (reward.layer_scores(side).detach().numpy() for side in (chosen, rejected))
    for layer, row in enumerate(found["layers"]):
        safe = np.concatenate([np.ones(20), np.zeros(20)])[np.concatenate([s_c, s_r])[:, layer] > 0]
        assert row["layer"] == layer + 1 and row["precision"] == pytest.approx(safe.mean())
        assert row["accuracy"] == pytest.approx(np.concatenate([s_c[:, layer] > 0, s_r[:, layer] < 0]).mean())
        assert row["pair_accuracy"] == pytest.approx((s_c > s_r)[:, layer].mean())
    by_layer = [row["pair_accuracy"] for row in found["layers"]]
    scoring = found["scoring"]
    assert scoring["by_layer"] == by_layer and scoring["hybrid"] == found["soft"]
    assert (scoring["best"], scoring["worst"], scoring["last"]) == (max(by_layer), min(by_layer), by_layer[-1])
    assert scoring["random"] == by_layer[scoring["random_layer"] - 1]
    assert sum(row["gate_weight"] for row in describe(fitted["uniform"], chosen, rejected)["layers"]) == pytest.approx(
        1
    )
    assert set(found["ece"]) == set(found["saturated_share"]) == {"paper", "released", "calibrated"}
    assert RELEASED_BATCH == 8


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_unusable_states_are_refused_in_one_line_before_anything_is_fitted(fitted, monkeypatch):
    chosen, rejected = states()
    bad = chosen.clone()
    bad[3, 1, 4] = torch.nan
    constant = chosen.clone(), rejected.clone()
    for side in constant:
        side[:, 1] = 7.0
    reward = fitted["uniform"]
    for call, says in (
        (lambda: HybridReward.fit(bad, rejected), "chosen states: pair 3 holds numbers that are not finite"),
        (lambda: HybridReward.fit(chosen, bad * torch.inf), "rejected states: pair 0 holds"),
        (lambda: HybridReward.fit(*constant), "layer 2 of the states: it is the same for all answers"),
        (lambda: HybridReward.fit(chosen[:9], rejected[:9]), "9 pairs are too few; give 10 or more"),
        (lambda: HybridReward.fit(chosen, rejected[:20]), "give two tensors (pair, layer, width)"),
        (lambda: HybridReward.fit(chosen, rejected, gate="sigmoid"), "gate: 'sigmoid' is not a choice"),
        (
            lambda: HybridReward.fit(chosen, rejected, pooling="last"),
            "pooling: 'last' is not a choice; choose one of end",
        ),
        (lambda: HybridReward.fit(chosen, rejected, margin=-1.0), "margin: -1.0 is no number of at least 0; give one"),
        (lambda: HybridReward.fit(chosen, rejected, margin=float("nan")), "margin: nan is no number"),
        (lambda: HybridReward.fit(chosen, rejected, margin="1"), "margin: '1' is no number"),
        (lambda: HybridReward.fit(chosen.numpy(), rejected.numpy()), "chosen: it is a numpy.ndarray; give a tensor"),
        (lambda: HybridReward.fit(chosen, rejected.tolist()), "rejected: it is a list; give a tensor"),
        (lambda: HybridReward.fit(chosen, chosen.clone()), "chosen and rejected: they are the same states; give"),
        (lambda: HybridReward.fit(chosen.cfloat(), rejected.cfloat()), "chosen: its numbers are torch.complex64; give"),
        (lambda: HybridReward.fit(chosen.long(), rejected.long()), "chosen: its numbers are torch.int64; give states"),
        (lambda: reward.score(chosen.numpy()), "states: it is a numpy.ndarray; give a tensor"),
        (lambda: reward.score(chosen.cfloat()), "states: they are torch.complex64"),
        (lambda: reward.score(bad), "states: some are not finite numbers"),
        (lambda: reward.score(chosen[:, :2]), "states: they are torch.float32 of shape (40, 2, 20); give floats"),
        (lambda: reward.score(chosen.long()), "states: they are torch.int64"),
    ):
        with monkeypatch.context() as nothing_begins, pytest.raises(UserError) as error:
            if "layer 2" not in says:  # that is seen when its scale is taken
                nothing_begins.setattr("alignment.models.fit_heads.standard", None)
            call()
        assert says in str(error.value) and "\n" not in str(error.value)


def test_numbers_of_numpy_are_numbers():
    assert HybridReward.fit(*states(), margin=np.float32(1.0)).meaning["margin"] == "1"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / "reward.json").unlink(), "reward.json can't be read"),
        (lambda folder: (folder / "reward.safetensors").unlink(), "reward.safetensors can't be read"),
        (lambda folder: (folder / "reward.json").write_text("{"), "reward.json is damaged"),
        (lambda folder: (folder / "reward.safetensors").write_bytes(b"x" * 99), "reward.safetensors is damaged"),
        (lambda folder: _edit(folder, format=2), "reward.json has another format than 1"),
        (lambda folder: _edit(folder, gate="best"), "reward.json doesn't describe a reward"),
        (lambda folder: _edit(folder, layer=1), "reward.json doesn't describe a reward"),
        (lambda folder: _edit(folder, pooling="first"), "reward.json doesn't describe a reward"),
        (lambda folder: _edit(folder, alpha="7.5"), "reward.json doesn't describe a reward"),
        (lambda folder: _edit(folder, width=21), "reward.safetensors doesn't hold what reward.json says"),
        (lambda folder: _edit(folder, gate="uniform"), "reward.safetensors doesn't hold what reward.json says"),
    ],
)
def test_a_folder_without_a_whole_reward_is_refused(fitted, damage, says, tmp_path):
    fitted["sigmoid_scores"].save(tmp_path / "reward")
    damage(tmp_path / "reward")
    with pytest.raises(UserError) as error:
        HybridReward.load(tmp_path / "reward")
    assert str(error.value).startswith(f"{tmp_path / 'reward'}: {says}") and "\n" not in str(error.value)


def _edit(folder, **changes) -> None:
    settings = json.loads((folder / "reward.json").read_text())
    (folder / "reward.json").write_text(json.dumps({**settings, **changes}))
