// layer_norm, attention, add_scaled_int8, rotate and gate against plain loops in double precision.
//
// The order of sums differs from one instruction set to the next, so these are held to a few rounding errors of the
// terms that are added; only the split of the work must not change a bit.
#include <limits>

#include "checks.h"

namespace harness {
namespace {

constexpr double kUnit = 0x1p-24;      // relative error of one rounding
constexpr float kUntouched = -777.0f;  // fills what a kernel must leave alone

struct Matrix {
  Matrix(int64_t row_count, int64_t column_count, int64_t spare)
      : rows(row_count), columns(column_count), ld(column_count + spare), data(row_count * ld) {
    for (int64_t i = 0; i < data.size; ++i) data[i] = kUntouched;
  }
  float& operator()(int64_t r, int64_t c) { return data[r * ld + c]; }
  float* get() { return data.get(); }
  void randomize(float scale, float offset) {
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < columns; ++c) (*this)(r, c) = offset + random_float(scale);
  }
  bool same_bits(Matrix& other) { return std::memcmp(get(), other.get(), data.size * sizeof(float)) == 0; }
  // What lies behind the last column of a row is as it was.
  bool kept_the_rest() {
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = columns; c < ld; ++c)
        if ((*this)(r, c) != kUntouched) return false;
    return true;
  }
  int64_t rows, columns, ld;
  Buffer<float> data;
};

}  // namespace

void check_layer_norm(const Kernels& t) {
  for (int i = 0; i < 200; ++i) {
    const int64_t rows = random_int(0, 5), n = i < 100 ? i + 1 : random_int(1, 1100);
    const float eps = i % 2 ? 1e-12f : 1e-5f, offset = random_float(4.0f);
    Matrix x(rows, n, random_int(0, 3)), y(rows, n, random_int(0, 3));
    x.randomize(2.0f, offset);
    if (rows > 0 && i % 10 == 0)
      for (int64_t c = 0; c < n; ++c) x(0, c) = 3.0f;  // no variance
    Buffer<float> gamma(n), beta(n);
    for (int64_t c = 0; c < n; ++c) gamma[c] = random_float(2.0f), beta[c] = random_float(1.0f);
    t.layer_norm(x.get(), x.ld, gamma.get(), beta.get(), eps, rows, n, y.get(), y.ld);
    const std::string what = "layer_norm n=" + std::to_string(n);
    check(y.kept_the_rest(), t.isa, what + " wrote past the last column");
    for (int64_t r = 0; r < rows; ++r) {
      double mean = 0, variance = 0, largest = 0;
      for (int64_t c = 0; c < n; ++c) mean += x(r, c), largest = std::fmax(largest, std::fabs(x(r, c)));
      mean /= static_cast<double>(n);
      for (int64_t c = 0; c < n; ++c) variance += (x(r, c) - mean) * (x(r, c) - mean);
      const double inverse = 1 / std::sqrt(variance / static_cast<double>(n) + eps);
      // Sums of n terms in at least one lane and four chains; in practice errors cancel to far below n roundings.
      const double steps = 8 + std::sqrt(static_cast<double>(n));
      for (int64_t c = 0; c < n; ++c) {
        const double d = (x(r, c) - mean) * inverse, wanted = d * gamma[c] + beta[c];
        const double limit =
            kUnit * steps * (std::fabs(gamma[c]) * (largest * inverse + std::fabs(d)) + std::fabs(wanted) + 1);
        check(std::fabs(y(r, c) - wanted) <= limit, t.isa, what + " is off");
      }
    }
    t.layer_norm(x.get(), x.ld, gamma.get(), beta.get(), eps, rows, n, x.get(), x.ld);
    for (int64_t r = 0; r < rows; ++r)
      check(std::memcmp(&x(r, 0), &y(r, 0), n * sizeof(float)) == 0, t.isa, what + " differs in place");
    check(x.kept_the_rest(), t.isa, what + " in place wrote past the last column");
  }
}

