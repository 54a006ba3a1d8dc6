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
    const int step = p.gray ? 3 : 1;
    for (int i = blockIdx.x; i < p.h; i += gridDim.x)
    {
        const size_t row = ((size_t)b * H + i) * W * 3;
        for (int j = t * step; j < 3 * p.w; j += 256 * step)
        {
            const int l = level(x, bytes, row + j, p.gray, nudge);
            if (!(mine[l / 32] >> l % 32 & 1)) atomicOr(&mine[l / 32], 1u << l % 32);
        }
    }
    __syncthreads();
    if (t < 8 && mine[t]) atomicOr(&seen[8 * b + t], mine[t]);
}

struct Alias { u16 threshold, own, other, unused; };

// Random bits of 4,096 values of a field, by 64-bit words: word i of the q-th block lies at [i][q].
// A block of plane 0 has sixteen 16-bit numbers, one of plane 1 has 32 bytes. The pitches keep the
// words that lanes read, and those that they write, in different banks.
struct Bits
{
    u64 numbers[4][260], bytes[4][132];
    __device__ __forceinline__ u32 number(int v) const
    {
        return ((const u16*)&numbers[v / 4 % 4][v / 16])[v % 4];
    }
    __device__ __forceinline__ u32 byte(int v) const
    {
        return ((const u8*)&bytes[v / 8 % 4][v / 32])[v % 8];
    }
};

// Draws the bits of the values from `first` to `end`; 128 threads.
__device__ __forceinline__ void draw(Bits& bits, const Noise& p, int first, int end, int t)
{
    u64 words[4];
    for (int q = t; q < 256 && first + 16 * q < end; q += 128)
    {
        philox(words, first / 16 + q, p.number, 0, p.seed, p.stream);
        for (int i = 0; i < 4; i++) bits.numbers[i][q] = words[i];
    }
    if (p.kind != POISSON || first + 32 * t >= end) return;
    philox(words, first / 32 + t, p.number, 1, p.seed, p.stream);
    for (int i = 0; i < 4; i++) bits.bytes[i][t] = words[i];
}

// The quantile of a 16-bit number: the table holds the lower half, the upper one is its negative.
__device__ __forceinline__ float quantile(const float* table, u32 r16)
{
    return r16 < 32768 ? table[r16] : -table[65535 - r16];
}

// Values of a sample's field, added to as many channels each. x, y and field begin with the sample.
template <int KIND, int CHANNELS> __device__ __forceinline__ void add_values(
    const void* x, bool bytes, float* y, int W, const Noise& p, const Bits& bits, const void* table,
    float V, float nudge, const float* field, int first, int end)
{
    // `at` is the place on the canvas of the value at `column` of its row.
    const int t = threadIdx.x, row = p.w * 3 / CHANNELS;
    int column = (first + t) % row, at = (first + t) / row * W * 3 + column * CHANNELS;
    const float amount = (float)p.amount;
    for (int v = t; v < end - first; v += 128)
    {
        float n = 0;
        if (KIND == GAUSSIAN)
            n = field ? field[at] : quantile((const float*)table, bits.number(v));
        else if (KIND == POISSON)
        {
            const int l = level(x, bytes, at, CHANNELS == 3, nudge);
            const Alias a = ((const Alias*)table)[l * 256 + bits.byte(v)];
            const u32 drawn = bits.number(v) < a.threshold ? a.own : a.other;
            n = __fadd_rn((field ? field[at] : (float)drawn) / V, -unit8((float)l));
        }
        n = __fmul_rn(n, amount);
        #pragma unroll
        for (int c = 0; c < CHANNELS; c++)
        {
            const float value = pixel(x, bytes, at + c);
            y[at + c] = KIND == NONE ? value : unit(__fadd_rn(value, n));
        }

        column += 128;
        at += 128 * CHANNELS;
        while (column >= row)
        {
            column -= row;
            at += 3 * (W - p.w);
        }
    }
}

// A block of 128 threads makes 4,096 values. quantiles [., 32768]: the lower halves of the tables.
// alias [9, 65536]: of V = 1, 2, 4, ..., 256, indexed level * 256 + r8. field: where given, the
// numbers or the counts to use instead, on a canvas like x. Grid (., B).
extern "C" __global__ void __launch_bounds__(128, 8) add(
    const void* x, bool bytes, float* y, int H, int W, const Noise* params, const u32* seen,
    const float* quantiles, const Alias* alias, float nudge, const float* field)
{
    __shared__ Bits bits;
    const int b = blockIdx.y, t = threadIdx.x, first = 4096 * blockIdx.x;
    const Noise p = params[b];
    const bool gray = p.gray && p.kind != NONE;
    const int count = p.h * p.w * (gray ? 1 : 3), end = min(first + 4096, count);
    if (first >= end) return;
    if (p.kind != NONE) draw(bits, p, first, end, t);
    __syncthreads();

    const void* table = quantiles + 32768 * p.table;
    float V = 1;
    if (p.kind == POISSON)
    {
        int levels = 0, power = 0;
        for (int i = 0; i < 8; i++)
            levels += __popc(seen[8 * b + i]);
        while (1 << power < levels) power++;
        table = alias + 65536 * power;
        V = (float)(1 << power);
    }

    const size_t image = (size_t)b * H * W * 3;
    x = bytes ? (const void*)((const u8*)x + image) : (const void*)((const float*)x + image);
    y += image;
    field = field ? field + image : nullptr;
    if (p.kind == NONE)
        add_values<NONE, 1>(x, bytes, y, W, p, bits, table, V, nudge, field, first, end);
    else if (p.kind == POISSON && gray)
        add_values<POISSON, 3>(x, bytes, y, W, p, bits, table, V, nudge, field, first, end);
    else if (p.kind == POISSON)
        add_values<POISSON, 1>(x, bytes, y, W, p, bits, table, V, nudge, field, first, end);
    else if (gray)
        add_values<GAUSSIAN, 3>(x, bytes, y, W, p, bits, table, V, nudge, field, first, end);
    else
        add_values<GAUSSIAN, 1>(x, bytes, y, W, p, bits, table, V, nudge, field, first, end);
}
