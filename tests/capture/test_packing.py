from __future__ import annotations

import torch

from ntps_lightning.capture.forward_inputs import ForwardInputs
from ntps_lightning.capture.packing import PackedSequences, sequence_ids


def inputs(shape, **options):
    options = {"attention_mask": None, "input_ids": torch.ones(shape).long()} | options
    return ForwardInputs(shape=shape, device=None, cached=False, **options)


def test_padding_without_a_mask_is_noticed():
    ids = torch.tensor([[5, 6, 7, 0], [5, 0, 6, 7]])
    assert not inputs((2, 4), input_ids=ids).has_unmasked_padding(0), "one may be an end of text"
    assert inputs((2, 4), input_ids=ids * 0).has_unmasked_padding(0)
    assert not inputs((2, 4), input_ids=ids * 0, attention_mask=torch.ones(2, 4)).has_unmasked_padding(0)
    assert not inputs((2, 4), input_ids=ids * 0).has_unmasked_padding(None)


def test_where_sequences_begin():
    positions = torch.tensor([[0, 1, 2, 0, 1, 0], [3, 4, 0, 1, 0, 1]])
    assert sequence_ids(inputs((2, 6), position_ids=positions)).tolist() == [[0, 0, 0, 1, 1, 2], [3, 3, 4, 4, 5, 5]]
    mask = torch.tensor([[1, 1, 1, 1, 1, 0], [0, 0, 1, 1, 1, 1]])
    expected = [[0, 0, 0, 1, 1, -1], [-1, -1, 2, 2, 3, 3]]
    assert sequence_ids(inputs((2, 6), position_ids=positions, attention_mask=mask)).tolist() == expected
    left = torch.tensor([[1, 1, 0, 1, 2, 3]])
    assert sequence_ids(inputs((1, 6), position_ids=left, attention_mask=torch.tensor([[0, 0, 1, 1, 1, 1]]))) is None
    assert sequence_ids(inputs((3, 6), position_ids=torch.arange(6)[None])) is None
    assert sequence_ids(inputs((3, 6))) is None
    one_row = torch.tensor([[0, 1, 0]])
    assert sequence_ids(inputs((2, 3), position_ids=one_row)).tolist() == [[0, 0, 1], [2, 2, 3]]
    ends = torch.tensor([0, 2, 5])
    assert sequence_ids(inputs((1, 6), cu_seq_lens=ends)).tolist() == [[0, 0, 1, 1, 1, -1]]
    assert sequence_ids(inputs((2, 3), cu_seq_lens=torch.tensor([0, 3, 6]))) is None


def test_unpacking_keeps_every_token_in_order():
    hidden = torch.arange(12.0).reshape(2, 3, 2)
    sequences = PackedSequences(torch.tensor([[0, 0, 1], [2, -1, 3]]))
    rows, mask = sequences.rows(hidden), sequences.mask
    assert len(sequences) == 4
    assert mask.tolist() == [[True, True], [True, False], [True, False], [True, False]]
    assert torch.equal(rows[mask], hidden.flatten(0, 1)[[0, 1, 2, 3, 5]])