namespace {

// Rounded to bf16, half to even, by going through the sum with a number 2^16 times the last place.
double as_bf16(double x) {
  int exponent;
  std::frexp(x, &exponent);
  const double unit = std::ldexp(1.0, exponent - 8);
  return x == 0 ? 0 : std::nearbyint(x / unit) * unit;
}

// The factors of one head as the kernel takes them: queries, scaled, keys and values [tokens, head_dim], rounded to
// bf16 where it does that.
struct HeadFactors {
  HeadFactors(const AttentionArgs& a, int32_t head, bool bf16) {
    const int64_t d = a.head_dim, width = a.heads * d;
    const auto take = [&](std::vector<double>& to, int64_t first, float scale) {
      for (int64_t t = 0; t < a.tokens; ++t)
        for (int64_t j = 0; j < d; ++j) {
          const float x = a.qkv[t * a.ld_qkv + first + head * d + j] * scale;
          to.push_back(bf16 ? as_bf16(x) : x);
        }
    };
    take(queries, 0, a.scaling);
    take(keys, width, 1.0f);
    take(values, 2 * width, 1.0f);
  }
  std::vector<double> queries, keys, values;
};

// softmax(Q K^T * scaling + bias) V of one head and one query row; `magnitude` becomes the largest |score| before the
// softmax.
std::vector<double> attended(const AttentionArgs& a, const HeadFactors& f, int32_t head, int64_t row,
                             double& magnitude) {
  const int64_t d = a.head_dim;
  const double* q = f.queries.data() + row * d;
  std::vector<double> weight(a.tokens), out(d, 0.0);
  double top = -std::numeric_limits<double>::infinity(), sum = 0;
  magnitude = 0;
  const auto column = [&](int64_t t) { return a.columns == nullptr ? t : int64_t{a.columns[t]}; };
  for (int64_t t = 0; t < a.tokens; ++t) {
    const int64_t apart = column(t) - column(row);
    if (apart > a.after || -apart > a.before) {
      weight[t] = -std::numeric_limits<double>::infinity();
      continue;
    }
    const double* k = f.keys.data() + t * d;
    double score = 0, absolute = 0;
    for (int64_t j = 0; j < d; ++j) {
      score += q[j] * k[j];
      absolute += std::fabs(q[j] * k[j]);
    }
    if (a.bias != nullptr) {
      score += a.bias[head * a.bias_stride + apart];
      absolute += std::fabs(a.bias[head * a.bias_stride + apart]);
    }
    weight[t] = score;
    top = std::fmax(top, score);
    magnitude = std::fmax(magnitude, absolute);
  }
  for (double& w : weight) sum += w = std::exp(w - top);
  for (int64_t t = 0; t < a.tokens; ++t) {
    if (weight[t] == 0) continue;
    const double share = weight[t] / sum, *v = f.values.data() + t * d;
    for (int64_t j = 0; j < d; ++j) out[j] += share * v[j];
  }
  return out;
}

}  // namespace

