"""A thread that builds what a file describes reaches nothing else; other threads do, and later all is as before."""

import builtins
import io
import signal
import socket
import threading

import pytest
import torch
from torch import nn

from kdnative.checkpoint.isolation import isolated, limited_modules
from tests.checkpoint.hostile_manifests import backbone_of_a_folder, code_of_a_folder, write_code

LOOK_UPS = {
    "getaddrinfo": lambda: socket.getaddrinfo("localhost", 80),
    "gethostbyname": lambda: socket.gethostbyname("localhost"),
    "gethostbyname_ex": lambda: socket.gethostbyname_ex("localhost"),
    "gethostbyaddr": lambda: socket.gethostbyaddr("127.0.0.1"),
}


def state():
    """What is in the places that are replaced, and what only classes above have."""
    places = [(socket, name) for name in LOOK_UPS] + [(socket.socket, "connect"), (socket.socket, "connect_ex")]
    return [vars(holder).get(name) for holder, name in [*places, (builtins, "input"), (nn.Module, "__init__")]]


@pytest.fixture(autouse=True)
def restored():
    before = state()
    yield
    assert all(a is b for a, b in zip(before, state(), strict=True))
    assert "connect" not in vars(socket.socket)


@pytest.fixture
def server():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()


def in_thread(call):
    """What a call in another thread returns or raises."""
    result = []

    def run():
        try:
            result.append(call())
        except Exception as error:
            result.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    return result[0]


@pytest.mark.parametrize("name", LOOK_UPS)
def test_no_names_are_looked_up(name):
    with pytest.raises(ValueError, match="building it would look up a name in the network, which no model from a file"):
        with isolated():
            LOOK_UPS[name]()


@pytest.mark.parametrize("method", ["connect", "connect_ex"])
def test_no_connection_is_made(server, method):
    with socket.socket() as own:
        with pytest.raises(ValueError, match="building it would connect to another program"), isolated():
            getattr(own, method)(server)
        getattr(own, method)(server)
        assert own.getpeername() == server


