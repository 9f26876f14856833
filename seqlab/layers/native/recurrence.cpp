// LSTM, GRU and tanh over a whole time-major batch: the loops of seqlab/layers/recurrent/loop.py in machine code.
//
// A step of a recurrence is one product of its rows with the recurrent weights and a few elementwise operations, and
// everything waits for it. Here each thread owns some of the hidden units in all steps. It packs its part of the weights
// once, so that they stay in its cache; in a step it multiplies a block of rows by a panel of them in registers, applies
// the cell's equation to the sums right there, and waits for the other threads, once.
//
// Rows are those of the time-major batch (seqlab/ragged.py): step s is the rows starts[s] ... starts[s] + widths[s], and
// row number `lane` of every step belongs to the same sequence, whose initial and final states are rows `lane` too.
//
// The equations stand in seqlab/layers/recurrent/cells.py, that of `scan` in minimal.py; tests hold both equal, in float
// and, with finite differences, in double.

#include "vector.h"

#include <atomic>
#include <memory>
#include <omp.h>
#include <sched.h>
#include <vector>

namespace {

// All threads leave `wait` when the last has come. They spin, for a step takes microseconds, and yield when it does not.
class Barrier {
  public:
    void wait(int threads) {
        const int round = rounds.load(std::memory_order_relaxed);
        if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == threads) {
            arrived.store(0, std::memory_order_relaxed);
            rounds.store(round + 1, std::memory_order_release);
        } else {
            for (int spins = 0; rounds.load(std::memory_order_acquire) == round; ++spins)
                if (spins > 20000) sched_yield();
        }
    }

  private:
    std::atomic<int> arrived{0}, rounds{0};
};

struct Batch {
    const long *starts, *widths;
    long steps, hidden;
    bool reverse;  // sequences are read from their end

    // The row of a sequence in a step, or -1 where it is not running.
    long row(long step, long lane) const {
        return 0 <= step && step < steps && lane < widths[step] ? starts[step] + lane : -1;
    }
};

// A row, and those of the same sequence that are read before and after it, or -1 where there is none.
struct Place {
    long lane, row, before, after;
};

// Visits all steps, in the order of reading or, `back`, against it. What it asks of a pass: `depth`; `weight(k, gate,
// unit)`; `source(place)`, the row's left factor or null; `finish(place, unit, n, sums)`, which turns the sums of all gates
// of n neighbouring units into results.
template <class T, class Pass> void sweep(const Batch batch, const Pass pass, bool back, int threads) {
    constexpr int G = Pass::gates, U = MOST_VECTORS / G, W = Vector<T>::size;  // U vectors of units in a panel
    const long vectors = (batch.hidden + W - 1) / W, depth = pass.depth;
    const bool descending = batch.reverse != back;
    Barrier barrier;
    const std::vector<T> zeros(depth, T(0));
#pragma omp parallel num_threads(threads < vectors ? threads : vectors)
    {
        const int thread = omp_get_thread_num(), team = omp_get_num_threads();
        const long begin = vectors * thread / team, end = vectors * (thread + 1) / team;
        const std::unique_ptr<T[]> packed(new T[(end - begin) * depth * G * W]);
        T* to = packed.get();
        for (long p = begin; p < end; p += U)
            for (long k = 0; k < depth; ++k)
                for (long u = p; u < p + U && u < end; ++u)
                    for (int g = 0; g < G; ++g)
                        for (int l = 0; l < W; ++l, ++to)
                            *to = u * W + l < batch.hidden ? pass.weight(k, g, u * W + l) : T(0);
        for (long i = 0; i < batch.steps; ++i) {
            const long s = descending ? batch.steps - 1 - i : i, width = batch.widths[s];
            const long before = batch.reverse ? s + 1 : s - 1, after = batch.reverse ? s - 1 : s + 1;
            const T* weights = packed.get();
            for (long p = begin; p < end; p += U) {
                const int units = end - p < U ? end - p : U, N = units * G;
                long blocks = (width + most_rows(N) - 1) / most_rows(N);
                for (long lane = 0; lane < width; --blocks) {
                    const int R = (width - lane + blocks - 1) / blocks;  // blocks of equal size
                    Place places[MOST_ROWS];
                    const T* rows[MOST_ROWS];
                    V<T> sums[MOST_ROWS * MOST_VECTORS];
                    bool any = false;
                    for (int r = 0; r < R; ++r) {
                        const long l = lane + r;
                        places[r] = {l, batch.starts[s] + l, batch.row(before, l), batch.row(after, l)};
                        rows[r] = pass.source(places[r]);
                        any = any || rows[r];
                        if (!rows[r]) rows[r] = zeros.data();
                    }
                    if (any) multiply_of<T>(R, N)(rows, 1, weights, N * W, depth, sums);
                    else std::memset(sums, 0, sizeof sums);
                    for (int r = 0; r < R; ++r)
                        for (int u = 0; u < units; ++u) {
                            const long unit = (p + u) * W;
                            const int n = batch.hidden - unit < W ? batch.hidden - unit : W;
                            pass.finish(places[r], unit, n, sums + r * N + u * G);
                        }
                    lane += R;
                }
                weights += depth * N * W;
            }
            barrier.wait(team);
        }
    }
}

