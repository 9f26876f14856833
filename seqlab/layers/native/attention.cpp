// Attention inside each sequence of a ragged batch, all sequences and heads in one parallel loop.
//
// A task is one sequence and one head of keys, with all heads of queries that read it; tasks share nothing, so results do
// not depend on who computes what. A task goes through its queries in blocks. The scores of a block, [queries, keys],
// fit into the cache, so the softmax is the plain one, and only the blocks and keys that a causal mask or a window leaves
// are touched. Backward computes the scores anew, from the log of each query's sum that forward keeps.
//
// Rows are [T, H, K] with any distance between rows; K is a multiple of the vector's width. The equations stand in
// seqlab/layers/attention/attend.py; tests hold both equal, in float and, with finite differences, in double.

#include "vector.h"

#include <vector>

namespace {

struct Batch {
    const long *starts, *lengths, *key_starts, *key_lengths, *key_rows;  // the last may be 0: keys lie in order
    long sequences, heads, key_heads, width;
    long causal, window;  // window 0: any distance
};

constexpr long CACHE = 1 << 18;  // bytes that the scores of a block may take

long padded(long n, long to) { return (n + to - 1) / to * to; }

// c[i][j] = sum over k of a(i, k) b[k][j], or added to it: a(i, k) = a[i * a_row + k * a_column], j up to n, a multiple of
// the vector's width.
template <class T, bool ACROSS, bool ADD>
void product(long m, long n, long depth, const T* a, long a_row, long a_column, const T* b, long b_row, T* c, long c_row) {
    constexpr long W = Vector<T>::size;
    for (long j = 0; j < n; j += MOST_VECTORS * W) {
        const int N = (n - j) / W < MOST_VECTORS ? (n - j) / W : MOST_VECTORS;
        long blocks = (m + most_rows(N) - 1) / most_rows(N);
        for (long i = 0; i < m; --blocks) {
            const int R = (m - i + blocks - 1) / blocks;
            const T* rows[MOST_ROWS];
            V<T> sums[MOST_ROWS * MOST_VECTORS];
            for (int r = 0; r < R; ++r) rows[r] = a + (i + r) * a_row;
            multiply_of<T, ACROSS>(R, N)(rows, a_column, b + j, b_row, depth, sums);
            for (int r = 0; r < R; ++r)
                for (int v = 0; v < N; ++v) {
                    T* to = c + (i + r) * c_row + j + v * W;
                    const V<T> sum = sums[r * N + v];
                    store(to, ADD ? V<T>(load<T>(to) + sum) : sum, W);
                }
            i += R;
        }
    }
}

// [length, width] rows to [width, columns], with zeros after the last.
template <class T> void transpose(const T* from, long row, long length, long width, T* to, long columns) {
    for (long k = 0; k < width; ++k) {
        for (long j = 0; j < length; ++j) to[k * columns + j] = from[j * row + k];
        for (long j = length; j < columns; ++j) to[k * columns + j] = 0;
    }
}

// One sequence seen by its queries: which keys, and in which blocks.
struct Mask {
    long length, key_length, causal, window;
    long first(long i) const {  // the keys of query i are first(i) ... end(i); its own place is i + key_length - length
        const long from = i + key_length - length - window + 1;
        return window && from > 0 ? from : 0;
    }
    long end(long i) const {
        const long place = i + key_length - length, to = causal ? place + 1 : window ? place + window : key_length;
        return to < 0 ? 0 : to < key_length ? to : key_length;
    }
    // How many queries make a block, so that their scores take no more than CACHE bytes, but at least 8.
    long block(long bytes) const {
        const long reach = window && 2 * window + 64 < key_length ? 2 * window + 64 : key_length;
        const long rows = CACHE / ((reach + 1) * bytes);
        return rows < 8 ? 8 : rows < 64 ? rows : 64;
    }
};

// The scores of query i with keys from `begin` on, not yet scaled: softmax in place, and the log of its sum.
template <class T> void softmax(T* scores, long columns, const Mask& mask, long i, long begin, T scale, T* log_sum) {
    constexpr long W = Vector<T>::size;
    const long low = mask.first(i) - begin, high = mask.end(i) - begin, n = columns;
    for (long j = 0; j < low; ++j) scores[j] = -INFINITY;
    for (long j = high > low ? high : low; j < n; ++j) scores[j] = -INFINITY;
    V<T> largest = V<T>{} - INFINITY;
    for (long j = 0; j < n; j += W) {
        const V<T> s = load<T>(scores + j);
        largest = s > largest ? s : largest;
    }
    T most = -INFINITY;
    for (int l = 0; l < W; ++l) most = largest[l] > most ? largest[l] : most;
    V<T> sums = {};
    for (long j = 0; j < n; j += W) {
        const V<T> e = exponential(V<T>((load<T>(scores + j) - most) * scale));
        store(scores + j, e, W);
        sums += e;
    }
    for (long j = 0; j < low; ++j) scores[j] = 0;
    for (long j = high > low ? high : low; j < n; ++j) scores[j] = 0;
    T sum = 0;
    for (int l = 0; l < W; ++l) sum += sums[l];
    const T share = high > low ? 1 / sum : 0;
    for (long j = 0; j < n; j += W) store(scores + j, V<T>(load<T>(scores + j) * share), W);
    *log_sum = high > low ? most * scale + std::log(sum) : 0;
}

// What a block of queries reads: keys begin ... end, of which `begin` is a multiple of the vector's width.
template <class T> void block_keys(const Mask& mask, long i, long rows, long& begin, long& end) {
    begin = mask.first(i) / Vector<T>::size * Vector<T>::size;
    end = mask.end(i + rows - 1);
    if (end < begin) end = begin;
}

// scores[i][j] = q_i . k_j for a few queries: then it does not pay to transpose the keys.
template <class T>
void few_scores(long rows, long n, long width, const T* q, long q_row, const T* k, long k_row, T* scores, long columns) {
    for (long i = 0; i < rows; ++i)
        for (long j = 0; j < n; ++j) {
            V<T> sums = {};
            for (long l = 0; l < width; l += Vector<T>::size)
                sums += load<T>(q + i * q_row + l) * load<T>(k + j * k_row + l);
            T sum = 0;
            for (int l = 0; l < Vector<T>::size; ++l) sum += sums[l];
            scores[i * columns + j] = sum;
        }
}

// The keys, or values, of a sequence, one head of them: where they lie if that is row after row; else copied.
template <class T> struct Rows {
    const T* at;
    long row;
    Rows(const T* from, long from_row, const Batch& b, long s, const Mask& mask, std::vector<T>& copied) {
        const long* rows = b.key_rows ? b.key_rows + b.key_starts[s] : nullptr;
        const long first = !rows ? b.key_starts[s] : mask.key_length ? rows[0] : 0;
        at = from + first * from_row, row = from_row;
        long j = 0;
        while (rows && j < mask.key_length && rows[j] == first + j) ++j;
        if (!rows || j == mask.key_length) return;
        copied.resize(mask.key_length * b.width);
        for (j = mask.length ? mask.first(0) / Vector<T>::size * Vector<T>::size : mask.key_length; j < mask.key_length; ++j)
            std::memcpy(copied.data() + j * b.width, from + rows[j] * from_row, b.width * sizeof(T));
        at = copied.data(), row = b.width;
    }
};

template <class T>
void forward(const Batch b, int threads, const T* q, long q_row, const T* k, long k_row, const T* v, long v_row, T* out,
             T* log_sums) {
    constexpr long W = Vector<T>::size;
    const long K = b.width, group = b.heads / b.key_heads, tasks = b.sequences * b.key_heads, out_row = b.heads * K;
    const T scale = 1 / std::sqrt(T(K));
#pragma omp parallel num_threads(threads)
    {
        std::vector<T> keys, scores, own_keys, own_values;
#pragma omp for schedule(dynamic)
        for (long task = 0; task < tasks; ++task) {
            const long s = task / b.key_heads, key_head = task % b.key_heads;
            const Mask mask{b.lengths[s], b.key_lengths[s], b.causal, b.window};
            const long columns = padded(mask.key_length, W), block = mask.block(sizeof(T));
            const Rows<T> of_k(k + key_head * K, k_row, b, s, mask, own_keys);
            const Rows<T> of_v(v + key_head * K, v_row, b, s, mask, own_values);
            const bool few = mask.length < 4;
            scores.resize(block * columns);
            if (!few) {
                keys.resize(K * columns);
                transpose(of_k.at, of_k.row, mask.key_length, K, keys.data(), columns);
            }
            for (long head = key_head * group; head < (key_head + 1) * group; ++head)
                for (long i = 0; i < mask.length; i += block) {
                    const long rows = mask.length - i < block ? mask.length - i : block, row = b.starts[s] + i;
                    long begin, end;
                    block_keys<T>(mask, i, rows, begin, end);
                    const long n = padded(end - begin, W);
                    const T* q_at = q + row * q_row + head * K;
                    if (few) few_scores(rows, end - begin, K, q_at, q_row, of_k.at + begin * of_k.row, of_k.row, scores.data(), n);
                    else product<T, false, false>(rows, n, K, q_at, q_row, 1, keys.data() + begin, columns,
                                                  scores.data(), n);
                    for (long r = 0; r < rows; ++r)
                        softmax(scores.data() + r * n, n, mask, i + r, begin, scale,
                                log_sums + (row + r) * b.heads + head);
                    product<T, false, false>(rows, K, end - begin, scores.data(), n, 1, of_v.at + begin * of_v.row,
                                             of_v.row, out + row * out_row + head * K, out_row);
                }
        }
    }
}

template <class T>
void backward(const Batch b, int threads, const T* q, long q_row, const T* k, long k_row, const T* v, long v_row,
              const T* out, const T* log_sums, const T* dout, T* dq, T* dk, T* dv) {
    constexpr long W = Vector<T>::size;
    const long K = b.width, group = b.heads / b.key_heads, tasks = b.sequences * b.key_heads;
    const long row_size = b.heads * K, key_row_size = b.key_heads * K;
    const T scale = 1 / std::sqrt(T(K));
#pragma omp parallel num_threads(threads)
    {
        std::vector<T> keys, values, weights, dscores;
#pragma omp for schedule(dynamic)
        for (long task = 0; task < tasks; ++task) {
            const long s = task / b.key_heads, key_head = task % b.key_heads, key_at = b.key_starts[s];
            const Mask mask{b.lengths[s], b.key_lengths[s], b.causal, b.window};
            const long columns = padded(mask.key_length, W), block = mask.block(sizeof(T));
            const T *k_at = k + key_at * k_row + key_head * K, *v_at = v + key_at * v_row + key_head * K;
            T *dk_at = dk + key_at * key_row_size + key_head * K, *dv_at = dv + key_at * key_row_size + key_head * K;
            keys.resize(K * columns), values.resize(K * columns);
            weights.resize(block * columns), dscores.resize(block * columns);
            transpose(k_at, k_row, mask.key_length, K, keys.data(), columns);
            transpose(v_at, v_row, mask.key_length, K, values.data(), columns);
            for (long j = 0; j < mask.key_length; ++j)
                for (T* to : {dk_at + j * key_row_size, dv_at + j * key_row_size}) std::memset(to, 0, K * sizeof(T));
            for (long head = key_head * group; head < (key_head + 1) * group; ++head)
                for (long i = 0; i < mask.length; i += block) {
                    const long rows = mask.length - i < block ? mask.length - i : block, row = b.starts[s] + i;
                    long begin, end;
                    block_keys<T>(mask, i, rows, begin, end);
                    const long n = padded(end - begin, W);
                    const T *q_at = q + row * q_row + head * K, *dout_at = dout + row * row_size + head * K;
                    T *w = weights.data(), *ds = dscores.data();
                    product<T, false, false>(rows, n, K, q_at, q_row, 1, keys.data() + begin, columns, w, n);
                    product<T, false, false>(rows, n, K, dout_at, row_size, 1, values.data() + begin, columns, ds, n);
                    for (long r = 0; r < rows; ++r, w += n, ds += n) {
                        const long low = mask.first(i + r) - begin, high = mask.end(i + r) - begin;
                        const T log_sum = log_sums[(row + r) * b.heads + head];
                        const T *o = out + (row + r) * row_size + head * K, *d = dout_at + r * row_size;
                        V<T> sums = {};
                        for (long j = 0; j < K; j += W) sums += load<T>(o + j) * load<T>(d + j);
                        T mean = 0;
                        for (int l = 0; l < W; ++l) mean += sums[l];
                        for (long j = 0; j < n; j += W)
                            store(w + j, exponential(V<T>(load<T>(w + j) * scale - log_sum)), W);
                        for (long j = 0; j < low && j < n; ++j) w[j] = 0;
                        for (long j = high > low ? high : low; j < n; ++j) w[j] = 0;
                        for (long j = 0; j < n; j += W)
                            store(ds + j, V<T>(load<T>(w + j) * (load<T>(ds + j) - mean) * scale), W);
                    }
                    w = weights.data(), ds = dscores.data();
                    product<T, false, false>(rows, K, end - begin, ds, n, 1, k_at + begin * k_row, k_row,
                                             dq + row * row_size + head * K, row_size);
                    product<T, true, true>(end - begin, K, rows, ds, 1, n, q_at, q_row, dk_at + begin * key_row_size,
                                           key_row_size);
                    product<T, true, true>(end - begin, K, rows, w, 1, n, dout_at, row_size,
                                           dv_at + begin * key_row_size, key_row_size);
                }
        }
    }
}
}  // namespace

#define ATTENTION(T, NAME)                                                                                             \
    long vector_##NAME() { return Vector<T>::size; }                                                                   \
    void attend_##NAME(const Batch* b, int threads, const T* q, long q_row, const T* k, long k_row, const T* v,        \
                       long v_row, T* out, T* log_sums) {                                                              \
        forward<T>(*b, threads, q, q_row, k, k_row, v, v_row, out, log_sums);                                          \
    }                                                                                                                  \
    void attend_backward_##NAME(const Batch* b, int threads, const T* q, long q_row, const T* k, long k_row,           \
                                const T* v, long v_row, const T* out, const T* log_sums, const T* dout, T* dq, T* dk,  \
                                T* dv) {                                                                               \
        backward<T>(*b, threads, q, q_row, k, k_row, v, v_row, out, log_sums, dout, dq, dk, dv);                       \
    }

extern "C" {
ATTENTION(float, f32)
ATTENTION(double, f64)
}
