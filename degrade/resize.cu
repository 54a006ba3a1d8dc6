// Resize by explicit parameters, see resize.py: `weights` makes the banded weights of both axes of
// every sample, `resize` applies them.

enum { AREA, BILINEAR, BICUBIC, AREA_CV, BICUBIC_AA, NEAREST, LANCZOS };

// h x w -> H x W.
struct Resize { double step_y, step_x; int mode, taps_y, taps_x, H, W, h, w; };

__device__ double cubic(double t, double a)
{
    t = fabs(t);
    if (t < 1) return (a + 2) * t * t * t - (a + 3) * t * t + 1;
    return t < 2 ? a * (t * t * t - 5 * t * t + 8 * t - 4) : 0;
}

// sin(pi t) / (pi t) for |t| <= 3: Taylor's series on half a period, exact to double's last bits.
__device__ double sinc(double t)
{
    if (fabs(t) < 1e-8) return 1;
    const double pi = 3.141592653589793, whole = rint(t), x = pi * (t - whole), q = x * x;
    double s = 1;
    #pragma unroll
    for (int k = 10; k > 0; k--) s = 1 - s * q / (2 * k * (2 * k + 1));
    return ((int)whole & 1 ? -x : x) * s / (pi * t);
}

// First source pixel of output i; not clamped to the image.
__device__ int start(int mode, int i, int n, int m, double step, double x)
{
    if (mode == AREA) return (int)((long long)i * n / m);
    if (mode == BILINEAR) return (int)floor(fmax(x, 0.0));
    if (mode == BICUBIC) return (int)floor(x) - 1;
    if (mode == AREA_CV || mode == NEAREST) return (int)floor(__dmul_rn(i, step));
    return (int)floor(x - (mode == LANCZOS ? 3 : 2) * fmax(step, 1.0));
}

// Weight of source pixel j in output i, not normalised. Sums and products that a floor or a
// comparison depends on are rounded as NumPy's are.
__device__ double weight(int mode, bool grows, int i, int j, int n, int m, double step, double x)
{
    if (mode == AREA) return j < ((long long)(i + 1) * n + m - 1) / m;
    if (mode == BILINEAR)
    {
        double f = fmax(x, 0.0) - floor(fmax(x, 0.0));
        return j == (int)floor(fmax(x, 0.0)) ? 1 - f : f;
    }
    if (mode == BICUBIC) return cubic(x - j, -0.75);
    if (mode == AREA_CV && !grows)
    {
        double low = fmax((double)j, __dmul_rn(i, step));
        double high = fmin(j + 1.0, __dmul_rn(i + 1, step));
        return j < n ? fmax(high - low, 0.0) : 0;
    }
    if (mode == AREA_CV)
    {
        int first = (int)floor(__dmul_rn(i, step));
        double f = __dadd_rn(i + 1, -((first + 1) / step));
        f = f <= 0 ? 0 : f - floor(f);
        return j == first ? 1 - f : f;
    }
    if (mode == NEAREST) return 1;
    if (j < 0 || j >= n) return 0;
    const double t = (x - j) / fmax(step, 1.0);
    if (mode == BICUBIC_AA) return cubic(t, -0.5);
    return fabs(t) < 3 ? sinc(t) * sinc(t / 3) : 0;
}

// first [B, 2, length], bands [B, 2, most, length]: of the rows (axis 0) and columns (axis 1) of
// every sample. Grid (length / 128, 2, B) of 128 threads.
extern "C" __global__ void weights(
    const Resize* params, int* first, float* bands, int length, int most)
{
    const Resize p = params[blockIdx.z];
    const int i = 128 * blockIdx.x + threadIdx.x, axis = blockIdx.y;
    const int n = axis ? p.w : p.h, m = axis ? p.W : p.H, taps = axis ? p.taps_x : p.taps_y;
    if (i >= m) return;
    const double step = axis ? p.step_x : p.step_y, x = __dadd_rn(__dmul_rn(i + 0.5, step), -0.5);
    const bool grows = p.H > p.h || p.W > p.w;
    const int j0 = start(p.mode, i, n, m, step, x);
    const size_t line = 2 * blockIdx.z + axis;
    double sum = 0;
    for (int j = 0; j < taps; j++)
        sum += weight(p.mode, grows, i, j0 + j, n, m, step, x);
    first[line * length + i] = j0;
    for (int j = 0; j < taps; j++)
    {
        double w = weight(p.mode, grows, i, j0 + j, n, m, step, x);
        bands[(line * most + j) * length + i] = (float)(w / sum);
    }
}

