// One vector type per instruction set, W lanes wide, and the few operations the kernels are written in.
//
// Kernels vectorise over outputs and never over the sum, so every output is accumulated in one order: that of its own
// lane. `dot` is the exception that changes nothing: sums of integers are exact in any order.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "half.h"

#if defined(__AVX512F__)
#define MILLET_ISA_AVX512 1
#include <immintrin.h>
#elif defined(__AVX2__)
#define MILLET_ISA_AVX2 1
#include <immintrin.h>
#elif defined(__ARM_NEON) && defined(__ARM_FEATURE_DOTPROD) && !defined(MILLET_SCALAR)
#define MILLET_ISA_NEON 1
#include <arm_neon.h>
#endif

// Before a loop whose count is a constant: its body is laid out that many times, so that arrays of vectors are registers.
#define MILLET_UNROLL _Pragma("GCC unroll 16")

namespace millet {
namespace MILLET_VARIANT {

constexpr int PANEL = 16;  // outputs that lie side by side in a packed matrix
constexpr int GROUP = 32;  // inputs that share one scale
constexpr int QUADS = 8;   // four inputs at a time: what one integer dot product takes

#if MILLET_ISA_AVX512

constexpr int W = 16;
constexpr int FLOAT_ROWS = 12, FLOAT_VECTORS = 2;  // register tile of a float product
constexpr int GROUP_ROWS = 8;                      // rows that share one unpacked group of integers
constexpr int SCORE_ROWS = 16, VALUE_ROWS = 4, VALUE_VECTORS = 4;
using vf = __m512;
using vb = __m512i;  // 4 bytes for each of W outputs
using vi = __m512i;

inline vf load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, vf x) { _mm512_storeu_ps(p, x); }
inline vf all(float x) { return _mm512_set1_ps(x); }
inline vf zero() { return _mm512_setzero_ps(); }
inline vf fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
inline vf add(vf a, vf b) { return _mm512_add_ps(a, b); }
inline vf sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
inline vf mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
inline vf div(vf a, vf b) { return _mm512_div_ps(a, b); }
inline vf max(vf a, vf b) { return _mm512_max_ps(a, b); }
inline vf min(vf a, vf b) { return _mm512_min_ps(a, b); }
inline vf round(vf a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline vf load_half(const uint16_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
inline void store_half(uint16_t* p, vf x) {
    _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline vf to_float(vi x) { return _mm512_cvtepi32_ps(x); }
inline vf power_of_two(vf n) {  // 2^n for whole n in [-126, 127]
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23));
}
inline vf first_lanes(vf x, vf other, int count) {  // x in the first `count` lanes, other elsewhere
    return _mm512_mask_blend_ps((__mmask16)((1u << count) - 1), other, x);
}
inline void store_bytes(int8_t* p, vf x) { _mm_storeu_si128((__m128i*)p, _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(x))); }

inline vb load_bytes(const uint8_t* p) { return _mm512_loadu_si512(p); }
inline vb low_nibbles(vb x) { return _mm512_and_si512(x, _mm512_set1_epi8(15)); }
inline vb high_nibbles(vb x) { return _mm512_and_si512(_mm512_srli_epi16(x, 4), _mm512_set1_epi8(15)); }

// total + the sum over four inputs of w * a, exactly: w unsigned bytes, a signed.
#define MILLET_HAS_DOT 1
inline vi dot(vi total, vb w, const int8_t* a) {
    return _mm512_dpbusd_epi32(total, w, _mm512_set1_epi32(*(const int32_t*)a));
}
inline vi all_int(int32_t x) { return _mm512_set1_epi32(x); }
inline vi times16(vi x) { return _mm512_slli_epi32(x, 4); }

#elif MILLET_ISA_AVX2

constexpr int W = 8;
constexpr int FLOAT_ROWS = 6, FLOAT_VECTORS = 2;
constexpr int GROUP_ROWS = 4;
constexpr int SCORE_ROWS = 4, VALUE_ROWS = 2, VALUE_VECTORS = 4;
using vf = __m256;
using vb = __m256i;
using vi = __m256i;

inline vf load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, vf x) { _mm256_storeu_ps(p, x); }
inline vf all(float x) { return _mm256_set1_ps(x); }
inline vf zero() { return _mm256_setzero_ps(); }
inline vf fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
inline vf add(vf a, vf b) { return _mm256_add_ps(a, b); }
inline vf sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
inline vf mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
inline vf div(vf a, vf b) { return _mm256_div_ps(a, b); }
inline vf max(vf a, vf b) { return _mm256_max_ps(a, b); }
inline vf min(vf a, vf b) { return _mm256_min_ps(a, b); }
inline vf round(vf a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline vf load_half(const uint16_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)); }
inline void store_half(uint16_t* p, vf x) {
    _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline vf to_float(vi x) { return _mm256_cvtepi32_ps(x); }
inline vf power_of_two(vf n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
inline vf first_lanes(vf x, vf other, int count) {
    const vi lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_blendv_ps(other, x, _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(count), lane)));
}
inline void store_bytes(int8_t* p, vf x) {
    vi i = _mm256_cvtps_epi32(x);
    __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(i), _mm256_extracti128_si256(i, 1));
    _mm_storel_epi64((__m128i*)p, _mm_packs_epi16(words, words));
}

