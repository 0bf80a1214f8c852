// encoder, encoder_hidden_states, encoder_layers: argument checks, mask conversion and torch's thread pool around
// cpu::transformer_forward.
#include <vector>

#include "../cpu/dispatch.h"
#include "../cpu/transformer.h"
#include "library.h"
#include "tensor.h"

namespace kdnative {
namespace {

// Ids of every token; each dimension may also be 1, and the first may be missing.
cpu::Ids ids_of(const Tensor& t, const char* op, const char* what, int64_t batch, int64_t tokens) {
  if (!t) return {};
  static const int32_t i64 = aoti_torch_dtype_int64(), i32 = aoti_torch_dtype_int32();
  require_cpu(t, op, what);
  const int32_t type = t.dtype();
  if (type != i64 && type != i32)
    fail(std::string(op) + ": " + what + " must be int64 or int32 (got " + dtype_text(type) +
         "); convert with .long()");
  const int64_t dim = t.dim();
  const int64_t *size = t.sizes(), *stride = t.strides();
  const bool rows = dim == 2 && size[0] != 1, columns = dim > 0 && size[dim - 1] != 1;
  if (dim < 1 || dim > 2 || (rows && size[0] != batch) || (columns && size[dim - 1] != tokens))
    fail(std::string(op) + ": " + what + " has shape " + shape_text(t) + " but input_ids has [" +
         std::to_string(batch) + ", " + std::to_string(tokens) + "]");
  return {t.data(), rows ? stride[0] : 0, columns ? stride[dim - 1] : 0, type == i64};
}

// Which numbers of [batch, tokens] are not 0, by the bits that count: those of a float without its sign.
template <typename T>
void nonzero(const Tensor& t, T bits, uint8_t* out) {
  const T* values = static_cast<const T*>(t.data());
  const int64_t *size = t.sizes(), *stride = t.strides();
  for (int64_t b = 0; b < size[0]; ++b) {
    for (int64_t i = 0; i < size[1]; ++i) *out++ = (values[b * stride[0] + i * stride[1]] & bits) != 0;
  }
}

// An attention mask of any usual dtype as one byte a token; nullptr when there is none.
const uint8_t* mask_bytes(const Tensor& mask, const char* op, const char* what, const char* dropped, int64_t batch,
                          int64_t tokens, std::vector<uint8_t>& storage) {
  if (!mask) return nullptr;
  require_cpu(mask, op, what);
  if (mask.dim() != 2 || mask.sizes()[0] != batch || mask.sizes()[1] != tokens)
    fail(std::string(op) + ": " + what + " has shape " + shape_text(mask) + "; it must be [" + std::to_string(batch) +
         ", " + std::to_string(tokens) + "], one number a token and " + dropped +
         " for padding. For a mask over pairs of tokens keep the encoder in float: convert_(..., keep=[...])");
  static const int32_t i64 = aoti_torch_dtype_int64(), i32 = aoti_torch_dtype_int32(), i8 = aoti_torch_dtype_int8(),
                       u8 = aoti_torch_dtype_uint8(), boolean = aoti_torch_dtype_bool(),
                       f64 = aoti_torch_dtype_float64(), f32 = aoti_torch_dtype_float32(),
                       f16 = aoti_torch_dtype_float16(), bf16 = aoti_torch_dtype_bfloat16();
  const int32_t type = mask.dtype();
  const bool byte = type == u8 || type == boolean || type == i8;
  if (byte && mask.contiguous()) return static_cast<const uint8_t*>(mask.data());
  storage.resize(static_cast<size_t>(batch * tokens));
  uint8_t* out = storage.data();
  if (byte) {
    nonzero<uint8_t>(mask, 0xff, out);
  } else if (type == i64) {
    nonzero(mask, ~uint64_t{0}, out);
  } else if (type == i32) {
    nonzero(mask, ~uint32_t{0}, out);
  } else if (type == f64) {
    nonzero(mask, ~uint64_t{0} >> 1, out);
  } else if (type == f32) {
    nonzero(mask, ~uint32_t{0} >> 1, out);
  } else if (type == f16 || type == bf16) {
    nonzero<uint16_t>(mask, 0x7fff, out);
  } else {
    fail(std::string(op) + ": " + what + " must be bool, int64, int32, int8, uint8 or a float (got " +
         dtype_text(type) + "); convert with .bool()");
  }
  return out;
}

cpu::HiddenStates hidden_states_of(const Tensor& t) {
  static const int32_t f32 = aoti_torch_dtype_float32();
  require_cpu(t, "encoder_layers", "hidden_states");
  if (t.dim() != 3)
    fail("encoder_layers: hidden_states must be [batch, tokens, width] (got shape " + shape_text(t) + ")");
  if (t.dtype() != f32)
    fail("encoder_layers: hidden_states must be float32 (got " + dtype_text(t.dtype()) + "); convert with .float()");
  if (t.sizes()[2] > 1 && t.strides()[2] != 1)
    fail("encoder_layers: the last dimension of hidden_states must be contiguous; call .contiguous()");
  return {static_cast<const float*>(t.data()), t.strides()[0], t.strides()[1]};
}

// Cosines and sines [batch or 1, tokens, 2, half a head].
void set_rotary(const Tensor& t, cpu::TransformerInputs& in) {
  if (!t) return;
  static const int32_t f32 = aoti_torch_dtype_float32();
  require_cpu(t, "encoder_layers", "rotary");
  const int64_t* size = t.sizes();
  const bool fits = t.dim() == 4 && (size[0] == 1 || size[0] == in.batch) && size[1] == in.tokens && size[2] == 2;
  if (!fits || t.dtype() != f32 || !t.contiguous())
    fail("encoder_layers: rotary must be contiguous float32 [1 or " + std::to_string(in.batch) + ", " +
         std::to_string(in.tokens) + ", 2, half a head] (got " + dtype_text(t.dtype()) + " of shape " + shape_text(t) +
         ")");
  in.rotary = static_cast<const float*>(t.data());
  in.rotary_tokens = size[0] * in.tokens;
  in.rotary_half = size[3];
}

// What the operators share: everything but what a forward begins with, which `in` has already.
StableIValue run_encoder(const char* op, const Tensor& packed, const Tensor& mask, const Tensor& padding,
                         cpu::TransformerInputs in) {
  static const int32_t u8 = aoti_torch_dtype_uint8(), f32 = aoti_torch_dtype_float32();
  require_cpu(packed, op, "the packed encoder");
  if (packed.dtype() != u8 || packed.dim() != 1 || !packed.contiguous())
    fail(std::string(op) + ": the packed encoder must be a contiguous 1-D uint8 tensor");
  thread_local std::vector<uint8_t> mask_storage;  // kept: steady state allocates nothing but the output
  in.packed = packed.data();
  in.packed_bytes = packed.sizes()[0];
  if (const char* problem = cpu::check_output(in)) fail(std::string(op) + ": " + problem);
  if (mask && padding) fail(std::string(op) + ": give attention_mask or padding_mask, not both");
  // Before anything else of these sizes: torch says so where they are more than there is memory.
  const int64_t sizes[4] = {in.states, in.batch, in.tokens, in.hidden_size};
  Tensor out = in.states > 0 ? Tensor::empty(4, sizes, f32) : Tensor::empty(3, sizes + 1, f32);
  in.mask = mask_bytes(mask, op, "attention_mask", "0", in.batch, in.tokens, mask_storage);
  if (padding) {
    in.mask = mask_bytes(padding, op, "padding_mask", "not 0", in.batch, in.tokens, mask_storage);
    in.mask_is_padding = true;
  }
  if (const char* problem =
          cpu::transformer_forward(cpu::kernels(), thread_pool(), in, static_cast<float*>(out.data())))
    fail(std::string(op) + ": " + problem);
  return give_tensor(std::move(out));
}

// From token ids: the operators with embeddings.
StableIValue run_tokens(const char* op, StableIValue* stack, int64_t states) {
  const Tensor packed = take_tensor(stack[0]), ids = take_tensor(stack[1]);
  const Tensor mask = take_optional_tensor(stack[2]), types = take_optional_tensor(stack[3]),
               positions = take_optional_tensor(stack[4]);
  cpu::TransformerInputs in{};
  in.hidden_size = take_int(stack[5]);
  in.states = states;
  if (ids.dim() != 2) fail(std::string(op) + ": input_ids must be [batch, tokens] (got shape " + shape_text(ids) + ")");
  if (in.hidden_size < 1)
    fail(std::string(op) + ": hidden_size must be positive (got " + std::to_string(in.hidden_size) + ")");
  in.batch = ids.sizes()[0];
  in.tokens = ids.sizes()[1];
  in.input_ids = ids_of(ids, op, "input_ids", in.batch, in.tokens);
  in.token_type_ids = ids_of(types, op, "token_type_ids", in.batch, in.tokens);
  in.position_ids = ids_of(positions, op, "position_ids", in.batch, in.tokens);
  return run_encoder(op, packed, mask, {}, in);
}

void boxed_encoder(StableIValue* stack, uint64_t, uint64_t) { stack[0] = run_tokens("encoder", stack, 0); }

void boxed_encoder_hidden_states(StableIValue* stack, uint64_t, uint64_t) {
  const int64_t layers = take_int(stack[6]);
  if (layers < 0) fail("encoder_hidden_states: layers must not be negative (got " + std::to_string(layers) + ")");
  if (layers > INT32_MAX)  // more than a header can say
    fail("encoder_hidden_states: layers is " + std::to_string(layers) +
         ", but a packed encoder has at most 2147483647");
  stack[0] = run_tokens("encoder_hidden_states", stack, layers + 1);
}

void boxed_encoder_layers(StableIValue* stack, uint64_t, uint64_t) {
  const Tensor packed = take_tensor(stack[0]), hidden_states = take_tensor(stack[1]);
  const Tensor mask = take_optional_tensor(stack[2]), rotary = take_optional_tensor(stack[4]),
               padding = take_optional_tensor(stack[5]);
  cpu::TransformerInputs in{};
  in.hidden_states = hidden_states_of(hidden_states);
  in.batch = hidden_states.sizes()[0];
  in.tokens = hidden_states.sizes()[1];
  in.hidden_size = hidden_states.sizes()[2];
  in.causal = take_int(stack[3]) != 0;
  set_rotary(rotary, in);
  stack[0] = run_encoder("encoder_layers", packed, mask, padding, in);
}

}  // namespace

void register_encoder(Library& library) {
  using namespace cpu;
  const std::vector<KernelUse> of_layers = {{"gemm_w8a8", origins_of<&Kernels::gemm_w8a8>},
                                            {"gemm_w4a8", origins_of<&Kernels::gemm_w4a8>},
                                            {"gemm_w2a8", origins_of<&Kernels::gemm_w2a8>},
                                            {"gemm_two_level", origins_of<&Kernels::gemm_two_level>},
                                            {"attention", origins_of<&Kernels::attention>},
                                            {"quantize_rows", origins_of<&Kernels::quantize_rows>},
                                            {"layer_norm", origins_of<&Kernels::layer_norm>},
                                            {"rotate", origins_of<&Kernels::rotate>},
                                            {"gate", origins_of<&Kernels::gate>}};
  std::vector<KernelUse> of_tokens = of_layers;
  of_tokens.push_back({"add_scaled_int8", origins_of<&Kernels::add_scaled_int8>});
  library.op(
      "encoder(Tensor packed, Tensor input_ids, Tensor? attention_mask, Tensor? token_type_ids, Tensor? position_ids, "
      "int hidden_size) "
      "-> Tensor",
      "encoder", boxed_encoder, of_tokens);
  library.op(
      "encoder_hidden_states(Tensor packed, Tensor input_ids, Tensor? attention_mask, Tensor? token_type_ids, Tensor? "
      "position_ids, int hidden_size, int layers) -> Tensor",
      "encoder_hidden_states", boxed_encoder_hidden_states, of_tokens);
  library.op(
      "encoder_layers(Tensor packed, Tensor hidden_states, Tensor? attention_mask, int causal, Tensor? rotary=None, "
      "Tensor? padding_mask=None) -> Tensor",
      "encoder_layers", boxed_encoder_layers, of_layers);
}

}  // namespace kdnative
