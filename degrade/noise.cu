// Gaussian, Laplace, signed and Poisson noise from addressed bits, see noise.py: `occupied` marks
// the 8-bit levels of Poisson samples, `add` draws and adds.

enum { NONE, GAUSSIAN, POISSON, LAPLACE, SIGNED };

struct Noise { double amount; u64 seed, stream, number; int kind, gray, table, h, w; };

// 8-bit level of a value, or of the luma at a pixel (`at` is its first value).
__device__ int level(const void* x, bool bytes, size_t at, bool gray, float nudge)
{
    if (!gray) return level8(pixel(x, bytes, at), nudge);
    float luma = __fadd_rn(__fmul_rn(0.2989f, pixel(x, bytes, at)),
                           __fmul_rn(0.587f, pixel(x, bytes, at + 1)));
    return level8(__fadd_rn(luma, __fmul_rn(0.114f, pixel(x, bytes, at + 2))), nudge);
}

// seen [B, 8], zero before: 256 bits, one for each level that occurs. Grid (., B) of 256 threads. A
// bit is set or not in whatever order: runs repeat.
extern "C" __global__ void __launch_bounds__(256) occupied(
    const void* x, bool bytes, int H, int W, const Noise* params, u32* seen, float nudge)
{
    __shared__ u32 mine[8];
    const int b = blockIdx.y, t = threadIdx.x;
    const Noise p = params[b];
    if (p.kind != POISSON) return;
    if (t < 8) mine[t] = 0;
    __syncthreads();
    const int per_pixel = p.gray ? 1 : 3, row = p.w * per_pixel, count = p.h * row;
    for (int i = 256 * blockIdx.x + t; i < count; i += 256 * gridDim.x)
    {
        size_t at = ((size_t)b * H + i / row) * W * 3 + i % row * (p.gray ? 3 : 1);
        int l = level(x, bytes, at, p.gray, nudge);
        if (!(mine[l / 32] >> l % 32 & 1)) atomicOr(&mine[l / 32], 1u << l % 32);
    }
    __syncthreads();
    if (t < 8 && mine[t]) atomicOr(&seen[8 * b + t], mine[t]);
}

struct Alias { u16 threshold, own, other, unused; };

// A thread makes 16 values, those of one block of 16-bit numbers. quantiles [., 32768]: the lower
// halves of the tables, the upper half is its mirror image. alias [9, 65536] of V = 1, 2, 4, ...,
// 256, indexed level * 256 + r8. field, where given, holds the numbers or the counts instead, on a
// canvas like x. Grid (., B) of 128 threads.
extern "C" __global__ void __launch_bounds__(128) add(
    const void* x, bool bytes, float* y, int H, int W, const Noise* params, const u32* seen,
    const float* quantiles, const Alias* alias, float nudge, const float* field)
{
    const int b = blockIdx.y;
    const u64 block = 128ull * blockIdx.x + threadIdx.x;
    const Noise p = params[b];
    const bool gray = p.gray && p.kind != NONE;
    const int per_pixel = gray ? 1 : 3, row = p.w * per_pixel, count = p.h * row;
    const int first = (int)min(16 * block, (u64)count), last = min(first + 16, count);
    if (first == last) return;

    u64 bits[4], more[4] = {0, 0, 0, 0};
    // One pointer for both: registers are scarce.
    const void* table = quantiles + 32768 * p.table;
    float V = 1;
    if (p.kind != NONE) philox(bits, block, p.number, 0, p.seed, p.stream);
    if (p.kind == POISSON)
    {
        philox(more, block / 2, p.number, 1, p.seed, p.stream);
        int levels = 0, power = 0;
        for (int i = 0; i < 8; i++)
            levels += __popc(seen[8 * b + i]);
        while (1 << power < levels) power++;
        table = alias + 65536 * power;
        V = (float)(1 << power);
    }

    const float amount = (float)p.amount;
    int at_row = first / row, at_col = first % row;
    #pragma unroll 1
    for (int k = 0; k < 4; k++)
    {
        // Selected: an indexed array would live in memory.
        const u64 word = k < 2 ? k ? bits[1] : bits[0] : k == 2 ? bits[2] : bits[3];
        const u64 half = (block % 2 ? k < 2 ? more[2] : more[3] : k < 2 ? more[0] : more[1])
            >> 32 * (k % 2);
        #pragma unroll
        for (int i = 0; i < 4; i++)
        {
            if (first + 4 * k + i >= last) return;
            const size_t at = ((size_t)b * H + at_row) * W * 3 + at_col * (gray ? 3 : 1);
            const u32 r16 = word >> 16 * i & 0xffff, r8 = half >> 8 * i & 0xff;
            float n = 0;
            if (p.kind != NONE && p.kind != POISSON)
            {
                const float* numbers = (const float*)table;
                n = field ? field[at] : r16 < 32768 ? numbers[r16] : -numbers[65535 - r16];
            }
            else if (p.kind == POISSON)
            {
                const int l = level(x, bytes, at, gray, nudge);
                const Alias a = ((const Alias*)table)[l * 256 + r8];
                n = __fadd_rn((field ? field[at] : r16 < a.threshold ? a.own : a.other) / V,
                              -(l / 255.0f));
            }
            n = __fmul_rn(n, amount);
            for (int c = 0; c < 3 / per_pixel; c++)
            {
                const float v = pixel(x, bytes, at + c);
                y[at + c] = p.kind == NONE ? v : unit(__fadd_rn(v, n));
            }
            if (++at_col == row)
            {
                at_col = 0;
                at_row++;
            }
        }
    }
}
