// PNG pictures, see png.py: `inflate` decodes and checks the zlib streams (RFC 1950, 1951), one warp each, `unfilter` their rows, `colour` makes RGB of them.
// The bytes are not trusted: every step takes at least one bit or ends, nothing outside a picture's own part of the three buffers is written, or read beyond
// its stream's last word, and what zlib refuses is refused. All lanes of a warp decode the same symbols; they share out the copies and the tables.

struct Png { u64 data, raw, out, palette; int length, channels, h, w; };      // places in bytes; palette: of 256 RGB colours in data, 0 without; length: of the stream

enum { GOOD, HEADER, TRUNCATED, BLOCK, CODES, SYMBOL, DISTANCE, LONG, SHORT, CHECKSUM, FILTER };                   // png.REFUSED

__device__ const u8 ORDER[19] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};              // in which lengths of lengths are sent

const int LITERAL_BITS = 11, DISTANCE_BITS = 9;  // of the tables; longer codes are searched for

// A prefix code of up to 15 bits: how many codes have each length, and the symbols in the order of their codes.
struct Code
{
    u16 count[16], symbol[320];
};

// Symbol of the code that `bits` begin with, least significant first, and its length; -1 if none of up to `most` bits fits.
__device__ __forceinline__ int find(const Code& code, u32 bits, int most, int& length)
{
    int value = 0, first = 0, index = 0;
    for (length = 1; length <= most; length++)
    {
        value |= bits & 1;
        bits >>= 1;
        const int count = code.count[length];
        if (value - count < first) return code.symbol[index + value - first];
        index += count;
        first = (first + count) << 1;
        value <<= 1;
    }
    return -1;
}

// The code whose n symbols have these lengths; whether it is one: complete, or of one symbol of one bit or none where `partly`.
__device__ bool make(Code& code, const u8* lengths, int n, bool partly)
{
    const int lane = threadIdx.x;
    int mine = 0;
    for (int i = 0; i < n; i++) mine += lengths[i] == lane;
    if (lane < 16) code.count[lane] = lane ? mine : 0;
    __syncwarp();
    int left = 1, before = 0, all = 0;
    for (int l = 1; l < 16; l++)
    {
        left = 2 * left - code.count[l];
        before += l < lane ? code.count[l] : 0;
        all += code.count[l];
    }
    if (lane > 0 && lane < 16)
        for (int i = 0; i < n; i++)
            if (lengths[i] == lane) code.symbol[before++] = i;
    __syncwarp();
    return left == 0 || (partly && left > 0 && all == code.count[1]);
}

// The bits of a stream. `held` begins with the next one; it is filled by words, the last of them padded with zeros, and zeros beyond.
struct Bits
{
    const u32* words;
    int count, next, n;          // words there are, the one after `ahead`, bits held
    u32 ahead;
    u64 held;

    __device__ __forceinline__ u32 word(int i) const { return i < count ? words[i] : 0; }

    __device__ __forceinline__ void seek(int byte)
    {
        const int skip = 8 * (byte & 3);
        next = (byte >> 2) + 2;
        ahead = word(next - 1);
        held = word(next - 2) >> skip;
        n = 32 - skip;
    }

    __device__ __forceinline__ void fill()                   // to 32 bits at least
    {
        if (n >= 32) return;
        held |= (u64)ahead << n;
        n += 32;
        ahead = word(next++);
    }

    __device__ __forceinline__ u32 take(int count)           // up to 16
    {
        const u32 bits = (u32)held & ((1u << count) - 1);
        held >>= count;
        n -= count;
        return bits;
    }

    __device__ __forceinline__ u64 taken() const { return 32 * (u64)(next - 1) - n; }

    __device__ __forceinline__ bool over() const { return next > count + 2; }          // only where more than there is was taken
};

// What the next bits mean: length of the code(s); one or two literals, or else a symbol >= 256; 0: none of so few bits.
__device__ __forceinline__ u32 meaning(const Code& code, u32 bits, int most)
{
    int l1, l2;
    const int first = find(code, bits, most, l1);
    if (first < 0) return 0;
    if (first >= 256) return first << 8 | l1;
    const int second = find(code, bits >> l1, min(most, LITERAL_BITS) - l1, l2);
    if (second < 0 || second >= 256) return first << 8 | 1 << 4 | l1;
    return second << 16 | first << 8 | 2 << 4 | (l1 + l2);
}

