// Blur by one kernel per sample, see blur.py. `make` computes the kernels; `blur21` and `blur41`
// (named by the largest number of taps) correlate.

enum { ISO, ANISO, GEN_ISO, GEN_ANISO, PLATEAU_ISO, PLATEAU_ANISO, SINC, DELTA, MOTION };
const int MOST = 41;             // taps

struct Blur { double sigma_x, sigma_y, theta, beta, omega; int kind, taps, h, w; };

// Value of a kernel at (x, y) from its centre, not normalised.
__device__ double value(const Blur& p, int x, int y)
{
    if (p.kind == SINC)
    {
        double d = sqrt((double)(x * x + y * y));
        return d > 0 ? p.omega * j1(p.omega * d) / (2 * 3.141592653589793 * d)
                     : p.omega * p.omega / (4 * 3.141592653589793);
    }
    double c = cos(p.theta), s = sin(p.theta);
    double u = x * c + y * s, v = y * c - x * s;
    if (p.kind == MOTION)
    {
        double along = fmin(fmax((u + p.sigma_x) / (2 * p.sigma_x), 0.0), 1.0);
        return (p.beta + (1 - 2 * p.beta) * along) * fmin(fmax(p.sigma_x + 1 - fabs(u), 0.0), 1.0)
            * fmax(1 - fabs(v), 0.0);
    }
    u /= p.sigma_x;
    v /= p.sigma_y;
    double q = u * u + v * v;
    if (p.kind <= ANISO) return exp(-q / 2);
    if (p.kind <= GEN_ANISO) return exp(-pow(q, p.beta) / 2);
    return 1 / (1 + pow(q, p.beta));
}

// Which taps of a column of a kernel matter.
struct Span { short first, count; };

// The shortest span of a column, n values `step` apart, with less than `spare` before and behind.
__device__ Span span(const double* column, int step, int n, double spare)
{
    int first = 0, last = n - 1;
    for (double sum = fabs(column[0]); sum < spare && first < n;)
        if (++first < n) sum += fabs(column[first * step]);
    for (double sum = fabs(column[last * step]); sum < spare && last > first;)
        sum += fabs(column[--last * step]);
    return {(short)first, (short)max(last - first + 1, 0)};
}

// How far from the centre of n x n taps those lie that matter, across and down; of a margin, which
// is one column, both are the same.
__device__ Span reach(const Span* columns, int count, int n)
{
    const int r = n / 2;
    int across = 0, down = 0;
    for (int v = 0; v < count; v++)
        if (columns[v].count)
        {
            const int first = columns[v].first, last = first + columns[v].count - 1;
            across = max(across, abs(v - r));
            down = max(down, max(r - first, last - r));
        }
    return {(short)(count == 1 ? down : across), (short)down};
}

// kernels [B, stride]: taps x taps values, row by row; of an isotropic Gaussian, which is the outer
// product of its margins, `taps` values of the margin. spans [B, MOST + 1]: of every column, or of
// the margin; the last one holds how far from the centre taps matter, across and down. One block of
// 256 threads per sample.
extern "C" __global__ void make(const Blur* params, float* kernels, int stride, Span* spans)
{
    __shared__ double values[MOST * MOST], sums[256];
    __shared__ Span found[MOST];
    const Blur p = params[blockIdx.x];
    const int n = p.taps, t = threadIdx.x, columns = p.kind == ISO ? 1 : n, count = n * columns;
    if (p.kind == DELTA) return;                 // nobody looks at it
    double sum = 0;
    for (int i = t; i < count; i += 256)
    {
        values[i] = p.kind == ISO ? value(p, i - n / 2, 0) : value(p, i % n - n / 2, i / n - n / 2);
        sum += values[i];
    }
    sums[t] = sum;
    for (int half = 128; half > 0; half /= 2)    // always the same order: runs repeat bit for bit
    {
        __syncthreads();
        if (t < half) sums[t] += sums[t + half];
    }
    __syncthreads();
    for (int i = t; i < count; i += 256)
        kernels[(size_t)blockIdx.x * stride + i] = (float)(values[i] / sums[0]);

    // Many kernels are far smaller than their frame. What is left out at the two ends of all
    // columns sums to at most 5e-7, which moves no 8-bit value.
    const double spare = 2.5e-7 * sums[0] / columns;
    if (t < columns) found[t] = span(values + t, columns, n, spare);
    __syncthreads();
    Span* out = spans + (MOST + 1) * blockIdx.x;
    if (t < columns) out[t] = found[t];
    if (t == 0) out[MOST] = reach(found, columns, n);
}

