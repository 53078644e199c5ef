// The product of the loss's Hessian and a vector for the network of native.cpp, exact up to rounding, by forward over
// reverse (Pearlmutter 1994): every number of the forward and the backward pass gets a tangent, which says how it changes
// as the parameters move along the vector. The tangent of the gradient is the product. Eight products of the size of a
// convolution instead of a gradient's three; ReLU and maximum have no second derivative, so their choices stay.

#include <type_traits>

#include "native.cpp"

namespace {

// The tangent of a layer; t is a State whose numbers are the tangents of those of s, and whose `inverse` holds that of
// 1 / deviation over 1 / deviation.
template <class La, class First>
struct Moved {
  using P = typename La::Parameters;
  using S = typename La::State;
  using vec = typename La::vec;
  static constexpr int W = La::W, O = La::O, C = La::C, L = La::L, pad = La::pad;
  static constexpr bool first = std::is_same<La, First>::value;  // what it sees does not move
  // kernel x in of one position
  static constexpr int seen = sizeof(P::weight) / sizeof(float) / O, stride = first ? 2 : 1;

  static void forward(const P& p, const P& v, const S& s, S& t) {
    multiply<L, seen, O, stride * C, 1, 0>(s.input, v.weight, v.bias, t.normed);
    if constexpr (!first) multiply<L, seen, O, stride * C, 1, O>(t.input, p.weight, t.normed, t.normed);
    alignas(64) float mean[O], along[O];
    for (int o = 0; o < O; o += W)
      store<W>(mean + o, La::total([&](int l) { return load<W>(t.normed + l * O + o); }));
    La::group_mean(mean);
    for (int o = 0; o < O; o += W) {
      const vec m = load<W>(mean + o);
      for (int l = 0; l < L; l++) store<W>(t.normed + l * O + o, load<W>(t.normed + l * O + o) - m);
      store<W>(along + o,
               La::total([&](int l) { return load<W>(t.normed + l * O + o) * load<W>(s.normed + l * O + o); }));
    }
    La::group_mean(along);
    for (int o = 0; o < O; o += W) {
      const vec inverse = load<W>(s.inverse + o), a = load<W>(along + o);
      store<W>(t.inverse + o, -inverse * a);
      for (int l = 0; l < L; l++)
        store<W>(t.normed + l * O + o, inverse * (load<W>(t.normed + l * O + o) - load<W>(s.normed + l * O + o) * a));
    }
  }

  // Tangent of what ReLU sees at position l.
  static vec affine(const P& p, const P& v, const S& s, const S& t, int l, int o) {
    return load<W>(t.normed + l * O + o) * load<W>(p.scale + o) + load<W>(s.normed + l * O + o) * load<W>(v.scale + o) +
           load<W>(v.shift + o);
  }

  static void pool(const P& p, const P& v, const S& s, const S& t, float* out) {
    for (int l = 0; l < L / 2; l++)
      for (int o = 0; o < O; o += W) {
        const vec one = La::affine(p, s, 2 * l, o), two = La::affine(p, s, 2 * l + 1, o);
        const vec larger = two > one ? two : one;
        const vec moved = two > one ? affine(p, v, s, t, 2 * l + 1, o) : affine(p, v, s, t, 2 * l, o);
        store<W>(out + l * O + o, larger <= 0 ? vec{} : moved);
      }
  }
  static void unpool(const P& p, const S& s, S& t, const float* upstream) {
    float* const delta = t.delta + pad * O;
    for (int l = 0; l < L / 2; l++)
      for (int o = 0; o < O; o += W) {
        const vec one = La::affine(p, s, 2 * l, o), two = La::affine(p, s, 2 * l + 1, o);
        const vec larger = two > one ? two : one;
        const vec g = larger <= 0 ? vec{} : load<W>(upstream + l * O + o);
        store<W>(delta + 2 * l * O + o, two > one ? vec{} : g);
        store<W>(delta + (2 * l + 1) * O + o, two > one ? g : vec{});
      }
    if constexpr (L % 2) std::memset(delta + (L - 1) * O, 0, O * sizeof(float));
  }

  static void average(const P& p, const P& v, const S& s, const S& t, float* out) {
    for (int part = 0; part < POOLED; part++) {
      const int begin = part * L / POOLED, end = ((part + 1) * L + POOLED - 1) / POOLED;
      for (int o = 0; o < O; o += W) {
        vec sum = {};
        for (int l = begin; l < end; l++) sum += La::affine(p, s, l, o) <= 0 ? vec{} : affine(p, v, s, t, l, o);
        sum /= float(end - begin);
        for (int i = 0; i < W && o + i < CHANNELS3; i++) out[(o + i) * POOLED + part] = sum[i];
      }
    }
  }
  static void unaverage(const P& p, const S& s, S& t, const float* upstream) {
    float* const delta = t.delta + pad * O;
    std::memset(delta, 0, L * O * sizeof(float));
    for (int part = 0; part < POOLED; part++) {
      const int begin = part * L / POOLED, end = ((part + 1) * L + POOLED - 1) / POOLED;
      for (int o = 0; o < O; o += W) {
        vec g = {};
        for (int i = 0; i < W && o + i < CHANNELS3; i++) g[i] = upstream[(o + i) * POOLED + part];
        g /= float(end - begin);
        for (int l = begin; l < end; l++) {
          const vec d = load<W>(delta + l * O + o);
          store<W>(delta + l * O + o, La::affine(p, s, l, o) <= 0 ? d : d + g);
        }
      }
    }
  }

