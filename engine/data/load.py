"""The samples of a configuration, whatever their source: beats of WFDB records, or what a source of the user's own gives."""

from collections.abc import Callable

from engine.data.beats import Beats, digest_of, load_beats
from engine.data.config import DataConfig
from engine.data.examples import examples_digest, examples_of, load_examples
from engine.own.reference import is_own


def load(data: DataConfig, progress: Callable[[str], None] = lambda text: None) -> Beats:
    """The samples, mapped from the cache; see `load_beats` and `load_examples`."""
    return load_examples(data) if is_own(data.source) else load_beats(data, progress)


def digest(data: DataConfig) -> str:
    """The digest that `load` gives them; nothing is cut."""
    return examples_digest(examples_of(data), data) if is_own(data.source) else digest_of(data)
