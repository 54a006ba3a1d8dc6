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

// kernels [B, stride]: taps x taps values, row by row; of an isotropic Gaussian, which is the outer
// product of its margins, `taps` values of the margin. One block of 256 threads per sample.
extern "C" __global__ void make(const Blur* params, float* kernels, int stride)
{
    __shared__ double values[MOST * MOST], sums[256];
    const Blur p = params[blockIdx.x];
    const int n = p.taps, t = threadIdx.x, count = p.kind == ISO ? n : n * n;
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
}

// One channel of 32 x 32 pixels by (32, 4) threads; a thread makes 8 pixels below each other. R:
// largest radius.
template <int R> __device__ void correlate(
    const void* x, bool bytes, float* y, int H, int W, const Blur* params, const float* kernels,
    int stride)
{
    // An odd pitch keeps lanes in different banks.
    const int SIDE = 32 + 2 * R, PITCH = SIDE + 1;
    __shared__ float tile[SIDE * PITCH], taps[(2 * R + 1) * (2 * R + 8)], rows[SIDE * 33];
    const int b = blockIdx.z / 3, channel = blockIdx.z % 3;
    const int x0 = 32 * blockIdx.x, y0 = 32 * blockIdx.y;
    const Blur p = params[b];
    if (x0 >= p.w || y0 >= p.h) return;
    const int t = 32 * threadIdx.y + threadIdx.x, n = p.taps, r = n / 2, side = 32 + n - 1;
    const int px = x0 + threadIdx.x, py = y0 + 8 * threadIdx.y;
    const size_t image = (size_t)b * H * W * 3 + channel;
    float acc[8] = {0, 0, 0, 0, 0, 0, 0, 0};

    if (p.kind == DELTA)
    {
        for (int i = 0; i < 8; i++)
            if (px < p.w && py + i < p.h)
                acc[i] = pixel(x, bytes, image + ((size_t)(py + i) * W + px) * 3);
    }
    else
    {
        // The tile with its border, and the taps: of a kernel column by column, each followed by 7
        // zeros.
        for (int i = t; i < side * side; i += 128)
        {
            int sy = reflect(y0 + i / side - r, p.h), sx = reflect(x0 + i % side - r, p.w);
            tile[i / side * PITCH + i % side] = pixel(x, bytes, image + ((size_t)sy * W + sx) * 3);
        }
        const float* k = kernels + (size_t)b * stride;
        const int columns = p.kind == ISO ? 1 : n;
        for (int i = t; i < columns * (n + 7); i += 128)
        {
            int u = i % (n + 7), v = i / (n + 7);
            taps[i] = u < n ? k[u * columns + v] : 0.0f;
        }
        __syncthreads();

        const float* above = tile + 8 * threadIdx.y * PITCH + threadIdx.x;
        if (p.kind == ISO)
        {
            // Across, then down. Lanes take different rows.
            for (int i = t; i < 4 * side; i += 128)
            {
                float part[8] = {0, 0, 0, 0, 0, 0, 0, 0};
                slide(part, taps, tile + i % side * PITCH + i / side * 8, n, 1);
                for (int o = 0; o < 8; o++)
                    rows[i % side * 33 + i / side * 8 + o] = part[o];
            }
            __syncthreads();
            slide(acc, taps, rows + 8 * threadIdx.y * 33 + threadIdx.x, n, 33);
        }
        else
            for (int v = 0; v < n; v++)
                slide(acc, taps + v * (n + 7), above + v, n, PITCH);
    }

    for (int i = 0; i < 8; i++)
        if (px < p.w && py + i < p.h)
            y[image + ((size_t)(py + i) * W + px) * 3] = acc[i];
}

extern "C" __global__ void __launch_bounds__(128) blur21(
    const void* x, bool bytes, float* y, int H, int W, const Blur* params, const float* kernels,
    int stride)
{
    correlate<10>(x, bytes, y, H, W, params, kernels, stride);
}

extern "C" __global__ void __launch_bounds__(128) blur41(
    const void* x, bool bytes, float* y, int H, int W, const Blur* params, const float* kernels,
    int stride)
{
    correlate<20>(x, bytes, y, H, W, params, kernels, stride);
}