// Up to 32 source rows, from row `first` on, filtered across: rows [32, 3, 32] for 32 columns of
// the output. A lane's column begins at source pixel `left`. A warp makes four rows.
template <class T> __device__ __forceinline__ void across(
    float (*rows)[3][32], const T* image, int W, int h, int w, int first, int count, int left,
    const float* weights, int length, int taps)
{
    const int lane = threadIdx.x, i0 = 4 * threadIdx.y;
    if (i0 >= count) return;
    const T* line[4];
    float acc[4][3] = {{0}};
    #pragma unroll
    for (int i = 0; i < 4; i++)
        line[i] = image + (size_t)clamp(first + min(i0 + i, count - 1), 0, h - 1) * W * 3;
    for (int j = 0; j < taps; j++)
    {
        const float weight = weights[j * length];
        const int at = 3 * clamp(left + j, 0, w - 1);
        #pragma unroll
        for (int i = 0; i < 4; i++)
            #pragma unroll
            for (int c = 0; c < 3; c++) acc[i][c] += weight * value(line[i][at + c]);
    }
    #pragma unroll
    for (int i = 0; i < 4; i++)
        #pragma unroll
        for (int c = 0; c < 3; c++) rows[i0 + i][c][lane] = acc[i][c];
}

// y [B, outH, outW, 3] of x [B, inH, inW, 3]: 32 x 32 pixels by (32, 8) threads, four below each
// other each. The source rows that they need are filtered across, 32 at a time, and then down.
extern "C" __global__ void __launch_bounds__(256) resize(
    const void* x, bool bytes, float* y, int inH, int inW, int outH, int outW,
    const Resize* params, const int* first, const float* bands, int length, int most)
{
    __shared__ float rows[32][3][32];
    const int b = blockIdx.z, x0 = 32 * blockIdx.x, y0 = 32 * blockIdx.y, lane = threadIdx.x;
    const Resize p = params[b];
    if (x0 >= p.W || y0 >= p.H) return;
    const int px = min(x0 + lane, p.W - 1), py = y0 + 4 * threadIdx.y;
    const int last = min(y0 + 31, p.H - 1);
    const int* first_y = first + (size_t)2 * b * length;
    const float* down = bands + (size_t)2 * b * most * length;
    const float* weights = bands + (size_t)(2 * b + 1) * most * length + px;
    const int left = first_y[length + px], end = first_y[last] + p.taps_y;
    const size_t image = (size_t)b * inH * inW * 3;
    float acc[4][3] = {{0}};
    for (int row = first_y[y0]; row < end; row += 32)
    {
        const int count = min(end - row, 32);
        if (bytes)
            across(rows, (const u8*)x + image, inW, p.h, p.w, row, count, left, weights, length,
                   p.taps_x);
        else
            across(rows, (const float*)x + image, inW, p.h, p.w, row, count, left, weights, length,
                   p.taps_x);
        __syncthreads();
        #pragma unroll
        for (int k = 0; k < 4; k++)
        {
            if (py + k > last) break;
            const int j0 = first_y[py + k];
            for (int j = max(row - j0, 0); j < min(row + count - j0, p.taps_y); j++)
            {
                const float weight = down[j * length + py + k];
                #pragma unroll
                for (int c = 0; c < 3; c++) acc[k][c] += weight * rows[j0 + j - row][c][lane];
            }
        }
        __syncthreads();
    }
    if (x0 + lane >= p.W) return;
    float* to = y + (((size_t)b * outH + py) * outW + px) * 3;
    #pragma unroll
    for (int k = 0; k < 4; k++)
    {
        if (py + k > last) break;
        #pragma unroll
        for (int c = 0; c < 3; c++) to[(size_t)k * outW * 3 + c] = acc[k][c];
    }
}
