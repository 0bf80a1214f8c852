// encoder: argument checks, mask conversion and torch's thread pool around cpu::encoder_forward.
#include "../cpu/encoder.h"

#include <vector>

#include "../cpu/dispatch.h"
#include "library.h"
#include "tensor.h"

namespace kdnative {
namespace {

void run_on_pool(int64_t n, void (*fn)(int64_t, int64_t, void*), void* ctx) {
  parallel(n, [&](int64_t begin, int64_t end) { fn(begin, end, ctx); });
}

void require_ids(const Tensor& t, const char* what, const Tensor& input_ids) {
  static const int32_t i64 = aoti_torch_dtype_int64();
  require_cpu(t, "encoder", what);
  if (t.dtype() != i64) fail(std::string("encoder: ") + what + " must be int64; convert with .long()");
  if (t.dim() != 2 || !t.contiguous())
    fail(std::string("encoder: ") + what + " must be contiguous [batch, tokens] (got shape " + shape_text(t) + ")");
  if (t.sizes()[0] != input_ids.sizes()[0] || t.sizes()[1] != input_ids.sizes()[1])
    fail(std::string("encoder: ") + what + " has shape " + shape_text(t) + " but input_ids has " +
         shape_text(input_ids));
}

template <typename T>
void nonzero(const void* p, std::vector<uint8_t>& out) {
  const T* values = static_cast<const T*>(p);
  for (size_t i = 0; i < out.size(); ++i) out[i] = values[i] != T{0};
}

// An attention mask of any usual dtype as one byte a token; nullptr when there is none.
const uint8_t* mask_bytes(const Tensor& mask, const Tensor& input_ids, std::vector<uint8_t>& storage) {
  if (!mask) return nullptr;
  require_cpu(mask, "encoder", "attention_mask");
  if (mask.dim() != 2 || !mask.contiguous() || mask.sizes()[0] != input_ids.sizes()[0] ||
      mask.sizes()[1] != input_ids.sizes()[1])
    fail("encoder: attention_mask must be contiguous with the shape of input_ids " + shape_text(input_ids) + " (got " +
         shape_text(mask) + "); masks over pairs of tokens are not supported");
  static const int32_t i64 = aoti_torch_dtype_int64(), f32 = aoti_torch_dtype_float32(), u8 = aoti_torch_dtype_uint8(),
                       boolean = aoti_torch_dtype_bool();
  const int32_t type = mask.dtype();
  if (type == u8 || type == boolean) return static_cast<const uint8_t*>(mask.data());
  storage.resize(static_cast<size_t>(mask.numel()));
  if (type == i64) {
    nonzero<int64_t>(mask.data(), storage);
  } else if (type == f32) {
    nonzero<float>(mask.data(), storage);
  } else {
    fail("encoder: attention_mask must be int64, bool, uint8 or float32; convert with .long()");
  }
  return storage.data();
}

void boxed_encoder(StableIValue* stack, uint64_t, uint64_t) {
  const Tensor packed = take_tensor(stack[0]), ids = take_tensor(stack[1]);
  const Tensor mask = take_optional_tensor(stack[2]), types = take_optional_tensor(stack[3]),
               positions = take_optional_tensor(stack[4]);
  const int64_t hidden = take_int(stack[5]);
  static const int32_t u8 = aoti_torch_dtype_uint8(), f32 = aoti_torch_dtype_float32();
  require_cpu(packed, "encoder", "the packed encoder");
  if (packed.dtype() != u8 || packed.dim() != 1 || !packed.contiguous())
    fail("encoder: the packed encoder must be a contiguous 1-D uint8 tensor");
  require_ids(ids, "input_ids", ids);
  if (types) require_ids(types, "token_type_ids", ids);
  if (positions) require_ids(positions, "position_ids", ids);
  if (hidden < 1) fail("encoder: hidden_size must be positive (got " + std::to_string(hidden) + ")");
  thread_local std::vector<uint8_t> mask_storage;  // kept: steady state allocates nothing but the output
  const uint8_t* keep = mask_bytes(mask, ids, mask_storage);

  const int64_t sizes[3] = {ids.sizes()[0], ids.sizes()[1], hidden};
  Tensor out = Tensor::empty(3, sizes, f32);
  const auto optional_ids = [](const Tensor& t) { return t ? static_cast<const int64_t*>(t.data()) : nullptr; };
  const cpu::EncoderInputs in{
      packed.data(),       packed.sizes()[0],       sizes[0], sizes[1], static_cast<const int64_t*>(ids.data()), keep,
      optional_ids(types), optional_ids(positions), hidden};
  const cpu::Parallel pool{run_on_pool, thread_count()};
  if (const char* problem = cpu::encoder_forward(cpu::kernels(), pool, in, static_cast<float*>(out.data())))
    fail(std::string("encoder: ") + problem);
  stack[0] = give_tensor(std::move(out));
}

}  // namespace

void register_encoder(Library& library) {
  library.op(
      "encoder(Tensor packed, Tensor input_ids, Tensor? attention_mask, Tensor? token_type_ids, Tensor? position_ids, "
      "int hidden_size) "
      "-> Tensor",
      "encoder", boxed_encoder);
}

}  // namespace kdnative
