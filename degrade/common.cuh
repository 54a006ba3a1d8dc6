// Shared by all kernels: pixels, borders, random bits. A canvas is [B, H, W, 3] in memory; of
// sample b only the first h rows and w columns are an image.
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

// Value i of a canvas that holds floats or, before the first stage and after JPEG, 8-bit values.
__device__ __forceinline__ float pixel(const void* x, bool bytes, size_t i)
{
    return bytes ? ((const u8*)x)[i] / 255.0f : ((const float*)x)[i];
}

// Index i reflected into 0 .. n-1 without repeating the edge, however far out it lies.
__device__ __forceinline__ int reflect(int i, int n)
{
    if (n == 1) return 0;
    int period = 2 * (n - 1);
    i = i < 0 ? -i : i;
    if (i >= period) i %= period;
    return i < n ? i : period - i;
}

__device__ __forceinline__ int clamp(int i, int low, int high)
{
    return i < low ? low : i > high ? high : i;
}
__device__ __forceinline__ float unit(float v) { return fminf(fmaxf(v, 0.0f), 1.0f); }

// 8-bit level of a float in [0, 1], half to even. Products and sums are kept apart here as torch
// and NumPy have them: an FMA would settle other ties.
__device__ __forceinline__ int level8(float v, float nudge)
{
    return clamp((int)rintf(__fadd_rn(__fmul_rn(v, 255.0f), nudge)), 0, 255);
}

// acc[r] += sum_u w[u] s[(u + r) step] for r = 0..7: eight neighbouring outputs of one filter,
// which share their inputs and taps in registers. w has n taps and then 7 zeros.
__device__ __forceinline__ void slide(float* acc, const float* w, const float* s, int n, int step)
{
    float tap[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    for (int j0 = 0; j0 < n + 7; j0 += 8)
    {
        #pragma unroll
        for (int i = 0; i < 8; i++)
            if (j0 + i < n + 7)
            {
                tap[i] = w[j0 + i];
                float v = s[(j0 + i) * step];
                #pragma unroll
                for (int r = 0; r < 8; r++)
                    acc[r] += tap[(i - r) & 7] * v;      // input j lies under tap j - r of output r
            }
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
