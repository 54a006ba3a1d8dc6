// libjpeg's round trip in integers, see jpeg.py: `planes` compresses Y, Cb and Cr of 4:2:0, `finer`
// those of 4:2:2 and 4:4:4; `colour` enlarges the chroma and goes back to RGB.

enum { S420, S422, S444 };

struct Jpeg { int quality, sampling, h, w; };    // quality 0: skipped

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

// libjpeg's DCT as a matrix with 13 fractional bits, see jpeg.py. Rows are
// their own mirror images, or the negatives of these: sums and differences of opposite values save
// half of the products.
const int A = 8192, B = 10703, B6 = 10704, C = 4433;
__device__ const int ODD[4][4] = {               // rows 1, 3, 5, 7
    {11363, 9633, 6437, 2260}, {9633, -2259, -11362, -6436}, {6437, -11362, 2261, 9633},
    {2260, -6436, 9633, -11363}};

// v = M v
__device__ __forceinline__ void dct(int* v)
{
    int sum[4], difference[4];
    #pragma unroll
    for (int j = 0; j < 4; j++)
    {
        sum[j] = v[j] + v[7 - j];
        difference[j] = v[j] - v[7 - j];
    }
    v[0] = A * (sum[0] + sum[3] + (sum[1] + sum[2]));
    v[4] = A * (sum[0] + sum[3] - (sum[1] + sum[2]));
    v[2] = B * (sum[0] - sum[3]) + C * (sum[1] - sum[2]);
    v[6] = C * (sum[0] - sum[3]) - B6 * (sum[1] - sum[2]);
    #pragma unroll
    for (int i = 0; i < 4; i++)
    {
        v[2 * i + 1] = 0;
        #pragma unroll
        for (int j = 0; j < 4; j++) v[2 * i + 1] += ODD[i][j] * difference[j];
    }
}

// v = M^T v
__device__ __forceinline__ void idct(int* v)
{
    const int p = A * (v[0] + v[4]), q = A * (v[0] - v[4]);
    const int r = B * v[2] + C * v[6], s = C * v[2] - B6 * v[6];
    const int even[4] = {p + r, q + s, q - s, p - r};
    int odd[4];
    #pragma unroll
    for (int j = 0; j < 4; j++)
    {
        odd[j] = 0;
        #pragma unroll
        for (int i = 0; i < 4; i++) odd[j] += ODD[i][j] * v[2 * i + 1];
    }
    #pragma unroll
    for (int j = 0; j < 4; j++)
    {
        v[j] = even[j] + odd[j];
        v[7 - j] = even[j] - odd[j];
    }
}

struct Ycc { int y, cb, cr; };

__device__ __forceinline__ int level(u8 v) { return v; }
__device__ __forceinline__ int level(float v) { return level8(v, 0); }

template <class T> __device__ __forceinline__ Ycc convert(const T* at)
{
    const int r = level(at[0]), g = level(at[1]), b = level(at[2]);
    Ycc c;
    c.y = (19595 * r + 38470 * g + 7471 * b + 32768) >> 16;
    c.cb = (-11059 * r - 21709 * g + 32768 * b + (128 << 16) + 32767) >> 16;
    c.cr = (32768 * r - 27439 * g - 5329 * b + (128 << 16) + 32767) >> 16;
    return c;
}

// Compress the 8 x 8 values of a block by eight threads that stand side by side, a row or a column
// each; v becomes the values of row `line`, which lack the last shift. steps: of its table.
__device__ __forceinline__ void code(int (&block)[8][9], const uint2* steps, int line, int* v)
{
    for (int i = 0; i < 8; i++) v[i] = block[line][i];
    dct(v);                                      // rows
    for (int i = 0; i < 8; i++) block[line][i] = descale(v[i], 11);
    __syncthreads();
    for (int i = 0; i < 8; i++) v[i] = block[i][line];
    dct(v);                                      // columns; 8 times the DCT
    for (int i = 0; i < 8; i++)
    {
        // The quotient is exact: it is less than 2^18, and 8 T less than 2^11.
        const int D = descale(v[i], 15);
        const uint2 s = steps[8 * i + line];
        const int level = __umulhi(abs(D) + s.x / 2, s.y) * (s.x / 8);
        v[i] = D < 0 ? -level : level;
    }
    idct(v);                                     // back: columns first
    for (int i = 0; i < 8; i++) block[i][line] = descale(v[i], 11);
    __syncthreads();
    for (int i = 0; i < 8; i++) v[i] = block[line][i];
    idct(v);                                     // rows
}

