// The network of engine/model.py, forward and backward by hand, one sample after another. docs/native.md explains it.
//
// All sizes come from the command line (-DWINDOW=252 ...), so that every loop has constant bounds. Signals are stored
// channels-last: with time as the row, the kernel*channels numbers that one output position sees are one contiguous
// run, and the output channels of a position are whole vectors. A sample's working set stays in the nearest caches.
//
// NaN: comparisons are written so that a NaN passes through ReLU and masks, as it does in torch. Pooling may drop one
// of two, but GroupNorm has spread it over the whole channel by then.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>

namespace {

#if defined(__AVX512F__)
constexpr int lanes = 16, accumulators = 24;
#elif defined(__AVX__)
constexpr int lanes = 8, accumulators = 12;
#elif defined(__aarch64__)
constexpr int lanes = 4, accumulators = 24;
#else
constexpr int lanes = 4, accumulators = 12;
#endif

#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif

// ---- vectors -------------------------------------------------------------------------------------------------------

template <int W>
struct Vector {
  typedef float type __attribute__((vector_size(4 * W), may_alias));
};
template <int W>
using vector = typename Vector<W>::type;

// Width of the vectors that carry n channels, and n rounded up to whole vectors. The channels added stay zero.
constexpr int width(int n) {
  int w = 4;
  while (w < n && w < lanes) w *= 2;
  return w;
}
constexpr int padded(int n) { return (n + width(n) - 1) / width(n) * width(n); }

template <int W>
vector<W> load(const float* from) {
  return *reinterpret_cast<const vector<W>*>(from);
}
template <int W>
void store(float* to, vector<W> value) {
  *reinterpret_cast<vector<W>*>(to) = value;
}
template <int W>
float lane_sum(vector<W> v) {
  float sums[W];
  std::memcpy(sums, &v, sizeof v);
  for (int half = W / 2; half > 0; half /= 2)
    for (int i = 0; i < half; i++) sums[i] += sums[i + half];
  return sums[0];
}

// ---- the product under all convolutions ----------------------------------------------------------------------------

// T rows and V vectors of columns of the product below; its sums stay in registers.
template <int T, int V, int R, int N, int AM, int AR, int SM>
inline void tile(const float* a, const float* b, const float* start, float* c) {
  constexpr int W = width(N);
  vector<W> sum[T][V] = {};
  for (int r = 0; r < R; r++) {
    vector<W> row[V];
    UNROLL for (int v = 0; v < V; v++) row[v] = load<W>(b + r * N + v * W);
    UNROLL for (int t = 0; t < T; t++) {
      UNROLL for (int v = 0; v < V; v++) sum[t][v] += a[t * AM + r * AR] * row[v];
    }
  }
  UNROLL for (int t = 0; t < T; t++) {
    UNROLL for (int v = 0; v < V; v++) {
      store<W>(c + t * N + v * W, load<W>(start + t * SM + v * W) + sum[t][v]);
    }
  }
}

template <int V, int M, int R, int N, int AM, int AR, int SM>
inline void rows(const float* a, const float* b, const float* start, float* c) {
  constexpr int tiles = (M + accumulators / V - 1) / (accumulators / V), T = M / tiles, larger = M % tiles;
  int m = 0;
  if constexpr (larger > 0)
    for (; m < larger * (T + 1); m += T + 1) tile<T + 1, V, R, N, AM, AR, SM>(a + m * AM, b, start + m * SM, c + m * N);
  for (; m < M; m += T) tile<T, V, R, N, AM, AR, SM>(a + m * AM, b, start + m * SM, c + m * N);
}

// c[m][n] = start[m*SM + n] + sum over r < R of a[m*AM + r*AR] * b[r][n], for m < M and n < N; N whole vectors.
// Every entry is summed in the same order, whichever tile it falls into: equal inputs give equal bits, ties stay ties.
template <int M, int R, int N, int AM, int AR, int SM>
void multiply(const float* a, const float* b, const float* start, float* c) {
  constexpr int W = width(N), vectors = N / W, V = vectors < 2 ? vectors : 2;
  for (int v = 0; v + V <= vectors; v += V) rows<V, M, R, N, AM, AR, SM>(a, b + v * W, start + v * W, c + v * W);
  constexpr int done = vectors / V * V * W;
  if constexpr (done < N) rows<1, M, R, N, AM, AR, SM>(a, b + done, start + done, c + done);
}

// ---- convolution, GroupNorm, ReLU, pooling -------------------------------------------------------------------------

// One convolution with its GroupNorm: IN positions of CIN channels -> L of COUT channels. Stride 2: the first.
template <int IN, int CIN, int COUT, int K, int STRIDE>
struct Layer {
  static constexpr int C = STRIDE == 2 ? CIN : padded(CIN), O = padded(COUT), W = width(COUT);
  static constexpr int pad = K / 2, L = (IN + 2 * pad - K) / STRIDE + 1, share = COUT / GROUPS;
  static_assert(IN >= 1 && L >= 1, "the window is too short for this network");
  static_assert(COUT % GROUPS == 0 && K % 2 == 1, "groups must divide the channels, kernels must be odd");
  using vec = vector<W>;