  // s.delta and t.delta, gradients of what ReLU sees -> tangents of the parameters' gradients, added to `product`.
  template <class Reversed>
  static void backward(const P& p, const P& v, const Reversed& reversed, const Reversed& moved, S& s, S& t, P& product) {
    float *const delta = s.delta + pad * O, *const change = t.delta + pad * O;
    alignas(64) float mean[O], slope[O], mean_change[O], slope_change[O];
    for (int o = 0; o < O; o += W) {
      auto d = [&](int l) { return load<W>(delta + l * O + o); };
      auto dd = [&](int l) { return load<W>(change + l * O + o); };
      auto n = [&](int l) { return load<W>(s.normed + l * O + o); };
      auto dn = [&](int l) { return load<W>(t.normed + l * O + o); };
      const vec shift = La::total(d), scale = La::total([&](int l) { return d(l) * n(l); });
      const vec shift_change = La::total(dd);
      const vec scale_change = La::total([&](int l) { return dd(l) * n(l) + d(l) * dn(l); });
      store<W>(product.shift + o, load<W>(product.shift + o) + shift_change);
      store<W>(product.scale + o, load<W>(product.scale + o) + scale_change);
      const vec by = load<W>(p.scale + o), by_change = load<W>(v.scale + o);
      store<W>(mean + o, by * shift);
      store<W>(slope + o, by * scale);
      store<W>(mean_change + o, by * shift_change + by_change * shift);
      store<W>(slope_change + o, by * scale_change + by_change * scale);
    }
    for (float* channel : {mean, slope, mean_change, slope_change}) La::group_mean(channel);
    for (int o = 0; o < O; o += W) {
      const vec inverse = load<W>(s.inverse + o), ratio = load<W>(t.inverse + o);
      const vec by = load<W>(p.scale + o), by_change = load<W>(v.scale + o);
      const vec m = load<W>(mean + o), a = load<W>(slope + o);
      const vec mc = load<W>(mean_change + o), ac = load<W>(slope_change + o);
      const vec bias = La::total([&](int l) {
        const vec d = load<W>(delta + l * O + o), dd = load<W>(change + l * O + o);
        const vec n = load<W>(s.normed + l * O + o), dn = load<W>(t.normed + l * O + o);
        const vec z = inverse * (d * by - m - n * a);
        const vec dz = ratio * z + inverse * (dd * by + d * by_change - mc - dn * a - n * ac);
        store<W>(delta + l * O + o, z);
        store<W>(change + l * O + o, dz);
        return dz;
      });
      store<W>(product.bias + o, load<W>(product.bias + o) + bias);
    }
    multiply<seen, L, O, 1, stride * C, O>(s.input, change, product.weight, product.weight);
    if constexpr (!first) {
      constexpr int IN = sizeof(s.input_gradient) / sizeof(float) / C, back = sizeof(reversed.weight) / sizeof(float) / C;
      alignas(64) static constexpr float zero[C] = {};
      multiply<seen, L, O, 1, stride * C, O>(t.input, delta, product.weight, product.weight);
      multiply<IN, back, C, O, 1, 0>(s.delta, reversed.weight, zero, s.input_gradient);
      multiply<IN, back, C, O, 1, 0>(t.delta, reversed.weight, zero, t.input_gradient);
      multiply<IN, back, C, O, 1, C>(s.delta, moved.weight, t.input_gradient, t.input_gradient);
    }
  }
};

template <class Li, int OUT>
struct MovedLinear {
  using P = typename Li::Parameters;
  static constexpr int I = Li::I, W = Li::W;

  static void forward(const P& p, const P& v, const float* in, const float* in_change, float* out) {
    for (int o = 0; o < OUT; o++) {
      vector<W> sum = {};
      for (int i = 0; i < I; i += W)
        sum += load<W>(v.weight + o * I + i) * load<W>(in + i) + load<W>(p.weight + o * I + i) * load<W>(in_change + i);
      out[o] = v.bias[o] + lane_sum<W>(sum);
    }
  }
  static void backward(const P& p, const P& v, const float* in, const float* in_change, const float* delta,
                       const float* change, P& product, float* gradient, float* gradient_change) {
    alignas(64) static constexpr float zero[I] = {};
    multiply<OUT, 1, I, 1, 1, I>(change, in, product.weight, product.weight);
    multiply<OUT, 1, I, 1, 1, I>(delta, in_change, product.weight, product.weight);
    for (int o = 0; o < OUT; o++) product.bias[o] += change[o];
    multiply<1, OUT, I, 1, 1, 0>(delta, p.weight, zero, gradient);
    multiply<1, OUT, I, 1, 1, 0>(change, p.weight, zero, gradient_change);
    multiply<1, OUT, I, 1, 1, I>(delta, v.weight, gradient_change, gradient_change);
  }
};

using Moved1 = Moved<First, First>;
using Moved2 = Moved<Second, First>;
using Moved3 = Moved<Third, First>;
using MovedHidden = MovedLinear<Hidden, HIDDEN>;
using MovedHead = MovedLinear<Head, CLASSES>;

// All that a product works on, beside the Workspace of the pass that it follows; zero where nothing is written.
struct Tangents {
  Parameters direction, product;
  First::Reversed unused;
  Second::Reversed second_reversed;
  Third::Reversed third_reversed;
  First::State first;
  Second::State second;
  Third::State third;
  alignas(64) float joined[Hidden::I], joined_gradient[Hidden::I], hidden[Head::I], hidden_gradient[Head::I];
  alignas(64) float logits[CLASSES], logits_gradient[CLASSES];