// --------------------------------------------------------------------------------------------------------- the cells

// A row of what was computed, or the sequence's row of a state [B, H].
template <class T> inline const T* row_of(const T* computed, const T* state, long row, long lane, long hidden) {
    return row >= 0 ? computed + row * hidden : state + lane * hidden;
}

// i, f, g, o = sigmoid, sigmoid, tanh, sigmoid of x + W h, written over x;  c' = f c + i g;  h' = o tanh(c')
template <class T> struct LstmForward {
    static constexpr int gates = 4;
    long hidden, depth;
    const T *w, *h0, *c0;
    T *x, *y, *c;
    T weight(long k, int g, long unit) const { return w[(g * hidden + unit) * depth + k]; }
    const T* source(Place at) const { return row_of(y, h0, at.before, at.lane, hidden); }
    void finish(Place at, long unit, int n, const V<T>* sums) const {
        const long H = hidden, row = at.row;
        T* to = x + row * 4 * H + unit;
        const V<T> i = sigmoid(load(to, n) + sums[0]), f = sigmoid(load(to + H, n) + sums[1]);
        const V<T> g = hyperbolic(load(to + 2 * H, n) + sums[2]), o = sigmoid(load(to + 3 * H, n) + sums[3]);
        const V<T> new_c = f * load(row_of(c, c0, at.before, at.lane, H) + unit, n) + i * g;
        store(to, i, n), store(to + H, f, n), store(to + 2 * H, g, n), store(to + 3 * H, o, n);
        store(c + row * H + unit, new_c, n);
        store(y + row * H + unit, V<T>(o * hyperbolic(new_c)), n);
    }
};

// The same, differentiated. `h_before` [rows, H] is what each row started from, for the weights' gradient; `carry` [B, H]
// takes the gradient of c to the step read before.
template <class T> struct LstmBackward {
    static constexpr int gates = 1;
    long hidden, depth;
    const T *w, *h0, *c0, *y, *c, *act, *dy, *dh_end, *dc_end;
    T *dpre, *h_before, *carry;
    T weight(long k, int, long unit) const { return w[k * hidden + unit]; }
    const T* source(Place at) const { return at.after >= 0 ? dpre + at.after * depth : nullptr; }
    void finish(Place at, long unit, int n, const V<T>* sums) const {
        const long H = hidden, row = at.row;
        const T* gate = act + row * 4 * H + unit;
        const V<T> i = load(gate, n), f = load(gate + H, n), g = load(gate + 2 * H, n), o = load(gate + 3 * H, n);
        const long state = at.lane * H + unit;
        V<T> dh = sums[0] + load(dy + row * H + unit, n);
        if (at.after < 0) dh += load(dh_end + state, n);
        V<T> dc = load((at.after < 0 ? dc_end : carry) + state, n);
        const V<T> tanh_c = hyperbolic(load(c + row * H + unit, n));
        const V<T> c_before = load(row_of(c, c0, at.before, at.lane, H) + unit, n);
        store(h_before + row * H + unit, load(row_of(y, h0, at.before, at.lane, H) + unit, n), n);
        dc += dh * o * (1 - tanh_c * tanh_c);
        T* to = dpre + row * 4 * H + unit;
        store(to, V<T>(dc * g * i * (1 - i)), n);
        store(to + H, V<T>(dc * c_before * f * (1 - f)), n);
        store(to + 2 * H, V<T>(dc * i * (1 - g * g)), n);
        store(to + 3 * H, V<T>(dh * tanh_c * o * (1 - o)), n);
        store(carry + state, V<T>(dc * f), n);
    }
};

