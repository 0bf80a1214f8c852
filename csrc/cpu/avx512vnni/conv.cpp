// Convolutions by vpdpbusd: blocks of up to 6 pixels x 64 channels, 8 x 48, 12 x 32 or 14 x 16.
//
// Activations are unsigned and weights signed, as the instruction wants them: four channels of a pixel are broadcast,
// and four registers of weights serve all pixels of the block. 24 sums in registers need 10 loads for 24 products.
#include "../features.h"
#include "dot.h"
// These are written against Vec and come after it.
#include "../instruction_sets.h"
#include "../simd/blocks.h"
#include "../simd/codes_avx512.h"
#include "../simd/conv.h"
#include "../simd/requantize.h"
#include "look_up.h"

namespace kdnative::cpu::avx512vnni {
namespace {

constexpr int64_t kAhead = 1024;  // bytes of weights

inline __m512i broadcast(const uint8_t* p) {
  int32_t quad;
  std::memcpy(&quad, p, sizeof(quad));
  return _mm512_set1_epi32(quad);
}

template <int rows, int vectors>
inline void multiply(const ConvBlock& b, __m512i (&sum)[rows][vectors]) {
#pragma GCC unroll 14
  for (int i = 0; i < rows; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < vectors; ++j) sum[i][j] = i == 0 ? _mm512_loadu_si512(b.start + 16 * j) : sum[0][j];
  if (b.start_step != 0) [[unlikely]] {
#pragma GCC unroll 14
    for (int i = 0; i < rows; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < vectors; ++j) sum[i][j] = _mm512_loadu_si512(b.start + i * b.start_step + 16 * j);
  }
  const int8_t* w = b.weights;
  const int8_t* coming = b.coming;
  const uint8_t* const* pixel = b.pixel;
  for (int64_t tap = 0; tap < b.taps; ++tap, pixel += b.tap_step) {
    const uint8_t* x[rows];
#pragma GCC unroll 14
    for (int i = 0; i < rows; ++i) x[i] = pixel[i];
    for (int64_t k = 0; k < b.tile.depth; k += 4, w += 64 * vectors) {
      __m512i weights[vectors];
#pragma GCC unroll 4
      for (int j = 0; j < vectors; ++j) weights[j] = _mm512_loadu_si512(w + 64 * j);
      for (int j = 0; j < vectors; j += 2) _mm_prefetch(w + kAhead + 64 * j, _MM_HINT_T0);
      _mm_prefetch(coming, _MM_HINT_T1);
      coming += b.coming_step;
#pragma GCC unroll 14
      for (int i = 0; i < rows; ++i) {
        const __m512i quad = broadcast(x[i] + k);
#pragma GCC unroll 4
        for (int j = 0; j < vectors; ++j) sum[i][j] = add_products(sum[i][j], quad, weights[j]);
      }
    }
  }
}

template <bool swish, int rows, int vectors>
inline void store_codes(const ConvBlock& b, const __m512i (&sum)[rows][vectors]) {
  constexpr bool permuted = vectors == 4;
  const Requantizer requantizer(b.e);
  const __mmask64 mask = byte_mask(b.tile.outputs);
  const int64_t first = b.tile.first;
  const float *scale = b.scale, *bias = b.bias;
  uint8_t* const* out = b.out;
  const uint8_t* const* residual = b.e.residual != nullptr ? b.residual : nullptr;
  const Vec residual_scale = Vec::set1(b.e.residual_scale);
#pragma GCC unroll 14
  for (int i = 0; i < rows; ++i) {
    Vec v[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      v[j] = j < vectors ? Vec{_mm512_cvtepi32_ps(sum[i][j])} * Vec::load(scale + 16 * j) + Vec::load(bias + 16 * j)
                         : Vec::zero();
    }
    if (residual != nullptr) {
      const Codes codes = Codes::load(residual[i] + first);
      Vec r[4];
      unpack(permuted ? codes : out_of_order(codes), r);
#pragma GCC unroll 4
      for (int j = 0; j < vectors; ++j) v[j] = v[j] + r[j] * residual_scale;
    }
    const Codes codes = requantizer.finish<swish>(v);
    _mm512_mask_storeu_epi8(out[i] + first, mask, (permuted ? codes : in_order(codes)).v);
  }
}

template <int rows, int vectors>
[[gnu::noinline]] void block(const ConvBlock& b) {
  __m512i sum[rows][vectors];
  multiply<rows, vectors>(b, sum);
  if (b.sums != nullptr) {
#pragma GCC unroll 14
    for (int i = 0; i < rows; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < vectors; ++j) _mm512_store_si512(b.sums + 16 * (i * vectors + j), sum[i][j]);
  } else if (b.e.finish == Finish::hard_swish) {
    store_codes<true, rows, vectors>(b, sum);
  } else {
    store_codes<false, rows, vectors>(b, sum);
  }
}

struct Kernel {
  static constexpr int kRows[] = {0, 14, 12, 8, 6};
  static constexpr bool kSigned = false;
  static constexpr int64_t kMostQuads = 0;

  static void sort(const int8_t*, int64_t, int64_t, uint8_t*) {}

  static void run(int64_t vectors, int64_t rows, const ConvBlock& b) {
    const auto with = [&](auto count) [[gnu::always_inline]] {
      with_rows<kRows[count.count]>(rows, [&](auto n) { block<n.count, count.count>(b); });
    };
    vectors == 4 ? with(Rows<4>{}) : vectors == 3 ? with(Rows<3>{}) : vectors == 2 ? with(Rows<2>{}) : with(Rows<1>{});
  }

  static void look_up(const ConvBlock& b, int64_t rows) {
    (features().avx512vbmi2 ? look_up_rows_vbmi : look_up_rows_words)(b.out, rows, b.tile.first, b.tile.outputs,
                                                                      b.e.table);
  }
};

}  // namespace

void conv(const PackedConv& w, const Epilogue8& e, const Map& in, const uint8_t* zeros, const Map& out, float* real,
          int64_t ld_real, const ConvRange& r) {
  convolve<Kernel>(w, e, in, zeros, out, real, ld_real, r);
}

}  // namespace kdnative::cpu::avx512vnni
