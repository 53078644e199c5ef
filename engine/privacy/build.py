"""From the configuration to a privacy mechanism."""

import numpy as np

from engine.own.call import make
from engine.privacy.base import NONE, Privacy
from engine.privacy.config import PrivacyConfig


def build_privacy(config: PrivacyConfig, draw: np.random.Generator) -> Privacy:
    """The mechanism of one hospital and round.

    Args:
        draw: for its noise. It follows from the run's seed, which everybody may know: what is noised is not protected.
    """
    if config.method == "none":
        return NONE
    made: Privacy = make("a privacy mechanism", config.method, {"draw": draw}, config.parameters, Privacy)
    return made._replace(name=config.method)