// r, z = sigmoid(x + W h + b);  m = W h + b;  n = tanh(x + r m);  h' = (1 - z) n + z h
template <class T> struct GruForward {
    static constexpr int gates = 3;
    long hidden, depth;
    const T *x, *w, *b, *h0;
    T *y, *act;
    T weight(long k, int g, long unit) const { return w[(g * hidden + unit) * depth + k]; }
    const T* source(Place at) const { return row_of(y, h0, at.before, at.lane, hidden); }
    void finish(Place at, long unit, int n, const V<T>* sums) const {
        const long H = hidden, row = at.row;
        const T *pre = x + row * 3 * H + unit, *bias = b + unit;
        T* to = act + row * 4 * H + unit;
        const V<T> r = sigmoid(load(pre, n) + sums[0] + load(bias, n));
        const V<T> z = sigmoid(load(pre + H, n) + sums[1] + load(bias + H, n));
        const V<T> m = sums[2] + load(bias + 2 * H, n);
        const V<T> candidate = hyperbolic(load(pre + 2 * H, n) + r * m);
        const V<T> h = load(source(at) + unit, n);
        store(to, r, n), store(to + H, z, n), store(to + 2 * H, m, n), store(to + 3 * H, candidate, n);
        store(y + row * H + unit, V<T>(candidate + z * (h - candidate)), n);
    }
};

// The same, differentiated: `dpre` [rows, 3 H] for x, and `dm` [rows, 3 H] for W h + b.
template <class T> struct GruBackward {
    static constexpr int gates = 1;
    long hidden, depth;
    const T *w, *h0, *y, *act, *dy, *dh_end;
    T *dpre, *dm, *h_before, *carry;
    T weight(long k, int, long unit) const { return w[k * hidden + unit]; }
    const T* source(Place at) const { return at.after >= 0 ? dm + at.after * depth : nullptr; }
    void finish(Place at, long unit, int n, const V<T>* sums) const {
        const long H = hidden, row = at.row;
        const T* gate = act + row * 4 * H + unit;
        const V<T> r = load(gate, n), z = load(gate + H, n), m = load(gate + 2 * H, n), c = load(gate + 3 * H, n);
        const long state = at.lane * H + unit;
        const V<T> dh = sums[0] + load(dy + row * H + unit, n) + load((at.after < 0 ? dh_end : carry) + state, n);
        const V<T> h = load(row_of(y, h0, at.before, at.lane, H) + unit, n);
        store(h_before + row * H + unit, h, n);
        const V<T> dn = dh * (1 - z) * (1 - c * c), dr = dn * m * r * (1 - r), dz = dh * (h - c) * z * (1 - z);
        T *to = dpre + row * 3 * H + unit, *through = dm + row * 3 * H + unit;
        store(to, dr, n), store(to + H, dz, n), store(to + 2 * H, dn, n);
        store(through, dr, n), store(through + H, dz, n), store(through + 2 * H, V<T>(dn * r), n);
        store(carry + state, V<T>(dh * z), n);
    }
};

// h' = tanh(x + W h)
template <class T> struct TanhForward {
    static constexpr int gates = 1;
    long hidden, depth;
    const T *x, *w, *h0;
    T* y;
    T weight(long k, int, long unit) const { return w[unit * depth + k]; }
    const T* source(Place at) const { return row_of(y, h0, at.before, at.lane, hidden); }
    void finish(Place at, long unit, int n, const V<T>* sums) const {
        const long i = at.row * hidden + unit;
        store(y + i, hyperbolic(load(x + i, n) + sums[0]), n);
    }
};