  struct alignas(64) Parameters {
    float weight[K * C * O], bias[O], scale[O], shift[O];
  };
  // The weights seen from the output, for the gradient of the input: kernel reversed, [kernel][out][in].
  struct alignas(64) Reversed {
    float weight[STRIDE == 2 ? 1 : K * O * C];
  };
  struct State {
    alignas(64) float input[(IN + 2 * pad) * C];  // its margins stay zero
    alignas(64) float normed[L * O];              // the convolution's output, then normalised
    alignas(64) float inverse[O];                 // 1 / standard deviation of the channel's group
    alignas(64) float delta[(L + 2 * pad) * O];   // gradient of that, first of what ReLU sees; its margins too
    alignas(64) float input_gradient[IN * C];
  };

  // Calls move(packed, flat) for each number in the order of the flat vector; returns the end of the layer there.
  template <class Packed, class Flat, class Move>
  static Flat* each(Packed& p, Flat* flat, Move move) {
    for (int c = 0; c < CIN; c++)
      for (int k = 0; k < K; k++)
        for (int o = 0; o < COUT; o++) move(p.weight[(k * C + c) * O + o], flat[(o * CIN + c) * K + k]);
    flat += COUT * CIN * K;
    for (auto* part : {p.bias, p.scale, p.shift})
      for (int o = 0; o < COUT; o++) move(part[o], *flat++);
    return flat;
  }

  static void reverse(const float* flat, Reversed& reversed) {
    if constexpr (STRIDE == 1)
      for (int o = 0; o < COUT; o++)
        for (int k = 0; k < K; k++)
          for (int c = 0; c < CIN; c++) reversed.weight[((K - 1 - k) * O + o) * C + c] = flat[(o * CIN + c) * K + k];
  }

  // Sum of term(l) over the positions, in four chains.
  template <class Term>
  static vec total(Term term) {
    vec sum[4] = {};
    int l = 0;
    for (; l + 4 <= L; l += 4)
      for (int i = 0; i < 4; i++) sum[i] += term(l + i);
    for (; l < L; l++) sum[0] += term(l);
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
  }

  // Replaces each channel's number by the mean over its group and all positions.
  static void group_mean(float* channel) {
    for (int g = 0; g < GROUPS; g++) {
      double sum = 0;
      for (int c = g * share; c < (g + 1) * share; c++) sum += channel[c];
      for (int c = g * share; c < (g + 1) * share; c++) channel[c] = float(sum / (share * L));
    }
  }

  // state.input -> state.normed
  static void forward(const Parameters& p, State& s) {
    multiply<L, K * C, O, STRIDE * C, 1, 0>(s.input, p.weight, p.bias, s.normed);
    alignas(64) float mean[O], rest[O], variance[O];
    for (int o = 0; o < O; o += W) store<W>(mean + o, total([&](int l) { return load<W>(s.normed + l * O + o); }));
    group_mean(mean);
    for (int o = 0; o < O; o += W) {
      const vec m = load<W>(mean + o);
      for (int l = 0; l < L; l++) store<W>(s.normed + l * O + o, load<W>(s.normed + l * O + o) - m);
      auto square = [&](int l) { return load<W>(s.normed + l * O + o) * load<W>(s.normed + l * O + o); };
      store<W>(variance + o, total(square));
      store<W>(rest + o, total([&](int l) { return load<W>(s.normed + l * O + o); }));
    }
    group_mean(variance);
    group_mean(rest);  // what rounding left of the mean, which a flat signal's small deviation would blow up
    for (int o = 0; o < COUT; o++) s.inverse[o] = 1 / std::sqrt(variance[o] + 1e-5f);
    for (int o = 0; o < O; o += W) {
      const vec inverse = load<W>(s.inverse + o), r = load<W>(rest + o);
      for (int l = 0; l < L; l++) store<W>(s.normed + l * O + o, (load<W>(s.normed + l * O + o) - r) * inverse);
    }
  }