struct Tables
{
    u32 literal[1 << LITERAL_BITS];                          // `meaning` of the next bits
    u16 distance[1 << DISTANCE_BITS];                        // symbol << 4 | length, 0: longer
    Code literals, distances;
    u8 lengths[320];
    u32 sums[3][32];
};

__device__ void fill_distances(Tables& t, int bits)
{
    for (int i = threadIdx.x; i < 1 << bits; i += 32)
    {
        int length;
        const int symbol = find(t.distances, i, bits, length);
        t.distance[i] = symbol < 0 ? 0 : symbol << 4 | length;
    }
}

// Tables of the codes whose lengths stand in t.lengths, first of the literals, then of the distances.
__device__ int make_tables(Tables& t, int literals, int distances)
{
    const bool good = make(t.literals, t.lengths, literals, true), too = make(t.distances, t.lengths + literals, distances, true);
    if (!good || !too) return CODES;
    for (int i = threadIdx.x; i < 1 << LITERAL_BITS; i += 32)
        t.literal[i] = meaning(t.literals, i, LITERAL_BITS);
    fill_distances(t, DISTANCE_BITS);
    __syncwarp();
    return GOOD;
}

__device__ int fixed_tables(Tables& t)
{
    for (int i = threadIdx.x; i < 320; i += 32)
        t.lengths[i] = i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : i < 288 ? 8 : 5;
    __syncwarp();
    return make_tables(t, 288, 32);
}

__device__ int dynamic_tables(Tables& t, Bits& in)
{
    const int lane = threadIdx.x;
    in.fill();
    const int literals = 257 + in.take(5), distances = 1 + in.take(5), sent = 4 + in.take(4);
    if (literals > 286 || distances > 30) return CODES;
    for (int i = 0; i < 19; i++)
    {
        in.fill();
        const int length = i < sent ? in.take(3) : 0;
        if (lane == 0) t.lengths[ORDER[i]] = length;
    }
    __syncwarp();
    if (!make(t.distances, t.lengths, 19, false)) return CODES;
    fill_distances(t, 7);
    __syncwarp();
    int have = 0, length = 0;
    while (have < literals + distances)
    {
        in.fill();
        if (in.over()) return TRUNCATED;
        const int found = t.distance[in.held & 127], symbol = found >> 4;
        in.take(found & 15);
        if (symbol == 16 && !have) return CODES;
        const int times = symbol == 16 ? 3 + in.take(2) : symbol == 17 ? 3 + in.take(3) : symbol == 18 ? 11 + in.take(7) : 1;
        if (times > literals + distances - have) return CODES;
        length = symbol < 16 ? symbol : symbol == 16 ? length : 0;
        for (int i = lane; i < times; i += 32) t.lengths[have + i] = length;
        have += times;
    }
    __syncwarp();
    return t.lengths[256] ? make_tables(t, literals, distances) : CODES;
}

// What has been decoded: bytes `at` of `want`; those before `settled` are seen by all lanes.
struct Output
{
    u8* bytes;
    int want, at, settled;
};

__device__ int stored_block(const u8* stream, int length, Bits& in, Output& out)
{
    in.take(in.n & 7);
    in.fill();
    const int size = in.take(16), inverse = in.take(16);
    const u64 from = in.taken() / 8;
    if ((size ^ inverse) != 0xffff) return BLOCK;
    if (from + size > length) return TRUNCATED;
    if (size > out.want - out.at) return LONG;
    for (int i = threadIdx.x; i < size; i += 32) out.bytes[out.at + i] = stream[from + i];
    out.at += size;
    in.seek(from + size);
    return GOOD;
}

