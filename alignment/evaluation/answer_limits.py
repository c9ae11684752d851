"""The limits beyond which an answer is of no use, and how far a text repeats itself; nothing here loads a model."""

ON_TOPIC, MOST_LOG_PERPLEXITY, MOST_REPETITION = 5.0, 5.0, 0.2  # docs/usefulness.md says how they were chosen
RUN = 4  # words


def repetition(text: str) -> float:
    """The share of the text's runs of RUN words that it has had before, whatever their case."""
    words = text.lower().split()
    runs = [tuple(words[i : i + RUN]) for i in range(len(words) - RUN + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0