// Both tables of a quality by 128 threads: 8 T, and 2^32 / 8 T rounded up.
__device__ __forceinline__ void tables(uint2 (&steps)[2][64], int quality, int t)
{
    if (t >= 128) return;
    const u32 eight = 8 * step(quality, t / 64, t % 64);
    steps[t / 64][t % 64] = {eight, 0xffffffffu / eight + 1};
}

// Write what `code` left of a row as eight bytes.
__device__ __forceinline__ void store(u8* to, const int* v)
{
    u32 words[2] = {0, 0};
    for (int i = 0; i < 8; i++)
        words[i / 4] |= (u32)clamp(descale(v[i], 18) + 128, 0, 255) << 8 * (i % 4);
    *(uint2*)to = {words[0], words[1]};
}

// Blocks of 8 x 8 values of four MCUs of 16 x 16 pixels side by side: four of Y, one of Cb, one of
// Cr each. A ninth column keeps the values of a column in different banks.
typedef int Blocks[24][8][9];

// All values, less 128, of an image [h, w] on a canvas of width W, from (top, left) on. Y repeats
// the last row and column. Chroma repeats the last column, then takes means of 2 x 2, rounded up
// and down alternately, and repeats the last row of those.
template <class T> __device__ __forceinline__ void stage(
    Blocks& blocks, const T* image, int W, int h, int w, int top, int left, int t)
{
    // Two by two pixels at a time.
    for (int i = t; i < 256; i += 192)
    {
        const int x = 2 * (i % 32), y = 2 * (i / 32), last = (h + 1) / 2 - 1;
        const int cy = min((top + y) / 2, last);
        const T* above = image + (size_t)(2 * cy) * W * 3;
        const T* below = image + (size_t)min(2 * cy + 1, h - 1) * W * 3;
        const int x0 = 3 * min(left + x, w - 1), x1 = 3 * min(left + x + 1, w - 1);
        const Ycc a = convert(above + x0), b = convert(above + x1);
        const Ycc c = convert(below + x0), d = convert(below + x1);

        // Below the last row there is that row, which need not be the upper one of the last two.
        const bool beyond = top + y > 2 * last;
        const int mcu = 6 * (x / 16), k = mcu + y / 8 * 2 + x / 8 % 2, up = 1 + (x / 2 & 1);
        blocks[k][y % 8][x % 8] = (beyond ? c.y : a.y) - 128;
        blocks[k][y % 8][x % 8 + 1] = (beyond ? d.y : b.y) - 128;
        blocks[k][y % 8 + 1][x % 8] = c.y - 128;
        blocks[k][y % 8 + 1][x % 8 + 1] = d.y - 128;
        blocks[mcu + 4][y / 2][x / 2 % 8] = ((a.cb + b.cb + c.cb + d.cb + up) >> 2) - 128;
        blocks[mcu + 5][y / 2][x / 2 % 8] = ((a.cr + b.cr + c.cr + d.cr + up) >> 2) - 128;
    }
}

// Four MCUs by 192 threads, a row or a column of a block each. luma [B, 16 mh, 16 mw] and chroma
// [B, 2, ch, cw] bytes, with mh x mw the MCUs of the canvas.
extern "C" __global__ void __launch_bounds__(192) planes(
    const void* x, bool bytes, u8* luma, u8* chroma, int H, int W, int mh, int mw, int ch, int cw,
    const Jpeg* params)
{
    __shared__ Blocks blocks;
    __shared__ uint2 steps[2][64];
    const int b = blockIdx.z, t = threadIdx.x, k = t / 8, line = t % 8, part = k % 6;
    const Jpeg p = params[b];
    const int mcu = 4 * blockIdx.x + k / 6, left = 64 * blockIdx.x, top = 16 * blockIdx.y;
    if (!p.quality || p.sampling != S420 || left >= p.w || top >= p.h) return;
    const size_t image = (size_t)b * H * W * 3;
    if (bytes)
        stage(blocks, (const u8*)x + image, W, p.h, p.w, top, left, t);
    else
        stage(blocks, (const float*)x + image, W, p.h, p.w, top, left, t);
    tables(steps, p.quality, t);
    __syncthreads();

    int v[8];
    code(blocks[k], steps[part >= 4], line, v);
    if (mcu >= mw) return;
    store(part < 4
        ? luma + ((size_t)b * 16 * mh + top + part / 2 * 8 + line) * 16 * mw + 16 * mcu
            + part % 2 * 8
        : chroma + (((size_t)2 * b + part - 4) * ch + top / 2 + line) * cw + 8 * mcu, v);
}