void check_attention(const Kernels& t) {
  const bool bf16 = std::string(t.isa) == "avx512bf16" || std::string(t.isa) == "amx";
  const int64_t dims[] = {1, 3, 4, 5, 8, 12, 15, 16, 17, 24, 31, 32, 33, 48, 64, 80};
  for (int i = 0; i < 150; ++i) {
    // Beyond 512 keys the bf16 kernels work in blocks of keys.
    const bool far = i == 101;  // with gaps so wide that a window of 900 columns leaves none of a block's keys
    const int64_t tokens = far      ? 1200
                           : i < 80 ? i + 1
                           : i % 10 ? random_int(1, 150)
                                    : random_int(500, 1200),
                  d = dims[random_int(0, std::size(dims) - 1)];
    const auto heads = static_cast<int32_t>(random_int(1, 4));
    Matrix qkv(tokens, 3 * heads * d, random_int(0, 5)), out(tokens, heads * d, random_int(0, 5));
    Matrix parts(tokens, heads * d, out.ld - out.columns);
    qkv.randomize(i % 3 ? 1.0f : 6.0f, 0.0f);            // flat and sharp distributions
    const double largest = i % 3 && i % 7 != 3 ? 1 : 6;  // value that others come near to in the sums
    if (i % 7 == 3) {  // scores whose exponentials are beyond any float: one key gets all the weight, but for ties
      for (int64_t r = 0; r < tokens; ++r)
        for (int64_t c = 0; c < heads * d; ++c) qkv(r, c) *= 12.0f;
    }
    // NaN wherever a kernel would read before it wrote.
    Buffer<float> scratch(attention_scratch(tokens, d));
    // A bias by distance, a window, causality and gaps between the columns, each in some of the cases.
    Buffer<int32_t> columns(tokens);
    const bool gaps = i % 4 == 1;
    for (int64_t t = 0, at = 0; t < tokens; ++t, ++at) {
      if (gaps) at += random_int(0, far ? 6 : 2);
      columns[t] = static_cast<int32_t>(at);
    }
    const int64_t span = columns[tokens - 1], stride = 2 * span + 1;
    Buffer<float> bias(heads * stride);
    for (int64_t j = 0; j < bias.size; ++j) bias[j] = random_float(3.0f);
    const int64_t before = far ? 900 : i % 3 == 2 ? random_int(0, 1 + span) : kEveryKey;
    const int64_t after = i % 5 == 4 ? 0 : i % 5 == 3 ? random_int(0, 1 + span) : before;
    const auto run = [&](Matrix& to, int32_t begin, int32_t end) {
      for (int64_t j = 0; j < scratch.size; ++j) scratch[j] = NAN;
      const AttentionArgs a = {qkv.get(),
                               qkv.ld,
                               to.get(),
                               to.ld,
                               tokens,
                               heads,
                               static_cast<int32_t>(d),
                               1.0f / std::sqrt(static_cast<float>(d)),
                               scratch.get(),
                               i % 2 ? bias.get() + span : nullptr,
                               stride,
                               before,
                               after,
                               gaps ? columns.get() : nullptr};
      t.attention(a, begin, end);
      return a;
    };
    const AttentionArgs a = run(out, 0, heads);
    const std::string what = "attention tokens=" + std::to_string(tokens) + " heads=" + std::to_string(heads) +
                             " head_dim=" + std::to_string(d);
    check(out.kept_the_rest(), t.isa, what + " wrote past the last column");
    for (int32_t h = 0; h < heads; ++h) {
      const HeadFactors factors(a, h, bf16);
      for (int64_t r = 0; r < tokens; ++r) {
        double magnitude;
        const std::vector<double> wanted = attended(a, factors, h, r, magnitude);
        // A score is off by roundings of its terms, and that much, relatively, is each weight. The weights of the bf16
        // kernels have 8 bits.
        const double limit =
            largest * ((bf16 ? 0x1p-9 : 0.0) + kUnit * (8 + std::sqrt(static_cast<double>(tokens)) + 4 * magnitude));
        for (int64_t j = 0; j < d; ++j)
          check(std::fabs(out(r, h * d + j) - wanted[j]) <= limit, t.isa, what + " is off");
      }
    }
    const auto middle = static_cast<int32_t>(random_int(0, heads));
    run(parts, middle, heads);
    for (int64_t r = 0; r < tokens; ++r)
      for (int64_t c = 0; c < middle * d; ++c)
        check(parts(r, c) == kUntouched, t.isa, what + " wrote to a head that is not its own");
    run(parts, 0, middle);
    check(parts.same_bits(out), t.isa, what + " in two parts");
  }
}

void check_rotate(const Kernels& t) {
  for (int64_t half = 1; half < 70; ++half) {
    const int64_t heads = random_int(0, 4);
    Buffer<float> x(heads * 2 * half), turned(heads * 2 * half), cosine(half), sine(half);
    for (int64_t i = 0; i < half; ++i) {
      const float angle = random_float(6.0f);
      cosine[i] = std::cos(angle), sine[i] = std::sin(angle);
    }
    for (int64_t i = 0; i < x.size; ++i) turned[i] = x[i] = random_float(4.0f);
    t.rotate(turned.get(), cosine.get(), sine.get(), half, heads);
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t i = 0; i < half; ++i) {
        const double a = x[2 * h * half + i], b = x[(2 * h + 1) * half + i], c = cosine[i], s = sine[i];
        const double limit = 2 * kUnit * (std::fabs(a) + std::fabs(b));
        const std::string what = "rotate half=" + std::to_string(half) + " is off";
        check(std::fabs(turned[2 * h * half + i] - (a * c - b * s)) <= limit, t.isa, what);
        check(std::fabs(turned[(2 * h + 1) * half + i] - (b * c + a * s)) <= limit, t.isa, what);
      }
    }
  }
}

