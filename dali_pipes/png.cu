// PNG pictures; the host's side is png.py. `inflate` decodes and checks the zlib streams (RFC 1950,
// 1951), one warp each, `unfilter` undoes the filters of their rows, and `colour` makes RGB of
// them.
//
// The bytes are not trusted. Every step takes at least one bit or ends. Nothing outside a picture's
// own part of the three buffers is written, and nothing beyond its stream's last word is read. What
// zlib refuses is refused. All lanes of a warp decode the same symbols; they share the work of the
// copies and of the tables.

// data, raw, out: where the picture's stream, rows and pixels begin, in bytes
// palette:        where its 256 RGB colours lie in data, 0 without a palette
// length:         of the stream, in bytes
struct Png { u64 data, raw, out, palette; int length, channels, h, w; };

// Verdicts on a stream; png.REFUSED says them in words.
enum { GOOD, HEADER, TRUNCATED, BLOCK, CODES, SYMBOL, DISTANCE, LONG, SHORT, CHECKSUM, FILTER };

// The order in which the lengths of the code for lengths are sent (RFC 1951, 3.2.7).
__device__ const u8 ORDER[19] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};

// Bits by which the tables are indexed; longer codes, which are rare, are searched for.
const int LITERAL_BITS = 11, DISTANCE_BITS = 9;

// ---- prefix codes ----

// A prefix code of up to 15 bits (RFC 1951, 3.2.2): how many codes have each length, and the
// symbols in the order of their codes.
struct Code
{
    u16 count[16], symbol[320];
};

