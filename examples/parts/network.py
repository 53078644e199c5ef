"""A plain multilayer perceptron, for features as well as for signals."""

from itertools import pairwise

import torch
from torch import nn


class Perceptron(nn.Module):
    """From x float32[n, leads, length] and rr float32[n, features] to logits float32[n, classes]."""

    def __init__(self, leads: int, length: int, rr: int, classes: int, *, hidden: int = 16, layers: int = 1) -> None:
        super().__init__()
        widths = [leads * length + rr, *[hidden] * layers]
        steps = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())]
        self.body = nn.Sequential(*steps, nn.Linear(widths[-1], classes))

    def forward(self, x: torch.Tensor, rr: torch.Tensor) -> torch.Tensor:
        """Everything in a row."""
        return self.body(torch.cat([x.flatten(1), rr], 1))
