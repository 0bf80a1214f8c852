"""Loads checkpoints and computes with them where no socket can be opened; prints as JSON what came of each.

``python -m tests.checkpoint.load_without_sockets FOLDER``: FOLDER has a folder for each checkpoint, with its inputs in
``inputs.pt``. :data:`OPENED` comes last: what it does must be seen.
"""

import json
import socket
import sys
import urllib.request
from pathlib import Path

import huggingface_hub
import torch
import transformers  # noqa: F401 # imported before sockets are refused: what packages do meanwhile is their own affair

import kdnative as kd
from tests.no_sockets import refuse_sockets

OPENED = {
    "socket": socket.socket,
    "create_connection": lambda: socket.create_connection(("127.0.0.1", 9), timeout=1),
    "getaddrinfo": lambda: socket.getaddrinfo("localhost", 9),
    "urlopen": lambda: urllib.request.urlopen("http://localhost:9", timeout=1),
    "huggingface_hub": lambda: huggingface_hub.HfApi(endpoint="http://localhost:9").model_info("a/b", timeout=1),
}


def answer(folder: Path) -> list:
    """What a loaded model says of its inputs: logits, or vectors."""
    model = kd.load(folder)
    inputs = torch.load(folder / "inputs.pt")
    with torch.inference_mode():
        if isinstance(inputs, str):  # a picture
            return model(model.preprocess(folder / inputs)).tolist()
        found = model(**inputs)
    return (found.logits if hasattr(found, "logits") else found.last_hidden_state).tolist()


def main(place: Path) -> None:
    tried = refuse_sockets()
    results = {}
    for folder in sorted(path for path in place.iterdir() if path.is_dir()):
        results[folder.name] = {"answer": answer(folder), "tried": list(tried)}
        tried.clear()
    for name, opens in OPENED.items():
        try:
            opens()
        except Exception:  # a package may hide that it was refused
            pass
        results[name] = {"tried": list(tried)}
        tried.clear()
    print("RESULTS " + json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
