// kdnative._C: what was built and what runs here. The operators are registered with torch when this library loads.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdlib>
#include <stdexcept>

#include "cpu/dispatch.h"
#include "cpu/features.h"
#include "cpu/roofline.h"
#include "cuda/host/device.h"
#include "ops/cuda.h"
#include "ops/fork.h"
#include "ops/library.h"

namespace py = pybind11;

namespace {

py::dict kernel_table(const std::string& isa) {
  const auto* table = isa.empty() ? &kdnative::cpu::kernels() : kdnative::cpu::kernels_of(isa);
  if (table == nullptr) throw std::invalid_argument("kdnative: this build has no instruction set '" + isa + "'");
  py::dict found;
  for (const kdnative::Operator& op : kdnative::operators())
    found[op.name] = kdnative::cpu::describe(*table, op.kernels);
  return found;
}

// Images come from Python, which reads or compiles them; whoever launches doesn't hold its lock.
void set_image_source(const py::function& source) {
  // Never destroyed: a thread may launch while Python ends.
  auto* kept = new py::function(source);
  kdnative::cuda::set_image_source([kept](const std::string& family, int capability) {
    const py::gil_scoped_acquire lock;
    try {
      return static_cast<std::string>(py::bytes((*kept)(family, capability)));
    } catch (const py::error_already_set& error) {
      throw std::runtime_error(error.what());  // whose text is all that may outlive the lock
    }
  });
}

py::list cuda_devices() {
  py::list found;
  for (int i = 0, n = kdnative::cuda::device_count(); i < n; ++i) {
    const kdnative::cuda::DeviceFacts facts = kdnative::cuda::device_facts(i);
    found.append(py::make_tuple(facts.name, facts.capability, facts.multiprocessors));
  }
  return found;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Introspection of kdnative's native core.";
  m.attr("version") = KDNATIVE_VERSION;
  m.attr("compiler") = __VERSION__;
  m.attr("emulates_amx") = kdnative::cpu::kEmulateAmx;
  m.def("isa", [] { return std::string(kdnative::cpu::kernels().isa); }, "The instruction set in use.");
  m.def("built_isas", &kdnative::cpu::built_isas, "Instruction sets that this build has, slowest first.");
  m.def("available_isas", &kdnative::cpu::available_isas,
        "Instruction sets that this build has and this processor runs.");
  m.def(
      "select_isa",
      [](const std::string& name) {
        const std::string problem = kdnative::cpu::select_isa(name);
        if (!problem.empty()) throw std::invalid_argument("kdnative: " + problem);
      },
      py::arg("name"),
      "Force an instruction set by name; '' selects the best one. ValueError when it cannot run here.");
  m.def("kernel_table", &kernel_table, py::arg("isa") = "",
        "For each operator the instruction sets whose kernels it runs, with the set in use or, as a question, with any "
        "other one of this build.");
  m.def(
      "avx512_in_halves", [] { return kdnative::cpu::features().avx512halves; },
      "Whether 512-bit instructions take a 256-bit unit twice, as on AMD Zen 4.");
  m.def(
      "peak_int8_ops",
      [](const std::string& isa, double seconds) { return kdnative::cpu::peak_int8_ops(isa.c_str(), seconds); },
      py::arg("isa"), py::arg("seconds") = 0.2, py::call_guard<py::gil_scoped_release>(),
      "Most int8 operations per second that one thread reaches with operands in registers; 0 where the set cannot "
      "run.");
  m.def("pool_is_lost", &kdnative::pool_is_lost,
        "Whether torch's threads of the calling thread stayed behind in the process that this one was forked from.");
  m.def(
      "set_threads_here", &kdnative::set_threads_here, py::arg("threads"),
      "Sets torch's number of threads for the calling thread alone; returns what it was, or 0 where it can't be done.");
  m.def("keep_pool_at_fork", &kdnative::keep_pool_at_fork, py::arg("keep"),
        "For tests: whether forks leave torch's threads as they are, as where they can't be given up.");
  m.def("register_cuda", &kdnative::cuda::register_operators, py::arg("key"),
        "Let the CUDA kernels compute the operators of a dispatch key of torch, 'CUDA' or for tests 'CPU'.");
  m.def("set_cuda_images", &set_image_source, py::arg("source"),
        "Says where kernels come from: source(family, capability) gives a cubin or PTX as bytes.");
  m.def("cuda_memory_is_the_hosts", &kdnative::cuda::driver_has_host_memory,
        "Whether KDNATIVE_LIBCUDA names a library whose kernels run on the memory of the host: tests have one.");
  m.def(
      "cuda_driver", [] { return py::make_tuple(kdnative::cuda::driver().file, kdnative::cuda::driver_version()); },
      "The file of the CUDA driver, and the version of CUDA that it knows, as in 12090. RuntimeError without one.");
  m.def("cuda_devices", &cuda_devices,
        "Name, capability (such as 80) and multiprocessors of each device. RuntimeError without a driver.");
  m.def("read_bandwidth", &kdnative::cpu::read_bandwidth, py::arg("bytes"), py::arg("seconds") = 0.2,
        py::call_guard<py::gil_scoped_release>(),
        "Most bytes per second that one thread reads from a buffer of that size.");
}
