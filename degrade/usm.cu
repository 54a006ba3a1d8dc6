// USM sharpening, see usm.py: the Gaussian of 51 taps is separable, so two passes blur and two
// soften the mask.

struct Usm { int on, h, w; };
const int TAPS = 51, R = 25;

// Across: of x, or of the mask |x - blurred| > 10/255 where `blurred` is given. 64 x 16 pixels of
// one channel by 128 threads, 8 pixels in a row each.
extern "C" __global__ void __launch_bounds__(128) across(
    const void* x, bool bytes, const float* blurred, float* y, int H, int W, const Usm* params,
    const float* row)
{
    const int SIDE = 64 + 2 * R, PITCH = SIDE + 1;
    __shared__ float tile[16 * PITCH], taps[TAPS + 7];
    const int b = blockIdx.z / 3, x0 = 64 * blockIdx.x, y0 = 16 * blockIdx.y, t = threadIdx.x;
    const Usm p = params[b];
    if (!p.on || x0 >= p.w || y0 >= p.h) return;
    const size_t image = (size_t)b * H * W * 3 + blockIdx.z % 3;
    for (int i = t; i < 16 * SIDE; i += 128)
    {
        int sy = min(y0 + i / SIDE, p.h - 1), sx = reflect(x0 + i % SIDE - R, p.w);
        size_t at = image + ((size_t)sy * W + sx) * 3;
        float v = pixel(x, bytes, at);
        const bool edge = blurred && fabsf(v - blurred[at]) * 255 > 10;
        tile[i / SIDE * PITCH + i % SIDE] = !blurred ? v : edge ? 1.0f : 0.0f;
    }
    if (t < TAPS + 7) taps[t] = t < TAPS ? row[t] : 0.0f;
    __syncthreads();

    float acc[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    slide(acc, taps, tile + t % 16 * PITCH + t / 16 * 8, TAPS, 1);
    const int py = y0 + t % 16, px = x0 + t / 16 * 8;
    for (int i = 0; i < 8; i++)
        if (py < p.h && px + i < p.w)
            y[image + ((size_t)py * W + px + i) * 3] = acc[i];
}

// Down. Without `x` y is the blurred picture; else `rows` is the mask, and y the sharpened x. 32 x
// 64 pixels of one channel by (32, 8) threads.
extern "C" __global__ void __launch_bounds__(256) down(
    const float* rows, const void* x, bool bytes, const float* blurred, float* y, int H, int W,
    const Usm* params, const float* row)
{
    const int SIDE = 64 + 2 * R;
    __shared__ float tile[SIDE * 33], taps[TAPS + 7];
    const int b = blockIdx.z / 3, x0 = 32 * blockIdx.x, y0 = 64 * blockIdx.y;
    const int t = 32 * threadIdx.y + threadIdx.x;
    const Usm p = params[b];
    if ((!p.on && !x) || x0 >= p.w || y0 >= p.h) return;
    const size_t image = (size_t)b * H * W * 3 + blockIdx.z % 3;
    const int px = x0 + threadIdx.x, py = y0 + 8 * threadIdx.y;
    float acc[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    if (p.on)
    {
        for (int i = t; i < SIDE * 32; i += 256)
        {
            const size_t line = (size_t)reflect(y0 + i / 32 - R, p.h) * W;
            tile[i / 32 * 33 + i % 32] = rows[image + (line + min(x0 + i % 32, p.w - 1)) * 3];
        }
        if (t < TAPS + 7) taps[t] = t < TAPS ? row[t] : 0.0f;
        __syncthreads();
        slide(acc, taps, tile + 8 * threadIdx.y * 33 + threadIdx.x, TAPS, 33);
    }
    for (int i = 0; i < 8; i++)
        if (px < p.w && py + i < p.h)
        {
            size_t at = image + ((size_t)(py + i) * W + px) * 3;
            if (x)
            {
                float v = pixel(x, bytes, at);
                y[at] = p.on ? v + acc[i] * (unit(v + 0.5f * (v - blurred[at])) - v) : v;
            }
            else
                y[at] = acc[i];
        }
}
