// Shared by all kernels: pixels, borders, random bits. A canvas is [B, H, W, 3] in memory; of
// sample b only the first h rows and w columns are an image.
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

// Pixels as floats in [0, 1]. Of 8-bit values the sum is v / 255, correctly rounded, for each of
// them: a true division takes ten instructions, and many more where it is of 0.
__device__ __forceinline__ float unit8(float v)
{
    return fmaf(v, 0x1.010102p-8f, v * -0x1.fdfdfep-33f);
}
__device__ __forceinline__ float value(u8 v) { return unit8(v); }
__device__ __forceinline__ float value(float v) { return v; }

// Value i of a canvas that holds floats or, before the first stage and after JPEG, 8-bit values.
__device__ __forceinline__ float pixel(const void* x, bool bytes, size_t i)
{
    return bytes ? value(((const u8*)x)[i]) : ((const float*)x)[i];
}

// Index i reflected into 0 .. n-1 without repeating the edge, however far out it lies.
__device__ __forceinline__ int reflect(int i, int n)
{
    const int period = max(2 * n - 2, 1);
    i = abs(i);
    if (i > period) i %= period;
    return min(i, period - i);
}

__device__ __forceinline__ int clamp(int i, int low, int high)
{
    return i < low ? low : i > high ? high : i;
}
__device__ __forceinline__ float unit(float v) { return fminf(fmaxf(v, 0.0f), 1.0f); }

// 8-bit level of a float, clamped, half to even. Products and sums are kept apart here as torch and
// NumPy have them: an FMA would settle other ties. The sum with 1.5 * 2^23 has no bits for
// fractions and ends in the level; a conversion would take as long as eight sums.
__device__ __forceinline__ int level8(float v, float nudge)
{
    const float scaled = __fadd_rn(__fmul_rn(unit(v), 255.0f), nudge);
    return __float_as_int(__fadd_rn(scaled, 12582912.0f)) & 255;
}

// Inputs of a filter: every STEP-th value, or the sums of two such lines.
template <int STEP> struct Line
{
    const float* s;
    __device__ __forceinline__ float operator[](int i) const { return s[i * STEP]; }
    __device__ __forceinline__ void advance(int i) { s += i * STEP; }
};
template <int STEP> struct Pair
{
    const float *s, *t;
    __device__ __forceinline__ float operator[](int i) const { return s[i * STEP] + t[i * STEP]; }
    __device__ __forceinline__ void advance(int i) { s += i * STEP; t += i * STEP; }
};

// acc[r] += sum_u w[u] in[u + r] for r = 0..15: sixteen neighbouring outputs of one filter, which
// share their inputs and taps in registers. There are n > 0 taps; of an odd number a zero follows.
// One input more than n + 15 is read then.
template <class Inputs> __device__ __forceinline__ void slide(
    float* acc, const float* w, Inputs in, int n)
{
    // The inputs u .. u + 15 in a ring, so that none is ever moved.
    float ring[16];
    #pragma unroll
    for (int r = 0; r < 15; r++) ring[r] = in[r];
    for (;;)
    {
        #pragma unroll
        for (int u = 0; u < 16; u++)
        {
            ring[(u + 15) % 16] = in[u + 15];
            #pragma unroll
            for (int r = 0; r < 16; r++) acc[r] += w[u] * ring[(u + r) % 16];
            if (u % 2 && n <= u + 1) return;
        }
        n -= 16;
        w += 16;
        in.advance(16);
    }
}

// Part of one channel of an image [h, w], whose values lie STEP apart on a canvas of width W,
// reflected at its borders: `rows` rows and `columns` columns, at most 32 CHUNKS, from (top, left)
// on. Thread t of a block of WARPS warps.
template <int CHUNKS, int WARPS, int STEP, class T> __device__ __forceinline__ void fill(
    float* tile, int pitch, const T* image, int W, int h, int w, int top, int left, int rows,
    int columns, int t)
{
    const int lane = t % 32;
    int at[CHUNKS];
    #pragma unroll
    for (int c = 0; c < CHUNKS; c++) at[c] = STEP * reflect(left + lane + 32 * c, w);
    for (int i = t / 32; i < rows; i += WARPS)
    {
        const T* line = image + (size_t)reflect(top + i, h) * W * STEP;
        #pragma unroll
        for (int c = 0; c < CHUNKS; c++)
            if (lane + 32 * c < columns) tile[i * pitch + lane + 32 * c] = value(line[at[c]]);
    }
}

// Block `block` (from 0) of NumPy's Philox4x64-10 stream with this key and counter (., number,
// plane, 0): NumPy counts before it draws.
__device__ __forceinline__ void philox(u64* out, u64 block, u64 number, u64 plane, u64 k0, u64 k1)
{
    u64 c0 = block + 1, c1 = number, c2 = plane, c3 = 0;
    #pragma unroll
    for (int round = 0; round < 10; round++)
    {
        u64 h0 = __umul64hi(0xD2E7470EE14C6C93ull, c0), l0 = 0xD2E7470EE14C6C93ull * c0;
        u64 h1 = __umul64hi(0xCA5A826395121157ull, c2), l1 = 0xCA5A826395121157ull * c2;
        c0 = h1 ^ c1 ^ k0;
        c1 = l1;
        c2 = h0 ^ c3 ^ k1;
        c3 = l0;
        k0 += 0x9E3779B97F4A7C15ull;
        k1 += 0xBB67AE8584CAA73Bull;
    }
    out[0] = c0; out[1] = c1; out[2] = c2; out[3] = c3;
}