// ---- 4:2:2 and 4:4:4 ----

// 64 x 16 pixels: 16 blocks of Y, line by line, and then those of Cb and of Cr, 8 or 16 each.
typedef int Finer[48][8][9];

// All values, less 128, as `stage` has them. The last row and column are repeated.
template <class T> __device__ __forceinline__ void stage_finer(
    Finer& blocks, const T* image, int W, const Jpeg& p, int top, int left, int t)
{
    // Two pixels side by side at a time.
    for (int i = t; i < 512; i += 384)
    {
        const int x = 2 * (i % 32), y = i / 32;
        const T* row = image + (size_t)min(top + y, p.h - 1) * W * 3;
        const Ycc a = convert(row + 3 * min(left + x, p.w - 1));
        const Ycc b = convert(row + 3 * min(left + x + 1, p.w - 1));
        const int k = y / 8 * 8 + x / 8;
        blocks[k][y % 8][x % 8] = a.y - 128;
        blocks[k][y % 8][x % 8 + 1] = b.y - 128;
        if (p.sampling == S444)
        {
            blocks[16 + k][y % 8][x % 8] = a.cb - 128;
            blocks[16 + k][y % 8][x % 8 + 1] = b.cb - 128;
            blocks[32 + k][y % 8][x % 8] = a.cr - 128;
            blocks[32 + k][y % 8][x % 8 + 1] = b.cr - 128;
            continue;
        }
        // Means, rounded up and down alternately.
        const int half = 16 + y / 8 * 4 + x / 16, up = x / 2 & 1;
        blocks[half][y % 8][x / 2 % 8] = ((a.cb + b.cb + up) >> 1) - 128;
        blocks[half + 8][y % 8][x / 2 % 8] = ((a.cr + b.cr + up) >> 1) - 128;
    }
}

// 64 x 16 pixels by 384 threads, as `planes`; of 4:2:2 a third of them has nothing to do.
extern "C" __global__ void __launch_bounds__(384) finer(
    const void* x, bool bytes, u8* luma, u8* chroma, int H, int W, int mh, int mw, int ch, int cw,
    const Jpeg* params)
{
    __shared__ Finer blocks;
    __shared__ uint2 steps[2][64];
    const int b = blockIdx.z, t = threadIdx.x, k = t / 8, line = t % 8;
    const Jpeg p = params[b];
    const int left = 64 * blockIdx.x, top = 16 * blockIdx.y;
    if (!p.quality || p.sampling == S420 || left >= p.w || top >= p.h) return;
    const size_t image = (size_t)b * H * W * 3;
    if (bytes)
        stage_finer(blocks, (const u8*)x + image, W, p, top, left, t);
    else
        stage_finer(blocks, (const float*)x + image, W, p, top, left, t);
    tables(steps, p.quality, t);
    __syncthreads();

    int v[8];
    code(blocks[k], steps[k >= 16], line, v);
    if (k < 16)
    {
        const int at = left + k % 8 * 8;
        if (at < 16 * mw)
            store(luma + ((size_t)b * 16 * mh + top + k / 8 * 8 + line) * 16 * mw + at, v);
        return;
    }
    const int across = p.sampling == S444 ? 8 : 4, of = 2 * across;      // blocks in a line, in all
    const int plane = (k - 16) / of, n = (k - 16) % of;
    const int at = left * across / 8 + n % across * 8;
    if (plane < 2 && at < cw)
        store(chroma + (((size_t)2 * b + plane) * ch + top + n / across * 8 + line) * cw + at, v);
}

// ---- back to colour ----

