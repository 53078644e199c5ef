"""Personalisation: from the final global model to a hospital's own.

Fine-tuning is SGD on the train part. LP-FT trains the head before the rest, so that a head that does not fit yet cannot
spoil the features (Kumar et al. 2022, arXiv 2202.10054). Safeguarded personalisation hands out only what validation bears
out: no class of the hospital may be recognised worse than by the global model, classes that the hospital has not seen are
left out of the softmax (Li and Zhan 2021, "FedRS"), so that nothing pushes them down, and where nothing is gained the
global model stays.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from engine.algorithms.base import Bend, Personalise, Work, pulled, sgd, straight, within
from engine.algorithms.config import FederationConfig, PersonalisationConfig
from engine.algorithms.parts import head
from engine.data.samples import Samples, predicted
from engine.metrics import confusion, scores

HELD_BACK = 0.2  # of its train beats, the last: what a hospital without validation beats chooses by
CHECKS = 4  # equally far apart, at which keep: best-on-validation looks
SHARES = (1.0, 0.75, 0.5, 0.25)  # of the way from the global model to the adapted one that a safeguard tries
UNSEEN = np.float32(-1e4)  # added to the logit of a class that is out of the softmax
GUARDED_PULL = 0.1


def adaptation(federation: FederationConfig, config: PersonalisationConfig) -> Personalise:
    """The personalisation of a configuration; for Per-FedAvg fine-tuning is its adaptation, at rate alpha."""
    match config.method:
        case "none":
            return keep
        case "finetune":
            return _Descent(federation, config).personalise
        case "lp-ft":
            return _Descent(federation, config).head_then_all
        case _:
            return _Descent(federation, config).safeguarded


def keep(work: Work) -> tuple[np.ndarray, int]:
    """No personalisation: the global model as it is."""
    return work.params, 0


class _Descent:
    """SGD from the global model as the settings want it."""

    def __init__(self, federation: FederationConfig, config: PersonalisationConfig) -> None:
        meta = federation.algorithm == "perfedavg"
        self._config = config
        self._batch_size = config.batch_size or federation.batch_size
        self._rate = config.learning_rate or (federation.perfedavg.alpha if meta else federation.learning_rate)
        guarded = config.method == "safeguarded"
        self._pull = config.pull if config.pull is not None else GUARDED_PULL if guarded else 0.0
        self._falls = (config.rate or ("constant" if config.method == "finetune" else "falling")) == "falling"

    def personalise(self, work: Work) -> tuple[np.ndarray, int]:
        """Fine-tuning, and what is kept of it."""
        return self._kept(work, self._descend)

    def head_then_all(self, work: Work) -> tuple[np.ndarray, int]:
        """LP-FT: half of the steps for the head alone, the other half for everything."""

        def descend(work: Work, after: Callable[[int, np.ndarray], None]) -> tuple[np.ndarray, int]:
            steps = self._steps(work)
            half = steps // 2
            own = within(head(work.layout), pulled(work.params, self._pull))
            params, _ = sgd(work, half, self._batch_size, self._rate_of(half), own)
            bend = pulled(work.params, self._pull)
            rate = self._rate_of(steps - half)
            return sgd(work.starting_from(params), steps - half, self._batch_size, rate, bend, after)[0], steps

        return self._kept(work, descend)

    def safeguarded(self, work: Work) -> tuple[np.ndarray, int]:
        """Adapts with a pull and goes as far towards what came of it as validation bears out for every class."""
        work, checked = _apart(work)
        adapted, cost = self._descend(_without_unseen(work), _nothing)
        before = _table(work, work.params, checked)
        best, chosen = (_right(before), _macro(before)), work.params
        for share in SHARES:
            params = work.params + np.float32(share) * (adapted - work.params)
            table = _table(work, params, checked)
            worse = (np.diag(table) < np.diag(before)).any()
            if not worse and (_right(table), _macro(table)) > best:
                best, chosen = (_right(table), _macro(table)), params
        return chosen, cost

    def _kept(
        self, work: Work, descend: Callable[[Work, Callable[[int, np.ndarray], None]], tuple[np.ndarray, int]]
    ) -> tuple[np.ndarray, int]:
        """What is kept of a descent: its end, half of the way, or the best of some places along it."""
        match self._config.keep:
            case "last":
                return descend(work, _nothing)
            case "half-way":
                params, cost = descend(work, _nothing)
                return work.params + np.float32(0.5) * (params - work.params), cost
            case _:
                return self._best(work, descend)

    def _best(
        self, work: Work, descend: Callable[[Work, Callable[[int, np.ndarray], None]], tuple[np.ndarray, int]]
    ) -> tuple[np.ndarray, int]:
        work, checked = _apart(work)
        steps = self._steps(work)
        places = {round(steps * i / CHECKS) for i in range(1, CHECKS + 1)}
        found = [(_macro(_table(work, work.params, checked)), work.params)]

        def after(step: int, params: np.ndarray) -> None:
            if step in places:
                found.append((_macro(_table(work, params, checked)), params.copy()))

        _, cost = descend(work, after)
        return max(reversed(found), key=lambda one: one[0])[1], cost  # of equal ones the longest trained

    def _descend(self, work: Work, after: Callable[[int, np.ndarray], None]) -> tuple[np.ndarray, int]:
        steps = self._steps(work)
        bend: Bend = pulled(work.params, self._pull) if self._pull else straight
        if self._config.part == "head":
            bend = within(head(work.layout), bend)
        return sgd(work, steps, self._batch_size, self._rate_of(steps), bend, after)[0], steps

    def _steps(self, work: Work) -> int:
        if self._config.epochs is None:
            return self._config.steps
        return max(1, round(self._config.epochs * work.samples.batches(self._batch_size)))

    def _rate_of(self, steps: int) -> float | Callable[[int], float]:
        """The same for all steps, or falling in a line to zero, which the step after the last would have."""
        return (lambda step: self._rate * (1 - step / steps)) if self._falls else self._rate


def _nothing(step: int, params: np.ndarray) -> None:
    pass


def _apart(work: Work) -> tuple[Work, Samples]:
    """The work, and the beats to choose by: validation beats, or the last of the train beats, which then do not train."""
    if len(work.validation):
        return work, work.validation
    index = work.samples.index
    cut = len(index) - max(1, round(HELD_BACK * len(index))) if len(index) > 1 else len(index)
    known = replace(work.samples, index=index[:cut])
    return replace(work, samples=known), replace(work.samples.plain(), index=index[cut:], added=None)


def _without_unseen(work: Work) -> Work:
    """The work with classes that have no train beat left out of the softmax."""
    seen = np.bincount(work.samples.labels(), minlength=_classes(work)) > 0
    offset = np.where(seen, np.float32(0), UNSEEN)
    if work.samples.logit_offset is not None:
        offset = offset + work.samples.logit_offset
    return replace(work, samples=replace(work.samples, logit_offset=offset.astype(np.float32)))


def _table(work: Work, params: np.ndarray, samples: Samples) -> np.ndarray:
    """Confusion matrix."""
    return confusion(samples.labels(), predicted(work.oracle, params, samples), _classes(work))


def _classes(work: Work) -> int:
    """Number of classes, as the network tells them."""
    return work.oracle.scores(work.params, *work.samples.batch(np.arange(1))[:2]).shape[1]


def _right(table: np.ndarray) -> int:
    return int(np.trace(table))


def _macro(table: np.ndarray) -> float:
    """Mean F1 of the classes that are there; 0 where none is."""
    return scores(table, [str(i) for i in range(len(table))])["macro_f1"] or 0.0
