import copy
import io
import pickle

import pytest
import torch
from torch import nn

from kdnative.nn import Embedding


def random_embedding(v=50, d=24, padding_idx=None, dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Embedding(v, d, padding_idx=padding_idx, dtype=dtype).requires_grad_(False)


def test_each_row_is_rounded_to_nearest_with_its_own_scale():
    table = random_embedding()
    module = Embedding.from_float(table)
    weight = table.weight.double()
    scale = weight.abs().amax(1) / 127
    torch.testing.assert_close(module.scale.double(), scale, rtol=1e-6, atol=0)
    ids = torch.tensor([[0, 3, 49], [7, 7, 0]])
    y = module(ids)
    assert y.shape == (2, 3, 24) and y.dtype == torch.float32
    assert ((y.double() - weight[ids]).abs() <= 0.5001 * scale[ids][..., None]).all()
    assert torch.equal(y, (module.qweight.float() * module.scale[:, None])[ids])
    assert module.qweight.abs().max() == 127


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,), (2, 1, 3)])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_any_shape_of_ids(shape, dtype):
    module = Embedding.from_float(random_embedding())
    ids = torch.randint(0, 50, shape).to(dtype)
    assert torch.equal(module(ids), module.weight[ids.long()])


def test_padding_row():
    module = Embedding.from_float(random_embedding(padding_idx=0))
    assert module.padding_idx == 0 and torch.equal(module(torch.tensor([0])), torch.zeros(1, 24))
    assert Embedding(5, 2, padding_idx=-1).padding_idx == 4
    with pytest.raises(ValueError, match="outside a table of 5 rows"):
        Embedding(5, 2, padding_idx=5)


@pytest.mark.parametrize("bad", [50, -1, 2**40])
def test_ids_outside_the_table_are_an_error(bad):
    with pytest.raises(IndexError):
        Embedding.from_float(random_embedding())(torch.tensor([1, bad]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_output_dtype(dtype):
    ids = torch.arange(50)
    exact = Embedding.from_float(random_embedding())(ids)
    selected = Embedding(50, 24, dtype=dtype)
    selected.load_state_dict(random_embedding().state_dict())
    assert selected(ids).dtype == dtype and torch.equal(selected(ids), exact.to(dtype))
    assert Embedding.from_float(random_embedding(dtype=dtype))(ids).dtype == dtype
    assert Embedding(50, 24, dtype=str(dtype).removeprefix("torch.")).dtype == dtype


def test_dtype_changes_touch_the_output_only():
    module, ids = Embedding.from_float(random_embedding()), torch.arange(50)
    scale, exact = module.scale.clone(), module(ids)
    for change, dtype in [("half", torch.float16), ("bfloat16", torch.bfloat16), ("float", torch.float32)]:
        getattr(module, change)()
        assert module.scale.dtype == torch.float32 and torch.equal(module.scale, scale)
        assert module.dtype == dtype and torch.equal(module(ids), exact.to(dtype))
    module.half().to("cpu")
    assert module.dtype == torch.float16, "moving must not change the dtype"
    with pytest.raises(TypeError, match="float64"):
        module.double()
    model = nn.Sequential(module, nn.LayerNorm(24)).bfloat16()
    assert model(ids).dtype == torch.bfloat16


def test_state_round_trips_and_float_tables_are_quantized():
    table = random_embedding()
    module = Embedding.from_float(table)
    assert {k: v.dtype for k, v in module.state_dict().items()} == {"qweight": torch.int8, "scale": torch.float32}
    for state in (module.state_dict(), table.state_dict()):
        other = Embedding(50, 24)
        other.load_state_dict(state)
        assert torch.equal(other.qweight, module.qweight) and torch.equal(other.scale, module.scale)
    assert Embedding(**module.spec).spec == module.spec


def test_load_errors():
    module, state = Embedding(50, 24), Embedding.from_float(random_embedding()).state_dict()
    with pytest.raises(RuntimeError, match="size mismatch for qweight"):
        module.load_state_dict({**state, "qweight": state["qweight"][:40]})
    with pytest.raises(RuntimeError, match="size mismatch for qweight"):
        module.load_state_dict(random_embedding(40).state_dict())
    with pytest.raises(RuntimeError, match="Missing key.*scale"):
        module.load_state_dict({"qweight": state["qweight"]})
    with pytest.raises(RuntimeError, match="Unexpected key.*extra"):
        module.load_state_dict({**state, "extra": state["scale"]})
    with pytest.raises(RuntimeError, match="dtype mismatch for scale"):
        module.load_state_dict({**state, "scale": state["scale"].half()})
    with pytest.raises(RuntimeError, match="weight.*(NaN|nan|finite)"):
        module.load_state_dict({"weight": torch.full((50, 24), torch.nan)})


def test_refusals():
    with pytest.raises(ValueError, match="max_norm"):
        Embedding.from_float(nn.Embedding(5, 4, max_norm=1.0))
    with pytest.raises(ValueError, match="8 bits, got bits=4"):
        Embedding(5, 4, bits=4)
    with pytest.raises(ValueError, match="float32, bfloat16, float16"):
        Embedding(5, 4, dtype=torch.int8)
    with pytest.raises(ValueError, match="negative"):
        Embedding(-1, 4)
    table = random_embedding()
    table.weight[3, 3] = torch.inf
    with pytest.raises(ValueError, match="inf"):
        Embedding.from_float(table)


def test_copies_compile_and_export():
    module, ids = Embedding.from_float(random_embedding()).half(), torch.tensor([[1, 2, 3]])
    expected = module(ids)
    for copied in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(copied(ids), expected)
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend="aot_eager")
    for tokens in (2, 3, 9):
        ids = torch.randint(0, 50, (1, tokens))
        assert torch.equal(compiled(ids), module(ids))
    program = torch.export.export(module, (ids,), dynamic_shapes=({1: torch.export.Dim("tokens")},))
    stream = io.BytesIO()
    torch.export.save(program, stream)
    stream.seek(0)
    assert torch.equal(torch.export.load(stream).module()(torch.tensor([[4, 5]])), module(torch.tensor([[4, 5]])))


def test_meta_device():
    module = Embedding.from_float(random_embedding())
    empty = copy.deepcopy(module).to("meta").to_empty(device="cpu")
    empty.load_state_dict(module.state_dict())
    assert torch.equal(empty(torch.arange(50)), module(torch.arange(50)))
    with torch.device("meta"):
        skeleton = Embedding(50, 24)
    skeleton.load_state_dict(module.state_dict(), assign=True)
    assert torch.equal(skeleton(torch.arange(50)), module(torch.arange(50)))
