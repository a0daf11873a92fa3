"""Hidden states with what makes real ones hard: an outlier first token, an offset, and a decaying spectrum."""

import torch
from torch.nn.functional import one_hot


def hidden_states(size, length, d, dtype=torch.float32, device="cpu", seed=0):
    """``(N, T, d)`` states whose tokens remember those before, and ``(N,)`` labels of five classes."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.arange(1, d + 1) ** -0.5
    labels = torch.randint(5, (size,), generator=generator)
    states = torch.randn(size, length, d, generator=generator).mul_(scale)
    memory = torch.linspace(0.9, 0, d)
    for t in range(1, length):
        states[:, t] += memory * states[:, t - 1]
    states += (0.3 * scale * torch.randn(5, d, generator=generator))[labels][:, None] + scale
    states[:, 0, :: max(1, d // 5)] += 200 * scale.mean()
    return states.to(device, dtype), labels.to(device)


def padding_mask(size, length, device="cpu"):
    """Lengths from half to all of ``length``, padded on the right."""
    lengths = torch.randint(length // 2, length + 1, (size, 1), generator=torch.Generator().manual_seed(0))
    return (torch.arange(length) < lengths).to(device)


def targets(labels, num_classes=5):
    """One-hot rows."""
    return one_hot(labels, num_classes).double()