  // state.delta, the gradient of what ReLU sees -> the parameters' gradients, added, and state.input_gradient.
  static void backward(const Parameters& p, const Reversed& reversed, State& s, Parameters& gradient) {
    float* const delta = s.delta + pad * O;
    alignas(64) float mean[O], slope[O];  // of the gradient of the normalised signal; its regression on that signal
    for (int o = 0; o < O; o += W) {
      const vec shift = total([&](int l) { return load<W>(delta + l * O + o); });
      const vec scale = total([&](int l) { return load<W>(delta + l * O + o) * load<W>(s.normed + l * O + o); });
      store<W>(gradient.shift + o, load<W>(gradient.shift + o) + shift);
      store<W>(gradient.scale + o, load<W>(gradient.scale + o) + scale);
      store<W>(mean + o, load<W>(p.scale + o) * shift);
      store<W>(slope + o, load<W>(p.scale + o) * scale);
    }
    group_mean(mean);
    group_mean(slope);
    for (int o = 0; o < O; o += W) {
      const vec inverse = load<W>(s.inverse + o), by = inverse * load<W>(p.scale + o);
      const vec off = inverse * load<W>(mean + o), along = inverse * load<W>(slope + o);
      const vec bias = total([&](int l) {
        const vec d = load<W>(delta + l * O + o) * by - load<W>(s.normed + l * O + o) * along - off;
        store<W>(delta + l * O + o, d);
        return d;
      });
      store<W>(gradient.bias + o, load<W>(gradient.bias + o) + bias);
    }
    multiply<K * C, L, O, 1, STRIDE * C, O>(s.input, delta, gradient.weight, gradient.weight);
    if constexpr (STRIDE == 1) {
      alignas(64) static constexpr float zero[C] = {};
      multiply<IN, K * O, C, O, 1, 0>(s.delta, reversed.weight, zero, s.input_gradient);
    }
  }

  // What ReLU sees at position l.
  static vec affine(const Parameters& p, const State& s, int l, int o) {
    return load<W>(s.normed + l * O + o) * load<W>(p.scale + o) + load<W>(p.shift + o);
  }

  // ReLU and the larger of each two positions.
  static void pool(const Parameters& p, const State& s, float* out) {
    for (int l = 0; l < L / 2; l++)
      for (int o = 0; o < O; o += W) {
        const vec first = affine(p, s, 2 * l, o), second = affine(p, s, 2 * l + 1, o);
        const vec larger = second > first ? second : first;
        store<W>(out + l * O + o, larger < 0 ? vec{} : larger);
      }
  }
  static void unpool(const Parameters& p, State& s, const float* upstream) {
    float* const delta = s.delta + pad * O;
    for (int l = 0; l < L / 2; l++)
      for (int o = 0; o < O; o += W) {
        const vec first = affine(p, s, 2 * l, o), second = affine(p, s, 2 * l + 1, o);
        const vec larger = second > first ? second : first;
        const vec g = larger <= 0 ? vec{} : load<W>(upstream + l * O + o);
        store<W>(delta + 2 * l * O + o, second > first ? vec{} : g);  // of equal ones the first gets all
        store<W>(delta + (2 * l + 1) * O + o, second > first ? g : vec{});
      }
    if constexpr (L % 2) std::memset(delta + (L - 1) * O, 0, O * sizeof(float));
  }

