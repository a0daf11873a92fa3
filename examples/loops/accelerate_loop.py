"""NTPSMonitor under Hugging Face Accelerate:

accelerate launch --num_processes 2 -m examples.loops.accelerate_loop  # on CPUs with --cpu
"""

import torch
from accelerate import Accelerator

from examples.loops.shared import line, smollm2_on_bbc_news
from ntps_lightning import NTPSMonitor


def main(model, train, validation, epochs=3):
    accelerator = Accelerator()
    monitor = NTPSMonitor(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model, optimizer, train, validation = accelerator.prepare(model, optimizer, train, validation)
    for epoch in range(epochs):
        model.train()
        for batch in train:
            accelerator.backward(model(**batch).loss)
            optimizer.step()
            optimizer.zero_grad()
        model.eval()
        monitor.reset()
        for batch in validation:
            own = torch.ones(len(batch["labels"]), dtype=torch.bool)
            state = accelerator.gradient_state
            if state.end_of_dataloader and state.remainder > 0:  # the rest of the last batches repeats samples
                own = accelerator.process_index * len(own) + torch.arange(len(own)) < state.remainder
            with torch.no_grad(), monitor.batch(batch["labels"], input_ids=batch["input_ids"], sample_mask=own):
                model(**batch)
        (details,) = monitor.compute().values()
        accelerator.print(line(epoch, details), flush=True)
    return details


if __name__ == "__main__":
    main(*smollm2_on_bbc_news())