// Chroma of a plane of 4:2:2 or 4:4:4, as `upsample`: the filter goes across alone, or not at all.
__device__ __forceinline__ void upsample_finer(
    int* out, const u8* plane, int pitch, int ny, int nx, const Jpeg& p)
{
    const int last = (p.w + 1) / 2 - 1;
    #pragma unroll
    for (int dy = 0; dy < 2; dy++)
    {
        const u8* row = plane + (size_t)min(2 * ny + dy, p.h - 1) * pitch;
        if (p.sampling == S444)
        {
            out[2 * dy] = row[2 * nx] - 128;
            out[2 * dy + 1] = row[min(2 * nx + 1, p.w - 1)] - 128;
            continue;
        }
        const int near = row[nx];
        const bool copies = last < 2;
        out[2 * dy] = (copies ? near : (3 * near + row[max(nx - 1, 0)] + 1) >> 2) - 128;
        out[2 * dy + 1] = (copies ? near : (3 * near + row[min(nx + 1, last)] + 2) >> 2) - 128;
    }
}

// Chroma of one plane, less 128, at the two by two pixels from (2 ny, 2 nx) on: the triangle filter
// 3:1 towards the nearer sample, first down, then across; copies where the plane, of which [h, w]
// pixels are made, is at most two wide.
__device__ __forceinline__ void upsample(
    int* out, const u8* plane, int pitch, int ny, int nx, int h, int w)
{
    const int last_y = (h + 1) / 2 - 1, last_x = (w + 1) / 2 - 1;
    const u8* near = plane + (size_t)ny * pitch;
    if (last_x < 2)
    {
        for (int i = 0; i < 4; i++) out[i] = near[nx] - 128;
        return;
    }
    const int x[3] = {max(nx - 1, 0), nx, min(nx + 1, last_x)};
    #pragma unroll
    for (int dy = 0; dy < 2; dy++)
    {
        const u8* far = plane + (size_t)(dy ? min(ny + 1, last_y) : max(ny - 1, 0)) * pitch;
        int s[3];
        #pragma unroll
        for (int i = 0; i < 3; i++) s[i] = 3 * near[x[i]] + far[x[i]];
        out[2 * dy] = ((3 * s[1] + s[0] + 8) >> 4) - 128;
        out[2 * dy + 1] = ((3 * s[1] + s[2] + 7) >> 4) - 128;
    }
}

// Two by two pixels a thread, (32, 4) threads. y: bytes where every sample is compressed, floats
// otherwise.
extern "C" __global__ void __launch_bounds__(128) colour(
    const void* x, bool bytes, const u8* luma, const u8* chroma, void* y, bool to_bytes, int H,
    int W, int mh, int mw, int ch, int cw, const Jpeg* params)
{
    const int b = blockIdx.z, nx = 32 * blockIdx.x + threadIdx.x, ny = 4 * blockIdx.y + threadIdx.y;
    const Jpeg p = params[b];
    if (2 * nx >= p.w || 2 * ny >= p.h) return;
    int cb[4] = {0, 0, 0, 0}, cr[4] = {0, 0, 0, 0};
    if (p.quality)
    {
        const u8* plane = chroma + (size_t)2 * b * ch * cw;
        const u8* other = plane + (size_t)ch * cw;
        if (p.sampling == S420)
        {
            upsample(cb, plane, cw, ny, nx, p.h, p.w);
            upsample(cr, other, cw, ny, nx, p.h, p.w);
        }
        else
        {
            upsample_finer(cb, plane, cw, ny, nx, p);
            upsample_finer(cr, other, cw, ny, nx, p);
        }
    }
    #pragma unroll
    for (int i = 0; i < 4; i++)
    {
        const int py = 2 * ny + i / 2, px = 2 * nx + i % 2;
        if (py >= p.h || px >= p.w) continue;
        const size_t at = (((size_t)b * H + py) * W + px) * 3;
        if (!p.quality)
        {
            for (int c = 0; c < 3; c++) ((float*)y)[at + c] = pixel(x, bytes, at + c);
            continue;
        }
        const int Y = luma[((size_t)b * 16 * mh + py) * 16 * mw + px];
        const int rgb[3] = {Y + ((91881 * cr[i] + 32768) >> 16),
                            Y + ((-22554 * cb[i] - 46802 * cr[i] + 32768) >> 16),
                            Y + ((116130 * cb[i] + 32768) >> 16)};
        #pragma unroll
        for (int c = 0; c < 3; c++)
        {
            const int v = clamp(rgb[c], 0, 255);
            if (to_bytes)
                ((u8*)y)[at + c] = v;
            else
                ((float*)y)[at + c] = unit8((float)v);
        }
    }
}