inline vb load_bytes(const uint8_t* p) { return _mm256_loadu_si256((const __m256i*)p); }
inline vb low_nibbles(vb x) { return _mm256_and_si256(x, _mm256_set1_epi8(15)); }
inline vb high_nibbles(vb x) { return _mm256_and_si256(_mm256_srli_epi16(x, 4), _mm256_set1_epi8(15)); }

inline vi all_int(int32_t x) { return _mm256_set1_epi32(x); }
inline vi times16(vi x) { return _mm256_slli_epi32(x, 4); }

#if defined(__AVXVNNI__)
#define MILLET_HAS_DOT 1
inline vi dot(vi total, vb w, const int8_t* a) {
    return _mm256_dpbusd_avx_epi32(total, w, _mm256_set1_epi32(*(const int32_t*)a));
}
#else
// start + the sum over 4 Q inputs of w * a, exactly.
// Pairs of products fit 16 bits, and so does their sum over a whole group: 8 quads of 2 * 15 * 127 are 30,480.
template <int Q>
inline vi dot4(const vb* w, const int8_t* a, vi start) {
    const int32_t* quads = (const int32_t*)a;
    vi pairs = _mm256_maddubs_epi16(w[0], _mm256_set1_epi32(quads[0]));
    for (int i = 1; i < Q; i++)
        pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(w[i], _mm256_set1_epi32(quads[i])));
    return _mm256_add_epi32(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)), start);
}
// Eight-bit weights: |w| times a with w's sign; a pair is at most 2 * 128 * 127 = 32,512 and must be widened at once.
// The zero point is taken off the weights here, so `start` has nothing to make up for.
template <int Q>
inline vi dot8(const vb* w, const int8_t* a, vi) {
    const int32_t* quads = (const int32_t*)a;
    vi sum = _mm256_setzero_si256();
    for (int i = 0; i < Q; i++) {
        vb signed_w = _mm256_xor_si256(w[i], _mm256_set1_epi8((char)0x80));
        vi pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(signed_w), _mm256_sign_epi8(_mm256_set1_epi32(quads[i]), signed_w));
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    return sum;
}
#endif

#elif MILLET_ISA_NEON

constexpr int W = 4;
constexpr int FLOAT_ROWS = 5, FLOAT_VECTORS = 4;
constexpr int GROUP_ROWS = 4;
constexpr int SCORE_ROWS = 4, VALUE_ROWS = 4, VALUE_VECTORS = 4;
using vf = float32x4_t;
using vb = uint8x16_t;
using vi = int32x4_t;

inline vf load(const float* p) { return vld1q_f32(p); }
inline void store(float* p, vf x) { vst1q_f32(p, x); }
inline vf all(float x) { return vdupq_n_f32(x); }
inline vf zero() { return vdupq_n_f32(0); }
inline vf fma(vf a, vf b, vf c) { return vfmaq_f32(c, a, b); }
inline vf add(vf a, vf b) { return vaddq_f32(a, b); }
inline vf sub(vf a, vf b) { return vsubq_f32(a, b); }
inline vf mul(vf a, vf b) { return vmulq_f32(a, b); }
inline vf div(vf a, vf b) { return vdivq_f32(a, b); }
inline vf max(vf a, vf b) { return vmaxq_f32(a, b); }
inline vf min(vf a, vf b) { return vminq_f32(a, b); }
inline vf round(vf a) { return vrndnq_f32(a); }
inline vf load_half(const uint16_t* p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
inline void store_half(uint16_t* p, vf x) { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(x))); }
inline vf to_float(vi x) { return vcvtq_f32_s32(x); }
inline vf power_of_two(vf n) {
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127)), 23));
}
inline vf first_lanes(vf x, vf other, int count) {
    const int32_t lanes[4] = {0, 1, 2, 3};
    return vbslq_f32(vcltq_s32(vld1q_s32(lanes), vdupq_n_s32(count)), x, other);
}
inline void store_bytes(int8_t* p, vf x) {
    int32_t i[4];
    vst1q_s32(i, vcvtnq_s32_f32(x));
    for (int l = 0; l < 4; l++) p[l] = (int8_t)i[l];
}

