"""Ids of samples: what they depend on, and what a few numbers say of many."""

from __future__ import annotations

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from ntps_lightning.monitor.sample_ids import SamplesSeen, sample_ids


def ragged(n, seed=0, vocabulary=50_000):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 9, (n,), generator=generator).tolist()
    return [torch.randint(vocabulary, (length,), generator=generator) for length in lengths]


def padded(rows, side, filler):
    ids = pad_sequence(rows, batch_first=True, padding_value=filler, padding_side=side)
    return ids, pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side=side)


def test_padding_and_dtype_change_nothing():
    rows = ragged(200)
    expected = torch.cat([sample_ids(row[None]) for row in rows])
    for side, filler in (("left", 0), ("right", 7)):
        ids, mask = padded(rows, side, filler)
        assert torch.equal(sample_ids(ids, mask), expected)
        assert torch.equal(sample_ids(ids.int(), mask.bool()), expected)


def test_different_samples_have_different_ids():
    rows = {tuple(row.tolist()) for row in ragged(20_000, vocabulary=3)}
    ids = {int(sample_ids(torch.tensor([row]))) for row in rows}
    assert len(ids) == len(rows)
    assert len(rows) > 4_000, "short ones over three tokens, prefixes and permutations of each other"
    assert torch.tensor(sorted(ids)).double().mean().abs() < 0.05 * 2**63, "spread evenly: the lowest are a fair choice"


def seen(ids, size=16):
    found = SamplesSeen()
    for part in torch.split(ids, size):
        found = found.add(len(part), part)
    return found


def test_order_and_batches_change_nothing():
    ids = sample_ids(*padded(ragged(300), "right", 0))
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    assert seen(ids).same_as(seen(ids[order], size=7))
    assert not seen(ids).same_as(seen(ids[:-1]))
    assert not seen(ids).same_as(seen(torch.cat([ids[:-1], ids[:1]]))), "one left out, another twice"
    assert not seen(ids).add(1, None).same_as(seen(ids).add(1, None)), "unknown ones may be any"
    assert not SamplesSeen().same_as(SamplesSeen())


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_the_share_in_common(share):
    ids = torch.unique(sample_ids(*padded(ragged(4000), "right", 0)))
    ids = ids[torch.randperm(len(ids), generator=torch.Generator().manual_seed(1))]
    common, rest = ids[: int(share * len(ids))], ids[int(share * len(ids)) :]
    first, second = torch.cat([common, rest[::2]]), torch.cat([common, rest[1::2]])
    assert seen(first).shared_with(seen(second)) == pytest.approx(share, abs=0.19), "three standard errors"
