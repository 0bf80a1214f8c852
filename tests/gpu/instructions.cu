// Every function of the dialect once, by one warp: the emulator and the PTX interpreter must find the same bits. This
// is what tests the strings of inline assembly. in: 1,024 random words; out: rows of 32 words; counters: 8 words.
#include "gpu.h"

using namespace gpu;

// Writes each result into the next row of out.
struct Results {
  uint32_t* out;
  int row = 0;

  GPU_FN void put(uint32_t v) { store_global(out + row++ * 32 + thread(), v); }
  GPU_FN void put(int32_t v) { put(static_cast<uint32_t>(v)); }
  GPU_FN void put(float v) { put(bits_of(v)); }
  GPU_FN void put(U4 v) { put(v.x), put(v.y), put(v.z), put(v.w); }
};

GPU_FN void threads(Results& r, const uint32_t* in) {
  const uint32_t v = load_global(in + thread());
  r.put(thread() + 100 * block_x() + 1000 * block_y() + 10000 * block_z());
  r.put(grid_x() + 10 * grid_y() + 100 * grid_z());
  r.put(shuffle_xor(v, 5));
  r.put(shuffle_from(v, thread() / 3));
}

GPU_FN void memory(Results& r, const uint32_t* in, uint32_t* scratch, uint32_t* counters) {
  const int t = thread();
  const uint32_t s = shared_base() + t * 16;
  const U4 v = load_global16(in + t * 4);
  store_shared16(s, v);
  r.put(load_shared4(s + 4));
  store_shared4(s, v.y);
  r.put(load_shared16(s));
  r.put(load_global16_once(in + t * 4));
  r.put(static_cast<uint32_t>(load_global(reinterpret_cast<const uint8_t*>(in) + t * 3)));
  r.put(static_cast<uint32_t>(load_global(reinterpret_cast<const uint16_t*>(in) + t * 3)));
  r.put(load_global(reinterpret_cast<const U2*>(in) + t).x), r.put(load_global(reinterpret_cast<const U2*>(in) + t).y);

  uint8_t* const bytes = reinterpret_cast<uint8_t*>(scratch) + t * 32;  // 32 bytes for each lane
  store_global(bytes, static_cast<uint8_t>(v.x)), store_global(bytes + 1, static_cast<uint8_t>(v.y));
  store_global(reinterpret_cast<uint16_t*>(bytes + 2), static_cast<uint16_t>(v.z));
  store_global(reinterpret_cast<uint32_t*>(bytes + 4), v.w);
  store_global(reinterpret_cast<U2*>(bytes + 8), U2{v.y, v.x});
  store_global16(bytes + 16, U4{v.w, v.z, v.y, v.x});
  r.put(load_written16(bytes)), r.put(load_written16(bytes + 16)), r.put(load_written(scratch + t * 8 + 1));

  const uint32_t turn = atomic_inc(counters, 6);
  fence_global();
  // Lanes come in any order: the sum of what they got is the same.
  uint32_t turns = turn * turn;
  for (int mask = 16; mask > 0; mask /= 2) turns += shuffle_xor(turns, mask);
  r.put(turns);
}

GPU_FN void copies(Results& r, const uint32_t* in) {
  const int t = thread();
  const uint32_t s = shared_base();
  sync_threads();
  copy_async16(s + t * 16, in + t * 4, t % 17);
  copy_commit();
  copy_async16(s + 512 + t * 16, in + t * 8, t % 5);
  copy_commit();
  copy_wait<1>();
  r.put(load_shared16(s + t * 16));
  copy_wait<0>();
  sync_warp();
  r.put(load_shared16(s + 512 + (t ^ 1) * 16));
}

// Factors of 16 bits are integers from -8 to 7, so that fp32 sums are exact in any order.
GPU_FN float small(uint32_t v) { return to_float(static_cast<int32_t>(v & 15) - 8); }

