// The functions that the equations of a neuron may use, with the same bits from a C++17 compiler
// (in scalar code, in vector lanes, in the rest of a loop) and from NVRTC on any GPU.
//
// How: nothing but + - * / sqrt, comparisons, selections and operations on bits, each of which IEEE
// 754 rounds in one way. No libm, no table, no branch: loops over these functions vectorise. The
// compiler must not contract a*b + c nor trust in finite mathematics; pass it
//     C++    -ffp-contract=off -fno-math-errno -fno-trapping-math   (the last two for speed)
//     NVRTC  --fmad=false                  (and not --use_fast_math, --ftz or --prec-div=false)
//
// Largest errors found, in ulp of the exact result (also where that is subnormal). Float: of all
// numbers, or * of every 7th. Double: of at least 3e7 random ones, many of them near thresholds.
//
//             float   double
//   exp       1.03    0.97    2^n (1 + r + r^2 P(r)) with r = x - n ln 2
//   gaussian  1.16 *  1.14    the same, with x^2 in two parts
//   expm1     1.35    1.07    the same less 2^-n, with the sum's rounding error put back
//   sigmoid   1.59    1.58    likewise
//   phi       1.8     1.6     expm1(x) / x; phi_slope, of gradients only, to 8 ulp
//   log       0.84    0.91    k ln 2 + 2 atanh(s) with s = f / (2 + f)
//   log1p     0.83 *  0.89    the same, with the rounding error of 1 + x put back
//   softplus  1.64 *  1.75    max(x, 0) + log(1 + exp(-|x|))
//   tanh      1.47    1.48    x + x^3 P(x^2) to 0.55, then 1 - 2 / (exp(2 x) + 1)
//   erf       1.54    1.79    x + x P(x^2) to 1, then 1 - exp(-x^2) P(1 / (1 + c x))
//   sin, cos  1.60 *  1.49    r = x - n pi/2 in parts; r + r^3 P(r^2) and 1 - r^2/2 + r^4 P(r^2)
//   atan      0.92 *  0.97    t + t^3 P(t^2) with t = x, (x - 1) / (x + 1) or -1 / x
//
// Correctly rounded: sqrt. Exact: abs, sign, floor, round, minimum, maximum, clip, relu, select.
//
// NaN in, NaN out (which NaN, is left open). A zero keeps its sign through odd functions; sign() of
// it is +0. minimum, maximum and clip propagate NaN; of equal arguments the first one wins.
// sin and cos are for |x| <= 1e6; beyond, they lie in [-1, 1] and mean nothing.
//
// Coefficients: our own minimax fits (Remez exchange at 50 digits; leading coefficients rounded to
// the format before the others were fitted).

#pragma once

#if defined(__FAST_MATH__)
#error "neurogen/math.h needs IEEE arithmetic as written: compile without -ffast-math"
#endif

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define NEUROGEN_FN __device__ __forceinline__
#else
#define NEUROGEN_FN static inline __attribute__((always_inline))
#endif

