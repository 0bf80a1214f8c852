"""Where CUDA kernels come from: the nearest cubin of the package, a compiler and its cache, or the package's PTX."""

import pytest

from kdnative.ops import nvrtc
from kdnative.ops.backends import cuda_images


class Compiler:
    """NVRTC that notes what it is asked for."""

    version_text, version = "12.9", (12, 9)

    def __init__(self):
        self.asked = []

    def compile(self, source, arch, include_dirs, options):
        self.asked.append((source.name, arch, options))
        return f"cubin of {source.read_text()} for {arch}".encode()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with its kernels, a cache, and a compiler."""
    folder, sources = tmp_path / "package" / "_cuda", tmp_path / "sources"
    folder.mkdir(parents=True)
    sources.mkdir()
    (sources / "gpu.h").write_text("dialect")
    (sources / "w8a8.cu").write_text("kernels")
    monkeypatch.setattr(cuda_images._C, "__file__", str(folder.parent / "_C.so"))
    monkeypatch.setattr(cuda_images, "source_folder", lambda: sources)
    monkeypatch.setenv("KDNATIVE_CACHE", str(tmp_path / "cache"))
    compiler = Compiler()
    monkeypatch.setattr(nvrtc, "load", lambda most_major: compiler)
    monkeypatch.setattr(cuda_images._C, "cuda_driver", lambda: ("libcuda.so.1", 12040))
    return folder, sources, compiler


def without_compiler(most_major):
    raise nvrtc.NvrtcError("libnvrtc isn't here: pip install nvidia-cuda-nvrtc-cu12")


def test_the_nearest_lower_cubin_of_the_generation_is_taken(package, monkeypatch):
    folder, _, compiler = package
    for capability in (80, 86, 90):
        (folder / f"w8a8.sm_{capability}.cubin").write_bytes(b"%d" % capability)
    for capability, expected in ((80, b"80"), (86, b"86"), (88, b"86"), (89, b"86"), (90, b"90")):
        assert cuda_images.image("w8a8", capability) == expected
    assert cuda_images.compiled() == {"w8a8": [80, 86, 90]} and compiler.asked == []
    monkeypatch.setenv("KDNATIVE_GPU_IMAGES", "sources")
    assert cuda_images.image("w8a8", 80) == b"cubin of kernels for sm_80" and cuda_images.compiled() == {}


def test_tegra_takes_its_own_cubins_alone(package, monkeypatch):
    """NVIDIA's rule: machine code goes neither from desktops to Tegra nor the other way."""
    folder, _, compiler = package
    for capability in (80, 86, 87, 100, 101):
        (folder / f"w8a8.sm_{capability}.cubin").write_bytes(b"%d" % capability)
    for capability in (87, 101, 100):
        assert cuda_images.image("w8a8", capability) == b"%d" % capability
    assert cuda_images.image("w8a8", 89) == b"86" and cuda_images.image("w8a8", 103) == b"100"
    (folder / "w8a8.sm_87.cubin").unlink()
    assert cuda_images.image("w8a8", 87) == b"cubin of kernels for sm_87"
    monkeypatch.setattr(nvrtc, "load", without_compiler)
    (folder / "w8a8.compute_80.ptx").write_bytes(b".version 8.8")
    assert cuda_images.image("w8a8", 110) == b".version 8.8"


def test_the_compiler_of_a_package_is_written_beside_its_cubins(package, monkeypatch):
    folder, _, _ = package
    assert cuda_images.compiled_by() is None
    (folder / nvrtc.VERSION_FILE).write_text("12.9\n")
    assert cuda_images.compiled_by() == (12, 9)
    monkeypatch.setenv("KDNATIVE_GPU_IMAGES", "sources")
    assert cuda_images.compiled_by() is None


def test_newer_devices_get_what_is_compiled_for_them_or_else_ptx(package, monkeypatch):
    folder, _, compiler = package
    (folder / "w8a8.sm_90.cubin").write_bytes(b"90")
    (folder / "w8a8.compute_80.ptx").write_bytes(b".version 8.8")
    assert cuda_images.image("w8a8", 120) == b"cubin of kernels for sm_120"
    assert compiler.asked == [("w8a8.cu", "sm_120", cuda_images.OPTIONS)]
    monkeypatch.setattr(nvrtc, "load", without_compiler)
    assert cuda_images.image("w8a8", 121) == b".version 8.8"
    (folder / "w8a8.compute_80.ptx").unlink()
    with pytest.raises(RuntimeError, match=r"no w8a8 kernel for capability 12\.1 in this package.*nvrtc-cu12"):
        cuda_images.image("w8a8", 121)


def test_what_was_compiled_is_kept_until_a_source_or_the_driver_changes(package, tmp_path, monkeypatch):
    _, sources, compiler = package
    for _ in range(2):
        assert cuda_images.image("w8a8", 80) == b"cubin of kernels for sm_80"
    assert len(compiler.asked) == 1
    (sources / "gpu.h").write_text("another dialect")
    cuda_images.image("w8a8", 80)
    compiler.version_text = "13.0"
    cuda_images.image("w8a8", 80)
    cuda_images.image("w8a8", 86)
    monkeypatch.setattr(cuda_images._C, "cuda_driver", lambda: ("libcuda.so.1", 13000))
    cuda_images.image("w8a8", 86)
    assert len(compiler.asked) == 5
    kept = list((tmp_path / "cache" / "cuda").iterdir())
    assert len(kept) == 5 and all(file.suffix == ".cubin" for file in kept), "no temporary files"


def test_a_cache_that_cant_be_written_is_none(package, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KDNATIVE_CACHE", str(tmp_path / "file"))
    assert cuda_images.image("w8a8", 80) == b"cubin of kernels for sm_80"


def test_this_tree_has_the_sources_of_all_families():
    assert {"quantize", "w8a8", "w4a16", "sparse24", "blocks"} <= set(cuda_images.families())