namespace {

// Every activation over the whole range where it does something, times 1: close to double precision, and the bits of
// the reference.
void check_activations(const Kernels& t) {
  const float special[] = {0.0f, -0.0f, NAN, INFINITY, -INFINITY, 3e38f, -3e38f, 1e-40f};
  const int64_t specials = std::size(special), n = 8000 + specials;
  for (int32_t which = 0; which < 6; ++which) {
    const auto act = static_cast<Activation>(which);
    Matrix x(1, 2 * n, 0), y(1, 2 * n, 0), reference(1, 2 * n, 0);
    for (int64_t c = 0; c < n; ++c) {
      const int64_t i = c - specials;
      x(0, c) = i < 0 ? special[c] : i < 4000 ? random_float(100.0f) : random_float(10.0f);
      x(0, n + c) = 1.0f;
    }
    for (int64_t c = 0; c < 2 * n; ++c) y(0, c) = reference(0, c) = x(0, c);
    t.gate(y.get(), y.ld, 1, n, act);
    reference_kernels()->gate(reference.get(), reference.ld, 1, n, act);
    const std::string what = "activation " + std::to_string(which);
    check(y.same_bits(reference), t.isa, what + " differs from the reference");
    for (int64_t c = specials; c < n; ++c) {
      const double wanted = activation(act, x(0, c));
      check(std::fabs(y(0, c) - wanted) <= 1e-6 * (1 + std::fabs(wanted)), t.isa, what + " is off");
    }
  }
}

}  // namespace

void check_gate(const Kernels& t) {
  check_activations(t);
  for (int64_t n = 1; n < 80; ++n) {
    const int64_t rows = random_int(0, 4);
    Matrix x(rows, 2 * n, random_int(0, 3)), y(rows, 2 * n, x.ld - x.columns);
    x.randomize(5.0f, 0.0f);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < 2 * n; ++c) y(r, c) = x(r, c);
    t.gate(y.get(), y.ld, rows, n, Activation::silu);
    check(y.kept_the_rest(), t.isa, "gate wrote past the last column");
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < n; ++c) {
        const double v = x(r, c), wanted = v / (1 + std::exp(-v)) * x(r, n + c);
        const std::string what = "gate n=" + std::to_string(n);
        check(std::fabs(y(r, c) - wanted) <= 8 * kUnit * std::fabs(wanted), t.isa, what + " is off");
        check(y(r, n + c) == x(r, n + c), t.isa, what + " changed the gate itself");
      }
    }
  }
}

void check_add_scaled_int8(const Kernels& t) {
  for (int64_t n = 0; n < 300; ++n) {
    Buffer<int8_t> row(n);
    Buffer<float> out(n);
    const float scale = random_float(0.1f);
    std::vector<double> wanted(n), limit(n);
    for (int64_t i = 0; i < n; ++i) {
      row[i] = static_cast<int8_t>(random_int(-128, 127));
      out[i] = random_float(2.0f);
      const double product = double{scale} * row[i];
      wanted[i] = out[i] + product;
      // At most one rounding of each, fused or not.
      limit[i] = 1.0001 * kUnit * (std::fabs(product) + std::fabs(wanted[i]));
    }
    t.add_scaled_int8(row.get(), scale, n, out.get());
    for (int64_t i = 0; i < n; ++i)
      check(std::fabs(out[i] - wanted[i]) <= limit[i], t.isa, "add_scaled_int8 n=" + std::to_string(n) + " is off");
  }
}

}  // namespace harness
