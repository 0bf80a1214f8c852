"""A small model for checkpoints, and how tests compare models and look into folders."""

import hashlib
import json
import os
import subprocess
import sys
import textwrap

import torch
from torch import nn

from kdnative.checkpoint.manifest import digest_of, weights_name
from kdnative.machine.environment import child_environment


def mlp(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Embedding(100, 64, padding_idx=0), nn.Linear(64, 256), nn.GELU("tanh"), nn.LayerNorm(256, eps=1e-3),
        nn.Sequential(nn.Linear(256, 128, bias=False), nn.Dropout(0.3)), nn.Linear(128, 2),
    )  # fmt: skip


def ids(shape=(2, 7)):
    torch.manual_seed(1)
    return torch.randint(0, 100, shape)


@torch.no_grad()
def output(model):
    y = model(ids())
    return y if isinstance(y, torch.Tensor) else y[0]


def assert_same(a, b):
    assert torch.equal(output(a), output(b))
    ours, theirs = a.state_dict(), b.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[k], theirs[k]) and ours[k].dtype == theirs[k].dtype for k in ours)


def names(folder):
    return sorted(os.listdir(folder))


def weights_file(folder):
    """The file of tensors that the description names."""
    return folder / json.loads((folder / "kdnative.json").read_text())["weights"]["file"]


def revouch(folder):
    """Let the description vouch for the file of tensors as it is now, under the name that goes with its content."""
    file = weights_file(folder)
    data = file.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    stated = {"file": weights_name(digest), "bytes": len(data), "sha256": digest}
    file.rename(folder / stated["file"])
    edit(folder, lambda manifest: manifest["weights"].update(stated))


def edit(folder, change):
    """Another description, which vouches for itself."""
    file = folder / "kdnative.json"
    manifest = json.loads(file.read_text())
    change(manifest)
    manifest["sha256"] = digest_of(manifest)
    file.write_text(json.dumps(manifest))


def loading_peak(first, folder, into=False):
    """Bytes that loading ``folder`` takes at its peak, in a fresh process that has loaded another checkpoint ``first``,
    so that what torch itself needs is there. ``into``: into a model whose part "a" is replaced."""
    program = """
        import sys
        from pathlib import Path
        from kdnative.bench.memory_child import sizes
        from kdnative.checkpoint import load
        from torch import nn
        into = lambda: nn.ModuleDict({"a": nn.Identity()}) if "into" in sys.argv else None
        load(sys.argv[1], into())
        Path("/proc/self/clear_refs").write_text("5")  # the peak is what it is now
        before = sizes()
        model = load(sys.argv[2], into())
        print(sizes()["peak"] - before["resident"])
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(first), str(folder), *(["into"] if into else [])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=child_environment())
    assert done.returncode == 0, done.stderr
    return int(done.stdout)
