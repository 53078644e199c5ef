// The `features` network of engine/model.py: frozen random ReLU features of a beat, scaled to length one, and a linear head.
//
// All sizes come from the command line (-DINPUTS=256 ...). Features are computed for a few beats at a time, so that the frozen
// weights, [inputs][features], are read once for all of them; each beat's sums are taken in the same order whatever stands beside
// it. The gradient of the head is the outer product of error and features, so its norm is the product of theirs.

#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

constexpr int lanes = 16, together = 6, span = 2 * lanes;
constexpr int padded = (FEATURES + span - 1) / span * span;
typedef float vec __attribute__((vector_size(4 * lanes), aligned(4)));

vec load(const float* from) {
  vec v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
void store(float* to, vec v) { std::memcpy(to, &v, sizeof v); }
float total(vec v) {
  float sum = 0;
  for (int i = 0; i < lanes; i++) sum += v[i];
  return sum;
}

struct Workspace {
  alignas(64) float features[together][padded];
  alignas(64) float head[CLASSES][padded];
  alignas(64) float gradient[CLASSES][padded];
  float bias[CLASSES], bias_gradient[CLASSES], logits[together][CLASSES], error[CLASSES];
  double norm2[together];

  void take(const float* params) {
    std::memset(head, 0, sizeof head);
    for (int c = 0; c < CLASSES; c++) std::memcpy(head[c], params + c * FEATURES, FEATURES * sizeof(float));
    std::memcpy(bias, params + CLASSES * FEATURES, sizeof bias);
    std::memset(gradient, 0, sizeof gradient);
    std::memset(bias_gradient, 0, sizeof bias_gradient);
  }

  // Features and logits of `many` beats. frozen: [INPUTS + 1][padded], the last row is added; `margin` columns are zero.
  void forward(const float* frozen, const float* x, const float* rr, int many) {
    constexpr int signal = INPUTS - RR;
    const float* in[together];
    for (int b = 0; b < together; b++) in[b] = b < many ? x + b * signal : x;
    for (int f = 0; f < padded; f += span) {
      vec sum[together][2];
      for (int b = 0; b < together; b++)
        for (int v = 0; v < 2; v++) sum[b][v] = load(frozen + INPUTS * padded + f + v * lanes);
      for (int i = 0; i < INPUTS; i++) {
        const vec first = load(frozen + i * padded + f), second = load(frozen + i * padded + f + lanes);
        for (int b = 0; b < together; b++) {
          const float value = i < signal ? in[b][i] : rr[(b < many ? b : 0) * RR + i - signal];
          sum[b][0] += value * first;
          sum[b][1] += value * second;
        }
      }
      for (int b = 0; b < many; b++)
        for (int v = 0; v < 2; v++) store(features[b] + f + v * lanes, sum[b][v]);
    }
    for (int b = 0; b < many; b++) scale(b);
  }

  // ReLU, minus the mean over the features, over the length: every beat's features have length one.
  void scale(int b) {
    float* const z = features[b];
    double sum = 0, square = 0;
    for (int f = 0; f < FEATURES; f++) {
      z[f] = z[f] < 0 ? 0 : z[f];  // a NaN stays one
      sum += z[f];
    }
    const float mean = float(sum / FEATURES);
    for (int f = 0; f < FEATURES; f++) {
      z[f] -= mean;
      square += double(z[f]) * z[f];
    }
    const float by = float(1 / std::sqrt(square + 1e-12));
    for (int f = 0; f < FEATURES; f++) z[f] *= by;
    for (int f = FEATURES; f < padded; f++) z[f] = 0;
    vec length = {}, sums[CLASSES] = {};
    for (int f = 0; f < padded; f += lanes) {
      const vec here = load(z + f);
      length += here * here;
      for (int c = 0; c < CLASSES; c++) sums[c] += here * load(head[c] + f);
    }
    norm2[b] = total(length);
    for (int c = 0; c < CLASSES; c++) logits[b][c] = bias[c] + total(sums[c]);
  }

  // Cross-entropy of beat b; leaves `by` times its gradient by the logits in `error`.
  double loss(int b, int label, double by) {
    const float* const l = logits[b];
    double largest = l[0], sum = 0;
    for (int c = 1; c < CLASSES; c++) largest = l[c] > largest ? l[c] : largest;
    for (int c = 0; c < CLASSES; c++) sum += std::exp(l[c] - largest);
    for (int c = 0; c < CLASSES; c++) error[c] = float(by * (std::exp(l[c] - largest) / sum - (c == label)));
    return std::log(sum) - (l[label] - largest);
  }

  void add(int b, float by) {
    for (int c = 0; c < CLASSES; c++) {
      const float e = by * error[c];
      bias_gradient[c] += e;
      for (int f = 0; f < padded; f += lanes)
        store(gradient[c] + f, load(gradient[c] + f) + e * load(features[b] + f));
    }
  }

  void give(float* flat) const {
    for (int c = 0; c < CLASSES; c++) std::memcpy(flat + c * FEATURES, gradient[c], FEATURES * sizeof(float));
    std::memcpy(flat + CLASSES * FEATURES, bias_gradient, sizeof bias_gradient);
  }
};

Workspace& workspace() {
  static thread_local Workspace work;
  return work;
}

// Calls each(position, place in the workspace) for all beats, a few at a time.
template <class Each>
void all(Workspace& work, const float* frozen, const float* x, const float* rr, int64_t n, Each each) {
  for (int64_t i = 0; i < n; i += together) {
    const int many = n - i < together ? int(n - i) : together;
    work.forward(frozen, x + i * (INPUTS - RR), rr + i * RR, many);
    for (int b = 0; b < many; b++) each(i + b, b);
  }
}

}  // namespace

// As of native.cpp, with the frozen weights first.
extern "C" int features_padded() { return padded; }

extern "C" double loss_gradient(const float* frozen, const float* params, const float* x, const float* rr, const int32_t* y,
                                int64_t n, float* gradient, const float* scale, const float* offset) {
  Workspace& work = workspace();
  work.take(params);
  double loss = 0;
  all(work, frozen, x, rr, n, [&](int64_t i, int b) {
    const double by = (scale ? scale[i] : 1.0) / double(n);
    if (offset)
      for (int c = 0; c < CLASSES; c++) work.logits[b][c] += offset[c];
    loss += by * work.loss(b, y[i], by);
    work.add(b, 1);
  });
  work.give(gradient);
  return loss;
}

extern "C" void clipped_gradient(const float* frozen, const float* params, const float* x, const float* rr,
                                 const int32_t* y, int64_t n, double clip, float* sum, const float* scale,
                                 int64_t* counts) {
  Workspace& work = workspace();
  work.take(params);
  counts[0] = counts[1] = 0;
  all(work, frozen, x, rr, n, [&](int64_t i, int b) {
    work.loss(b, y[i], scale ? scale[i] : 1);
    double square = 0;
    for (int c = 0; c < CLASSES; c++) square += double(work.error[c]) * work.error[c];
    const double norm = std::sqrt(square * (work.norm2[b] + 1));
    if (!std::isfinite(norm)) {
      counts[1]++;
      return;
    }
    counts[0] += norm > clip;
    work.add(b, norm <= clip ? 1.0f : float(clip / norm));
  });
  work.give(sum);
}

extern "C" void scores(const float* frozen, const float* params, const float* x, const float* rr, int64_t n,
                       float* logits) {
  Workspace& work = workspace();
  work.take(params);
  all(work, frozen, x, rr, n,
      [&](int64_t i, int b) { std::memcpy(logits + i * CLASSES, work.logits[b], sizeof work.logits[b]); });
}