inline vb load_bytes(const uint8_t* p) { return vld1q_u8(p); }
inline vb low_nibbles(vb x) { return vandq_u8(x, vdupq_n_u8(15)); }
inline vb high_nibbles(vb x) { return vshrq_n_u8(x, 4); }
inline int8x16_t quad(const int8_t* a, int i) {
    int32_t value;
    std::memcpy(&value, a + 4 * i, 4);
    return vreinterpretq_s8_s32(vdupq_n_s32(value));
}
inline vi all_int(int32_t x) { return vdupq_n_s32(x); }
inline vi times16(vi x) { return vshlq_n_s32(x, 4); }
template <int Q>
inline vi dot4(const vb* w, const int8_t* a, vi start) {
    vi total = start;
    MILLET_UNROLL
    for (int i = 0; i < Q; i++) total = vdotq_s32(total, vreinterpretq_s8_u8(w[i]), quad(a, i));
    return total;
}
template <int Q>
inline vi dot8(const vb* w, const int8_t* a, vi) {  // signed by signed: no zero point to make up for
    vi total = vdupq_n_s32(0);
    for (int i = 0; i < Q; i++)
        total = vdotq_s32(total, vreinterpretq_s8_u8(veorq_u8(w[i], vdupq_n_u8(0x80))), quad(a, i));
    return total;
}

#else  // portable: loops that a compiler turns into whatever vectors it may use

constexpr int W = 4;
constexpr int FLOAT_ROWS = 2, FLOAT_VECTORS = 4;
constexpr int GROUP_ROWS = 2;
constexpr int SCORE_ROWS = 2, VALUE_ROWS = 2, VALUE_VECTORS = 2;
struct vf {
    float l[W];
};
struct vb {
    uint8_t l[4 * W];
};
struct vi {
    int32_t l[W];
};
#define MILLET_LANES(expression)                    \
    vf r;                                           \
    for (int i = 0; i < W; i++) r.l[i] = expression; \
    return r

inline vf load(const float* p) { MILLET_LANES(p[i]); }
inline void store(float* p, vf x) { std::memcpy(p, x.l, sizeof x.l); }
inline vf all(float x) { MILLET_LANES(x); }
inline vf zero() { return all(0.0f); }
inline vf fma(vf a, vf b, vf c) { MILLET_LANES(a.l[i] * b.l[i] + c.l[i]); }
inline vf add(vf a, vf b) { MILLET_LANES(a.l[i] + b.l[i]); }
inline vf sub(vf a, vf b) { MILLET_LANES(a.l[i] - b.l[i]); }
inline vf mul(vf a, vf b) { MILLET_LANES(a.l[i] * b.l[i]); }
inline vf div(vf a, vf b) { MILLET_LANES(a.l[i] / b.l[i]); }
inline vf max(vf a, vf b) { MILLET_LANES(a.l[i] > b.l[i] ? a.l[i] : b.l[i]); }
inline vf min(vf a, vf b) { MILLET_LANES(a.l[i] < b.l[i] ? a.l[i] : b.l[i]); }
inline vf round(vf a) { MILLET_LANES(std::nearbyintf(a.l[i])); }
inline vf load_half(const uint16_t* p) { MILLET_LANES(half_to_float(p[i])); }
inline void store_half(uint16_t* p, vf x) {
    for (int i = 0; i < W; i++) p[i] = float_to_half(x.l[i]);
}
inline vf to_float(vi x) { MILLET_LANES((float)x.l[i]); }
inline vf power_of_two(vf n) { MILLET_LANES(float_of_bits((uint32_t)((int32_t)n.l[i] + 127) << 23)); }
inline vf first_lanes(vf x, vf other, int count) { MILLET_LANES(i < count ? x.l[i] : other.l[i]); }
inline void store_bytes(int8_t* p, vf x) {
    for (int i = 0; i < W; i++) p[i] = (int8_t)std::nearbyintf(x.l[i]);
}
#undef MILLET_LANES