namespace neurogen {

// ---- Number formats -----------------------------------------------------------------------------

template <class T> struct Format;

template <>
struct Format<float> {
  using Bits = unsigned int;
  static constexpr int width = 32, mantissa = 23;
  static constexpr Bits bias = 127, sign = 0x80000000u, upper_half = 0xfffff000u;
  static constexpr Bits infinity = 0x7f800000u, nan = 0x7fc00000u, sqrt_half = 0x3f3504f3u;
  static constexpr float integer = 8388608.0f;   // 2^23: all floats from here on are integers
  static constexpr float shifter = 12582912.0f;  // 1.5 * 2^23, see Rounded
  static constexpr float min_normal = 1.17549435e-38f;
  static constexpr float inv_ln2 = 1.44269504f, ln2_hi = 0.693145752f, ln2_lo = 1.42860677e-6f;
  static constexpr float inv_pio2 = 0.636619772f, pio2_hi = 1.57079633f, pio2_lo = -4.37113883e-8f;
  static constexpr float exp_min = -104.0f, exp_max = 89.0f;  // outside: 0, infinity
  static constexpr float gauss_max = 10.25f;                  // above, exp(-x^2) is 0
  static constexpr float negligible = 20.0f;                  // above, 1 + exp(-x) is 1
};

template <>
struct Format<double> {
  using Bits = unsigned long long;
  static constexpr int width = 64, mantissa = 52;
  static constexpr Bits bias = 1023, sign = 0x8000000000000000u, upper_half = 0xfffffffff8000000u;
  static constexpr Bits infinity = 0x7ff0000000000000u, nan = 0x7ff8000000000000u;
  static constexpr Bits sqrt_half = 0x3fe6a09e667f3bcdu;
  static constexpr double integer = 4503599627370496.0;
  static constexpr double shifter = 6755399441055744.0;
  static constexpr double min_normal = 2.2250738585072014e-308;
  static constexpr double inv_ln2 = 1.4426950408889634;
  static constexpr double ln2_hi = 0.6931471803691238, ln2_lo = 1.9082149292705877e-10;
  static constexpr double inv_pio2 = 0.6366197723675814;
  static constexpr double pio2_hi = 1.5707963267948966, pio2_lo = 6.123233995736766e-17;
  static constexpr double exp_min = -746.0, exp_max = 710.0;
  static constexpr double gauss_max = 27.375;
  static constexpr double negligible = 40.0;
};

template <class T> using Bits = typename Format<T>::Bits;

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
NEUROGEN_FN unsigned int bits(float x) { return __float_as_uint(x); }
NEUROGEN_FN unsigned long long bits(double x) { return __double_as_longlong(x); }
NEUROGEN_FN float from_bits(unsigned int b) { return __uint_as_float(b); }
NEUROGEN_FN double from_bits(unsigned long long b) { return __longlong_as_double(b); }
NEUROGEN_FN float sqrt(float x) { return __fsqrt_rn(x); }
NEUROGEN_FN double sqrt(double x) { return __dsqrt_rn(x); }

template <class T> NEUROGEN_FN T select(bool condition, T a, T b) { return condition ? a : b; }
#else
NEUROGEN_FN unsigned int bits(float x) { return __builtin_bit_cast(unsigned int, x); }
NEUROGEN_FN unsigned long long bits(double x) { return __builtin_bit_cast(unsigned long long, x); }
NEUROGEN_FN float from_bits(unsigned int b) { return __builtin_bit_cast(float, b); }
NEUROGEN_FN double from_bits(unsigned long long b) { return __builtin_bit_cast(double, b); }
NEUROGEN_FN float sqrt(float x) { return __builtin_sqrtf(x); }
NEUROGEN_FN double sqrt(double x) { return __builtin_sqrt(x); }

// A mask, because gcc makes branches of ?: and specialises what follows for each of them before it
// comes to vectorise.
template <class T> NEUROGEN_FN T select(bool condition, T a, T b) {
  const Bits<T> mask = 0 - static_cast<Bits<T>>(condition);
  return from_bits((bits(a) & mask) | (bits(b) & ~mask));
}
#endif

// ---- Exact functions ----------------------------------------------------------------------------

template <class T> NEUROGEN_FN T abs(T x) { return from_bits(bits(x) & ~Format<T>::sign); }

/// |y| with the sign of x, that of a zero included.
template <class T> NEUROGEN_FN T with_sign(T y, T x) {
  return from_bits((bits(y) & ~Format<T>::sign) | (bits(x) & Format<T>::sign));
}

template <class T> NEUROGEN_FN T sign(T x) {
  return select(x > 0, T(1), select(x < 0, T(-1), select(x == 0, T(0), x)));
}

template <class T> NEUROGEN_FN T minimum(T a, T b) {
  return select((b < a) | (b != b), b, a);  // a NaN in a fails both comparisons and stays
}

template <class T> NEUROGEN_FN T maximum(T a, T b) { return select((a < b) | (b != b), b, a); }

template <class T> NEUROGEN_FN T clip(T x, T lo, T hi) { return minimum(maximum(x, lo), hi); }

template <class T> NEUROGEN_FN T relu(T x) { return select(x < 0, T(0), x); }

/// To the nearest integer, ties to even.
template <class T> NEUROGEN_FN T round(T x) {
  const T a = abs(x);
  const T nearest = (a + Format<T>::integer) - Format<T>::integer;  // no digit below 1 survives
  return select(a < Format<T>::integer, with_sign(nearest, x), x);
}

template <class T> NEUROGEN_FN T floor(T x) {
  const T nearest = round(x);
  return with_sign(select(nearest > x, nearest - 1, nearest), x);
}

// ---- Tools --------------------------------------------------------------------------------------

/// c0 + c1 x + c2 x^2 + ..., by pairs of terms: a chain half as long as that of Horner's rule.
template <class T> NEUROGEN_FN T paired(T, T, T c) { return c; }
template <class T> NEUROGEN_FN T paired(T x, T, T c, T d) { return c + x * d; }
template <class T, class... Rest> NEUROGEN_FN T paired(T x, T xx, T c, T d, Rest... rest) {
  return (c + x * d) + xx * paired(x, xx, rest...);
}
template <class T, class... Coefficients> NEUROGEN_FN T poly(T x, Coefficients... c) {
  return paired(x, x * x, c...);
}

/// The integer nearest to x, as a number and, in the low bits, as an integer modulo 2^width.
/// Adding 1.5 * 2^mantissa leaves no room for a fraction and puts the integer in the last bits.
template <class T> struct Rounded {
  T value;
  Bits<T> integer;
};
template <class T> NEUROGEN_FN Rounded<T> rounded(T x) {
  const T t = x + Format<T>::shifter;
  return {t - Format<T>::shifter, bits(t) - bits(Format<T>::shifter)};
}

/// x * 2^n in two steps, the first exact: overflow and underflow round once, as they should.
template <class T> NEUROGEN_FN T scaled(T x, Bits<T> n) {
  const Bits<T> exponents = n + 2 * Format<T>::bias;
  const Bits<T> half = exponents >> 1;
  return x * from_bits(half << Format<T>::mantissa)
         * from_bits((exponents - half) << Format<T>::mantissa);
}

// ---- Exponentials -------------------------------------------------------------------------------

// (exp(r) - 1 - r) / r^2 for |r| <= 0.347
NEUROGEN_FN float exp_tail(float r) {
  return poly(r, 0.5f, 0.16666542f, 0.041666605f, 0.008366704f, 0.0013921789f);
}
NEUROGEN_FN double exp_tail(double r) {
  return poly(r, 0.5, 0.16666666666666677, 0.041666666666666664, 0.008333333333321168,
              0.0013888888888886081, 0.0001984126988779608, 2.4801587317963278e-05,
              2.755724211202578e-06, 2.7557282761058186e-07, 2.510989241634355e-08,
              2.0911055784450493e-09);
}

/// exp(a - b), where b may be too small to change a; a constant b = 0 compiles to nothing.
template <class T> NEUROGEN_FN T exp_difference(T a, T b) {
  const Rounded<T> n = rounded((a - b) * Format<T>::inv_ln2);
  const T r = ((a - n.value * Format<T>::ln2_hi) - b) - n.value * Format<T>::ln2_lo;
  return scaled(1 + (r + r * r * exp_tail(r)), n.integer);
}

template <class T> NEUROGEN_FN T exp(T x) {
  using F = Format<T>;
  const T y = select(x < F::exp_min, T(0), exp_difference(x, T(0)));
  return select(x > F::exp_max, from_bits(F::infinity), y);
}

/// exp(-x^2), with the square in an exact part and a rest: exp would multiply the relative error of
/// a rounded one by x^2.
template <class T> NEUROGEN_FN T gaussian(T x) {
  const T h = from_bits(bits(x) & Format<T>::upper_half);
  const T y = exp_difference(-(h * h), (x - h) * (x + h));
  return select(abs(x) > Format<T>::gauss_max, T(0), y);
}

/// exp(v) + c for c = 1 or -1, as 2^n value: hardly more than the last sum is rounded, though the
/// terms may cancel.
template <class T> struct Shifted {
  T value;
  Bits<T> n;
};
template <class T> NEUROGEN_FN Shifted<T> exp_plus(T v, T c) {
  const Rounded<T> n = rounded(v * Format<T>::inv_ln2);
  const T hi = v - n.value * Format<T>::ln2_hi;
  const T lo = n.value * Format<T>::ln2_lo;
  const T r = hi - lo;
  const T tail = ((hi - r) - lo) + r * r * exp_tail(r);  // exp(v) = 2^n (1 + r + tail)
  const T power = from_bits((Format<T>::bias - n.integer) << Format<T>::mantissa);  // 2^-n
  const T shift = select(n.value > 64, T(0), c * power);
  const T base = 1 + shift;
  const T sum = base + r;
  const T lost = (shift - (base - 1)) + (r - (sum - base));  // in the two roundings, exactly
  return {sum + (lost + tail), n.integer};
}

template <class T> NEUROGEN_FN T expm1(T x) {
  using F = Format<T>;
  const Shifted<T> e = exp_plus(x, T(-1));
  const T y = select(x < -F::negligible, T(-1), with_sign(scaled(e.value, e.n), x));
  return select(x > F::exp_max, from_bits(F::infinity), y);
}

/// (exp(x) - 1) / x, 1 at 0: what an exponential integrator steps by.
template <class T> NEUROGEN_FN T phi(T x) { return select(x == 0, T(1), expm1(x) / x); }

// The series of phi' to |x| = 1: the sum of x^k / (k! (k + 2))
NEUROGEN_FN float phi_slope_near(float x) {
  return poly(x, 0.5f, 0.33333334f, 0.125f, 0.033333335f, 0.0069444445f, 0.0011904762f,
              0.00017361112f, 2.2045855e-05f, 2.4801586e-06f, 2.5052108e-07f, 2.2964433e-08f);
}
NEUROGEN_FN double phi_slope_near(double x) {
  return poly(x, 0.5, 0.3333333333333333, 0.125, 0.03333333333333333, 0.006944444444444444,
              0.0011904761904761906, 0.00017361111111111112, 2.2045855379188714e-05,
              2.48015873015873e-06, 2.505210838544172e-07, 2.296443268665491e-08,
              1.9270852604185937e-09, 1.4911969277048643e-10, 1.0706029224547743e-11,
              7.169215998581078e-13, 4.498331606952833e-14, 2.6552651846596585e-15,
              1.4797143443923793e-16);
}

/// phi'(x) = (exp(x) - phi(x)) / x, by its series where that cancels.
template <class T> NEUROGEN_FN T phi_slope(T x) {
  return select(abs(x) < 1, phi_slope_near(x), (exp(x) - phi(x)) / x);
}

/// 1 / (1 + exp(-x)), with 2^n outside the quotient, where it cannot overflow.
template <class T> NEUROGEN_FN T sigmoid(T x) {
  using F = Format<T>;
  const Shifted<T> e = exp_plus(-x, T(1));
  const T y = select(x < F::exp_min, T(0), scaled(1 / e.value, 0 - e.n));
  return select(x > F::negligible, T(1), y);
}

// ---- Logarithms ---------------------------------------------------------------------------------

// 2 atanh(s)/s - 2 as a polynomial of z = s^2, |s| <= 0.2
NEUROGEN_FN float log_tail(float z) {
  return z * poly(z, 0.6666666f, 0.40000933f, 0.28503516f, 0.24151592f);
}
NEUROGEN_FN double log_tail(double z) {
  return z * poly(z, 0.6666666666667282, 0.3999999999609956, 0.28571429406432125,
                  0.2222213759169071, 0.18186393328270467, 0.15249443160017526,
                  0.15373988231064253);
}

/// x = 2^k (1 + f) with 1 + f between sqrt(1/2) and sqrt(2); x is positive and normal.
template <class T> struct Split {
  T k, f;
};
template <class T> NEUROGEN_FN Split<T> split(T x) {
  using F = Format<T>;
  const Bits<T> b = bits(x) + (bits(T(1)) - F::sqrt_half);
  const Bits<T> k = (b >> F::mantissa) - F::bias;
  const Bits<T> fraction = b & ((Bits<T>(1) << F::mantissa) - 1);
  return {from_bits(bits(F::shifter) + k) - F::shifter, from_bits(fraction + F::sqrt_half) - 1};
}

/// k ln 2 + log(1 + f) - e for -0.3 < f <= 0.5, by log(1 + f) = 2 atanh(s). As in fdlibm, this is
/// written so that the leading term, f, is added last.
template <class T> NEUROGEN_FN T log_of(T k, T f, T e) {
  const T s = f / (2 + f);
  const T h = T(0.5) * f * f;
  const T rest = s * (h + log_tail(s * s)) + (k * Format<T>::ln2_lo - e);
  return k * Format<T>::ln2_hi - ((h - rest) - f);
}

template <class T> NEUROGEN_FN T log(T x) {
  using F = Format<T>;
  const bool small = x < F::min_normal;
  const Split<T> y = split(select(small, x * F::integer, x));
  const T k = y.k - select(small, T(F::mantissa), T(0));
  const T outside = select(x == 0, -from_bits(F::infinity), from_bits(F::nan));
  const T inside = select(x < from_bits(F::infinity), log_of(k, y.f, T(0)), x);
  return select(x > 0, inside, outside);
}

template <class T> NEUROGEN_FN T log1p(T x) {
  const T infinity = from_bits(Format<T>::infinity);
  const T u = 1 + x;
  const T e = ((u - 1) - x) / u;  // what the rounding of u adds to log(u)
  const Split<T> y = split(u);
  const bool exact = y.k == 0;  // then f is x itself, without the rounding of u
  const T result = log_of(y.k, select(exact, x, y.f), select(exact, T(0), e));
  const T outside = select(x == -1, -infinity, from_bits(Format<T>::nan));
  return select(x > -1, select(x < infinity, with_sign(result, x), x), outside);
}

/// log(1 + exp(x)) = max(x, 0) + log(1 + exp(-|x|)); the last argument is between 1 and 2.
template <class T> NEUROGEN_FN T softplus(T x) {
  const T e = exp(-abs(x));
  const bool small = e < T(0.5);
  const T f = select(small, e, T(0.5) * (e - 1));
  return select(x > 0, x, T(0)) + log_of(select(small, T(0), T(1)), f, T(0));
}

// ---- tanh and erf -------------------------------------------------------------------------------

// (tanh(x)/x - 1) / z as a polynomial of z = x^2, |x| <= 0.55
NEUROGEN_FN float tanh_tail(float z) {
  return poly(z, -0.33333322f, 0.13332722f, -0.053864695f, 0.021117523f, -0.006333679f);
}
NEUROGEN_FN double tanh_tail(double z) {
  return poly(z, -0.3333333333333307, 0.13333333333256503, -0.0539682539124567,
              0.02186948673077762, -0.00886320352724413, 0.003591785443321254,
              -0.00145351420015177, 0.0005799526801201925, -0.00021154407206105524,
              5.182667103253413e-05);
}

template <class T> NEUROGEN_FN T tanh(T x) {
  const T a = abs(x);
  const T z = a * a;
  const T inner = a + a * (z * tanh_tail(z));
  const T outer = 1 - 2 / (exp(2 * a) + 1);
  return with_sign(select(a < T(0.55), inner, outer), x);
}

// erf(x)/x - 1 as a polynomial of z = x^2, |x| <= 1
NEUROGEN_FN float erf_tail(float z) {
  return poly(z, 0.12837917f, -0.3761263f, 0.11283618f, -0.026855126f, 0.0051907334f,
              -0.00080307503f, 7.920303e-05f);
}
NEUROGEN_FN double erf_tail(double z) {
  return poly(z, 0.12837916709551256, -0.3761263890318334, 0.11283791670936535,
              -0.026866170641868085, 0.00522397759582319, -0.0008548325434855857,
              0.00012055278844648305, -1.4924431600692267e-05, 1.6443708484842996e-06,
              -1.6180476428282422e-07, 1.3601081343645396e-08, -7.578105377251352e-10);
}
// erfc(x) exp(x^2) as a polynomial of t for x >= 1, fitted to make 1 - erfc(x) accurate
NEUROGEN_FN float erfcx(float x) {
  const float t = 1 / (1 + 0.4375f * x);
  return poly(t, -0.008508074f, 0.30315503f, 0.123826765f, 0.27965385f, 0.3037382f);
}
NEUROGEN_FN double erfcx(double x) {
  const double t = 1 / (1 + 0.375 * x);
  return poly(t, -3.331915706553335e-05, 0.21218295137324583, 0.2065709132557009,
              0.2204065577372872, 0.09618391091487662, 0.2571645149664263,
              -0.049550894830756656, 0.012790233330663321, 0.24538500409587577,
              -0.337111181459007, 0.1655262796904284, -0.029515184753961966);
}

template <class T> NEUROGEN_FN T erf(T x) {
  const T a = abs(x);
  const T z = a * a;
  const T inner = a + a * erf_tail(z);
  const T outer = 1 - exp(-z) * erfcx(a);
  return with_sign(select(a < 1, inner, outer), x);
}

// ---- Circular functions -------------------------------------------------------------------------

// (sin(r)/r - 1) / z and (cos(r) - 1 + z/2) / z^2 as polynomials of z = r^2, |r| <= 0.86 in float
// (where the quadrant of a large x is not always the nearest one) and 0.786 in double
NEUROGEN_FN float sin_tail(float z) { return poly(z, -0.16666648f, 0.008331725f, -0.00019457846f); }
NEUROGEN_FN float cos_tail(float z) { return poly(z, 0.041666634f, -0.0013886766f, 2.4371722e-5f); }
NEUROGEN_FN double sin_tail(double z) {
  return poly(z, -0.16666666666666638, 0.008333333333323433, -0.00019841269830406092,
              2.7557313848534116e-06, -2.505077680029456e-08, 1.5897617066487496e-10);
}
NEUROGEN_FN double cos_tail(double z) {
  return poly(z, 0.041666666666666616, -0.0013888888888876482, 2.4801587290754136e-05,
              -2.755731467712457e-07, 2.0875762947793017e-09, -1.1361516943581177e-11);
}

// x - n pi/2, with pi/2 in parts of 33 bits, whose products with n are exact while |n| < 2^20. The
// float one needs a few operations in double: exact products of floats would take many more parts.
NEUROGEN_FN float reduced(float x, float n) {
  return static_cast<float>((x - n * 1.5707963267341256) - n * 6.077100506506192e-11);
}
NEUROGEN_FN double reduced(double x, double n) {
  const double head = x - n * 1.5707963267341256;  // exact
  // next to a multiple of pi/2 all of this cancels, so two differences keep their rounding errors
  const double p = n * 6.077100506303966e-11, r = head - p;
  const double v = r - head, r_error = (head - (r - v)) - (p + v);
  const double q = n * 2.0222662487111665e-21, s = r - q;
  const double w = s - r, s_error = (r - (s - w)) - (q + w);
  return s + ((r_error + s_error) - n * 8.4784276603689e-32);
}

/// sin(x + quarter pi/2)
template <class T> NEUROGEN_FN T sine(T x, Bits<T> quarter) {
  const Rounded<T> n = rounded(x * Format<T>::inv_pio2);
  const T r = reduced(x, n.value);
  const T z = r * r;
  const T s = r + r * (z * sin_tail(z));
  const T c = 1 - (T(0.5) * z - z * z * cos_tail(z));
  const Bits<T> quadrant = n.integer + quarter;
  const Bits<T> odd = 0 - (quadrant & 1);  // a mask: 64-bit comparisons are rare in vector units
  const Bits<T> y = (bits(c) & odd) | (bits(s) & ~odd);
  const T result = from_bits(y ^ ((quadrant & 2) << (Format<T>::width - 2)));
  return select(abs(r) <= 1, result, r - r);  // 0 where reduction failed, NaN for an infinite x
}

// select() is for the sign of a zero
template <class T> NEUROGEN_FN T sin(T x) { return select(x == 0, x, sine(x, Bits<T>(0))); }

template <class T> NEUROGEN_FN T cos(T x) { return sine(x, Bits<T>(1)); }

// (atan(t)/t - 1) / z as a polynomial of z = t^2, |t| <= 0.66
NEUROGEN_FN float atan_tail(float z) {
  return poly(z, -0.33333257f, 0.19995813f, -0.14214179f, 0.105529696f, -0.06809254f,
              0.025417652f);
}
NEUROGEN_FN double atan_tail(double z) {
  return poly(z, -0.33333333333333137, 0.19999999999915757, -0.14285714277235068,
              0.11111110729620391, -0.09090899458575138, 0.07692154595212253,
              -0.0666502900276264, 0.05870065819732972, -0.051968187582383724,
              0.04500268326205374, -0.03588217459748099, 0.023697663551956568,
              -0.01097160513438041, 0.0025610908232609926);
}

/// atan(a) = base + atan(t): base 0, pi/4, pi/2 with t = a, (a - 1)/(a + 1), -1/a (as in Cephes)
template <class T> NEUROGEN_FN T atan(T x) {
  const T a = abs(x);
  const bool middle = a > T(0.66), outer = a > T(2.414213562373095);
  const T above = select(outer, T(-1), select(middle, a - 1, a));
  const T below = select(outer, a, select(middle, a + 1, T(1)));
  const T base = select(outer, T(1), select(middle, T(0.5), T(0)));  // in units of pi/2
  const T t = above / below;
  const T z = t * t;
  const T rest = base * Format<T>::pio2_lo + t * (z * atan_tail(z));
  return with_sign(base * Format<T>::pio2_hi + (t + rest), x);
}

}  // namespace neurogen
