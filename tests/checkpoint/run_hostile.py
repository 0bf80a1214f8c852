"""Loads hostile checkpoints one after the other, and prints as JSON what became of each and what it tried.

``python -m tests.checkpoint.run_hostile FOLDER``, where FOLDER holds a checkpoint of a BERT; answers yes to questions.
"""

import json
import shutil
import sys
import types
from importlib.metadata import version
from pathlib import Path

import kdnative
from tests.checkpoint.hostile_manifests import HOSTILE, backbone_of_a_folder, code_of_a_folder, write_code
from tests.checkpoints import edit

EVENTS = (
    "socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "subprocess.Popen", "os.system", "os.exec",
    "os.posix_spawn", "os.fork", "builtins.input", "urllib.Request", "http.client.connect",
)  # fmt: skip


def watch(foreign):
    """What Python does from now on that loading a checkpoint must not do."""
    seen = []

    def hook(event, arguments):
        if event in EVENTS or (event == "exec" and foreign in str(arguments[0].co_filename)):
            seen.append(f"{event} {arguments!r:.200}")

    sys.addaudithook(hook)
    return seen


def stand_in_for_kernels(seen):
    """A package of that name, as transformers finds it, whose every function is noted."""
    import importlib.machinery
    import importlib.metadata

    module = types.ModuleType("kernels")
    module.__spec__ = importlib.machinery.ModuleSpec("kernels", None)
    module.__version__ = "99.0"
    module.__getattr__ = lambda name: _noted(name, seen)
    sys.modules["kernels"] = module
    real = importlib.metadata.version
    importlib.metadata.version = lambda name: "99.0" if name == "kernels" else real(name)


def _noted(name, seen):
    if name.startswith("__"):
        raise AttributeError(name)

    def call(*arguments, **options):
        if not name.startswith(("get", "has", "install", "load", "snapshot")):
            return lambda decorated=None, *_, **__: decorated  # transformers 4 makes some when it is imported
        seen.append(f"kernels.{name} {arguments!r:.200}")
        raise RuntimeError("no kernels here")

    return call


def main(source):
    work = source.parent / "hostile"
    mark = source.parent / "code ran"
    calls = []
    if version("transformers").startswith("4."):  # models of 4 need more of that package than a stand-in has
        kdnative.load(source)
    stand_in_for_kernels(calls)
    kdnative.load(source)  # what is imported late is imported now
    seen = watch(str(work))
    cases = {
        "the folder's own code": lambda manifest: backbone_of_a_folder(manifest, work),
        "the folder's own code, asked for": lambda manifest: code_of_a_folder(manifest, work),
        **HOSTILE,
    }
    results = {}
    for name, change in cases.items():
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(source, work)
        write_code(work, mark)
        edit(work, lambda manifest, change=change: manifest.update(change(dict(manifest))))
        seen.clear()
        calls.clear()
        try:
            kdnative.load(work)
            said = "accepted"
        except kdnative.CheckpointError as error:
            said = f"refused: {error}"
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        results[name] = {"said": said, "seen": [*seen, *calls], "code": mark.exists()}
    print("RESULTS " + json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
