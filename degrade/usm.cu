// USM sharpening, see usm.py: the Gaussian of 51 taps is separable, so two passes blur and two
// soften the mask. What lies between the passes are planes [B, 3, PH, PW], large enough for whole
// tiles.

struct Usm { int on, h, w; };
const int TAPS = 51, R = 25;

// The mask as 8-bit values: 1 where a residual has more than 10 grey levels.
__device__ __forceinline__ u8 edge(float v, float blurred)
{
    return fabsf(v - blurred) * 255 > 10 ? 255 : 0;
}

// What a thread does with 16 pixels below each other, or those of them that there are. Neighbours
// lie `step` values apart on a canvas and PW in a plane; acc are those of the Gaussian.
template <class T> __device__ __forceinline__ void find_edges(
    const T* x, float* blurred, u8* mask, const float* acc, int step, int PW, int count)
{
    #pragma unroll
    for (int i = 0; i < 16; i++)
    {
        if (i == count) return;
        blurred[i * PW] = acc[i];
        mask[i * PW] = edge(value(x[i * step]), acc[i]);
    }
}
template <class T> __device__ __forceinline__ void sharpen(
    const T* x, const float* blurred, float* y, const float* acc, int step, int PW, int count)
{
    #pragma unroll
    for (int i = 0; i < 16; i++)
    {
        if (i == count) return;
        const float v = value(x[i * step]);
        y[i * step] = v + acc[i] * (unit(v + 0.5f * (v - blurred[i * PW])) - v);
    }
}

// Across: of x or, where it is given, of the mask. 128 x 16 pixels of one channel by 128 threads,
// 16 pixels in a row each.
extern "C" __global__ void __launch_bounds__(128) across(
    const void* x, bool bytes, const u8* mask, float* rows, int H, int W, int PH, int PW,
    const Usm* params, const float* row)
{
    // Lanes take different rows: an odd pitch keeps them in different banks.
    const int SIDE = 128 + 2 * R + 1, PITCH = SIDE, CHUNKS = (SIDE + 31) / 32;
    __shared__ float tile[16 * PITCH], taps[TAPS + 1];
    const int b = blockIdx.z / 3, x0 = 128 * blockIdx.x, y0 = 16 * blockIdx.y, t = threadIdx.x;
    const Usm p = params[b];
    if (!p.on || x0 >= p.w || y0 >= p.h) return;
    const size_t image = (size_t)b * H * W * 3 + blockIdx.z % 3;
    const size_t plane = (size_t)blockIdx.z * PH * PW;
    const int left = x0 - R;
    if (mask)
        fill<CHUNKS, 4, 1>(tile, PITCH, mask + plane, PW, p.h, p.w, y0, left, 16, SIDE, t);
    else if (bytes)
        fill<CHUNKS, 4, 3>(tile, PITCH, (const u8*)x + image, W, p.h, p.w, y0, left, 16, SIDE, t);
    else
        fill<CHUNKS, 4, 3>(tile, PITCH, (const float*)x + image, W, p.h, p.w, y0, left, 16, SIDE,
                           t);
    if (t < TAPS + 1) taps[t] = t < TAPS ? row[t] : 0.0f;
    __syncthreads();

    float acc[16] = {0};
    const int i = t % 16, j = t / 16 * 16;
    slide(acc, taps, Line<1>{tile + i * PITCH + j}, TAPS);
    __syncthreads();

    // In rows again, so that lanes write what lies side by side.
    for (int o = 0; o < 16; o++) tile[i * PITCH + j + o] = acc[o];
    __syncthreads();
    float* to = rows + plane + (size_t)y0 * PW + x0 + t;
    for (int o = 0; o < 16; o++) to[(size_t)o * PW] = tile[o * PITCH + t];
}

// Down. Where y is not given, the rows are the picture's: `blurred` and the mask are made; else
// they are the mask's, and y is the sharpened x. 64 x 128 pixels of one channel by (64, 8) threads,
// 16 pixels below each other each.
extern "C" __global__ void __launch_bounds__(512) down(
    const float* rows, const void* x, bool bytes, float* blurred, u8* mask, float* y, int H, int W,
    int PH, int PW, const Usm* params, const float* row)
{
    const int SIDE = 128 + 2 * R + 1;
    __shared__ float tile[SIDE * 64], taps[TAPS + 1];
    const int b = blockIdx.z / 3, x0 = 64 * blockIdx.x, y0 = 128 * blockIdx.y;
    const int t = 64 * threadIdx.y + threadIdx.x, px = x0 + threadIdx.x, py = y0 + 16 * threadIdx.y;
    const Usm p = params[b];
    if ((!p.on && !y) || x0 >= p.w || y0 >= p.h) return;
    const size_t plane = (size_t)blockIdx.z * PH * PW;
    float acc[16] = {0};
    if (p.on)
    {
        // A warp copies a row, a lane two values.
        const float2* from = (const float2*)(rows + plane + x0) + t % 32;
        for (int i = t / 32; i < SIDE; i += 16)
            ((float2*)tile)[t + 32 * (i - t / 32)] = from[reflect(y0 + i - R, p.h) * (PW / 2)];
        if (t < TAPS + 1) taps[t] = t < TAPS ? row[t] : 0.0f;
        __syncthreads();
        slide(acc, taps, Line<64>{tile + 16 * threadIdx.y * 64 + threadIdx.x}, TAPS);
    }
    if (px >= p.w || py >= p.h) return;

    const int count = min(p.h - py, 16), step = 3 * W;
    const size_t at = (((size_t)b * H + py) * W + px) * 3 + blockIdx.z % 3;
    const size_t in_plane = plane + (size_t)py * PW + px;
    const u8* levels = (const u8*)x + at;
    const float* floats = (const float*)x + at;
    blurred += in_plane;
    if (!p.on)
        for (int i = 0; i < count; i++)
            y[at + i * step] = bytes ? value(levels[i * step]) : floats[i * step];
    else if (y && bytes)
        sharpen(levels, blurred, y + at, acc, step, PW, count);
    else if (y)
        sharpen(floats, blurred, y + at, acc, step, PW, count);
    else if (bytes)
        find_edges(levels, blurred, mask + in_plane, acc, step, PW, count);
    else
        find_edges(floats, blurred, mask + in_plane, acc, step, PW, count);
}
