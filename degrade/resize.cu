// Resize by explicit parameters, see resize.py: `weights` makes the banded weights of both axes of
// every sample, `resize` applies them.

enum { AREA, BILINEAR, BICUBIC, AREA_CV, BICUBIC_AA, NEAREST };

// h x w -> H x W.
struct Resize { double step_y, step_x; int mode, taps_y, taps_x, H, W, h, w; };

__device__ double cubic(double t, double a)
{
    t = fabs(t);
    if (t < 1) return (a + 2) * t * t * t - (a + 3) * t * t + 1;
    return t < 2 ? a * (t * t * t - 5 * t * t + 8 * t - 4) : 0;
}

// First source pixel of output i; not clamped to the image.
__device__ int start(int mode, int i, int n, int m, double step, double x)
{
    if (mode == AREA) return (int)((long long)i * n / m);
    if (mode == BILINEAR) return (int)floor(fmax(x, 0.0));
    if (mode == BICUBIC) return (int)floor(x) - 1;
    if (mode == AREA_CV || mode == NEAREST) return (int)floor(__dmul_rn(i, step));
    return (int)floor(x - 2 * fmax(step, 1.0));
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
    return j >= 0 && j < n ? cubic((x - j) / fmax(step, 1.0), -0.5) : 0;
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

// y [B, outH, outW, 3] of x [B, inH, inW, 3]: one pixel a thread, (32, 8) threads.
extern "C" __global__ void __launch_bounds__(256) resize(
    const void* x, bool bytes, float* y, int inH, int inW, int outH, int outW,
    const Resize* params, const int* first, const float* bands, int length, int most)
{
    const int b = blockIdx.z, px = 32 * blockIdx.x + threadIdx.x, py = 8 * blockIdx.y + threadIdx.y;
    const Resize p = params[b];
    if (px >= p.W || py >= p.H) return;
    const int* first_y = first + (size_t)2 * b * length;
    const int j0 = first_y[py], i0 = first_y[length + px];
    const float* down = bands + (size_t)2 * b * most * length + py;
    const float* across = bands + (size_t)(2 * b + 1) * most * length + px;
    float red = 0, green = 0, blue = 0;
    for (int j = 0; j < p.taps_y; j++)
    {
        const size_t line = ((size_t)b * inH + clamp(j0 + j, 0, p.h - 1)) * inW;
        float r = 0, g = 0, u = 0;
        for (int i = 0; i < p.taps_x; i++)
        {
            const size_t at = (line + clamp(i0 + i, 0, p.w - 1)) * 3;
            const float w = across[i * length];
            r += w * pixel(x, bytes, at);
            g += w * pixel(x, bytes, at + 1);
            u += w * pixel(x, bytes, at + 2);
        }
        const float w = down[j * length];
        red += w * r;
        green += w * g;
        blue += w * u;
    }
    const size_t at = (((size_t)b * outH + py) * outW + px) * 3;
    y[at] = red;
    y[at + 1] = green;
    y[at + 2] = blue;
}
