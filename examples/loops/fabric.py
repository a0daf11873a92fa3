"""NTPSMonitor under Lightning Fabric:

PYTHONPATH=. fabric run --devices 2 examples/loops/fabric.py
"""

import torch
from lightning.fabric import Fabric

from examples.loops.shared import line, smollm2_on_bbc_news
from ntps_lightning import NTPSMonitor


def main(model, train, validation, epochs=3):
    fabric = Fabric()
    monitor = NTPSMonitor(model)
    model, optimizer = fabric.setup(model, torch.optim.AdamW(model.parameters(), lr=1e-3))
    train, validation = fabric.setup_dataloaders(train, validation)
    for epoch in range(epochs):
        model.train()
        for batch in train:
            fabric.backward(model(**batch).loss)
            optimizer.step()
            optimizer.zero_grad()
        model.eval()
        monitor.reset()
        for batch in validation:  # Fabric's sampler repeats samples, to even out the ranks: those are not its own
            seen = torch.arange(len(batch["labels"])) + monitor.samples_seen
            own = fabric.global_rank + fabric.world_size * seen < len(validation.dataset)
            with torch.no_grad(), monitor.batch(batch["labels"], input_ids=batch["input_ids"], sample_mask=own):
                model(**batch)
        (details,) = monitor.compute().values()
        fabric.print(line(epoch, details))
    return details


if __name__ == "__main__":
    main(*smollm2_on_bbc_news())
