"""NTPSMonitor in a loop of bare torch.distributed: torchrun --nproc-per-node 2 -m examples.loops.torch_distributed"""

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from examples.loops.shared import line, share_of, smollm2_on_bbc_news
from ntps_lightning import NTPSMonitor


def main(model, train, validation, epochs=3):
    rank, world_size = distributed.get_rank(), distributed.get_world_size()
    monitor = NTPSMonitor(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model = DistributedDataParallel(model)
    train, validation = share_of(train), share_of(validation)
    for epoch in range(epochs):
        model.train()
        train.sampler.set_epoch(epoch)
        for batch in train:
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        model.eval()
        monitor.reset()
        for batch in validation:  # DistributedSampler repeats samples, to even out the ranks: those are not its own
            seen = torch.arange(len(batch["labels"])) + monitor.samples_seen
            own = rank + world_size * seen < len(validation.dataset)
            with torch.no_grad(), monitor.batch(batch["labels"], input_ids=batch["input_ids"], sample_mask=own):
                model(**batch)
        (details,) = monitor.compute().values()
        if rank == 0:
            print(line(epoch, details), flush=True)
    return details


if __name__ == "__main__":
    distributed.init_process_group("gloo")
    main(*smollm2_on_bbc_news())
    distributed.destroy_process_group()