  // ReLU and the mean over each of POOLED stretches, which overlap where POOLED does not divide L.
  static void average(const Parameters& p, const State& s, float* out) {
    for (int part = 0; part < POOLED; part++) {
      const int begin = part * L / POOLED, end = ((part + 1) * L + POOLED - 1) / POOLED;
      for (int o = 0; o < O; o += W) {
        vec sum = {};
        for (int l = begin; l < end; l++) {
          const vec a = affine(p, s, l, o);
          sum += a < 0 ? vec{} : a;
        }
        sum /= float(end - begin);
        for (int i = 0; i < W && o + i < COUT; i++) out[(o + i) * POOLED + part] = sum[i];
      }
    }
  }
  static void unaverage(const Parameters& p, State& s, const float* upstream) {
    float* const delta = s.delta + pad * O;
    std::memset(delta, 0, L * O * sizeof(float));
    for (int part = 0; part < POOLED; part++) {
      const int begin = part * L / POOLED, end = ((part + 1) * L + POOLED - 1) / POOLED;
      for (int o = 0; o < O; o += W) {
        vec g = {};
        for (int i = 0; i < W && o + i < COUT; i++) g[i] = upstream[(o + i) * POOLED + part];
        g /= float(end - begin);
        for (int l = begin; l < end; l++) {
          const vec d = load<W>(delta + l * O + o);
          store<W>(delta + l * O + o, affine(p, s, l, o) <= 0 ? d : d + g);
        }
      }
    }
  }
};

// ---- linear --------------------------------------------------------------------------------------------------------

template <int IN, int OUT>
struct Linear {
  static constexpr int I = padded(IN), W = width(IN);
  struct alignas(64) Parameters {
    float weight[OUT * I], bias[OUT];
  };
  template <class Packed, class Flat, class Move>
  static Flat* each(Packed& p, Flat* flat, Move move) {
    for (int o = 0; o < OUT; o++)
      for (int i = 0; i < IN; i++) move(p.weight[o * I + i], *flat++);
    for (int o = 0; o < OUT; o++) move(p.bias[o], *flat++);
    return flat;
  }
  static void forward(const Parameters& p, const float* in, float* out) {
    for (int o = 0; o < OUT; o++) {
      vector<W> sum = {};
      for (int i = 0; i < I; i += W) sum += load<W>(p.weight + o * I + i) * load<W>(in + i);
      out[o] = p.bias[o] + lane_sum<W>(sum);
    }
  }
  static void backward(const Parameters& p, const float* in, const float* delta, Parameters& gradient,
                       float* in_gradient) {
    alignas(64) static constexpr float zero[I] = {};
    multiply<OUT, 1, I, 1, 1, I>(delta, in, gradient.weight, gradient.weight);
    multiply<1, OUT, I, 1, 1, 0>(delta, p.weight, zero, in_gradient);
    for (int o = 0; o < OUT; o++) gradient.bias[o] += delta[o];
  }
};

// ---- the network ---------------------------------------------------------------------------------------------------

using First = Layer<WINDOW, LEADS, CHANNELS1, KERNEL1, 2>;
using Second = Layer<First::L / 2, CHANNELS1, CHANNELS2, KERNEL2, 1>;
using Third = Layer<Second::L / 2, CHANNELS2, CHANNELS3, KERNEL3, 1>;
constexpr int pooled = CHANNELS3 * POOLED;
using Hidden = Linear<pooled + RR, HIDDEN>;
using Head = Linear<HIDDEN, CLASSES>;

struct Parameters {
  First::Parameters first;
  Second::Parameters second;
  Third::Parameters third;
  Hidden::Parameters hidden;
  Head::Parameters head;

  template <class Packed, class Flat, class Move>
  static void each(Packed& p, Flat* flat, Move move) {
    flat = Third::each(p.third, Second::each(p.second, First::each(p.first, flat, move), move), move);
    Head::each(p.head, Hidden::each(p.hidden, flat, move), move);
  }
};
constexpr int packed_size = sizeof(Parameters) / sizeof(float);

// All that a call works on. One per thread, made at the thread's first call; what it does not write stays zero.
struct Workspace {
  Parameters weights, gradient, sum;
  First::Reversed unused;
  Second::Reversed second_reversed;
  Third::Reversed third_reversed;
  First::State first;
  Second::State second;
  Third::State third;
  alignas(64) float joined[Hidden::I], joined_gradient[Hidden::I], hidden[Head::I], hidden_gradient[Head::I];
  alignas(64) float logits[CLASSES], logits_gradient[CLASSES];

  void take(const float* params, bool gradients) {
    Parameters::each(weights, params, [](float& packed, float flat) { packed = flat; });
    if (!gradients) return;
    const float* second_weight = params + CHANNELS1 * (LEADS * KERNEL1 + 3);
    Second::reverse(second_weight, second_reversed);
    Third::reverse(second_weight + CHANNELS2 * (CHANNELS1 * KERNEL2 + 3), third_reversed);
  }

  void forward(const float* x, const float* rr) {
    float* const input = first.input + First::pad * LEADS;  // x has a row for each lead
    for (int lead = 0; lead < LEADS; lead++)
      for (int t = 0; t < WINDOW; t++) input[t * LEADS + lead] = x[lead * WINDOW + t];
    First::forward(weights.first, first);
    First::pool(weights.first, first, second.input + Second::pad * Second::C);
    Second::forward(weights.second, second);
    Second::pool(weights.second, second, third.input + Third::pad * Third::C);
    Third::forward(weights.third, third);
    Third::average(weights.third, third, joined);
    for (int i = 0; i < RR; i++) joined[pooled + i] = rr[i];
    Hidden::forward(weights.hidden, joined, hidden);
    for (int i = 0; i < HIDDEN; i++) hidden[i] = hidden[i] < 0 ? 0 : hidden[i];
    Head::forward(weights.head, hidden, logits);
  }

