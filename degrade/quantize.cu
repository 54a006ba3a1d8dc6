// Rounding to 8 bits, see quantize.py.

struct Quantize { int on, up, h, w; };

// One pixel a thread, (32, 8) threads.
extern "C" __global__ void __launch_bounds__(256) quantize(
    const float* x, float* y, int H, int W, const Quantize* params, float nudge)
{
    const int b = blockIdx.z, px = 32 * blockIdx.x + threadIdx.x, py = 8 * blockIdx.y + threadIdx.y;
    const Quantize p = params[b];
    if (px >= p.w || py >= p.h) return;
    const size_t at = (((size_t)b * H + py) * W + px) * 3;
    for (int c = 0; c < 3; c++)
        y[at + c] = p.on ? level8(x[at + c], p.up ? nudge : 0.0f) / 255.0f : x[at + c];
}
