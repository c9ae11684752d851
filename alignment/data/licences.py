"""The licences of sets that something is trained on, as docs/data.md has them: what is trained on a set says so."""

from alignment.data.places import PLACES

LICENCES = {
    "pku_saferlhf": "CC-BY-NC-4.0",
    "pku_saferlhf_10k": "CC-BY-NC-4.0",
    "pku_saferlhf_30k": "CC-BY-NC-4.0",
    "beavertails": "CC-BY-NC-4.0",
    "hh_harmless": "MIT",
    "hh_helpful": "MIT",
    "helm_graded": "Apache-2.0",
}
LICENCES_OF_ANSWERS = {"alpaca_eval": "CC-BY-NC-4.0", "xstest_safe": "CC-BY-4.0", "xstest_unsafe": "CC-BY-4.0"}
ON_HUB = "hf://datasets/"


def hub_name(name: str, path: str | None) -> str | None:
    """The name on the hub of a set, or of the one that a file belongs to; None if it isn't there."""
    if path is not None and path.startswith(ON_HUB):
        return "/".join(path.removeprefix(ON_HUB).split("/")[:2]).partition("@")[0]
    return PLACES[name].repository if name in PLACES else None


def described(name: str, path: str | None) -> str:
    """A source of pairs in words, with its licence and without the folder that it lies in. path: of a file."""
    repository = hub_name(name, path)
    on_hub = "" if repository is None else f"[{repository}](https://huggingface.co/datasets/{repository}), "
    if name in LICENCES:
        return f"`{name}` ({on_hub}{LICENCES[name]})"
    file = path.rpartition("/")[2] if path else name
    return f"`{file}` ({on_hub}{'its licence applies' if repository else 'whose licence its owner knows'})"
