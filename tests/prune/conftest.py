import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread():
    """The tensors here are small: a second thread costs more than it computes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