def test_nobody_is_asked(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    with pytest.raises(ValueError, match="building it would ask a question on the terminal"), isolated():
        input("run it? ")


def test_what_is_caught_in_between_is_raised_at_the_end():
    reached = []
    with pytest.raises(ValueError, match="look up a name"), isolated():
        try:
            LOOK_UPS["getaddrinfo"]()
        except ValueError:
            reached.append(1)
    with pytest.raises(ValueError, match="look up a name") as refusal, isolated():
        try:
            LOOK_UPS["getaddrinfo"]()
        except ValueError:
            raise OSError("can't connect to the hub") from None
    assert reached and isinstance(refusal.value.__cause__, OSError)


def test_other_errors_pass():
    with pytest.raises(KeyError), isolated():
        raise KeyError("x")
    with pytest.raises(KeyboardInterrupt), isolated():
        raise KeyboardInterrupt


def test_other_threads_go_on(server):
    def connect():
        with socket.create_connection(server, timeout=30) as own:
            return own.getpeername()

    def build():
        return len(list(nn.Sequential(nn.Linear(2, 2), nn.ReLU()).modules()))

    with isolated(), limited_modules(0):
        assert in_thread(connect) == server
        assert in_thread(build) == 3
        assert in_thread(lambda: LOOK_UPS["getaddrinfo"]()[0][4][1]) == 80


def test_one_thread_in_another():
    """Each has its own limits while both are within, and the replaced functions stay until the last one leaves."""

    def within():
        with isolated(), limited_modules(1):
            nn.ReLU()
            inside.set()
            assert leave.wait(60)
            with pytest.raises(ValueError, match="more than 1 modules"):
                nn.ReLU()
            return "refused here too"

    inside, leave = threading.Event(), threading.Event()
    before, result = state(), []
    with isolated(), limited_modules(2):
        thread = threading.Thread(target=lambda: result.append(in_thread(within)))
        thread.start()
        assert inside.wait(60)
        nn.ReLU()
        nn.ReLU()
    assert not any(a is b for a, b in zip(before, state(), strict=True))
    nn.Sequential(*(nn.ReLU() for _ in range(10)))
    assert LOOK_UPS["getaddrinfo"]()
    leave.set()
    thread.join(60)
    assert result == ["refused here too"]


def test_many_threads():
    """Entering and leaving all the time, none of them ever sees another's limit, and modules are made meanwhile."""
    failures = []

    def load(limit):
        for _ in range(200):
            try:
                with isolated(), limited_modules(limit):
                    nn.TransformerEncoderLayer(4, 1, 4, device="meta")
                if limit < 5:
                    failures.append("not limited")
            except ValueError as error:
                if limit > 50 or "modules" not in str(error):
                    failures.append(repr(error))

    def build():
        for _ in range(200):
            try:
                nn.TransformerEncoderLayer(4, 1, 4, device="meta")
            except Exception as error:
                failures.append(repr(error))

    threads = [threading.Thread(target=load, args=(limit,)) for limit in (3, 100, 100)] + [
        threading.Thread(target=build)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert failures == []


def test_nested():
    with isolated(), limited_modules(10):
        with isolated(), limited_modules(1):
            nn.ReLU()
            with pytest.raises(ValueError, match="more than 1 modules"):
                nn.ReLU()
        for _ in range(9):
            nn.ReLU()
        with pytest.raises(ValueError, match="more than 10 modules"):
            nn.ReLU()
        with pytest.raises(ValueError, match="look up a name"), isolated():
            LOOK_UPS["getaddrinfo"]()


def test_what_another_has_replaced_meanwhile_stays():
    before = socket.getaddrinfo
    try:
        with isolated():
            within = socket.getaddrinfo
            socket.getaddrinfo = another = lambda *given: within(*given)
        assert socket.getaddrinfo is another and LOOK_UPS["getaddrinfo"]()
        with pytest.raises(ValueError, match="look up"), isolated():
            LOOK_UPS["getaddrinfo"]()
    finally:
        socket.getaddrinfo = before


# -- modules -----------------------------------------------------------------------------------------------------------


def test_modules_are_counted():
    with limited_modules(3):
        nn.Sequential(nn.ReLU(), nn.ReLU())
    with pytest.raises(ValueError, match="building it makes more than 2 modules"), limited_modules(2):
        nn.Sequential(nn.ReLU(), nn.ReLU())
    nn.Sequential(nn.ReLU(), nn.ReLU(), nn.ReLU(), nn.ReLU())


def test_modules_that_have_no_place_yet_are_counted():
    """A list of them is made before it is registered anywhere."""
    with pytest.raises(ValueError, match="more than 1,000 modules"), limited_modules(1000):
        nn.ModuleList([nn.Identity() for _ in range(10**9)])


def test_recurrent_layers_of_torch_have_one():
    with limited_modules(1):
        nn.LSTM(2, 2, num_layers=3, device="meta")


# -- transformers, if the checks before did not hold -------------------------------------------------------------------


def build(part):
    transformers = pytest.importorskip("transformers")
    cls = getattr(transformers, part["class"])
    with isolated(), torch.device("meta"):
        cls(cls.config_class.from_dict(part["config"]))


def test_no_prompt_of_transformers(monkeypatch, capfd):
    dynamic = pytest.importorskip("transformers.dynamic_module_utils")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    handler = signal.getsignal(signal.SIGALRM)
    with pytest.raises(ValueError, match="ask a question on the terminal"), isolated():
        dynamic.resolve_trust_remote_code(None, "evil-org/evil", False, True)
    assert signal.getsignal(signal.SIGALRM) is handler
    assert "Do you wish" not in capfd.readouterr().out


def test_no_code_of_a_folder(tmp_path):
    dynamic = pytest.importorskip("transformers.dynamic_module_utils")
    write_code(tmp_path, tmp_path / "ran")
    with pytest.raises(ValueError, match="run code from outside of transformers"), isolated():
        dynamic.get_class_from_dynamic_module("evil.EvilBackbone", str(tmp_path))
    assert not (tmp_path / "ran").exists()
    dynamic.get_class_from_dynamic_module("evil.EvilBackbone", str(tmp_path))
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("change", [backbone_of_a_folder, code_of_a_folder])
def test_no_backbone_of_a_folder(tmp_path, monkeypatch, change):
    pytest.importorskip("transformers")
    monkeypatch.setattr("builtins.input", lambda prompt: "y")
    write_code(tmp_path, tmp_path / "ran")
    part = change({"transformers": {}}, tmp_path)["transformers"]
    try:
        build(part)
    except Exception as error:  # versions differ in what they do with such a configuration
        assert str(error)
    assert not (tmp_path / "ran").exists()


def test_no_request_to_the_hub(monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(ValueError, match="building it would (look up|connect)"), isolated():
        hub.hf_hub_download("evil-org/evil", "config.json")
