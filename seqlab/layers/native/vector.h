// Vectors of the processor's own width, the elementwise functions that gates and softmax need, and products whose sums
// stay in registers: what the other files here are made of. No header of torch, no intrinsics: GCC's and Clang's vector
// types compile for any processor.

#pragma once

#include <cmath>
#include <cstring>

namespace {

#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64, REGISTERS = 24;  // registers that hold sums
#elif defined(__AVX__)
constexpr int VECTOR_BYTES = 32, REGISTERS = 12;
#else
constexpr int VECTOR_BYTES = 16, REGISTERS = 12;
#endif
constexpr int MOST_VECTORS = 4, MOST_ROWS = 8;  // of a panel, and of a block of rows

template <class T> struct Vector {
    static constexpr int size = VECTOR_BYTES / sizeof(T);
    typedef T V __attribute__((vector_size(VECTOR_BYTES)));
};
template <class T> using V = typename Vector<T>::V;

template <class T> inline V<T> load(const T* from, int n = Vector<T>::size) {
    V<T> v = {};
    if (n == Vector<T>::size) std::memcpy(&v, from, sizeof v);
    else std::memcpy(&v, from, n * sizeof(T));
    return v;
}

template <class T> inline void store(T* to, V<T> v, int n) {
    if (n == Vector<T>::size) std::memcpy(to, &v, sizeof v);
    else std::memcpy(to, &v, n * sizeof(T));
}

// ------------------------------------------------------------------------------------------- elementwise functions

typedef int Bits __attribute__((vector_size(VECTOR_BYTES)));

// exp(x) = 2^n exp(r) with n whole and |r| <= ln(2) / 2, where a polynomial is exact to the last bit or two.
inline V<float> exponential(V<float> x) {
    V<float> bounded = x < -87.0f ? V<float>{} - 87.0f : x;
    bounded = bounded > 88.0f ? V<float>{} + 88.0f : bounded;
    const V<float> shifted = bounded * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the sum's low bits are n
    const V<float> n = shifted - 12582912.0f;
    const V<float> r = bounded - n * 0.693359375f + n * 2.12194440e-4f;
    V<float> p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const V<float> result = (V<float>)((Bits)p + ((Bits)shifted << 23));
    return x == x ? result : x;
}

inline V<float> sigmoid(V<float> x) { return 1.0f / (1.0f + exponential(-x)); }

// Near 0 the quotient would cancel: there a polynomial in x^2.
inline V<float> hyperbolic(V<float> x) {
    const V<float> square = x * x;
    V<float> p = square * -5.70498872745e-3f + 2.06390887954e-2f;
    p = p * square - 5.37397155531e-2f;
    p = p * square + 1.33314422036e-1f;
    p = p * square - 3.33332819422e-1f;
    p = p * square * x + x;
    const V<float> far = 1.0f - 2.0f / (exponential(x + x) + 1.0f);
    return square < 0.390625f ? p : far;
}

template <class F> inline V<double> each(V<double> x, F function) {
    for (int i = 0; i < Vector<double>::size; ++i) x[i] = function(x[i]);
    return x;
}
inline V<double> exponential(V<double> x) {
    return each(x, [](double a) { return std::exp(a); });
}
inline V<double> sigmoid(V<double> x) {
    return each(x, [](double a) { return 1 / (1 + std::exp(-a)); });
}
inline V<double> hyperbolic(V<double> x) {
    return each(x, [](double a) { return std::tanh(a); });
}

// ------------------------------------------------------------------------------------------------------------ products

// sums[r][v] = sum over k of rows[r][k * step] * weights[k * stride + v], for R rows and N vectors, in registers.
// `step` is 1 unless ACROSS.
template <class T, int R, int N, bool ACROSS>
void multiply(const T* const* rows, long step, const T* weights, long stride, long depth, V<T>* sums) {
    V<T> sum[R][N] = {};
    const T* row[R];
    for (int r = 0; r < R; ++r) row[r] = rows[r];
    for (long k = 0; k < depth; ++k, weights += stride) {
        V<T> w[N];
#pragma GCC unroll 4
        for (int v = 0; v < N; ++v) w[v] = load<T>(weights + v * Vector<T>::size);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
            for (int v = 0; v < N; ++v) sum[r][v] += w[v] * row[r][ACROSS ? k * step : k];
    }
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < N; ++v) sums[r * N + v] = sum[r][v];
}

template <class T> using Multiply = void (*)(const T* const*, long, const T*, long, long, V<T>*);

template <class T, int N, bool ACROSS> Multiply<T> multiply_of(int rows) {
    static constexpr Multiply<T> by_rows[MOST_ROWS] = {
        multiply<T, 1, N, ACROSS>, multiply<T, 2, N, ACROSS>, multiply<T, 3, N, ACROSS>, multiply<T, 4, N, ACROSS>,
        multiply<T, 5, N, ACROSS>, multiply<T, 6, N, ACROSS>, multiply<T, 7, N, ACROSS>, multiply<T, 8, N, ACROSS>};
    return by_rows[rows - 1];
}

// The function for that many rows (at most `most_rows`) and vectors (at most MOST_VECTORS).
template <class T, bool ACROSS = false> Multiply<T> multiply_of(int rows, int vectors) {
    switch (vectors) {
        case 1: return multiply_of<T, 1, ACROSS>(rows);
        case 2: return multiply_of<T, 2, ACROSS>(rows);
        case 3: return multiply_of<T, 3, ACROSS>(rows);
        default: return multiply_of<T, 4, ACROSS>(rows);
    }
}

// How many rows may be multiplied at once, for their sums to stay in registers.
inline int most_rows(int vectors) { return REGISTERS / vectors < MOST_ROWS ? REGISTERS / vectors : MOST_ROWS; }
}  // namespace