// A block makes 64 x ROWS pixels of one channel by (64, ROWS / 16) threads, each of which makes 16
// pixels below each other. R: largest radius.
template <int R, int ROWS> __device__ __forceinline__ void correlate(
    const void* x, bool bytes, float* y, int H, int W, const Blur* params, const float* kernels,
    int stride, const Span* spans)
{
    // An odd pitch keeps lanes in different banks; one row and column more than the border takes is
    // what an even number of taps reads.
    const int SIDE = 2 * R + 1, PITCH = 64 + 2 * R + 1, WARPS = ROWS / 8;
    __shared__ float tile[(ROWS + 2 * R + 1) * PITCH], taps[SIDE * (SIDE + 1)];
    __shared__ Span of[SIDE];
    const int b = blockIdx.z / 3, x0 = 64 * blockIdx.x, y0 = ROWS * blockIdx.y;
    const Blur p = params[b];
    if (x0 >= p.w || y0 >= p.h) return;
    const int t = 64 * threadIdx.y + threadIdx.x, px = x0 + threadIdx.x, py = y0 + 16 * threadIdx.y;
    const size_t image = (size_t)b * H * W * 3 + blockIdx.z % 3;
    float acc[16] = {0};

    if (p.kind == DELTA)
    {
        for (int i = 0; i < 16; i++)
            if (px < p.w && py + i < p.h)
                acc[i] = pixel(x, bytes, image + ((size_t)(py + i) * W + px) * 3);
    }
    else
    {
        const int n = p.taps, r = n / 2, columns = p.kind == ISO ? 1 : n;
        Span reach = {(short)r, (short)r};
        if (spans)
        {
            spans += (MOST + 1) * b;
            reach = spans[MOST];
        }
        const int left = reach.first, above = reach.count, rows = ROWS + 2 * above + 1;
        if (bytes)
            fill<(PITCH + 31) / 32, WARPS, 3>(tile, PITCH, (const u8*)x + image, W, p.h, p.w,
                                              y0 - above, x0 - left, rows, 64 + 2 * left + 1, t);
        else
            fill<(PITCH + 31) / 32, WARPS, 3>(tile, PITCH, (const float*)x + image, W, p.h, p.w,
                                              y0 - above, x0 - left, rows, 64 + 2 * left + 1, t);

        // The taps, column by column, each followed by a zero.
        const float* k = kernels + (size_t)b * stride;
        for (int v = t / 32; v < columns; v += WARPS)
        {
            const Span s = spans ? spans[v] : Span{0, (short)n};
            if (t % 32 == 0) of[v] = s;
            for (int u = t % 32; u <= s.count; u += 32)
                taps[v * (SIDE + 1) + u] = u < s.count ? k[(s.first + u) * columns + v] : 0.0f;
        }
        __syncthreads();

        if (p.kind == ISO)
        {
            // Across, in place, and then down. Lanes take different rows.
            const int segment = 16 * (t / ROWS);
            for (int i = t % ROWS; i - t % ROWS < rows; i += ROWS)
            {
                float part[16] = {0};
                float* row = tile + i * PITCH + segment;
                if (i < rows) slide(part, taps, Line<1>{row}, of[0].count);
                __syncthreads();
                for (int o = 0; o < 16 && i < rows; o++) row[o] = part[o];
            }
            __syncthreads();
        }
        if (px >= p.w || py >= p.h) return;

        // From here on a tile's place (i, j) lies under the tap of row i and column j.
        const float* here = tile + 16 * threadIdx.y * PITCH + threadIdx.x;
        if (p.kind == ISO)
            slide(acc, taps, Line<PITCH>{here}, of[0].count);
        else
        {
            // Where rows are the mirror images of each other, columns are as well, and two of them
            // have the same taps.
            const bool mirrored = p.kind == GEN_ISO || p.kind == PLATEAU_ISO || p.kind == SINC;
            here += (above - r) * PITCH + left - r;
            for (int v = r - left; v <= (mirrored ? r - 1 : r + left); v++)
            {
                const Span s = of[v];
                const float* column = here + s.first * PITCH + v;
                if (!s.count) continue;
                if (mirrored)
                    slide(acc, taps + v * (SIDE + 1),
                          Pair<PITCH>{column, column + n - 1 - 2 * v}, s.count);
                else
                    slide(acc, taps + v * (SIDE + 1), Line<PITCH>{column}, s.count);
            }
            if (mirrored)
                slide(acc, taps + r * (SIDE + 1), Line<PITCH>{here + of[r].first * PITCH + r},
                      of[r].count);
        }
    }

    if (px >= p.w) return;
    float* to = y + image + ((size_t)py * W + px) * 3;
    for (int i = 0; i < 16; i++)
        if (py + i < p.h) to[(size_t)i * W * 3] = acc[i];
}

// Four blocks to a multiprocessor: left to itself, the compiler spills registers for a fifth.
extern "C" __global__ void __launch_bounds__(256, 4) blur21(
    const void* x, bool bytes, float* y, int H, int W, const Blur* params, const float* kernels,
    int stride, const Span* spans)
{
    correlate<10, 64>(x, bytes, y, H, W, params, kernels, stride, spans);
}

extern "C" __global__ void __launch_bounds__(192) blur41(
    const void* x, bool bytes, float* y, int H, int W, const Blur* params, const float* kernels,
    int stride, const Span* spans)
{
    correlate<20, 48>(x, bytes, y, H, W, params, kernels, stride, spans);
}
