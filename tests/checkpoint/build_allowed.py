"""Builds one model of each allowed type, as a checkpoint has it built, and reports what else happens meanwhile.

``python -m tests.checkpoint.build_allowed 0 2``: of every second type, the first one first. Prints JSON.

No socket can be opened once the packages are imported. What counts is what happens while a model is built. Its module
is imported before: some of transformers look for kernels on the hub then (gpt_neo in version 5.25), and that depends on
which other packages are installed.
"""

import json
import sys
import warnings
from pathlib import Path

import huggingface_hub  # noqa: F401 # first used outside of building
import torch
import transformers

from kdnative.checkpoint import hostile
from kdnative.nn.hf_config import settings_of, to_plain
from tests.checkpoint.transformers_types import configurations, default, model_name, with_few_layers
from tests.no_sockets import refuse_sockets

WATCHED = ("builtins.input", "os.exec", "os.fork", "os.posix_spawn", "os.system", "pty.spawn", "subprocess.Popen")
NETWORK = ("ftplib.", "http.client.", "smtplib.", "urllib.")  # sockets have a guard of their own
MODULES = 20_000


def main(first: int, step: int) -> None:
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    report = {"built": [], "parts": [], "failed": {}, "events": [], "strangers": []}
    building = []

    def hook(event, args):
        if not building:
            return
        if event in WATCHED or event.startswith(NETWORK):
            report["events"].append(f"{building}: {event} {args}"[:300])
        elif event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+"):
            report["events"].append(f"{building}: writes {args[0]}"[:300])

    sys.addaudithook(hook)
    tried = refuse_sockets()
    for (kind, name), cls in sorted(configurations().items())[first::step]:
        model = model_name(cls)
        if model is None:
            report["parts"].append(f"{kind} ({name})")
            continue
        known = set(sys.modules)
        tried.clear()
        building.append(kind)
        try:
            build(model, with_few_layers(to_plain(default(cls))))
            report["built"].append(kind)
        except Exception as error:
            report["failed"][kind] = f"{model}: {error!r}"[:500]
        building.clear()
        report["events"] += [f"[{kind!r}]: {line}" for line in tried]
        report["strangers"] += strangers(known)
    print(json.dumps(report))


def build(name: str, plain: dict) -> None:
    cls = hostile.model_class(name, plain)
    hostile.check_config(plain)
    with hostile.isolated(), hostile.limited_modules(MODULES), torch.device("meta"):
        cls(cls.config_class.from_dict(settings_of(plain)))


def strangers(known: set[str]) -> list[str]:
    """Modules imported since ``known`` was noted that lie where no library is installed."""
    homes = {Path(module.__file__).resolve().parent.parent for module in (torch, transformers, json)}
    homes |= {Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve()}
    files = {name: getattr(sys.modules[name], "__file__", None) for name in set(sys.modules) - known}
    return [f"{name}: {file}" for name, file in files.items() if file and not homes & set(Path(file).resolve().parents)]


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