// Returns the symbol of the code that `bits` begin with, least significant bit first, and its
// length; -1 if no code of up to `limit` bits fits.
__device__ __forceinline__ int find(const Code& code, u32 bits, int limit, int& length)
{
    // Codes of a length are consecutive numbers from `first` on: a code is found as soon as its
    // value lies among them.
    int value = 0, first = 0, index = 0;
    for (length = 1; length <= limit; length++)
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

// Makes the code whose n symbols have these lengths, and returns whether it is one: complete or,
// where `partly`, of a single symbol of one bit or of none.
__device__ bool make(Code& code, const u8* lengths, int n, bool partly)
{
    // Lane l counts the symbols of length l.
    const int lane = threadIdx.x;
    int own = 0;
    for (int i = 0; i < n; i++) own += lengths[i] == lane;
    if (lane < 16) code.count[lane] = lane ? own : 0;
    __syncwarp();

    // left:   codes of the present length that no shorter code is a prefix of; it stays below zero
    //         once there are too many codes
    // before: symbols whose codes are shorter than the lane's
    // total:  symbols that have a code
    int left = 1, before = 0, total = 0;
    for (int l = 1; l < 16; l++)
    {
        left = 2 * left - code.count[l];
        before += l < lane ? code.count[l] : 0;
        total += code.count[l];
    }

    // Lane l places the symbols of length l.
    if (lane > 0 && lane < 16)
        for (int i = 0; i < n; i++)
            if (lengths[i] == lane) code.symbol[before++] = i;
    __syncwarp();
    return left == 0 || (partly && left > 0 && total == code.count[1]);
}

// ---- bits of a stream ----

// The next bit is the lowest of `held`, which is filled by words. The last word is padded with
// zeros by the host, and beyond it there are zeros.
struct Bits
{
    const u32* words;
    int count;   // words that there are
    int next;    // the word after `ahead`
    int n;       // bits held
    u32 ahead;   // read before it is needed, to hide the latency of memory
    u64 held;

    __device__ __forceinline__ u32 word(int i) const { return i < count ? words[i] : 0; }

    // Goes on at this byte of the stream.
    __device__ __forceinline__ void seek(int byte)
    {
        const int skip = 8 * (byte & 3);
        next = (byte >> 2) + 2;
        ahead = word(next - 1);
        held = word(next - 2) >> skip;
        n = 32 - skip;
    }

    // Fills up to 32 bits at least.
    __device__ __forceinline__ void fill()
    {
        if (n >= 32) return;
        held |= (u64)ahead << n;
        n += 32;
        ahead = word(next++);
    }

    // Takes up to 16 bits.
    __device__ __forceinline__ u32 take(int count)
    {
        const u32 bits = (u32)held & ((1u << count) - 1);
        held >>= count;
        n -= count;
        return bits;
    }

    // Bits taken since the beginning of the stream.
    __device__ __forceinline__ u64 taken() const { return 32 * (u64)(next - 1) - n; }

    // True only where more was taken than there is.
    __device__ __forceinline__ bool over() const { return next > count + 2; }
};

// ---- tables ----

// What the next bits mean, in one word; 0 if no code of up to `limit` bits fits. Bits 0 to 3 hold
// the length of the code or codes, bits 4 and 5 the number of literals. From bit 8 on there are one
// or two literals of 8 bits or, where that number is 0, a symbol >= 256.
__device__ __forceinline__ u32 meaning(const Code& code, u32 bits, int limit)
{
    int l1, l2;
    const int first = find(code, bits, limit, l1);
    if (first < 0) return 0;
    if (first >= 256) return first << 8 | l1;
    const int second = find(code, bits >> l1, min(limit, LITERAL_BITS) - l1, l2);
    if (second < 0 || second >= 256) return first << 8 | 1 << 4 | l1;
    return second << 16 | first << 8 | 2 << 4 | (l1 + l2);
}

// What a warp keeps in shared memory.
struct Tables
{
    u32 literal[1 << LITERAL_BITS];    // `meaning` of the next bits
    u16 distance[1 << DISTANCE_BITS];  // symbol << 4 | length, 0 for longer codes
    Code literals, distances;
    u8 lengths[320];                   // of the codes of all symbols: literals, then distances
    u32 sums[3][32];                   // of `checked`, one per lane
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

// Makes the tables of the codes whose lengths stand in t.lengths. Both are made in any case,
// because all lanes have to meet in `make`.
__device__ int make_tables(Tables& t, int literals, int distances)
{
    const bool literals_good = make(t.literals, t.lengths, literals, true);
    const bool distances_good = make(t.distances, t.lengths + literals, distances, true);
    if (!literals_good || !distances_good) return CODES;
    for (int i = threadIdx.x; i < 1 << LITERAL_BITS; i += 32)
        t.literal[i] = meaning(t.literals, i, LITERAL_BITS);
    fill_distances(t, DISTANCE_BITS);
    __syncwarp();
    return GOOD;
}

// The codes that are agreed upon once and for all (RFC 1951, 3.2.6).
__device__ int fixed_tables(Tables& t)
{
    for (int i = threadIdx.x; i < 320; i += 32)
        t.lengths[i] = i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : i < 288 ? 8 : 5;
    __syncwarp();
    return make_tables(t, 288, 32);
}

// The codes that stand before a block (RFC 1951, 3.2.7).
__device__ int dynamic_tables(Tables& t, Bits& in)
{
    const int lane = threadIdx.x;
    in.fill();
    const int literals = 257 + in.take(5), distances = 1 + in.take(5), sent = 4 + in.take(4);
    if (literals > 286 || distances > 30) return CODES;

    // The lengths are coded themselves, by a code of 19 symbols of up to 7 bits. Its table is that
    // of the distances, which is not needed yet.
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

    // A symbol below 16 is a length; 16 repeats the last one 3 to 6 times, 17 and 18 are 3 to 10
    // and 11 to 138 zeros. Runs may go on from the literals into the distances.
    int have = 0, length = 0;
    while (have < literals + distances)
    {
        in.fill();
        if (in.over()) return TRUNCATED;
        const int entry = t.distance[in.held & 127], symbol = entry >> 4;
        in.take(entry & 15);
        if (symbol == 16 && !have) return CODES;
        int times = 1;
        if (symbol == 16) times = 3 + in.take(2);
        if (symbol == 17) times = 3 + in.take(3);
        if (symbol == 18) times = 11 + in.take(7);
        if (times > literals + distances - have) return CODES;
        if (symbol != 16) length = symbol < 16 ? symbol : 0;
        for (int i = lane; i < times; i += 32) t.lengths[have + i] = length;
        have += times;
    }

    // Without a code for its end a block could not end.
    __syncwarp();
    return t.lengths[256] ? make_tables(t, literals, distances) : CODES;
}

// ---- blocks ----

// What has been decoded: `at` bytes of `want`. All lanes see those before `settled`, the others
// only the lane that wrote them.
struct Output
{
    u8* bytes;
    int want, at, settled;
};

// Copies a block that is not compressed: from a whole byte on its length, the same inverted, bytes.
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

// Decodes a block of literals and of matches, which repeat what lies some distance back.
__device__ int coded_block(Tables& t, Bits& in, Output& out, int window)
{
    const int lane = threadIdx.x;
    for (;;)
    {
        in.fill();
        if (in.over()) return TRUNCATED;
        u32 entry = t.literal[in.held & ((1 << LITERAL_BITS) - 1)];
        if (!entry) entry = meaning(t.literals, in.held, 15);
        if (!entry) return SYMBOL;
        in.take(entry & 15);

        // Literals: one or two bytes as they are.
        const int literals = entry >> 4 & 3;
        if (literals)
        {
            if (literals > out.want - out.at) return LONG;
            if (lane < literals) out.bytes[out.at + lane] = entry >> (8 + 8 * lane);
            out.at += literals;
            continue;
        }

        // The length of a match: 3 to 10 by symbol; above that every four symbols have a further
        // bit; 258 has a symbol of its own.
        const int symbol = entry >> 8, k = symbol - 257;
        if (symbol == 256) return GOOD;
        if (symbol > 285) return SYMBOL;
        const int length_bits = k < 8 ? 0 : (k >> 2) - 1;
        const int length = k < 8     ? 3 + k
                           : k == 28 ? 258
                                     : 3 + ((4 + (k & 3)) << length_bits) + in.take(length_bits);

        // Its distance: 1 to 4 by symbol; above that every two symbols have a further bit.
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
        const int d = place >> 4, distance_bits = d < 4 ? 0 : (d >> 1) - 1;
        if (d > 29) return SYMBOL;
        const int distance =
            d < 4 ? 1 + d : 1 + ((2 + (d & 1)) << distance_bits) + in.take(distance_bits);
        if (distance > out.at || distance > window) return DISTANCE;
        if (length > out.want - out.at) return LONG;

        // The copy. It may overlap itself, and then repeats its first `distance` bytes. Lanes wait
        // for each other only where it reads what may not be seen by all of them.
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

// ---- streams ----

// Checks the Adler-32 of all bytes, and the filters that the rows begin with.
__device__ int checked(Tables& t, const u8* bytes, int want, int row, u32 expected)
{
    // a: sum of the bytes; b: sum of each byte times the number of bytes from it to the end. Words
    // of four bytes first, then the up to three that are left.
    const int lane = threadIdx.x;
    u64 a = 0, b = 0;
    for (int i = lane; i < want / 4; i += 32)
    {
        const u32 v = ((const u32*)bytes)[i];
        const u32 v1 = v >> 8 & 255, v2 = v >> 16 & 255, v3 = v >> 24;
        const u32 sum = (v & 255) + v1 + v2 + v3;
        a += sum;
        b += (u64)sum * (want - 4 * i) - (v1 + 2 * v2 + 3 * v3);
    }
    const int last = (want & ~3) + lane;
    if (last < want)
    {
        a += bytes[last];
        b += bytes[last] * (want - last);
    }

    // A row begins with one of five filters.
    bool known = true;
    for (int i = lane * row; i < want; i += 32 * row) known = known && bytes[i] <= 4;

    // Every lane adds up the sums of all. Adler-32 begins with 1, and so its second half with the
    // number of bytes (RFC 1950, 8.2).
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
    if ((high % 65521 << 16 | low % 65521) != expected) return CHECKSUM;
    return good < 32 ? FILTER : GOOD;
}

// Decodes a zlib stream to `want` bytes, which are rows of `row` bytes, and returns the verdict.
__device__ int decoded(Tables& t, const u8* stream, int length, u8* bytes, int want, int row)
{
    // Header (RFC 1950, 2.2): a check, the method (8: deflate), the window, and no dictionary.
    if (length < 2) return TRUNCATED;
    if ((stream[0] << 8 | stream[1]) % 31 || (stream[0] & 15) != 8) return HEADER;
    if (stream[0] >> 4 > 7 || stream[1] & 32) return HEADER;
    const int window = 256 << (stream[0] >> 4);
    Bits in = {(const u32*)stream, (length + 3) / 4};
    Output out = {bytes, want};
    in.seek(2);

    // Blocks up to the last one.
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

    // The checksum, from the next whole byte on.
    const u64 end = (in.taken() + 7) / 8;
    if (end + 4 > length) return TRUNCATED;
    if (out.at < want) return SHORT;
    __syncwarp();
    const u8* sum = stream + end;
    return checked(t, bytes, want, row, sum[0] << 24 | sum[1] << 16 | sum[2] << 8 | sum[3]);
}

// A warp decodes a stream.
extern "C" __global__ void __launch_bounds__(32)
inflate(const u8* data, u8* raw, const Png* pictures, int* status)
{
    __shared__ Tables t;
    const Png p = pictures[blockIdx.x];
    const int row = 1 + p.w * p.channels;
    const int fault = decoded(t, data + p.data, p.length, raw + p.raw, p.h * row, row);
    if (threadIdx.x == 0) status[blockIdx.x] = fault;
}

// ---- rows ----

// The bytes of a pixel lie in one word, and are added without carries between them.

__device__ __forceinline__ u32 load(const u8* at, int channels)
{
    u32 v = 0;
    #pragma unroll
    for (int c = 0; c < 4; c++)
        if (c < channels) v |= (u32)at[c] << 8 * c;
    return v;
}

// Sums modulo 256: seven bits of each byte, and then the eighth without its carry.
__device__ __forceinline__ u32 add(u32 a, u32 b)
{
    return ((a & 0x7f7f7f7fu) + (b & 0x7f7f7f7fu)) ^ ((a ^ b) & 0x80808080u);
}

// Means, rounded down: what both have in common, and half of what they differ in.
__device__ __forceinline__ u32 average(u32 a, u32 b)
{
    return (a & b) + ((a ^ b) >> 1 & 0x7f7f7f7fu);
}

// Of left, up and their common neighbour the nearest to left + up - corner; where several are
// equally near, the first in this order.
__device__ __forceinline__ u32 paeth(u32 left, u32 up, u32 corner)
{
    u32 v = 0;
    #pragma unroll
    for (int s = 0; s < 32; s += 8)
    {
        // Distances from a + b - c.
        const int a = left >> s & 255, b = up >> s & 255, c = corner >> s & 255;
        const int to_a = abs(b - c), to_b = abs(a - c), to_c = abs(a + b - 2 * c);
        v |= (u32)(to_a <= to_b && to_a <= to_c ? a : to_b <= to_c ? b : c) << s;
    }
    return v;
}

// What the filter of a row guesses a pixel to be (W3C PNG, 9.2).
__device__ __forceinline__ u32 guessed(int filter, u32 left, u32 up, u32 corner)
{
    if (filter == 0) return 0;
    if (filter == 1) return left;
    if (filter == 2) return up;
    return filter == 3 ? average(left, up) : paeth(left, up, corner);
}

// A warp undoes the filters of a picture, in place. Each of 32 rows at a time has a lane, which is
// one pixel behind the lane above and gets from it what lies above its own pixel.
extern "C" __global__ void __launch_bounds__(32)
unfilter(u8* raw, const Png* pictures, const int* status)
{
    const Png p = pictures[blockIdx.x];
    if (status[blockIdx.x]) return;
    const int lane = threadIdx.x, stride = 1 + p.w * p.channels;
    for (int top = 0; top < p.h; top += 32)
    {
        const bool active = top + lane < p.h;
        u8* row = raw + p.raw + (size_t)(active ? top + lane : top) * stride;
        const int filter = row[0];
        u32 left = 0, corner = 0, value = 0;
        for (int t = 0; t < p.w + 31; t++)
        {
            // The first lane has nobody above: it reads the last row of the 32 before, which is
            // done.
            const int x = t - lane;
            u32 up = __shfl_up_sync(0xffffffffu, value, 1);
            if (!active || x < 0 || x >= p.w) continue;
            if (lane == 0) up = top ? load(row - stride + 1 + x * p.channels, p.channels) : 0;
            u8* at = row + 1 + x * p.channels;
            value = add(load(at, p.channels), guessed(filter, left, up, corner));
            #pragma unroll
            for (int c = 0; c < 4; c++)
                if (c < p.channels) at[c] = value >> 8 * c;
            left = value;
            corner = up;
        }
        __syncwarp();
    }
}

// ---- colours ----

// A thread has 16 pixels. Gray is repeated, indices are looked up, alpha is dropped.
extern "C" __global__ void __launch_bounds__(256)
colour(const u8* data, const u8* raw, u8* out, const Png* pictures, const int* status)
{
    const Png p = pictures[blockIdx.y];
    if (status[blockIdx.y]) return;
    const int first = 4096 * blockIdx.x, end = min(first + 4096, p.h * p.w);
    for (int i = first + threadIdx.x; i < end; i += 256)
    {
        // A row begins with its filter.
        const u8* row = raw + p.raw + (size_t)(i / p.w) * (1 + p.w * p.channels);
        const u8* in = row + 1 + i % p.w * p.channels;
        u8* rgb = out + p.out + 3 * (size_t)i;
        for (int c = 0; c < 3; c++)
            rgb[c] = p.palette ? data[p.palette + 3 * in[0] + c] : in[p.channels < 3 ? 0 : c];
    }
}