GPU_FN void products(Results& r, const uint32_t* in) {
  const int t = thread();
  const uint32_t s = shared_base();
  sync_warp();
  store_shared16(s + t * 16, load_global16(in + t * 4));
  sync_warp();
  uint32_t a[4], b[4];
  load_matrix_x4(a, s + t * 16);
  load_matrix_x4(b, s + (t ^ 7) * 16);
  for (int i = 0; i < 4; ++i) r.put(a[i]), r.put(b[i]);

  int32_t d[4] = {1, -2, 3, -4};
  mma_s8(d, a, b[0], b[1]);
  for (int i = 0; i < 4; ++i) r.put(d[i]);
  mma_s8_half(d, a[2], a[3], b[2]);
  for (int i = 0; i < 4; ++i) r.put(d[i]);
  uint32_t metadata = 0;  // pairs of columns that differ from lane to lane
  for (int i = 0; i < 8; ++i) metadata |= ((t + i) % 3 == 0 ? 0x4u : (t + i) % 3 == 1 ? 0xdu : 0x9u) << 4 * i;
  mma_sparse_s8(d, a, b, metadata);
  for (int i = 0; i < 4; ++i) r.put(d[i]);

  float half_sums[4] = {1, -2, 3, -4}, bf16_sums[4] = {1, -2, 3, -4};
  uint32_t half_a[4], half_b[2], bf16_a[4], bf16_b[2];
  for (int i = 0; i < 4; ++i) {
    half_a[i] = to_half2(small(a[i]), small(a[i] >> 8)), bf16_a[i] = to_bf16x2(small(a[i] >> 4), small(a[i] >> 12));
    if (i > 1) continue;
    half_b[i] = to_half2(small(b[i]), small(b[i] >> 8)), bf16_b[i] = to_bf16x2(small(b[i] >> 4), small(b[i] >> 12));
  }
  mma_f16(half_sums, half_a, half_b[0], half_b[1]);
  mma_bf16(bf16_sums, bf16_a, bf16_b[0], bf16_b[1]);
  for (int i = 0; i < 4; ++i) r.put(half_sums[i]), r.put(bf16_sums[i]);
}

GPU_FN void conversions(Results& r, float x, float y, uint32_t bits) {
  r.put(to_float(to_half(x))), r.put(to_float(to_bf16(x))), r.put(to_half2(x, y)), r.put(to_bf16x2(x, y));
  r.put(to_float(static_cast<int32_t>(bits))), r.put(to_int(x));
  r.put(pack_int8(to_int(x), to_int(y), bits)), r.put(float_of_bits(bits_of(y)));
}

GPU_FN void arithmetic(Results& r, float x, float y, uint32_t a, uint32_t b, uint32_t c) {
  r.put(mul_rn(x, y)), r.put(add_rn(x, y)), r.put(sub_rn(x, y)), r.put(div_rn(x, y)), r.put(fma_rn(x, y, 0.1f));
  r.put(sqrt_rn(mul_rn(x, x)));
  r.put(lop3<0xea>(a, b, c)), r.put(lop3<0x1b>(a, b, c)), r.put(permute(a, b, c));
  const uint32_t p = to_half2(x, y), q = to_half2(y, 0.3f), s = to_half2(-2.5f, x);
  r.put(add_half2(p, q)), r.put(fma_half2(p, q, s));
  r.put(fma_bf16x2(to_bf16x2(x, y), to_bf16x2(y, 0.3f), to_bf16x2(-2.5f, x)));
}

extern "C" GPU_KERNEL(32, 1)
    every_instruction(const uint32_t* in, uint32_t* out, uint32_t* scratch, uint32_t* counters) {
  const int t = thread();
  const float x = mul_rn(to_float(static_cast<int32_t>(load_global(in + t))), 1e-7f);
  const float y = mul_rn(to_float(static_cast<int32_t>(load_global(in + t + 32))), 3e-8f);
  Results r{out};
  threads(r, in);
  memory(r, in, scratch, counters);
  copies(r, in);
  products(r, in);
  conversions(r, x, y, load_global(in + t + 64));
  arithmetic(r, x, y, load_global(in + t), load_global(in + t + 96), load_global(in + t + 128));
}
