// Bilateral filter, see bilateral.py.

struct Bilateral { float near, alike; int radius, h, w; };  // radius 0: skipped
const int MOST = 7;                              // largest radius

// A pixel a thread, (32, 8) threads. near and alike are the factors of squared distances, in the
// picture and in colour, in the exponent.
extern "C" __global__ void __launch_bounds__(256) bilateral(
    const void* x, bool bytes, float* y, int H, int W, const Bilateral* params)
{
    __shared__ float tile[3 * (8 + 2 * MOST) * (32 + 2 * MOST)];
    const int b = blockIdx.z, x0 = 32 * blockIdx.x, y0 = 8 * blockIdx.y;
    const int px = x0 + threadIdx.x, py = y0 + threadIdx.y;
    const Bilateral p = params[b];
    if (x0 >= p.w || y0 >= p.h) return;
    const int r = p.radius, across = 32 + 2 * r, down = 8 + 2 * r;
    const size_t image = (size_t)b * H * W;
    for (int i = 32 * threadIdx.y + threadIdx.x; i < across * down; i += 256)
    {
        const size_t row = image + (size_t)reflect(y0 + i / across - r, p.h) * W;
        const size_t at = (row + reflect(x0 + i % across - r, p.w)) * 3;
        for (int c = 0; c < 3; c++) tile[3 * i + c] = pixel(x, bytes, at + c);
    }
    __syncthreads();
    if (px >= p.w || py >= p.h) return;

    const float* middle = tile + 3 * ((threadIdx.y + r) * across + threadIdx.x + r);
    const float m0 = middle[0], m1 = middle[1], m2 = middle[2];
    float weight = 0, s0 = 0, s1 = 0, s2 = 0;
    for (int v = -r; v <= r; v++)
        for (int u = -r; u <= r; u++)
        {
            if (u * u + v * v > r * r) continue;
            const float* other = middle + 3 * (v * across + u);
            const float far = fabsf(other[0] - m0) + fabsf(other[1] - m1) + fabsf(other[2] - m2);
            const float w = expf(p.near * (u * u + v * v) + p.alike * far * far);
            weight += w;
            s0 += w * other[0];
            s1 += w * other[1];
            s2 += w * other[2];
        }
    float* to = y + (image + (size_t)py * W + px) * 3;
    to[0] = s0 / weight;
    to[1] = s1 / weight;
    to[2] = s2 / weight;
}
