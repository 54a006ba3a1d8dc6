// libjpeg's round trip in integers, see jpeg.py: `planes` compresses Y, Cb and Cr, `colour`
// enlarges the chroma and goes back to RGB.

struct Jpeg { int quality, h, w; };              // quality 0: skipped

__device__ const u8 STANDARD[2][64] = {          // luma, chroma; row = vertical frequency
    {16, 11, 10, 16,  24,  40,  51,  61,    12, 12, 14, 19,  26,  58,  60,  55,
     14, 13, 16, 24,  40,  57,  69,  56,    14, 17, 22, 29,  51,  87,  80,  62,
     18, 22, 37, 56,  68, 109, 103,  77,    24, 35, 55, 64,  81, 104, 113,  92,
     49, 64, 78, 87, 103, 121, 120, 101,    72, 92, 95, 98, 112, 100, 103,  99},
    {17, 18, 24, 47,  99,  99,  99,  99,    18, 21, 26, 66,  99,  99,  99,  99,
     24, 26, 56, 99,  99,  99,  99,  99,    47, 66, 99, 99,  99,  99,  99,  99,
     99, 99, 99, 99,  99,  99,  99,  99,    99, 99, 99, 99,  99,  99,  99,  99,
     99, 99, 99, 99,  99,  99,  99,  99,    99, 99, 99, 99,  99,  99,  99,  99}};

// Step k of the table of this quality.
__device__ __forceinline__ int step(int quality, int chroma, int k)
{
    int scale = quality < 50 ? 5000 / quality : 200 - 2 * quality;
    return clamp((STANDARD[chroma][k] * scale + 50) / 100, 1, 255);
}

__device__ __forceinline__ int descale(int v, int n) { return (v + (1 << (n - 1))) >> n; }

// out = M in, or M^T in: libjpeg's DCT as a matrix with 13 fractional bits. The loops unroll, so
// every entry is a constant.
__device__ __forceinline__ void dct(int* out, const int* in, bool back)
{
    const int M[8][8] = {
        {8192, 8192, 8192, 8192, 8192, 8192, 8192, 8192},
        {11363, 9633, 6437, 2260, -2260, -6437, -9633, -11363},
        {10703, 4433, -4433, -10703, -10703, -4433, 4433, 10703},
        {9633, -2259, -11362, -6436, 6436, 11362, 2259, -9633},
        {8192, -8192, -8192, 8192, 8192, -8192, -8192, 8192},
        {6437, -11362, 2261, 9633, -9633, -2261, 11362, -6437},
        {4433, -10704, 10704, -4433, -4433, 10704, -10704, 4433},
        {2260, -6436, 9633, -11363, 11363, -9633, 6436, -2260}};
    #pragma unroll
    for (int i = 0; i < 8; i++)
    {
        out[i] = 0;
        #pragma unroll
        for (int j = 0; j < 8; j++)
            out[i] += (back ? M[j][i] : M[i][j]) * in[j];
    }
}

struct Ycc { int y, cb, cr; };

__device__ __forceinline__ Ycc convert(const void* x, bool bytes, size_t at)
{
    int r, g, b;
    if (bytes)
    {
        r = ((const u8*)x)[at];
        g = ((const u8*)x)[at + 1];
        b = ((const u8*)x)[at + 2];
    }
    else
    {
        r = level8(((const float*)x)[at], 0);
        g = level8(((const float*)x)[at + 1], 0);
        b = level8(((const float*)x)[at + 2], 0);
    }
    Ycc c;
    c.y = (19595 * r + 38470 * g + 7471 * b + 32768) >> 16;
    c.cb = (-11059 * r - 21709 * g + 32768 * b + (128 << 16) + 32767) >> 16;
    c.cr = (32768 * r - 27439 * g - 5329 * b + (128 << 16) + 32767) >> 16;
    return c;
}

