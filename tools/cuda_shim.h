// What a .cu file needs to run on a CPU: CUDA's words as plain C++. For tests on small canvases.
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static        // one block runs at a time; `fresh` follows every declaration

struct float2 { float x, y; };
struct uint2 { unsigned int x, y; };
struct dim3 { int x, y, z; };
extern dim3 threadIdx, blockIdx, blockDim, gridDim;

static inline int min(int a, int b) { return a < b ? a : b; }
static inline unsigned long long min(unsigned long long a, unsigned long long b)
{
    return a < b ? a : b;
}
static inline int max(int a, int b) { return a > b ? a : b; }
static inline int __popc(unsigned int v) { return __builtin_popcount(v); }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b)
{
    return (unsigned __int128)a * b >> 64;
}
// Compiled without contraction.
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline int __float_as_int(float v)
{
    int bits;
    memcpy(&bits, &v, sizeof bits);
    return bits;
}
static inline unsigned int __umulhi(unsigned int a, unsigned int b)
{
    return (unsigned long long)a * b >> 32;
}
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline unsigned int atomicOr(unsigned int* at, unsigned int v)
{
    unsigned int old = *at;
    *at |= v;
    return old;
}

// ---- threads, which cuda_shim.cpp runs ----

// What Python calls; all else is hidden, because zlib, which some builds of torch bring into the
// process, has an `inflate` as well.
#define EXPORTED extern "C" __attribute__((visibility("default")))

void sync_threads(int line);
void sync_warp(int line, unsigned int mask);
unsigned int shuffle_up(int line, unsigned int mask, unsigned int v, int by);
void fresh(void* memory, size_t bytes, long* block);
const char* run(
    const int* grid, const int* block, void (*kernel)(void**), void** args, int order);

static inline unsigned int lanes(unsigned int mask = 0xffffffffu) { return mask; }

#define __syncthreads() sync_threads(__LINE__)
#define __syncwarp(...) sync_warp(__LINE__, lanes(__VA_ARGS__))
#define __shfl_up_sync(mask, v, by) shuffle_up(__LINE__, mask, v, by)
#define FRESH(name) { static long block; fresh(&name, sizeof name, &block); }