  // Cross-entropy of the sample that went forward; leaves `scale` times its gradient in logits_gradient.
  double loss(int label, float scale) {
    double largest = logits[0], total = 0;
    for (int i = 1; i < CLASSES; i++) largest = logits[i] > largest ? logits[i] : largest;
    for (int i = 0; i < CLASSES; i++) total += std::exp(logits[i] - largest);
    for (int i = 0; i < CLASSES; i++)
      logits_gradient[i] = float(scale * (std::exp(logits[i] - largest) / total - (i == label)));
    return std::log(total) - (logits[label] - largest);
  }

  // Adds what logits_gradient makes of the parameters to `gradient`.
  void backward() {
    Head::backward(weights.head, hidden, logits_gradient, gradient.head, hidden_gradient);
    for (int i = 0; i < HIDDEN; i++) hidden_gradient[i] = hidden[i] <= 0 ? 0 : hidden_gradient[i];
    Hidden::backward(weights.hidden, joined, hidden_gradient, gradient.hidden, joined_gradient);
    Third::unaverage(weights.third, third, joined_gradient);
    Third::backward(weights.third, third_reversed, third, gradient.third);
    Second::unpool(weights.second, second, third.input_gradient);
    Second::backward(weights.second, second_reversed, second, gradient.second);
    First::unpool(weights.first, first, second.input_gradient);
    First::backward(weights.first, unused, first, gradient.first);
  }
};

Workspace& workspace() {
  static thread_local Workspace work;
  return work;
}

void give(const Parameters& packed, float* flat) {
  Parameters::each(packed, flat, [](float packed, float& flat) { flat = packed; });
}

}  // namespace

// ---- what Python calls; labels must lie in 0..CLASSES-1 ------------------------------------------------------------

// Returns the mean over n > 0 samples of scale[i] * loss_i (scale null: 1) and writes its gradient. The loss is that of
// the logits plus offset[class] (offset null: 0).
extern "C" double loss_gradient(const float* params, const float* x, const float* rr, const int32_t* y, int64_t n,
                                float* gradient, const float* scale, const float* offset) {
  Workspace& work = workspace();
  work.take(params, true);
  std::memset(&work.gradient, 0, sizeof work.gradient);
  double loss = 0;
  for (int64_t i = 0; i < n; i++) {
    const double by = (scale ? scale[i] : 1.0) / double(n);
    work.forward(x + i * LEADS * WINDOW, rr + i * RR);
    if (offset)
      for (int c = 0; c < CLASSES; c++) work.logits[c] += offset[c];
    loss += by * work.loss(y[i], float(by));
    work.backward();
  }
  give(work.gradient, gradient);
  return loss;
}

// Writes the sum over the samples of gradient_i * min(1, clip / norm_i), the loss of sample i times scale[i] (scale null:
// 1). A gradient that is not finite counts zero. counts: how many were longer than clip, how many not finite.
extern "C" void clipped_gradient(const float* params, const float* x, const float* rr, const int32_t* y, int64_t n,
                                 double clip, float* sum, const float* scale, int64_t* counts) {
  Workspace& work = workspace();
  work.take(params, true);
  std::memset(&work.sum, 0, sizeof work.sum);
  counts[0] = counts[1] = 0;
  const float* const gradient = reinterpret_cast<const float*>(&work.gradient);
  float* const total = reinterpret_cast<float*>(&work.sum);
  for (int64_t i = 0; i < n; i++) {
    std::memset(&work.gradient, 0, sizeof work.gradient);
    work.forward(x + i * LEADS * WINDOW, rr + i * RR);
    work.loss(y[i], scale ? scale[i] : 1);
    work.backward();
    vector<lanes> squares[4] = {};
    static_assert(packed_size % 16 == 0, "a struct aligned to 64 bytes is whole vectors");
    for (int j = 0; j < packed_size; j += lanes) {
      const vector<lanes> g = load<lanes>(gradient + j);
      squares[j / lanes % 4] += g * g;
    }
    const double norm = std::sqrt(lane_sum<lanes>((squares[0] + squares[1]) + (squares[2] + squares[3])));
    if (!std::isfinite(norm)) {
      counts[1]++;
      continue;
    }
    counts[0] += norm > clip;
    const float by = norm <= clip ? 1.0f : float(clip / norm);
    for (int j = 0; j < packed_size; j++) total[j] += by * gradient[j];
  }
  give(work.sum, sum);
}

// Writes the logits of n samples.
extern "C" void scores(const float* params, const float* x, const float* rr, int64_t n, float* logits) {
  Workspace& work = workspace();
  work.take(params, false);
  for (int64_t i = 0; i < n; i++) {
    work.forward(x + i * LEADS * WINDOW, rr + i * RR);
    std::memcpy(logits + i * CLASSES, work.logits, sizeof work.logits);
  }
}