  void take(const float* vector) {
    Parameters::each(direction, vector, [](float& packed, float flat) { packed = flat; });
    const float* second_weight = vector + CHANNELS1 * (LEADS * KERNEL1 + 3);
    Second::reverse(second_weight, second_reversed);
    Third::reverse(second_weight + CHANNELS2 * (CHANNELS1 * KERNEL2 + 3), third_reversed);
    std::memset(&product, 0, sizeof product);
  }

  void forward(const Workspace& w) {
    const Parameters &p = w.weights, &v = direction;
    Moved1::forward(p.first, v.first, w.first, first);
    Moved1::pool(p.first, v.first, w.first, first, second.input + Second::pad * Second::C);
    Moved2::forward(p.second, v.second, w.second, second);
    Moved2::pool(p.second, v.second, w.second, second, third.input + Third::pad * Third::C);
    Moved3::forward(p.third, v.third, w.third, third);
    Moved3::average(p.third, v.third, w.third, third, joined);
    MovedHidden::forward(p.hidden, v.hidden, w.joined, joined, hidden);
    for (int i = 0; i < HIDDEN; i++) hidden[i] = w.hidden[i] <= 0 ? 0 : hidden[i];
    MovedHead::forward(p.head, v.head, w.hidden, hidden, logits);
  }

  // Of the gradient that `loss` has left, scale (p - 1 at the label): p_i (change_i - mean change under p).
  void loss(const Workspace& w, float scale) {
    double largest = w.logits[0], total = 0, mean = 0, p[CLASSES];
    for (int i = 1; i < CLASSES; i++) largest = w.logits[i] > largest ? w.logits[i] : largest;
    for (int i = 0; i < CLASSES; i++) total += p[i] = std::exp(w.logits[i] - largest);
    for (int i = 0; i < CLASSES; i++) mean += (p[i] /= total) * logits[i];
    for (int i = 0; i < CLASSES; i++) logits_gradient[i] = float(scale * p[i] * (logits[i] - mean));
  }

  void backward(Workspace& w) {
    const Parameters &p = w.weights, &v = direction;
    MovedHead::backward(p.head, v.head, w.hidden, hidden, w.logits_gradient, logits_gradient, product.head,
                        w.hidden_gradient, hidden_gradient);
    for (int i = 0; i < HIDDEN; i++)
      if (w.hidden[i] <= 0) w.hidden_gradient[i] = hidden_gradient[i] = 0;
    MovedHidden::backward(p.hidden, v.hidden, w.joined, joined, w.hidden_gradient, hidden_gradient, product.hidden,
                          w.joined_gradient, joined_gradient);
    Third::unaverage(p.third, w.third, w.joined_gradient);
    Moved3::unaverage(p.third, w.third, third, joined_gradient);
    Moved3::backward(p.third, v.third, w.third_reversed, third_reversed, w.third, third, product.third);
    Second::unpool(p.second, w.second, w.third.input_gradient);
    Moved2::unpool(p.second, w.second, second, third.input_gradient);
    Moved2::backward(p.second, v.second, w.second_reversed, second_reversed, w.second, second, product.second);
    First::unpool(p.first, w.first, w.second.input_gradient);
    Moved1::unpool(p.first, w.first, first, second.input_gradient);
    Moved1::backward(p.first, v.first, w.unused, unused, w.first, first, product.first);
  }
};

Tangents& tangents() {
  static thread_local Tangents work;
  return work;
}

}  // namespace

// Writes the product of `vector` and the Hessian of the loss of `loss_gradient`; arguments are as there.
extern "C" void hessian_vector(const float* params, const float* x, const float* rr, const int32_t* y, int64_t n,
                               const float* vector, float* product, const float* scale, const float* offset) {
  Workspace& work = workspace();
  Tangents& moved = tangents();
  work.take(params, true);
  moved.take(vector);
  for (int64_t i = 0; i < n; i++) {
    const double by = (scale ? scale[i] : 1.0) / double(n);
    work.forward(x + i * LEADS * WINDOW, rr + i * RR);
    moved.forward(work);
    if (offset)
      for (int c = 0; c < CLASSES; c++) work.logits[c] += offset[c];
    work.loss(y[i], float(by));
    moved.loss(work, float(by));
    moved.backward(work);
  }
  give(moved.product, product);
}