inline vb load_bytes(const uint8_t* p) {
    vb r;
    std::memcpy(r.l, p, sizeof r.l);
    return r;
}
inline vb low_nibbles(vb x) {
    for (auto& b : x.l) b &= 15;
    return x;
}
inline vb high_nibbles(vb x) {
    for (auto& b : x.l) b >>= 4;
    return x;
}
inline vi all_int(int32_t x) {
    vi r;
    for (int i = 0; i < W; i++) r.l[i] = x;
    return r;
}
inline vi times16(vi x) {
    for (auto& l : x.l) l *= 16;
    return x;
}
template <int Q>
inline vi dot4(const vb* w, const int8_t* a, vi start) {
    for (int q = 0; q < Q; q++)
        for (int i = 0; i < W; i++)
            for (int j = 0; j < 4; j++) start.l[i] += (int)w[q].l[4 * i + j] * a[4 * q + j];
    return start;
}
template <int Q>
inline vi dot8(const vb* w, const int8_t* a, vi start) { return dot4<Q>(w, a, start); }

#endif

// The same for M rows, `stride` bytes apart; each total is where its sum starts, and becomes the sum. A row's chain of
// integer dot products waits for each of them, so rows take turns where there is an instruction for one.
#if MILLET_HAS_DOT
template <int Q, int M>
inline void dots4(const vb* w, const int8_t* a, int64_t stride, vi* total) {
    MILLET_UNROLL
    for (int i = 0; i < Q; i++)
        MILLET_UNROLL
        for (int m = 0; m < M; m++) total[m] = dot(total[m], w[i], a + m * stride + 4 * i);
}
template <int Q, int M>
inline void dots8(const vb* w, const int8_t* a, int64_t stride, vi* total) { dots4<Q, M>(w, a, stride, total); }
#else
template <int Q, int M>
inline void dots4(const vb* w, const int8_t* a, int64_t stride, vi* total) {
    MILLET_UNROLL
    for (int m = 0; m < M; m++) total[m] = dot4<Q>(w, a + m * stride, total[m]);
}
template <int Q, int M>
inline void dots8(const vb* w, const int8_t* a, int64_t stride, vi* total) {
    MILLET_UNROLL
    for (int m = 0; m < M; m++) total[m] = dot8<Q>(w, a + m * stride, total[m]);
}
#endif

// Sum of the lanes, always in the same order.
inline float total(vf x) {
    float l[W];
    store(l, x);
    for (int step = W / 2; step > 0; step /= 2)
        for (int i = 0; i < step; i++) l[i] += l[i + step];
    return l[0];
}
inline float largest(vf x) {
    float l[W];
    store(l, x);
    for (int step = W / 2; step > 0; step /= 2)
        for (int i = 0; i < step; i++) l[i] = l[i] > l[i + step] ? l[i] : l[i + step];
    return l[0];
}

// e^x: 2^n times a polynomial of the rest (Cephes' coefficients); relative error below 2e-7. Under -87: exactly 0.
inline vf exponential(vf x) {
    const vf floor_ = all(-87.0f);
    vf clamped = min(max(x, floor_), all(88.0f));
    vf n = round(mul(clamped, all(1.44269504088896341f)));
    vf r = fma(n, all(-0.693359375f), clamped);
    r = fma(n, all(2.12194440e-4f), r);
    vf p = all(1.9875691500e-4f);
    p = fma(p, r, all(1.3981999507e-3f));
    p = fma(p, r, all(8.3334519073e-3f));
    p = fma(p, r, all(4.1665795894e-2f));
    p = fma(p, r, all(1.6666665459e-1f));
    p = fma(p, r, all(5.0000001201e-1f));
    p = add(fma(p, mul(r, r), r), all(1.0f));
    vf y = mul(p, power_of_two(n));
#if MILLET_ISA_AVX512
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, floor_, _CMP_LT_OQ), y, zero());
#elif MILLET_ISA_AVX2
    return _mm256_andnot_ps(_mm256_cmp_ps(x, floor_, _CMP_LT_OQ), y);
#elif MILLET_ISA_NEON
    return vbslq_f32(vcltq_f32(x, floor_), zero(), y);
#else
    for (int i = 0; i < W; i++) y.l[i] = x.l[i] < -87.0f ? 0.0f : y.l[i];
    return y;
#endif
}

}  // namespace MILLET_VARIANT
}  // namespace millet
