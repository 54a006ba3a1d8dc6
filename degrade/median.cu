// Median of a square window of 8-bit values, see median.py.

struct Median { int side, h, w; };               // side 1: skipped
const int MOST = 15;                             // side of the largest window
// 1 in each of three fields of 10 bits: red, green, blue.
const u32 ONES = 1 | 1 << 10 | 1 << 20;

// A pixel a thread, (32, 8) threads. The median is found bit by bit from the top: a level is at
// most the median if at least half of the window reaches it. Three channels are compared at once:
// 256 + value - level does not borrow from the next field, and has its bit 8 where the value
// reaches the level.
extern "C" __global__ void __launch_bounds__(256) median(
    const void* x, bool bytes, void* y, bool every, int H, int W, const Median* params)
{
    __shared__ u32 tile[(8 + MOST - 1) * (32 + MOST - 1)];
    const int b = blockIdx.z, x0 = 32 * blockIdx.x, y0 = 8 * blockIdx.y;
    const int px = x0 + threadIdx.x, py = y0 + threadIdx.y;
    const Median p = params[b];
    if (x0 >= p.w || y0 >= p.h) return;
    const int n = p.side, r = n / 2, across = 32 + n - 1, down = 8 + n - 1;
    const size_t image = (size_t)b * H * W;
    for (int i = 32 * threadIdx.y + threadIdx.x; i < across * down; i += 256)
    {
        const size_t row = image + (size_t)clamp(y0 + i / across - r, 0, p.h - 1) * W;
        const size_t at = (row + clamp(x0 + i % across - r, 0, p.w - 1)) * 3;
        u32 fields = 256 * ONES;
        for (int c = 0; c < 3; c++)
        {
            u32 v = bytes ? ((const u8*)x)[at + c] : level8(((const float*)x)[at + c], 0);
            fields |= v << 10 * c;
        }
        tile[i] = fields;
    }
    __syncthreads();
    if (px >= p.w || py >= p.h) return;

    const size_t at = (image + (size_t)py * W + px) * 3;
    const u32* window = tile + threadIdx.y * across + threadIdx.x;
    u32 found = 0;
    for (u32 bit = n > 1 ? 128 : 0; bit; bit /= 2)
    {
        const u32 level = found | bit * ONES;
        u32 reach = 0;                           // how many values of the window do, at most 225
        for (int v = 0; v < n; v++)
            for (int u = 0; u < n; u++)
                reach += (window[v * across + u] - level) >> 8 & ONES;
        for (int c = 0; c < 3; c++)
            if ((int)(reach >> 10 * c & 1023) > n * n / 2) found |= bit << 10 * c;
    }
    for (int c = 0; c < 3; c++)
    {
        const u32 level = found >> 10 * c & 255;
        if (every) ((u8*)y)[at + c] = level;
        else ((float*)y)[at + c] = n > 1 ? level / 255.0f : pixel(x, bytes, at + c);
    }
}
