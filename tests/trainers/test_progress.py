"""What a training's last line on the terminal says."""

from alignment.trainers.progress import shown


def test_displacement_kl_and_the_quantiles_of_gamma_are_on_the_last_line():
    logs = {
        "loss": 0.6931, "chosen_log_ratio": -0.1251, "kl": 0.034, "confidence_q10": 0.312, "confidence_q50": 0.5,
        "confidence_q90": 0.9, "learning_rate": 1e-5,
    }  # fmt: skip
    line = ", ".join(f"{name}={value}" for name, value in shown(logs).items())
    assert line == "loss=0.693, chosen_log_ratio=-0.13, kl=0.03, confidence=0.31/0.50/0.90"
    assert shown({"loss": 0.5, "accuracy": 0.625}) == {"loss": "0.500", "accuracy": "62.5%"}
    assert shown({"train_runtime": 3.0}) == {}
