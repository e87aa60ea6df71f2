"""A data set of a user's own: two arms of a spiral, or how far a point is from their centre."""

import torch

from bnlab.data import Split, Splits


def spirals(num_samples: int, noise: float = 0.05, split_seed: int = 0, task: str = "classification") -> Splits:
    generator = torch.Generator().manual_seed(split_seed)

    def split(num: int) -> Split:
        arm = torch.arange(num) % 2
        radius = torch.rand(num, generator=generator)
        angle = 5 * radius + torch.pi * arm
        x = radius.unsqueeze(1) * torch.stack([angle.cos(), angle.sin()], 1)
        x += noise * torch.randn(num, 2, generator=generator)
        return Split(x, arm if task == "classification" else radius.double())

    num_classes = 2 if task == "classification" else None
    return Splits(split(num_samples), split(num_samples // 4), split(num_samples // 4), num_classes)
