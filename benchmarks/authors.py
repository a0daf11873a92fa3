"""Against the authors' pipeline (github.com/Yu-AngCheng/NTPS), on identical hidden states.

Their functions are read out of a folder with a copy of their repository and run as they are.

python -m benchmarks.authors FOLDER
"""

import argparse
import ast
import statistics
import warnings
from pathlib import Path

import numpy
import torch

from benchmarks.helpers.peak import peak_bytes
from benchmarks.helpers.progress import doing
from benchmarks.helpers.synthetic import hidden_states, padding_mask, targets
from benchmarks.helpers.timing import goal, in_turn, machine, ratios, spread, table
from ntps_lightning.functional.accumulate import accumulate_
from ntps_lightning.functional.moments import Moments, covariances
from ntps_lightning.functional.score import score_details


def functions(path):
    """The functions of a file, without what it imports and runs."""
    from scipy.linalg import eigh

    tree = ast.parse(Path(path).read_text())
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    names = {"torch": torch, "np": numpy, "eigh": eigh, "print": lambda *_: None, "Dict": dict, "Tuple": tuple}
    exec(compile(tree, str(path), "exec"), names)
    return names


class Theirs:
    def __init__(self, cache, d, size, layers, device):
        self.cache = cache
        self.size = size
        self.layers = layers
        self.device = device
        self.sums = cache["initialize_caches"](size, layers, d, 5, device)

    def accumulate(self, states, labels, mask):
        self.cache["update_sentence_representations"](
            self.sums, states, self.size, mask, mask.sum(1), None, targets(labels).float(), self.size, self.layers
        )
        self.cache["update_lagging_matrices"](self.sums, states, states[0], self.size, mask, self.size, self.device)


class Ours:
    def __init__(self, d, layers, device):
        self.moments = [Moments.zeros(d, 5, device) for _ in range(layers)]

    def accumulate(self, states, labels, mask):
        for moments, layer in zip(self.moments, states, strict=True):
            accumulate_(moments, layer, labels, mask)


def differences(ours, theirs):
    """Largest relative difference of the four moments, over the layers (uncentred, per sample, as theirs are)."""
    for layer, moments in enumerate(ours.moments):
        cov = covariances(moments, center=False)
        pairs = zip((cov.perception, cov.cross, cov.prefix, cov.prefix_next), theirs.sums.values(), strict=True)
        for mine, caches in pairs:
            yield float((mine - caches[layer]).norm() / mine.norm())


def accumulation(cache, d, size, length, layers, device, repeats):
    what = f"d={d}, {layers} layers of {size}x{length}"
    doing(f"{what}: making hidden states")
    parts = [hidden_states(size, length, d, device=device, seed=layer) for layer in range(layers)]
    states = torch.stack([part[0] for part in parts])
    labels = parts[0][1]
    mask = padding_mask(size, length, device).long()
    ours = Ours(d, layers, device)
    theirs = Theirs(cache, d, size, layers, device)
    doing(f"{what}: comparing the moments")
    for each in (ours, theirs):
        each.accumulate(states, labels, mask)
    difference = max(differences(ours, theirs))
    runs = {
        "ours": lambda: ours.accumulate(states, labels, mask),
        "theirs": lambda: theirs.accumulate(states, labels, mask),
    }
    doing(f"{what}: peak memory")
    peaks = {name: peak_bytes(run) for name, run in runs.items()}
    seconds = in_turn(f"{what}, accumulation", runs, repeats)
    faster = ratios(seconds["theirs"], seconds["ours"])
    limit = 4 if device == "cpu" else 20
    yield [
        what,
        "accumulation",
        spread(seconds["ours"]),
        spread(seconds["theirs"]),
        spread(faster, 1),
        *goal(statistics.median(faster), limit, most=False, unit="x"),
    ]
    less = peaks["ours"] / peaks["theirs"]
    yield [what, "its peak extra MiB", *(f"{p / 2**20:.0f}" for p in peaks.values()), f"{less:.2f}", *goal(less, 0.2)]
    yield [what, "moments differ by", "", "", f"{difference:.1e}", *goal(difference, 1e-5)]


def solve(curve, d, device, repeats, faster_curve):
    doing(f"d={d}: making hidden states, and their moments")
    parts = hidden_states(max(256, d // 8), 48, d, device=device)
    ours = Ours(d, 1, device)
    ours.accumulate(parts[0][None], parts[1], torch.ones(parts[0].shape[:2], dtype=torch.long, device=device))
    moments = ours.moments[0]
    cov = covariances(ours.moments[0], center=False)
    theirs = [m.float() for m in (cov.cross, cov.perception, cov.prefix_next, cov.prefix)]
    for what, whole, fractions, limit in (
        ("whole curve", True, numpy.arange(0.05, 1.0, 0.05), faster_curve),
        ("one k (1% of d)", False, [0.01], 50),
    ):
        runs = {
            "ours": lambda whole=whole: score_details(moments, k=0.01, whole_curve=whole),
            "theirs": lambda fractions=fractions: curve["alignment_score"](*theirs, sparse_k=0, fraction_k=fractions),
        }
        seconds = in_turn(f"d={d}, {what}", runs, repeats, warm_up=d < 1000)
        faster = ratios(seconds["theirs"], seconds["ours"])
        judged = goal(statistics.median(faster), limit, most=False, unit="x")
        yield [f"d={d}", what, spread(seconds["ours"]), spread(seconds["theirs"]), spread(faster, 1), *judged]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="a copy of the authors' repository; without it, nothing")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    title = "2. Against the authors' pipeline, on identical hidden states"
    if args.folder is None:
        print(f"\n{title}: skipped, give AUTHORS=<a copy of github.com/Yu-AngCheng/NTPS>", flush=True)
        return
    warnings.filterwarnings("ignore")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cache = functions(args.folder / "cache.py")
    curve = functions(args.folder / "K_sweep.py")
    rows = [
        *accumulation(cache, 576, 32, 64, 31, device, args.repeats),
        *accumulation(cache, 2048, 32, 64, 17, device, args.repeats // 3 + 1),
        *solve(curve, 576, device, args.repeats, 10),
        *solve(curve, 2048, device, 1, 20),
    ]
    table(f"{title} [{machine()}]", ["on", "what", "ours, s", "theirs, s", "ratio", "goal", ""], rows)


if __name__ == "__main__":
    main()