// Four MCUs of 16 x 16 pixels side by side: 24 blocks of 8 x 8 (four of Y, one of Cb, one of Cr
// each), a row or a column of a block per thread, 192 threads. luma [B, 16 mh, 16 mw] and chroma
// [B, 2, 8 mh, 8 mw] bytes, with mh x mw the MCUs of the canvas.
extern "C" __global__ void __launch_bounds__(192) planes(
    const void* x, bool bytes, u8* luma, u8* chroma, int H, int W, int mh, int mw,
    const Jpeg* params)
{
    __shared__ int blocks[24][8][9];             // [8][9]: a column does not lie in one bank
    const int b = blockIdx.z, t = threadIdx.x, k = t / 8, line = t % 8, part = k % 6;
    const Jpeg p = params[b];
    const int mcu = 4 * blockIdx.x + k / 6, left = 16 * mcu, top = 16 * blockIdx.y;
    if (!p.quality || 64 * (int)blockIdx.x >= p.w || top >= p.h) return;

    // A row of the block, less 128. Y repeats the last row and column. Chroma repeats the last
    // column, then takes means of 2 x 2, rounded up and down alternately, and repeats the last row
    // of those.
    int in[8], out[8];
    const size_t image = (size_t)b * H * W;
    for (int i = 0; i < 8; i++)
    {
        if (part < 4)
        {
            int sy = min(top + part / 2 * 8 + line, p.h - 1);
            int sx = min(left + part % 2 * 8 + i, p.w - 1);
            in[i] = convert(x, bytes, (image + (size_t)sy * W + sx) * 3).y - 128;
        }
        else
        {
            int cy = min(top / 2 + line, (p.h + 1) / 2 - 1), cx = left / 2 + i, sum = 1 + (cx & 1);
            for (int q = 0; q < 4; q++)
            {
                int sy = min(2 * cy + q / 2, p.h - 1), sx = min(2 * cx + q % 2, p.w - 1);
                Ycc c = convert(x, bytes, (image + (size_t)sy * W + sx) * 3);
                sum += part == 4 ? c.cb : c.cr;
            }
            in[i] = (sum >> 2) - 128;
        }
    }

    dct(out, in, false);                         // rows
    for (int i = 0; i < 8; i++) blocks[k][line][i] = descale(out[i], 11);
    __syncthreads();
    for (int i = 0; i < 8; i++) in[i] = blocks[k][i][line];
    dct(out, in, false);                         // columns; 8 times the DCT
    for (int i = 0; i < 8; i++)
    {
        int D = descale(out[i], 15);
        int T = step(p.quality, part >= 4, 8 * i + line), level = (abs(D) + 4 * T) / (8 * T);
        in[i] = (D < 0 ? -level : level) * T;
    }
    dct(out, in, true);                          // back: columns first
    for (int i = 0; i < 8; i++) blocks[k][i][line] = descale(out[i], 11);
    __syncthreads();
    for (int i = 0; i < 8; i++) in[i] = blocks[k][line][i];
    dct(out, in, true);                          // rows

    if (mcu >= mw) return;
    u8* plane = part < 4
        ? luma + ((size_t)b * 16 * mh + top + part / 2 * 8 + line) * 16 * mw + left + part % 2 * 8
        : chroma + (((size_t)2 * b + part - 4) * 8 * mh + top / 2 + line) * 8 * mw + left / 2;
    for (int i = 0; i < 8; i++)
        plane[i] = clamp(descale(out[i], 18) + 128, 0, 255);
}

// Chroma of one plane at pixel (py, px): the triangle filter 3:1 towards the nearer sample, first
// down, then across; copies where the plane is at most two wide.
__device__ __forceinline__ int upsample(const u8* plane, int pitch, int py, int px, int h, int w)
{
    const int last_y = (h + 1) / 2 - 1, last_x = (w + 1) / 2 - 1, ny = py / 2, nx = px / 2;
    if (last_x < 2) return plane[(size_t)ny * pitch + nx];
    const u8* near = plane + (size_t)ny * pitch;
    const u8* far = plane + (size_t)clamp(py & 1 ? ny + 1 : ny - 1, 0, last_y) * pitch;
    const int ox = clamp(px & 1 ? nx + 1 : nx - 1, 0, last_x);
    return (3 * (3 * near[nx] + far[nx]) + 3 * near[ox] + far[ox] + (px & 1 ? 7 : 8)) >> 4;
}

// One pixel a thread, (32, 8) threads. y: bytes where every sample is compressed, floats otherwise.
extern "C" __global__ void __launch_bounds__(256) colour(
    const void* x, bool bytes, const u8* luma, const u8* chroma, void* y, bool to_bytes, int H,
    int W, int mh, int mw, const Jpeg* params)
{
    const int b = blockIdx.z, px = 32 * blockIdx.x + threadIdx.x, py = 8 * blockIdx.y + threadIdx.y;
    const Jpeg p = params[b];
    if (px >= p.w || py >= p.h) return;
    const size_t at = (((size_t)b * H + py) * W + px) * 3;
    if (!p.quality)
    {
        for (int c = 0; c < 3; c++)
            ((float*)y)[at + c] = pixel(x, bytes, at + c);
        return;
    }
    const size_t plane = (size_t)64 * mh * mw;
    const int Y = luma[((size_t)b * 16 * mh + py) * 16 * mw + px];
    const int cb = upsample(chroma + 2 * b * plane, 8 * mw, py, px, p.h, p.w) - 128;
    const int cr = upsample(chroma + (2 * b + 1) * plane, 8 * mw, py, px, p.h, p.w) - 128;
    const int rgb[3] = {Y + ((91881 * cr + 32768) >> 16),
                        Y + ((-22554 * cb - 46802 * cr + 32768) >> 16),
                        Y + ((116130 * cb + 32768) >> 16)};
    for (int c = 0; c < 3; c++)
    {
        int v = clamp(rgb[c], 0, 255);
        if (to_bytes)
            ((u8*)y)[at + c] = v;
        else
            ((float*)y)[at + c] = v / 255.0f;
    }
}