__device__ int coded_block(Tables& t, Bits& in, Output& out, int window)
{
    const int lane = threadIdx.x;
    for (;;)
    {
        in.fill();
        if (in.over()) return TRUNCATED;
        u32 found = t.literal[in.held & ((1 << LITERAL_BITS) - 1)];
        if (!found) found = meaning(t.literals, in.held, 15);
        if (!found) return SYMBOL;
        in.take(found & 15);
        const int literals = found >> 4 & 3;
        if (literals)
        {
            if (literals > out.want - out.at) return LONG;
            if (lane < literals) out.bytes[out.at + lane] = found >> (8 + 8 * lane);
            out.at += literals;
            continue;
        }
        const int symbol = found >> 8, k = symbol - 257;
        if (symbol == 256) return GOOD;
        if (symbol > 285) return SYMBOL;
        const int more = k < 8 ? 0 : (k >> 2) - 1;
        const int length = k < 8 ? 3 + k : k == 28 ? 258 : 3 + ((4 + (k & 3)) << more) + in.take(more);

        in.fill();
        u32 place = t.distance[in.held & ((1 << DISTANCE_BITS) - 1)];
        if (!place)
        {
            int bits;
            const int d = find(t.distances, in.held, 15, bits);
            if (d < 0) return SYMBOL;
            place = d << 4 | bits;
        }
        in.take(place & 15);
        const int d = place >> 4, further = d < 4 ? 0 : (d >> 1) - 1;
        if (d > 29) return SYMBOL;
        const int distance = d < 4 ? 1 + d : 1 + ((2 + (d & 1)) << further) + in.take(further);
        if (distance > out.at || distance > window) return DISTANCE;
        if (length > out.want - out.at) return LONG;

        const int from = out.at - distance;
        if (from + min(distance, length) > out.settled)
        {
            __syncwarp();
            out.settled = out.at;
        }
        for (int i = lane; i < length; i += 32)
            out.bytes[out.at + i] = out.bytes[from + (i < distance ? i : i % distance)];
        out.at += length;
    }
}

// Adler-32 of all bytes, and the filters that the rows begin with.
__device__ int checked(Tables& t, const u8* bytes, int want, int row, u32 expected)
{
    const int lane = threadIdx.x;
    u64 a = 0, b = 0;                                        // sums of the bytes, and of the bytes times those from each to the end
    for (int i = lane; i < want / 4; i += 32)
    {
        const u32 v = ((const u32*)bytes)[i], v1 = v >> 8 & 255, v2 = v >> 16 & 255, v3 = v >> 24, sum = (v & 255) + v1 + v2 + v3;
        a += sum;
        b += (u64)sum * (want - 4 * i) - (v1 + 2 * v2 + 3 * v3);
    }
    const int last = (want & ~3) + lane;
    if (last < want)
    {
        a += bytes[last];
        b += bytes[last] * (want - last);
    }
    bool known = true;
    for (int i = lane * row; i < want; i += 32 * row) known = known && bytes[i] <= 4;
    t.sums[0][lane] = a % 65521;
    t.sums[1][lane] = b % 65521;
    t.sums[2][lane] = known;
    __syncwarp();
    u32 low = 1, high = want % 65521, good = 0;
    for (int i = 0; i < 32; i++)
    {
        low += t.sums[0][i];
        high += t.sums[1][i];
        good += t.sums[2][i];
    }
    return (high % 65521 << 16 | low % 65521) != expected ? CHECKSUM : good < 32 ? FILTER : GOOD;
}

__device__ int decoded(Tables& t, const u8* stream, int length, u8* bytes, int want, int row)
{
    if (length < 2) return TRUNCATED;
    if ((stream[0] << 8 | stream[1]) % 31 || (stream[0] & 15) != 8 || stream[0] >> 4 > 7 || stream[1] & 32) return HEADER;
    const int window = 256 << (stream[0] >> 4);
    Bits in = {(const u32*)stream, (length + 3) / 4};
    Output out = {bytes, want};
    in.seek(2);
    for (bool last = false; !last;)
    {
        in.fill();
        if (in.over()) return TRUNCATED;
        last = in.take(1);
        const int kind = in.take(2);
        int fault = BLOCK;
        if (kind == 0) fault = stored_block(stream, length, in, out);
        if (kind == 1) fault = fixed_tables(t);
        if (kind == 2) fault = dynamic_tables(t, in);
        if (kind && !fault) fault = coded_block(t, in, out, window);
        if (fault) return fault;
    }
    const u64 end = (in.taken() + 7) / 8;
    if (end + 4 > length) return TRUNCATED;
    if (out.at < want) return SHORT;
    __syncwarp();
    return checked(t, bytes, want, row, stream[end] << 24 | stream[end + 1] << 16 | stream[end + 2] << 8 | stream[end + 3]);
}

