// A sparse int8 product of CUTLASS, compiled to PTX for the interpreter. On the host it is a program that writes the
// bytes of the kernel's parameters, then the metadata of standard input in the order that the kernel reads.
// Arguments: m n k, and the addresses of a, b, c and the metadata.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "cutlass/cutlass.h"
#include "cutlass/gemm/device/gemm_sparse.h"
#include "cutlass/util/host_reorder.h"

using Gemm =
    cutlass::gemm::device::SparseGemm<int8_t, cutlass::layout::RowMajor, int8_t, cutlass::layout::ColumnMajor, int32_t,
                                      cutlass::layout::RowMajor, int32_t, cutlass::arch::OpClassTensorOp,
                                      cutlass::arch::Sm80, cutlass::gemm::GemmShape<64, 64, 128>,
                                      cutlass::gemm::GemmShape<32, 32, 128>, cutlass::gemm::GemmShape<16, 8, 64>,
                                      cutlass::epilogue::thread::LinearCombination<int32_t, 4, int32_t, int32_t>,
                                      cutlass::gemm::threadblock::GemmIdentityThreadblockSwizzle<>, 3>;
using Kernel = Gemm::GemmKernel;
using Meta = Kernel::ElementE;

template __global__ void cutlass::Kernel<Kernel>(Kernel::Params);

int main(int, char** arguments) {
  using namespace cutlass;
  const int m = atoi(arguments[1]), n = atoi(arguments[2]), k = atoi(arguments[3]);
  const auto at = [&](int i) { return reinterpret_cast<void*>(strtoull(arguments[i], nullptr, 0)); };
  const int stored = k / Kernel::kSparse, columns = stored / Kernel::kElementsPerElementE;
  const gemm::GemmCoord problem(m, n, k);
  const auto grid = gemm::threadblock::GemmIdentityThreadblockSwizzle<>().get_tiled_shape(problem, {64, 64, 128}, 1);
  const auto order = Kernel::LayoutE::packed(make_Coord(m, columns));
  auto* c = static_cast<int32_t*>(at(6));
  const Kernel::Params parameters(problem, grid, {static_cast<int8_t*>(at(4)), stored},
                                  {static_cast<int8_t*>(at(5)), k}, {c, n}, {c, n}, {static_cast<Meta*>(at(7)), order},
                                  {1, 0}, nullptr);
  fwrite(&parameters, sizeof parameters, 1, stdout);
  std::vector<Meta> rows(m * columns), reordered(m * columns);
  if (fread(rows.data(), sizeof(Meta), rows.size(), stdin) != rows.size()) return 1;
  reorder_meta(TensorRef<Meta, Kernel::LayoutE>(reordered.data(), order),
               TensorRef<Meta, layout::RowMajor>(rows.data(), layout::RowMajor(columns)), {m, n, columns});
  fwrite(reordered.data(), sizeof(Meta), reordered.size(), stdout);
}
