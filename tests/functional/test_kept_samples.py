"""Which samples are kept: the same, whatever the order, the batches and the processes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ntps_lightning.functional.hashing import mix
from ntps_lightning.functional.kept_samples import KeptSamples

NAMES = ("states", "targets", "weights", "groups", "halves")


def test_the_mixing_is_that_of_splitmix64():
    def reference(value):
        value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        value = (value ^ (value >> 27)) * 0x94D049BB133111EB % 2**64
        return value ^ (value >> 31)

    values = torch.tensor([0, 1, -5, 2**62, -(2**63)])
    assert [v % 2**64 for v in mix(values).tolist()] == [reference(v % 2**64) for v in values.tolist()]


def pool(n, num_groups, seed, copies=True):
    """Ids, groups, classes and states of samples, some of which are copies."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(n // 2 if copies else 10**9, size=n)
    groups = ids % num_groups
    return (
        torch.from_numpy(ids),
        torch.from_numpy(groups),
        torch.from_numpy(ids % 3),
        torch.from_numpy(ids[:, None] * [1.0, 2.0]),
    )


def kept(samples, parts, capacity, grouped=True):
    found = KeptSamples.empty(capacity, 2, 3)
    ids, groups, classes, states = samples
    for part in parts:
        found.add_(states[part], classes[part], ids[part], groups[part] if grouped else None)
    return found


def expected(samples, capacity, grouped):
    """From the definition: the groups of lowest hashes, as many as fit, with counts."""
    ids, groups, _, _ = samples
    counts = {}
    for sample, group in zip(ids.tolist(), groups.tolist(), strict=True):
        home = group if grouped else sample
        counts.setdefault(int(mix(torch.tensor(home))), {}).setdefault(sample, [0])[0] += 1
    found = {}
    for group in sorted(counts):
        if len(found) + len(counts[group]) > capacity:
            break
        found |= {sample: count for sample, (count,) in counts[group].items()}
    return found


def shown(found):
    filled = found.keys[:, 3] > 0
    return dict(zip(found.states[filled][:, 0].long().tolist(), found.keys[filled][:, 3].tolist(), strict=True))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    capacity=st.integers(0, 40),
    num_groups=st.integers(1, 30),
    grouped=st.booleans(),
    data=st.data(),
)
def test_the_lowest_whole_groups_are_kept(seed, capacity, num_groups, grouped, data):
    samples = pool(60, num_groups, seed)
    order = torch.tensor(data.draw(st.permutations(range(60))))
    cuts = sorted(data.draw(st.lists(st.integers(0, 60), max_size=4)))
    parts = torch.tensor_split(order, cuts)
    wanted = expected(samples, capacity, grouped)
    one = kept(samples, parts, capacity, grouped)
    assert shown(one) == wanted
    halves = [kept(samples, part, capacity, grouped) for part in (parts[::2], parts[1::2])]
    merged = halves[0].merged(halves[1:])
    assert shown(merged) == wanted
    rows, others = one.rows(3), merged.rows(3)
    assert rows[0].digest == others[0].digest
    assert all(torch.equal(getattr(rows[0], name), getattr(others[0], name)) for name in NAMES)


def test_the_digest_of_groups_knows_their_samples_by_number_alone():
    """Ids of samples, which are another tokenizer's, and targets are no part of it; which group lost a row is."""
    ids = torch.arange(60)
    groups, classes, states = ids // 2, ids % 3, torch.zeros(60, 2)
    digest = lambda *samples, room=60: kept(samples, [torch.arange(60)], room).rows(3)[0].group_digest  # noqa: E731
    first = digest(ids, groups, classes, states)
    assert digest(ids + 1000, groups, (classes + 1) % 3, states) == first
    assert digest(ids.flip(0), groups.flip(0), classes.flip(0), states.flip(0)) == first
    # Copies with another label: their group is gone.
    lost = [digest(torch.where(ids == i, i + 1, ids), groups, classes, states) for i in (6, 8)]
    others = [digest(ids, groups, classes, states, room=20), digest(ids, groups + 100, classes, states)]
    assert len({first, *lost, *others}) == 5
    copies = digest(torch.where(ids == 6, 7, ids), groups, torch.zeros_like(ids), states)
    assert copies == first, "of two samples that are copies with one label nothing is lost"


def test_the_digest_tells_which_rows_are_read_and_of_which_targets():
    ids, groups, classes, states = pool(60, 7, 0)
    digest = lambda *samples, room=40: kept(samples, [torch.arange(60)], room).rows(3)[0].digest  # noqa: E731
    read = int(kept((ids, groups, classes, states), [torch.arange(60)], 40).rows(3)[0].states[0, 0])
    first = digest(ids, groups, classes, states)
    assert digest(ids, groups, classes, 2 * states) == first
    assert digest(ids.flip(0), groups.flip(0), classes.flip(0), states.flip(0)) == first
    others = [
        digest(ids, groups, classes, states, room=20),
        digest(ids + 60, groups, classes, states),
        digest(ids, ids % 5, classes, states),
        digest(ids, groups, (ids + 1) % 3, states),
        digest(torch.where(ids == read, ids[0], ids), groups, classes, states),
    ]
    assert len({first, *others}) == 1 + len(others)


def test_rows_have_their_own_states_targets_and_groups():
    samples = pool(80, 7, 0)
    rows, left_out = kept(samples, [torch.arange(80)], 50).rows(3)
    ids = rows.states[:, 0].long()
    assert left_out == 0
    assert torch.equal(rows.states[:, 1], 2.0 * ids)
    assert torch.equal(rows.targets.argmax(1), ids % 3)
    assert rows.targets.sum(1).unique().tolist() == [1]
    for group in range(rows.num_groups):
        assert len((ids[rows.groups == group] % 7).unique()) == 1
    assert rows.weights.sum() == sum(int((samples[0] == i).sum()) for i in ids)
    assert 0 < rows.halves.sum() < rows.num_groups


def test_the_same_tokens_with_another_label_are_left_out_and_counted():
    ids = torch.tensor([5, 6, 5, 7, 6, 5])
    for classes in (torch.tensor([0, 1, 0, 2, 0, 0]), torch.tensor([[0.5], [1], [0.5], [2], [0], [0.5]])):
        found = KeptSamples.empty(4, 1, 3, classes=classes.ndim == 1)
        for part in (slice(3), slice(3, 6)):
            found.add_(ids[part, None].float(), classes[part], ids[part], None)
        rows, left_out = found.rows(3)
        assert left_out == 1
        assert dict(zip(rows.states[:, 0].tolist(), rows.weights.tolist(), strict=True)) == {5: 3, 7: 1}


def test_neither_half_is_without_groups():
    for seed in range(20):
        samples = pool(40, 4, seed)
        rows, _ = kept(samples, [torch.arange(40)], 50).rows(3)
        assert 0 < int(rows.halves.sum()) < rows.num_groups


@pytest.mark.parametrize("capacity", [0, 3])
def test_nothing_and_too_large_groups(capacity):
    found = KeptSamples.empty(capacity, 2, 3)
    rows, left_out = found.rows(3)
    assert (len(rows.states), rows.num_groups, left_out) == (0, 0, 0)
    found.add_(torch.ones(5, 2), torch.zeros(5).long(), torch.arange(5), torch.zeros(5).long())
    assert len(found.rows(3)[0].states) == 0, "a group that does not fit is not cut"