template <class T> struct TanhBackward {
    static constexpr int gates = 1;
    long hidden, depth;
    const T *w, *h0, *y, *dy, *dh_end;
    T *dpre, *h_before;
    T weight(long k, int, long unit) const { return w[k * hidden + unit]; }
    const T* source(Place at) const { return at.after >= 0 ? dpre + at.after * depth : nullptr; }
    void finish(Place at, long unit, int n, const V<T>* sums) const {
        const long i = at.row * hidden + unit;
        V<T> dh = sums[0] + load(dy + i, n);
        if (at.after < 0) dh += load(dh_end + at.lane * hidden + unit, n);
        const V<T> h = load(y + i, n);
        store(dpre + i, V<T>(dh * (1 - h * h)), n);
        store(h_before + i, load(row_of(y, h0, at.before, at.lane, hidden) + unit, n), n);
    }
};

// h' = a h + b, feature by feature: no product, so every thread goes its own way through its units.
template <class T>
void scan(const Batch batch, int threads, const T* a, const T* b, const T* h0, T* h) {
    constexpr int W = Vector<T>::size;
    const long vectors = (batch.hidden + W - 1) / W, H = batch.hidden;
#pragma omp parallel for num_threads(threads < vectors ? threads : vectors)
    for (long part = 0; part < vectors; ++part) {
        const long unit = part * W;
        const int n = H - unit < W ? H - unit : W;
        for (long i = 0; i < batch.steps; ++i) {
            const long s = batch.reverse ? batch.steps - 1 - i : i, before = batch.reverse ? s + 1 : s - 1;
            for (long lane = 0; lane < batch.widths[s]; ++lane) {
                const long at = (batch.starts[s] + lane) * H + unit;
                const V<T> from = load(row_of(h, h0, batch.row(before, lane), lane, H) + unit, n);
                store(h + at, V<T>(load(a + at, n) * from + load(b + at, n)), n);
            }
        }
    }
}
}  // namespace

// ------------------------------------------------------------------------------------------------------ what is called

#define SWEEPS(T, NAME)                                                                                                \
    void lstm_##NAME(const Batch* b, int threads, T* x, const T* w, const T* h0, const T* c0, T* y, T* c) {            \
        sweep<T>(*b, LstmForward<T>{b->hidden, b->hidden, w, h0, c0, x, y, c}, false, threads);                        \
    }                                                                                                                  \
    void lstm_backward_##NAME(const Batch* b, int threads, const T* w, const T* h0, const T* c0, const T* y,           \
                              const T* c, const T* act, const T* dy, const T* dh_end, const T* dc_end, T* dpre,        \
                              T* h_before, T* carry) {                                                                 \
        const long H = b->hidden;                                                                                      \
        sweep<T>(*b, LstmBackward<T>{H, 4 * H, w, h0, c0, y, c, act, dy, dh_end, dc_end, dpre, h_before, carry}, true, \
                 threads);                                                                                             \
    }                                                                                                                  \
    void gru_##NAME(const Batch* b, int threads, const T* x, const T* w, const T* bias, const T* h0, T* y, T* act) {   \
        sweep<T>(*b, GruForward<T>{b->hidden, b->hidden, x, w, bias, h0, y, act}, false, threads);                     \
    }                                                                                                                  \
    void gru_backward_##NAME(const Batch* b, int threads, const T* w, const T* h0, const T* y, const T* act,           \
                             const T* dy, const T* dh_end, T* dpre, T* dm, T* h_before, T* carry) {                    \
        const long H = b->hidden;                                                                                      \
        sweep<T>(*b, GruBackward<T>{H, 3 * H, w, h0, y, act, dy, dh_end, dpre, dm, h_before, carry}, true, threads);   \
    }                                                                                                                  \
    void tanh_##NAME(const Batch* b, int threads, const T* x, const T* w, const T* h0, T* y) {                         \
        sweep<T>(*b, TanhForward<T>{b->hidden, b->hidden, x, w, h0, y}, false, threads);                               \
    }                                                                                                                  \
    void tanh_backward_##NAME(const Batch* b, int threads, const T* w, const T* h0, const T* y, const T* dy,           \
                              const T* dh_end, T* dpre, T* h_before) {                                                 \
        sweep<T>(*b, TanhBackward<T>{b->hidden, b->hidden, w, h0, y, dy, dh_end, dpre, h_before}, true, threads);      \
    }                                                                                                                  \
    void scan_##NAME(const Batch* b, int threads, const T* decay, const T* input, const T* h0, T* h) {                 \
        scan<T>(*b, threads, decay, input, h0, h);                                                                     \
    }

extern "C" {
SWEEPS(float, f32)
SWEEPS(double, f64)
}