// A stream a warp.
extern "C" __global__ void __launch_bounds__(32) inflate(const u8* data, u8* raw, const Png* pictures, int* status)
{
    __shared__ Tables t;
    const Png p = pictures[blockIdx.x];
    const int row = 1 + p.w * p.channels, fault = decoded(t, data + p.data, p.length, raw + p.raw, p.h * row, row);
    if (threadIdx.x == 0) status[blockIdx.x] = fault;
}

// ---- rows: the bytes of a pixel in one word, added without carries between them ----

__device__ __forceinline__ u32 load(const u8* at, int channels)
{
    u32 v = 0;
    #pragma unroll
    for (int c = 0; c < 4; c++)
        if (c < channels) v |= (u32)at[c] << 8 * c;
    return v;
}

__device__ __forceinline__ u32 add(u32 a, u32 b) { return ((a & 0x7f7f7f7fu) + (b & 0x7f7f7f7fu)) ^ ((a ^ b) & 0x80808080u); }
__device__ __forceinline__ u32 average(u32 a, u32 b) { return (a & b) + ((a ^ b) >> 1 & 0x7f7f7f7fu); }

// Of left, up and their common neighbour the one that is nearest to left + up - corner, in this order where two are.
__device__ __forceinline__ u32 paeth(u32 left, u32 up, u32 corner)
{
    u32 v = 0;
    #pragma unroll
    for (int s = 0; s < 32; s += 8)
    {
        const int a = left >> s & 255, b = up >> s & 255, c = corner >> s & 255;
        const int to_a = abs(b - c), to_b = abs(a - c), to_c = abs(a + b - 2 * c);
        v |= (u32)(to_a <= to_b && to_a <= to_c ? a : to_b <= to_c ? b : c) << s;
    }
    return v;
}

// A picture a warp, in place. A lane has a row of 32 and is one pixel behind the lane above it, from which it gets what lies above its pixel.
extern "C" __global__ void __launch_bounds__(32) unfilter(u8* raw, const Png* pictures, const int* status)
{
    const Png p = pictures[blockIdx.x];
    if (status[blockIdx.x]) return;
    const int lane = threadIdx.x, stride = 1 + p.w * p.channels;
    for (int top = 0; top < p.h; top += 32)
    {
        const bool mine = top + lane < p.h;
        u8* row = raw + p.raw + (size_t)(mine ? top + lane : top) * stride;
        const int filter = row[0];
        u32 left = 0, corner = 0, value = 0;
        for (int t = 0; t < p.w + 31; t++)
        {
            const int x = t - lane;
            u32 up = __shfl_up_sync(0xffffffffu, value, 1);
            if (!mine || x < 0 || x >= p.w) continue;
            if (lane == 0) up = top ? load(row - stride + 1 + x * p.channels, p.channels) : 0;
            u8* at = row + 1 + x * p.channels;
            const u32 guess = filter == 0 ? 0 : filter == 1 ? left : filter == 2 ? up : filter == 3 ? average(left, up) : paeth(left, up, corner);
            value = add(load(at, p.channels), guess);
            #pragma unroll
            for (int c = 0; c < 4; c++)
                if (c < p.channels) at[c] = value >> 8 * c;
            left = value;
            corner = up;
        }
        __syncwarp();
    }
}

// 16 pixels a thread: gray is repeated, indices are looked up, alpha is dropped.
extern "C" __global__ void __launch_bounds__(256) colour(const u8* data, const u8* raw, u8* out, const Png* pictures, const int* status)
{
    const Png p = pictures[blockIdx.y];
    if (status[blockIdx.y]) return;
    const int first = 4096 * blockIdx.x, end = min(first + 4096, p.h * p.w);
    for (int i = first + threadIdx.x; i < end; i += 256)
    {
        const u8* in = raw + p.raw + (size_t)(i / p.w) * (1 + p.w * p.channels) + 1 + i % p.w * p.channels;
        for (int c = 0; c < 3; c++)
            out[p.out + 3 * (size_t)i + c] = p.palette ? data[p.palette + 3 * in[0] + c] : in[p.channels < 3 ? 0 : c];
    }
}
